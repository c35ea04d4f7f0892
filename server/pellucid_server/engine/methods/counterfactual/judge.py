"""Says of rows how far they are from what is wanted, within a budget of rows and of time."""

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion, Goal
from pellucid_server.engine.asking.handle import Answer, Handle
from pellucid_server.engine.asking.question import Arrays, Target
from pellucid_server.engine.asking.recipe import Ask, Recipe
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.evaluations.score import Score

Floats = npt.NDArray[np.float64]

SLACK = 1e-5
"""By which share of the largest value a row must be beyond what is wanted: batches of other sizes round otherwise."""

_UNKNOWN_PACE_ROWS = 64
"""Rows that are asked for at first where there is a deadline and no pace is known."""
_RESERVE_SECONDS, _RESERVED, _MOST_RESERVED = 0.05, 0.1, 0.3
"""Time that is kept for the answer itself: so much, and a share of the time left; and the largest share."""
_CAUTION = 2.0
_REMEMBERED = 4
"""How many of the latest evaluations say how long the next one takes."""


class Judge:
    """Evaluates candidates of one question, and counts.

    Parameters
    ----------
    evaluations
        The budget.
    shares
        The shares of the request that are done before this question and after it.

    Attributes
    ----------
    spent
        Rows evaluated so far.
    late
        Whether time, and not the budget of rows, ended something.
    cut
        Whether the budget of rows ended something since the last limit was set.
    """

    def __init__(
        self,
        handle: Handle,
        question: CounterfactualQuestion,
        evaluations: int,
        *,
        shares: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._shares, self._ending = shares, False
        self._handle = handle
        self._question = question
        self._evaluations = evaluations
        self._limit = evaluations
        self._began = handle.seconds_left()
        self._ended = self._began
        reserved = min(_RESERVE_SECONDS + _RESERVED * self._began, _MOST_RESERVED * self._began)
        self._seconds = question.time_share * (self._began - reserved)
        self._until = self._seconds
        self._latest: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._slope_seconds = 0.0
        self.spent = 0
        self.late = self.cut = False

    def phase(self, share: float, slow: float = 0.0) -> None:
        """Let what comes use the budget and the time up to a share in (0, 1] of each; of the time at least `slow`."""
        self._limit = math.ceil(share * self._evaluations)
        self._until = max(share, slow) * self._seconds
        self.cut = False

    def section(self, share: float) -> None:
        """Let what comes use a share in (0, 1] of the budget and the time that are left."""
        self._limit = self.spent + math.ceil(share * (self._evaluations - self.spent))
        used = self._used()
        self._until = used + share * (self._seconds - used)
        self.cut = False

    def left(self) -> int:
        """Return how many rows of the whole budget are left."""
        return max(0, self._evaluations - self.spent)

    def gone(self) -> float:
        """Return the share of the budget or of the time, whichever is larger, that is used."""
        rows = self.spent / self._evaluations
        return rows if math.isinf(self._began) else max(rows, self._used() / max(self._seconds, 1e-9))

    def affordable(self, count: int) -> int:
        """Return how many of `count` rows may be evaluated now."""
        rows, in_time = self._rows(count)
        self.late |= in_time < rows
        return min(rows, in_time)

    def piece(self, count: int) -> int:
        """Return how many of `count` rows to evaluate now; the others may follow when those have shown the pace."""
        rows, in_time = self._rows(count)
        self.late |= rows > 0 and not in_time
        return min(rows, in_time)

    def steep(self) -> bool:
        """Tell whether a gradient, and what is looked at along it, may be asked for now."""
        if self.affordable(3) < 3:
            return False
        if math.isinf(self._began):
            return True
        fits = _CAUTION * self._slope_seconds <= self._until - self._used()
        self.late |= not fits
        return fits

    def _rows(self, count: int) -> tuple[int, int]:
        """Return how many of `count` rows the budget allows, and how many of those the time."""
        rows = max(0, min(count, self._limit - self.spent))
        self.cut |= rows < count
        if math.isinf(self._began) or not rows:
            return rows, rows
        left = self._until - self._used()
        if left <= 0:
            return rows, 0
        if not self._latest:
            pace = self._handle.likely_seconds({"forward": 1})
            known = 0 < pace < math.inf
            return rows, min(rows, int(left / (_CAUTION * pace)) if known else _UNKNOWN_PACE_ROWS)
        # Each evaluation costs something by itself: many rows never take longer for each than few.
        pace = min(seconds / many for many, seconds in self._latest)
        return rows, min(rows, int(left / (_CAUTION * pace))) if pace else rows

    def _used(self) -> float:
        return 0.0 if math.isinf(self._began) else self._began - self._handle.seconds_left()

    def margins(self, rows: Recipe) -> Floats:
        """Return how far each row is beyond what is wanted, (rows,): at least 0 where it is valid, -inf for NaN."""
        question, goal = self._question, self._question.goal
        if goal.bounded:
            scores = self._ask(Score(rows, question.target), rows.count).scores
            return _within(scores, goal.minimum, goal.maximum)
        outputs = self.outputs(rows)
        return _ahead(outputs, goal.outcome, goal.other_than)

    def outputs(self, rows: Recipe) -> Floats:
        """Return the target's output, (rows, elements)."""
        found: npt.NDArray[Any] = self._ask(Forward(rows), rows.count).arrays[self._question.target.output]
        return found.reshape(len(found), -1).astype(np.float64)

    def scores(self, rows: Recipe) -> Floats:
        """Return the target's scores, (rows,)."""
        return self._ask(Score(rows, self._question.target), rows.count).scores

    def slopes(self, rows: Arrays, rival: int | None = None) -> tuple[float, Arrays]:
        """Return how far one row, (1, *features) each, is from what is wanted, below 0, and the gradient of that.

        `rival` is the element that the row is held against; None for the one that stands in the way most, or that is
        nearest. It costs two rows at most.
        """
        question, goal = self._question, self._question.goal
        recipe = Rows(rows)
        if goal.bounded:
            target, offset, sign = self._bound(recipe)
        else:
            target, offset, sign = self._duel(self.outputs(recipe)[0], rival, question.target.output), 0.0, 1.0
        before = self._handle.seconds_left()
        answer = self._ask(Gradient(recipe, target), 1, remembered=False)
        if not math.isinf(before):
            self._slope_seconds = max(before - self._handle.seconds_left(), 0.5 * self._slope_seconds)
        gradients = {name: sign * np.asarray(each[0], np.float64) for name, each in answer.values.items()}
        return sign * float(answer.scores[0]) + offset, gradients

    def _bound(self, recipe: Recipe) -> tuple[Target, float, float]:
        goal = self._question.goal
        if goal.maximum is None:
            return self._question.target, -float(goal.minimum or 0.0), 1.0
        if goal.minimum is None:
            return self._question.target, goal.maximum, -1.0
        score = float(self.scores(recipe)[0])
        below = score < (goal.minimum + goal.maximum) / 2
        return (self._question.target, -goal.minimum, 1.0) if below else (self._question.target, goal.maximum, -1.0)

    def _duel(self, output: Floats, rival: int | None, name: str) -> Target:
        """Return the difference of the two elements that matter: the one that shall be higher, and the other."""
        goal = self._question.goal
        held = goal.outcome if goal.outcome is not None else goal.other_than
        others = output.copy()
        others[held] = -np.inf
        against = int(np.nanargmax(others)) if rival is None else rival
        pair = (held, against) if goal.outcome is not None else (against, held)
        return Target(name, ((int(pair[0] or 0), 1.0), (int(pair[1] or 0), -1.0)), "")

    def last(self) -> None:
        """Say that the next evaluation is the last: with it, the question's whole share is done."""
        self._ending = True

    def _done(self) -> float:
        begin, end = self._shares
        return end if self._ending else begin + (end - begin) * min(1.0, self.spent / self._evaluations)

    def _ask(self, ask: Ask, rows: int, *, remembered: bool = True) -> Answer:
        # What was thought about before it is part of an evaluation's time.
        before = self._ended
        begin = self._done()
        self.spent += rows
        answer = self._handle.ask(ask, progress=(begin, self._done()))
        if not math.isinf(before):
            self._ended = self._handle.seconds_left()
            if remembered:
                self._latest.append((rows, before - self._ended))
        return answer


def lead(goal: Goal, outputs: Floats, scores: Floats) -> Floats:
    """Return by how much rows are beyond what is wanted, (rows,), below 0 where they are not; -inf for NaN.

    It is in units of the scores where bounds are wanted, else of the outputs, (rows, elements).
    """
    if goal.bounded:
        return _within(scores, goal.minimum, goal.maximum, 0.0)
    return _ahead(outputs, goal.outcome, goal.other_than, 0.0)


def _within(scores: Floats, minimum: float | None, maximum: float | None, share: float = SLACK) -> Floats:
    """Return how far scores are inside their bounds, less the slack."""
    beyond = np.full(len(scores), np.inf)
    size = np.abs(np.where(np.isfinite(scores), scores, 0.0))
    for bound, sign in ((minimum, 1.0), (maximum, -1.0)):
        if bound is not None:
            slack = share * np.maximum(size, abs(bound))
            beyond = np.minimum(beyond, sign * (scores - bound) - slack)
    if minimum is not None and maximum is not None:
        # Bounds that are close to one another leave no room for a slack.
        narrow = maximum - minimum <= 4 * share * max(abs(minimum), abs(maximum))
        if narrow:
            beyond = np.minimum(scores - minimum, maximum - scores)
    return np.where(np.isfinite(scores), beyond, -np.inf)


def _ahead(outputs: Floats, outcome: int | None, other_than: int | None, share: float = SLACK) -> Floats:
    """Return by how much an element is ahead of all others, or behind the highest of them, less the slack."""
    held = outcome if outcome is not None else other_than
    if outputs.shape[1] < 2 or held is None:
        return np.full(len(outputs), -np.inf)
    finite = np.isfinite(outputs).all(axis=1)
    with np.errstate(invalid="ignore"):
        mine = outputs[:, held]
        others = np.delete(outputs, held, axis=1).max(axis=1)
        ahead = mine - others if outcome is not None else others - mine
        found = ahead - share * np.maximum(np.abs(mine), np.abs(others))
    return np.where(finite, found, -np.inf)


def satisfied(question: CounterfactualQuestion, output: Floats, score: float) -> bool:
    """Tell whether a row says what is wanted as it is; `output` is its prediction, (elements,)."""
    goal = question.goal
    if goal.bounded:
        above = goal.minimum is None or score >= goal.minimum
        return above and (goal.maximum is None or score <= goal.maximum)
    if np.isnan(output).any():
        return False
    highest = int(output.argmax())
    return highest == goal.outcome if goal.outcome is not None else highest != goal.other_than
