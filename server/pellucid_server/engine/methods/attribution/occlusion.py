"""Occlusion: how much the score falls when a window of the input is replaced by the baseline.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Attribution, Feature, Question
from pellucid_server.engine.asking.registry import Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.evaluations import recipes
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.methods.shared.arrays import as_scores
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import ParamValue

_PICTURE_WINDOW = 32
_LIMIT = 16384
"""Most windows of a row."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of occlusion."""

    window: int | None = parameter(
        None,
        "Length of the window along a picture's height and width in pixels, a table's columns, or every axis of a "
        f"tensor. Left out: {_PICTURE_WINDOW} for pictures, 1 for tables and tensors.",
        minimum=1,
        maximum=4096,
    )
    stride: int | None = parameter(
        None,
        "Distance between neighbouring windows, at most the window's length. Left out: half of it, rounded up.",
        minimum=1,
        maximum=4096,
    )


class Windows(recipes.Masks):
    """Every place of the window on one input.

    A window is an interval on each axis of the input's cells: a picture's pixels with all their channels, a
    table's columns, a tensor's elements. At the far edge it is cut off, so that every cell is covered.
    """

    def __init__(self, feature: Feature, row: npt.NDArray[np.generic], window: int, stride: int) -> None:
        self._window, self._stride = window, stride
        self._row_shape = row.shape
        self._columns = None
        self._lengths: tuple[int, ...] = row.shape
        if feature.modality == "image":
            self._lengths = row.shape[1:]
        elif feature.modality == "tabular" and feature.groups is not None:
            self._columns = feature.groups.reshape(row.shape)
            self._lengths = (int(feature.groups.max()) + 1,)
        self._places = tuple(-(-max(length - window, 0) // stride) + 1 for length in self._lengths)
        self.count = math.prod(self._places)

    def covered(self, number: int) -> tuple[slice, ...] | Flags:
        """Return the part of a row, (*features), that the window of this number covers."""
        axes = len(self._places)
        places = np.unravel_index(number, self._places) if axes else ()
        window = tuple(
            slice(int(place) * self._stride, min(int(place) * self._stride + self._window, length))
            for place, length in zip(places, self._lengths, strict=True)
        )
        if self._columns is not None:
            return (self._columns >= window[0].start) & (self._columns < window[0].stop)
        return (slice(None),) * (len(self._row_shape) - axes) + window

    def means(self, effects: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Average the windows' effects, (windows,), at each element over the windows that cover it, (*features)."""
        found = effects.reshape(self._places)
        for axis, length in enumerate(self._lengths):
            found = self._means_along(np.moveaxis(found, axis, 0), length)
            found = np.moveaxis(found, 0, axis)
        if self._columns is not None:
            # Elements share their column's score, so that their sum, which callers read, is the column's.
            found = (found / np.bincount(self._columns.reshape(-1)))[self._columns]
        return np.broadcast_to(found, self._row_shape)

    def _means_along(self, effects: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
        """Average effects, (places, ...), at each cell of one axis over the windows that cover it, (length, ...)."""
        cells = np.arange(length)
        sums, counts = np.zeros((length, *effects.shape[1:])), np.zeros(length)
        # A cell's last window starts at or before it; the others are the ones before.
        for back in range(min(-(-self._window // self._stride), len(effects))):
            place = np.minimum(cells // self._stride, len(effects) - 1) - back
            covered = (place >= 0) & (cells < place * self._stride + self._window)
            sums[covered] += effects[place[covered]]
            counts += covered
        return sums / counts.reshape(-1, *(1,) * (effects.ndim - 1))


def _cost(params: Params, question: Question) -> Cost:
    return Cost(forward=_count(_windows(question, params), question) + 2)


@method(
    "occlusion",
    Params,
    verb=ATTRIBUTE,
    family="perturbation",
    source="Zeiler and Fergus, ECCV 2014, https://arxiv.org/abs/1311.2901",
    cost=_cost,
    needs=(Need.FORWARD,),
)
def occlusion(model: Handle, question: Question, params: Params) -> Attribution:
    """Score each element by how much the target falls when a window over it is at the baseline.

    An element's score is the mean, over the windows that cover it, of the score's fall, in units of the target,
    (*features); a picture's channels are covered together and each have that score; the elements of a table's column
    share its score. Scores need not sum to the target's
    change. A row forward for each window, and two more.

    Raises
    ------
    InvalidRequestError
        The stride exceeds the window, or there are too many windows.
    """
    windows = _windows(question, params)
    _count(windows, question)
    rows = recipes.Windows(question.inputs, question.baseline, windows)
    scores = model.ask(Score(rows, question.target), progress=(0.0, 1.0)).scores
    effects = scores[-1] - scores[:-2]
    starts = _starts(windows)
    return Attribution(
        as_scores(
            {name: entry.means(effects[starts[name] :][: entry.count]) for name, entry in windows.items()},
            question.inputs,
        ),
        instance_value=float(scores[-1]),
        baseline_value=float(scores[-2]),
        resolved=_resolved({_lengths(question.features[name], params) for name in question.inputs}),
    )


def _windows(question: Question, params: Params) -> dict[str, Windows]:
    return {
        name: Windows(question.features[name], row, *_lengths(question.features[name], params))
        for name, row in question.inputs.items()
    }


def _count(windows: dict[str, Windows], question: Question) -> int:
    """Return how many windows there are on all inputs; refuse too many."""
    count = sum(entry.count for entry in windows.values())
    if count > _LIMIT:
        shapes = ", ".join(f"{name!r} of shape {list(row.shape)}" for name, row in question.inputs.items())
        raise InvalidRequestError(
            f"There are {count} windows on the inputs ({shapes}), more than the {_LIMIT} that can be evaluated; "
            "set a longer window or stride.",
            field='parameters["window"]',
        )
    return count


def _lengths(feature: Feature, params: Params) -> tuple[int, int]:
    """Return the window and the stride for an input."""
    window = params.window or (_PICTURE_WINDOW if feature.modality == "image" else 1)
    stride = params.stride or (window + 1) // 2
    require(stride <= window, "stride", stride, f"must be at most the window, {window}, or elements would be left out")
    return window, stride


def _resolved(lengths: set[tuple[int, int]]) -> dict[str, ParamValue]:
    """Return the window and the stride where all inputs have the same: no one value says what a mixture had."""
    columns = zip(("window", "stride"), zip(*lengths, strict=True), strict=True)
    return {name: values[0] for name, values in columns if len(set(values)) == 1}


def _starts(windows: dict[str, Windows]) -> dict[str, int]:
    """Return the number of each input's first window: windows are numbered across inputs."""
    counts = [0, *(entry.count for entry in windows.values())]
    return dict(zip(windows, np.cumsum(counts).tolist(), strict=False))
