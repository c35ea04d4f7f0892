"""What is served: models and methods."""

from dataclasses import dataclass

from pellucid_server.vocabulary.requests import ModelKey, ParamValue


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column of a table."""

    name: str
    categories: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """How pictures are made ready; see `ImagePreprocessing` in the schema."""

    resize: int
    crop_height: int
    crop_width: int
    interpolation: str
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InputInfo:
    """An input; `modality` is "tensor", "image", "tabular" or "text", `shape` has -1 for any length."""

    name: str
    modality: str
    data_type: str
    shape: tuple[int, ...]
    columns: tuple[ColumnInfo, ...] = ()
    image: ImageInfo | None = None


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """An output; `kind` is "logits", "sigmoid-logits", "probabilities" or "values"."""

    name: str
    kind: str
    data_type: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer; `shape` is a row's, with -1 where it depends on the input.

    `heads` counts the units of the site "NAME:heads", 0 if there is none; `branch` says whether there is "NAME:branch".
    """

    name: str
    type: str
    shape: tuple[int, ...]
    units: int
    cuttable: bool
    heads: int = 0
    branch: bool = False


@dataclass(frozen=True, slots=True)
class CapabilityInfo:
    """Whether a model allows a method, and if not, why not."""

    method: str
    allowed: bool
    reason: str
    rows: int = 0
    """Evaluation rows that one row takes with the method's default parameters; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class ParityInfo:
    """Agreement of the ONNX file with the graph, as a share of the output's largest absolute value."""

    largest_difference: float
    tolerance: float
    holds: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """All that a caller can know of a model version."""

    key: ModelKey
    description: str
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    layers: tuple[LayerInfo, ...]
    capabilities: tuple[CapabilityInfo, ...]
    runtime: str
    parity: ParityInfo | None
    background_rows: int
    solo: bool


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """A parameter; `type` is "integer", "real", "flag", "text" or "tensor"; a None default has a meaning in `text`."""

    name: str
    type: str
    default: ParamValue | None
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """All that a caller can know of a method."""

    name: str
    rpc: str
    family: str
    summary: str
    source: str
    parameters: tuple[ParameterInfo, ...]
    axioms: tuple[str, ...]
    needs: tuple[str, ...]
    baselines: tuple[str, ...]
    takes_tolerance: bool
    rows_parameter: str = ""
    """The parameter that the number of evaluation rows is in proportion to; empty if there is none."""
    answers_early: bool = False
    """Whether it answers before its deadline with what it has; with `takes_tolerance`, it does if it is given one."""


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A model version that could not be loaded; version 0 where the versions themselves could not be read.

    `reason` names the model and its files, relative to the repository, and what would be right.
    """

    name: str
    version: int
    reason: str


def find_broken(broken: tuple[BrokenModel, ...], key: ModelKey) -> BrokenModel | None:
    """Find the broken version that a key names, or the highest for version 0; a broken model is so in all versions."""
    found = {each.version: each for each in broken if each.name == key.name}
    if not found:
        return None
    return found.get(key.version or max(found), found.get(0))


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """All that a caller can know of a labelled data set; one that cannot be read has its name and a `reason`.

    `kind` is "pictures", "table", "texts" or "tensor". `input` is the model's input that it feeds, empty for the only
    one. `classes` are the names that it has for classes, where they are known without reading it; `rows` is None if
    their number is not. `label` is empty where rows have none. `concepts` is how many concepts its masks mark, None if
    it has no masks or their number is not known; `categories` are theirs.
    """

    name: str
    description: str = ""
    kind: str = ""
    input: str = ""
    label: str = ""
    groups: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    rows: int | None = None
    digest: str = ""
    reason: str = ""
    concepts: int | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What trying out a model version showed: `reason` is why it is broken, empty if it is not.

    `fast_graph` is whether its second graph, for speed, was found good; None if it was not looked at. It holds for the
    files of which `fingerprint` was taken.
    """

    name: str
    version: int
    fingerprint: str
    reason: str = ""
    fast_graph: bool | None = None
    trial_seconds: float | None = None
    """Processor time that trying it out took; None if that was not measured."""
    trial_bytes: int | None = None
    """The most memory that was seen in use for it."""
