"""Scatter plots of rows: as thumbnails of their pictures, or as discs in the colours of their classes."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import Pixels, ProbeSet
from pellucid_server.engine.methods.shared.drawings import crop, picture, scatter
from pellucid_server.engine.methods.shared.projecting.points import Points
from pellucid_server.engine.methods.shared.units.layer_values import MAP_AXES
from pellucid_server.engine.methods.shared.units.unit_pictures import PICTURES
from pellucid_server.vocabulary.findings import Picture

Floats = npt.NDArray[np.float64]

_SIDE = 32
_AT_ONCE = 32


def scatter_plot(
    handle: Handle,
    probe: ProbeSet,
    coordinates: Floats,
    shown: Points,
    thumbnails: int,
    size: int,
) -> Callable[[str, str], Picture]:
    """Draw points at their first two coordinates, (points, components); return what makes a picture, given its names.

    Of rows of pictures, so many are drawn as thumbnails, evenly spread over the set; of a position, what is around it.
    """
    points = coordinates[:, :2] if coordinates.shape[1] > 1 else np.column_stack([coordinates, 0 * coordinates])
    names = sorted({label for label in shown.labels if label}) or [""]
    group = {name: number for number, name in enumerate(names)}
    groups = np.array([group.get(label, len(names)) for label in shown.labels], np.int64)
    small = _thumbnails(probe, shown, thumbnails)
    data = handle.compute(scatter, points, groups, names, small, size)
    classes = f", in the colours of {len(names)} classes" if len(names) > 1 else ""

    def named(layer: str, algorithm: str) -> Picture:
        text = f"{len(points)} points by the first coordinates that {algorithm} gives them in {layer}{classes}."
        return picture(data, text)

    return named


def _thumbnails(probe: ProbeSet, shown: Points, most: int) -> dict[str, Pixels]:
    if probe.kind != PICTURES or not most:
        return {}
    chosen = np.unique(np.linspace(0, len(shown.rows) - 1, min(most, len(shown.rows))).round().astype(int)).tolist()
    found: dict[str, Pixels] = {}
    for first in range(0, len(chosen), _AT_ONCE):
        part = chosen[first : first + _AT_ONCE]
        for place, pixels in zip(part, probe.pictures([int(shown.rows[place]) for place in part]), strict=True):
            found[str(place)] = _small(_around(pixels, shown, place))
    return found


def _around(pixels: Pixels, shown: Points, place: int) -> Pixels:
    """Cut out what is around a point's position, or return the whole picture of a point that has none."""
    if shown.places is None or shown.axes != MAP_AXES:
        return pixels
    return crop(pixels, shown.shape, int(shown.places[place]), max(_SIDE, min(pixels.shape[:2]) // 4))


def _small(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)
