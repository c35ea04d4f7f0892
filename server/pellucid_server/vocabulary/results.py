"""What callers are answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pellucid_server.vocabulary.requests import Array, ModelKey, ParamValue, TargetSpec


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle of the caller's picture that a map covers, in the picture's pixels."""

    left: float
    top: float
    right: float
    bottom: float
    picture_width: int
    picture_height: int


@dataclass(frozen=True, slots=True)
class InputAttribution:
    """Attributions of one input of one row; see `InputAttribution` in the schema."""

    scores: Array
    columns: tuple[str, ...] = ()
    box: Box | None = None
    groups: Array | None = None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How good an explanation is; see `Accuracy` in the schema.

    `tolerance`, `absolute_tolerance` and `tolerance_met` are None where there was no tolerance to work to.
    """

    signed_gap: float | None = None
    absolute_gap: float | None = None
    tolerance: float | None = None
    tolerance_met: bool | None = None
    standard_error: float | None = None
    warnings: tuple[str, ...] = ()
    partial: bool = False
    absolute_tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class BatchShape:
    """`batches` device batches of `rows` rows of one kind of evaluation."""

    evaluation: str
    rows: int
    batches: int


@dataclass(frozen=True, slots=True)
class Work:
    """The computing that an answer took."""

    rows_forward: int = 0
    rows_backward: int = 0
    batch_shapes: tuple[BatchShape, ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """What computed an answer."""

    forward: str
    gradient: str
    device: str
    precision: str
    libraries: Mapping[str, str]
    threads: int = 0
    """Threads of one evaluation on the CPU; 0 where it took no part."""
    cpu_capability: str = ""
    """The vector instructions that the CPU's kernels use, "AVX2" for example; empty where it took no part."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything an answer is a function of, and what it took; see `Receipt` in the schema."""

    model: ModelKey
    input_digest: str
    runtime: Runtime
    work: Work
    method: str = ""
    parameters: Mapping[str, ParamValue] = field(default_factory=dict)
    target: TargetSpec | None = None
    baseline: str = ""
    baseline_digest: str = ""
    blur_sigma: float = 0.0
    """For a baseline of kind "blur": its standard deviation in pixels; else 0."""
    seed: int = 0
    tolerance: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class AttributionResult:
    """The explanation of one row; see `Attribution` in the schema."""

    inputs: Mapping[str, InputAttribution]
    output: str
    output_index: tuple[int, ...]
    label: str
    instance_output_value: float
    accuracy: Accuracy
    receipt: Receipt
    baseline_output_value: float | None = None
    approximation_error: float | None = None
    group_scores: Array | None = None
    group_standard_errors: Array | None = None


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class and its values; `probability` is None where the output has none."""

    index: int
    label: str
    value: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class OutputResult:
    """One output: its values, (rows, *shape), and the highest classes of each row."""

    values: Array
    top: tuple[tuple[ClassScore, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way: what `errors.error_from_wire` takes."""

    reason: str
    message: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ExplanationOutcome:
    """An explanation beside a prediction: the attributions of all rows, or what went wrong."""

    attributions: tuple[AttributionResult, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What the model says, and the explanations asked for beside it."""

    outputs: Mapping[str, OutputResult]
    receipt: Receipt
    explanations: tuple[ExplanationOutcome, ...] = ()
    warnings: tuple[str, ...] = ()
    """What a reader should know, in plain sentences."""


@dataclass(frozen=True, slots=True)
class AttributeResult:
    """The explanation of each row, and the prediction that it explains."""

    attributions: tuple[AttributionResult, ...]
    prediction: OutputResult


Result = PredictResult | AttributeResult

KINDS = (
    "forward",
    "gradient",
    "activations",
    "edited",
    "prefix",
    "suffix",
    "suffix-gradient",
    "unit-suffix",
    "unit",
    "unit-gradient",
)
"""Kinds of evaluation."""


@dataclass(frozen=True, slots=True)
class RequestTiming:
    """Where a request's time went on its worker, in seconds, and what it evaluated there."""

    queue_seconds: float
    compute_seconds: float
    rows_forward: int
    rows_backward: int
    rows: tuple[tuple[str, int], ...] = ()
    """The same rows by kind of evaluation, one of `KINDS`; each kind once, and only those with rows."""
