"""Which of several counterfactuals to give: near ones that differ.

Source: Mothilal, Sharma and Tan, "Explaining machine learning classifiers through diverse counterfactual
explanations", FAccT 2020: a determinant of 1 / (1 + distance); and greedy choice, Chen, Zhang and Zhou, NeurIPS 2018.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.projection import between

Floats = npt.NDArray[np.float64]

_LEAST_VOLUME = 1e-9


def diverse(changes: Floats, sizes: Floats, count: int, kind: str) -> list[int]:
    """Choose up to `count` rows of changes, (rows, columns): the nearest, then what adds most to the determinant.

    Parameters
    ----------
    sizes
        The distance of each from the row, (rows,): what is twice as far as the nearest counts less.
    """
    if not len(changes):
        return []
    least = max(float(sizes.min()), 1e-12)
    quality = np.exp(-(sizes - least) / (2 * least))
    apart = np.stack([between(changes, each, kind) for each in changes])
    kernel = quality[:, None] * quality[None] / (1 + apart / least)
    # The greedy choice is a Cholesky factorization that takes the largest pivot left.
    left, rows, chosen = kernel.diagonal().copy(), np.zeros((0, len(changes))), [int(sizes.argmin())]
    while len(chosen) < min(count, len(changes)):
        at = chosen[-1]
        row = (kernel[at] - rows.T @ rows[:, at]) / np.sqrt(max(float(left[at]), _LEAST_VOLUME))
        rows = np.concatenate([rows, row[None]])
        left = left - np.square(row)
        left[chosen] = -np.inf
        found = int(left.argmax())
        if left[found] <= _LEAST_VOLUME:
            break
        chosen.append(found)
    return chosen
