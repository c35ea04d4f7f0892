"""The row that is held where one part of a model's input is varied."""

import numpy as np

from pellucid_server.engine.asking.probes import ProbeQuestion
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.registry import require
from pellucid_server.engine.models.inputs.baselines import medoid
from pellucid_server.vocabulary.requests import Array


def reference_row(question: ProbeQuestion, kind: str) -> Arrays:
    """Return a row of every input, (1, *features) each.

    Parameters
    ----------
    kind
        "probe", the probe's first row; "medoid" or "mean" of the model's background; "zeros"; empty for the first of
        these that there is. Masks are on where others are zero. The mean of a table has the most frequent category
        where there are categories, and the mean of whole numbers is the most frequent one.

    Raises
    ------
    InvalidRequestError
        There is no probe or no background of which to take it.
    """
    kind = kind or ("probe" if question.probe is not None else "medoid" if question.background else "zeros")
    if kind == "probe":
        require(question.probe is not None, "reference", kind, "needs a probe, of which to take the first row")
        return question.probe.rows([0]) if question.probe is not None else {}
    if kind == "zeros":
        # A mask that is switched off would leave the model nothing to go by.
        return {
            name: np.full((1, *_lengths(each.shape)), question.features[name].mask, each.data_type)
            for name, each in question.inputs.items()
        }
    require(bool(question.background), "reference", kind, "needs a background, which the model does not have")
    if kind == "medoid":
        return medoid(question.background, question.features)
    return {name: _mean(question, name, np.asarray(rows)) for name, rows in question.background.items()}


def _lengths(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a row's shape, with one element where any length will do."""
    return tuple(abs(length) for length in shape)


def _mean(question: ProbeQuestion, name: str, rows: Array) -> Array:
    if rows.dtype.kind != "f":
        flat = rows.reshape(len(rows), -1)
        common = [
            values[counts.argmax()] for values, counts in (np.unique(each, return_counts=True) for each in flat.T)
        ]
        return np.array(common, rows.dtype).reshape(1, *rows.shape[1:])
    cells = question.cells.get(name)
    if cells is None:
        return np.asarray(rows.mean(axis=0, dtype=np.float64, keepdims=True).astype(rows.dtype))
    # Half of a category is none.
    values = [
        np.bincount(each.astype(np.int64)).argmax() if column.categories else each.mean()
        for each, column in zip(cells.background.T, cells.columns, strict=True)
    ]
    return np.asarray(cells.encode(np.array([values], np.float64)))
