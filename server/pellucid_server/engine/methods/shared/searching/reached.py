"""Columns of the table that says what searches reached of each objective."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.searching.objectives import Goals
from pellucid_server.engine.methods.shared.searching.searches import Floats, percentiles
from pellucid_server.vocabulary.findings import Column


def whole_column(values: Sequence[int]) -> Column:
    """Return whole numbers; those below 0 are missing."""
    found = np.array(values, np.int64)
    return Column(np.maximum(found, 0), missing=found < 0)


def real_column(values: Floats, text: str) -> Column:
    """Return real numbers; those that are not finite are missing."""
    real = np.isfinite(values)
    return Column(np.where(real, values, 0.0).astype(np.float64), missing=~real, text=text)


def objective_columns(blocks: Sequence[Goals], each: int = 1) -> dict[str, Column]:
    """Return what names each objective, `each` rows of it one behind the other."""
    objectives = [(goals, one) for goals in blocks for one in goals.objectives for _ in range(each)]
    return {
        "objective": Column(tuple(one.name for _, one in objectives)),
        "layer": Column(tuple(goals.name for goals, _ in objectives), text="The layer, or the output of a class."),
        "unit": whole_column([one.unit for _, one in objectives]),
        "position": whole_column([one.position for _, one in objectives]),
    }


def natural_columns(natural: Floats, reached: npt.NDArray[np.float64]) -> dict[str, Column]:
    """Compare what was reached, (rows,), NaN where nothing was, with the rows of the probe, (probe rows, rows)."""
    if not len(natural):
        return {}
    best, percentile = percentiles(natural, reached)
    known = np.isfinite(reached) & np.isfinite(best)
    ratio = np.divide(reached, best, out=np.full(len(best), np.nan), where=known & (best > 0))
    return {
        "best natural": real_column(best, f"The highest objective among {len(natural)} rows of the probe."),
        "percentile": real_column(
            np.where(known, percentile, np.nan), "Share of the probe's rows below, in percent; equal ones count half."
        ),
        "ratio": real_column(ratio, "The activation over the best natural one, where that is above 0."),
    }


def reached_text(reached: float, natural: npt.NDArray[np.floating]) -> str:
    """Say what was reached, and how it stands among the rows of a probe, (probe rows,); none without one."""
    if not np.isfinite(reached):
        return ""
    if not len(natural):
        return f" The objective there is {reached:.4g}."
    _, percentile = percentiles(np.asarray(natural[:, None], np.float64), np.array([reached]))
    return f" The objective there is {reached:.4g}: above {percentile[0]:.4g} % of {len(natural)} rows of the probe."


NO_PROBE = "The probe is not set: what was reached is compared with no rows of its own kind."
"""A warning where there is nothing to compare with."""
