"""Scores of sites as an array: layer by unit, by position, or by both, where the sites are divided so."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.sites import Site, SiteLayer
from pellucid_server.vocabulary.findings import Axis, NamedArray

_LEAST = 2
"""Sites that an array is worth making of."""


def score_map(
    sites: Sequence[Site], layers: Mapping[str, SiteLayer], scores: npt.NDArray[np.float64] | None
) -> NamedArray | None:
    """Return an array of scores, one for each site; None unless the sites of every layer are divided alike.

    Parameters
    ----------
    scores
        (sites,), NaN where there is none; None to be told only whether there is such an array, of zeros.
    """
    if len(sites) < _LEAST:
        return None
    by_layer: dict[str, list[tuple[int | None, int | None]]] = {}
    numbers_of: dict[str, list[int]] = {}
    for number, site in enumerate(sites):
        place = _place(site)
        if place is None:
            return None
        by_layer.setdefault(site.layer, []).append(place)
        numbers_of.setdefault(site.layer, []).append(number)
    places = next(iter(by_layer.values()))
    if len(set(places)) < len(places) or any(each != places for each in by_layer.values()):
        return None
    units, positions = (list(dict.fromkeys(axis)) for axis in zip(*places, strict=True))
    mixed = any(None in axis and axis != [None] for axis in (units, positions))
    if mixed or len(places) != len(units) * len(positions):
        return None
    if places != list(itertools.product(units, positions)) or (units, positions) == ([None], [None]):
        return None
    shape, axes = [len(by_layer)], [Axis("layer", tuple(by_layer))]
    for name, numbers in (("unit", units), ("position", positions)):
        if numbers != [None]:
            shape.append(len(numbers))
            axes.append(Axis(name, coordinates=np.array(numbers, np.float64)))
    order = list(itertools.chain.from_iterable(numbers_of.values()))
    values = np.zeros(shape) if scores is None else scores[order].reshape(shape)
    return NamedArray(
        values, tuple(axes), text="Score of each site, the mean over the rows that have one.", missing=True
    )


def _place(site: Site) -> tuple[int | None, int | None] | None:
    """Return the unit and the position of a site, None where it has all; None if it has some."""
    if any(numbers is not None and len(numbers) != 1 for numbers in (site.units, site.positions)):
        return None
    return (None if site.units is None else site.units[0], None if site.positions is None else site.positions[0])
