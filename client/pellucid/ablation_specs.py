"""What `ablate` and `counterfactual` are asked, turned into the schema's request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pellucid.calls import model_spec
from pellucid.catalogue import Model
from pellucid.checks import (
    checked_flag,
    checked_list,
    checked_mapping,
    checked_number,
    checked_text,
    checked_whole,
    shortened,
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
class Rule:
    """What a counterfactual may do to a table's column.

    Attributes
    ----------
    fixed
        Leave it as it is.
    minimum, maximum
        The smallest and the largest value that it may get, in the column's unit; None for what the model states.
    only_up, only_down
        It may only become larger, or only smaller.
    whole
        It takes whole numbers.
    categories
        The categories that it may get; empty for all.
    """

    fixed: bool = False
    minimum: float | None = None
    maximum: float | None = None
    only_up: bool = False
    only_down: bool = False
    whole: bool = False
    categories: Sequence[str] = ()


Fixed = Rule(fixed=True)
"""The rule for a column that a counterfactual must leave as it is."""

ColumnRule = Rule | tuple[float | None, float | None]
"""A rule, or the interval that the column's value must be in."""


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
    request = explanation_service_pb2.AblateRequest(
        model=model_spec(name, version),
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
        columns=[_rule(column, rule) for column, rule in checked_mapping(spec.columns, "columns", "rules").items()],
    )
    if spec.wanted is not None or spec.minimum is not None or spec.maximum is not None:
        request.wanted.CopyFrom(_wanted(spec))
    return request


def _wanted(spec: AblationSpec) -> ablation_pb2.Wanted:
    return ablation_pb2.Wanted(
        outcome=None if spec.wanted is None else outcome_message(spec.wanted, "wanted"),
        minimum=_bound(spec.minimum, "minimum"),
        maximum=_bound(spec.maximum, "maximum"),
    )


def _rule(column: str, given: Any) -> ablation_pb2.ColumnRule:
    where = f"columns[{column!r}]"
    if isinstance(given, list | tuple):
        if len(given) != 2:
            raise invalid(where, f"has {len(given)} entries; it must be the pair of minimum and maximum")
        given = Rule(minimum=given[0], maximum=given[1])
    if not isinstance(given, Rule):
        raise invalid(where, f"is {shortened(given)}; it must be Fixed, a pair of minimum and maximum, or a Rule")
    categories = checked_list(given.categories, f"{where}.categories", "categories")
    return ablation_pb2.ColumnRule(
        column=column,
        fixed=checked_flag(given.fixed, f"{where}.fixed"),
        minimum=_bound(given.minimum, f"{where}.minimum"),
        maximum=_bound(given.maximum, f"{where}.maximum"),
        only_up=checked_flag(given.only_up, f"{where}.only_up"),
        only_down=checked_flag(given.only_down, f"{where}.only_down"),
        whole=checked_flag(given.whole, f"{where}.whole"),
        categories=[checked_text(each, f"{where}.categories[{number}]") for number, each in enumerate(categories)],
    )


def _bound(value: Any, where: str) -> float | None:
    return None if value is None else checked_number(value, where)
