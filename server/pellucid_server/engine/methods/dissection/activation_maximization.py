"""Activation maximization: the input within bounds at which a unit, a direction or a class is highest.

Source: Erhan, Bengio, Courville and Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeQuestion, Yielded
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.arrays import generator
from pellucid_server.engine.methods.shared.searching.ascent import Climb, Settings
from pellucid_server.engine.methods.shared.searching.constraints import CONSTRAINTS, Constraint
from pellucid_server.engine.methods.shared.searching.input_space import Floats, input_space
from pellucid_server.engine.methods.shared.searching.objectives import (
    Goals,
    ObjectiveParams,
    find_goals,
    natural_scores,
    objective_rows,
)
from pellucid_server.engine.methods.shared.searching.reached import (
    NO_PROBE,
    natural_columns,
    objective_columns,
    reached_text,
    real_column,
)
from pellucid_server.engine.methods.shared.searching.searches import (
    Outcome,
    Plan,
    Searched,
    natural_limit,
    search,
    trajectory_array,
)
from pellucid_server.engine.methods.shared.searching.shown_rows import ShownRows, joined, row_findings, shown_rows
from pellucid_server.vocabulary.findings import Column, Findings, Table

_MOST_OBJECTIVES = 256
_STATE_BYTES = 8 << 20
_KEPT_ARRAYS = 4
_DRAWN_BYTES = 256 << 20
_REACHED, _DEAD, _NOT_FINITE = "reached", "dead", "not finite"


@dataclass(frozen=True, slots=True)
class Params(ObjectiveParams):
    """Parameters of activation maximization."""

    constraint: str = parameter(
        "box",
        "What holds the input: box, the pixels' range, the columns' or the tensor's; l2 or linf, a ball of `radius` "
        "about the centre, in that norm, and the box.",
        choices=CONSTRAINTS,
    )
    radius: float | None = parameter(
        None,
        "Radius of the ball, in units of the rows as the model takes them: for standardized inputs, standard "
        "deviations. Needed for a ball.",
        minimum=1e-6,
        maximum=1e6,
    )
    centre: npt.NDArray[np.generic] | None = parameter(  # noqa: RUF009 - a field, which nobody shares
        None,
        "The ball's centre, a row as the model takes it, of a model with one input. Left out: the mean colour of "
        "pictures; else the mean of a background that may be shown, of standardized columns, the box's middle, or 0.",
    )
    lowest: float | None = parameter(None, "Lower bound of a tensor's elements, where the model states none.")
    highest: float | None = parameter(None, "Upper bound of a tensor's elements, where the model states none.")
    optimizer: str = parameter(
        "ascent",
        "ascent, the steepest way up in the constraint's norm, or adam, whose moments carry it through flat places.",
        choices=("ascent", "adam"),
    )
    steps: int = parameter(256, "Steps; each costs a row forward and backward for each start.", minimum=1, maximum=4096)
    learning_rate: float = parameter(
        0.1,
        "Length of the first step, as a share of half the box's width or of the radius; it falls to 0 by half a "
        "cosine.",
        minimum=1e-4,
        maximum=2.0,
    )
    starts: int = parameter(
        4,
        "Inputs to climb from for each objective: the best of the centre, the draws and the probe.",
        minimum=1,
        maximum=64,
    )
    draws: int = parameter(
        32, "Random inputs within the constraint to start from and to compare with.", minimum=1, maximum=1024
    )
    l2: float = parameter(
        0.0,
        "What an input is charged for the mean square of its distance from the centre, in shares of half the box's "
        "width or of the radius.",
        minimum=0.0,
        maximum=1e6,
    )
    total_variation: float = parameter(
        0.0,
        "What a picture is charged for its total variation: the mean length of the step from a pixel to "
        "its neighbours.",
        minimum=0.0,
        maximum=1e6,
    )
    natural_rows: int = parameter(
        1000, "Rows of the probe at most that what is reached is compared with.", minimum=1, maximum=10000
    )


def _cost(params: Params, question: ProbeQuestion) -> Cost:
    natural = 0 if question.probe is None else min(question.probe.count, params.natural_rows)
    each = params.starts * (params.steps + 1)
    if not question.layers:
        return Cost(natural + params.draws, each)
    steps = objective_rows(question, params, each)
    return Cost(others={"activations": natural + params.draws, **steps})


@method(
    "activation-maximization",
    Params,
    verb=DISSECT,
    family="visualisation",
    source="Erhan, Bengio, Courville and Vincent 2009",
    cost=_cost,
    rows_parameter="steps",
    needs=(Need.GRADIENTS, Need.LAYERS),
    baselines=Background.NONE,
)
def activation_maximization(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Find the input within bounds at which a unit, a direction or a class is highest.

    Each objective is climbed from several starts by projected gradient ascent; the best point that any of them came
    through is the answer, rounded to what a caller can send, and measured again then.

    Raises
    ------
    InvalidRequestError
        There is nothing to maximise, a parameter does not fit, or an input has no bounds.
    UnsupportedError
        Nothing says within what a column of a table lies.
    """
    sought = find_goals(question, params, most=_MOST_OBJECTIVES)
    constraint = _constraint(question, params)
    each = max(1, _STATE_BYTES // (_KEPT_ARRAYS * constraint.space.centre.nbytes * params.starts))
    blocks = tuple(block for goals in sought for block in goals.split(each))
    plan = Plan(
        blocks=blocks,
        start=lambda number, natural: _Ascent(handle, question, params, constraint, blocks[number], natural),
        steps=params.steps + 1,
        block_rows=[len(block.objectives) * params.starts for block in blocks],
        natural_rows=natural_limit(params.natural_rows, blocks),
    )
    found = yield from search(handle, question, plan)
    yield _summary(question, blocks, found)


def _constraint(question: ProbeQuestion, params: Params) -> Constraint:
    space = input_space(question, params.lowest, params.highest, params.centre)
    if params.constraint == "box":
        require(params.radius is None, "radius", params.radius, 'must be left out where constraint is "box"')
        for name, bounds in (("lowest", space.low), ("highest", space.high)):
            right = "must be set, as the model does not say within what its tensors lie; or choose a ball"
            require(bool(np.isfinite(bounds).all()), name, getattr(params, name), right)
    else:
        require(
            params.radius is not None, "radius", params.radius, f"must be set where constraint is {params.constraint}"
        )
    most = _DRAWN_BYTES // space.centre.nbytes
    right = f"must be at most {most}, as a row of this model has {space.size} elements"
    require(params.draws <= most, "draws", params.draws, right)
    if params.lowest is not None and params.highest is not None:
        right = f"must be above lowest, {params.lowest:g}"
        require(params.lowest < params.highest, "highest", params.highest, right)
    return Constraint(space, params.constraint, params.radius or 0.0)


class _Ascent:
    """The search for the inputs of a block's objectives."""

    def __init__(
        self,
        handle: Handle,
        question: ProbeQuestion,
        params: Params,
        constraint: Constraint,
        goals: Goals,
        natural: Floats,
    ) -> None:
        self._question = question
        self._space = constraint.space
        self._goals = goals
        self._natural = natural
        self._bytes = 16 * params.starts * len(goals.objectives) * self._space.centre.nbytes
        source = generator(question.seed, "activation-maximization")
        candidates, rows = handle.beside(
            lambda: _candidates(constraint, source, params.draws),
            byte_count=16 * params.draws * self._space.centre.nbytes,
        )
        scores = natural_scores(handle, (goals,), rows)
        highest = np.where(np.isfinite(scores[1:]), scores[1:], -np.inf).max(axis=0)
        self._random = np.where(np.isfinite(highest), highest, np.nan)
        points = []
        for number in range(len(goals.objectives)):
            more, own = candidates, scores[:, number]
            if np.isfinite(natural[:, number]).any():
                row = _probe_row(question, int(np.nanargmax(natural[:, number])))
                point = constraint.project(self._space.points(row))
                more = np.concatenate([more, point])
                own = np.append(own, natural_scores(handle, (goals,), self._space.rows(point))[0, number])
            points.append(more[_chosen(own, params.starts)])
        settings = Settings(
            params.steps, params.learning_rate, params.optimizer == "adam", params.l2, params.total_variation
        )
        self._climb = Climb(goals, constraint, settings, np.concatenate(points))

    @property
    def step(self) -> int:
        return self._climb.step

    @property
    def elements(self) -> int:
        return self._climb.elements

    @property
    def ended(self) -> bool:
        return self._climb.ended

    def advance(self, handle: Handle) -> None:
        self._climb.advance(handle)

    def state(self) -> Arrays:
        return self._climb.state()

    def restore(self, state: Arrays) -> None:
        self._climb.restore(state)

    def preview(self, handle: Handle) -> Findings:
        return handle.beside(lambda: self._shown(self._rows(), None), byte_count=self._bytes)

    def outcome(self, handle: Handle) -> Outcome:
        rows = handle.beside(self._rows, byte_count=self._bytes)
        reached = self._goals.scores(handle, Rows(rows.arrays), np.arange(len(self._goals.objectives)))
        finite, lit = self._climb.best()[1], self._climb.lit
        records = {
            "activation": np.where(finite & lit, reached, np.nan),
            "start": self._climb.trajectory[:, 0],
            "random": self._random,
            "lit": lit.astype(np.float64),
            "finite": finite.astype(np.float64),
        }
        findings = handle.beside(lambda: self._shown(rows, reached), byte_count=self._bytes)
        return Outcome(records, self._climb.trajectory, findings)

    def _rows(self) -> ShownRows:
        return shown_rows(self._question, self._space.rows(self._climb.best()[0]))

    def _shown(self, rows: ShownRows, reached: Floats | None) -> Findings:
        finite, parts = self._climb.best()[1], []
        for number, each in enumerate(self._goals.objectives):
            if not (finite[number] and self._climb.lit[number]):
                continue
            text = f"The input that maximises {each.name}."
            if reached is not None:
                text += reached_text(float(reached[number]), self._natural[:, number])
            parts.append(row_findings(self._question, rows, number, each.name, text))
        return joined(parts)


def _candidates(constraint: Constraint, source: np.random.Generator, draws: int) -> tuple[Floats, Arrays]:
    """Return the centre and random points, (1 + draws, elements), and their rows."""
    points = np.concatenate([constraint.project(constraint.space.centre[None]), constraint.draw(source, draws)])
    return points, constraint.space.rows(points)


def _chosen(scores: Floats, starts: int) -> npt.NDArray[np.int64]:
    """Return which candidates to start from, (starts,): the best, and in place of the last of these the centre.

    The centre is the first candidate. Where there are too few, some are taken again.
    """
    order = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")
    chosen = np.resize(order, starts)
    if starts > 1 and 0 not in chosen:
        chosen[-1] = 0
    return chosen


def _probe_row(question: ProbeQuestion, number: int) -> Arrays:
    assert question.probe is not None  # noqa: S101 - there are natural rows
    return question.probe.rows([number])


def _summary(question: ProbeQuestion, blocks: tuple[Goals, ...], found: Searched) -> Findings:
    names = [each.name for goals in blocks for each in goals.objectives]
    records = found.records
    lit, finite = records["lit"] > 0, records["finite"] > 0
    status = tuple(
        _REACHED if on and real else (_NOT_FINITE if not real else _DEAD) for on, real in zip(lit, finite, strict=True)
    )
    columns = {
        **objective_columns(blocks),
        "activation": real_column(records["activation"], "The objective at the input that is shown."),
        "start": real_column(records["start"], "The highest objective among the starts."),
        "best random": real_column(records["random"], "The highest objective among the random inputs."),
        **natural_columns(found.natural, records["activation"]),
        "status": Column(status, text="dead: no input that was tried changes the unit."),
    }
    warnings = [] if len(found.natural) else [NO_PROBE]
    dead = [name for name, word in zip(names, status, strict=True) if word == _DEAD]
    if dead:
        warnings.append(f"Nothing that was tried changes {', '.join(dead)}: there is no input to show.")
    return Findings(
        arrays={"trajectory": trajectory_array(names, found.trajectory)},
        tables={"objectives": Table(columns, "What was reached of each objective.")},
        warnings=tuple(warnings),
    )
