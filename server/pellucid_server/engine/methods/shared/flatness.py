"""What integrated gradients cannot see: elements that the score depends on and that have no gradient on the path.

A category's code that the model looks up in a table is such an element: the score jumps where the code does, and
the gradient is 0 on both sides of the jump. More points on the path never find it.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.naming import coded_columns, columns_text, elements_text
from pellucid_server.engine.asking.question import Arrays, Question
from pellucid_server.engine.evaluations.folds import ScoresOnly
from pellucid_server.engine.methods.shared.paths import Line, Segment, rounding

_SHARE_OF_GAPS = 0.1
"""Share of the gaps' magnitudes that an effect must have for it to be what the gaps come from."""

Flags = npt.NDArray[np.bool_]


def path_warnings(question: Question) -> tuple[str, ...]:
    """Say which columns of categories change along the path: what lies between two categories is in no row."""
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

    It depends on them if it moves otherwise along the path once they are held at the row's values. Only codes of
    categories are looked at, unless `every` element is to be. A row for each end of a segment, where there are
    elements without a gradient.
    """
    if not every and all(_coded(question, name) is None for name in line.change):
        return ""
    sums = {name: sum(np.abs(segment.slopes[name]) for segment in segments) for name in line.change}
    flat = _flat(line, {name: np.asarray(values) for name, values in sums.items()})
    if not every:
        flat = {name: flags & coded for name, flags in flat.items() if (coded := _coded(question, name)) is not None}
    flat = {name: flags for name, flags in flat.items() if flags.any()}
    if not flat:
        return ""
    places = np.array([0.0, *(segment.end for segment in segments)])
    # As the segments' ends were scored: two runtimes differ by more than some gaps.
    ask = (
        line.gradients(places, fold=ScoresOnly(), held=flat)
        if line.corners_beside_points
        else line.scores(places, held=flat)
    )
    held = model.ask(ask).scores
    values = np.array([segments[0].begin_value, *(segment.end_value for segment in segments)])
    effects = np.abs(np.diff(values - held)).sum()
    gaps = sum(abs(segment.gap) for segment in segments)
    return _named(question, flat) if effects >= max(_SHARE_OF_GAPS * gaps, rounding(values)) else ""


def flat_text(question: Question, line: Line, slopes: Arrays) -> str:
    """Name the elements that changed and whose slope was exactly 0; `slopes` are (1, *features) each."""
    flat = _flat(line, {name: rows[0] for name, rows in slopes.items()})
    return _named(question, {name: flags for name, flags in flat.items() if flags.any()})


def _flat(line: Line, slopes: Arrays) -> dict[str, Flags]:
    return {name: np.asarray((change != 0) & (slopes[name] == 0)) for name, change in line.change.items()}


def _coded(question: Question, name: str) -> Flags | None:
    """Return the elements of an input that stand for a category; None if there are none, as in a layer."""
    feature = question.features.get(name)
    return None if feature is None or feature.coded is None else feature.coded.reshape(question.inputs[name].shape)


def _named(question: Question, flat: dict[str, Flags]) -> str:
    return " and ".join(
        elements_text(name, question.features[name], flags)
        if name in question.features
        else f"{int(flags.sum())} of the {flags.size} values of layer {name!r}"
        for name, flags in flat.items()
    )
