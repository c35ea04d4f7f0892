from pellucid.v1 import ablation_pb2 as _ablation_pb2
from pellucid.v1 import dissection_pb2 as _dissection_pb2
from pellucid.v1 import explanation_pb2 as _explanation_pb2
from pellucid.v1 import input_pb2 as _input_pb2
from pellucid.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Axis(_message.Message):
    __slots__ = ("name", "labels", "coordinates", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    coordinates: _tensor_pb2.Tensor
    unit: str
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., coordinates: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., unit: _Optional[str] = ...) -> None: ...

class NamedArray(_message.Message):
    __slots__ = ("values", "axes", "unit", "text", "missing")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    values: _tensor_pb2.Tensor
    axes: _containers.RepeatedCompositeFieldContainer[Axis]
    unit: str
    text: str
    missing: bool
    def __init__(self, values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., axes: _Optional[_Iterable[_Union[Axis, _Mapping]]] = ..., unit: _Optional[str] = ..., text: _Optional[str] = ..., missing: bool = ...) -> None: ...

class NamedColumn(_message.Message):
    __slots__ = ("name", "numbers", "texts", "missing", "unit", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    numbers: _tensor_pb2.Tensor
    texts: _input_pb2.Texts
    missing: _tensor_pb2.Tensor
    unit: str
    text: str
    def __init__(self, name: _Optional[str] = ..., numbers: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., texts: _Optional[_Union[_input_pb2.Texts, _Mapping]] = ..., missing: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., unit: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class NamedTable(_message.Message):
    __slots__ = ("columns", "text")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[NamedColumn]
    text: str
    def __init__(self, columns: _Optional[_Iterable[_Union[NamedColumn, _Mapping]]] = ..., text: _Optional[str] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("data", "media_type", "width", "height", "text")
    DATA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    media_type: str
    width: int
    height: int
    text: str
    def __init__(self, data: _Optional[bytes] = ..., media_type: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class Findings(_message.Message):
    __slots__ = ("arrays", "tables", "pictures", "accuracy", "warnings", "resolved", "receipt", "ablation", "dissection")
    class ArraysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: NamedArray
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[NamedArray, _Mapping]] = ...) -> None: ...
    class TablesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: NamedTable
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[NamedTable, _Mapping]] = ...) -> None: ...
    class PicturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Picture
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Picture, _Mapping]] = ...) -> None: ...
    class ResolvedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _explanation_pb2.ParamValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_explanation_pb2.ParamValue, _Mapping]] = ...) -> None: ...
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ABLATION_FIELD_NUMBER: _ClassVar[int]
    DISSECTION_FIELD_NUMBER: _ClassVar[int]
    arrays: _containers.MessageMap[str, NamedArray]
    tables: _containers.MessageMap[str, NamedTable]
    pictures: _containers.MessageMap[str, Picture]
    accuracy: _explanation_pb2.Accuracy
    warnings: _containers.RepeatedScalarFieldContainer[str]
    resolved: _containers.MessageMap[str, _explanation_pb2.ParamValue]
    receipt: _explanation_pb2.Receipt
    ablation: _ablation_pb2.AblationRecord
    dissection: _dissection_pb2.DissectionRecord
    def __init__(self, arrays: _Optional[_Mapping[str, NamedArray]] = ..., tables: _Optional[_Mapping[str, NamedTable]] = ..., pictures: _Optional[_Mapping[str, Picture]] = ..., accuracy: _Optional[_Union[_explanation_pb2.Accuracy, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., resolved: _Optional[_Mapping[str, _explanation_pb2.ParamValue]] = ..., receipt: _Optional[_Union[_explanation_pb2.Receipt, _Mapping]] = ..., ablation: _Optional[_Union[_ablation_pb2.AblationRecord, _Mapping]] = ..., dissection: _Optional[_Union[_dissection_pb2.DissectionRecord, _Mapping]] = ...) -> None: ...
