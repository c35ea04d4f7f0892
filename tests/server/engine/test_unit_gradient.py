"""Objectives inside the network, one for each row, and their gradients at the inputs."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.evaluations.unit_gradient import UnitGradient, Units, objectives
from server.engine.models.networks import ZOO, zoo_graph, zoo_rows
from torch.utils._python_dispatch import TorchDispatchMode

PICTURES = ["convolutional", "residual"]


def own(count, unit, position=-1):
    """Ask for one unit's value in a row."""
    directions = np.zeros((1, count))
    directions[0, unit] = 1
    return Units(directions, np.array([position]), np.zeros(1))


def together(*units):
    return Units(
        np.concatenate([each.directions for each in units]),
        np.concatenate([each.positions for each in units]),
        np.concatenate([each.powers for each in units]),
        units[0].unit_axis,
    )


def tried(graph, rows, layer, objective):
    """Return the objectives and gradients by the whole graph, a row at a time."""
    scores, gradients = [], []
    for number in range(len(next(iter(rows.values())))):
        leaves = {name: each[number : number + 1].clone().requires_grad_() for name, each in rows.items()}
        value = graph.capturing((layer,))(leaves)[1][layer]
        score = objective(value[0], number)
        scores.append(float(score.detach()))
        gradients.append(torch.autograd.grad(score, list(leaves.values()), materialize_grads=True)[0])
    return np.array(scores), torch.cat(gradients).numpy()


@pytest.mark.parametrize("name", PICTURES)
def test_each_row_has_an_objective_of_its_own_at_every_layer(bench, name):
    graph, handle = zoo_graph(name), bench.handle(name)
    rows = zoo_rows(name, 3, 5)
    (key,) = rows
    layers = [each for each, layer in graph.layers.items() if layer.cuttable and len(layer.shape) == 3]
    assert layers
    for layer in layers:
        units = graph.layers[layer].units
        asked = together(own(units, 0), own(units, units - 1, 2), own(units, 1, 0))
        score = {0: lambda v: v[0].mean(), 1: lambda v: v[-1].reshape(-1)[2], 2: lambda v: v[1].reshape(-1)[0]}
        (answer,) = bench.run(
            lambda layer=layer, asked=asked: handle.ask(UnitGradient(Rows({key: rows[key].numpy()}), layer, asked))
        )
        scores, gradients = tried(graph, rows, layer, lambda value, number: score[number](value))  # noqa: B023
        np.testing.assert_allclose(answer.scores, scores, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(answer.arrays[key], gradients, rtol=1e-4, atol=1e-6)


def test_a_direction_counts_by_its_cosine_to_a_power_at_each_position(bench):
    graph, handle = zoo_graph("residual"), bench.handle("residual")
    rows = zoo_rows("residual", 4, 5)
    directions = np.random.default_rng(3).normal(size=(4, 3))
    asked = Units(directions, np.array([-1, 7, -1, 4]), np.array([2.0, 3.0, 0.0, 0.0]))

    def objective(value, number):
        d = torch.from_numpy(directions[number]).float()
        scores = []
        for place in value.reshape(3, -1).T:
            cosine = torch.nn.functional.cosine_similarity(place, d, dim=0, eps=1e-12).clamp(min=0.1)
            scores.append((place * d).sum() * cosine ** float(asked.powers[number]))
        found = torch.stack(scores)
        return found.mean() if asked.positions[number] < 0 else found[asked.positions[number]]

    layer = "blocks.0.norm"
    (answer,) = bench.run(lambda: handle.ask(UnitGradient(Rows({"image": rows["image"].numpy()}), layer, asked)))

    scores, gradients = tried(graph, rows, layer, objective)
    np.testing.assert_allclose(answer.scores, scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer.arrays["image"], gradients, rtol=1e-4, atol=1e-6)


def test_a_row_whose_value_is_one_number_is_its_only_unit():
    asked = Units(np.array([[2.0], [-1.0]]), np.array([-1, 0]), np.zeros(2), None)
    beside = {name: torch.from_numpy(each) for name, each in asked.arrays().items()}

    found = objectives(torch.tensor([3.0, 5.0]), beside, None)

    np.testing.assert_array_equal(found.numpy(), [6, -5])


def test_a_gradient_at_the_layer_is_added_and_changes_no_objective(bench):
    graph, handle = zoo_graph("residual"), bench.handle("residual")
    rows = zoo_rows("residual", 2, 5)
    layer, asked = "blocks.0.conv", together(own(3, 0), own(3, 2))
    more = np.random.default_rng(4).normal(size=(2, 3, 5, 5)).astype(np.float32)
    recipe = Rows({"image": rows["image"].numpy()})

    with_more, without = bench.run(
        lambda: handle.ask(UnitGradient(recipe, layer, asked, more=more)),
        lambda: handle.ask(UnitGradient(recipe, layer, asked)),
    )

    _, added = tried(graph, rows, layer, lambda value, number: (value * torch.from_numpy(more[number])).sum())
    np.testing.assert_array_equal(with_more.scores, without.scores)
    np.testing.assert_allclose(with_more.arrays["image"], without.arrays["image"] + added, rtol=1e-4, atol=1e-6)


def test_without_the_gradient_there_are_the_same_objectives_alone(bench):
    handle, rows = bench.handle("residual"), zoo_rows("residual", 2, 5)
    recipe, asked = Rows({"image": rows["image"].numpy()}), together(own(3, 0), own(3, 2))

    both, alone = bench.run(
        lambda: handle.ask(UnitGradient(recipe, "blocks.0.conv", asked)),
        lambda: handle.ask(UnitGradient(recipe, "blocks.0.conv", asked, gradient=False)),
    )

    np.testing.assert_allclose(alone.scores, both.scores, rtol=1e-6)
    assert alone.values == {}


def test_the_value_before_a_rectifier_has_a_gradient_where_the_one_behind_has_none(bench):
    graph, handle = zoo_graph("residual"), bench.handle("residual")
    rows = {"image": torch.full((1, 3, 5, 5), -50.0)}
    recipe = Rows({"image": rows["image"].numpy()})
    values = graph.capturing(("blocks.0",))(rows)[1]["blocks.0"]
    unit = int((values[0] == 0).flatten(1).all(1).nonzero()[0])

    behind, before = bench.run(
        lambda: handle.ask(UnitGradient(recipe, "blocks.0", own(3, unit))),
        lambda: handle.ask(UnitGradient(recipe, "blocks.0", own(3, unit), rectified=False)),
    )

    assert behind.scores[0] == 0
    assert not behind.arrays["image"].any()
    assert before.scores[0] < 0
    assert before.arrays["image"].any()


class _Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_nothing_behind_the_layer_runs():
    graph, rows = zoo_graph("convolutional"), zoo_rows("convolutional", 2, 0)
    with torch.no_grad(), _Operators() as seen:
        graph.up_to("conv1")(rows)
    with torch.no_grad(), _Operators() as whole:
        graph(rows)

    assert sum("conv" in name for name in seen.names) == 1
    assert sum("conv" in name for name in whole.names) == 2


def test_every_network_of_the_zoo_can_be_cut_off_at_every_layer():
    for name in ZOO:
        graph, rows = zoo_graph(name), zoo_rows(name, 3, 5)
        layers = tuple(each for each, layer in graph.sites.items() if layer.cuttable)
        with torch.no_grad():
            expected = graph.capturing(layers)(rows)[1]
            for layer in layers:
                torch.testing.assert_close(graph.up_to(layer)(rows), expected[layer])
