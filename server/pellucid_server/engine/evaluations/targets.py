"""The score that is asked for: elements of an output, read in a space, weighted and added."""

import functools
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.device.kernel import Parts

_ELEMENTS = 2
"""Elements that targets are padded to, so that a class and a difference of two pack together."""


def layout(target: Target) -> tuple[str, str, int]:
    """Return what targets have in common whose rows may share a chunk: the output, its space, how many elements."""
    return target.output, target.space, max(_ELEMENTS, len(target.elements))


class _Targeted(Protocol):
    """An ask with a target: the only ones whose kernels read scores."""

    @property
    def target(self) -> Target: ...


def _of_rows(parts: Parts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the indices and weights of each row's target, (rows, elements) each; parts may have different ones."""
    found = [_elements(ask.target.elements) for ask, _ in cast("Sequence[tuple[_Targeted, int]]", parts)]
    counts = [count for _, count in parts]
    indices, weights = (np.repeat(np.stack(each), counts, axis=0) for each in zip(*found, strict=True))
    return indices, weights


@functools.lru_cache(maxsize=4096)
def _elements(elements: tuple[tuple[int, float], ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    padded = (*elements, *(((elements[0][0], 0.0),) * (_ELEMENTS - len(elements))))
    return np.array([index for index, _ in padded], np.int64), np.array([weight for _, weight in padded], np.float32)


def scores(values: torch.Tensor, space: str, parts: Parts) -> torch.Tensor:
    """Return the score of each row, (rows,), differentiable; `values` is the target's output, (rows, *shape)."""
    if values.dtype in {torch.float16, torch.bfloat16}:
        # Probabilities in half precision have three digits.
        values = values.float()
    values = probabilities_of(values, space)
    values = values.reshape(len(values), -1)  # An output with one number for each row has no axis to flatten.
    indices, weights = (torch.from_numpy(each).to(values.device) for each in _of_rows(parts))
    return (values.gather(1, indices) * weights.to(values.dtype)).sum(1)


def scores_of_arrays(values: npt.NDArray[np.generic], space: str, parts: Parts) -> npt.NDArray[np.float64]:
    """Return the score of each row, (rows,), in float64; `values` is the target's output, (rows, *shape)."""
    # What overflows is refused, with where it came up, by who asked.
    with np.errstate(all="ignore"):
        read = probabilities(values.astype(np.float64), space).reshape(len(values), -1)
        indices, weights = _of_rows(parts)
        chosen: npt.NDArray[np.float64] = np.take_along_axis(read, indices, axis=1) * weights
        return np.asarray(chosen.sum(axis=1))


def probabilities_of(values: torch.Tensor, space: str) -> torch.Tensor:
    """Read an output in a target's space; softmax goes over the last axis."""
    if space == "softmax":
        return values.softmax(-1)
    if space == "sigmoid":
        return values.sigmoid()
    return values


def probabilities(values: npt.NDArray[np.float64], space: str) -> npt.NDArray[np.float64]:
    """Read an output, (rows, *shape), in a target's space; softmax goes over the last axis."""
    if space == "softmax":
        exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
    if space == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))
    return values
