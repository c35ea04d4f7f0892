from pellucid.v1 import explanation_pb2 as _explanation_pb2
from pellucid.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SitePart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SITE_PART_UNSPECIFIED: _ClassVar[SitePart]
    SITE_PART_HEADS: _ClassVar[SitePart]
    SITE_PART_BRANCH: _ClassVar[SitePart]

class Each(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EACH_UNSPECIFIED: _ClassVar[Each]
    EACH_UNIT: _ClassVar[Each]
    EACH_POSITION: _ClassVar[Each]
    EACH_ELEMENT: _ClassVar[Each]

class InterventionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERVENTION_KIND_UNSPECIFIED: _ClassVar[InterventionKind]
    INTERVENTION_KIND_ZERO: _ClassVar[InterventionKind]
    INTERVENTION_KIND_MEAN: _ClassVar[InterventionKind]
    INTERVENTION_KIND_RESAMPLE: _ClassVar[InterventionKind]
    INTERVENTION_KIND_NOISE: _ClassVar[InterventionKind]
    INTERVENTION_KIND_CONSTANT: _ClassVar[InterventionKind]
    INTERVENTION_KIND_SCALE: _ClassVar[InterventionKind]
    INTERVENTION_KIND_STEER: _ClassVar[InterventionKind]
    INTERVENTION_KIND_PATCH: _ClassVar[InterventionKind]

class Reference(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFERENCE_UNSPECIFIED: _ClassVar[Reference]
    REFERENCE_BATCH: _ClassVar[Reference]
    REFERENCE_BACKGROUND: _ClassVar[Reference]
    REFERENCE_DATASET: _ClassVar[Reference]

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_PROBABILITY: _ClassVar[Metric]
    METRIC_LOGIT_DIFFERENCE: _ClassVar[Metric]
    METRIC_KL_DIVERGENCE: _ClassVar[Metric]
SITE_PART_UNSPECIFIED: SitePart
SITE_PART_HEADS: SitePart
SITE_PART_BRANCH: SitePart
EACH_UNSPECIFIED: Each
EACH_UNIT: Each
EACH_POSITION: Each
EACH_ELEMENT: Each
INTERVENTION_KIND_UNSPECIFIED: InterventionKind
INTERVENTION_KIND_ZERO: InterventionKind
INTERVENTION_KIND_MEAN: InterventionKind
INTERVENTION_KIND_RESAMPLE: InterventionKind
INTERVENTION_KIND_NOISE: InterventionKind
INTERVENTION_KIND_CONSTANT: InterventionKind
INTERVENTION_KIND_SCALE: InterventionKind
INTERVENTION_KIND_STEER: InterventionKind
INTERVENTION_KIND_PATCH: InterventionKind
REFERENCE_UNSPECIFIED: Reference
REFERENCE_BATCH: Reference
REFERENCE_BACKGROUND: Reference
REFERENCE_DATASET: Reference
METRIC_UNSPECIFIED: Metric
METRIC_PROBABILITY: Metric
METRIC_LOGIT_DIFFERENCE: Metric
METRIC_KL_DIVERGENCE: Metric

class Site(_message.Message):
    __slots__ = ("layer", "part", "units", "positions", "each")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    EACH_FIELD_NUMBER: _ClassVar[int]
    layer: str
    part: SitePart
    units: _containers.RepeatedScalarFieldContainer[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    each: Each
    def __init__(self, layer: _Optional[str] = ..., part: _Optional[_Union[SitePart, str]] = ..., units: _Optional[_Iterable[int]] = ..., positions: _Optional[_Iterable[int]] = ..., each: _Optional[_Union[Each, str]] = ...) -> None: ...

class Intervention(_message.Message):
    __slots__ = ("sites", "kind", "value", "vector", "reference", "draws", "per_position")
    SITES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    PER_POSITION_FIELD_NUMBER: _ClassVar[int]
    sites: _containers.RepeatedCompositeFieldContainer[Site]
    kind: InterventionKind
    value: float
    vector: _tensor_pb2.Tensor
    reference: Reference
    draws: int
    per_position: bool
    def __init__(self, sites: _Optional[_Iterable[_Union[Site, _Mapping]]] = ..., kind: _Optional[_Union[InterventionKind, str]] = ..., value: _Optional[float] = ..., vector: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., reference: _Optional[_Union[Reference, str]] = ..., draws: _Optional[int] = ..., per_position: bool = ...) -> None: ...

class ColumnRule(_message.Message):
    __slots__ = ("column", "fixed", "minimum", "maximum", "only_up", "only_down", "whole", "categories")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    ONLY_UP_FIELD_NUMBER: _ClassVar[int]
    ONLY_DOWN_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    column: str
    fixed: bool
    minimum: float
    maximum: float
    only_up: bool
    only_down: bool
    whole: bool
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, column: _Optional[str] = ..., fixed: bool = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., only_up: bool = ..., only_down: bool = ..., whole: bool = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("outcome", "minimum", "maximum")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    outcome: _explanation_pb2.Outcome
    minimum: float
    maximum: float
    def __init__(self, outcome: _Optional[_Union[_explanation_pb2.Outcome, _Mapping]] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ...) -> None: ...

class AblationRecord(_message.Message):
    __slots__ = ("metric", "interventions", "source_digest", "reference_digest", "dataset", "dataset_digest", "wanted", "columns")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    INTERVENTIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    metric: Metric
    interventions: _containers.RepeatedCompositeFieldContainer[Intervention]
    source_digest: str
    reference_digest: str
    dataset: str
    dataset_digest: str
    wanted: Wanted
    columns: _containers.RepeatedCompositeFieldContainer[ColumnRule]
    def __init__(self, metric: _Optional[_Union[Metric, str]] = ..., interventions: _Optional[_Iterable[_Union[Intervention, _Mapping]]] = ..., source_digest: _Optional[str] = ..., reference_digest: _Optional[str] = ..., dataset: _Optional[str] = ..., dataset_digest: _Optional[str] = ..., wanted: _Optional[_Union[Wanted, _Mapping]] = ..., columns: _Optional[_Iterable[_Union[ColumnRule, _Mapping]]] = ...) -> None: ...
