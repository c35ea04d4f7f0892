"""From what a layer makes of a row, by unit and position, to one vector for the row, or one for each position."""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import ProbeLayer
from pellucid_server.engine.methods.shared.units.layer_values import position_axes, position_shape
from pellucid_server.vocabulary.findings import Axis

Vectors = npt.NDArray[np.generic]
"""Of points, (points, width)."""
Numbers = npt.NDArray[np.int64]

POSITIONS = "positions"
"""The reduction that makes each position a point of its own."""
REDUCTIONS = ("mean", "max", "centre", "flatten", POSITIONS)


class Reduction:
    """Makes points of rows: the mean or maximum over positions, the position in the centre, all in one, or each.

    Of an even number of positions, the centre is the one behind the middle.

    Attributes
    ----------
    shape, axes
        The lengths of the layer's axes of positions, and what they are called.
    points
        How many points a row makes.
    width
        Numbers of a point.
    axis
        The axis of arrays that has an element for each of them.
    """

    def __init__(self, layer: ProbeLayer, name: str) -> None:
        units = len(layer.units)
        self.shape, self.axes = position_shape(layer), position_axes(layer)
        self._name = name
        self._centre = (
            int(np.ravel_multi_index([length // 2 for length in self.shape], self.shape)) if self.shape else 0
        )
        positions = int(np.prod(self.shape))
        self.points = positions if name == POSITIONS else 1
        flat = name == "flatten" and positions > 1
        self.width = units * positions if flat else units
        self.axis = Axis("column") if flat else Axis("unit", coordinates=layer.units.astype(np.float64))

    def __call__(self, values: npt.NDArray[np.generic]) -> Vectors:
        """Return the points of values, (rows, units, positions), row by row."""
        if self._name == "max":
            return np.asarray(values.max(2))
        if self._name == "centre":
            return values[:, :, self._centre]
        if self._name == "flatten":
            return values.reshape(len(values), -1)
        if self._name == POSITIONS:
            return values.transpose(0, 2, 1).reshape(-1, values.shape[1])
        return np.asarray(values.mean(2, dtype=np.float64).astype(values.dtype))

    def keys(self, numbers: Numbers) -> Numbers:
        """Return a number for each point of some rows, which gives its row and position back."""
        return (numbers[:, None] * self.points + np.arange(self.points)).reshape(-1)

    def rows(self, keys: Numbers) -> Numbers:
        """Return the rows of points."""
        return keys // self.points

    def places(self, keys: Numbers) -> Numbers:
        """Return the positions of points, in row-major order."""
        return keys % self.points
