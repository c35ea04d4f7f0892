"""Integrated gradients of a layer's values, against captum and against the sum that they promise."""

import captum.attr
import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.question import Feature, Question, Target
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import InvalidRequestError
from server.engine.models.networks import ZOO, zoo_graph, zoo_module, zoo_rows


def question(name, *, tolerance=None):
    row = {key: rows.numpy()[0] for key, rows in zoo_rows(name, 2, 5).items()}
    baselines = {
        key: (0.3 * rows.numpy()[1:2]).astype(rows.numpy().dtype) for key, rows in zoo_rows(name, 2, 5).items()
    }
    target = Target(zoo_graph(name).outputs[0].name, ((1, 1.0),))
    features = {key: Feature("tensor", array.dtype.kind == "f") for key, array in row.items()}
    return Question(row, baselines, target, features, tolerance=tolerance)


def test_steps_at_a_layer_are_captums_layer_integrated_gradients(bench, explain):
    name, asked = "convolutional", question("convolutional")
    layer = ZOO[name].cuts.split()[0]
    module = zoo_module(name)
    oracle = captum.attr.LayerIntegratedGradients(module, module.get_submodule(layer))
    inputs, baselines = (
        {key: torch.from_numpy(np.array(rows)) for key, rows in each.items()}
        for each in ({key: row[None] for key, row in asked.inputs.items()}, asked.baselines)
    )

    (answer,) = bench.run(lambda: explain("integrated-gradients", bench.handle(name), asked, steps=20, at=layer))

    expected = oracle.attribute(
        tuple(inputs.values()), tuple(baselines.values()), target=1, n_steps=20, method="gausslegendre"
    )
    assert answer.layer == layer
    np.testing.assert_allclose(answer.scores[layer], expected[0].detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["convolutional", "residual", "tokens"])
def test_scores_of_a_layers_values_sum_to_what_the_layer_changes(bench, explain, name):
    layers = [layer for layer, each in zoo_graph(name).layers.items() if each.cuttable]
    for layer in (layers[0], layers[len(layers) // 2]):
        handle = bench.handle(name)
        (answer,) = bench.run(
            lambda handle=handle, layer=layer: explain(
                "integrated-gradients", handle, question(name, tolerance=0.01), at=layer
            )
        )

        change = answer.instance_value - answer.baseline_value
        np.testing.assert_allclose(answer.scores[layer].sum(dtype=np.float64) - answer.signed_gap, change, atol=1e-5)
        assert abs(answer.signed_gap) <= 0.01 * abs(change)


def test_a_layer_that_there_is_not_is_refused_with_those_of_like_names(bench, explain):
    layer = ZOO["residual"].cuts.split()[0]

    with pytest.raises(InvalidRequestError, match=repr(layer)) as caught:
        bench.run(
            lambda: explain("integrated-gradients", bench.handle("residual"), question("residual"), at=layer + "x")
        )

    assert caught.value.metadata["field"] == 'parameters["at"]'


def test_what_is_held_for_a_row_is_let_go_with_its_answer(bench, explain):
    request = RequestState(1, None)
    layer = ZOO["residual"].cuts.split()[0]
    handle = bench.handle("residual", request=request)

    bench.run(lambda: explain("integrated-gradients", handle, question("residual"), steps=2, at=layer))

    assert handle.tally.work().rows_forward > 0
    assert request.held_bytes == 0
