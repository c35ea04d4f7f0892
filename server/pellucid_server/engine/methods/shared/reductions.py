"""From what a layer makes of a row, by unit and position, to one vector for the row."""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import ProbeLayer
from pellucid_server.engine.methods.shared.layer_values import position_shape
from pellucid_server.vocabulary.findings import Axis

Vectors = npt.NDArray[np.generic]
"""Of rows, (rows, width)."""
Numbers = npt.NDArray[np.int64]

REDUCTIONS = ("mean", "max", "centre", "flatten")


class Reduction:
    """Makes a row's vector: the mean or maximum over positions, the position in the centre, or all there are.

    Of an even number of positions, the centre is the one behind the middle.
    """

    def __init__(self, layer: ProbeLayer, name: str) -> None:
        shape, units = position_shape(layer), len(layer.units)
        self._name = name
        self._centre = int(np.ravel_multi_index([length // 2 for length in shape], shape)) if shape else 0
        positions = int(np.prod(shape))
        flat = name == "flatten" and positions > 1
        self.width = units * positions if flat else units
        """Numbers of a vector."""
        self.axis = Axis("column") if flat else Axis("unit", coordinates=layer.units.astype(np.float64))
        """The axis of arrays that has an element for each of them."""

    def __call__(self, values: npt.NDArray[np.generic]) -> Vectors:
        """Return the vectors, (rows, width), of values, (rows, units, positions)."""
        if self._name == "max":
            return np.asarray(values.max(2))
        if self._name == "centre":
            return values[:, :, self._centre]
        if self._name == "flatten":
            return values.reshape(len(values), -1)
        return np.asarray(values.mean(2, dtype=np.float64).astype(values.dtype))
