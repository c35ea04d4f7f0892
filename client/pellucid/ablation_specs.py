"""What `ablate` and `counterfactual` are asked, turned into the schema's request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pellucid.ablation_rules import ColumnRule, bound, rule_message
from pellucid.calls import model_spec
from pellucid.catalogue import Model
from pellucid.checks import (
    checked_flag,
    checked_mapping,
    checked_text,
    checked_whole,
)
from pellucid.errors import invalid
from pellucid.inputs import read_inputs
from pellucid.interventions import Intervention, intervention_message
from pellucid.specs import (
    MOST_SEED,
    Element,
    Space,
    outcome_message,
    parameter_message,
    target_message,
    word_value,
)
from pellucid.v1 import ablation_pb2, explanation_service_pb2

Metric = Literal["score", "probability", "logit-difference", "kl-divergence"]
"""What is measured with and without a change."""

_METRICS: Mapping[str, ablation_pb2.Metric] = MappingProxyType(
    {
        "score": ablation_pb2.METRIC_UNSPECIFIED,
        "probability": ablation_pb2.METRIC_PROBABILITY,
        "logit-difference": ablation_pb2.METRIC_LOGIT_DIFFERENCE,
        "kl-divergence": ablation_pb2.METRIC_KL_DIVERGENCE,
    }
)


@dataclass(frozen=True, slots=True)
class AblationSpec:
    """What is asked; see `Client.ablate` and `Client.counterfactual`."""

    method: str
    interventions: Sequence[Intervention] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    target: Element | None = None
    contrast: Element | None = None
    output: str | None = None
    space: Space | None = None
    metric: Metric | None = None
    source: Any = None
    dataset: str | None = None
    seed: int = 0
    exact: bool = False
    wanted: Element | None = None
    minimum: float | None = None
    maximum: float | None = None
    columns: Mapping[str, ColumnRule] = field(default_factory=dict)
    digest: str = ""
    """SHA-256 over the files of the model version that must answer; empty for any."""


def ablate_request(
    model: Model, name: str, version: int, inputs: Any, spec: AblationSpec
) -> explanation_service_pb2.AblateRequest:
    """Write the request.

    Raises
    ------
    InvalidRequestError
        A value is of a type, or a word, that there is not, or the inputs are not the model's.
    """
    if isinstance(inputs, Intervention):
        raise invalid("inputs", "is an intervention; inputs go first, or None where the method runs on a dataset")
    parameters = checked_mapping(spec.parameters, "parameters", "values by name")
    columns = checked_mapping(spec.columns, "columns", "rules")
    request = explanation_service_pb2.AblateRequest(
        model=model_spec(name, version, spec.digest),
        inputs=read_inputs(model, inputs).messages if inputs is not None else None,
        method=checked_text(spec.method, "method"),
        parameters={key: parameter_message(value, key) for key, value in parameters.items()},
        target=target_message(spec.target, spec.contrast, spec.output, spec.space, ""),
        metric=ablation_pb2.METRIC_UNSPECIFIED if spec.metric is None else word_value(spec.metric, _METRICS, "metric"),
        interventions=[
            intervention_message(each, f"interventions[{number}]") for number, each in enumerate(spec.interventions)
        ],
        source=read_inputs(model, spec.source, where="source").messages if spec.source is not None else None,
        dataset="" if spec.dataset is None else checked_text(spec.dataset, "dataset"),
        seed=checked_whole(spec.seed, "seed", 0, MOST_SEED),
        exact=checked_flag(spec.exact, "exact"),
        columns=[rule_message(column, rule) for column, rule in columns.items()],
    )
    if spec.wanted is not None or spec.minimum is not None or spec.maximum is not None:
        request.wanted.CopyFrom(_wanted(spec))
    return request


def _wanted(spec: AblationSpec) -> ablation_pb2.Wanted:
    return ablation_pb2.Wanted(
        outcome=None if spec.wanted is None else outcome_message(spec.wanted, "wanted"),
        minimum=bound(spec.minimum, "minimum"),
        maximum=bound(spec.maximum, "maximum"),
    )
