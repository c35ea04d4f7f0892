"""Edits at layers: what the eager network says with hooks that make the same changes."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.edited import Edit, Edited
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.recipes import Picked, Rows
from server.engine.models.networks import ZOO, eager, zoo_graph, zoo_module, zoo_rows

ROWS = 5


def hookable(name):
    """Return the layers of a network that are modules called once, whose value is the module's."""
    module, graph = zoo_module(name), zoo_graph(name)
    values, calls = {}, {}

    def note(layer, value):
        calls[layer] = calls.get(layer, 0) + 1
        values[layer] = value

    hooks = [
        each.register_forward_hook(lambda _, __, value, layer=layer: note(layer, value))
        for layer, each in module.named_modules()
        if layer in graph.layers
    ]
    eager(module, zoo_rows(name, ROWS, 5))
    for hook in hooks:
        hook.remove()
    return [
        layer
        for layer, count in calls.items()
        if count == 1
        and graph.layers[layer].cuttable
        and isinstance(values[layer], torch.Tensor)
        and values[layer].is_floating_point()
        and len(values[layer]) == ROWS
    ], values


CASES = [(name, layers, values) for name in sorted(ZOO) for layers, values in [hookable(name)] if layers]


def random_edit(source, value):
    """Return an edit that switches some elements off, sets, scales and shifts others, and leaves the rest."""
    shape = tuple(value.shape)
    kind = source.integers(0, 5, shape)
    keep = np.select([kind == 0, kind == 1, kind == 2], [0.0, 0.0, 1.5], 1.0).astype(np.float32)
    add = np.select([kind == 1, kind == 3], [0.75, -0.25], 0.0).astype(np.float32)
    return Edit(keep, add)


def with_hooks(name, rows, edits):
    module = zoo_module(name)

    def change(edit, value):
        return torch.from_numpy(edit.keep) * value + torch.from_numpy(edit.add)

    hooks = [
        module.get_submodule(layer).register_forward_hook(lambda _, __, value, edit=edit: change(edit, value))
        for layer, edit in edits.items()
    ]
    try:
        with torch.no_grad():
            return [each.numpy() for each in eager(module, rows)]
    finally:
        for hook in hooks:
            hook.remove()


def arrays(rows):
    return {key: value.numpy() for key, value in rows.items()}


@pytest.mark.parametrize(("name", "layers", "values"), CASES, ids=[case[0] for case in CASES])
def test_edits_at_one_layer_and_at_all_at_once_are_those_of_hooks(bench, name, layers, values):
    source = np.random.default_rng(7)
    rows, handle = zoo_rows(name, ROWS, 5), bench.handle(name)
    chosen = [(layer,) for layer in layers] + [tuple(layers)]
    all_edits = [{layer: random_edit(source, values[layer]) for layer in some} for some in chosen]

    found = bench.run(*[lambda edits=edits: handle.ask(Edited(Rows(arrays(rows)), edits)) for edits in all_edits])

    changed = 0
    (plain,) = bench.run(lambda: handle.ask(Forward(Rows(arrays(rows)))).arrays)
    for edits, answer in zip(all_edits, found, strict=True):
        for one, expected in zip(answer.arrays.values(), with_hooks(name, rows, edits), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
        changed += any(not np.allclose(answer.arrays[key], plain[key]) for key in plain)
    assert changed > 0


def test_each_row_has_its_own_edit_and_the_same_row_may_be_asked_for_often(bench):
    name, layers, values = CASES[0]
    layer = layers[0]
    rows, handle = arrays(zoo_rows(name, 2, 5)), bench.handle(name)
    count, shape = 6, tuple(values[layer].shape[1:])
    keep = np.ones((count, *shape), np.float32)
    keep.reshape(count, -1)[np.arange(count), np.arange(count) % keep[0].size] = 0
    edit = Edit(keep, np.zeros_like(keep))
    of = np.array([0, 0, 0, 1, 1, 1])
    target = Target(zoo_graph(name).outputs[0].name, ((0, 1.0),))

    together, scored = bench.run(
        lambda: handle.ask(Edited(Picked(rows, of), {layer: edit})).arrays,
        lambda: handle.ask(Edited(Picked(rows, of), {layer: edit}, target)).arrays[SCORES],
    )

    output = next(iter(together.values()))
    for number in range(count):
        one = {key: value[of[number] : of[number] + 1] for key, value in rows.items()}
        alone = Edited(Rows(one), {layer: Edit(keep[number : number + 1], edit.add[number : number + 1])})
        (expected,) = bench.run(lambda alone=alone: handle.ask(alone).arrays)
        np.testing.assert_allclose(output[number], next(iter(expected.values()))[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scored, output.reshape(count, -1)[:, 0], rtol=1e-6)


def test_an_edit_that_keeps_nothing_wins_over_infinity():
    name, layers, values = CASES[0]
    graph = zoo_graph(name)
    layer = layers[0]
    rows = {
        key: torch.full_like(value, float("inf")) if value.is_floating_point() else value
        for key, value in zoo_rows(name, 2, 5).items()
    }
    zero = torch.zeros((2, *values[layer].shape[1:]))

    outputs, _ = graph.editing((layer,))(rows, {layer: (zero, zero)})

    assert all(torch.isfinite(each).all() for each in outputs.values())


def test_an_edit_of_another_number_of_rows_is_refused():
    row = {"x": np.zeros((2, 3), np.float32)}
    edit = Edit(np.zeros((3, 4), np.float32), np.zeros((2, 4), np.float32))

    with pytest.raises(ValueError, match="3 and 2 rows; it must have 2"):
        _ = Edited(Rows(row), {"layer": edit}).recipe


def test_values_captured_under_edits_are_those_that_hooks_see(bench):
    # Along one path: of the layers between, all but the sender stay as they were for other rows.
    name, sender, receiver = "encoder", "layers.0.attention", "layers.1.mlp"
    frozen = ("layers.0.mlp", "layers.1.attention")
    handle, rows, others = bench.handle(name), arrays(zoo_rows(name, ROWS, 5)), arrays(zoo_rows(name, ROWS + 1, 5))
    others = {key: value[:ROWS] for key, value in others.items()}
    target = Target("output", ((0, 1.0),))
    (kept,), (sent,) = (
        bench.run(lambda given=given, names=names: handle.ask(Capture(Rows(given), names)).arrays)
        for given, names in ((rows, frozen), (others, (sender,)))
    )
    zeros = np.zeros(ROWS, np.float32)
    edits = {
        layer: Edit(zeros.reshape(-1, *(1,) * (value.ndim - 1)), value) for layer, value in {**kept, **sent}.items()
    }

    found, scored = bench.run(
        lambda: handle.ask(Edited(Rows(rows), edits, capture=(receiver, sender))).arrays,
        lambda: handle.ask(Edited(Rows(rows), edits, target, capture=(receiver,))),
    )

    module, seen = zoo_module(name), []
    hooks = [
        module.get_submodule(layer).register_forward_hook(lambda _, __, value, edit=edit: torch.from_numpy(edit.add))
        for layer, edit in edits.items()
    ]
    hooks.append(module.get_submodule(receiver).register_forward_hook(lambda _, __, value: seen.append(value)))
    outputs = eager(module, {key: torch.from_numpy(value) for key, value in rows.items()})
    for hook in hooks:
        hook.remove()
    assert found.keys() == {receiver, sender}
    np.testing.assert_array_equal(found[sender], sent[sender])
    np.testing.assert_allclose(found[receiver], seen[0].detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scored.values[receiver], found[receiver], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scored.scores, outputs[0].detach().numpy()[:, 0], rtol=1e-4, atol=1e-5)


def test_an_edit_of_a_few_units_is_given_by_a_number_each_and_no_more(bench):
    handle, rows = bench.handle("residual"), arrays(zoo_rows("residual", ROWS, 5))
    keep = np.ones((ROWS, 3, 1, 1), np.float32)
    keep[:, 1] = 0
    edit = Edit(keep, np.zeros((ROWS, 1, 1, 1), np.float32))

    found, plain = bench.run(
        lambda: handle.ask(Edited(Rows(rows), {"blocks.0": edit}, capture=("blocks.0",))).arrays["blocks.0"],
        lambda: handle.ask(Capture(Rows(rows), ("blocks.0",))).arrays["blocks.0"],
    )

    np.testing.assert_array_equal(found, keep * plain)
