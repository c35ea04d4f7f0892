"""Stopping in time: for how many more rows there is time, so that an answer with fewer still arrives.

A method that can answer with less than was asked for works in rounds. Before each it asks the pace how much to take
on; the answer is 0 once only the reserve is left, which is kept for what follows the rows: the end of a chunk that
other requests share, the method's own last steps and the reply.
"""

import math

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.errors import TimedOutError

_RESERVE_SECONDS = 0.1
_MOST_RESERVE_SECONDS = 2.0
_RESERVE_SHARE = 0.1
"""The reserve is this share of what was left at the start, within those bounds."""

_MOST_SHARE = 0.5
"""No more than this share of the time is kept: of a tenth of a second a fast method needs little."""

_SURE_FACTOR = 100.0
"""All units are taken on at once if there is time for this many times what they are likely to take."""


_CAUTION = 0.8
"""Part of the least time that is taken for certain: the pace is a measurement."""

_LIKELY_PART = 0.5
"""Part of the likely time that is taken for certain, where no least time is known or it is less."""


def require_time(model: Handle, *, forward: int, what: str, advice: str) -> None:
    """Refuse at once what cannot be ready before the deadline.

    For what only the method itself finds out, such as how many regions a picture has; what is known from the
    parameters is refused before the method begins.

    Parameters
    ----------
    forward
        Rows forward without which there is no answer.
    what, advice
        What needs them, and what to ask for beside more time, for the message.

    Raises
    ------
    TimedOutError
        They take longer than what is left.
    """
    left = model.seconds_left()
    if math.isinf(left):
        return
    likely = model.likely_seconds({"forward": forward})
    least = model.least_seconds({"forward": forward})
    needed = max(_CAUTION * least, _LIKELY_PART * likely if math.isfinite(likely) else 0.0)
    if needed > left:
        raise _too_late(f"{what} needs at least {forward} rows forward", needed, left, advice)


def _too_late(what: str, needed: float, left: float, advice: str) -> TimedOutError:
    return TimedOutError(
        f"{what}, {needed:.3g} s or more at the pace measured; the deadline leaves {left:.3g} s. Allow more time, or "
        f"{advice}.",
        stage="refused",
        needed_seconds=f"{needed:.3f}",
    )


class AnytimeBudget:
    """How fast a method's units of work come (rows, pairs of rows, segments), and for how many there is time.

    Parameters
    ----------
    model
        Whose deadline it is.
    time_share
        Share of the time until then that may be taken; see `Question`.
    after_unit_seconds
        Time that the method itself needs for each unit once the last one has come.
    """

    def __init__(self, model: Handle, *, time_share: float = 1.0, after_unit_seconds: float = 0.0) -> None:
        self._model = model
        self._after_unit_seconds = after_unit_seconds
        self._kept_seconds = 0.0
        self._left = model.seconds_left()
        if math.isfinite(self._left):
            share = min(_RESERVE_SHARE * self._left, _MOST_RESERVE_SECONDS)
            own = time_share * self._left
            reserve = min(max(_RESERVE_SECONDS, share), _MOST_SHARE * own)
            self._kept_seconds = self._left - own + reserve
        self._seconds_each = 0.0

    def first(self, *, least: int, most: int, seconds: float = math.inf) -> int:
        """Return how many units to begin with: all of them, or, with a deadline, as few as make an answer.

        With a deadline, too, it is all of them if there is far more time than the `seconds` that they are likely to
        take, so that a small model's rows are evaluated together.
        """
        spare = self._left - self._kept_seconds - most * self._after_unit_seconds
        if math.isinf(self._left) or _SURE_FACTOR * seconds <= spare:
            return most
        return min(least, most)

    def ran(self, units: int) -> None:
        """Note that `units` have come since the last note, or since the start."""
        before, self._left = self._left, self._model.seconds_left()
        if math.isfinite(self._left):
            self._seconds_each = (before - self._left) / units + self._after_unit_seconds
            self._kept_seconds += units * self._after_unit_seconds

    def require(self, units: int, *, what: str, advice: str) -> None:
        """Give up if so many more units, without which there is no answer, cannot come in time at the pace so far.

        Raises
        ------
        TimedOutError
            They cannot; `what` and `advice` are for the message, as for `require_time`.
        """
        needed = units * self._seconds_each
        if needed > self._left:
            raise _too_late(what, needed, self._left, advice)

    def more(self, most: int) -> int:
        """Return how many units to take on in the next round, at most `most`; 0 if there is no time for one.

        A round is to take half of the time that is left, or less: other requests may come and slow it down.
        """
        if math.isinf(self._left):
            return most
        spare = self._left - self._kept_seconds
        if spare <= 0:
            return 0
        fitting = 2 * most if 2 * most * self._seconds_each <= spare else int(spare / self._seconds_each)
        return -(-fitting // 2)
