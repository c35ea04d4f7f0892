"""A method's evaluations and its answer, watched: what is NaN or infinite is refused, with where it came up.

Evaluations are watched because only there is it known which row was at fault. The finished answer is checked as a
whole, so that no method can leave a number out.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Answer, Handle, Held
from pellucid_server.engine.asking.question import Arrays, Question, Scores
from pellucid_server.engine.asking.recipe import SCORES, Ask, NonFinite, Recipe
from pellucid_server.engine.evaluations.folds import Keep, ScoresOnly
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.models.graph.lengths import UnfitLengthsError, UnfitValuesError
from pellucid_server.engine.operations.targets import index_text
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.results import AttributionResult

_OTHER_BASELINE = "choose another baseline"
_OTHER_ROW = "send another row"
_SMALLER_STEPS = "ask for less noise, or send another row"


class EvaluationError(InvalidRequestError):
    """The model cannot evaluate a row that an explanation needs; the field is its path in the request."""


class NotFiniteError(EvaluationError):
    """A number that an explanation needs is NaN or infinite."""


class WatchedHandle:
    """A handle that watches out for scores and gradients that are not finite; implements `Handle`.

    A score that is asked for ends the explanation at once. Of an evaluation of gradients not all is of use to a
    method: what is not finite there is kept as `problem`, for the case that the answer is not finite either. Errors
    say which row they are of: the caller's own, a baseline's, or one that the method made of them.

    Parameters
    ----------
    handle
        What evaluates.
    question
        The row and the baselines that a method compares.
    method
        The method's name, for messages.
    field
        Path of the explanation in the request.
    number
        The row's number in the request.
    """

    def __init__(self, handle: Handle, question: Question, *, method: str, field: str, number: int) -> None:
        self._handle = handle
        self._question = question
        self._method = method
        self._field = field
        self._number = number
        self.problem: NotFiniteError | None = None
        """What is wrong with the first gradient that is not finite, or the score beside it."""

    def ask(self, ask: Ask, *, progress: tuple[float, float] | None = None) -> Answer:
        """Evaluate rows; scores that are asked for by themselves are all finite.

        Raises
        ------
        NotFiniteError
            Such a score is NaN or infinite.
        """
        rows = ask.rows
        with self._naming_rows(rows):
            answer = self._handle.ask(ask, progress=progress)
        if SCORES not in answer.arrays:
            return answer
        bad = ~np.isfinite(answer.scores)
        if set(answer.arrays) == {SCORES} and not isinstance(ask.fold, ScoresOnly):
            if bad.any():
                raise self._bad_scores(answer.scores, bad, rows)
        elif self.problem is None:
            self.problem = self._bad_scores(answer.scores, bad, rows) if bad.any() else self._problem(ask, answer)
        return answer

    def hold(self, rows: Recipe, layer: str) -> Held:
        """Run the part before `layer`, and keep what lies there."""
        with self._naming_rows(rows):
            return self._handle.hold(rows, layer)

    def hold_each(
        self, rows: Recipe, layers: Sequence[str], *, by_unit: frozenset[str] = frozenset()
    ) -> tuple[Held, ...]:
        """Run the part before all of `layers` once, and keep what lies before each."""
        with self._naming_rows(rows):
            return self._handle.hold_each(rows, layers, by_unit=by_unit)

    def by_unit(self, layer: str) -> bool:
        """Whether rows in which one unit of a layer is changed need less than the whole layer's values."""
        return self._handle.by_unit(layer)

    def affine(self, layer: str) -> frozenset[str]:
        """Return the outputs that are affine in a layer's value."""
        return self._handle.affine(layer)

    def release(self, held: Held) -> None:
        """Let go of what was held."""
        self._handle.release(held)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` in the helper process."""
        return self._handle.compute(function, *arguments)

    def seconds_left(self) -> float:
        """Return the time until the deadline."""
        return self._handle.seconds_left()

    def least_seconds(self, rows: Mapping[str, int]) -> float:
        """Return a lower bound of the device time for rows by kind."""
        return self._handle.least_seconds(rows)

    def likely_seconds(self, rows: Mapping[str, int]) -> float:
        """Return about how long rows by kind take the device."""
        return self._handle.likely_seconds(rows)

    @contextlib.contextmanager
    def _naming_rows(self, rows: Recipe) -> Iterator[None]:
        """Say of an error in the inputs, such as a whole number beyond a table of the model, whose it is."""
        try:
            yield
        except UnfitLengthsError:
            raise
        except InvalidRequestError as error:
            if error.metadata.get("field") != "inputs":
                raise
            raise self._refused(rows, error) from error

    def _refused(self, rows: Recipe, error: InvalidRequestError) -> EvaluationError:
        if isinstance(rows, Rows) and all(
            name in self._question.inputs and (array == self._question.inputs[name]).all()
            for name, array in rows.arrays.items()
        ):
            return EvaluationError(error.message, field="inputs")
        values = error.harm if isinstance(error, UnfitValuesError) else ""
        if self._question.baselines:
            # It has the row's lengths, and the row itself has been predicted.
            field = f"{self._field}.baseline"
            if values:
                text = (
                    f"The model cannot be run on {field}, or on the way from it to the inputs: {values} Choose another."
                )
            else:
                text = (
                    f"A whole number in {field}, or on the way from it to the inputs, is beyond a table of the model; "
                    "choose a baseline of numbers that the model knows."
                )
            return EvaluationError(text, field=field)
        changes = f"{self._method} changes the inputs a little, and"
        if values:
            text = f"{changes} the model cannot be run on what they then are: {values} Use another method."
        else:
            text = (
                f"{changes} a whole number among them is then beyond a table of the model; declare the categories of "
                "its columns in model.toml, or use another method."
            )
        return EvaluationError(text, field=f"{self._field}.method")

    def _problem(self, ask: Ask, answer: Answer) -> NotFiniteError | None:
        """Say what is wrong with gradients: where the fold saw it, or in one of those that were kept."""
        found = answer.nonfinite
        if found is not None:
            return self._bad_gradient(found, ask.rows)
        if not isinstance(ask.fold, Keep):
            return None
        for name, values in answer.values.items():
            bad = ~np.isfinite(values)
            if bad.any():
                first = int(bad.any(axis=tuple(range(1, bad.ndim))).argmax())
                return self._bad_gradient(NonFinite(first, name, values[first]), ask.rows)
        return None

    def _bad_scores(self, scores: Scores, bad: npt.NDArray[np.bool_], rows: Recipe) -> NotFiniteError:
        first = int(bad.argmax())
        where, field, help_text = self._place(rows, first)
        return NotFiniteError(
            f"{self._method} found the score {scores[first]} {where}, and no finite score for {int(bad.sum())} of "
            f"the {len(bad)} rows evaluated together; {help_text}.",
            field=field,
        )

    def _bad_gradient(self, found: NonFinite, rows: Recipe) -> NotFiniteError:
        name, values, bad = found.name, np.asarray(found.values), ~np.isfinite(found.values)
        where, field, help_text = self._place(rows, found.row)
        place = np.unravel_index(int(bad.reshape(-1).argmax()), bad.shape)
        named = f"input {name!r}" if name in self._question.inputs else f"layer {name!r}"
        index = _element(self._question, name, index_text(bad, bad.shape), place)
        return NotFiniteError(
            f"The gradient of the score {where} is not finite for {int(bad.sum())} of the {bad.size} "
            f"elements of {named}, first {values[place]} at {index}; {help_text}, or use a method that needs "
            "no gradient.",
            field=field,
        )

    def _place(self, rows: Recipe, number: int) -> tuple[str, str, str]:
        """Say where row `number` of an evaluation lies, the field at fault, and what would help."""
        row = rows.row(number)
        baseline = f"{self._field}.baseline"
        if _same(row, self._question.inputs):
            return f"at row {self._number} of inputs", "inputs", _OTHER_ROW
        if not self._question.baselines:
            return f"near row {self._number} of inputs", "inputs", _SMALLER_STEPS
        for index in range(len(next(iter(self._question.baselines.values())))):
            if _same(row, {name: each[index] for name, each in self._question.baselines.items()}):
                which = f"at row {index} of the baseline"
                return which, baseline, _OTHER_BASELINE
        where = f"between the baseline and row {self._number} of inputs"
        return where, baseline, _OTHER_BASELINE


def require_finite_answer(
    result: AttributionResult, *, method: str, field: str, compared: bool, problem: NotFiniteError | None = None
) -> None:
    """Refuse an answer in which any number is NaN or infinite, of whatever method it is.

    Parameters
    ----------
    compared
        Whether the method compared the row with a baseline.
    problem
        What its evaluations had already shown.

    Raises
    ------
    NotFiniteError
        It is the problem that is known, or else names the number's place in the answer.
    """
    found = _first_not_finite(result)
    if found is None:
        return
    if problem is not None:
        raise problem
    path, values = found
    bad = ~np.isfinite(values)
    many = f" in {int(bad.sum())} of {bad.size} places, first at {index_text(bad, bad.shape)}" * (bad.ndim > 0)
    remedy = f"{_OTHER_BASELINE}, or {_OTHER_ROW}" if compared else _OTHER_ROW
    raise NotFiniteError(
        f"{method} found no finite number for {path.removeprefix('.')}{many}, as the numbers on the way were too large "
        f"to be added or multiplied; {remedy}.",
        field=field,
    )


def nonfinite_warnings(outputs: Arrays, number: int) -> tuple[str, ...]:
    """Say which outputs of row `number` of a prediction have values that are NaN or infinite.

    `outputs` are of one row, (*shape) each.
    """
    found = []
    for name, values in outputs.items():
        bad = ~np.isfinite(np.asarray(values)) if values.dtype.kind == "f" else np.zeros(1, np.bool_)
        if bad.any() and not values.shape:
            found.append(f"Output {name!r} of row {number} is {values}, which is not a finite number.")
        elif bad.any():
            first = np.asarray(values).reshape(-1)[int(bad.reshape(-1).argmax())]
            found.append(
                f"Output {name!r} of row {number} is not finite for {int(bad.sum())} of its {bad.size} values, first "
                f"{first} at index {index_text(bad, bad.shape)}."
            )
    return tuple(found)


def _first_not_finite(value: Any) -> tuple[str, npt.NDArray[np.generic]] | None:
    """Return the first numbers that are not all finite in a value of dataclasses, mappings, tuples and arrays.

    Their path comes with them, as in Python. Nothing is made of what is finite: every answer is looked through.
    """
    kind = type(value)
    if kind in _NO_NUMBERS:
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else ("", np.asarray(value))
    if isinstance(value, np.ndarray | np.generic):
        return None if value.dtype.kind != "f" or np.isfinite(value).all() else ("", np.asarray(value))
    for name in _field_names(kind):  # type: ignore[arg-type]  # a class is hashable
        found = _first_not_finite(getattr(value, name))
        if found is not None:
            return f".{name}{found[0]}", found[1]
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple | list):
        parts = enumerate(value)
    for key, part in parts:
        found = _first_not_finite(part)
        if found is not None:
            return f"[{key!r}]{found[0]}", found[1]
    return None


_NO_NUMBERS = frozenset({str, int, bool, bytes, type(None)})


@functools.cache
def _field_names(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields; none of another class."""
    return tuple(entry.name for entry in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def _element(question: Question, name: str, text: str, place: tuple[Any, ...]) -> str:
    """Name an element: by its column in a table, else by its index."""
    feature = question.features.get(name)
    if feature is None or feature.groups is None or not feature.columns:
        return f"index {text}"
    return f"column {feature.columns[int(feature.groups[place])]!r}"


def _same(row: Arrays, other: Arrays) -> bool:
    return row.keys() <= other.keys() and all(np.array_equal(values, other[name]) for name, values in row.items())
