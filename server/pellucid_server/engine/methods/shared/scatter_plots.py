"""Scatter plots of rows: as thumbnails of their pictures, or as discs in the colours of their classes."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import Pixels, ProbeSet
from pellucid_server.engine.methods.shared.drawings import picture, scatter
from pellucid_server.engine.methods.shared.unit_pictures import PICTURES
from pellucid_server.vocabulary.findings import Picture

Floats = npt.NDArray[np.float64]

_SIDE = 32
_AT_ONCE = 32


def scatter_plot(
    handle: Handle,
    probe: ProbeSet,
    coordinates: Floats,
    numbers: list[int],
    labels: tuple[str, ...],
    thumbnails: int,
    size: int,
) -> Callable[[str, str], Picture]:
    """Draw rows at their first two coordinates, (rows, components); return what makes a picture, given its names.

    Of rows of pictures, so many are drawn as thumbnails, evenly spread over the set.
    """
    points = coordinates[:, :2] if coordinates.shape[1] > 1 else np.column_stack([coordinates, 0 * coordinates])
    names = sorted({label for label in labels if label}) or [""]
    group = {name: number for number, name in enumerate(names)}
    groups = np.array([group.get(label, len(names)) for label in labels], np.int64)
    small = _thumbnails(probe, numbers, thumbnails)
    data = handle.compute(scatter, points, groups, names, small, size)
    classes = f", in the colours of {len(names)} classes" if len(names) > 1 else ""

    def named(layer: str, algorithm: str) -> Picture:
        text = f"{len(points)} rows by the first coordinates that {algorithm} gives them in {layer}{classes}."
        return picture(data, text)

    return named


def _thumbnails(probe: ProbeSet, numbers: list[int], most: int) -> dict[str, Pixels]:
    if probe.kind != PICTURES or not most:
        return {}
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)).tolist()
    found: dict[str, Pixels] = {}
    for first in range(0, len(chosen), _AT_ONCE):
        part = chosen[first : first + _AT_ONCE]
        for place, pixels in zip(part, probe.pictures([numbers[place] for place in part]), strict=True):
            found[str(place)] = _small(pixels)
    return found


def _small(pixels: Pixels) -> Pixels:
    shown = Image.fromarray(pixels)
    shown.thumbnail((_SIDE, _SIDE))
    return np.asarray(shown)
