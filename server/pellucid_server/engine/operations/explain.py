"""One row explained by one method: from the caller's words to a question, and from the answer to a result."""

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.question import Arrays, Attribution, Question, Target
from pellucid_server.engine.asking.registry import Cost, Method
from pellucid_server.engine.evaluations.recipes import Rows as RowsAsTheyAre
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.models.graph.lengths import UnfitLengthsError
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.comparisons import (
    Baselines,
    blur_sigma,
    comparison_warnings,
    make_baseline,
    read_baseline,
)
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.presentation import present
from pellucid_server.engine.operations.receipts import settled_parameters
from pellucid_server.engine.operations.rows import Rows, digest
from pellucid_server.engine.operations.targets import Resolved, resolve
from pellucid_server.engine.operations.watched import (
    EvaluationError,
    WatchedHandle,
    nonfinite_warnings,
    require_finite_answer,
)
from pellucid_server.engine.tasks.hub import MOST_HANDS
from pellucid_server.errors import InvalidRequestError, TimedOutError, UnsupportedError
from pellucid_server.vocabulary.requests import ExplanationSpec
from pellucid_server.vocabulary.results import Accuracy, AttributionResult, Receipt
from pellucid_server.vocabulary.spans import METHOD

_CAUTION = 0.8
"""Part of the least time that is taken for certain: the pace is a measurement."""
_TARGET_EFFORT, _PRESENTING_EFFORT, _BLURRING_EFFORT = 4, 4, 16
"""How many times as long as hashing they take for each byte: softmax, narrowing to float16, blurring a picture."""

_NOTHING = Cost()
_ANY_TARGET = Target("", ())


@dataclass(frozen=True, slots=True)
class PreparedExplanation:
    """An explanation that was asked for, checked: what does not depend on the row."""

    spec: ExplanationSpec
    method: Method
    params: Any
    given: Arrays | None
    """The caller's own baseline, (baselines, *features) each, preprocessed."""
    field: str
    made: dict[int, Baselines] = dataclasses.field(default_factory=dict)
    """Baselines that were made to know what a row costs, by its number; they leave when it is explained."""


def prepare_explanation(
    context: RequestContext, model: LoadedModel, spec: ExplanationSpec, *, field: str
) -> PreparedExplanation:
    """Check all of `spec` that does not depend on a row.

    Raises
    ------
    InvalidRequestError, NotFoundError
        The method, a parameter, the baseline or the tolerance is wrong.
    UnsupportedError
        The model does not allow the method, or has no default baseline for it.
    """
    method = registry.lookup(spec.method, field=f"{field}.method")
    reason = model.refusal(method)
    if reason:
        text = f"{model.key.name} does not allow {method.name}: {reason}"
        raise UnsupportedError(text, subject=f"models/{model.key.name}/{model.key.version}")
    with _naming_fields(field):
        params = method.resolve(spec.parameters)
    if spec.tolerance is not None and not method.takes_tolerance:
        where = f"{field}.tolerance"
        raise InvalidRequestError(f"{method.name} takes no tolerance; leave {where} out.", field=where)
    return PreparedExplanation(spec, method, params, read_baseline(context, model, method, spec, field), field)


def require_time(
    context: RequestContext, model: LoadedModel, prepared: PreparedExplanation, rows: Rows, *, others: Cost = _NOTHING
) -> None:
    """Refuse the explanation of all rows if even the least of it cannot be ready before the deadline.

    It is judged by the rows that the method must evaluate, the fastest recent pace, and nothing else being about.
    Where rows have open lengths the pace of some says nothing of others, and nothing is refused.
    `others` are rows of the request beside the explanation's.

    Raises
    ------
    TimedOutError
        The least that it takes is more than what is left. A parameter may also be refused: as by the method itself.
    """
    handle = context.handle(model)
    left = handle.seconds_left()
    if math.isinf(left) or model.open_lengths or not handle.least_seconds({"forward": 1, "gradient": 1}):
        return
    costs = [_least_cost(context, model, prepared, rows, number).by_kind for number in range(rows.count)]
    kinds = sum((Counter(cost) for cost in costs), Counter(others.by_kind))
    needed = _CAUTION * handle.least_seconds(kinds)
    if needed > left:
        name = prepared.method.rows_parameter
        fewer = f", or ask for fewer `{name}`" if name else ", or send fewer rows"
        raise TimedOutError(
            f"{prepared.method.name} needs {_rows_text(kinds)}, at least {needed:.3g} s "
            f"at the pace measured; the deadline leaves {left:.3g} s. Allow more time{fewer}.",
            stage="refused",
            needed_seconds=f"{needed:.3f}",
        )


def _rows_text(kinds: Mapping[str, int]) -> str:
    words = {"gradient": "backward"}
    return " and ".join(
        f"{count} {'rows ' * (not place)}{words.get(kind, kind)}"
        for place, (kind, count) in enumerate(sorted(kinds.items(), reverse=True))
        if count
    )


def require_finite(score: float, number: int) -> None:
    """Refuse to explain a score that is no number: what enormous inputs end in.

    Raises
    ------
    InvalidRequestError
        The score of row `number` is infinite or NaN.
    """
    if not math.isfinite(score):
        text = f"The score of row {number} of inputs is {score}; send rows for which the model's outputs are finite."
        raise InvalidRequestError(text, field="inputs")


def explain_row(
    context: RequestContext,
    model: LoadedModel,
    prepared: PreparedExplanation,
    rows: Rows,
    number: int,
    outputs: Arrays,
    *,
    time_share: float,
) -> AttributionResult:
    """Explain row `number`; `outputs` is the prediction of all rows, (rows, *shape) each.

    `time_share` is the part of the time left that may be used up; see `time_share`.
    """
    name = prepared.method.name
    with context.named(name), context.timed(f"explain {name}", **{METHOD: name}) as inner:
        return _explained(inner, model, prepared, rows, number, outputs, time_share=time_share)


def _explained(
    context: RequestContext,
    model: LoadedModel,
    prepared: PreparedExplanation,
    rows: Rows,
    number: int,
    outputs: Arrays,
    *,
    time_share: float,
) -> AttributionResult:
    prediction = {name: values[number] for name, values in outputs.items()}
    resolved = context.heavy(
        lambda: resolve(prepared.spec.target, model.outputs, prediction, field=f"{prepared.field}.target"),
        prediction,
        effort=_TARGET_EFFORT,
    )
    require_finite(resolved.value, number)
    row = rows.row(number)
    kind, baselines = prepared.made.pop(number) if number in prepared.made else _compared(context, model, prepared, row)
    question = Question(
        inputs=row,
        baselines=baselines,
        target=resolved.target,
        features=model.features,
        seed=prepared.spec.seed,
        tolerance=prepared.spec.tolerance,
        time_share=time_share,
    )
    handle, name = context.handle(model, exact=prepared.spec.exact), prepared.method.name
    watched = WatchedHandle(handle, question, method=name, field=prepared.field, number=number)
    # What overflows on the way is not finite in the end, and is refused there.
    with _naming_fields(prepared.field), np.errstate(all="ignore"):
        answer = prepared.method.function(watched, question, prepared.params)
        if model.solo and rows.count > 1:
            answer = _with_own_score(answer, watched, question)
    shown = context.heavy(lambda: nonfinite_warnings(prediction, number), prediction)
    warnings = comparison_warnings(model, prepared.method, kind) + shown
    if model.solo and rows.count > 1:
        warnings += (_dependence(model, answer, rows.count),)
    answer = dataclasses.replace(answer, warnings=answer.warnings + warnings)
    compared = bool(baselines)
    digests = context.heavy(lambda: (digest(row), digest(baselines) if compared else ""), row, baselines)
    receipt = Receipt(
        model=model.key,
        input_digest=digests[0],
        runtime=context.runtime(model, handle.tally),
        work=handle.tally.work(),
        method=name,
        parameters=settled_parameters(prepared.params, answer.resolved),
        target=resolved.spec,
        baseline=kind,
        baseline_digest=digests[1],
        blur_sigma=blur_sigma(prepared.spec.baseline) if kind == "blur" else 0.0,
        seed=prepared.spec.seed,
        tolerance=answer.tolerance or None,
        exact=prepared.spec.exact,
    )

    def finished() -> AttributionResult:
        result = _result(model, prepared, rows, number, resolved, answer, receipt)
        require_finite_answer(result, method=name, field=prepared.field, compared=compared, problem=watched.problem)
        return result

    return context.heavy(finished, answer.scores, effort=_PRESENTING_EFFORT)


def _with_own_score(answer: Attribution, handle: WatchedHandle, question: Question) -> Attribution:
    """Return the answer with the score of the row by itself: the prediction's may be another."""
    if answer.instance_value is not None:
        return answer
    rows = RowsAsTheyAre({name: array[None] for name, array in question.inputs.items()})
    score = handle.ask(Score(rows, question.target)).scores
    return dataclasses.replace(answer, instance_value=float(score[0]))


def _dependence(model: LoadedModel, answer: Attribution, count: int) -> str:
    """Say which score was explained, of a model whose rows depend on one another."""
    return (
        f"The rows of {model.key.name} depend on one another, and the explained score, {answer.instance_value:.6g}, is "
        f"of this row by itself; Predict evaluates all {count} rows together, where the score may be another. Send the "
        "row alone to have the same score predicted and explained."
    )


def time_share(position: int, count: int) -> float:
    """Return which part of the time left the explanation at `position` of a request's `count` may use up.

    Some run at once, and those that come after them need their time too.
    """
    return 1 / (math.ceil(count / MOST_HANDS) - position // MOST_HANDS)


def _least_cost(
    context: RequestContext, model: LoadedModel, prepared: PreparedExplanation, rows: Rows, number: int
) -> Cost:
    """Return the evaluation rows without which there is no explanation of row `number`; keep its baseline."""
    row = rows.row(number)
    prepared.made[number] = made = _compared(context, model, prepared, row)
    question = Question(row, made[1], _ANY_TARGET, model.features, prepared.spec.seed, prepared.spec.tolerance)
    with _naming_fields(prepared.field):
        return prepared.method.cost(prepared.params, question).lowest


def _compared(context: RequestContext, model: LoadedModel, prepared: PreparedExplanation, row: Arrays) -> Baselines:
    spec = prepared.spec.baseline
    effort = _BLURRING_EFFORT if spec.kind == "blur" else 1
    return context.heavy(
        lambda: make_baseline(model, prepared.method, spec, prepared.given, row, prepared.field), row, effort=effort
    )


@contextlib.contextmanager
def _naming_fields(field: str) -> Iterator[None]:
    """Put the path of the explanation, `field`, before the fields that a method's errors name: it is known here."""
    try:
        yield
    except (UnfitLengthsError, EvaluationError):
        raise
    except InvalidRequestError as error:
        named = error.metadata.get("field", "parameters")
        text = f"{field}.{error.message}" if error.message.startswith(named) else error.message
        raise InvalidRequestError(text, field=f"{field}.{named}") from error


def _result(
    model: LoadedModel,
    prepared: PreparedExplanation,
    rows: Rows,
    number: int,
    resolved: Resolved,
    answer: Attribution,
    receipt: Receipt,
) -> AttributionResult:
    value = resolved.value if answer.instance_value is None else answer.instance_value
    return AttributionResult(
        inputs={
            name: present(
                model,
                name,
                scores,
                answer.groups,
                rows,
                number,
                prepared.spec.format,
                prepared.field,
                layer=answer.layer,
            )
            for name, scores in answer.scores.items()
        },
        output=resolved.target.output,
        output_index=resolved.index,
        label=resolved.label,
        instance_output_value=value,
        baseline_output_value=answer.baseline_value,
        approximation_error=_relative_gap(answer, value),
        accuracy=_accuracy(answer),
        group_scores=answer.group_scores,
        group_standard_errors=answer.group_standard_errors,
        receipt=receipt,
    )


def _accuracy(answer: Attribution) -> Accuracy:
    return Accuracy(
        signed_gap=answer.signed_gap,
        absolute_gap=answer.absolute_gap,
        tolerance=answer.tolerance or None,
        absolute_tolerance=answer.absolute_tolerance,
        tolerance_met=answer.tolerance_met if answer.tolerance else None,
        standard_error=_standard_error(answer),
        warnings=answer.warnings,
        partial=answer.partial,
    )


def _relative_gap(answer: Attribution, value: float) -> float | None:
    if answer.signed_gap is None or answer.baseline_value is None or value == answer.baseline_value:
        return None
    share = abs(answer.signed_gap) / abs(value - answer.baseline_value)
    # Beside a gap, a change can be so small that its share is beyond all numbers.
    return share if math.isfinite(share) else None


def _standard_error(answer: Attribution) -> float | None:
    errors = answer.group_standard_errors
    return answer.standard_error if errors is None or errors.size == 0 else float(errors.max())
