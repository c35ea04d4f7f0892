"""Arithmetic on dicts of arrays, one array for each model input."""

import math
import zlib

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Question

Array = npt.NDArray[np.generic]

_THREE_DIGITS = 2.0**-10
"""Share of an array's largest score that the others may be off by."""


def as_rows(row: Arrays) -> Arrays:
    """Return views of one row, (*features) each, as rows, (1, *features) each."""
    return {name: array[np.newaxis] for name, array in row.items()}


def differentiable_inputs(question: Question) -> tuple[str, ...]:
    """Return the names of the inputs that have a gradient."""
    return tuple(name for name in question.inputs if question.features[name].differentiable)


def fixed_warnings(question: Question) -> tuple[str, ...]:
    """Say which inputs a gradient method cannot attribute to."""
    return tuple(
        f"Input {name!r} is not floating-point: it was held at its value and scores 0."
        for name, feature in question.features.items()
        if not feature.differentiable
    )


def as_scores(values: Arrays, inputs: Arrays) -> Arrays:
    """Return `values` as scores of `inputs`: an array for each, 0 where there is no value.

    Scores have the input's type if it is floating-point with 32 bits or more, else float32; and float64 where
    those of a model that computes in it are beyond float32.
    """
    return {
        name: _as_score(values[name], score_type(array.dtype))
        if name in values
        else np.zeros(array.shape, score_type(array.dtype))
        for name, array in inputs.items()
    }


def _as_score(values: Array, dtype: np.dtype[np.generic]) -> Array:
    # Of arrays without axes, numpy makes numbers wherever it computes.
    found = narrowed(np.asarray(values), dtype)
    return np.asarray(values, np.float64) if found is None else found


def narrowed(values: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """Return floating-point values in another type, or None where it cannot hold three digits of the largest.

    Values that are not finite are converted as they are.
    """
    with np.errstate(over="ignore", under="ignore"):
        found = values.astype(dtype)
    if values.dtype == dtype or np.can_cast(values.dtype, dtype):
        return found
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        return found
    error = np.abs(found.astype(np.float64) - values.astype(np.float64)).max(initial=0.0)
    return found if error <= _THREE_DIGITS * largest else None


def score_type(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the type of scores of an input of type `dtype`."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def total(arrays: Arrays) -> float:
    """Return the sum of all elements of all arrays, added in float64."""
    return sum(float(array.sum(dtype=np.float64)) for array in arrays.values())


def generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator that depends on the seed and the name alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))
