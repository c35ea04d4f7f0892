"""Columns of tables that methods make."""

import numpy as np
import numpy.typing as npt

from pellucid_server.vocabulary.findings import Column


def number_column(values: npt.NDArray[np.float64], unit: str = "", text: str = "") -> Column:
    """Return a column of real numbers in which NaN is a missing value."""
    missing = np.isnan(values)
    return Column(np.where(missing, 0.0, values).astype(np.float64), missing, unit=unit, text=text)
