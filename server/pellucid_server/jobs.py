"""What crosses from the protobuf edge to the engine and back: frozen dataclasses of plain values and numpy arrays.

`pellucid_server.wire` turns every class of this file into bytes and back by its fields, so a field's
type is one of: None, bool, int, float, str, bytes, numpy array, tuple, dict with string keys, or
another class of this file. Absent is None or empty, as each field says.
"""

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


@dataclass(frozen=True, slots=True)
class PredictJob:
    """Ask what the model says."""

    model: ModelKey
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...] = ()
    top_k: int = 5
    explanations: tuple[ExplanationSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributeJob:
    """Ask what a prediction was based on."""

    model: ModelKey
    inputs: Mapping[str, Input]
    explanation: ExplanationSpec


Job = PredictJob | AttributeJob


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
    """How good an explanation is; see `Accuracy` in the schema."""

    signed_gap: float | None = None
    absolute_gap: float | None = None
    tolerance: float = 0.0
    tolerance_met: bool = False
    standard_error: float | None = None
    warnings: tuple[str, ...] = ()
    partial: bool = False


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


@dataclass(frozen=True, slots=True)
class JobTiming:
    """Where a job's time went on its worker, in seconds, and what it evaluated there."""

    queue_seconds: float
    compute_seconds: float
    rows_forward: int
    rows_backward: int


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
    """A layer; `shape` is a row's, with -1 where it depends on the input."""

    name: str
    type: str
    shape: tuple[int, ...]
    units: int
    cuttable: bool


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
class Verdict:
    """What trying out a model version showed: `reason` is why it is broken, empty if it is not.

    It holds for the files of which `fingerprint` was taken.
    """

    name: str
    version: int
    fingerprint: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is started with; the front reads it from the configuration and sends it first."""

    device: str
    model_repository: str
    threads: int
    chunk_seconds: float
    chunk_bytes: int
    class_weights: Mapping[str, float] = field(default_factory=dict)
    """Shares of a busy device by class of requests; a class that is not named weighs 1."""
    heartbeat_seconds: float = 1.0
    fault_folder: str = ""
    """Where tests arm fault points, see `pellucid_server.faults`; empty for none."""
    on_broken_model: str = "skip"
    """"skip" serves the models that load, "stop" refuses to start unless all do."""
    load_seconds: float = 8.0
    """Processor time for trying out a model whose files are small."""
    load_bytes: int = 768 << 20
    """Memory for trying out a model whose files are small."""
    verdicts: tuple[Verdict, ...] = ()
    """What an earlier process for the same device found, which is not tried out again."""


@dataclass(frozen=True, slots=True)
class Start:
    """Front to worker: do this job. `deadline` is on `time.monotonic()`'s clock; None is no deadline."""

    job_id: int
    job: Job
    deadline: float | None
    priority: str = ""
    """Its class: whose share of the device it has."""
    caller: str = ""
    """On whose behalf: the callers of a class share the device alike."""
    alone: bool = False
    """Its rows share no batch with other jobs', because a worker died over one that did."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Front to worker: nobody waits for this job any more."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Loading:
    """Worker to front, before `Hello`: it is about to load this model version into its own process."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker to front, once: models are loaded and warm, work may come."""

    models: tuple[ModelInfo, ...]
    methods: tuple[MethodInfo, ...]
    device: str
    broken: tuple[BrokenModel, ...] = ()
    """Models that could not be loaded, by name, then version."""
    verdicts: tuple[Verdict, ...] = ()
    """For the settings of the next process."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Worker to front, in place of `Hello`: the worker cannot start; the operator reads why."""

    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Worker to front: share of the job done, in [0, 1]."""

    job_id: int
    share: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Worker to front, at equal intervals: it lives, and for how long it has been at what it does just now.

    Each is in seconds, 0 if idle: the device batch in progress, the turn of Python in progress, and of the pictures
    that are being decoded the one that has taken longest.
    """

    device_seconds: float
    python_seconds: float
    offload_seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """Worker to front: the job's result, or what went wrong."""

    job_id: int
    timing: JobTiming
    result: Result | None = None
    failure: Failure | None = None


Message = WorkerSettings | Start | Cancel | Loading | Hello | Refused | Progress | Heartbeat | Done
