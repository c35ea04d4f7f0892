from pellucid.v1 import ablation_pb2 as _ablation_pb2
from pellucid.v1 import input_pb2 as _input_pb2
from pellucid.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LayerUnits(_message.Message):
    __slots__ = ("layer", "part", "units")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    layer: str
    part: _ablation_pb2.SitePart
    units: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, layer: _Optional[str] = ..., part: _Optional[_Union[_ablation_pb2.SitePart, str]] = ..., units: _Optional[_Iterable[int]] = ...) -> None: ...

class ConceptMask(_message.Message):
    __slots__ = ("concept", "category", "row", "mask")
    CONCEPT_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    concept: str
    category: str
    row: int
    mask: _tensor_pb2.Tensor
    def __init__(self, concept: _Optional[str] = ..., category: _Optional[str] = ..., row: _Optional[int] = ..., mask: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("dataset", "inputs", "masks", "labels", "rows")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _input_pb2.Input
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_input_pb2.Input, _Mapping]] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    inputs: _containers.MessageMap[str, _input_pb2.Input]
    masks: _containers.RepeatedCompositeFieldContainer[ConceptMask]
    labels: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    def __init__(self, dataset: _Optional[str] = ..., inputs: _Optional[_Mapping[str, _input_pb2.Input]] = ..., masks: _Optional[_Iterable[_Union[ConceptMask, _Mapping]]] = ..., labels: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("share", "rows_done", "rows", "rows_per_second", "seconds_left")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ROWS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    share: float
    rows_done: int
    rows: int
    rows_per_second: float
    seconds_left: float
    def __init__(self, share: _Optional[float] = ..., rows_done: _Optional[int] = ..., rows: _Optional[int] = ..., rows_per_second: _Optional[float] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class DissectionRecord(_message.Message):
    __slots__ = ("layers", "dataset", "dataset_digest", "rows", "masks_digest")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MASKS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerUnits]
    dataset: str
    dataset_digest: str
    rows: int
    masks_digest: str
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerUnits, _Mapping]]] = ..., dataset: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., rows: _Optional[int] = ..., masks_digest: _Optional[str] = ...) -> None: ...
