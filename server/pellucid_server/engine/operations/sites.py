"""From the sites and interventions that a caller names to those that methods change."""

import difflib
import fnmatch
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.sites import Intervention, Site, SiteLayer
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.models.graph.names import Layer
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.errors import InvalidRequestError, NotFoundError
from pellucid_server.vocabulary.requests import MOST_SITES, InterventionSpec, SiteSpec

_NEAR = 3
_SITES_OF_A_TURN = 4096
"""Sites after which other requests have a turn."""
_DEFAULT_VALUES = {"noise": 1.0, "steer": 1.0}


@dataclass(frozen=True, slots=True)
class ResolvedSites:
    """The interventions of a request on the layers of a model, and those layers by name."""

    layers: Mapping[str, SiteLayer]
    interventions: tuple[Intervention, ...]


def resolve_interventions(
    context: RequestContext, model: LoadedModel, specs: tuple[InterventionSpec, ...], rows: Arrays, *, reference: str
) -> ResolvedSites:
    """Find the sites that interventions name.

    Parameters
    ----------
    rows
        The request's rows, (rows, *features) each: how long a layer's axes are may depend on them.
    reference
        Which rows means and draws come from where an intervention does not say.

    Raises
    ------
    InvalidRequestError
        There is no such unit or position, a vector does not fit, or there are too many sites.
    NotFoundError
        There is no such layer.
    """
    finder = _Finder(context, model, rows)
    found = []
    total = 0
    for number, spec in enumerate(specs):
        field = f"interventions[{number}]"
        sites: list[Site] = []
        for place, site in enumerate(spec.sites):
            sites += finder.sites(site, f"{field}.sites[{place}]", room=MOST_SITES - total - len(sites))
        total += len(sites)
        found.append(_intervention(spec, tuple(sites), finder.layers, field, reference))
    return ResolvedSites(dict(finder.layers), tuple(found))


def find_layers(
    context: RequestContext, model: LoadedModel, layer: str, part: str, rows: Arrays, field: str
) -> tuple[SiteLayer, ...]:
    """Find the layers, or parts of layers, that a name or a pattern stands for.

    `rows` are looked at where the shape of a layer depends on the row.

    Raises
    ------
    NotFoundError, InvalidRequestError
        There is no such layer, or none that holds a row of the batch at each place of axis 0.
    """
    return _Finder(context, model, rows).named(SiteSpec(layer, part), field)


def _intervention(
    spec: InterventionSpec, sites: tuple[Site, ...], layers: Mapping[str, SiteLayer], field: str, reference: str
) -> Intervention:
    vector = None
    if spec.vector is not None:
        shaped = {_vector(spec.vector, layers[site.layer], f"{field}.vector") for site in sites[:1]}
        vector = _vector_array(spec.vector, layers[sites[0].layer]) if shaped else None
        for site in sites:
            _vector(spec.vector, layers[site.layer], f"{field}.vector")
            if layers[site.layer].shape != layers[sites[0].layer].shape:
                text = (
                    f"{field}.vector is for one shape of layers, and {sites[0].layer} and {site.layer} differ; give "
                    "each an intervention of its own."
                )
                raise InvalidRequestError(text, field=f"{field}.vector")
    value = spec.value if spec.value is not None else _DEFAULT_VALUES.get(spec.kind, 0.0)
    return Intervention(
        sites=sites,
        kind=spec.kind,
        value=value,
        vector=vector,
        reference=(spec.reference or reference) if spec.kind in ("mean", "resample") else "",
        draws=spec.draws,
        per_position=spec.per_position,
    )


def _vector(vector: npt.NDArray[np.generic], layer: SiteLayer, field: str) -> str:
    """Refuse a vector that fits neither the units nor the whole of a layer; return which of them it is for."""
    if vector.shape in ((layer.units,), layer.shape):
        return "units" if vector.shape == (layer.units,) else "elements"
    text = (
        f"{field} has the shape {list(vector.shape)}; for {layer.name} it must be [{layer.units}], a number for each "
        f"unit, or {list(layer.shape)}, one for each element."
    )
    raise InvalidRequestError(text, field=field)


def _vector_array(vector: npt.NDArray[np.generic], layer: SiteLayer) -> npt.NDArray[np.float64]:
    found = np.asarray(vector, np.float64)
    if found.shape == layer.shape:
        return found
    shape = [1] * max(len(layer.shape), 1)
    shape[layer.unit_axis] = layer.units
    return found.reshape(shape)


class _Finder:
    """Finds sites in a model; layers of open shape are looked at in the request's first row."""

    def __init__(self, context: RequestContext, model: LoadedModel, rows: Arrays) -> None:
        self._context = context
        self._model = model
        self._rows = rows
        self._known = model.sites
        self.layers: dict[str, SiteLayer] = {}
        self._first: dict[Hashable, str] = {}
        self._given = 0
        self._found: dict[tuple[str, str], list[str]] = {}

    def sites(self, spec: SiteSpec, field: str, *, room: int) -> list[Site]:
        """Return the sites that `spec` stands for, at most `room`."""
        key = spec.layer, spec.part
        if key not in self._found:
            self._found[key] = self._names(spec, f"{field}.layer")
            self._learn(self._found[key])
        names = self._found[key]
        found: list[Site] = []
        for name in names:
            layer = self.layers[name]
            units = _indices(spec.units, layer.units, f"{field}.units", f"{name} has {layer.units} units")
            positions = _indices(
                spec.positions, layer.positions, f"{field}.positions", f"{name} has {layer.positions} positions"
            )
            count = _count(spec, layer, units, positions)
            if count > room - len(found):
                text = (
                    f"{field} brings the sites of the request above {MOST_SITES}; name fewer layers, or divide them by "
                    "unit or position alone."
                )
                raise InvalidRequestError(text, field=field)
            found += _divided(spec, layer, units, positions)
            # A pattern may stand for many thousands of sites: other requests go on between.
            self._given += len(found)
            if self._given >= _SITES_OF_A_TURN:
                self._given = 0
                self._context.services.hub.signal().wait(until=time.monotonic())
        return found

    def named(self, spec: SiteSpec, field: str) -> tuple[SiteLayer, ...]:
        """Return the layers that `spec` stands for."""
        names = self._names(spec, f"{field}.layer")
        self._learn(names)
        return tuple(self.layers[name] for name in names)

    def _names(self, spec: SiteSpec, field: str) -> list[str]:
        suffix = f":{spec.part}" if spec.part else ""
        having = [name.removesuffix(suffix) for name in self._known if name.endswith(suffix)] if suffix else []
        plain = having if suffix else [name for name in self._known if ":" not in name or name in self._model.layers]
        if spec.layer in plain:
            names = [spec.layer]
        elif any(sign in spec.layer for sign in "*?"):
            # fnmatch would read brackets as sets of characters.
            pattern = spec.layer.replace("[", "[[]")
            matching = [name for name in plain if fnmatch.fnmatchcase(name, pattern)]
            names = self._distinct(name for name in matching if self._known[name + suffix].cuttable)
        else:
            names = []
        if not names:
            raise self._no_layer(spec, plain, field)
        chosen = [name + suffix for name in names]
        for name in chosen:
            if not self._known[name].cuttable:
                text = (
                    f"{field} is {name!r}, whose value does not hold one row of the batch at each place of axis 0; "
                    "choose a layer that GetModel shows as cuttable."
                )
                raise InvalidRequestError(text, field=field)
        return chosen

    def _distinct(self, names: Iterable[str]) -> list[str]:
        """Leave out layers that have their value from another one of them: a block's is its last part's."""
        seen: set[object] = set()
        found = []
        for name in names:
            value = self._model.value_of(name)
            if value not in seen:
                seen.add(value)
                found.append(name)
        return found

    def _no_layer(self, spec: SiteSpec, names: list[str], field: str) -> NotFoundError:
        what = {"": "layer", "heads": "layer with attention heads", "branch": "layer with a residual branch"}[spec.part]
        if not names:
            text = f"{field} is {spec.layer!r}, and {self._model.name} has no {what}."
        else:
            near = difflib.get_close_matches(spec.layer, names, n=_NEAR, cutoff=0.4) or names[:_NEAR]
            text = (
                f"{field} is {spec.layer!r}, and {self._model.name} has no such {what}; near ones: "
                f"{', '.join(map(repr, near))}. GetModel names all."
            )
        return NotFoundError(text, resource_type="layer", resource_name=spec.layer)

    def _learn(self, names: list[str]) -> None:
        new = [name for name in names if name not in self.layers]
        opened = [name for name in new if None in self._known[name].shape]
        shapes = dict(zip(opened, self._shapes(opened), strict=True)) if opened else {}
        for name in new:
            layer: Layer = self._known[name]
            shape = shapes.get(name) or tuple(length or 0 for length in layer.shape)
            first = self._first.setdefault(self._model.value_of(name), name)
            self.layers[name] = SiteLayer(name, shape, layer.unit_axis, first)

    def _shapes(self, names: list[str]) -> list[tuple[int, ...]]:
        first = Rows({name: array[:1] for name, array in self._rows.items()})
        found = self._context.handle(self._model).ask(Capture(first, tuple(names))).arrays
        return [found[name].shape[1:] for name in names]


def _indices(numbers: tuple[int, ...], count: int, field: str, what: str) -> tuple[int, ...] | None:
    bad = next((number for number in numbers if number >= count), None)
    if bad is not None:
        raise InvalidRequestError(f"{field} has {bad}; {what}, numbered from 0.", field=field)
    return tuple(sorted(numbers)) or None


def _count(spec: SiteSpec, layer: SiteLayer, units: tuple[int, ...] | None, positions: tuple[int, ...] | None) -> int:
    by_unit = layer.units if units is None else len(units)
    by_position = layer.positions if positions is None else len(positions)
    return {"": 1, "unit": by_unit, "position": by_position, "element": by_unit * by_position}[spec.each]


def _divided(
    spec: SiteSpec, layer: SiteLayer, units: tuple[int, ...] | None, positions: tuple[int, ...] | None
) -> list[Site]:
    if spec.each == "":
        return [Site(layer.name, units, positions)]
    each_unit = range(layer.units) if units is None else units
    each_position = range(layer.positions) if positions is None else positions
    if spec.each == "unit":
        return [Site(layer.name, (unit,), positions) for unit in each_unit]
    if spec.each == "position":
        return [Site(layer.name, units, (position,)) for position in each_position]
    return [Site(layer.name, (unit,), (position,)) for unit in each_unit for position in each_position]
