"""Networks of the zoo with layers changed by hooks: what methods of `Ablate` are compared with."""

from typing import Any

import numpy as np
import torch
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.sites import Site, SiteLayer, SiteQuestion
from server.engine.models.networks import ZOO, eager, zoo_graph, zoo_module, zoo_rows

LENGTH = 5


def hookable(name: str) -> dict[str, tuple[int, ...]]:
    """Return the layers of a network that are modules called once, whose value is the module's, with their shapes."""
    module, graph = zoo_module(name), zoo_graph(name)
    values: dict[str, Any] = {}
    calls: dict[str, int] = {}

    def note(layer, value):
        calls[layer] = calls.get(layer, 0) + 1
        values[layer] = value

    hooks = [
        each.register_forward_hook(lambda _, __, value, layer=layer: note(layer, value))
        for layer, each in module.named_modules()
        if layer in graph.layers
    ]
    eager(module, zoo_rows(name, 3, LENGTH))
    for hook in hooks:
        hook.remove()
    return {
        layer: tuple(values[layer].shape[1:])
        for layer, count in calls.items()
        if count == 1
        and graph.layers[layer].cuttable
        and isinstance(values[layer], torch.Tensor)
        and values[layer].is_floating_point()
        and len(values[layer]) == 3
    }


NETWORKS = {name: layers for name in sorted(ZOO) if (layers := hookable(name))}


def arrays(rows):
    return {name: value.numpy() for name, value in rows.items()}


def layer_values(name, rows, layer):
    """Return what a module makes of rows, (rows, *shape)."""
    kept = []
    # A copy: what follows may write to it.
    hook = zoo_module(name).get_submodule(layer).register_forward_hook(lambda _, __, value: kept.append(value.clone()))
    with torch.no_grad():
        eager(zoo_module(name), rows)
    hook.remove()
    return kept[0].detach().numpy().copy()


def first_output(name, rows, changes=()):
    """Return the first output of rows, (rows, *shape), with functions applied to the values of modules."""
    hooks = [
        zoo_module(name)
        .get_submodule(layer)
        .register_forward_hook(
            lambda _, __, value, change=change: torch.from_numpy(change(value.detach().numpy().copy()))
        )
        for layer, change in changes
    ]
    try:
        with torch.no_grad():
            return eager(zoo_module(name), rows)[0].numpy()
    finally:
        for hook in hooks:
            hook.remove()


def one(rows, number):
    return {name: value[number : number + 1] for name, value in rows.items()}


def site_layers(name, layers):
    graph, shapes = zoo_graph(name), NETWORKS[name]
    return {layer: SiteLayer(layer, shapes[layer], graph.layers[layer].unit_axis) for layer in layers}


def question(name, interventions, *, rows=None, source=None, element=0, **settings):
    """Return the question of rows of a network, whose score is an element of the first output."""
    rows = zoo_rows(name, 3, LENGTH) if rows is None else rows
    count = len(next(iter(rows.values())))
    layers = {site.layer for each in interventions for site in each.sites}
    output = zoo_graph(name).outputs[0].name
    return SiteQuestion(
        rows=arrays(rows),
        targets=(Target(output, ((element, 1.0),)),) * count,
        prediction=first_output(name, rows),
        layers=site_layers(name, sorted(layers)),
        interventions=tuple(interventions),
        source={} if source is None else arrays(source),
        references={"batch": arrays(rows)},
        **settings,
    )


def masked(layer: SiteLayer, site: Site) -> np.ndarray:
    """Return which elements of a layer a site has, found element by element."""
    found = np.zeros(layer.shape or (1,), bool)
    for place in np.ndindex(found.shape):
        unit = place[layer.unit_axis]
        others = tuple(part for axis, part in enumerate(place) if axis != layer.unit_axis)
        lengths = tuple(part for axis, part in enumerate(found.shape) if axis != layer.unit_axis)
        position = 0
        for part, length in zip(others, lengths, strict=True):
            position = position * length + part
        found[place] = (site.units is None or unit in site.units) and (
            site.positions is None or position in site.positions
        )
    return found.reshape(layer.shape)
