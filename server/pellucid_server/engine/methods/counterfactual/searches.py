"""Where to look for candidates of a table: one column at a time, along the gradient, on spheres, by inheritance.

Sources: growing spheres are Laugel, Lesot, Marsala, Renard and Detyniecki, "Inverse classification for
comparison-based interpretability in machine learning" (2017); the genetic search follows Schleich, Geng, Zhang and
Suciu, "GeCo: quality counterfactual explanations in real time", VLDB 2021.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.projection import steps_beyond

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SCAN_PLACES = 12
_OPEN_SIZES = np.geomspace(0.25, 64.0, _SCAN_PLACES)
"""How far a column without a bound is moved, in units of distance."""

_DESCENT_ROUNDS = 24
_PLACES = np.concatenate([np.linspace(0.1, 1.0, 10), [1.001, 1.01, 1.05, 1.2, 1.5, 2.0, 3.0]])
_STALE_ROUNDS = 3
_AIM = 1e-4
"""By which share of the way from the row to the boundary a step aims beyond it."""

_FIRST_RADIUS, _LAST_RADIUS = 0.0625, 2.0**14
_ON_SPHERE = 128

_CHILDREN, _PARENTS, _GENERATIONS, _STALE_GENERATIONS = 128, 64, 80, 12


def scan(pool: Pool, space: Space, most: int) -> None:
    """Move every column by itself, to some places on either side, and to every category: up to `most` candidates."""
    movable = np.flatnonzero(space.free & ~space.coded)
    places = max(1, min(_SCAN_PLACES, most // max(1, 2 * len(movable))))
    found: list[Floats] = []
    for at in movable.tolist():
        for bound, sign in ((space.high[at], 1.0), (space.low[at], -1.0)):
            room = sign * (bound - space.start[at])
            sizes = space.scale[at] * _OPEN_SIZES[-places:] if np.isinf(room) else room * _shares(places)
            found.append(_with(space, at, space.start[at] + sign * sizes[sizes > 0]))
    for at in np.flatnonzero(space.free & space.coded).tolist():
        others = [index for index in space.columns[at].allowed if index != space.start[at]]
        found.append(_with(space, at, np.array(others, np.float64)))
    if found:
        candidates = space.snapped(np.concatenate(found))
        moved = candidates[(candidates != space.start).any(axis=1)]
        pool.look(np.unique(moved, axis=0)[: 4 * most] if len(moved) else moved)


def _shares(places: int) -> Floats:
    return np.linspace(0, 1, places + 1)[1:] ** 2


def _with(space: Space, at: int, values: Floats) -> Floats:
    """Return the row with one column at each of some values, (values, columns)."""
    rows = np.repeat(space.start[None], len(values), axis=0)
    rows[:, at] = values
    return rows


def descend(pool: Pool, judge: Judge, space: Space, base: Floats, kind: str, rival: int | None, frozen: Flags) -> None:
    """Go to the boundary along the gradient, and along it to where it is nearest; categories stay those of `base`.

    Each round linearises the margin where it stands, takes the nearest point at which the linear function is
    beyond the boundary, and evaluates points on the lines to it from the row and from where it stands.
    """
    low, high = (np.where(frozen, 0.0, each / space.scale) for each in space.reachable())
    at, best, closest, stale, first = base, np.inf, -np.inf, 0, 0.0
    for _ in range(_DESCENT_ROUNDS):
        if not judge.steep():
            return
        margin, gradients = judge.slopes(space.recipe(at[None]).arrays, rival)
        slope = np.where(frozen, 0.0, space.gradient(gradients))
        if not (np.isfinite(margin) and slope.any()):
            return
        first = first or abs(margin)
        moved = np.where(space.coded, 0.0, (at - space.start) / space.scale)
        gain = float(slope @ moved) - margin + _AIM * first
        # Where the row itself looks valid from where it stands, it goes half the way back.
        steps = steps_beyond(slope, gain, low, high, kind, moved) if gain > 0 else [0.5 * moved]
        begin = np.where(space.coded, base, space.start)
        aims = [np.where(space.coded, base, space.start + step * space.scale) for step in steps]
        lines = np.concatenate([each + _PLACES[:, None] * (aim - each) for aim in aims for each in (begin, at)])
        candidates = _bounded(space, lines)
        looked, margins = pool.look(np.unique(candidates, axis=0))
        fits = margins >= 0
        if fits.any():
            ranks = pool.ranks(looked[fits])
            found = float(ranks.min())
            stale = 0 if found < best * (1 - 1e-4) else stale + 1
            if found < best:
                best, at = found, looked[fits][int(ranks.argmin())]
        elif len(margins) and np.isinf(best):
            stale = 0 if margins.max() > closest + 1e-6 * first else stale + 1
            closest, at = max(closest, float(margins.max())), looked[int(margins.argmax())]
        else:
            stale += 1
        if stale >= _STALE_ROUNDS:
            return


def _bounded(space: Space, candidates: Floats) -> Floats:
    """Put changed numbers between their bounds; whole ones are rounded, others are left as they are."""
    moved = (candidates != space.start) & ~space.coded & space.free
    inside = np.clip(np.where(space.whole, np.rint(candidates), candidates), space.low, space.high)
    return np.where(moved, inside, np.where(space.coded, candidates, space.start))


def spheres(pool: Pool, space: Space, source: np.random.Generator, frozen: Flags) -> None:
    """Draw around the row, farther and farther, until some are valid; then once more where they were."""
    radius, enough = _FIRST_RADIUS, False
    free = space.free & ~frozen
    if not free.any():
        return
    while radius <= _LAST_RADIUS:
        drawn = _on_sphere(space, source, radius, free)
        looked, margins = pool.look(drawn)
        if len(looked) < len(drawn) or enough:
            return
        enough = bool((margins >= 0).any())
        radius *= 1.0 if enough else 2.0


def _on_sphere(space: Space, source: np.random.Generator, radius: float, free: Flags) -> Floats:
    """Draw rows at distances from half the radius to all of it, some with few columns changed."""
    shape = (_ON_SPHERE, len(space.start))
    chosen = source.random(shape) < np.power(2.0, -source.integers(0, 6, (_ON_SPHERE, 1)))
    chosen[np.arange(_ON_SPHERE), source.choice(np.flatnonzero(free), _ON_SPHERE)] = True
    chosen &= free
    steps = source.normal(size=shape) * (chosen & ~space.coded)
    length = np.maximum(np.sqrt(np.square(steps).sum(axis=1, keepdims=True)), 1e-300)
    steps *= radius * source.uniform(0.5, 1.0, (_ON_SPHERE, 1)) / length
    numbers = space.start + steps * space.scale
    flipped = chosen & space.coded & (source.random(shape) < min(1.0, radius))
    return space.snapped(np.where(flipped, _categories(space, source, shape), numbers))


def _categories(space: Space, source: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw a category that is allowed for every column of categories, and the row's own value for others."""
    found = np.repeat(space.start[None], shape[0], axis=0)
    for at in np.flatnonzero(space.coded & space.free).tolist():
        found[:, at] = source.choice(np.array(space.columns[at].allowed, np.float64), shape[0])
    return found


def inherit(pool: Pool, space: Space, source: np.random.Generator, frozen: Flags) -> None:
    """Cross and change what is best so far: the nearest valid candidates, and the closest of the others."""
    stale, best = 0, pool.best()
    for _ in range(_GENERATIONS):
        parents = np.concatenate(
            [pool.valid[:_PARENTS], pool.near[: max(8, _PARENTS - len(pool.valid))], space.start[None]]
        )
        children = _children(space, source, parents, space.free & ~frozen)
        looked, _ = pool.look(children)
        if len(looked) < len(children):
            return
        found = pool.best()
        stale, best = (0, found) if found < best * (1 - 1e-3) else (stale + 1, best)
        if stale >= _STALE_GENERATIONS and np.isfinite(best):
            return


def _children(space: Space, source: np.random.Generator, parents: Floats, free: Flags) -> Floats:
    shape = (_CHILDREN, len(space.start))
    one, other = (parents[(len(parents) * source.random(_CHILDREN) ** 2).astype(np.int64)] for _ in range(2))
    found = np.where(source.random(shape) < 0.5, one, other)
    # Most columns stay as inherited: of the others some go back to the row's value, some part of the way, some move.
    touched = source.random(shape) < np.power(2.0, -source.integers(1, 7, (_CHILDREN, 1)))
    touched[np.arange(_CHILDREN), source.integers(0, shape[1], _CHILDREN)] = True
    fate = source.random(shape)
    back = space.start + (found - space.start) * source.random((_CHILDREN, 1))
    moved = found + source.normal(size=shape) * space.scale * np.power(10.0, source.uniform(-2, 1, (_CHILDREN, 1)))
    changed = np.where(space.coded, _categories(space, source, shape), np.where(fate < 0.65, back, moved))
    found = np.where(touched, np.where(fate < 0.35, space.start, changed), found)
    return space.snapped(np.where(free, found, space.start))
