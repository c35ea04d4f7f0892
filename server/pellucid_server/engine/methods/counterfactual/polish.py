"""Makes a valid candidate nearer by exchanges: one change is taken back, and one other column makes up for it.

A search that takes changes back one by one ends where none can be missed; a nearer candidate may be one exchange away.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.sparsify import Refined, refine

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_KEPT = (0.0, 0.5, 0.8)
"""What is left of a change that is taken back."""
_FARTHEST, _FEWEST_PLACES, _MOST_PLACES, _PLACES_IN_ALL = 1.3, 8, 24, 240
"""How far another column is moved, as a share of the largest change, and to how many places on either side."""
_TOGETHER, _CHUNKS, _THOROUGH_CHUNKS = 128, 3, 24
"""Exchanges that are looked at together, and how many times, those first that should be valid."""
_LEAST_GAIN = 1e-4
_MOST_ROUNDS = 60


def polish(pool: Pool, space: Space, begun: Refined, frozen: Flags, *, thorough: bool = False) -> Refined:
    """Exchange changes of a refined candidate until no exchange makes it nearer; `frozen` columns stay as they are."""
    best = begun
    for _ in range(_MOST_ROUNDS):
        found = _nearer(pool, space, best.values, frozen, _THOROUGH_CHUNKS if thorough else _CHUNKS)
        if found is None:
            break
        refined = refine(pool, space, found)
        if refined is None or _rank(pool, refined.values) >= _rank(pool, best.values) * (1 - _LEAST_GAIN):
            break
        best = refined
    return best


def _rank(pool: Pool, values: Floats) -> float:
    return float(pool.ranks(values[None])[0])


def _nearer(pool: Pool, space: Space, values: Floats, frozen: Flags, chunks: int) -> Floats | None:
    """Return a nearer candidate that is one exchange away, (columns,); None where none was found.

    What each half of an exchange does to the margin is looked at by itself. Exchanges come in the order of the sum.
    """
    backs, moves = halves(space, values, space.free & ~frozen)
    if not len(backs) or not len(moves):
        return None
    looked, margins = pool.look(np.concatenate([backs, moves]))
    if len(looked) < len(backs) + len(moves):
        return None
    rows = _both(values, backs, moves).reshape(-1, len(values))
    likely = (margins[: len(backs), None] + margins[len(backs) :]).reshape(-1)
    other = (backs != values).argmax(axis=1)[:, None] != (moves != values).argmax(axis=1)
    fits = other.reshape(-1) & np.isfinite(likely)
    fits &= pool.ranks(rows) < _rank(pool, values) * (1 - _LEAST_GAIN)
    rows, likely = rows[fits], likely[fits]
    rows = rows[np.argsort(-likely, kind="stable")[: chunks * _TOGETHER]]
    for begin in range(0, len(rows), _TOGETHER):
        looked, margins = pool.look(rows[begin : begin + _TOGETHER])
        valid = looked[margins >= 0]
        if len(valid):
            return np.asarray(valid[int(pool.ranks(valid).argmin())])
    return None


def halves(space: Space, values: Floats, free: Flags) -> tuple[Floats, Floats]:
    """Return a candidate with one change taken back, and with one column of `free` moved, (rows, columns) each."""
    sizes = np.abs(space.changes(values[None])[0])
    backs: list[Floats] = []
    for at in np.flatnonzero(sizes).tolist():
        kept = np.array(_KEPT[:1] if space.coded[at] else _KEPT)
        backs.append(_with(space, values, at, space.start[at] + kept * (values[at] - space.start[at])))
    moves: list[Floats] = []
    places = int(np.clip(_PLACES_IN_ALL // max(1, free.sum()), _FEWEST_PLACES, _MOST_PLACES))
    steps = float(sizes.max()) * np.linspace(0, _FARTHEST, places + 1)[1:]
    steps = np.concatenate([-steps, steps])
    for at in np.flatnonzero(free).tolist():
        if space.coded[at]:
            targets = np.array(space.columns[at].allowed, np.float64)
        else:
            targets = values[at] + space.scale[at] * steps
        moves.append(_with(space, values, at, targets))
    none = np.zeros((0, len(values)))
    found = [np.unique(np.concatenate([none, *each]), axis=0) for each in (backs, moves)]
    kept_rows = [rows[(rows != values).any(axis=1)] for rows in found]
    return kept_rows[0], kept_rows[1]


def _with(space: Space, values: Floats, at: int, places: Floats) -> Floats:
    """Return a candidate with one column at some places, rounded; the others stay as they are."""
    rows = np.repeat(values[None], len(places), axis=0)
    rows[:, at] = places
    made = np.repeat(values[None], len(places), axis=0)
    made[:, at] = space.snapped(rows)[:, at]
    return made


def _both(values: Floats, backs: Floats, moves: Floats) -> Floats:
    """Return each of `backs` with each of `moves`, (backs, moves, columns)."""
    return np.where(moves[None] != values, moves[None], backs[:, None])
