"""From the layers that a `Dissect` names to those that its method looks at."""

from dataclasses import dataclass, replace

import numpy as np

from pellucid_server.engine.asking.probes import ProbeLayer, ProbeSet
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.sites import find_layers
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import LayerSpec

MOST_LAYERS = 1024
"""Layers of one request, patterns resolved."""


@dataclass(frozen=True, slots=True)
class FoundLayers:
    """The layers of a request, and how they are named once patterns are resolved, for the record."""

    layers: tuple[ProbeLayer, ...]
    specs: tuple[LayerSpec, ...]


def probe_layers(
    context: RequestContext, model: LoadedModel, specs: tuple[LayerSpec, ...], probe: ProbeSet | None
) -> FoundLayers:
    """Find the layers that a request names, in its order.

    Raises
    ------
    InvalidRequestError
        A layer is named twice or has no such unit, or there are too many.
    NotFoundError
        There is no such layer.
    """
    first = _first_row(model, probe)
    found: dict[str, ProbeLayer] = {}
    named: list[LayerSpec] = []
    for number, spec in enumerate(specs):
        field = f"layers[{number}]"
        for layer in find_layers(context, model, spec.layer, spec.part, first, field):
            if layer.name in found:
                text = f"{field} stands for {layer.name!r}, which another entry has; name each layer once."
                raise InvalidRequestError(text, field=f"{field}.layer")
            bad = next((unit for unit in spec.units if unit >= layer.units), None)
            if bad is not None:
                text = f"{field}.units has {bad}; {layer.name} has {layer.units} units, numbered from 0."
                raise InvalidRequestError(text, field=f"{field}.units")
            units = np.array(sorted(spec.units) or range(layer.units), np.int64)
            found[layer.name] = ProbeLayer(layer, units)
            suffix = f":{spec.part}" if spec.part else ""
            named.append(replace(spec, layer=layer.name.removesuffix(suffix)))
        if len(found) > MOST_LAYERS:
            text = f"{field} brings the layers of the request above {MOST_LAYERS}; name fewer."
            raise InvalidRequestError(text, field=field)
    return FoundLayers(tuple(found.values()), tuple(named))


def _first_row(model: LoadedModel, probe: ProbeSet | None) -> Arrays:
    """Return a row to look at where the shape of a layer depends on it: the first that is looked at, or zeros."""
    if probe is not None:
        return probe.rows([0])
    shapes = {name: tuple(abs(length) for length in each.info.shape) for name, each in model.inputs.items()}
    return {name: np.zeros((1, *shape), model.inputs[name].info.data_type) for name, shape in shapes.items()}
