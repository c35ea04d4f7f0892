"""The cheap baseline: the nearest row of the background that the model says what is wanted of."""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.errors import UnsupportedError

Floats = npt.NDArray[np.float64]

_MORE_DIGITS = 3
"""Decimal places of a background's numbers beyond those of changed ones: it is kept standardized, in 32 bits."""


def nearest_unlike(judge: Judge, space: Space, question: CounterfactualQuestion, distance: str) -> Floats | None:
    """Return the nearest background row, (columns,), that is valid and obeys the rules; None if there is none.

    Raises
    ------
    UnsupportedError
        The model has no background, or its rows may not be shown.
    """
    require_disclosable(question)
    rows = np.concatenate([cells.background for cells in space.cells.values()], axis=1)
    read = np.where(space.coded, rows, space.written(rows, _MORE_DIGITS))
    # A column that is the row's own but for what 32 bits lose is the row's own.
    close = np.abs(read - space.start) <= 1e-6 * np.maximum(np.abs(read), np.abs(space.start))
    read = np.where(close, space.start, read)
    read = read[space.obeys(read) & (read != space.start).any(axis=1)]
    read = read[np.argsort(space.ranks(read, distance), kind="stable")]
    read = read[: judge.affordable(len(read))]
    if not len(read):
        return None
    valid = judge.margins(space.recipe(read)) >= 0
    return np.asarray(read[int(valid.argmax())]) if valid.any() else None


def require_disclosable(question: CounterfactualQuestion) -> None:
    """Refuse to show rows of a background that is not there or that its owner has not released."""
    if not question.background:
        raise UnsupportedError(
            "The model has no background, so that there is no nearest row of it; leave nearest_row out.",
            subject="background",
        )
    if not question.disclosable:
        raise UnsupportedError(
            "The rows of the model's background may not be shown; set `disclosable = true` for its background in "
            "model.toml if they may, or leave nearest_row out.",
            subject="background",
        )
