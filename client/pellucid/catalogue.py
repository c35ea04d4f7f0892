"""What is served: models with their signatures, and methods with their parameters."""

from dataclasses import dataclass
from typing import Any

from pellucid.receipts import ModelKey, ParameterValue, baseline_word, enum_word, plain, read_model_key, read_parameter
from pellucid.v1 import model_service_pb2, tensor_pb2


class _Plain:
    """Gives `to_dict` to the dataclasses of this file."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers."""
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True, slots=True)
class ModelSummary(_Plain):
    """A model version in a list; `latest` if it is the one that version 0 means.

    `state` is "serving", or "broken" if the server could not load it; then `reason` says why, and its version is 0
    where the server could not even read which versions there are.
    """

    key: ModelKey
    description: str
    latest: bool
    state: str = "serving"
    reason: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.key.name

    @property
    def version(self) -> int:
        """The version's number."""
        return self.key.version


@dataclass(frozen=True, slots=True)
class Column(_Plain):
    """A column of a table; numeric if it has no categories. The range is the training data's, if known."""

    name: str
    categories: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class ImagePreprocessing(_Plain):
    """How the server makes pictures ready: resize the short side, crop the centre, subtract, divide."""

    resize: int
    crop_height: int
    crop_width: int
    interpolation: str
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InputSignature(_Plain):
    """An input: `modality` is "tensor", "image", "tabular" or "text"; `shape` is a row's, -1 for any length."""

    name: str
    modality: str
    data_type: str
    shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()
    image: ImagePreprocessing | None = None


@dataclass(frozen=True, slots=True)
class OutputSignature(_Plain):
    """An output: `kind` is "logits", "sigmoid-logits", "probabilities" or "values"; `shape` is a row's."""

    name: str
    kind: str
    data_type: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Layer(_Plain):
    """A value that leaves one of the model's modules; `shape` is a row's, `units` its channels or features.

    An attention has the site "NAME:heads" too, with as many units as `heads`; where `branch` is true, a residual block
    has the site "NAME:branch", the value that it adds to its stream.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    units: int
    cuttable: bool
    heads: int = 0
    branch: bool = False


@dataclass(frozen=True, slots=True)
class Capability(_Plain):
    """Whether a model allows a method, and if not, why not.

    Of a method that is allowed, `reason` says what a call must give because the model has no default for it: a
    baseline. Else it is empty.
    `rows` are the evaluation rows that a row takes with the method's default parameters: at least for methods that
    refine, at the most for others; None if not known.
    """

    method: str
    allowed: bool
    reason: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Parity(_Plain):
    """Agreement of the serving runtime with the graph, as a share of the output's largest absolute value."""

    largest_difference: float
    tolerance: float
    holds: bool


@dataclass(frozen=True, slots=True)
class Model(_Plain):
    """A model version: signature, layers, capabilities.

    `state` is "serving", or "broken" if the server could not load it; then there is nothing but its key and `reason`.
    """

    key: ModelKey
    description: str
    inputs: tuple[InputSignature, ...]
    outputs: tuple[OutputSignature, ...]
    layers: tuple[Layer, ...]
    capabilities: tuple[Capability, ...]
    runtime: str
    parity: Parity | None
    background_rows: int
    solo: bool
    state: str = "serving"
    reason: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.key.name

    @property
    def version(self) -> int:
        """The version's number."""
        return self.key.version


@dataclass(frozen=True, slots=True)
class Parameter(_Plain):
    """A parameter: `type` is "integer", "real", "flag", "text" or "tensor"; a default of None is told in `text`."""

    name: str
    type: str
    default: ParameterValue | None
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Method(_Plain):
    """An explanation method: what it takes, needs and promises.

    `rows_parameter` is the parameter that its number of evaluation rows is in proportion to; empty if there is none.
    """

    name: str
    rpc: str
    family: str
    summary: str
    source: str
    parameters: tuple[Parameter, ...]
    axioms: tuple[str, ...]
    needs: tuple[str, ...]
    baselines: tuple[str, ...]
    takes_tolerance: bool
    rows_parameter: str = ""


@dataclass(frozen=True, slots=True)
class Dataset(_Plain):
    """A labelled data set of the server; `kind` is "pictures", "table", "texts" or "tensor".

    `input` is the model's input that it feeds, empty for the only one; `groups` are columns that results can be broken
    down by; `classes` are its own names for classes, and `rows` their number, where they are known. `state` is
    "ready", or "broken" if the server cannot read it; then there is nothing but its name and `reason`. `concepts` is
    how many concepts its masks mark, None if it has none or that is not known, and `categories` are theirs.
    """

    name: str
    description: str
    kind: str
    input: str
    label: str
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    rows: int | None
    digest: str
    state: str = "ready"
    reason: str = ""
    concepts: int | None = None
    categories: tuple[str, ...] = ()


def read_models(reply: model_service_pb2.ListModelsResponse) -> tuple[ModelSummary, ...]:
    """Read the list of models, by name, then version."""
    return tuple(
        ModelSummary(read_model_key(each.model), each.description, each.latest, _state(each.state), each.reason)
        for each in reply.models
    )


def read_model(reply: model_service_pb2.GetModelResponse) -> Model:
    """Read all about one model version."""
    return Model(
        key=read_model_key(reply.model),
        description=reply.description,
        inputs=tuple(_input(each) for each in reply.inputs),
        outputs=tuple(_output(each) for each in reply.outputs),
        layers=tuple(
            Layer(each.name, each.type, tuple(each.shape), each.units, each.cuttable, each.heads, each.branch)
            for each in reply.layers
        ),
        capabilities=tuple(
            Capability(each.method, each.allowed, each.reason, each.rows or None) for each in reply.capabilities
        ),
        runtime=reply.runtime,
        parity=_parity(reply.parity) if reply.HasField("parity") else None,
        background_rows=reply.background_rows,
        solo=reply.solo,
        state=_state(reply.state),
        reason=reply.reason,
    )


def read_methods(reply: model_service_pb2.ListMethodsResponse) -> tuple[Method, ...]:
    """Read the list of methods, by RPC, then name."""
    return tuple(_method(each) for each in reply.methods)


def read_datasets(reply: model_service_pb2.ListDatasetsResponse) -> tuple[Dataset, ...]:
    """Read the list of data sets, by name."""
    return tuple(
        Dataset(
            name=each.name,
            description=each.description,
            kind=enum_word(model_service_pb2.DatasetKind, each.kind, "DATASET_KIND_"),
            input=each.input,
            label=each.label,
            groups=tuple(each.groups),
            classes=tuple(each.classes),
            rows=each.rows if each.HasField("rows") else None,
            digest=each.digest,
            state=enum_word(model_service_pb2.DatasetState, each.state, "DATASET_STATE_"),
            reason=each.reason,
            concepts=each.concepts if each.HasField("concepts") else None,
            categories=tuple(each.categories),
        )
        for each in reply.datasets
    )


def _state(state: int) -> str:
    """Read a model's state; servers that do not know of states list only what they serve."""
    return enum_word(model_service_pb2.ModelState, state, "MODEL_STATE_") or "serving"


def _input(message: model_service_pb2.InputSignature) -> InputSignature:
    return InputSignature(
        name=message.name,
        modality=enum_word(model_service_pb2.Modality, message.modality, "MODALITY_"),
        data_type=enum_word(tensor_pb2.DataType, message.data_type, "DATA_TYPE_"),
        shape=tuple(message.shape),
        columns=tuple(_column(each) for each in message.columns),
        image=_image(message.image) if message.HasField("image") else None,
    )


def _column(message: model_service_pb2.Column) -> Column:
    minimum, maximum = (getattr(message, name) if message.HasField(name) else None for name in ("minimum", "maximum"))
    return Column(message.name, tuple(message.categories), minimum, maximum, message.unit)


def _image(message: model_service_pb2.ImagePreprocessing) -> ImagePreprocessing:
    return ImagePreprocessing(
        resize=message.resize,
        crop_height=message.crop_height,
        crop_width=message.crop_width,
        interpolation=message.interpolation,
        mean=tuple(message.mean),
        standard_deviation=tuple(message.standard_deviation),
    )


def _output(message: model_service_pb2.OutputSignature) -> OutputSignature:
    return OutputSignature(
        name=message.name,
        kind=enum_word(model_service_pb2.OutputKind, message.kind, "OUTPUT_KIND_"),
        data_type=enum_word(tensor_pb2.DataType, message.data_type, "DATA_TYPE_"),
        shape=tuple(message.shape),
        labels=tuple(message.labels),
        unit=message.unit,
    )


def _parity(message: model_service_pb2.Parity) -> Parity:
    return Parity(message.largest_difference, message.tolerance, message.holds)


def _method(message: model_service_pb2.Method) -> Method:
    return Method(
        name=message.name,
        rpc=message.rpc,
        family=message.family,
        summary=message.summary,
        source=message.source,
        parameters=tuple(_parameter(each) for each in message.parameters),
        axioms=tuple(message.axioms),
        needs=tuple(message.needs),
        baselines=tuple(baseline_word(kind) for kind in message.baselines),
        takes_tolerance=message.takes_tolerance,
        rows_parameter=message.rows_parameter,
    )


def _parameter(message: model_service_pb2.Parameter) -> Parameter:
    return Parameter(
        name=message.name,
        type=enum_word(model_service_pb2.ParameterType, message.type, "PARAMETER_TYPE_"),
        default=read_parameter(message.default_value) if message.HasField("default_value") else None,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        choices=tuple(message.choices),
        text=message.text,
    )
