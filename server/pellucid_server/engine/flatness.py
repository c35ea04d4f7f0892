"""What integrated gradients cannot see: elements that the score depends on and that have no gradient on the path.

A category's code that the model looks up in a table is such an element: the score jumps where the code does, and
the gradient is 0 on both sides of the jump. More points on the path never find it.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.handle import Handle
from pellucid_server.engine.naming import coded_columns, columns_text, elements_text
from pellucid_server.engine.paths import Line, Segment, rounding
from pellucid_server.engine.question import Arrays, Question

_SHARE_OF_GAP = 0.1
"""Share of the gaps that is worth saying what makes it."""

Flags = npt.NDArray[np.bool_]


def path_warnings(question: Question) -> tuple[str, ...]:
    """Say which columns of categories change along the path: what lies between two categories is no row's."""
    found = []
    for name, rows in question.baselines.items():
        feature = question.features[name]
        columns = coded_columns(feature, rows[0] != question.inputs[name])
        if columns:
            found.append(
                f"Along the path {columns_text(columns)} of input {name!r} takes values between categories, which no "
                "row has; feature-ablation and kernel-shap replace whole columns."
            )
    return tuple(found)


def stuck_text(model: Handle, question: Question, line: Line, segments: tuple[Segment, ...], *, every: bool) -> str:
    """Name the elements that have no gradient on the path although the score depends on them; empty if there are none.

    Only codes of categories are looked at, unless `every` element is to be. Two rows, where there are elements
    without a gradient.
    """
    sums = {name: sum(np.abs(segment.scores[name]) for segment in segments) for name in line.change}
    flat = _flat(line, {name: np.asarray(values) for name, values in sums.items()})
    if not every:
        flat = {name: flags & _coded(question, name) for name, flags in flat.items()}
    flat = {name: flags for name, flags in flat.items() if flags.any()}
    if not flat:
        return ""
    ends = _ends(question, flat)
    # As the path's ends were scored: two runtimes differ by more than some gaps.
    if line.corners_beside_points:
        values, _ = model.gradient(ends, question.target)
    else:
        values = model.scores(ends, question.target)
    jump = float(np.abs(values - [segments[0].begin_value, segments[-1].end_value]).max())
    gaps = sum(abs(segment.gap) for segment in segments)
    return _named(question, flat) if jump >= max(_SHARE_OF_GAP * gaps, rounding(values)) else ""


def flat_text(question: Question, line: Line, sums: Arrays) -> str:
    """Name the elements that changed and scored exactly 0; `sums` are (1, *features) each."""
    flat = _flat(line, {name: rows[0] for name, rows in sums.items()})
    return _named(question, {name: flags for name, flags in flat.items() if flags.any()})


def _flat(line: Line, sums: Arrays) -> dict[str, Flags]:
    return {name: np.asarray((change != 0) & (sums[name] == 0)) for name, change in line.change.items()}


def _coded(question: Question, name: str) -> Flags:
    coded = question.features[name].coded
    shape = question.inputs[name].shape
    return np.zeros(shape, np.bool_) if coded is None else coded.reshape(shape)


def _ends(question: Question, flat: dict[str, Flags]) -> Arrays:
    """Return the path's two ends as rows, (2, *features) each, with the flat elements as at the other end.

    Inputs without a gradient are as in the row at both ends, as on the whole path.
    """
    rows: dict[str, npt.NDArray[np.generic]] = {}
    for name, row in question.inputs.items():
        start = question.baselines[name][0] if question.features[name].differentiable else row
        flags = flat.get(name, np.zeros(row.shape, np.bool_))
        rows[name] = np.stack([np.where(flags, row, start), np.where(flags, start, row)])
    return rows


def _named(question: Question, flat: dict[str, Flags]) -> str:
    return " and ".join(elements_text(name, question.features[name], flags) for name, flags in flat.items())
