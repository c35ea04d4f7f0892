from pellucid.v1 import input_pb2 as _input_pb2
from pellucid.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutputSpace(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_SPACE_UNSPECIFIED: _ClassVar[OutputSpace]
    OUTPUT_SPACE_LOGITS: _ClassVar[OutputSpace]
    OUTPUT_SPACE_PROBABILITIES: _ClassVar[OutputSpace]

class BaselineKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BASELINE_KIND_UNSPECIFIED: _ClassVar[BaselineKind]
    BASELINE_KIND_ZEROS: _ClassVar[BaselineKind]
    BASELINE_KIND_MEAN: _ClassVar[BaselineKind]
    BASELINE_KIND_BLUR: _ClassVar[BaselineKind]
    BASELINE_KIND_GIVEN: _ClassVar[BaselineKind]
    BASELINE_KIND_BACKGROUND: _ClassVar[BaselineKind]
    BASELINE_KIND_MEDOID: _ClassVar[BaselineKind]
OUTPUT_SPACE_UNSPECIFIED: OutputSpace
OUTPUT_SPACE_LOGITS: OutputSpace
OUTPUT_SPACE_PROBABILITIES: OutputSpace
BASELINE_KIND_UNSPECIFIED: BaselineKind
BASELINE_KIND_ZEROS: BaselineKind
BASELINE_KIND_MEAN: BaselineKind
BASELINE_KIND_BLUR: BaselineKind
BASELINE_KIND_GIVEN: BaselineKind
BASELINE_KIND_BACKGROUND: BaselineKind
BASELINE_KIND_MEDOID: BaselineKind

class ModelSpec(_message.Message):
    __slots__ = ("name", "version", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    digest: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class ParamValue(_message.Message):
    __slots__ = ("integer", "real", "flag", "text", "tensor")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    integer: int
    real: float
    flag: bool
    text: str
    tensor: _tensor_pb2.Tensor
    def __init__(self, integer: _Optional[int] = ..., real: _Optional[float] = ..., flag: bool = ..., text: _Optional[str] = ..., tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("index", "label")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    index: _containers.RepeatedScalarFieldContainer[int]
    label: str
    def __init__(self, index: _Optional[_Iterable[int]] = ..., label: _Optional[str] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("output", "outcome", "contrast", "space")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    output: str
    outcome: Outcome
    contrast: Outcome
    space: OutputSpace
    def __init__(self, output: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., contrast: _Optional[_Union[Outcome, _Mapping]] = ..., space: _Optional[_Union[OutputSpace, str]] = ...) -> None: ...

class Baseline(_message.Message):
    __slots__ = ("kind", "blur_sigma", "inputs")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _input_pb2.Input
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    BLUR_SIGMA_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    kind: BaselineKind
    blur_sigma: float
    inputs: _containers.MessageMap[str, _input_pb2.Input]
    def __init__(self, kind: _Optional[_Union[BaselineKind, str]] = ..., blur_sigma: _Optional[float] = ..., inputs: _Optional[_Mapping[str, _input_pb2.Input]] = ...) -> None: ...

class ExplanationSpec(_message.Message):
    __slots__ = ("method", "parameters", "target", "baseline", "seed", "tolerance", "format", "exact")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ParamValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ParamValue, _Mapping]] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    method: str
    parameters: _containers.MessageMap[str, ParamValue]
    target: Target
    baseline: Baseline
    seed: int
    tolerance: float
    format: ReplyFormat
    exact: bool
    def __init__(self, method: _Optional[str] = ..., parameters: _Optional[_Mapping[str, ParamValue]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., baseline: _Optional[_Union[Baseline, _Mapping]] = ..., seed: _Optional[int] = ..., tolerance: _Optional[float] = ..., format: _Optional[_Union[ReplyFormat, _Mapping]] = ..., exact: bool = ...) -> None: ...

class ReplyFormat(_message.Message):
    __slots__ = ("sum_channels", "data_type")
    SUM_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    sum_channels: bool
    data_type: _tensor_pb2.DataType
    def __init__(self, sum_channels: bool = ..., data_type: _Optional[_Union[_tensor_pb2.DataType, str]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("left", "top", "right", "bottom", "picture_width", "picture_height")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    PICTURE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    PICTURE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    picture_width: int
    picture_height: int
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ..., picture_width: _Optional[int] = ..., picture_height: _Optional[int] = ...) -> None: ...

class InputAttribution(_message.Message):
    __slots__ = ("scores", "columns", "box", "groups")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    scores: _tensor_pb2.Tensor
    columns: _containers.RepeatedScalarFieldContainer[str]
    box: Box
    groups: _tensor_pb2.Tensor
    def __init__(self, scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., columns: _Optional[_Iterable[str]] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., groups: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Accuracy(_message.Message):
    __slots__ = ("signed_gap", "absolute_gap", "tolerance", "tolerance_met", "standard_error", "warnings", "partial", "absolute_tolerance")
    SIGNED_GAP_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_GAP_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_MET_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    signed_gap: float
    absolute_gap: float
    tolerance: float
    tolerance_met: bool
    standard_error: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    partial: bool
    absolute_tolerance: float
    def __init__(self, signed_gap: _Optional[float] = ..., absolute_gap: _Optional[float] = ..., tolerance: _Optional[float] = ..., tolerance_met: bool = ..., standard_error: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., partial: bool = ..., absolute_tolerance: _Optional[float] = ...) -> None: ...

class BatchShape(_message.Message):
    __slots__ = ("evaluation", "rows", "batches")
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    evaluation: str
    rows: int
    batches: int
    def __init__(self, evaluation: _Optional[str] = ..., rows: _Optional[int] = ..., batches: _Optional[int] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("rows_forward", "rows_backward", "batch_shapes")
    ROWS_FORWARD_FIELD_NUMBER: _ClassVar[int]
    ROWS_BACKWARD_FIELD_NUMBER: _ClassVar[int]
    BATCH_SHAPES_FIELD_NUMBER: _ClassVar[int]
    rows_forward: int
    rows_backward: int
    batch_shapes: _containers.RepeatedCompositeFieldContainer[BatchShape]
    def __init__(self, rows_forward: _Optional[int] = ..., rows_backward: _Optional[int] = ..., batch_shapes: _Optional[_Iterable[_Union[BatchShape, _Mapping]]] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("forward", "gradient", "device", "precision", "libraries", "threads", "cpu_capability")
    class LibrariesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    LIBRARIES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    CPU_CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    forward: str
    gradient: str
    device: str
    precision: str
    libraries: _containers.ScalarMap[str, str]
    threads: int
    cpu_capability: str
    def __init__(self, forward: _Optional[str] = ..., gradient: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., libraries: _Optional[_Mapping[str, str]] = ..., threads: _Optional[int] = ..., cpu_capability: _Optional[str] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("model", "input_digest", "method", "parameters", "target", "baseline", "baseline_digest", "seed", "runtime", "work", "tolerance", "baseline_blur_sigma", "exact")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ParamValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ParamValue, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_BLUR_SIGMA_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    model: ModelSpec
    input_digest: str
    method: str
    parameters: _containers.MessageMap[str, ParamValue]
    target: Target
    baseline: BaselineKind
    baseline_digest: str
    seed: int
    runtime: Runtime
    work: Work
    tolerance: float
    baseline_blur_sigma: float
    exact: bool
    def __init__(self, model: _Optional[_Union[ModelSpec, _Mapping]] = ..., input_digest: _Optional[str] = ..., method: _Optional[str] = ..., parameters: _Optional[_Mapping[str, ParamValue]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., baseline: _Optional[_Union[BaselineKind, str]] = ..., baseline_digest: _Optional[str] = ..., seed: _Optional[int] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., tolerance: _Optional[float] = ..., baseline_blur_sigma: _Optional[float] = ..., exact: bool = ...) -> None: ...

class Attribution(_message.Message):
    __slots__ = ("inputs", "output", "output_index", "label", "instance_output_value", "baseline_output_value", "approximation_error", "accuracy", "group_scores", "group_standard_errors", "receipt")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: InputAttribution
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[InputAttribution, _Mapping]] = ...) -> None: ...
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_OUTPUT_VALUE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_OUTPUT_VALUE_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    GROUP_SCORES_FIELD_NUMBER: _ClassVar[int]
    GROUP_STANDARD_ERRORS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.MessageMap[str, InputAttribution]
    output: str
    output_index: _containers.RepeatedScalarFieldContainer[int]
    label: str
    instance_output_value: float
    baseline_output_value: float
    approximation_error: float
    accuracy: Accuracy
    group_scores: _tensor_pb2.Tensor
    group_standard_errors: _tensor_pb2.Tensor
    receipt: Receipt
    def __init__(self, inputs: _Optional[_Mapping[str, InputAttribution]] = ..., output: _Optional[str] = ..., output_index: _Optional[_Iterable[int]] = ..., label: _Optional[str] = ..., instance_output_value: _Optional[float] = ..., baseline_output_value: _Optional[float] = ..., approximation_error: _Optional[float] = ..., accuracy: _Optional[_Union[Accuracy, _Mapping]] = ..., group_scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., group_standard_errors: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("attributions",)
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    attributions: _containers.RepeatedCompositeFieldContainer[Attribution]
    def __init__(self, attributions: _Optional[_Iterable[_Union[Attribution, _Mapping]]] = ...) -> None: ...
