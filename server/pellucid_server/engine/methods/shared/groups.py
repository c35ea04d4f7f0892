"""Groups of input elements that are present or absent together: the players of a game about one row.

A table's elements are grouped by column, a picture's by region, a tensor's elements stand each alone.
Groups are numbered across all inputs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.segmentation import slic

from pellucid_server.engine.asking.duration import takes
from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays, Feature, Question, Scores
from pellucid_server.engine.evaluations.recipes import Masked
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.errors import InvalidRequestError

LIMIT = 512
"""Most groups of a row: beyond it, scores found group by group cost too much and say too little."""

_LEAST_REGION = 0.25
"""Smallest superpixel, as a share of a picture's area divided by the regions asked for; they come twice as large."""

Labels = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Groups:
    """A division of a row's elements into groups.

    Attributes
    ----------
    labels
        The group of each element, broadcastable to (*features), for each input.
    count
        How many groups there are; labels are in [0, count).
    """

    labels: Mapping[str, Labels]
    count: int

    def varying(self, inputs: Arrays, baselines: Arrays) -> npt.NDArray[np.intp]:
        """Return the groups in which some baseline row differs from the row: only they can score."""
        found = np.zeros(self.count, np.bool_)
        for name, labels in self.labels.items():
            differs = (baselines[name] != inputs[name]).any(axis=0)
            found[np.broadcast_to(labels, differs.shape)[differs]] = True
        return np.flatnonzero(found)

    def spread(self, group_scores: npt.NDArray[np.float64], inputs: Arrays) -> dict[str, npt.NDArray[np.float64]]:
        """Give each element, (*features), an equal share of its group's score, so that sums hold."""
        sizes = np.zeros(self.count)
        for name, labels in self.labels.items():
            copies = inputs[name].size // labels.size
            sizes += copies * np.bincount(labels.reshape(-1), minlength=self.count)
        shares = group_scores / np.maximum(sizes, 1.0)
        return {name: np.broadcast_to(shares[labels], inputs[name].shape) for name, labels in self.labels.items()}


def group(model: Handle, question: Question, *, segments: int, regions: str) -> Groups:
    """Divide the row's elements into groups.

    Parameters
    ----------
    segments
        About how many regions a picture is cut into.
    regions
        "superpixels", which follow the picture's colours and edges, or "grid", near-square tiles.

    Raises
    ------
    InvalidRequestError
        There would be more than `LIMIT` groups.
    """
    labels: dict[str, Labels] = {}
    count = 0
    for name, row in question.inputs.items():
        found, added = _labels(model, question.features[name], row, segments, regions)
        labels[name] = found + np.int32(count) if count else found
        count += added
    _require_countable(count, question.inputs)
    return Groups(labels, count)


def varying_counts(question: Question, *, segments: int, regions: str) -> tuple[int, int]:
    """Return how many groups differ from the baseline at least, and about how many do, without dividing a picture.

    The two are equal but for superpixels, which are only found by looking for them; see `group` for the parameters.

    Raises
    ------
    InvalidRequestError
        There would be more than `LIMIT` groups.
    """
    least = likely = every = 0
    for name, row in question.inputs.items():
        feature, differs = question.features[name], (question.baselines[name] != row).any(axis=0)
        if feature.modality == "image" and regions == "superpixels":
            few, about = _varying_regions(differs.any(axis=0), segments)
            all_groups = few
        else:
            labels, all_groups = _plain_labels(feature, row, segments)
            few = about = len(np.unique(np.broadcast_to(labels, row.shape)[differs]))
        least, likely, every = least + few, likely + about, every + all_groups
    _require_countable(every, question.inputs)
    return least, likely


def coalition_values(
    model: Handle, question: Question, groups: Groups, present: Flags, *, progress: tuple[float, float] = (0.0, 1.0)
) -> Scores:
    """Score the row with only some groups present, the others as in the baseline.

    Parameters
    ----------
    present
        Which groups each coalition has, (coalitions, groups); no coalition but the last may have all.
    progress
        The share of the request that is done before and after.

    Returns
    -------
    The target's score of each coalition, (coalitions,), averaged over the baseline rows.
    """
    baselines = len(next(iter(question.baselines.values())))
    rows = Masked(question.inputs, question.baselines, groups.labels, present)
    scores = model.ask(Score(rows, question.target), progress=progress).scores
    # With all groups present the baseline rows make no difference: one row is enough.
    full = bool(present[-1].all())
    means = scores[: len(scores) - full].reshape(-1, baselines).mean(axis=1)
    return np.append(means, scores[len(scores) - full :])


def _superpixel_seconds(picture: npt.NDArray[np.floating], segments: int) -> float:
    """Return about how long superpixels take: 0.1 s for 3 x 224 x 224, whatever the segments."""
    channels, *plane = np.shape(picture) or (1,)
    seconds: float = (1.2 + 0.25 * channels) * 1e-6 * math.prod(plane)
    return seconds


@takes(_superpixel_seconds)
def superpixels(picture: npt.NDArray[np.floating], segments: int) -> Labels:
    """Cut a picture, (channels, height, width), into about `segments` regions of like colour.

    Source: Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", TPAMI 2012.

    Returns
    -------
    The region of each pixel, (height, width), numbered from 0. Where the picture is too even or too noisy to
    have regions, it is cut into a grid.
    """
    low, high = float(picture.min()), float(picture.max())
    scaled = (np.moveaxis(picture, 0, -1) - low) / ((high - low) or 1.0)
    found = slic(scaled, n_segments=segments, compactness=10, start_label=0, channel_axis=-1)
    if 2 * (found.max() + 1) < segments:
        return grid(picture.shape[1], picture.shape[2], segments)
    return np.asarray(found, np.int32)


def grid(height: int, width: int, segments: int) -> Labels:
    """Cut a picture into about `segments` near-square tiles; return the tile of each pixel, (height, width)."""
    side = math.sqrt(height * width / segments)
    down, across = (min(length, max(1, round(length / side))) for length in (height, width))
    rows, columns = np.arange(height) * down // height, np.arange(width) * across // width
    return (rows[:, np.newaxis] * across + columns).astype(np.int32)


def _labels(
    model: Handle, feature: Feature, row: npt.NDArray[np.generic], segments: int, regions: str
) -> tuple[Labels, int]:
    """Return the group of each element of one input, numbered from 0, and how many there are."""
    if feature.modality == "image" and regions == "superpixels":
        plane = model.compute(superpixels, row, segments)
        return plane[np.newaxis], int(plane.max()) + 1
    return _plain_labels(feature, row, segments)


def _plain_labels(feature: Feature, row: npt.NDArray[np.generic], segments: int) -> tuple[Labels, int]:
    """Return what `_labels` does for tables, tensors, and pictures cut into a grid."""
    if feature.modality == "tabular" and feature.groups is not None:
        return feature.groups.reshape(row.shape), int(feature.groups.max()) + 1
    if feature.modality == "image":
        plane = grid(row.shape[1], row.shape[2], segments)
        return plane[np.newaxis], int(plane.max()) + 1
    return np.arange(row.size, dtype=np.int32).reshape(row.shape), row.size


def _varying_regions(differs: Flags, segments: int) -> tuple[int, int]:
    """Return by which pixels differ, (height, width), how many superpixels do at least, and about how many do."""
    if not differs.any():
        return 0, 0
    regions = min(-(-segments // 2), int(grid(differs.shape[0], differs.shape[1], segments).max()) + 1)
    alike = differs.size - int(differs.sum())
    # One region may be smaller than the others.
    others = alike // max(1, int(_LEAST_REGION * differs.size / segments)) + 1 if alike else 0
    return max(1, regions - others), min(segments, differs.size)


def _require_countable(count: int, inputs: Arrays) -> None:
    if count > LIMIT:
        sizes = ", ".join(f"{name!r} of shape {list(row.shape)}" for name, row in inputs.items())
        raise InvalidRequestError(
            f"The inputs ({sizes}) have {count} groups, more than the {LIMIT} that can be scored one by one; "
            "use occlusion with a window, or a gradient method.",
            field="method",
        )
