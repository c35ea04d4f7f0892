"""Searches for inputs, block by block: progress, states to go on from, and what all of them found."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import Preview, ProbeQuestion, Saved, Yielded
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.searching.objectives import Goals, natural_scores
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray, State

Floats = npt.NDArray[np.float64]

_NATURAL_ROWS, _BATCHES_BETWEEN = 32, 8
"""Rows of the probe that are looked at at once; a state is saved after so many of these."""

_STEPS_BETWEEN, _LARGE_STEPS_BETWEEN, _LARGE = 50, 10, 1 << 18
"""A state is saved after so many steps, sooner where a step has more elements than `_LARGE`.

Not by the clock: a search that goes on from a state saves no other before the part that follows it, which a caller may
have already.
"""

_PREVIEW_STEPS = 50

_NATURAL_VALUES = 1 << 20
"""Objectives at rows of the probe that are kept, and so are part of every state."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found for the objectives of its block.

    Attributes
    ----------
    records
        Numbers of each input that was found by name, (inputs,) each; NaN where there is none.
    trajectory
        The objective at each step, (inputs, steps); NaN where there was no step.
    findings
        What is shown of them.
    """

    records: dict[str, Floats]
    trajectory: Floats
    findings: Findings = field(default_factory=Findings)


class Search(Protocol):
    """A search for the inputs of a block's objectives."""

    @property
    def step(self) -> int:
        """How many steps were made."""
        ...

    @property
    def elements(self) -> int:
        """How many numbers a step changes."""
        ...

    @property
    def ended(self) -> bool:
        """Whether there is no step left."""
        ...

    def advance(self, handle: Handle) -> None:
        """Make a step."""
        ...

    def preview(self, handle: Handle) -> Findings:
        """Return what it would show if it ended here."""
        ...

    def outcome(self, handle: Handle) -> Outcome:
        """Return what it found."""
        ...

    def state(self) -> Arrays:
        """Return all of it as arrays by name."""
        ...

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` returned."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is searched.

    Attributes
    ----------
    blocks
        Objectives that are sought together.
    start
        Makes the search of a block, given the objectives at the rows of the probe, (rows, objectives). One that goes
        on from a state is made like any other, and then restored.
    steps
        Evaluations of each row in a search, at most.
    block_rows
        The rows of each block.
    natural_rows
        Rows of the probe that are looked at, at most.
    """

    blocks: Sequence[Goals]
    start: Callable[[int, Floats], Search]
    steps: int
    block_rows: Sequence[int]
    natural_rows: int

    def rows(self, natural: int) -> int:
        """Return how many rows are evaluated in all, given those of the probe."""
        return natural + self.steps * sum(self.block_rows)


def natural_limit(rows: int, blocks: Sequence[Goals]) -> int:
    """Return how many rows of a probe are looked at of `rows`: fewer where there are very many objectives."""
    return min(rows, _NATURAL_VALUES // sum(len(each.objectives) for each in blocks))


@dataclass(frozen=True, slots=True)
class Searched:
    """What all blocks found: records by name and trajectories of all inputs, and the objectives at the probe's rows."""

    records: dict[str, Floats]
    trajectory: Floats
    natural: Floats


def search(handle: Handle, question: ProbeQuestion, plan: Plan) -> Generator[Yielded, None, Searched]:
    """Search block by block, and yield what is shown of each; the value is what all of them found."""
    state = question.state or State()
    natural = yield from _natural(handle, question, plan, state)
    edges = np.cumsum([0, *(len(each.objectives) for each in plan.blocks)]).tolist()
    first = int(state.values.get("block", 0))
    kept = _Kept(natural, _floats("records", state), _floats("trajectories", state))
    for number in range(first, len(plan.blocks)):
        found = plan.start(number, natural[:, edges[number] : edges[number + 1]])
        restored = within("search", state.arrays) if number == first else {}
        if restored:
            found.restore(restored)
        yield from _climbed(handle, plan, found, number, kept, saved=bool(restored))
        outcome = found.outcome(handle)
        kept = kept.with_outcome(number, outcome)
        if outcome.findings != Findings():
            yield outcome.findings
    if first < len(plan.blocks):
        rows = plan.rows(len(natural))
        yield Saved(State(kept.arrays(), {"block": len(plan.blocks)}), rows, rows)
    return Searched(kept.records, _joined(list(kept.trajectories.values())), natural)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What goes from block to block."""

    natural: Floats
    records: dict[str, Floats]
    trajectories: dict[str, Floats]

    def with_outcome(self, number: int, outcome: Outcome) -> "_Kept":
        records = {
            name: np.concatenate([self.records[name], each]) if name in self.records else each
            for name, each in outcome.records.items()
        }
        return replace(self, records=records, trajectories={**self.trajectories, str(number): outcome.trajectory})

    def arrays(self) -> Arrays:
        return {
            "natural": self.natural,
            **nested("records", self.records),
            **nested("trajectories", self.trajectories),
        }


def _floats(name: str, state: State) -> dict[str, Floats]:
    return {key: np.asarray(each, np.float64) for key, each in within(name, state.arrays).items()}


def _natural(handle: Handle, question: ProbeQuestion, plan: Plan, state: State) -> Generator[Yielded, None, Floats]:
    """Return the objectives of all blocks at the rows of the probe, (rows, objectives)."""
    count = 0 if question.probe is None else min(question.probe.count, plan.natural_rows)
    objectives = sum(len(each.objectives) for each in plan.blocks)
    found = [np.asarray(state.arrays.get("natural", np.zeros((0, objectives))), np.float64)]
    done = len(found[0])
    if question.probe is None or done >= count:
        return found[0]
    for batch in question.probe.batches(_NATURAL_ROWS, first=done):
        rows = {name: each[: count - done] for name, each in batch.rows.items()}
        found.append(natural_scores(handle, plan.blocks, rows))
        done += len(found[-1])
        if done % (_NATURAL_ROWS * _BATCHES_BETWEEN) == 0 or done >= count:
            found = [np.concatenate(found)]
            yield Saved(State({"natural": found[0]}, {"block": 0}), done, plan.rows(count))
        if done >= count:
            break
    return np.concatenate(found)


def _climbed(handle: Handle, plan: Plan, found: Search, number: int, kept: _Kept, *, saved: bool) -> Iterator[Yielded]:
    """Make the steps of a search that are left; `saved` says whether there is a state of where it stands."""
    elements = found.elements
    between = _LARGE_STEPS_BETWEEN if elements > _LARGE else _STEPS_BETWEEN
    before = len(kept.natural) + sum(plan.steps * each for each in plan.block_rows[:number])
    while not found.ended:
        if found.step % between == 0 and not saved:
            state = State({**kept.arrays(), **nested("search", found.state())}, {"block": number})
            done = before + found.step * plan.block_rows[number]
            yield Saved(state, done, plan.rows(len(kept.natural)))
        saved = False
        found.advance(handle)
        if found.step % _PREVIEW_STEPS == 0 and not found.ended:
            preview = found.preview(handle)
            if preview != Findings():
                yield Preview(preview)


def _joined(trajectories: list[Floats]) -> Floats:
    """Put trajectories one behind the other, without the steps that none of them made."""
    whole = np.concatenate(trajectories)
    made = np.flatnonzero(np.isfinite(whole).any(axis=0))
    return whole[:, : int(made[-1]) + 1] if len(made) else whole[:, :1]


def trajectory_array(names: Sequence[str], trajectory: Floats) -> NamedArray:
    """Return the trajectories as an array of the answer."""
    axes = (Axis("objective", tuple(names)), Axis("step"))
    text = "The objective at each step; missing behind the last step."
    return NamedArray(trajectory, axes, text=text, missing=True)


def percentiles(natural: Floats, reached: Floats) -> tuple[Floats, Floats]:
    """Return the best natural value of each objective, and the percentile among natural rows of what was reached.

    Parameters
    ----------
    natural
        Objectives at the rows of the probe, (rows, objectives), at least one row.
    reached
        What was reached, (objectives,); rows that are equal count half.
    """
    below = (natural < reached).mean(axis=0) + 0.5 * (natural == reached).mean(axis=0)
    best = np.where(np.isfinite(natural), natural, -np.inf).max(axis=0)
    return np.where(np.isfinite(best), best, np.nan), np.asarray(100 * below)
