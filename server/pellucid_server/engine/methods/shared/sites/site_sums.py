"""Sums of a layer's elements over sites: many sites by a few calls, since there may be a hundred thousand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.sites import Site, SiteLayer
from pellucid_server.engine.methods.shared.sites.places import by_units

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of a table of elements, (units, positions), by unit and by position, (units,) and (positions,)."""

    table: Floats
    by_unit: Floats
    by_position: Floats


_Sum = Callable[[_Sums], Floats]
"""Returns the sum of each site of a group, or of all of them alike."""


class SiteSums:
    """Sums over the sites of one layer. What does not depend on the elements is worked out once.

    Parameters
    ----------
    layer
        The layer.
    sites
        Sites of it, whose indices are in range.
    """

    def __init__(self, layer: SiteLayer, sites: Sequence[Site]) -> None:
        self._layer = layer
        self._count = len(sites)
        self._groups = _grouped(sites)

    def of(self, elements: Floats) -> Floats:
        """Return the sum of the elements that each site covers, (sites,), of elements in the layer's shape."""
        table = np.asarray(by_units(elements, self._layer), np.float64)
        sums = _Sums(table, table.sum(axis=1), table.sum(axis=0))
        found = np.empty(self._count)
        for places, total in self._groups:
            found[places] = total(sums)
        return found


def _grouped(sites: Sequence[Site]) -> list[tuple[Indices, _Sum]]:
    """Put sites together that one call sums."""
    together: dict[tuple[int, ...], list[int]] = {}
    for place, site in enumerate(sites):
        together.setdefault(_alike(place, site), []).append(place)
    return [(np.array(places), _sum([sites[place] for place in places])) for places in together.values()]


def _alike(place: int, site: Site) -> tuple[int, ...]:
    """Return what is equal for sites that one call sums. Sites divided by unit share the indices of their positions."""
    units = -1 if site.units is None else len(site.units)
    positions = -1 if site.positions is None else len(site.positions)
    if units > 1 and positions > 1:
        shared = place
    else:
        shared = id(site.positions) if positions > 1 and units == 1 else id(site.units) if positions == 1 < units else 0
    return units, positions, shared


def _sum(sites: Sequence[Site]) -> _Sum:
    """Return what sums the elements of sites that are alike."""
    first = sites[0]
    if first.units is None and first.positions is None:
        return lambda sums: sums.by_unit.sum()
    if first.positions is None:
        units = np.array([site.units for site in sites], np.intp)
        return lambda sums: sums.by_unit[units].sum(axis=1)
    if first.units is None:
        positions = np.array([site.positions for site in sites], np.intp)
        return lambda sums: sums.by_position[positions].sum(axis=1)
    return _sum_of_both(sites, first.units, first.positions)


def _sum_of_both(sites: Sequence[Site], units: tuple[int, ...], positions: tuple[int, ...]) -> _Sum:
    """Return what sums the elements of sites that name units and positions; `units` and `positions` are the first's."""
    rows = np.array(units if len(units) > 1 else [site.units for site in sites], np.intp).reshape(-1)
    columns = np.array(positions if len(positions) > 1 else [site.positions for site in sites], np.intp).reshape(-1)
    if len(units) > 1 and len(positions) > 1:
        return lambda sums: sums.table[np.ix_(rows, columns)].sum()
    if len(units) > 1:
        return lambda sums: sums.table[np.ix_(rows, columns)].sum(axis=0)
    if len(positions) > 1:
        return lambda sums: sums.table[np.ix_(rows, columns)].sum(axis=1)
    return lambda sums: sums.table[rows, columns]
