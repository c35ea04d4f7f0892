"""Errors of predicted numbers by subset, and bootstrap intervals of their means: rows are kept, as few numbers each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.duration import takes
from pellucid_server.engine.methods.shared.arrays import generator
from pellucid_server.errors import InvalidRequestError

Floats = npt.NDArray[np.float64]

MOST_NUMBERS = 1 << 23
"""Errors that one study keeps."""


class Misses:
    """Squared and absolute errors of each row, without changes and with each."""

    def __init__(self, changes: int) -> None:
        self._changes = changes
        self._errors: list[Floats] = []
        self._subsets: list[npt.NDArray[np.int32]] = []

    def add(self, subsets: Sequence[npt.NDArray[np.intp]], errors: Floats) -> None:
        """Add rows: the numbers of their subsets, and their errors, (rows, 1 + changes, 2)."""
        self._errors.append(errors)
        self._subsets.append(np.stack(subsets, axis=1).astype(np.int32))

    def expect(self, rows: int) -> None:
        """Refuse rows, before there are any errors of them, with which more numbers would be kept than may be.

        Raises
        ------
        InvalidRequestError
            They are too many.
        """
        kept = sum(map(len, self._errors))
        if (kept + rows) * 2 * (1 + self._changes) > MOST_NUMBERS:
            text = (
                f"The data set has so many rows that the errors of {self._changes} changes are above {MOST_NUMBERS} "
                'numbers; name fewer sites, or limit parameters["rows"].'
            )
            raise InvalidRequestError(text, field='parameters["rows"]')

    def of(self, subset: int) -> Floats:
        """Return the errors of a subset's rows, (rows, 1 + changes, 2)."""
        errors, numbers = np.concatenate(self._errors), np.concatenate(self._subsets)
        found: Floats = errors[(numbers == subset).any(axis=1)]
        return found

    @property
    def means(self) -> Floats:
        """Means over all rows, (1 + changes, 2)."""
        found: Floats = np.concatenate(self._errors).mean(axis=0)
        return found


def _seconds(errors: Floats, seed: int, name: str, resamples: int, level: float) -> float:
    return resamples * (2e-8 * len(errors) + 2e-9 * errors.size + 2e-5)


@takes(_seconds)
def error_estimates(errors: Floats, seed: int, name: str, resamples: int, level: float) -> Floats:
    """Return means and bootstrap intervals over rows, (1 + changes, 2, 2, 3).

    The axes are: without and with each change; squared and absolute error; the mean and the difference to the mean
    without changes; value, low and high, NaN without resamples. Rows are drawn with replacement, all numbers of a row
    together.
    """
    rows = len(errors)
    both = np.stack([errors, errors - errors[:, :1]], axis=-1).reshape(rows, -1)
    found = np.full((both.shape[1], 3), np.nan)
    found[:, 0] = both.mean(axis=0)
    if resamples:
        source = generator(seed, f"bootstrap/{name}")
        means = np.empty((resamples, both.shape[1]))
        for place in range(resamples):
            weights = np.bincount(source.integers(rows, size=rows), minlength=rows)
            means[place] = weights @ both / rows
        tail = (1 - level) / 2
        found[:, 1:] = np.quantile(means, (tail, 1 - tail), axis=0).T
    return found.reshape(*errors.shape[1:], 2, 3)
