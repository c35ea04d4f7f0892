"""What callers ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
ParamValue = bool | int | float | str | Array


@dataclass(frozen=True, slots=True)
class TensorInput:
    """Rows as one array, (rows, *features)."""

    array: Array


@dataclass(frozen=True, slots=True)
class PicturesInput:
    """Encoded pictures, one a row."""

    encoded: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TextsInput:
    """Texts, one a row."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableInput:
    """Rows of named cells: a float for a numeric column, a string for a categorical one."""

    rows: tuple[dict[str, float | str], ...]


Input = TensorInput | PicturesInput | TextsInput | TableInput
Inputs = Mapping[str, Input]


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A model and a version; version 0 is the highest served, an empty digest is any."""

    name: str
    version: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One element of an output: by index, by label, or, with neither, the highest."""

    index: tuple[int, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """The scalar to explain, as asked for. `space` is "", "logits" or "probabilities"."""

    output: str = ""
    outcome: Outcome = Outcome()
    contrast: Outcome | None = None
    space: str = ""


MOST_BASELINE_ROWS = 4096
"""Most baseline rows that a request may give."""


@dataclass(frozen=True, slots=True)
class BaselineSpec:
    """What absence looks like.

    `kind` is "" (the default), "zeros", "mean", "medoid", "blur", "given" or "background".
    """

    kind: str = ""
    blur_sigma: float = 0.0
    inputs: Mapping[str, Input] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How arrays come back. `data_type` is "float32", "float16" or "float64"."""

    sum_channels: bool = False
    data_type: str = "float32"


@dataclass(frozen=True, slots=True)
class ExplanationSpec:
    """An explanation that is asked for; see `ExplanationSpec` in the schema."""

    method: str
    parameters: Mapping[str, ParamValue] = field(default_factory=dict)
    target: TargetSpec = TargetSpec()
    baseline: BaselineSpec = BaselineSpec()
    seed: int = 0
    tolerance: float | None = None
    format: ReplyFormat = ReplyFormat()
    exact: bool = False


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Ask what the model says."""

    model: ModelKey
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...] = ()
    top_k: int = 5
    explanations: tuple[ExplanationSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributeRequest:
    """Ask what a prediction was based on."""

    model: ModelKey
    inputs: Mapping[str, Input]
    explanation: ExplanationSpec


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """A place in the network, or several, as asked for; see `Site` in the schema.

    `part` is "", "heads" or "branch"; `each` is "", "unit", "position" or "element".
    """

    layer: str
    part: str = ""
    units: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    each: str = ""


INTERVENTIONS = ("zero", "mean", "resample", "noise", "constant", "scale", "steer", "patch")
"""Kinds of intervention."""

MOST_SITES = 1 << 17
"""Most sites that one request changes."""

MOST_DRAWS = 1024
"""Most draws of a random intervention."""

DEFAULT_DRAWS = 8
"""Draws of a random intervention that says nothing."""


@dataclass(frozen=True, slots=True)
class InterventionSpec:
    """A change of the network at some sites; see `Intervention` in the schema.

    `kind` is one of `INTERVENTIONS`; `reference` is "", "batch", "background" or "dataset".
    """

    sites: tuple[SiteSpec, ...]
    kind: str = "zero"
    value: float | None = None
    vector: Array | None = None
    reference: str = ""
    draws: int = DEFAULT_DRAWS
    per_position: bool = False


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What a counterfactual may do to a column; see `ColumnRule` in the schema."""

    column: str
    fixed: bool = False
    minimum: float | None = None
    maximum: float | None = None
    only_up: bool = False
    only_down: bool = False
    whole: bool = False
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a counterfactual shall reach; with neither, any other highest element than the row's own."""

    outcome: Outcome | None = None
    minimum: float | None = None
    maximum: float | None = None


METRICS = ("score", "probability", "logit-difference", "kl-divergence")
"""What is measured with and without a change."""


@dataclass(frozen=True, slots=True)
class AblateRequest:
    """Ask what changes when parts of the model, or of the input, are changed; see `AblateRequest` in the schema.

    `metric` is one of `METRICS`.
    """

    model: ModelKey
    inputs: Mapping[str, Input]
    method: str = ""
    parameters: Mapping[str, ParamValue] = field(default_factory=dict)
    target: TargetSpec = TargetSpec()
    metric: str = "score"
    interventions: tuple[InterventionSpec, ...] = ()
    source: Mapping[str, Input] = field(default_factory=dict)
    dataset: str = ""
    seed: int = 0
    exact: bool = False
    wanted: Wanted = Wanted()
    columns: tuple[ColumnRule, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer that is looked at, as asked for; see `LayerUnits` in the schema. `part` is "", "heads" or "branch"."""

    layer: str
    part: str = ""
    units: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """Where a concept is in a row that came with the request; `mask` is (height, width) bool, None for everywhere."""

    concept: str
    category: str = ""
    row: int = 0
    mask: Array | None = None


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """The rows that are looked at, as asked for; see `Probe` in the schema."""

    dataset: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    masks: tuple[MaskSpec, ...] = ()
    labels: tuple[str, ...] = ()
    rows: int = 0


@dataclass(frozen=True, slots=True)
class DissectRequest:
    """Ask what is inside a model; see `DissectRequest` in the schema. `probe` and `target` are None where absent."""

    model: ModelKey
    method: str = ""
    parameters: Mapping[str, ParamValue] = field(default_factory=dict)
    layers: tuple[LayerSpec, ...] = ()
    probe: ProbeSpec | None = None
    target: TargetSpec | None = None
    seed: int = 0
    exact: bool = False

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The rows that came with it, of each model input."""
        return {} if self.probe is None else self.probe.inputs

    @property
    def dataset(self) -> str:
        """The data set that it names; empty for none."""
        return "" if self.probe is None else self.probe.dataset


Request = PredictRequest | AttributeRequest | AblateRequest | DissectRequest
