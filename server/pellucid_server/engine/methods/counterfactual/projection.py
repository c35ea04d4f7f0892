"""Distances, and the nearest point of a half-space inside a box.

With a linear score these are the answer itself: for L2 the orthogonal projection, for L1 the element with the largest
weight moved alone. Elsewhere they are one step of a sequence of linearisations (Croce and Hein, "Minimally distorted
adversarial examples with a fast adaptive boundary attack", ICML 2020), whose multiplier is the one that Wachter,
Mittelstadt and Russell (2017) look for by annealing.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DISTANCES = ("l1", "l2", "l0")

_TIE = 1e-6
"""Weight of the L1 distance that parts moves of equally many elements."""
_FEWER = 1e-3
"""By which share of an L1 distance one more change must make it smaller."""
_MOST_STEPS = 100


def distances(changes: Floats, kind: str) -> Floats:
    """Return the distance of each row of changes, (rows, elements), in units of each element: (rows,)."""
    if kind == "l2":
        return np.asarray(np.sqrt(np.square(changes).sum(axis=-1)))
    if kind == "l0":
        return np.asarray((changes != 0).sum(axis=-1).astype(np.float64))
    return np.asarray(np.abs(changes).sum(axis=-1))


def between(changes: Floats, one: Floats, kind: str) -> Floats:
    """Return the distance of rows of changes, (rows, elements), from one, (elements,): (rows,).

    Where it is how many change, two that change the same elements in the same directions are the same.
    """
    if kind == "l0":
        return distances(np.sign(changes) - np.sign(one), kind)
    return distances(changes - one, kind)


def ranks(changes: Floats, kind: str) -> Floats:
    """Return what puts rows of changes in order: the distance, and of nearly equal ones the fewest changes."""
    found = distances(changes, kind)
    if kind == "l1":
        return np.asarray(found * (1 + _FEWER * (changes != 0).sum(axis=-1)))
    if kind == "l0":
        span = np.abs(changes).sum(axis=-1)
        return np.asarray(found + span / (1 / _TIE + span))
    return found


def nearest(weights: Floats, gain: float, low: Floats, high: Floats, kind: str) -> Floats:
    """Return the smallest change, (elements,), whose weighted sum is at least `gain`.

    Parameters
    ----------
    weights
        What one unit of each element's change adds, (elements,), finite.
    gain
        What the change has to add, above 0.
    low, high
        Bounds of each element's change, (elements,): `low` at most 0 and `high` at least 0, perhaps infinite.
    kind
        One of `DISTANCES`.

    Returns
    -------
    changes
        The change; where no change inside the bounds adds as much, the one that adds most.
    """
    room = np.where(weights > 0, high, -low)
    room[weights == 0] = 0.0
    if kind == "l2":
        return _orthogonal(weights, gain, room)
    return _filled(weights, gain, room, kind)


def steps_beyond(slope: Floats, gain: float, low: Floats, high: Floats, kind: str, moved: Floats) -> list[Floats]:
    """Return changes beyond the boundary of the linear function: the nearest, and others that are less sudden.

    The nearest one by L1 or L0 moves one column as far as it goes, where the function may be another. L2 moves all a
    little; weighted with how far each has moved already, by `moved`, it leaves out more and more of them.
    """
    found = [nearest(slope, gain, low, high, kind)]
    if kind != "l2":
        found.append(nearest(slope, gain, low, high, "l2"))
        if moved.any():
            size = np.abs(moved) + 1e-3 * np.abs(moved).max()
            weight = np.sqrt(size) if kind == "l1" else size
            found.append(weight * nearest(slope * weight, gain, low / weight, high / weight, "l2"))
    return found


def _orthogonal(weights: Floats, gain: float, room: Floats) -> Floats:
    """Find the multiplier by Newton's steps: the sum is concave in it, so that they come from one side and end."""
    size = np.abs(weights)
    squares = np.square(weights)
    multiplier = 0.0
    for _ in range(_MOST_STEPS):
        moved = np.minimum(multiplier * size, room)
        missing = gain - float((size * moved).sum())
        slope = float(squares[multiplier * size < room].sum())
        if missing <= 1e-12 * gain or slope == 0.0:
            break
        multiplier += missing / slope
    return np.asarray(np.sign(weights) * np.minimum(multiplier * size, room))


def _filled(weights: Floats, gain: float, room: Floats, kind: str) -> Floats:
    """Move one element after the other as far as it may: for L1 by weight, for L0 by what each can add."""
    size = np.abs(weights)
    with np.errstate(invalid="ignore"):
        adds = np.where(size == 0, 0.0, size * room)
    finite = np.where(np.isfinite(adds), adds, gain)
    if kind == "l1":
        order = np.argsort(-size, kind="stable")
    else:
        # Those that suffice by themselves come first, the one that has to move least before the others.
        enough = finite >= gain
        order = np.lexsort((-size, np.where(enough, 0.0, -finite), ~enough))
    sums = np.cumsum(finite[order])
    last = int(np.searchsorted(sums, gain))
    found = np.zeros_like(weights)
    whole = order[:last]
    found[whole] = np.where(np.isfinite(room[whole]), room[whole], 0.0)
    if last < len(order):
        at = order[last]
        rest = gain - (float(sums[last - 1]) if last else 0.0)
        found[at] = rest / size[at] if size[at] else 0.0
    return np.asarray(np.sign(weights) * found)
