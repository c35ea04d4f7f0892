"""`Predict`: what the model says, with the explanations asked for beside it."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.evaluations.recipes import Rows as Recipe
from pellucid_server.engine.evaluations.targets import probabilities
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext, failure
from pellucid_server.engine.operations.explain import (
    PreparedExplanation,
    explain_row,
    prepare_explanation,
    require_time,
    time_share,
)
from pellucid_server.engine.operations.rows import Rows, digest, prepare
from pellucid_server.engine.operations.watched import nonfinite_warnings
from pellucid_server.errors import CancelledError, InvalidRequestError
from pellucid_server.vocabulary.descriptions import OutputInfo
from pellucid_server.vocabulary.requests import ExplanationSpec, PredictRequest
from pellucid_server.vocabulary.results import (
    AttributionResult,
    ClassScore,
    ExplanationOutcome,
    OutputResult,
    PredictResult,
    Receipt,
)

Made = TypeVar("Made")

_RESERVE_SECONDS = 0.2
_MOST_WARNINGS = 10
RANKING_EFFORT = 16
"""How many times as long as hashing an output takes ranking its classes: 1000 rows of 2 classes take 5 ms."""
_SPACES = {"logits": "softmax", "sigmoid-logits": "sigmoid", "probabilities": ""}


def predict(context: RequestContext, request: PredictRequest) -> PredictResult:
    """Run the model forward, then make the explanations, each of which may fail on its own.

    Raises
    ------
    PellucidError
        The prediction itself cannot be made.
    """
    model = context.models.find(request.model)
    infos = _wanted(model, request.outputs)
    rows = prepare(context, model, request.inputs)
    # The score that an explanation explains is the prediction's.
    exact = any(spec.exact for spec in request.explanations)
    handle = context.handle(model, prediction=True, exact=exact)
    outputs = outputs_of(handle, model, rows, exact=exact)
    input_digest = context.heavy(lambda: digest(rows.arrays), rows.arrays)
    receipt = Receipt(model.key, input_digest, context.runtime(model, handle.tally), handle.tally.work(), exact=exact)
    return PredictResult(
        outputs=context.heavy(
            lambda: {info.name: output_result(info, outputs[info.name], request.top_k) for info in infos},
            outputs,
            effort=RANKING_EFFORT,
        ),
        receipt=receipt,
        explanations=_explanations(context, model, request, rows, outputs) if request.explanations else (),
        warnings=context.heavy(lambda: _warnings(infos, outputs, rows.count), outputs),
    )


def outputs_of(handle: ModelHandle, model: LoadedModel, rows: Rows, *, exact: bool) -> Arrays:
    """Run the model forward on all rows: together, or if `exact` one by one, as each is when it is sent alone."""
    if not exact or model.solo:
        return handle.ask(Forward(Recipe(rows.arrays))).arrays
    found = [
        handle.ask(Forward(Recipe({name: array[number : number + 1] for name, array in rows.arrays.items()}))).arrays
        for number in range(rows.count)
    ]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _warnings(infos: tuple[OutputInfo, ...], outputs: Arrays, count: int) -> tuple[str, ...]:
    """Say which values of the prediction are no finite numbers, of the first rows that have some."""
    wanted = {info.name: outputs[info.name] for info in infos}
    if all(np.isfinite(values).all() for values in wanted.values() if values.dtype.kind == "f"):
        return ()
    found: tuple[str, ...] = ()
    for number in range(count):
        found += nonfinite_warnings({name: values[number] for name, values in wanted.items()}, number)
        if len(found) >= _MOST_WARNINGS:
            return (*found[:_MOST_WARNINGS], "Further rows may have values that are not finite.")
    return found


def output_result(info: OutputInfo, values: npt.NDArray[np.generic], top_k: int) -> OutputResult:
    """Name the highest classes of each row, where the output is one of classes; NaN has no rank and is left out."""
    if info.kind not in _SPACES or values.ndim > 2 or top_k == 0:
        return OutputResult(values)
    table = values.reshape(len(values), -1)
    with np.errstate(invalid="ignore", over="ignore"):
        shares = probabilities(table.astype(np.float64), _SPACES[info.kind])
    # A stable sort of the negated values puts the lower index first among equal ones, and NaN last.
    order = np.argsort(-table.astype(np.float64), axis=1, kind="stable")[:, :top_k]
    return OutputResult(
        values,
        tuple(
            tuple(
                ClassScore(index, info.labels[index] if info.labels else "", float(row[index]), _finite(share[index]))
                for index in chosen.tolist()
                if not np.isnan(row[index])
            )
            for row, share, chosen in zip(table, shares, order, strict=True)
        ),
    )


def _finite(share: float) -> float | None:
    return float(share) if math.isfinite(share) else None


def _wanted(model: LoadedModel, names: tuple[str, ...]) -> tuple[OutputInfo, ...]:
    known = {info.name: info for info in model.outputs}
    for number, name in enumerate(names):
        if name not in known:
            text = f"{model.key.name} has no output {name!r}; its outputs: {', '.join(known)}."
            raise InvalidRequestError(text, field=f"outputs[{number}]")
    return tuple(known[name] for name in names) if names else model.outputs


def _explanations(
    context: RequestContext, model: LoadedModel, request: PredictRequest, rows: Rows, outputs: Arrays
) -> tuple[ExplanationOutcome, ...]:
    """Make every explanation of every row, several at a time."""

    def read(numbered: tuple[int, ExplanationSpec]) -> PreparedExplanation:
        prepared = prepare_explanation(context, model, numbered[1], field=f"explanations[{numbered[0]}]")
        require_time(context, model, prepared, rows)
        return prepared

    # The prediction stands whether or not its explanations are ready in time, so they must end before it.
    context = replace(context, request=context.request.part(reserve_seconds=_RESERVE_SECONDS))
    explanations = [_attempt(context, partial(read, numbered)) for numbered in enumerate(request.explanations)]
    parts = [
        (prepared, number)
        for prepared in explanations
        if isinstance(prepared, PreparedExplanation)
        for number in range(rows.count)
    ]

    of_part = context.of_parts(len(parts))

    def explain(position: int) -> AttributionResult:
        prepared, number = parts[position]
        part, share = of_part(position), time_share(position, len(parts))
        result = explain_row(part, model, prepared, rows, number, outputs, time_share=share)
        part.on_progress(1.0)
        return result

    made = iter(
        context.services.hub.map(lambda position: _attempt(context, partial(explain, position)), range(len(parts)))
    )
    return tuple(
        prepared if isinstance(prepared, ExplanationOutcome) else _gathered([next(made) for _ in range(rows.count)])
        for prepared in explanations
    )


def _gathered(parts: list[AttributionResult | ExplanationOutcome]) -> ExplanationOutcome:
    failed = next((part for part in parts if isinstance(part, ExplanationOutcome)), None)
    if failed is not None:
        return failed
    return ExplanationOutcome(tuple(part for part in parts if isinstance(part, AttributionResult)))


def _attempt(context: RequestContext, make: Callable[[], Made]) -> Made | ExplanationOutcome:
    """Return what `make` makes, or the failure that the caller will read in its place."""
    try:
        return make()
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - a bug in one method must not take the prediction with it
        return ExplanationOutcome(failure=failure(context.request, error))
