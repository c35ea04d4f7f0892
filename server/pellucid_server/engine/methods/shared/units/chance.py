"""What two independent masks share by chance."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_EXACT = 512
"""Sizes of the smaller mask up to which every intersection is weighed by its probability."""


def iou_by_chance(one: Counts, other: Counts, pixels: Counts) -> Floats:
    """Return the expected intersection over union of two masks that lie anywhere, independently, (n,).

    The intersection of masks of `one` and `other` of `pixels` pixels is then hypergeometric. Where the smaller mask is
    large, the expectation is expanded to second order around the mean, which is right to some 1e-6 there.
    """
    sizes = zip(one.tolist(), other.tolist(), pixels.tolist(), strict=True)
    return np.array([_expected(min(mine, theirs), max(mine, theirs), count) for mine, theirs, count in sizes])


def _expected(few: int, many: int, pixels: int) -> float:
    if not few:
        return 0.0
    both = few + many
    if few <= _EXACT:
        shared = np.arange(max(0, both - pixels), few + 1)
        logs = (
            _log_choose(many, shared) + _log_choose(pixels - many, few - shared) - _log_choose(pixels, np.array([few]))
        )
        return float((np.exp(logs) * shared / (both - shared)).sum())
    mean = few * many / pixels
    variance = mean * (1 - many / pixels) * (pixels - few) / max(pixels - 1, 1)
    return mean / (both - mean) + both / (both - mean) ** 3 * variance


def _log_choose(many: int, few: Counts) -> Floats:
    return np.array([math.lgamma(many + 1) - math.lgamma(k + 1) - math.lgamma(many - k + 1) for k in few.tolist()])
