from google.protobuf import any_pb2 as _any_pb2
from pellucid.v1 import ablation_pb2 as _ablation_pb2
from pellucid.v1 import dissection_pb2 as _dissection_pb2
from pellucid.v1 import explanation_pb2 as _explanation_pb2
from pellucid.v1 import findings_pb2 as _findings_pb2
from pellucid.v1 import input_pb2 as _input_pb2
from pellucid.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("model", "inputs", "outputs", "top_k", "explanations")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _input_pb2.Input
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    inputs: _containers.MessageMap[str, _input_pb2.Input]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    explanations: _containers.RepeatedCompositeFieldContainer[_explanation_pb2.ExplanationSpec]
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ..., inputs: _Optional[_Mapping[str, _input_pb2.Input]] = ..., outputs: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., explanations: _Optional[_Iterable[_Union[_explanation_pb2.ExplanationSpec, _Mapping]]] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("index", "label", "value", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    value: float
    probability: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., value: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...

class TopClasses(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ClassScore]
    def __init__(self, classes: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("values", "top")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    values: _tensor_pb2.Tensor
    top: _containers.RepeatedCompositeFieldContainer[TopClasses]
    def __init__(self, values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., top: _Optional[_Iterable[_Union[TopClasses, _Mapping]]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class ExplanationResult(_message.Message):
    __slots__ = ("status", "explanation")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    status: Status
    explanation: _explanation_pb2.Explanation
    def __init__(self, status: _Optional[_Union[Status, _Mapping]] = ..., explanation: _Optional[_Union[_explanation_pb2.Explanation, _Mapping]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_seconds", "compute_seconds", "total_seconds")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    compute_seconds: float
    total_seconds: float
    def __init__(self, queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("outputs", "explanations", "receipt", "timing", "warnings")
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Output
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Output, _Mapping]] = ...) -> None: ...
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.MessageMap[str, Output]
    explanations: _containers.RepeatedCompositeFieldContainer[ExplanationResult]
    receipt: _explanation_pb2.Receipt
    timing: Timing
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, outputs: _Optional[_Mapping[str, Output]] = ..., explanations: _Optional[_Iterable[_Union[ExplanationResult, _Mapping]]] = ..., receipt: _Optional[_Union[_explanation_pb2.Receipt, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class AttributeRequest(_message.Message):
    __slots__ = ("model", "inputs", "explanation")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _input_pb2.Input
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    inputs: _containers.MessageMap[str, _input_pb2.Input]
    explanation: _explanation_pb2.ExplanationSpec
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ..., inputs: _Optional[_Mapping[str, _input_pb2.Input]] = ..., explanation: _Optional[_Union[_explanation_pb2.ExplanationSpec, _Mapping]] = ...) -> None: ...

class AttributeResponse(_message.Message):
    __slots__ = ("explanation", "prediction", "timing")
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    explanation: _explanation_pb2.Explanation
    prediction: Output
    timing: Timing
    def __init__(self, explanation: _Optional[_Union[_explanation_pb2.Explanation, _Mapping]] = ..., prediction: _Optional[_Union[Output, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class AblateRequest(_message.Message):
    __slots__ = ("model", "inputs", "method", "parameters", "target", "metric", "interventions", "source", "dataset", "seed", "exact", "wanted", "columns")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _input_pb2.Input
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _explanation_pb2.ParamValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_explanation_pb2.ParamValue, _Mapping]] = ...) -> None: ...
    class SourceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _input_pb2.Input
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    INTERVENTIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    inputs: _containers.MessageMap[str, _input_pb2.Input]
    method: str
    parameters: _containers.MessageMap[str, _explanation_pb2.ParamValue]
    target: _explanation_pb2.Target
    metric: _ablation_pb2.Metric
    interventions: _containers.RepeatedCompositeFieldContainer[_ablation_pb2.Intervention]
    source: _containers.MessageMap[str, _input_pb2.Input]
    dataset: str
    seed: int
    exact: bool
    wanted: _ablation_pb2.Wanted
    columns: _containers.RepeatedCompositeFieldContainer[_ablation_pb2.ColumnRule]
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ..., inputs: _Optional[_Mapping[str, _input_pb2.Input]] = ..., method: _Optional[str] = ..., parameters: _Optional[_Mapping[str, _explanation_pb2.ParamValue]] = ..., target: _Optional[_Union[_explanation_pb2.Target, _Mapping]] = ..., metric: _Optional[_Union[_ablation_pb2.Metric, str]] = ..., interventions: _Optional[_Iterable[_Union[_ablation_pb2.Intervention, _Mapping]]] = ..., source: _Optional[_Mapping[str, _input_pb2.Input]] = ..., dataset: _Optional[str] = ..., seed: _Optional[int] = ..., exact: bool = ..., wanted: _Optional[_Union[_ablation_pb2.Wanted, _Mapping]] = ..., columns: _Optional[_Iterable[_Union[_ablation_pb2.ColumnRule, _Mapping]]] = ...) -> None: ...

class AblateResponse(_message.Message):
    __slots__ = ("progress", "findings", "part")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    progress: float
    findings: _findings_pb2.Findings
    part: int
    def __init__(self, progress: _Optional[float] = ..., findings: _Optional[_Union[_findings_pb2.Findings, _Mapping]] = ..., part: _Optional[int] = ...) -> None: ...

class DissectRequest(_message.Message):
    __slots__ = ("model", "method", "parameters", "layers", "probe", "target", "seed", "exact")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _explanation_pb2.ParamValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_explanation_pb2.ParamValue, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    model: _explanation_pb2.ModelSpec
    method: str
    parameters: _containers.MessageMap[str, _explanation_pb2.ParamValue]
    layers: _containers.RepeatedCompositeFieldContainer[_dissection_pb2.LayerUnits]
    probe: _dissection_pb2.Probe
    target: _explanation_pb2.Target
    seed: int
    exact: bool
    def __init__(self, model: _Optional[_Union[_explanation_pb2.ModelSpec, _Mapping]] = ..., method: _Optional[str] = ..., parameters: _Optional[_Mapping[str, _explanation_pb2.ParamValue]] = ..., layers: _Optional[_Iterable[_Union[_dissection_pb2.LayerUnits, _Mapping]]] = ..., probe: _Optional[_Union[_dissection_pb2.Probe, _Mapping]] = ..., target: _Optional[_Union[_explanation_pb2.Target, _Mapping]] = ..., seed: _Optional[int] = ..., exact: bool = ...) -> None: ...

class DissectResponse(_message.Message):
    __slots__ = ("progress", "findings", "part", "preview")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    progress: _dissection_pb2.Progress
    findings: _findings_pb2.Findings
    part: int
    preview: bool
    def __init__(self, progress: _Optional[_Union[_dissection_pb2.Progress, _Mapping]] = ..., findings: _Optional[_Union[_findings_pb2.Findings, _Mapping]] = ..., part: _Optional[int] = ..., preview: bool = ...) -> None: ...
