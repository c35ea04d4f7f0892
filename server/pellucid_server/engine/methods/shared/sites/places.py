"""The elements of a layer that some sites have: found by arithmetic on indices, not by masks of the whole layer."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.sites import Site, SiteLayer
from pellucid_server.engine.evaluations.patchwork import Piece
from pellucid_server.errors import InvalidRequestError

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Places:
    """The elements of one layer that some sites have together.

    Attributes
    ----------
    whole
        Whether they are all elements.
    units
        Units of which they have every element, increasing.
    elements
        Further elements, as unit times the number of positions plus position, increasing.
    apart
        Whether no element is in two sites.
    """

    whole: bool
    units: Indices
    elements: Indices
    apart: bool

    @classmethod
    def of(cls, sites: Sequence[Site], layer: SiteLayer) -> "Places":
        """Find the elements of sites of a layer."""
        positions = layer.positions
        whole = sum(site.units is None and site.positions is None for site in sites)
        units = _whole_numbers(
            itertools.chain.from_iterable(site.units for site in sites if site.positions is None and site.units)
        )
        named = [each for site in sites if site.positions is not None for each in _elements(site, layer)]
        elements = _whole_numbers(named) if all(isinstance(each, int) for each in named) else _joined(named)
        unique_units, unique = np.unique(units), np.unique(elements)
        inside = np.isin(unique // positions, unique_units) if len(unique_units) and len(unique) else np.zeros(0, bool)
        apart = (
            whole + bool(len(units) or len(elements)) <= 1
            and len(unique_units) == len(units)
            and len(unique) == len(elements)
            and not inside.any()
        )
        if whole:
            return cls(True, _NONE, _NONE, apart)
        return cls(False, unique_units, unique[~inside] if len(inside) else unique, apart)

    def piece(self, other: int) -> Piece:
        """Return the piece of another value that they are."""
        return Piece(other) if self.whole else Piece(other, self.units, elements=self.elements)

    @property
    def by_unit(self) -> bool:
        """Whether they are whole units, or everything."""
        return not len(self.elements)

    def total(self, terms: Floats) -> float:
        """Return the sum of terms, (units, positions), over the elements."""
        if self.whole:
            return float(terms.sum())
        return float(terms[self.units].sum()) + float(terms.reshape(-1)[self.elements].sum())

    def write(self, out: npt.NDArray[np.generic], values: npt.NDArray[np.generic]) -> None:
        """Write the elements of `values` into `out`; both are (units, positions), and `out` is contiguous."""
        if self.whole:
            out[...] = values
            return
        out[self.units] = values[self.units]
        out.reshape(-1)[self.elements] = values[self.elements // out.shape[1], self.elements % out.shape[1]]


def by_units(value: npt.NDArray[np.generic], layer: SiteLayer) -> npt.NDArray[np.generic]:
    """Return a value of a layer as (units, positions)."""
    if not layer.shape:
        return value.reshape(1, 1)
    return np.moveaxis(value, layer.unit_axis, 0).reshape(layer.units, -1)


def from_units(value: npt.NDArray[np.generic], layer: SiteLayer) -> npt.NDArray[np.generic]:
    """Return (units, positions) in the layer's shape."""
    if not layer.shape:
        return value.reshape(())
    others = tuple(length for axis, length in enumerate(layer.shape) if axis != layer.unit_axis)
    return np.moveaxis(value.reshape(layer.units, *others), 0, layer.unit_axis)


def require_apart(layers: Mapping[str, SiteLayer], sites: Iterable[Site]) -> None:
    """Refuse sites that overlap, where they are changed at once: it is not said which change comes first.

    Raises
    ------
    InvalidRequestError
        A place is in two of them, by the name of a layer or of another with the same value.
    """
    by_value: dict[str, list[Site]] = {}
    for site in sites:
        layer = layers[site.layer]
        by_value.setdefault(layer.value or layer.name, []).append(site)
    for found in by_value.values():
        if Places.of(found, layers[found[0].layer]).apart:
            continue
        text = f"{_twice(found, layers).name} is changed twice; where changes are made at once, name each place once."
        raise InvalidRequestError(text, field="interventions")


def _twice(sites: Sequence[Site], layers: Mapping[str, SiteLayer]) -> Site:
    """Return the first site that overlaps those before it."""
    low, high = 1, len(sites)
    while low < high:
        middle = (low + high) // 2
        if Places.of(sites[:middle], layers[sites[0].layer]).apart:
            low = middle + 1
        else:
            high = middle
    return sites[low - 1]


def _elements(site: Site, layer: SiteLayer) -> "Iterable[int | Indices]":
    assert site.positions is not None  # noqa: S101 - asked only of sites with positions
    if site.units is not None and len(site.units) == len(site.positions) == 1:
        return (site.units[0] * layer.positions + site.positions[0],)
    units = np.arange(layer.units) if site.units is None else np.array(site.units, np.int64)
    return ((units[:, None] * layer.positions + np.array(site.positions, np.int64)[None]).reshape(-1),)


def _joined(named: "Iterable[int | Indices]") -> Indices:
    return np.concatenate([np.atleast_1d(np.asarray(each, np.int64)) for each in named])


def _whole_numbers(numbers: "Iterable[int | Indices]") -> Indices:
    return np.fromiter(numbers, np.int64)
