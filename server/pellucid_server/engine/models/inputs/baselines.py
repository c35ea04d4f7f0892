"""Rows that stand for absence, made in the model's input space, after preprocessing.

Masks keep the row's own values in all of them: a mask that is switched off leaves a model nothing to go by.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.naming import coded_columns, columns_text
from pellucid_server.engine.asking.question import Arrays, Feature
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.requests import Array

KINDS = ("zeros", "mean", "medoid", "blur", "background")
MOST_SIGMA = 100.0

_TOGETHER = 4096
"""Elements that are worked on at once, in float64: a background of pictures is large."""


def baseline_rows(
    kind: str,
    row: Arrays,
    *,
    features: Mapping[str, Feature],
    background: Arrays,
    sigma: float,
    field: str,
    many: bool = False,
    medoid_rows: Arrays | None = None,
) -> tuple[str, Arrays]:
    """Make the baseline of a row.

    Parameters
    ----------
    kind
        One of `KINDS`, or "" for the default; see `default_kind`.
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
    many
        Whether the method averages over a background.
    medoid_rows
        The background's medoid, (1, *features) each, where it is known already.

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
        The model has no background where one is needed, or it is of another shape than the row,
        "blur" is asked of what is not a picture, or the model has no default.
    """
    varied = {name: array for name, array in row.items() if not features[name].mask}
    kind = _resolved(kind, varied, features, background, many=many, field=field)
    if kind == "zeros":
        made = {name: np.zeros_like(array)[None] for name, array in varied.items()}
    elif kind == "blur":
        _require_pictures(varied, features, background, sigma, field)
        made = {name: blurred(array[None], sigma) for name, array in varied.items()}
    elif kind == "mean":
        made = {name: _mean(name, array, features, background)[None] for name, array in varied.items()}
    else:
        _require_background(features, background)
        rows = (medoid_rows or medoid(background, features)) if kind == "medoid" else background
        made = {name: rows[name] for name in varied}
    count = len(next(iter(made.values())))
    held = {name: np.broadcast_to(array, (count, *array.shape)) for name, array in row.items() if name not in made}
    return kind, {name: made[name] if name in made else held[name] for name in row}


def _resolved(
    kind: str, row: Arrays, features: Mapping[str, Feature], background: Arrays, *, many: bool, field: str
) -> str:
    """Check a kind, or choose the default."""
    fitting = _fitting(row, background)
    if kind == "":
        kind = default_kind(features, has_background=fitting, many=many)
        if not kind:
            raise UnsupportedError(no_default(features), subject="background")
    if kind not in KINDS:
        raise InvalidRequestError(f"{field}.kind is {kind!r}; it must be one of: {', '.join(KINDS)}.", field=field)
    if kind in ("mean", "medoid", "background") and background and not fitting:
        name = next(name for name, array in row.items() if background[name].shape[1:] != array.shape)
        raise UnsupportedError(
            f"The model's background has rows of the shape {background[name].shape[1:]} for input {name!r}, and this "
            f"row is {row[name].shape}; a baseline of kind {kind!r} needs the same. Set it to "
            f"{_advice(features, fitting=False)}.",
            subject="background",
        )
    return kind


def _fitting(row: Arrays, background: Arrays) -> bool:
    """Tell whether there is a background, of rows of the shape of this one."""
    return bool(background) and all(background[name].shape[1:] == array.shape for name, array in row.items())


def default_kind(features: Mapping[str, Feature], *, has_background: bool, many: bool) -> str:
    """Return what a method compares with if the request names no baseline; empty if there is nothing sensible.

    With a background: all its rows, for a method that takes `many`; else, but for models of pictures alone, their
    mean, or, where inputs have categories or whole numbers, of which a mean is none, their medoid. Without one:
    zeros, which for pictures are grey; unless there are columns of tables whose mean is not known to be zero.
    """
    varied = [feature for feature in features.values() if not feature.mask]
    if has_background and many:
        return "background"
    if has_background and any(feature.modality != "image" for feature in varied):
        coded = any(feature.coded is not None or not feature.differentiable for feature in varied)
        return "medoid" if coded else "mean"
    return "" if any(feature.uncentred for feature in varied) else "zeros"


def no_default(features: Mapping[str, Feature]) -> str:
    """Say why a model without background has no default baseline, and what to give."""
    name, feature = next((name, feature) for name, feature in features.items() if feature.uncentred)
    return (
        "The model has no background rows, and nothing says that zero is the mean of "
        f"{columns_text(feature.uncentred)} of input {name!r}; give baseline rows in the request (a baseline of kind "
        "GIVEN), or add a background to its model.toml."
    )


def baseline_warnings(kind: str, features: Mapping[str, Feature]) -> tuple[str, ...]:
    """Say where a baseline of `kind` is a row that means nothing, and which inputs it leaves alone."""
    found = []
    for name, feature in features.items():
        if kind == "zeros" and feature.uncentred and not feature.mask:
            found.append(f"{zero_text(name, feature)}; compare with the background, or with rows of your own.")
        if kind == "mean" and feature.coded is not None and not feature.mask:
            columns = columns_text(coded_columns(feature))
            found.append(
                f"The baseline is a mean of categories in {columns} of input {name!r}, which no row has; compare with "
                "MEDOID, the background, or rows of your own."
            )
        if kind not in ("", "given") and feature.mask:
            found.append(f"Input {name!r} is a mask of others: it was held at its value and scores 0.")
    return tuple(found)


def zero_text(name: str, feature: Feature) -> str:
    """Say of which columns zero is not known to be the mean."""
    no_category = ", and it is no category of a one-hot column" if _one_hot(feature) is not None else ""
    return f"Zero is not known to be the mean of {columns_text(feature.uncentred)} of input {name!r}{no_category}"


def blurred(rows: Array, sigma: float) -> Array:
    """Blur pictures, (rows, channels, height, width), by a Gaussian of `sigma` pixels; edges are continued.

    It is cut off at four standard deviations, as `scipy.ndimage.gaussian_filter` cuts it, which a worker would be
    0.4 s longer in starting for.
    """
    height, width = (_blurring(length, sigma) for length in rows.shape[2:])
    return np.asarray(height @ rows.astype(np.float64) @ width.T, rows.dtype)


def _blurring(length: int, sigma: float) -> npt.NDArray[np.float64]:
    """Return the matrix that blurs an axis, (length, length)."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    places = np.arange(length)[:, np.newaxis]
    matrix = np.zeros((length, length))
    np.add.at(matrix, (places, np.clip(places + offsets, 0, length - 1)), weights / weights.sum())
    return matrix


def medoid(background: Arrays, features: Mapping[str, Feature]) -> dict[str, Array]:
    """Return the background row that is closest to all others, (1, *features) each; the first of several.

    The distance of two rows is the sum of the squared differences of their elements: of numbers in units of their
    standard deviation, of one-hot elements as they are, and of whole numbers 2 where they are not the same, as
    if they were one-hot.
    """
    distances = np.zeros(len(next(iter(background.values()), ())))
    for name, rows in background.items():
        if not features[name].mask:
            distances += _distances(rows.reshape(len(rows), -1), features[name])
    # Rows that are equally far must not be told apart by rounding.
    nearest = int((distances <= distances.min() * (1 + 1e-9)).argmax())
    return {name: rows[nearest : nearest + 1] for name, rows in background.items()}


def _distances(rows: Array, feature: Feature) -> npt.NDArray[np.float64]:
    """Return each row's mean squared distance from all rows, less what is the same for all, (rows,)."""
    found = np.zeros(len(rows))
    if not feature.differentiable:
        for column in rows.T:
            _, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
            found += 2 * (1 - counts[codes] / len(rows))
        return found
    one_hot = _one_hot(feature)
    for start in range(0, rows.shape[1], _TOGETHER):
        values = rows[:, start : start + _TOGETHER].astype(np.float64)
        deviations = values.std(axis=0)
        if one_hot is not None:
            deviations[one_hot[start : start + _TOGETHER]] = 1.0
        values -= values.mean(axis=0)
        found += np.square(values / np.where(deviations > 0, deviations, 1.0)).sum(axis=1)
    return found


def _one_hot(feature: Feature) -> npt.NDArray[np.bool_] | None:
    """Return which elements are one of several of a column, (elements,)."""
    if feature.coded is None or feature.groups is None:
        return None
    groups = feature.groups.reshape(-1)
    several: npt.NDArray[np.bool_] = np.bincount(groups)[groups] > 1
    return several & feature.coded.reshape(-1)


def _require_background(features: Mapping[str, Feature], background: Arrays) -> None:
    if not background:
        raise UnsupportedError(
            "The model has no background rows to compare with; set the baseline to "
            f"{_advice(features, fitting=False)}, or add a background to its model.toml.",
            subject="background",
        )


def _require_pictures(
    row: Arrays, features: Mapping[str, Feature], background: Arrays, sigma: float, field: str
) -> None:
    for name in row:
        if features[name].modality != "image":
            raise UnsupportedError(
                f"Input {name!r} is no picture and cannot be blurred; set the baseline to "
                f"{_advice(features, fitting=_fitting(row, background))}.",
                subject=f"inputs/{name}",
            )
    if not 0 < sigma <= MOST_SIGMA:
        where = f"{field}.blur_sigma"
        raise InvalidRequestError(f"{where} is {sigma:g}; it must be in (0, {MOST_SIGMA:g}] pixels.", field=where)


def _mean(name: str, array: Array, features: Mapping[str, Feature], background: Arrays) -> Array:
    if background:
        rows = background[name]
        mean = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        return mean if features[name].differentiable else _commonest(rows)
    if features[name].modality == "image":
        colour = array.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
        return np.broadcast_to(colour, array.shape).astype(array.dtype)
    raise UnsupportedError(
        f"The model has no background rows, whose mean would be the baseline of input {name!r}; set the baseline to "
        f"{_advice(features, fitting=False)}, or add a background to its model.toml.",
        subject="background",
    )


def _advice(features: Mapping[str, Feature], *, fitting: bool) -> str:
    """Name the kinds of baseline that mean something for a model; `fitting` as by `_fitting`."""
    varied = [feature for feature in features.values() if not feature.mask]
    kinds = [] if any(feature.uncentred for feature in varied) else ["ZEROS"]
    if fitting:
        kinds += ["MEDOID"] if any(feature.coded is not None for feature in varied) else ["MEAN", "MEDOID"]
    return " or ".join(filter(None, [", ".join(kinds), "GIVEN"]))


def _commonest(rows: Array) -> Array:
    """Return the most frequent value of each element, (*features); the smallest of several."""
    flat = rows.reshape(len(rows), -1)
    values = [np.unique(column, return_counts=True) for column in flat.T]
    return np.array([found[counts.argmax()] for found, counts in values], rows.dtype).reshape(rows.shape[1:])
