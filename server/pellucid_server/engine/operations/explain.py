"""One row explained by one method: from the caller's words to a question, and from the answer to a result."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine import registry
from pellucid_server.engine.hub import MOST_HANDS
from pellucid_server.engine.models.lengths import UnfitLengthsError
from pellucid_server.engine.models.loaded import LoadedModel
from pellucid_server.engine.operations.rows import Rows, digest, prepare
from pellucid_server.engine.operations.session import Session
from pellucid_server.engine.operations.targets import Resolved, resolve
from pellucid_server.engine.question import Arrays, Attribution, Question, Target
from pellucid_server.engine.registry import Background, Cost, Method
from pellucid_server.errors import InvalidRequestError, TimedOutError, UnsupportedError
from pellucid_server.jobs import (
    Accuracy,
    AttributionResult,
    ExplanationSpec,
    InputAttribution,
    Receipt,
    ReplyFormat,
)

_SIGMA = 10.0
_CAUTION = 0.8
"""Part of the least time that is taken for certain: the pace is a measurement."""
_NOTHING = Cost()
_ANY_TARGET = Target("", ())
_INPUTS = "inputs"
_HALF_LIMIT = float(np.finfo(np.float16).max)

_Baselines = tuple[str, Arrays]
"""A baseline's kind and its rows, (baselines, *features) each."""


@dataclass(frozen=True, slots=True)
class Order:
    """A checked explanation order: what does not depend on the row."""

    spec: ExplanationSpec
    method: Method
    params: Any
    given: Arrays | None
    """The caller's own baseline, (1, *features) each, preprocessed."""
    field: str
    made: dict[int, _Baselines] = dataclasses.field(default_factory=dict)
    """Baselines that were made to know what a row costs, by its number; they leave when it is explained."""


def read_order(session: Session, model: LoadedModel, spec: ExplanationSpec, *, field: str) -> Order:
    """Check all of `spec` that does not depend on a row.

    Raises
    ------
    InvalidRequestError, NotFoundError
        The method, a parameter, the baseline or the tolerance is wrong.
    UnsupportedError
        The model does not allow the method.
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
    return Order(spec, method, params, _given(session, model, method, spec, field), field)


def require_time(session: Session, model: LoadedModel, order: Order, rows: Rows, *, others: Cost = _NOTHING) -> None:
    """Refuse the explanation of all rows if even the least of it cannot be ready before the deadline.

    It is judged by the rows that the method must evaluate, the fastest pace of late, and nothing else being about.
    Where rows have open lengths the pace of some says nothing of others, and nothing is refused.
    `others` are rows of the job beside the explanation's.

    Raises
    ------
    TimedOutError
        The least that it takes is more than what is left. A parameter may also be refused: as by the method itself.
    """
    handle = session.handle(model)
    left = handle.seconds_left()
    if math.isinf(left) or model.open_lengths or not handle.least_seconds(forward=1, backward=1):
        return
    costs = [_least_cost(model, order, rows, number) for number in range(rows.count)]
    forward = others.forward + sum(cost.forward for cost in costs)
    backward = others.backward + sum(cost.backward for cost in costs)
    needed = _CAUTION * handle.least_seconds(forward=forward, backward=backward)
    if needed > left:
        name = order.method.rows_parameter
        fewer = f", or ask for fewer `{name}`" if name else ", or send fewer rows"
        raise TimedOutError(
            f"{order.method.name} needs {backward} rows backward and {forward} forward, at least {needed:.3g} s at the "
            f"pace measured; the deadline leaves {left:.3g} s. Allow more time{fewer}.",
            stage="refused",
            needed_seconds=f"{needed:.3f}",
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
    session: Session, model: LoadedModel, order: Order, rows: Rows, number: int, outputs: Arrays, *, time_share: float
) -> AttributionResult:
    """Explain row `number`; `outputs` is the prediction of all rows, (rows, *shape) each.

    `time_share` is the part of the time left that may be used up; see `time_share`.
    """
    prediction = {name: values[number] for name, values in outputs.items()}
    resolved = resolve(order.spec.target, model.outputs, prediction, field=f"{order.field}.target")
    require_finite(resolved.value, number)
    row = rows.row(number)
    kind, baselines = order.made.pop(number) if number in order.made else _baselines(model, order, row)
    question = Question(
        inputs=row,
        baselines=baselines,
        target=resolved.target,
        features=model.features,
        seed=order.spec.seed,
        tolerance=order.spec.tolerance,
        time_share=time_share,
    )
    handle = session.handle(model)
    with _naming_fields(order.field, compared=bool(baselines)):
        answer = order.method.function(handle, question, order.params)
    receipt = Receipt(
        model=model.key,
        input_digest=digest(row),
        runtime=session.runtime(model, handle.tally),
        work=handle.tally.work(),
        method=order.method.name,
        parameters=_resolved_parameters(order.params, answer),
        target=resolved.spec,
        baseline=kind,
        baseline_digest=digest(baselines) if baselines else "",
        seed=order.spec.seed,
        tolerance=answer.tolerance or None,
    )
    return _result(model, order, rows, number, resolved, answer, receipt)


def time_share(position: int, count: int) -> float:
    """Return which part of the time left the explanation at `position` of a job's `count` may use up.

    Some run at once, and those that come after them need their time too.
    """
    return 1 / (math.ceil(count / MOST_HANDS) - position // MOST_HANDS)


def _least_cost(model: LoadedModel, order: Order, rows: Rows, number: int) -> Cost:
    """Return the evaluation rows without which there is no explanation of row `number`; keep its baseline."""
    row = rows.row(number)
    order.made[number] = made = _baselines(model, order, row)
    question = Question(row, made[1], _ANY_TARGET, model.features, order.spec.seed, order.spec.tolerance)
    with _naming_fields(order.field):
        return order.method.cost(order.params, question).lowest


@contextlib.contextmanager
def _naming_fields(field: str, *, compared: bool = False) -> Iterator[None]:
    """Put the path of the explanation, `field`, before the fields that a method's errors name: only here is it known.

    An error that names the inputs is the model's, of rows that it did not take. If the method has `compared` the row
    with a baseline, it is that, which has the row's lengths: the model has predicted the row itself.
    """
    try:
        yield
    except UnfitLengthsError:
        raise
    except InvalidRequestError as error:
        named = error.metadata.get("field", "parameters")
        if named == _INPUTS and not compared:
            raise
        if named == _INPUTS:
            text = (
                f"A whole number in {field}.baseline, or on the way from it to the inputs, is beyond a table of the "
                "model; choose a baseline of numbers that the model knows."
            )
            raise InvalidRequestError(text, field=f"{field}.baseline") from error
        text = f"{field}.{error.message}" if error.message.startswith(named) else error.message
        raise InvalidRequestError(text, field=f"{field}.{named}") from error


def _given(session: Session, model: LoadedModel, method: Method, spec: ExplanationSpec, field: str) -> Arrays | None:
    """Check the baseline's kind against the method; preprocess the caller's own baseline."""
    kind, where = spec.baseline.kind, f"{field}.baseline"
    if method.baselines is Background.NONE and kind:
        raise InvalidRequestError(f"{method.name} compares with no baseline; leave {where} out.", field=where)
    if kind == "background" and method.baselines is not Background.MANY:
        where = f"{where}.kind"
        text = f"{method.name} compares with one baseline, not with a background; for its mean, set {where} to MEAN."
        raise InvalidRequestError(text, field=where)
    if kind != "given":
        return None
    prepared = prepare(session, model, spec.baseline.inputs, field=f"{where}.inputs")
    if prepared.count != 1:
        text = f"{where}.inputs has {prepared.count} rows; a baseline is one row."
        raise InvalidRequestError(text, field=f"{where}.inputs")
    return prepared.arrays


def _baselines(model: LoadedModel, order: Order, row: Arrays) -> _Baselines:
    """Make the baseline of a row."""
    if order.method.baselines is Background.NONE:
        return "", {}
    if order.given is not None:
        for name, rows in order.given.items():
            if rows.shape[1:] != row[name].shape:
                where = f'{order.field}.baseline.inputs["{name}"]'
                text = f"{where} has a row of shape {list(rows.shape[1:])}; the request's has {list(row[name].shape)}."
                raise InvalidRequestError(text, field=where)
        return "given", order.given
    spec = order.spec.baseline
    return model.baseline(spec.kind, row, sigma=spec.blur_sigma or _SIGMA, field=f"{order.field}.baseline")


def _resolved_parameters(params: Any, answer: Attribution) -> dict[str, Any]:
    """Return the parameters that the answer came from: the caller's, defaults, and what the method settled itself."""
    values = {entry.name: getattr(params, entry.name) for entry in dataclasses.fields(params)}
    return {name: value for name, value in values.items() if value is not None} | dict(answer.resolved)


def _result(
    model: LoadedModel,
    order: Order,
    rows: Rows,
    number: int,
    resolved: Resolved,
    answer: Attribution,
    receipt: Receipt,
) -> AttributionResult:
    value = resolved.value if answer.instance_value is None else answer.instance_value
    return AttributionResult(
        inputs={
            name: _input_attribution(model, name, scores, answer.groups, rows, number, order.spec.format)
            for name, scores in answer.scores.items()
        },
        output=resolved.target.output,
        output_index=resolved.index,
        label=resolved.label,
        instance_output_value=value,
        baseline_output_value=answer.baseline_value,
        approximation_error=_relative_gap(answer, value),
        accuracy=Accuracy(
            signed_gap=answer.signed_gap,
            absolute_gap=answer.absolute_gap,
            tolerance=answer.tolerance,
            tolerance_met=answer.tolerance_met,
            standard_error=_standard_error(answer),
            warnings=answer.warnings,
            partial=answer.partial,
        ),
        group_scores=answer.group_scores,
        group_standard_errors=answer.group_standard_errors,
        receipt=receipt,
    )


def _relative_gap(answer: Attribution, value: float) -> float | None:
    if answer.signed_gap is None or answer.baseline_value is None or value == answer.baseline_value:
        return None
    return abs(answer.signed_gap) / abs(value - answer.baseline_value)


def _standard_error(answer: Attribution) -> float | None:
    errors = answer.group_standard_errors
    return answer.standard_error if errors is None or errors.size == 0 else float(errors.max())


def _input_attribution(
    model: LoadedModel,
    name: str,
    scores: npt.NDArray[np.generic],
    groups: Mapping[str, npt.NDArray[np.int32]],
    rows: Rows,
    number: int,
    form: ReplyFormat,
) -> InputAttribution:
    """Put one input's scores into the caller's terms: columns of a table, the box of a picture."""
    feature, found = model.features[name], groups.get(name)
    if feature.modality == "tabular" and feature.groups is not None:
        columns, by_column = _by_column(feature.groups.reshape(-1), scores, found)
        return InputAttribution(_typed(columns, form), model.inputs[name].columns, None, by_column)
    if feature.modality == "image":
        if form.sum_channels:
            scores = scores.astype(np.float64).sum(axis=0)
        plane = None if found is None else np.ascontiguousarray(found.reshape(-1, *found.shape[-2:])[0])
        return InputAttribution(_typed(scores, form), (), rows.boxes[name][number], plane)
    shape = scores.shape
    spread = None if found is None else np.ascontiguousarray(np.broadcast_to(found, shape))
    return InputAttribution(_typed(scores, form), (), None, spread)


def _by_column(
    columns: npt.NDArray[np.int32], scores: npt.NDArray[np.generic], groups: npt.NDArray[np.int32] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32] | None]:
    """Add elements' scores up by their column, and pick the column's group, which all its elements share."""
    summed = np.bincount(columns, scores.reshape(-1).astype(np.float64)).astype(np.float64, copy=False)
    if groups is None:
        return summed, None
    _, first = np.unique(columns, return_index=True)
    return summed, np.broadcast_to(groups, scores.shape).reshape(-1)[first]


def _typed(scores: npt.NDArray[np.generic], form: ReplyFormat) -> npt.NDArray[np.generic]:
    if form.data_type == "float16":
        return np.asarray(np.clip(scores, -_HALF_LIMIT, _HALF_LIMIT), np.float16)
    return scores.astype(np.float32)
