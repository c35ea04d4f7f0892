"""Where in a picture the components of a projection of positions are: a map for each."""

from collections.abc import Iterator

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeSet
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.drawings import map_grid, picture
from pellucid_server.engine.methods.shared.projecting import embeddings
from pellucid_server.engine.methods.shared.projecting.projected import Projection
from pellucid_server.engine.methods.shared.projecting.reductions import Reduction
from pellucid_server.engine.methods.shared.units.layer_values import MAP_AXES, by_position
from pellucid_server.vocabulary.findings import Findings

_COLOURS = "viridis"
_MAP_PIXELS = 64


def component_maps(
    handle: Handle, probe: ProbeSet, layer: ProbeLayer, reduction: Reduction, found: Projection, rows: int
) -> Iterator[Findings]:
    """Draw the coordinates of each position of the first rows, component by component, of layers that have maps.

    Coordinates are those of principal components, or, without a mean, the non-negative ones of least squares.
    """
    if reduction.axes != MAP_AXES or reduction.points == 1 or found.components is None:
        return
    for number in range(min(rows, probe.count)):
        arrays = handle.ask(Capture(Rows(probe.rows([number])), (layer.name,))).arrays
        points = reduction(by_position(layer, arrays[layer.name])).astype(np.float64)
        if found.mean is None:
            coordinates = handle.compute(embeddings.weights, points, found.components)
        else:
            scales = 1.0 if found.deviations is None else found.deviations
            coordinates = (points - found.mean) / scales @ found.components.T
        maps = coordinates.T.reshape(-1, *reduction.shape)
        (name,) = probe.names([number])
        text = (
            f"Where {name} has each of the {len(maps)} components of {layer.name}, row by row of the square; each from "
            f"its least value to its greatest in the colours of {_COLOURS}."
        )
        data = handle.compute(map_grid, maps, _COLOURS, _MAP_PIXELS)
        yield Findings(pictures={f"{layer.name}/components of {name} (row {number})": picture(data, text)})
