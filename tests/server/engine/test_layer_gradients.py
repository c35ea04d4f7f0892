"""Gradients at all layers by one pass are those at each by a pass of its own."""

import numpy as np
import pytest
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.layer_gradients import VALUE, LayerGradients
from pellucid_server.engine.evaluations.recipes import Rows
from server.engine.models.networks import ZOO, zoo_graph, zoo_rows


@pytest.mark.parametrize("name", sorted(ZOO))
def test_all_layers_at_once_have_the_gradients_and_values_of_each_by_itself(bench, name):
    graph, handle = zoo_graph(name), bench.handle(name)
    rows = Rows({key: value.numpy() for key, value in zoo_rows(name, 3, 5).items()})
    layers = graph.ended(layer for layer, each in graph.sites.items() if each.cuttable)
    target = Target(graph.outputs[0].name, ((0, 1.0),))

    together, values, *singly = bench.run(
        lambda: handle.ask(LayerGradients(rows, target, layers)),
        lambda: handle.ask(Capture(rows, layers)),
        *[lambda layer=layer: handle.ask(Gradient(rows, target, at=layer)) for layer in layers],
    )

    for layer, single in zip(layers, singly, strict=True):
        np.testing.assert_allclose(together.arrays[layer], single.arrays[layer], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(together.arrays[f"{VALUE}{layer}"], values.arrays[layer], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together.scores, single.scores, rtol=1e-5, atol=1e-6)
    assert any(np.abs(each.arrays[layer]).max() > 0 for layer, each in zip(layers, singly, strict=True))
