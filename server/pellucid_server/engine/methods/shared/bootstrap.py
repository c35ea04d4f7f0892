"""Percentile bootstrap intervals of means over rows.

Source: Efron, "Bootstrap methods: another look at the jackknife", The Annals of Statistics 7, 1979.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.arrays import generator

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95


def mean_intervals(
    values: Floats, seed: int, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Return the lower and the upper end of the interval of each column's mean, (columns,) each.

    Rows are drawn with replacement, all columns of a row together.

    Parameters
    ----------
    values
        (rows, columns), at least one row.
    """
    count = len(values)
    drawn = generator(seed, "bootstrap").multinomial(count, np.full(count, 1 / count), size=resamples)
    means = drawn @ values / count
    tail = (1 - level) / 2
    low, high = np.quantile(means, (tail, 1 - tail), axis=0)
    return np.asarray(low), np.asarray(high)
