"""Counterfactuals of a row of a table: look, take back what is not needed, and choose near ones that differ."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.diversity import changed, diverse
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.polish import polish
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.searches import descend, inherit, scan, spheres
from pellucid_server.engine.methods.counterfactual.sparsify import Refined, pull, refine
from pellucid_server.engine.methods.shared.arrays import generator

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SCANNED = 0.2
_LOOKING = 0.7
"""Share of a search's own budget after which it only takes back."""
_SEARCHED, _FIRST = 0.85, 0.5
"""Shares of the budget after which the searches have ended, where one is wanted and where several are."""
_TOGETHER, _LOOKED, _REFINED_BY = 0.6, 0.6, 0.85
"""Shares of what is left: of the searches together, and of that until they have looked, and refined."""
_RESTARTED = 0.65
"""Share of what is left then that is searched with once more; with the rest the nearest candidates are polished."""
_POLISHED = 4
"""Candidates that are polished at the end."""
_STALE_RESTARTS, _MOST_RESTARTS = 3, 24
_LEAST_ROWS = 600
"""Rows that each of several is looked for with at least."""
_MOST_LISTED = 2048
"""Most rows of columns with few values that are all looked at."""
_SEARCHES = ("gradient", "spheres", "genetic")
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
    impossible
        Whether it is known that the rules allow no valid candidate.
    alike
        How many of those found share more columns with another than was asked for.
    """

    found: tuple[Refined, ...]
    closest: Floats | None
    impossible: bool = False
    alike: int = 0


@dataclass(frozen=True, slots=True)
class _Search:
    """What all searches of one row have in common."""

    judge: Judge
    space: Space
    question: CounterfactualQuestion
    by: tuple[str, ...]
    distance: str

    def source(self, name: str, number: int = 0) -> np.random.Generator:
        """Return what a search draws from: the same by itself and beside others."""
        return generator(self.question.seed, f"counterfactual {name} {number}")

    def nothing(self) -> Flags:
        """Return that no column is frozen, (columns,)."""
        return np.zeros(len(self.space.start), bool)


def search(
    judge: Judge,
    space: Space,
    question: CounterfactualQuestion,
    *,
    by: frozenset[str],
    distance: str,
    count: int,
    budget: int,
    diversity: float = 0.55,
) -> TableFindings:
    """Look for `count` counterfactuals by "gradient", "spheres" and "genetic", as named in `by`."""
    pool = Pool(judge, space, distance)
    if not space.free.any():
        return TableFindings((), None, impossible=True)
    task = _Search(judge, space, question, tuple(name for name in _SEARCHES if name in by), distance)
    every = space.listed(min(_MOST_LISTED, budget // 2))
    if every is not None:
        looked, _ = pool.look(every)
        if len(looked) == len(every) and not len(pool.valid):
            return TableFindings((), pool.near[0] if len(pool.near) else None, impossible=True)
    judge.phase(_SCANNED, 0.5)
    scan(pool, space, int(_SCANNED * budget))
    found = _first(task, pool, _SEARCHED if count == 1 else _FIRST)
    gone = judge.gone()
    found = _again(task, pool, found, gone + (1 - gone) * (_RESTARTED if count == 1 else _RESTARTED / count))
    judge.section(1.0 if count == 1 else 1 / count)
    found = _polished(task, pool, found, task.nothing(), thorough=True)
    if found and count > 1:
        found = _others(task, pool, found, count, diversity)
    judge.section(1.0)
    if not found:
        # What is left is for looking: only a search that ended says that there may be none.
        found = _again(task, pool, found, 1.0)
    if not found:
        return TableFindings((), pool.near[0] if len(pool.near) else None)
    chosen, alike = _chosen(task, found, count, diversity)
    # Those found are in order.
    return TableFindings(tuple(found[at] for at in sorted(chosen)), None, alike=alike)


def _first(task: _Search, pool: Pool, until: float) -> tuple[Refined, ...]:
    """Search by each way by itself, refine and polish what each finds; return all, the nearest first."""
    found: tuple[Refined, ...] = ()
    nothing, begun, judge, groups = task.nothing(), pool.copy(), task.judge, _groups(task.by)
    for number, group in enumerate(groups):
        own, gone = begun.copy(), judge.gone()
        share = (until - gone) if number == len(groups) - 1 else _TOGETHER * (until - gone)
        # Where time is short the first search gets it: the others may be left out.
        slow = (0.75, 0.9, 1.0) if not number else (0.0, 0.0, 0.0)
        judge.phase(gone + _LOOKED * share, slow[0])
        _look(task, own, group, task.source(group[-1]), nothing)
        judge.phase(gone + _REFINED_BY * share, slow[1])
        new = _refined(own, task.space, (), _REFINED)
        judge.phase(gone + share, slow[2])
        found = _merged(pool, (*_polished(task, own, new, nothing), *found))
        pool.take(own)
    return found


def _groups(by: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return which searches go together, each with what those before it found; then those that go alone.

    Of those alone gradients are left out: they come first together, and find the same.
    """
    alone = [(name,) for name in by if name != "gradient" and not (name == "spheres" and "gradient" in by)]
    return [by] if len(by) == 1 else [by, *alone]


def _again(task: _Search, pool: Pool, found: tuple[Refined, ...], until: float) -> tuple[Refined, ...]:
    """Search once more and again, each time with other columns left alone, until that brings nothing nearer."""
    stale, best = 0, pool.ranks(found[0].values[None])[0] if found else np.inf
    for number in range(1, _MOST_RESTARTS + 1):
        gone = task.judge.gone()
        task.judge.phase(gone + _LOOKING * (until - gone))
        if stale == _STALE_RESTARTS or not task.judge.piece(1):
            break
        source = task.source("restart", number)
        # The first time all columns may change: each search has what the others found.
        share = 0.0 if number == 1 else 0.4
        frozen = task.space.free & (source.random(len(task.space.start)) < share)
        if not (task.space.free & ~frozen).any():
            continue
        other = pool.sown(frozen)
        for name in task.by if not found else task.by[-1:]:
            _look(task, other, (name,), task.source(name, number), frozen)
        task.judge.phase(until)
        new = _refined(other, task.space, (), 2)
        new = _polished(task, other, new, task.nothing())
        pool.take(other)
        found = _merged(pool, (*found, *new))
        size = pool.ranks(found[0].values[None])[0] if found else np.inf
        stale, best = (0, size) if not found or size < best * (1 - 1e-4) else (stale + 1, best)
    return found


def _polished(
    task: _Search, pool: Pool, found: tuple[Refined, ...], frozen: Flags, *, thorough: bool = False
) -> tuple[Refined, ...]:
    # Those that change other columns end elsewhere.
    columns = [(each.values != task.space.start).tobytes() for each in found]
    some = [found[columns.index(own)] for own in dict.fromkeys(columns)][: _POLISHED if thorough else 1]
    better = [polish(pool, task.space, each, frozen, thorough=thorough) for each in some]
    return _merged(pool, (*better, *found))


def _others(task: _Search, pool: Pool, found: tuple[Refined, ...], count: int, diversity: float) -> tuple[Refined, ...]:
    """Look for more that leave alone what those before changed most; return all that are known."""
    judge, space = task.judge, task.space
    tries = count + (count + 1) // 2
    for number in range(1, tries):
        chosen, alike = _chosen(task, found, count, diversity)
        if len(chosen) == count and not alike and number >= count:
            break
        before = [found[at] for at in chosen[: max(1, len(chosen) - alike)]]
        frozen = _most_changed(space, tuple(before), number, diversity)
        other = pool.sown(frozen)
        share = max(1 / (tries - number), min(1.0, _LEAST_ROWS / max(1, judge.left())))
        judge.section(0.6 * share)
        _look(task, other, task.by, task.source("other", number), frozen)
        judge.section(min(1.0, 0.6 * share))
        found = _refined(other, space, found, 2)
        pool.take(other)
    return _filled(space, pool, found, count)


def _filled(space: Space, pool: Pool, found: tuple[Refined, ...], count: int) -> tuple[Refined, ...]:
    """Add what was looked at and is valid, where too few were refined."""
    if len(found) >= 2 * count:
        return found
    rows = pool.apart(4 * count)
    rounded = (space.snapped(rows) == rows).all(axis=1)
    return _merged(pool, (*found, *(Refined(row, minimal=False) for row in rows[rounded])))


def _chosen(task: _Search, found: tuple[Refined, ...], count: int, diversity: float) -> tuple[list[int], int]:
    values = np.stack([each.values for each in found])
    sizes = task.space.ranks(values, task.distance)
    return diverse(task.space.changes(values), sizes, count, task.distance, diversity)


def _look(task: _Search, pool: Pool, by: tuple[str, ...], source: np.random.Generator, frozen: Flags) -> None:
    if "gradient" in by:
        for base, rival in _starts(pool, task.judge, task.space, task.question, frozen):
            descend(pool, task.judge, task.space, base, task.distance, rival, frozen)
    if "spheres" in by and not ("gradient" in by and len(pool.valid)):
        spheres(pool, task.space, source, frozen)
    if "genetic" in by:
        inherit(pool, task.space, source, frozen)


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
    pull(pool, space, pool.apart(min(_PULLED, 6 * count)))
    for candidate in pool.apart(count):
        refined = refine(pool, space, candidate)
        if refined is not None:
            seen = known.get(refined.values.tobytes())
            if seen is None or not seen.minimal:
                known[refined.values.tobytes()] = refined
    return _merged(pool, tuple(known.values()))


def _merged(pool: Pool, found: tuple[Refined, ...]) -> tuple[Refined, ...]:
    """Return each once, the nearest first, and of two with the same values the one that is known to be minimal."""
    known: dict[bytes, Refined] = {}
    for each in found:
        seen = known.get(each.values.tobytes())
        if seen is None or not seen.minimal:
            known[each.values.tobytes()] = each
    kept = list(known.values())
    if not kept:
        return ()
    order = np.argsort(pool.ranks(np.stack([each.values for each in kept])), kind="stable")
    return _needed(pool, tuple(kept[at] for at in order.tolist()))


def _needed(pool: Pool, found: tuple[Refined, ...]) -> tuple[Refined, ...]:
    """Leave out what has all changes of a nearer one, or larger ones, and more: it is no other answer."""
    if pool.distance == "l2":
        # It changes all columns anyway.
        return found
    kept: list[Refined] = []
    for each in found:
        if each.minimal or not any(_beyond(pool.moves(each.values), pool.moves(other.values)) for other in kept):
            kept.append(each)
    return tuple(kept)


def _beyond(moves: Floats, other: Floats) -> bool:
    return bool((moves * np.sign(other) >= np.abs(other)).all())


def _most_changed(space: Space, found: tuple[Refined, ...], number: int, diversity: float) -> Flags:
    """Return the columns that each counterfactual changes most; if those are all there are, one of the first's.

    How many of each follows from the share of columns that shall differ.
    """
    sizes = np.abs(space.changes(np.stack([each.values for each in found])))
    marked = changed(sizes)
    frozen = np.zeros(len(space.start), bool)
    for each, own in zip(sizes, marked, strict=True):
        frozen[np.argsort(-each, kind="stable")[: max(1, math.ceil(own.sum() * diversity / (2 - diversity)))]] = True
    if (space.free & ~frozen).sum() > 1 and number % 3:
        return frozen
    frozen[:] = False
    frozen[sizes.argmax(axis=1)] = True
    if (space.free & ~frozen).any():
        return frozen
    order = np.argsort(-sizes[0], kind="stable")
    return np.asarray(np.arange(len(frozen)) == order[number % len(order)])
