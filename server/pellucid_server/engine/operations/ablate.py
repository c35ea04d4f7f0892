"""`Ablate`: what would change if a part of the model, or of the input, were different; answered in parts."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.registry import Method, Need
from pellucid_server.engine.asking.sites import SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.dataset_rows import dataset_digest, dataset_sample_and_digest
from pellucid_server.engine.operations.explain import require_finite
from pellucid_server.engine.operations.networks import GraphNetwork
from pellucid_server.engine.operations.predict import outputs_of
from pellucid_server.engine.operations.receipts import settled_parameters, stream_receipt
from pellucid_server.engine.operations.rows import Rows, digest, prepare
from pellucid_server.engine.operations.sites import resolve_interventions
from pellucid_server.engine.operations.streams import Resume, Step, answers_in_parts
from pellucid_server.engine.operations.targets import Resolved, output_of, resolve
from pellucid_server.errors import InvalidRequestError, TimedOutError, UnsupportedError
from pellucid_server.vocabulary.findings import AblationRecord, Column, Findings, Table
from pellucid_server.vocabulary.requests import AblateRequest, Outcome, TargetSpec
from pellucid_server.vocabulary.results import Accuracy
from pellucid_server.vocabulary.spans import METHOD

_RESERVE_SECONDS = 0.3
"""Time that a partial answer leaves for its last part to reach the caller."""
_PROBABILITY_SPACES = {"logits": "softmax", "sigmoid-logits": "sigmoid", "probabilities": "probabilities"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request made ready for its method.

    Attributes
    ----------
    question
        What the method is asked; its type is the method's verb's.
    input_digest
        Over the rows, for the receipt.
    target
        As resolved, for the receipt; None where there is none.
    record
        What else the answer is a function of.
    tables
        What the last part says of the request itself.
    warnings
        What a reader should know.
    """

    question: Any
    input_digest: str
    target: TargetSpec | None
    record: AblationRecord
    tables: Mapping[str, Table] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Reader = Callable[[RequestContext, LoadedModel, AblateRequest, Method, Resume], Asked]

_READERS: dict[str, Reader] = {}


def reads(asked: str) -> Callable[[Reader], Reader]:
    """Register what makes the questions of methods whose verb asks so."""

    def register(reader: Reader) -> Reader:
        _READERS[asked] = reader
        return reader

    return register


class _Shares:
    """The progress that a method reported last: the share of the part that it yields next."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self.last = 0.0

    def take(self, share: float) -> None:
        """Note progress and pass it on."""
        self.last = max(self.last, min(share, 1.0))
        self._report(self.last)


@answers_in_parts("Ablate", AblateRequest, resumes=True)
def ablate(context: RequestContext, request: AblateRequest, resume: Resume) -> Generator[Step, None, None]:
    """Yield what the method finds, part by part, and what it is a function of in the last part.

    At the deadline the answer ends with what there is, marked as partial, unless it is exact or there is nothing yet.
    A request whose worker was lost goes on behind the parts that the caller has: every part is a function of the
    request alone.

    Raises
    ------
    PellucidError
        The request is wrong, the model does not allow the method, or there is not the time for any of it.
    """
    model = context.models.find(request.model)
    method = registry.lookup(request.method, ABLATE, field="method")
    reason = model.refusal(method)
    if reason:
        text = f"{model.name} does not allow {method.name}: {reason}"
        raise UnsupportedError(text, subject=f"models/{model.name}/{model.version}")
    params = method.resolve(request.parameters)
    shares = _Shares(context.on_progress)
    context = replace(context, on_progress=shares.take)
    if not request.exact:
        context = replace(context, request=context.request.part(reserve_seconds=_RESERVE_SECONDS))
    asked = _READERS[method.verb.asked](context, model, request, method, resume)
    handle = context.handle(model, exact=request.exact)
    skipped = 0 if method.skips_parts else resume.parts_done
    number, partial = 0 if skipped else resume.parts_done, False
    last = _resumed(resume)
    try:
        with context.named(method.name), context.timed(f"explain {method.name}", **{METHOD: method.name}) as inner:
            handle.tally.span = inner.span
            for found in method.function(handle, asked.question, params):
                # What is only put together evaluates nothing, and would not see the deadline.
                context.request.check()
                number += 1
                if number <= skipped:
                    continue
                last = _with_earlier(found, last)
                yield Step(last, shares.last, checkpoint=True)
    except TimedOutError:
        if request.exact or not (number or resume.parts_done):
            raise
        partial = True
    yield Step(_last_part(context, model, request, params, asked, handle, last, partial=partial), 1.0)


def _resumed(resume: Resume) -> Findings:
    """Return what the last part that the caller has says of the whole answer; it is empty at the start."""
    found = resume.checkpoint
    return Findings() if not isinstance(found, Findings) else Findings(accuracy=found.accuracy, resolved=found.resolved)


def _with_earlier(found: Findings, before: Findings) -> Findings:
    """Return a part with what the one before it said of the whole answer: an answer goes on from its last part."""
    accuracy = found.accuracy or before.accuracy
    if accuracy is not None and before.accuracy is not None and before.accuracy.partial:
        accuracy = replace(accuracy, partial=True)
    resolved = {**before.resolved, **found.resolved}
    if accuracy is found.accuracy and resolved == found.resolved:
        return found
    return replace(found, accuracy=accuracy, resolved=resolved)


def _last_part(
    context: RequestContext,
    model: LoadedModel,
    request: AblateRequest,
    params: Any,
    asked: Asked,
    handle: ModelHandle,
    last: Findings,
    *,
    partial: bool,
) -> Findings:
    accuracy = last.accuracy
    warnings = asked.warnings
    if partial:
        accuracy = replace(accuracy or Accuracy(), partial=True)
        warnings += ("The deadline cut the work short: this is what there was time for. Allow more time for the rest.",)
    receipt = stream_receipt(
        context,
        model,
        request,
        handle,
        parameters=settled_parameters(params, last.resolved),
        input_digest=asked.input_digest,
        target=asked.target,
    )
    return Findings(
        tables=asked.tables,
        accuracy=accuracy,
        warnings=warnings,
        resolved=last.resolved,
        receipt=receipt,
        ablation=asked.record,
    )


@reads("")
def read_sites(
    context: RequestContext, model: LoadedModel, request: AblateRequest, method: Method, resume: Resume
) -> Asked:
    """Make the question of a method that changes sites of the network."""
    if not request.inputs:
        raise InvalidRequestError(f"inputs is empty; {method.name} needs rows to run the model on.", field="inputs")
    if not request.interventions:
        text = f"interventions is empty, so that nothing would change; say what {method.name} shall change, and where."
        raise InvalidRequestError(text, field="interventions")
    refuse_rules(request, method)
    rows = prepare(context, model, request.inputs)
    if model.solo and rows.count > 1:
        text = f"inputs has {rows.count} rows, and those of {model.name} depend on one another; send one row at a time."
        raise InvalidRequestError(text, field="inputs")
    source = prepare(context, model, request.source, field="source").arrays if request.source else {}
    _check_source(source, rows, request, method)
    references, used, files_digest = _references(context, model, request, rows)
    found = resolve_interventions(context, model, request.interventions, rows.arrays, reference=used)
    outputs = outputs_of(context.handle(model, exact=request.exact), model, rows, exact=request.exact)
    targets = [
        _target(model, request, {name: each[row] for name, each in outputs.items()}, row) for row in range(rows.count)
    ]
    output = targets[0].target.output
    question = SiteQuestion(
        rows=rows.arrays,
        targets=tuple(each.target for each in targets),
        prediction=outputs[output],
        layers=found.layers,
        interventions=found.interventions,
        divergence=_divergence(model, request, output),
        source=source,
        references=references,
        features=model.features,
        seed=request.seed,
        parts_done=resume.parts_done,
        gradients=model.obstacle(Need.GRADIENTS),
        labels=next(info.labels for info in model.outputs if info.name == output),
        network=None if model.graph is None else GraphNetwork(model.graph),
    )
    named = {each.reference for each in found.interventions if each.reference}
    record = AblationRecord(
        metric=request.metric,
        interventions=tuple(
            replace(spec, reference=each.reference)
            for spec, each in zip(request.interventions, found.interventions, strict=True)
        ),
        source_digest=digest(source) if source else "",
        reference_digest=_reference_digest({name: references[name] for name in named}),
        dataset=request.dataset,
        dataset_digest=files_digest or dataset_digest(context, request.dataset),
    )
    target = _common([each.spec for each in targets], request.target)
    input_digest = context.heavy(lambda: digest(rows.arrays), rows.arrays)
    return Asked(question, input_digest, target, record, {"rows": _rows_table(targets)})


def _common(found: list[TargetSpec], asked: TargetSpec) -> TargetSpec:
    """Return what the targets of all rows have in common; where they differ, what was asked for."""
    first = found[0]
    return replace(
        first,
        outcome=first.outcome if all(each.outcome == first.outcome for each in found) else asked.outcome,
        contrast=first.contrast if all(each.contrast == first.contrast for each in found) else asked.contrast,
    )


def _reference_digest(used: Mapping[str, Arrays]) -> str:
    """Return the digest of the rows that means and draws come from; of all of them, if there are several kinds."""
    if len(used) < 2:
        return next((digest(rows) for rows in used.values()), "")
    return digest({f"{kind}/{name}": array for kind, rows in used.items() for name, array in rows.items()})


def refuse_rules(request: AblateRequest, method: Method) -> None:
    """Refuse what is for counterfactuals."""
    if request.columns or request.wanted.outcome or (request.wanted.minimum, request.wanted.maximum) != (None, None):
        where = "columns" if request.columns else "wanted"
        raise InvalidRequestError(
            f"{where} is set, and {method.name} takes none; it is for counterfactual.", field=where
        )


def _check_source(source: Arrays, rows: Rows, request: AblateRequest, method: Method) -> None:
    patches = [number for number, each in enumerate(request.interventions) if each.kind == "patch"]
    if source and not patches and method.family != "patching":
        raise InvalidRequestError("source is set, and no intervention is a PATCH; leave it out.", field="source")
    if patches and not source:
        text = f"interventions[{patches[0]}] is a PATCH, and source is empty; give the rows that values come from."
        raise InvalidRequestError(text, field="source")
    for name, array in source.items():
        if len(array) not in (1, rows.count):
            text = f"source has {len(array)} rows; it must have 1, or {rows.count} as inputs has."
            raise InvalidRequestError(text, field="source")
        if array.shape[1:] != rows.arrays[name].shape[1:]:
            where = f'source["{name}"]'
            text = (
                f"{where} has rows of shape {list(array.shape[1:])}; those of inputs have "
                f"{list(rows.arrays[name].shape[1:])}, and a value is patched into one of the same shape."
            )
            raise InvalidRequestError(text, field=where)


def _references(
    context: RequestContext, model: LoadedModel, request: AblateRequest, rows: Rows
) -> tuple[dict[str, Arrays], str, str]:
    """Return the rows that means and draws may come from, which are used where an intervention does not say.

    And the digest of the data set's files, if rows were read from them.
    """
    files_digest = ""
    found: dict[str, Arrays] = {"batch": rows.arrays}
    if model.background:
        found["background"] = model.background
    default = "background" if model.background else "batch"
    if request.dataset:
        default = "dataset"
        if any(each.kind in ("mean", "resample") and each.reference in ("", default) for each in request.interventions):
            found[default], files_digest = dataset_sample_and_digest(context, model, request.dataset, request.seed)
    for number, each in enumerate(request.interventions):
        if each.kind not in ("mean", "resample"):
            continue
        chosen, where = each.reference or default, f"interventions[{number}].reference"
        if chosen not in found:
            text = f"{where} is {chosen.upper()}, and there is none; use one of: {', '.join(found).upper()}."
            raise InvalidRequestError(text, field=where)
        if each.kind == "resample" or each.per_position:
            _require_like(found[chosen], rows.arrays, where, chosen)
        if each.kind == "resample" and chosen == "batch" and rows.count == 1:
            text = (
                f"{where} is BATCH, and inputs has one row: there is no other to draw from. Send more rows, or use a "
                "model with a background."
            )
            raise InvalidRequestError(text, field=where)
    return found, default, files_digest


def _require_like(reference: Arrays, rows: Arrays, field: str, chosen: str) -> None:
    """Refuse reference rows of other lengths than the request's: no value of theirs stands at the same position."""
    for name, array in reference.items():
        if array.shape[1:] != rows[name].shape[1:]:
            text = (
                f"{field} is {chosen.upper()}, whose rows of {name!r} have the shape {list(array.shape[1:])}; those of "
                f"inputs have {list(rows[name].shape[1:])}. Send such rows, use BATCH, or a MEAN over positions."
            )
            raise InvalidRequestError(text, field=field)


def _target(model: LoadedModel, request: AblateRequest, prediction: Arrays, row: int) -> Resolved:
    """Resolve a row's target as the metric reads it."""
    spec = request.target
    unfit = {"probability": "logits", "logit-difference": "probabilities"}.get(request.metric)
    if spec.space and (spec.space == unfit or request.metric == "kl-divergence"):
        metric = request.metric.upper().replace("-", "_")
        text = f"target.space is {spec.space.upper()}, and the metric {metric}; leave one out."
        raise InvalidRequestError(text, field="target.space")
    if request.metric == "probability":
        info = _info(model, spec)
        spec = replace(spec, space="probabilities" if info in _PROBABILITY_SPACES else spec.space)
        if info not in _PROBABILITY_SPACES:
            _refuse_metric(request, info)
    if request.metric == "logit-difference":
        info = _info(model, spec)
        if info not in ("logits", "sigmoid-logits"):
            _refuse_metric(request, info)
        if spec.contrast is None:
            spec = replace(spec, contrast=_runner_up(model, spec, prediction))
    if request.metric == "kl-divergence" and _info(model, spec) not in _PROBABILITY_SPACES:
        _refuse_metric(request, _info(model, spec))
    resolved = resolve(spec, model.outputs, prediction, field="target")
    require_finite(resolved.value, row)
    return resolved


def _info(model: LoadedModel, spec: TargetSpec) -> str:
    """Return the kind of the target's output."""
    return output_of(spec.output, model.outputs, "target").kind


def _refuse_metric(request: AblateRequest, kind: str) -> None:
    metric = request.metric.upper().replace("-", "_")
    text = f"metric is {metric}, and the output gives {kind or 'values'}; use the score."
    raise InvalidRequestError(text, field="metric")


def _runner_up(model: LoadedModel, spec: TargetSpec, prediction: Arrays) -> Outcome:
    """Return the highest element beside the target's outcome."""
    first = resolve(replace(spec, space=""), model.outputs, prediction, field="target")
    values = np.array(prediction[first.target.output], np.float64)
    if values.size < 2:
        text = "metric is LOGIT_DIFFERENCE, and the output has one number per row; use the score."
        raise InvalidRequestError(text, field="metric")
    values[first.index] = -np.inf
    return Outcome(index=tuple(int(part) for part in np.unravel_index(int(values.argmax()), values.shape)))


def _divergence(model: LoadedModel, request: AblateRequest, output: str) -> str:
    if request.metric != "kl-divergence":
        return ""
    return next(_PROBABILITY_SPACES[info.kind] for info in model.outputs if info.name == output)


def _rows_table(targets: list[Resolved]) -> Table:
    columns = {
        "row": Column(np.arange(len(targets))),
        "index": Column(tuple(str(list(each.index)) for each in targets), text="Index of the target's element."),
        "label": Column(tuple(each.label for each in targets), text="Its label; empty if it has none."),
        "score": Column(np.array([each.value for each in targets]), text="The target's score by the prediction."),
    }
    return Table(columns, "What was measured of each row.")
