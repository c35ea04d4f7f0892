"""Rows that stand for absence, made in the model's input space, after preprocessing."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pellucid_server.engine.question import Arrays, Feature
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.jobs import Array

KINDS = ("zeros", "mean", "blur", "background")
MOST_SIGMA = 100.0


def baseline_rows(
    kind: str, row: Arrays, *, features: Mapping[str, Feature], background: Arrays, sigma: float, field: str
) -> tuple[str, Arrays]:
    """Make the baseline of a row.

    Parameters
    ----------
    kind
        One of `KINDS`, or "" for the default: "mean" for a model with a table and a background, else "zeros".
    row
        The row to be explained, (*features) each.
    features
        What each input is.
    background
        The model's background, (rows, *features) each; empty if it has none.
    sigma
        For "blur": standard deviation in pixels, in (0, 100].
    field
        Path of the baseline in the request, for errors.

    Returns
    -------
    kind, baselines
        The kind, resolved, and (baselines, *features) each: the background's rows, or one row. Whole
        numbers have no mean that a model could take: their "mean" is the most frequent value.

    Raises
    ------
    InvalidRequestError
        The kind is unknown, or sigma is out of range.
    UnsupportedError
        The model has no background where one is needed, or it is of another shape than the row, or
        "blur" is asked of what is not a picture.
    """
    if kind == "":
        tabular = any(feature.modality == "tabular" for feature in features.values())
        kind = "mean" if tabular and background else "zeros"
    if kind not in KINDS:
        raise InvalidRequestError(f"{field}.kind is {kind!r}; it must be one of: {', '.join(KINDS)}.", field=field)
    if kind in ("mean", "background") and background:
        _require_shapes(kind, row, background)
    if kind == "zeros":
        return kind, {name: np.zeros_like(array)[None] for name, array in row.items()}
    if kind == "blur":
        return kind, {name: _blurred(array, features[name], name, sigma, field)[None] for name, array in row.items()}
    if kind == "mean":
        return kind, {name: _mean(name, array, features[name], background)[None] for name, array in row.items()}
    if not background:
        raise UnsupportedError(
            "The model has no background rows to compare with; set the baseline to ZEROS or GIVEN, or add a background "
            "to its model.toml.",
            subject="background",
        )
    return kind, {name: background[name] for name in row}


def blurred(rows: Array, sigma: float) -> Array:
    """Blur pictures, (rows, channels, height, width), by a Gaussian of `sigma` pixels; edges are continued."""
    return np.asarray(ndimage.gaussian_filter(rows, (0, 0, sigma, sigma), mode="nearest"))


def _blurred(array: Array, feature: Feature, name: str, sigma: float, field: str) -> Array:
    if feature.modality != "image":
        raise UnsupportedError(
            f"Input {name!r} is no picture and cannot be blurred; set the baseline to ZEROS, MEAN or GIVEN.",
            subject=f"inputs/{name}",
        )
    if not 0 < sigma <= MOST_SIGMA:
        where = f"{field}.blur_sigma"
        raise InvalidRequestError(f"{where} is {sigma:g}; it must be in (0, {MOST_SIGMA:g}] pixels.", field=where)
    return np.asarray(blurred(array[None], sigma)[0])


def _mean(name: str, array: Array, feature: Feature, background: Arrays) -> Array:
    if background:
        rows = background[name]
        return rows.mean(axis=0, dtype=np.float64).astype(rows.dtype) if feature.differentiable else _commonest(rows)
    if feature.modality == "image":
        colour = array.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
        return np.broadcast_to(colour, array.shape).astype(array.dtype)
    raise UnsupportedError(
        f"The model has no background rows, whose mean would be the baseline of input {name!r}; set the baseline to "
        "ZEROS or GIVEN, or add a background to its model.toml.",
        subject="background",
    )


def _commonest(rows: Array) -> Array:
    """Return the most frequent value of each element, (*features); the smallest of several."""
    flat = rows.reshape(len(rows), -1)
    values = [np.unique(column, return_counts=True) for column in flat.T]
    return np.array([found[counts.argmax()] for found, counts in values], rows.dtype).reshape(rows.shape[1:])


def _require_shapes(kind: str, row: Arrays, background: Arrays) -> None:
    for name, array in row.items():
        if background[name].shape[1:] != array.shape:
            raise UnsupportedError(
                f"The model's background has rows of the shape {background[name].shape[1:]} for input {name!r}, and "
                f"this row is {array.shape}; a baseline of kind {kind!r} needs the same. Set it to ZEROS or GIVEN.",
                subject="background",
            )
