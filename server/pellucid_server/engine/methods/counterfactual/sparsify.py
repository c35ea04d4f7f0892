"""Takes back what is not needed: a valid candidate is rounded, its changes are reverted and made smaller one by one.

At the end no single column can go back to the row's value, and none can go back by a step of its digits, or by any of
some steps between: the candidate is 1-minimal. The last round of evaluations is the proof.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.pool import Pool

Floats = npt.NDArray[np.float64]

_LINE = np.concatenate([np.linspace(0, 1, 13)[1:], [1.02, 1.1, 1.25, 1.5]])
_BACK = np.array([0.001, 0.004, 0.015, 0.06, 0.125, 0.25, 0.5, 0.75])
"""By which shares of its change a column is moved back."""
_FINER = (0, 1, 2, 4, 8)
"""Decimal places that are added until a rounded candidate is valid."""
_HALVINGS = 7
_MOST_ROUNDS = 200
_DUST = 0.02
"""Share of the distance that a candidate may gain for changing fewer columns."""
_MORE = (1.0, 1.002, 1.005, 1.01, 1.02)


@dataclass(frozen=True, slots=True)
class Refined:
    """A valid candidate, rounded, (columns,), and whether it is known to be 1-minimal."""

    values: Floats
    minimal: bool


def refine(pool: Pool, space: Space, candidate: Floats) -> Refined | None:
    """Round a valid candidate and take back what can be; None if nothing of it is valid once rounded."""
    begun = _rounded(pool, space, candidate)
    if begun is None:
        return None
    values, more = begun
    taken = _taken_back(pool, space, values, more)
    # The projection of L2 moves all columns, and the small ones belong to it.
    tidied = None if pool.distance == "l2" else _tidied(pool, space, taken.values, more)
    return taken if tidied is None else _taken_back(pool, space, tidied, more)


def _taken_back(pool: Pool, space: Space, values: Floats, more: int) -> Refined:
    """Take changes back, one by one and together, until none can be."""
    for _ in range(_MOST_ROUNDS):
        moves = _moves(space, values, more)
        looked, margins = pool.look(moves)
        fits = looked[margins >= 0]
        if not len(fits):
            return Refined(values, len(looked) == len(moves))
        if len(looked) < len(moves):
            return Refined(_first(pool, fits), minimal=False)
        values = _combined(pool, values, fits)
    return Refined(values, minimal=False)


def _tidied(pool: Pool, space: Space, values: Floats, more: int) -> Floats | None:
    """Return a candidate without the smallest changes, where others that are a little larger make up for them."""
    sizes = np.abs(space.changes(values[None])[0])
    order = [int(at) for at in np.argsort(sizes, kind="stable") if sizes[at]]
    small = [at for number, at in enumerate(order) if sizes[order[: number + 1]].sum() <= _DUST * sizes.sum()]
    rows = []
    for count in range(len(small), 0, -1):
        kept = values.copy()
        kept[small[:count]] = space.start[small[:count]]
        largest = order[-1]
        for factor in _MORE:
            grown = np.where(space.coded, kept, space.start + factor * (kept - space.start))
            rows.append(space.snapped(grown[None], "away", more)[0])
            alone = kept.copy()
            alone[largest] = grown[largest]
            rows.append(_only(space, alone[None], largest, more)[0])
    if not rows:
        return None
    looked, margins = pool.look(np.stack(rows))
    fits = looked[margins >= 0]
    near = fits[pool.ranks(fits) <= (1 + _DUST) * float(pool.ranks(values[None])[0])]
    if not len(near):
        return None
    changed = (near != space.start).sum(axis=1)
    fewest = near[changed == changed.min()]
    return _first(pool, fewest) if changed.min() < (values != space.start).sum() else None


def pull(pool: Pool, space: Space, candidates: Floats) -> None:
    """Move valid candidates, (rows, columns), straight back towards the row, by halves, as far as they are valid."""
    if not len(candidates):
        return
    start = np.where(space.coded, candidates, space.start)
    low, high = np.zeros((len(candidates), 1)), np.ones((len(candidates), 1))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        looked, margins = pool.look(space.snapped(start + middle * (candidates - start), "away"))
        if len(looked) < len(candidates):
            return
        fits = (margins >= 0)[:, None]
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)


def _rounded(pool: Pool, space: Space, candidate: Floats) -> tuple[Floats, int] | None:
    """Return the nearest valid candidate on the line from the row, rounded, and the decimal places that it took."""
    start = np.where(space.coded, candidate, space.start)
    line = start + _LINE[:, None] * (candidate - start)
    for more in _FINER:
        rows = np.concatenate([space.snapped(line, how, more) for how in ("nearest", "away")])
        rows = rows[(rows != space.start).any(axis=1)]
        if not len(rows):
            continue
        looked, margins = pool.look(np.unique(rows, axis=0))
        if (margins >= 0).any():
            return _first(pool, looked[margins >= 0]), more
    return None


def _first(pool: Pool, candidates: Floats) -> Floats:
    return np.asarray(candidates[int(pool.ranks(candidates).argmin())])


def _moves(space: Space, values: Floats, more: int) -> Floats:
    """Return the candidate with one column taken back: all the way, by a step, and by some shares; (moves, columns)."""
    changed = np.flatnonzero(values != space.start)
    found: list[Floats] = []
    for at in changed.tolist():
        back = [space.start[at]]
        if not space.coded[at]:
            way = space.start[at] - values[at]
            step = np.sign(way) * min(float(space.step(more)[at]), abs(way))
            back += [values[at] + step, *(values[at] + _BACK * way).tolist()]
        rows = np.repeat(values[None], len(back), axis=0)
        rows[:, at] = back
        found.append(_only(space, rows, at, more))
    rows = np.unique(np.concatenate(found), axis=0)
    return np.asarray(rows[(rows != values).any(axis=1) & (rows != space.start).any(axis=1)])


def _only(space: Space, rows: Floats, at: int, more: int) -> Floats:
    """Round one column of rows, and leave the others as they are."""
    kept = rows.copy()
    kept[:, at] = space.snapped(rows, "nearest", more)[:, at]
    return kept


def _combined(pool: Pool, values: Floats, fits: Floats) -> Floats:
    """Return the nearest valid candidate with the best valid move of each column, as many together as are valid."""
    order = np.argsort(pool.ranks(fits), kind="stable")
    best = fits[order[0]]
    moved = fits[order] != values
    column = moved.argmax(axis=1)
    _, first = np.unique(column, return_index=True)
    chosen = np.sort(first)
    if len(chosen) < 2:
        return np.asarray(best)
    together, rows = values.copy(), []
    for number in chosen.tolist():
        at = int(column[number])
        together[at] = fits[order[number]][at]
        rows.append(together.copy())
    looked, margins = pool.look(np.stack(rows[1:]))
    valid = looked[margins >= 0]
    return _first(pool, np.concatenate([valid, best[None]]))
