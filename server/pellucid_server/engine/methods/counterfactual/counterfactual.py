"""Counterfactuals: the nearest input of which the model says something else.

Sources: Wachter, Mittelstadt and Russell, "Counterfactual explanations without opening the black box", 2017; Mothilal,
Sharma and Tan, FAccT 2020; Laugel et al., 2017; Schleich et al., VLDB 2021; Croce and Hein, ICML 2020.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import COUNTERFACTUAL
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.counterfactual import fields, report, tables
from pellucid_server.engine.methods.counterfactual.background_rows import nearest_unlike, require_disclosable
from pellucid_server.engine.methods.counterfactual.columns import Space, space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge, lead, satisfied
from pellucid_server.engine.methods.counterfactual.projection import DISTANCES
from pellucid_server.engine.methods.counterfactual.report import Line
from pellucid_server.errors import UnsupportedError
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.results import Accuracy

Floats = npt.NDArray[np.float64]

_SEARCHES = ("auto", "gradient", "spheres", "genetic")


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of counterfactuals."""

    distance: str = parameter(
        "l1",
        "What is made small: l1, the sum of changes, which changes few columns; l2, the root of their squares' sum; "
        "l0, how many there are. A table's numbers count in units of their spread, another category counts 1.",
        choices=DISTANCES,
    )
    k: int = parameter(1, "Counterfactuals of a row of a table, near ones that differ.", minimum=1, maximum=32)
    evaluations: int = parameter(
        10_000,
        "Most rows that the model is run on for each row of the request; what is not found by then is not found.",
        minimum=16,
        maximum=1_000_000,
    )
    search: str = parameter(
        "auto",
        "How tables are searched, after each column by itself: gradient; spheres, which grow around the row; genetic; "
        "auto is each of them that the model has, and the nearest of what they find.",
        choices=_SEARCHES,
    )
    digits: int = parameter(
        3, "Significant digits of a changed number, counted from its column's spread.", minimum=1, maximum=9
    )
    diversity: float = parameter(
        0.55,
        "Of the columns that two counterfactuals of a row change, the least share that only one of them changes; "
        "changes of less than a tenth of the largest do not count. Where too few are as different, others follow.",
        minimum=0.0,
        maximum=1.0,
    )
    nearest_row: bool = parameter(
        False,
        "Also give the nearest row of the background that has what is wanted, if model.toml says it is disclosable.",
    )


@method(
    "counterfactual",
    Params,
    verb=COUNTERFACTUAL,
    family="counterfactual",
    source="Wachter, Mittelstadt and Russell, 2017, https://arxiv.org/abs/1711.00399",
    cost=lambda params, question: Cost(forward=params.evaluations * len(question), least=Cost(forward=len(question))),
    rows_parameter="evaluations",
    answers_early=True,
    needs=(Need.FORWARD,),
    baselines=Background.NONE,
    skips_parts=True,
)
def counterfactual(model: Handle, question: tuple[CounterfactualQuestion, ...], params: Params) -> Iterator[Findings]:
    """Find the nearest row of which the model says what is wanted.

    What is given as valid was evaluated in exactly the values that are given, beyond what is wanted by more than
    rounding; a table's row obeys the rules of its columns. "Not found" within `evaluations` rows, or by the
    deadline, is an answer: it has the candidate that came closest.

    Raises
    ------
    UnsupportedError
        The model has no gradients and no table, or rows of its background may not be shown.
    """
    partial = False
    for each in question:
        shares = each.number / (question[-1].number + 1), (each.number + 1) / (question[-1].number + 1)
        found = _of_row(model, each, params, shares)
        partial |= found.accuracy is not None and found.accuracy.partial
        # The last part speaks for all.
        yield replace(found, accuracy=Accuracy(partial=partial))


def _of_row(model: Handle, question: CounterfactualQuestion, params: Params, shares: tuple[float, float]) -> Findings:
    _require_supported(question, params)
    judge = Judge(model, question, params.evaluations, shares=shares)
    rows = Rows({name: array[None] for name, array in question.inputs.items()})
    output = judge.outputs(rows)[0]
    score = float(judge.scores(rows)[0])
    # The row itself is given where it is what is wanted; also within a rounding of it.
    if satisfied(question, output, score):
        return _as_it_is(question, params, output, score)
    if question.cells:
        return _of_table(judge, question, params, output, score)
    return _of_field(judge, question, params, output, score)


def _require_supported(question: CounterfactualQuestion, params: Params) -> None:
    texts = next((name for name, feature in question.features.items() if feature.modality == "text"), None)
    if texts is not None:
        raise UnsupportedError(
            f"Input {texts!r} is text, of which there are no counterfactuals yet; they are of tables, pictures "
            "and tensors.",
            subject="counterfactual",
        )
    if params.nearest_row:
        require_disclosable(question)
        require(bool(question.cells), "nearest_row", True, "is for models of tables")
    if params.search == "gradient" or not question.cells:
        if question.gradients:
            what = "The counterfactual is looked for by gradient"
            raise UnsupportedError(f"{what}, and there is none: {question.gradients}.", subject="gradients")
        require(params.k == 1 or bool(question.cells), "k", params.k, "must be 1 for pictures and tensors")


def _as_it_is(question: CounterfactualQuestion, params: Params, output: Floats, score: float) -> Findings:
    prediction = report.named(output, question.labels)
    margin = float(lead(question.goal, output[None], np.array([score]))[0])
    line = Line("row", True, 0.0, 0, score, prediction, True, margin)
    found = {"counterfactuals": report.summary(question.number, [line], (score, prediction), "The distance.")}
    if question.cells:
        space = space_of(question, params.digits)
        found["changes"] = report.changes(question.number, space, [space.start])
        found["rows"] = report.rows(question.number, space, [space.start])
    said = f"Row {question.number} has what is wanted as it is: its counterfactual is the row itself, at distance 0."
    return Findings(tables=found, accuracy=Accuracy(), warnings=(said,))


def _of_table(judge: Judge, question: CounterfactualQuestion, params: Params, output: Floats, score: float) -> Findings:
    space = space_of(question, params.digits)
    found = tables.search(
        judge,
        space,
        question,
        by=_searches(question, params),
        distance=params.distance,
        count=params.k,
        budget=params.evaluations,
        diversity=params.diversity,
    )
    reason = "" if found.found else _reason(judge, impossible=found.impossible)
    candidates = [each.values for each in found.found]
    minimal: list[bool | None] = [each.minimal or None for each in found.found]
    sources = ["search"] * len(candidates)
    if params.nearest_row:
        unlike = nearest_unlike(judge, space, question, params.distance)
        if unlike is not None:
            candidates, minimal, sources = [*candidates, unlike], [*minimal, None], [*sources, "background"]
    answered = bool(found.found)
    if not answered and found.closest is not None:
        candidates, minimal, sources = [found.closest, *candidates], [None, *minimal], ["search", *sources]
    lines = _lines(judge, space, question, params, (candidates, minimal, sources), reason)
    if reason and found.closest is None:
        lines.append(report.nothing(reason))
    before = score, report.named(output, question.labels)
    return Findings(
        tables={
            "counterfactuals": report.summary(
                question.number, lines, before, report.measure_text(space, params.distance)
            ),
            "changes": report.changes(question.number, space, candidates),
            "rows": report.rows(question.number, space, candidates),
        },
        accuracy=Accuracy(partial=judge.late),
        warnings=_warnings(judge, question, params, len(found.found), reason, lines, found.alike),
    )


def _lines(
    judge: Judge,
    space: Space,
    question: CounterfactualQuestion,
    params: Params,
    shown: tuple[list[Floats], list[bool | None], list[str]],
    reason: str,
) -> list[Line]:
    """Ask the model of exactly what is shown: candidates, whether they are minimal, and where they are from."""
    candidates, minimal, sources = shown
    if not candidates:
        return []
    rows, sizes = space.recipe(np.stack(candidates)), space.distances(np.stack(candidates), params.distance)
    judge.last()
    outputs, scores = judge.outputs(rows), judge.scores(rows)
    leads = lead(question.goal, outputs, scores)
    return [
        Line(
            source,
            not reason or source == "background",
            float(sizes[at]),
            int((candidates[at] != space.start).sum()),
            float(scores[at]),
            report.named(outputs[at], question.labels),
            minimal[at],
            float(leads[at]),
            "" if source == "background" else reason,
        )
        for at, source in enumerate(sources)
    ]


def _reason(judge: Judge, *, impossible: bool) -> str:
    """Say why nothing was found, in one of the words of `report.REASONS`."""
    if impossible:
        return "impossible"
    if judge.late:
        return "deadline"
    # The last few rows do not suffice for one more round.
    return "budget" if judge.cut or judge.gone() > 0.95 else "ended"


def _searches(question: CounterfactualQuestion, params: Params) -> frozenset[str]:
    if params.search != "auto":
        return frozenset({params.search})
    return frozenset({"spheres", "genetic"} if question.gradients else {"gradient", "spheres", "genetic"})


def _of_field(judge: Judge, question: CounterfactualQuestion, params: Params, output: Floats, score: float) -> Findings:
    field = fields.field_of(question)
    if field.levels.any():
        # A picture that was sent as numbers is compared with in whole levels: that alone may be what is wanted.
        whole = Rows({name: array[None] for name, array in field.row(field.start).items()})
        its_output, its_score = judge.outputs(whole)[0], float(judge.scores(whole)[0])
        if satisfied(question, its_output, its_score):
            return _as_it_is(question, params, its_output, its_score)
    found = fields.search(judge, field, question, distance=params.distance)
    values = found.closest if found.values is None else found.values
    before = score, report.named(output, question.labels)
    measure = f"The {params.distance.upper()} distance from the row: of pictures in levels of 0 to 255."
    reason = "" if found.values is not None else _reason(judge, impossible=found.impossible)
    lines: list[Line] = []
    if values is None:
        lines = [report.nothing(reason)]
    else:
        values = np.where(field.levels, np.rint(values), values)
        row = Rows({name: array[None] for name, array in field.row(values).items()})
        judge.last()
        output, after_score = judge.outputs(row)[0], judge.scores(row)
        lines = [
            Line(
                "search",
                found.values is not None,
                fields.field_distance(field, values, params.distance),
                int((values != field.start).sum()),
                float(after_score[0]),
                report.named(output, question.labels),
                found.minimal,
                float(lead(question.goal, output[None], after_score)[0]),
                reason,
            )
        ]
    summary = report.summary(question.number, lines, before, measure)
    warnings = _warnings(judge, question, params, int(found.values is not None), reason, lines, 0)
    accuracy = Accuracy(partial=judge.late)
    if found.values is None or values is None:
        return Findings(tables={"counterfactuals": summary}, accuracy=accuracy, warnings=warnings)
    after = lines[0].prediction
    said = f"The counterfactual of row {question.number}, in the model's resolution"
    said += f": {after!r} in place of {before[1]!r}." if after != before[1] else "."
    return Findings(
        arrays=report.arrays(question, field, values),
        tables={"counterfactuals": summary},
        pictures=report.pictures(question, field, values, said),
        accuracy=accuracy,
        warnings=warnings,
    )


def _warnings(
    judge: Judge,
    question: CounterfactualQuestion,
    params: Params,
    count: int,
    reason: str,
    lines: list[Line],
    alike: int,
) -> tuple[str, ...]:
    found: list[str] = []
    number, wanted = question.number, params.k
    if not count:
        found.append(
            f"No counterfactual of row {number} was found: {_why(judge, params, reason)}{_missed(question, lines)}"
        )
    elif count < wanted:
        why = "before the deadline" if judge.late else f"within {params.evaluations:,} evaluations"
        found.append(f"Only {count} of {wanted} counterfactuals of row {number} were found {why}.")
    elif judge.late:
        found.append(f"The deadline ended the search for row {number}: there may be nearer counterfactuals.")
    if alike:
        found.append(f"{alike} of the counterfactuals of row {number} share more columns with another than wanted.")
    varied = set(question.cells) if question.cells else {n for n, f in question.features.items() if f.differentiable}
    held = [name for name in question.inputs if name not in varied or question.features[name].mask]
    found += [f"Input {name!r} was held at the row's own values." for name in held]
    return tuple(found)


def _why(judge: Judge, params: Params, reason: str) -> str:
    return {
        "impossible": "the rules allow no row of which the model says what is wanted.",
        "ended": f"the search ended after {judge.spent:,} of {params.evaluations:,} evaluations; there may be none "
        "within the rules.",
        "budget": f"{params.evaluations:,} evaluations were not enough; allow more.",
        "deadline": "the deadline came first; allow more time.",
    }[reason]


def _missed(question: CounterfactualQuestion, lines: list[Line]) -> str:
    """Say what was wanted, and by how much the closest candidate misses it."""
    closest = next((line for line in lines if not line.found and np.isfinite(line.margin)), None)
    goal = question.goal
    if goal.bounded:
        bounds = ((goal.minimum, "at least"), (goal.maximum, "at most"))
        wanted = "a score of " + " and ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None)
    else:
        element = goal.outcome if goal.outcome is not None else goal.other_than or 0
        name = repr(question.labels[element]) if question.labels else f"element {element}"
        wanted = f"{name} as the highest" if goal.outcome is not None else f"any other than {name} as the highest"
    missed = "" if closest is None else f"; the closest candidate misses it by {abs(closest.margin):.4g}"
    return f" Wanted is {wanted}{missed}."
