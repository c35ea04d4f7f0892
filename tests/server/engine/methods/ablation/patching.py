"""Asks methods of sites about networks written in a test, and changes the same networks by hooks."""

import itertools
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.sites import Intervention, Site, SiteLayer, SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.operations.networks import GraphNetwork
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.vocabulary.requests import ModelKey
from server.engine.conftest import ZooModel
from torch.export import Dim

_NUMBERS = itertools.count(1)


class Network:
    """A module with one input, exported, with what asks about it."""

    def __init__(self, module, example):
        self.module = module.eval()
        program = torch.export.export(
            self.module, (torch.cat([example, example]),), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False
        )
        self.graph = Graph.from_program(program)
        self.input = self.graph.inputs[0].name
        self.output = self.graph.outputs[0].name
        self._model = ZooModel(ModelKey(f"patched-{next(_NUMBERS)}", 1), self.graph)

    def handle(self, bench):
        return ModelHandle(self._model, bench.services, RequestState(1, None))

    def layer(self, name):
        found = self.graph.sites[name]
        return SiteLayer(name, tuple(found.shape), found.unit_axis)

    def question(self, rows, source=None, sites=(), *, kind="patch", elements=((0, 1.0),), space="", **more):
        rows = np.asarray(rows, np.float32)
        with torch.no_grad():
            prediction = self.module(torch.from_numpy(rows)).numpy()
        names = list(dict.fromkeys(site.layer for site in sites))
        question = SiteQuestion(
            rows={self.input: rows},
            targets=tuple(Target(self.output, elements, space) for _ in rows),
            prediction=prediction,
            layers={name: self.layer(name) for name in self.graph.ended(names)},
            interventions=(Intervention(tuple(sites), kind),),
            source={} if source is None else {self.input: np.asarray(source, np.float32)},
            network=GraphNetwork(self.graph),
        )
        return replace(question, **more)

    def ask(self, bench, method, question, **parameters):
        """Return the parts of an answer."""
        found = registry.lookup(method, ABLATE)
        handle = self.handle(bench)
        return bench.run(lambda: list(found.function(handle, question, found.resolve(parameters))))[0]

    def value(self, rows, layer):
        """Return what a module makes of rows."""
        found = []
        with self.hooked({layer: lambda value: found.append(value.clone())}):
            self.run(rows)
        return found[0]

    def run(self, rows):
        with torch.no_grad():
            return self.module(torch.as_tensor(np.asarray(rows, np.float32)))

    def hooked(self, changes):
        """Change what modules make: `changes` has a function of the value for each, which may return another."""
        stack = ExitStack()
        for name, change in changes.items():
            hook = self.module.get_submodule(name).register_forward_hook(
                lambda _, __, value, change=change: change(value)
            )
            stack.callback(hook.remove)
        return stack


def column(parts, table, name):
    """Return a column of a table that comes in parts; texts as a list."""
    columns = [part.tables[table].columns[name].values for part in parts if table in part.tables]
    return [text for each in columns for text in each] if isinstance(columns[0], tuple) else np.concatenate(columns)


def patched_by_hand(network, rows, source, site):
    """Return the outputs of rows with a site's value that of the source."""
    layer = network.layer(site.layer)
    other = network.value(source, site.layer)
    mask = np.zeros(layer.shape, bool)
    view = np.moveaxis(mask, layer.unit_axis, 0)
    flat = np.zeros((layer.units, layer.positions), bool)
    units = range(layer.units) if site.units is None else site.units
    positions = range(layer.positions) if site.positions is None else site.positions
    flat[np.ix_(units, positions)] = True
    view[...] = flat.reshape(view.shape)
    with network.hooked({site.layer: lambda value: torch.where(torch.from_numpy(mask), other, value)}):
        return network.run(rows).numpy()


def sites_of(network, name, each):
    layer = network.layer(name)
    if each == "unit":
        return [Site(name, (unit,)) for unit in range(layer.units)]
    return [Site(name, None, (position,)) for position in range(layer.positions)]
