from pellucid.v1 import explanation_pb2 as _explanation_pb2
from pellucid.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_SERVING: _ClassVar[ModelState]
    MODEL_STATE_BROKEN: _ClassVar[ModelState]

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_TENSOR: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_TABULAR: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]

class OutputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_KIND_UNSPECIFIED: _ClassVar[OutputKind]
    OUTPUT_KIND_LOGITS: _ClassVar[OutputKind]
    OUTPUT_KIND_SIGMOID_LOGITS: _ClassVar[OutputKind]
    OUTPUT_KIND_PROBABILITIES: _ClassVar[OutputKind]
    OUTPUT_KIND_VALUES: _ClassVar[OutputKind]

class ParameterType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARAMETER_TYPE_UNSPECIFIED: _ClassVar[ParameterType]
    PARAMETER_TYPE_INTEGER: _ClassVar[ParameterType]
    PARAMETER_TYPE_REAL: _ClassVar[ParameterType]
    PARAMETER_TYPE_FLAG: _ClassVar[ParameterType]
    PARAMETER_TYPE_TEXT: _ClassVar[ParameterType]
    PARAMETER_TYPE_TENSOR: _ClassVar[ParameterType]

class DatasetKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATASET_KIND_UNSPECIFIED: _ClassVar[DatasetKind]
    DATASET_KIND_PICTURES: _ClassVar[DatasetKind]
    DATASET_KIND_TABLE: _ClassVar[DatasetKind]
    DATASET_KIND_TEXTS: _ClassVar[DatasetKind]
    DATASET_KIND_TENSOR: _ClassVar[DatasetKind]

class DatasetState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATASET_STATE_UNSPECIFIED: _ClassVar[DatasetState]
    DATASET_STATE_READY: _ClassVar[DatasetState]
    DATASET_STATE_BROKEN: _ClassVar[DatasetState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_SERVING: ModelState
MODEL_STATE_BROKEN: ModelState
MODALITY_UNSPECIFIED: Modality
MODALITY_TENSOR: Modality
MODALITY_IMAGE: Modality
MODALITY_TABULAR: Modality
MODALITY_TEXT: Modality
OUTPUT_KIND_UNSPECIFIED: OutputKind
OUTPUT_KIND_LOGITS: OutputKind
OUTPUT_KIND_SIGMOID_LOGITS: OutputKind
OUTPUT_KIND_PROBABILITIES: OutputKind
OUTPUT_KIND_VALUES: OutputKind
PARAMETER_TYPE_UNSPECIFIED: ParameterType
PARAMETER_TYPE_INTEGER: ParameterType
PARAMETER_TYPE_REAL: ParameterType
PARAMETER_TYPE_FLAG: ParameterType
PARAMETER_TYPE_TEXT: ParameterType
PARAMETER_TYPE_TENSOR: ParameterType
DATASET_KIND_UNSPECIFIED: DatasetKind
DATASET_KIND_PICTURES: DatasetKind
DATASET_KIND_TABLE: DatasetKind
DATASET_KIND_TEXTS: DatasetKind
DATASET_KIND_TENSOR: DatasetKind
DATASET_STATE_UNSPECIFIED: DatasetState
DATASET_STATE_READY: DatasetState
DATASET_STATE_BROKEN: DatasetState

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelSummary(_message.Message):
    __slots__ = ("model", "description", "latest", "state", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    description: str
    latest: bool
    state: ModelState
    reason: str
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ..., description: _Optional[str] = ..., latest: bool = ..., state: _Optional[_Union[ModelState, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "categories", "minimum", "maximum", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    minimum: float
    maximum: float
    unit: str
    def __init__(self, name: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., unit: _Optional[str] = ...) -> None: ...

class ImagePreprocessing(_message.Message):
    __slots__ = ("resize", "crop_height", "crop_width", "interpolation", "mean", "standard_deviation")
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    CROP_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CROP_WIDTH_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    resize: int
    crop_height: int
    crop_width: int
    interpolation: str
    mean: _containers.RepeatedScalarFieldContainer[float]
    standard_deviation: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, resize: _Optional[int] = ..., crop_height: _Optional[int] = ..., crop_width: _Optional[int] = ..., interpolation: _Optional[str] = ..., mean: _Optional[_Iterable[float]] = ..., standard_deviation: _Optional[_Iterable[float]] = ...) -> None: ...

class InputSignature(_message.Message):
    __slots__ = ("name", "modality", "data_type", "shape", "columns", "image")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    modality: Modality
    data_type: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    image: ImagePreprocessing
    def __init__(self, name: _Optional[str] = ..., modality: _Optional[_Union[Modality, str]] = ..., data_type: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., image: _Optional[_Union[ImagePreprocessing, _Mapping]] = ...) -> None: ...

class OutputSignature(_message.Message):
    __slots__ = ("name", "kind", "data_type", "shape", "labels", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: OutputKind
    data_type: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    unit: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[OutputKind, str]] = ..., data_type: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., labels: _Optional[_Iterable[str]] = ..., unit: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "type", "shape", "units", "cuttable", "heads", "branch")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    CUTTABLE_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    units: int
    cuttable: bool
    heads: int
    branch: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., units: _Optional[int] = ..., cuttable: bool = ..., heads: _Optional[int] = ..., branch: bool = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("method", "allowed", "reason", "rows")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    method: str
    allowed: bool
    reason: str
    rows: int
    def __init__(self, method: _Optional[str] = ..., allowed: bool = ..., reason: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class Parity(_message.Message):
    __slots__ = ("largest_difference", "tolerance", "holds")
    LARGEST_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    largest_difference: float
    tolerance: float
    holds: bool
    def __init__(self, largest_difference: _Optional[float] = ..., tolerance: _Optional[float] = ..., holds: bool = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "description", "inputs", "outputs", "layers", "capabilities", "runtime", "parity", "background_rows", "solo", "state", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_ROWS_FIELD_NUMBER: _ClassVar[int]
    SOLO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    description: str
    inputs: _containers.RepeatedCompositeFieldContainer[InputSignature]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputSignature]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    capabilities: _containers.RepeatedCompositeFieldContainer[Capability]
    runtime: str
    parity: Parity
    background_rows: int
    solo: bool
    state: ModelState
    reason: str
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ..., description: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[InputSignature, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[OutputSignature, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., capabilities: _Optional[_Iterable[_Union[Capability, _Mapping]]] = ..., runtime: _Optional[str] = ..., parity: _Optional[_Union[Parity, _Mapping]] = ..., background_rows: _Optional[int] = ..., solo: bool = ..., state: _Optional[_Union[ModelState, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ListMethodsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "type", "default_value", "minimum", "maximum", "choices", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ParameterType
    default_value: _explanation_pb2.ParamValue
    minimum: float
    maximum: float
    choices: _containers.RepeatedScalarFieldContainer[str]
    text: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ParameterType, str]] = ..., default_value: _Optional[_Union[_explanation_pb2.ParamValue, _Mapping]] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., choices: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ...) -> None: ...

class Method(_message.Message):
    __slots__ = ("name", "rpc", "family", "summary", "source", "parameters", "axioms", "needs", "baselines", "takes_tolerance", "rows_parameter")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RPC_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    AXIOMS_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    TAKES_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    ROWS_PARAMETER_FIELD_NUMBER: _ClassVar[int]
    name: str
    rpc: str
    family: str
    summary: str
    source: str
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    axioms: _containers.RepeatedScalarFieldContainer[str]
    needs: _containers.RepeatedScalarFieldContainer[str]
    baselines: _containers.RepeatedScalarFieldContainer[_explanation_pb2.BaselineKind]
    takes_tolerance: bool
    rows_parameter: str
    def __init__(self, name: _Optional[str] = ..., rpc: _Optional[str] = ..., family: _Optional[str] = ..., summary: _Optional[str] = ..., source: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., axioms: _Optional[_Iterable[str]] = ..., needs: _Optional[_Iterable[str]] = ..., baselines: _Optional[_Iterable[_Union[_explanation_pb2.BaselineKind, str]]] = ..., takes_tolerance: bool = ..., rows_parameter: _Optional[str] = ...) -> None: ...

class ListMethodsResponse(_message.Message):
    __slots__ = ("methods",)
    METHODS_FIELD_NUMBER: _ClassVar[int]
    methods: _containers.RepeatedCompositeFieldContainer[Method]
    def __init__(self, methods: _Optional[_Iterable[_Union[Method, _Mapping]]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "description", "kind", "input", "label", "groups", "classes", "rows", "digest", "state", "reason", "concepts", "categories")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONCEPTS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    kind: DatasetKind
    input: str
    label: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    digest: str
    state: DatasetState
    reason: str
    concepts: int
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., kind: _Optional[_Union[DatasetKind, str]] = ..., input: _Optional[str] = ..., label: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ..., digest: _Optional[str] = ..., state: _Optional[_Union[DatasetState, str]] = ..., reason: _Optional[str] = ..., concepts: _Optional[int] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets",)
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ...) -> None: ...
