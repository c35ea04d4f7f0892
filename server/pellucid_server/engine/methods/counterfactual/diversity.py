"""Which of several counterfactuals to give: near ones that differ.

Source: Mothilal, Sharma and Tan, "Explaining machine learning classifiers through diverse counterfactual
explanations", FAccT 2020: a determinant of 1 / (1 + distance); and greedy choice, Chen, Zhang and Zhou, NeurIPS 2018.
"""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.projection import between

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_LEAST_VOLUME = 1e-9


_MARKED = 0.1
"""Share of a candidate's largest change from which on a change counts as one of its own."""


def diverse(changes: Floats, sizes: Floats, count: int, kind: str, share: float = 0.0) -> tuple[list[int], int]:
    """Choose up to `count` rows of changes, (rows, columns): the nearest, then what adds most to the determinant.

    Parameters
    ----------
    sizes
        The distance of each from the row, (rows,): what is twice as far as the nearest counts less.
    share
        Of the columns that two of them change, the share, in [0, 1], that only one of them shall change. Where too
        few are as different as that, others follow.

    Returns
    -------
    chosen, alike
        The rows chosen, and how many of those, the last ones, are not as different.
    """
    if not len(changes):
        return [], 0
    least = max(float(sizes.min()), 1e-12)
    quality = np.exp(-(sizes - least) / (2 * least))
    apart = np.stack([between(changes, each, kind) for each in changes])
    kernel = quality[:, None] * quality[None] / (1 + apart / least)
    marked = changed(np.abs(changes))
    # The greedy choice is a Cholesky factorization that takes the largest pivot left.
    left, rows, chosen = kernel.diagonal().copy(), np.zeros((0, len(changes))), [int(sizes.argmin())]
    fits, alike = np.ones(len(changes), bool), 0
    while len(chosen) < min(count, len(changes)):
        at = chosen[-1]
        row = (kernel[at] - rows.T @ rows[:, at]) / np.sqrt(max(float(left[at]), _LEAST_VOLUME))
        rows = np.concatenate([rows, row[None]])
        left = left - np.square(row)
        left[chosen] = -np.inf
        fits &= _unlike(marked, marked[at]) >= share
        some = np.where(fits, left, -np.inf)
        found = int(some.argmax())
        if some[found] <= _LEAST_VOLUME:
            found = int(left.argmax())
            if left[found] <= _LEAST_VOLUME:
                break
            alike += 1
        chosen.append(found)
    return chosen, alike


def changed(sizes: Floats) -> Flags:
    """Tell which columns each row of sizes of changes, (rows, columns), changes, but for those it changes little."""
    return np.asarray((sizes > 0) & (sizes >= _MARKED * sizes.max(axis=1, keepdims=True)))


def _unlike(marked: Flags, one: Flags) -> Floats:
    """Return of the columns that each row or `one` changes the share that only one of the two does, (rows,)."""
    either = (marked | one).sum(axis=1)
    return np.asarray((marked ^ one).sum(axis=1) / np.maximum(either, 1))
