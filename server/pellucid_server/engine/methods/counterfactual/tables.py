"""Counterfactuals of a row of a table: look, take back what is not needed, and choose near ones that differ."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.diversity import diverse
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.searches import descend, inherit, scan, spheres
from pellucid_server.engine.methods.counterfactual.sparsify import Refined, pull, refine
from pellucid_server.engine.methods.shared.arrays import generator

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_LOOKING, _REFINING = 0.7, 0.97
"""Shares of the budget after which nothing new is looked for, and nothing more taken back."""
_SCANNED = 0.25
_RIVALS = 3
"""Elements that a gradient is followed towards where any other will do."""
_STARTS = 3
"""Rows with another category from which a gradient is followed, beside the row itself."""
_PULLED = 24
"""Candidates that are moved to the boundary, to see which of them are nearest there."""
_REFINED = 4
"""Candidates that are refined for each counterfactual that is asked for."""


@dataclass(frozen=True, slots=True)
class TableFindings:
    """What a search came to.

    Attributes
    ----------
    found
        Valid candidates, the nearest first; none if none was found.
    closest
        The candidate that came closest, (columns,), if none was found.
    """

    found: tuple[Refined, ...]
    closest: Floats | None


def search(
    judge: Judge,
    space: Space,
    question: CounterfactualQuestion,
    *,
    by: frozenset[str],
    distance: str,
    count: int,
    budget: int,
) -> TableFindings:
    """Look for `count` counterfactuals by "gradient", "spheres" and "genetic", as named in `by`."""
    pool, source = Pool(judge, space, distance), generator(question.seed, "counterfactual")
    if not space.free.any():
        return TableFindings((), None)
    judge.phase(_LOOKING / count)
    scan(pool, space, int(_SCANNED * budget))
    _look(pool, judge, space, question, source, by, distance, np.zeros(len(space.start), bool))
    judge.phase(_REFINING / count)
    found = _refined(pool, space, (), _REFINED)
    for number in range(1, count):
        if not found:
            break
        # What those before change most, the next one leaves as it is.
        frozen = _most_changed(space, found[:number], number)
        other = pool.sown(frozen)
        judge.phase((number + _LOOKING) / count)
        _look(other, judge, space, question, source, by, distance, frozen)
        judge.phase((number + _REFINING) / count)
        found = _refined(other, space, found, _REFINED)
    judge.phase(1.0)
    if not found:
        return TableFindings((), pool.near[0] if len(pool.near) else None)
    values = np.stack([each.values for each in found])
    changes = space.changes(values)
    # Those found are in order.
    chosen = sorted(diverse(changes, pool.ranks(values), count, distance))
    return TableFindings(tuple(found[at] for at in chosen), None)


def _look(
    pool: Pool,
    judge: Judge,
    space: Space,
    question: CounterfactualQuestion,
    source: np.random.Generator,
    by: frozenset[str],
    distance: str,
    frozen: Flags,
) -> None:
    if "gradient" in by:
        for base, rival in _starts(pool, judge, space, question, frozen):
            descend(pool, judge, space, base, distance, rival, frozen)
    if "spheres" in by and not ("gradient" in by and len(pool.valid)):
        spheres(pool, space, source, frozen)
    if "genetic" in by:
        inherit(pool, space, source, frozen)


def _starts(
    pool: Pool, judge: Judge, space: Space, question: CounterfactualQuestion, frozen: Flags
) -> list[tuple[Floats, int | None]]:
    """Return where gradients are followed from, and towards which element: the row, and rows of other categories."""
    rivals: list[int | None] = [None]
    held = question.goal.other_than
    if held is not None and judge.affordable(1):
        output = judge.outputs(space.recipe(space.start[None]))[0]
        order = [int(each) for each in np.argsort(-output, kind="stable") if each != held]
        rivals = [*order[:_RIVALS]]
    starts: list[tuple[Floats, int | None]] = [(space.start, rival) for rival in rivals]
    moved = pool.near != space.start
    coded = np.flatnonzero((moved & space.coded & ~frozen).any(axis=1) & (moved.sum(axis=1) == 1))
    return starts + [(pool.near[at], None) for at in coded[:_STARTS].tolist()]


def _refined(pool: Pool, space: Space, before: tuple[Refined, ...], count: int) -> tuple[Refined, ...]:
    """Refine the nearest candidates that are no near copies; return all that are known, the nearest first."""
    known = {each.values.tobytes(): each for each in before}
    pull(pool, space, pool.apart(_PULLED))
    for candidate in pool.apart(count):
        refined = refine(pool, space, candidate)
        if refined is not None:
            seen = known.get(refined.values.tobytes())
            if seen is None or not seen.minimal:
                known[refined.values.tobytes()] = refined
    found = list(known.values())
    if not found:
        return ()
    order = np.argsort(pool.ranks(np.stack([each.values for each in found])), kind="stable")
    return tuple(found[at] for at in order.tolist())


def _most_changed(space: Space, found: tuple[Refined, ...], number: int) -> Flags:
    """Return the column that each counterfactual changes most; if those are all there are, one of the first's."""
    sizes = np.abs(space.changes(np.stack([each.values for each in found])))
    frozen = np.zeros(len(space.start), bool)
    frozen[sizes.argmax(axis=1)] = True
    if (space.free & ~frozen).any():
        return frozen
    order = np.argsort(-sizes[0], kind="stable")
    return np.asarray(np.arange(len(frozen)) == order[number % len(order)])
