"""Requests of `Ablate`, checked for form; what depends on a model or a method is the engine's to check."""

import math
from collections.abc import Iterable

from pellucid import tensors
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2

from pellucid_server.rpc.ablation_bounds import (
    require_bounded,
    require_pattern,
    require_representable,
    require_short,
)
from pellucid_server.rpc.codec import (
    enum_word,
    model_key,
    read_inputs,
    read_outcome,
    read_parameter,
    read_target,
    read_tensor,
    refuse,
    shown,
)
from pellucid_server.rpc.large_fields import NONE, LargeFields
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import findings, requests

_PARTS = {
    ablation_pb2.SITE_PART_UNSPECIFIED: "",
    ablation_pb2.SITE_PART_HEADS: "heads",
    ablation_pb2.SITE_PART_BRANCH: "branch",
}
_EACH = {
    ablation_pb2.EACH_UNSPECIFIED: "",
    ablation_pb2.EACH_UNIT: "unit",
    ablation_pb2.EACH_POSITION: "position",
    ablation_pb2.EACH_ELEMENT: "element",
}
_KINDS = {
    ablation_pb2.INTERVENTION_KIND_UNSPECIFIED: "zero",
    ablation_pb2.INTERVENTION_KIND_ZERO: "zero",
    ablation_pb2.INTERVENTION_KIND_MEAN: "mean",
    ablation_pb2.INTERVENTION_KIND_RESAMPLE: "resample",
    ablation_pb2.INTERVENTION_KIND_NOISE: "noise",
    ablation_pb2.INTERVENTION_KIND_CONSTANT: "constant",
    ablation_pb2.INTERVENTION_KIND_SCALE: "scale",
    ablation_pb2.INTERVENTION_KIND_STEER: "steer",
    ablation_pb2.INTERVENTION_KIND_PATCH: "patch",
}
_REFERENCES = {
    ablation_pb2.REFERENCE_UNSPECIFIED: "",
    ablation_pb2.REFERENCE_BATCH: "batch",
    ablation_pb2.REFERENCE_BACKGROUND: "background",
    ablation_pb2.REFERENCE_DATASET: "dataset",
}
_METRICS = {
    ablation_pb2.METRIC_UNSPECIFIED: "score",
    ablation_pb2.METRIC_PROBABILITY: "probability",
    ablation_pb2.METRIC_LOGIT_DIFFERENCE: "logit-difference",
    ablation_pb2.METRIC_KL_DIVERGENCE: "kl-divergence",
}
_PART_NUMBERS = {word: number for number, word in _PARTS.items()}
_EACH_NUMBERS = {word: number for number, word in _EACH.items()}
_KIND_NUMBERS = {word: number for number, word in _KINDS.items()}
_REFERENCE_NUMBERS = {word: number for number, word in _REFERENCES.items()}
_METRIC_NUMBERS = {word: number for number, word in _METRICS.items()}
_WITH_VALUE = frozenset({"constant", "scale", "noise", "steer"})
_WITH_VECTOR = frozenset({"constant", "steer"})
_WITH_REFERENCE = frozenset({"mean", "resample"})
_RANDOM = frozenset({"resample", "noise"})


def ablate_request(
    request: explanation_service_pb2.AblateRequest, limits: LimitsConfig, large: LargeFields = NONE
) -> requests.AblateRequest:
    """Read an Ablate request.

    `large` has the fields that were taken out of it.

    Raises
    ------
    InvalidRequestError
        The request can never be valid, or asks for more than `limits`.
    """
    if not request.method:
        refuse("method", "is empty; ListMethods names the methods that are installed")
    if not request.inputs and not request.dataset:
        refuse("inputs", "is empty; give the rows of each of the model's inputs by its name, or name a dataset")
    if len(request.interventions) > limits.interventions:
        refuse("interventions", f"has {len(request.interventions)} entries; at most {limits.interventions} are taken")
    require_bounded(request)
    inputs = read_inputs(request.inputs, "inputs", limits.attribute_rows, large) if request.inputs else {}
    source = read_inputs(request.source, "source", limits.attribute_rows, large) if request.source else {}
    return requests.AblateRequest(
        model=model_key(request.model),
        inputs=inputs,
        method=request.method,
        parameters={
            name: read_parameter(name, value, "parameters", large) for name, value in request.parameters.items()
        },
        target=read_target(request.target, "target") if request.HasField("target") else requests.TargetSpec(),
        metric=enum_word(request.metric, _METRICS, ablation_pb2.Metric, "metric"),
        interventions=tuple(
            _intervention(each, f"interventions[{number}]", large) for number, each in enumerate(request.interventions)
        ),
        source=source,
        dataset=request.dataset,
        seed=request.seed,
        exact=request.exact,
        wanted=_wanted(request.wanted),
        columns=_column_rules(request),
    )


def _intervention(message: ablation_pb2.Intervention, field: str, large: LargeFields) -> requests.InterventionSpec:
    kind = enum_word(message.kind, _KINDS, ablation_pb2.InterventionKind, f"{field}.kind")
    if not message.sites:
        refuse(f"{field}.sites", "is empty; name a layer, as GetModel gives it")
    value = message.value if message.HasField("value") else None
    _refuse_unused(message, kind, field)
    if value is not None and not math.isfinite(value):
        refuse(f"{field}.value", f"is {value}; it must be finite")
    if kind == "scale" and value is None:
        refuse(f"{field}.value", "is not set; give the factor that the site is multiplied by")
    if kind == "noise" and value is not None and value <= 0:
        refuse(f"{field}.value", f"is {value:g}; a deviation must be above 0")
    if kind == "steer" and not message.HasField("vector"):
        refuse(f"{field}.vector", "is not set; give a number for each unit of the layer")
    if not 0 <= message.draws <= requests.MOST_DRAWS:
        refuse(f"{field}.draws", f"is {message.draws}; it must be 1 to {requests.MOST_DRAWS}, or 0 for the default")
    vector = read_tensor(message.vector, f"{field}.vector", large) if message.HasField("vector") else None
    require_representable(value, vector, field)
    return requests.InterventionSpec(
        sites=tuple(_site(site, f"{field}.sites[{number}]") for number, site in enumerate(message.sites)),
        kind=kind,
        value=value,
        vector=vector,
        reference=enum_word(message.reference, _REFERENCES, ablation_pb2.Reference, f"{field}.reference"),
        draws=message.draws or requests.DEFAULT_DRAWS,
        per_position=message.per_position,
    )


def _refuse_unused(message: ablation_pb2.Intervention, kind: str, field: str) -> None:
    """Refuse what an intervention of this kind would leave unused: the caller expects something of it."""
    given = {
        "value": (message.HasField("value"), _WITH_VALUE),
        "vector": (message.HasField("vector"), _WITH_VECTOR),
        "reference": (bool(message.reference), _WITH_REFERENCE),
        "draws": (bool(message.draws), _RANDOM),
        "per_position": (message.per_position, frozenset({"mean"})),
    }
    for name, (is_set, kinds) in given.items():
        if is_set and kind not in kinds:
            takes = ", ".join(each.upper() for each in requests.INTERVENTIONS if each in kinds)
            refuse(f"{field}.{name}", f"is set, but the kind is {kind.upper()}; leave it out, it is for {takes}")
    if message.HasField("vector") and message.HasField("value") and kind == "constant":
        refuse(f"{field}.value", "is set, and vector too; a CONSTANT takes one of the two")


def _site(message: ablation_pb2.Site, field: str) -> requests.SiteSpec:
    if not message.layer:
        refuse(f"{field}.layer", "is empty; GetModel names the model's layers")
    require_pattern(message.layer, f"{field}.layer")
    return requests.SiteSpec(
        layer=message.layer,
        part=part_word(message.part, f"{field}.part"),
        units=indices(message.units, f"{field}.units"),
        positions=indices(message.positions, f"{field}.positions"),
        each=enum_word(message.each, _EACH, ablation_pb2.Each, f"{field}.each"),
    )


def part_word(number: int, field: str) -> str:
    """Return what of a layer is meant: "", "heads" or "branch"."""
    return enum_word(number, _PARTS, ablation_pb2.SitePart, field)


def part_number(word: str) -> ablation_pb2.SitePart:
    """Return the schema's number of what of a layer is meant."""
    return _PART_NUMBERS[word]


def indices(message: Iterable[int], field: str) -> tuple[int, ...]:
    """Read indices that must differ and not be negative."""
    # Copied first: protobuf's containers are slow to look through, and there may be a hundred thousand.
    numbers = tuple(message)
    if not numbers:
        return numbers
    if min(numbers) < 0:
        refuse(field, f"has {next(number for number in numbers if number < 0)}; no index may be negative")
    if len(set(numbers)) != len(numbers):
        refuse(field, "names an index twice; name each once")
    return numbers


def _wanted(message: ablation_pb2.Wanted) -> requests.Wanted:
    outcome = read_outcome(message.outcome, "wanted.outcome") if message.HasField("outcome") else None
    if outcome is not None and not (outcome.index or outcome.label):
        refuse("wanted.outcome", "is empty; set its index or its label")
    least = _bound(message, "minimum", "wanted")
    most = _bound(message, "maximum", "wanted")
    if outcome is not None and (least is not None or most is not None):
        refuse("wanted", "has an outcome and bounds; set the outcome, or minimum and maximum")
    if least is not None and most is not None and least > most:
        refuse("wanted.minimum", f"is {least:g}, above the maximum, {most:g}")
    return requests.Wanted(outcome, least, most)


def _column_rules(request: explanation_service_pb2.AblateRequest) -> tuple[requests.ColumnRule, ...]:
    found: dict[str, requests.ColumnRule] = {}
    for number, message in enumerate(request.columns):
        field = f"columns[{number}]"
        if not message.column:
            refuse(f"{field}.column", "is empty; GetModel names the columns of a table")
        if message.column in found:
            refuse(f"{field}.column", f"is {shown(message.column)}, which another entry has; give each column one rule")
        least, most = _bound(message, "minimum", field), _bound(message, "maximum", field)
        if least is not None and most is not None and least > most:
            refuse(f"{field}.minimum", f"is {least:g}, above the maximum, {most:g}")
        if message.only_up and message.only_down:
            refuse(f"{field}.only_up", "is set, and only_down too; set fixed for a column that stays as it is")
        categories: dict[str, None] = {}
        for each in message.categories:
            require_short(each, f"{field}.categories")
            if each in categories:
                refuse(f"{field}.categories", f"names {shown(each)} twice; name each once")
            categories[each] = None
        found[message.column] = requests.ColumnRule(
            message.column,
            message.fixed,
            least,
            most,
            message.only_up,
            message.only_down,
            message.whole,
            tuple(categories),
        )
    return tuple(found.values())


def _bound(message: "ablation_pb2.ColumnRule | ablation_pb2.Wanted", name: str, field: str) -> float | None:
    if not message.HasField(name):
        return None
    value: float = getattr(message, name)
    if not math.isfinite(value):
        refuse(f"{field}.{name}", f"is {value}; it must be finite")
    return value


def record_message(record: findings.AblationRecord) -> ablation_pb2.AblationRecord:
    """Write what an answer is a function of, beside its receipt."""
    return ablation_pb2.AblationRecord(
        metric=_METRIC_NUMBERS[record.metric],
        interventions=[_intervention_message(each) for each in record.interventions],
        source_digest=record.source_digest,
        reference_digest=record.reference_digest,
        dataset=record.dataset,
        dataset_digest=record.dataset_digest,
        wanted=None if record.wanted is None else _wanted_message(record.wanted),
        columns=[_rule_message(each) for each in record.columns],
    )


def _intervention_message(spec: requests.InterventionSpec) -> ablation_pb2.Intervention:
    return ablation_pb2.Intervention(
        sites=[
            ablation_pb2.Site(
                layer=site.layer,
                part=_PART_NUMBERS[site.part],
                units=site.units,
                positions=site.positions,
                each=_EACH_NUMBERS[site.each],
            )
            for site in spec.sites
        ],
        kind=_KIND_NUMBERS[spec.kind],
        value=spec.value,
        vector=None if spec.vector is None else tensors.to_tensor(spec.vector),
        reference=_REFERENCE_NUMBERS[spec.reference],
        draws=spec.draws if spec.kind in _RANDOM else 0,
        per_position=spec.per_position,
    )


def _wanted_message(wanted: requests.Wanted) -> ablation_pb2.Wanted:
    outcome = wanted.outcome
    return ablation_pb2.Wanted(
        outcome=None if outcome is None else explanation_pb2.Outcome(index=outcome.index, label=outcome.label),
        minimum=wanted.minimum,
        maximum=wanted.maximum,
    )


def _rule_message(rule: requests.ColumnRule) -> ablation_pb2.ColumnRule:
    return ablation_pb2.ColumnRule(
        column=rule.column,
        fixed=rule.fixed,
        minimum=rule.minimum,
        maximum=rule.maximum,
        only_up=rule.only_up,
        only_down=rule.only_down,
        whole=rule.whole,
        categories=rule.categories,
    )
