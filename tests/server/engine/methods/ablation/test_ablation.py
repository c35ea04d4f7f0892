"""Ablation against whole forward passes of the author's network, with the change made by a hook."""

import dataclasses

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.sites import Intervention, Site
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.sites import site_runs
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.ablation.hooked import (
    LENGTH,
    NETWORKS,
    arrays,
    first_output,
    layer_values,
    masked,
    one,
    question,
    site_layers,
)
from server.engine.models.networks import zoo_graph, zoo_rows


def findings(bench, name, asked, **parameters):
    """Return the parts that the method yields."""
    method = registry.lookup("ablation", ABLATE)
    (found,) = bench.run(lambda: list(method.function(bench.handle(name), asked, method.resolve(parameters))))
    return found


def column(found, table, name):
    return np.concatenate([np.asarray(part.tables[table].columns[name].values) for part in found])


def scores(name, rows, changes=()):
    return first_output(name, rows, changes).reshape(len(next(iter(rows.values()))), -1)[:, 0]


def at_mask(mask, factor):
    """Return a change of a value that multiplies some of its elements."""
    return lambda value: np.where(mask, factor * value, value).astype(value.dtype)


def some_sites(layer, shape, axis):
    """Return a unit, a position, an element, several units and the whole of a layer."""
    units, positions = shape[axis], int(np.prod(shape)) // shape[axis]
    return (
        Site(layer, (units - 1,)),
        Site(layer, None, (positions - 1,)),
        Site(layer, (0,), (positions // 2,)),
        Site(layer, tuple(range(0, units, 2))),
        Site(layer),
    )


CASES = [(name, layer) for name, layers in NETWORKS.items() for layer in layers if layers[layer]]


@pytest.mark.parametrize(("name", "layer"), CASES, ids=["-".join(case) for case in CASES])
def test_zero_at_any_site_is_a_forward_pass_with_the_value_set_to_zero(bench, name, layer):
    at = site_layers(name, [layer])[layer]
    sites = some_sites(layer, at.shape, at.unit_axis)
    rows = zoo_rows(name, 2, LENGTH)

    found = findings(bench, name, question(name, [Intervention(sites)], rows=rows))

    expected = []
    for row in range(2):
        for site in sites:
            mask = masked(at, site)
            expected += scores(
                name, one(rows, row), [(layer, lambda value, mask=mask: np.where(mask, 0, value))]
            ).tolist()
    np.testing.assert_allclose(column(found, "effects", "after"), expected, rtol=1e-4, atol=1e-5)
    before = np.repeat(scores(name, rows), len(sites))
    np.testing.assert_allclose(column(found, "effects", "before"), before, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(column(found, "effects", "effect"), before - expected, atol=2e-5)


def changed(kind, name, layer, at, rows, row, source):
    """Return what becomes of a layer's value, worked out by hand."""
    values = layer_values(name, rows, layer)
    others = tuple(axis + 1 for axis in range(len(at.shape)) if axis != at.unit_axis)
    weights = np.arange(1, at.units + 1, dtype=np.float64).reshape(
        [at.units if axis == at.unit_axis else 1 for axis in range(len(at.shape))]
    )
    patch = layer_values(name, one(source, row), layer)
    return {
        "mean": lambda value: np.broadcast_to(values.mean(axis=(0, *others), keepdims=True), value.shape),
        "mean-per-position": lambda value: np.broadcast_to(values.mean(axis=0), value.shape),
        "constant": lambda value: np.full_like(value, 0.25),
        "vector": lambda value: np.broadcast_to(weights, value.shape),
        "scale": lambda value: -1.5 * value,
        "steer": lambda value: value + 0.5 * weights,
        "patch": lambda value: patch,
    }[kind]


def intervention(kind, at, sites):
    weights = np.arange(1, at.units + 1, dtype=np.float64).reshape(
        [at.units if axis == at.unit_axis else 1 for axis in range(len(at.shape))]
    )
    settings = {
        "mean": {"kind": "mean", "reference": "batch"},
        "mean-per-position": {"kind": "mean", "reference": "batch", "per_position": True},
        "constant": {"kind": "constant", "value": 0.25},
        "vector": {"kind": "constant", "vector": weights},
        "scale": {"kind": "scale", "value": -1.5},
        "steer": {"kind": "steer", "value": 0.5, "vector": weights},
        "patch": {"kind": "patch"},
    }[kind]
    return Intervention(tuple(sites), **settings)


@pytest.mark.parametrize("kind", ["mean", "mean-per-position", "constant", "vector", "scale", "steer", "patch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_intervention_is_a_forward_pass_with_the_value_changed_by_hand(bench, name, kind):
    layer = next(layer for layer, shape in reversed(NETWORKS[name].items()) if shape)
    at = site_layers(name, [layer])[layer]
    sites = some_sites(layer, at.shape, at.unit_axis)
    rows, source = zoo_rows(name, 3, LENGTH), {key: value.flip(0) for key, value in zoo_rows(name, 3, LENGTH).items()}

    found = findings(bench, name, question(name, [intervention(kind, at, sites)], rows=rows, source=source))

    expected = []
    for row in range(3):
        change = changed(kind, name, layer, at, rows, row, source)
        for site in sites:
            mask = masked(at, site)
            by_hand = [
                (
                    layer,
                    lambda value, mask=mask, change=change: np.where(mask, change(value), value).astype(value.dtype),
                )
            ]
            expected += scores(name, one(rows, row), by_hand).tolist()
    np.testing.assert_allclose(column(found, "effects", "after"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), CASES, ids=["-".join(case) for case in CASES])
def test_every_unit_by_itself_is_a_forward_pass_with_that_unit_changed(bench, name, layer):
    at = site_layers(name, [layer])[layer]
    sites = [Site(layer, (unit,)) for unit in range(at.units)]
    rows, source = zoo_rows(name, 2, LENGTH), {key: value.flip(0) for key, value in zoo_rows(name, 2, LENGTH).items()}
    kinds = ("constant", "scale", "steer", "patch")
    asked = [intervention(kind, at, sites) for kind in kinds]

    found = findings(bench, name, question(name, asked, rows=rows, source=source))

    places = zip(*(column(found, "effects", each).tolist() for each in ("intervention", "row", "unit")), strict=True)
    expected = []
    for kind, row, unit in places:
        change, mask = changed(kind, name, layer, at, rows, row, source), masked(at, sites[unit])

        def by_hand(value, mask=mask, change=change):
            return np.where(mask, change(value), value).astype(value.dtype)

        expected += scores(name, one(rows, row), [(layer, by_hand)]).tolist()
    assert len(expected) == 2 * at.units * len(kinds)
    np.testing.assert_allclose(column(found, "effects", "after"), expected, rtol=1e-4, atol=1e-5)
    before = scores(name, rows)[column(found, "effects", "row")]
    np.testing.assert_allclose(column(found, "effects", "before"), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_joint_changes_of_several_layers_hold_at_once(bench, name):
    layers = [layer for layer, shape in NETWORKS[name].items() if shape]
    chosen = [layers[0], layers[-1]] if len(layers) > 1 else layers
    known = site_layers(name, chosen)
    asked = [Intervention((Site(layer, (0,)),), "scale", 0.5) for layer in chosen]
    rows = zoo_rows(name, 2, LENGTH)

    found = findings(bench, name, question(name, asked, rows=rows), joint=True)

    changes = [(layer, at_mask(masked(known[layer], Site(layer, (0,))), 0.5)) for layer in chosen]
    np.testing.assert_allclose(column(found, "joint", "after"), scores(name, rows, changes), rtol=1e-4, atol=1e-5)
    outputs = found[0].arrays
    np.testing.assert_allclose(outputs["output after"].values, first_output(name, rows, changes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["output before"].values, first_output(name, rows), rtol=1e-4, atol=1e-5)


def test_joint_changes_name_the_highest_classes_without_and_with_them(bench):
    name = "convolutional"
    rows = zoo_rows(name, 2, LENGTH)
    asked = question(name, [Intervention((Site("conv2"),))], rows=rows, labels=("a", "b", "c"))

    found = findings(bench, name, asked, joint=True)

    outcomes = {key: np.asarray(each.values) for key, each in found[0].tables["outcomes"].columns.items()}
    before, after = first_output(name, rows), first_output(name, rows, [("conv2", lambda value: 0 * value)])
    places = outcomes["row"], outcomes["index"]
    assert outcomes["row"].tolist() == [0, 0, 0, 1, 1, 1]
    assert outcomes["label"].tolist() == [("a", "b", "c")[place] for place in outcomes["index"]]
    np.testing.assert_allclose(outcomes["before"], before[places], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outcomes["after"], after[places], rtol=1e-4, atol=1e-5)
    assert (np.diff(outcomes["after"].reshape(2, 3), axis=1) <= 0).all()


def test_changes_of_one_site_are_told_apart_by_their_values(bench):
    changes = [Intervention((Site("conv2"),), "scale", factor) for factor in (0.5, 2.0)]

    found = findings(bench, "convolutional", question("convolutional", [*changes, Intervention((Site("conv2"),))]))

    values = [part.tables["effects"].columns.get("value") for part in found]
    assert [None if each is None else each.values[0] for each in values] == [0.5, 2.0, None]


def test_a_joint_change_before_a_linear_suffix_is_the_sum_of_the_singles(bench):
    name, layer = "convolutional", "drop" if "drop" in NETWORKS["convolutional"] else "flatten"
    sites = [Site(layer, (unit,)) for unit in range(6)]
    rows = zoo_rows(name, 2, LENGTH)

    singles = findings(bench, name, question(name, [Intervention(tuple(sites))], rows=rows))
    joint = findings(bench, name, question(name, [Intervention(tuple(sites))], rows=rows), joint=True)
    pairs = findings(bench, name, question(name, [Intervention(tuple(sites))], rows=rows), interactions=True)

    sums = column(singles, "effects", "effect").reshape(2, 6).sum(axis=1)
    np.testing.assert_allclose(column(joint, "joint", "effect"), sums, atol=1e-5)
    assert np.abs(column(pairs, "interactions", "interaction")).max() < 1e-5
    assert len(column(pairs, "interactions", "interaction")) == 2 * 15


def test_interactions_are_the_effect_of_two_less_the_effect_of_each(bench):
    name = "convolutional"
    sites = (Site("conv1", (0,)), Site("conv1", (1,)), Site("conv2", (2,)))
    rows = zoo_rows(name, 2, LENGTH)
    known = site_layers(name, ["conv1", "conv2"])

    found = findings(bench, name, question(name, [Intervention(sites)], rows=rows), interactions=True)

    def effect(some):
        changes = [(site.layer, at_mask(masked(known[site.layer], site), 0)) for site in some]
        return scores(name, rows) - scores(name, rows, changes)

    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.stack(
        [effect([sites[a], sites[b]]) - effect([sites[a]]) - effect([sites[b]]) for a, b in pairs], axis=1
    )
    np.testing.assert_allclose(column(found, "interactions", "interaction"), expected.reshape(-1), atol=2e-5)


def test_sufficiency_is_what_is_lost_when_all_other_units_are_changed(bench):
    name, layer, kept = "convolutional", "conv2", (1, 3)
    rows = zoo_rows(name, 2, LENGTH)
    at = site_layers(name, [layer])[layer]

    found = findings(bench, name, question(name, [Intervention((Site(layer, kept),))], rows=rows), joint=True)

    mask = ~masked(at, Site(layer, kept))
    others = scores(name, rows, [(layer, lambda value: np.where(mask, 0, value))])
    np.testing.assert_allclose(column(found, "joint", "sufficiency"), scores(name, rows) - others, atol=1e-5)


def test_a_dead_unit_has_no_effect(bench):
    name, layer = "convolutional", "conv1"
    rows = zoo_rows(name, 2, LENGTH)

    found = findings(bench, name, question(name, [Intervention((Site(layer, (0,)),), "scale", 1.0)], rows=rows))

    np.testing.assert_allclose(column(found, "effects", "effect"), 0, atol=1e-6)


def test_a_divergence_is_that_of_the_two_distributions(bench):
    name, layer = "convolutional", "conv2"
    rows = zoo_rows(name, 2, LENGTH)
    site = Site(layer)
    asked = question(name, [Intervention((site,))], rows=rows, divergence="softmax")

    found = findings(bench, name, asked)

    mask = masked(site_layers(name, [layer])[layer], site)
    logits = [first_output(name, rows), first_output(name, rows, [(layer, lambda value: np.where(mask, 0, value))])]
    p, q = (np.exp(each.astype(float)) / np.exp(each.astype(float)).sum(axis=1, keepdims=True) for each in logits)
    expected = (p * np.log(p / q)).sum(axis=1)
    assert expected.max() > 1e-6
    np.testing.assert_allclose(column(found, "effects", "after"), expected, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(column(found, "effects", "before"), 0, atol=1e-12)


def test_resampling_draws_other_rows_and_reports_the_mean_and_its_standard_error(bench):
    name, layer = "convolutional", "conv2"
    rows = zoo_rows(name, 2, LENGTH)
    asked = question(name, [Intervention((Site(layer),), "resample", reference="batch", draws=4)], rows=rows)

    found = findings(bench, name, asked)

    # With two rows the other one is drawn each time.
    swapped = scores(name, {key: value.flip(0) for key, value in rows.items()})
    np.testing.assert_allclose(column(found, "effects", "after"), swapped, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(column(found, "effects", "standard error"), 0, atol=1e-6)


def test_noise_is_the_same_for_a_seed_and_its_mean_on_a_linear_suffix_is_the_unchanged_score(bench):
    name = "convolutional"
    layer = "drop" if "drop" in NETWORKS[name] else "flatten"
    rows = zoo_rows(name, 1, LENGTH)
    asked = question(name, [Intervention((Site(layer),), "noise", 0.1, draws=200)], rows=rows, seed=3)

    first, again = findings(bench, name, asked), findings(bench, name, asked)
    other = findings(bench, name, dataclasses.replace(asked, seed=4))

    after, error = (float(column(first, "effects", each)[0]) for each in ("after", "standard error"))
    assert after == column(again, "effects", "after")[0] != column(other, "effects", "after")[0]
    assert abs(after - float(scores(name, rows)[0])) < 4 * error
    assert error > 0


def test_parts_that_are_done_are_left_out_and_the_others_are_the_same(bench):
    name = "convolutional"
    asked = question(
        name,
        [Intervention((Site("conv1", (0,)), Site("conv2", (0,)), Site("conv2", (1,)))), Intervention((Site("head"),))],
    )

    everything = findings(bench, name, asked)
    rest = findings(bench, name, dataclasses.replace(asked, parts_done=1))

    assert len(everything) == 3
    assert len(rest) == 2
    for one_part, other in zip(everything[1:], rest, strict=True):
        np.testing.assert_allclose(
            one_part.tables["effects"].columns["after"].values,
            other.tables["effects"].columns["after"].values,
            rtol=1e-5,
        )


def test_means_over_rows_come_with_a_bootstrap_interval(bench):
    name = "convolutional"

    found = findings(bench, name, question(name, [Intervention((Site("conv2"),))]))

    effects = column(found, "effects", "effect")
    mean, low, high = (float(column(found, "summary", each)[0]) for each in ("effect", "low", "high"))
    assert mean == pytest.approx(effects.mean())
    assert effects.min() <= low <= mean <= high <= effects.max()
    assert low < high


def test_a_place_that_is_changed_twice_at_once_is_refused(bench):
    asked = question("convolutional", [Intervention((Site("conv1", (0, 1)), Site("conv1", (1,))))])

    with pytest.raises(InvalidRequestError, match=r"conv1\[1\] is changed twice"):
        findings(bench, "convolutional", asked, joint=True)


@pytest.mark.parametrize("way", [{"joint": True}, {"interactions": True}])
def test_one_value_under_two_names_is_not_changed_twice_at_once(bench, way):
    asked = question("convolutional", [Intervention((Site("conv1"),), "scale", 2.0), Intervention((Site("conv2"),))])
    layers = {name: dataclasses.replace(layer, value="conv1") for name, layer in asked.layers.items()}

    with pytest.raises(InvalidRequestError, match="conv2 is changed twice"):
        findings(bench, "convolutional", dataclasses.replace(asked, layers=layers), **way)


def test_interactions_of_overlapping_sites_are_refused(bench):
    asked = question("convolutional", [Intervention((Site("head", (0, 1)), Site("head", (1, 2))))])

    with pytest.raises(InvalidRequestError, match=r"head\[1-2\] is changed twice"):
        findings(bench, "convolutional", asked, interactions=True)


def test_a_curve_of_overlapping_sites_is_refused(bench):
    asked = question("convolutional", [Intervention((Site("head", (0, 1)), Site("head", None, (0,))))])
    method = registry.lookup("ablation-curve", ABLATE)

    with pytest.raises(InvalidRequestError, match=r"head@0 is changed twice"):
        bench.run(lambda: list(method.function(bench.handle("convolutional"), asked, method.resolve({}))))


def test_many_interventions_at_once_take_the_memory_of_few_and_are_those_made_by_hand(bench, monkeypatch):
    name, layer = "convolutional", "conv1"
    at = site_layers(name, [layer])[layer]
    rows = zoo_rows(name, 1, LENGTH)
    sites = [Site(layer, (unit,), (position,)) for unit in range(4) for position in (0, 5, 11)] + [
        Site(layer, None, (3,))
    ]
    asked = question(name, [Intervention((site,), "scale", 1.0 + place) for place, site in enumerate(sites)], rows=rows)
    # Room for two values of the layer.
    monkeypatch.setattr(site_runs, "_MOST_OTHER_BYTES", 2 * 4 * int(np.prod(at.shape)))

    joint = findings(bench, name, asked, joint=True)
    singly = findings(bench, name, asked)
    pairs = findings(bench, name, asked, interactions=True)

    def scaled(value):
        for place, site in enumerate(sites):
            value = np.where(masked(at, site), (1.0 + place) * value, value).astype(value.dtype)
        return value

    np.testing.assert_allclose(column(joint, "joint", "after"), scores(name, rows, [(layer, scaled)]), rtol=1e-4)
    alone = [
        scores(name, rows, [(layer, at_mask(masked(at, site), 1.0 + place))])[0] for place, site in enumerate(sites)
    ]
    np.testing.assert_allclose(column(singly, "effects", "after"), alone, rtol=1e-4, atol=1e-5)
    assert len(column(pairs, "interactions", "interaction")) == len(sites) * (len(sites) - 1) // 2


def test_interactions_of_several_rows_have_means_with_intervals(bench):
    asked = question("convolutional", [Intervention((Site("conv2", (0,)), Site("conv2", (1,))))])

    found = findings(bench, "convolutional", asked, interactions=True)

    values = column(found, "interactions", "interaction")
    mean, low, high = (float(column(found, "interaction summary", each)[0]) for each in ("interaction", "low", "high"))
    assert mean == pytest.approx(values.mean())
    assert values.min() <= low <= mean <= high <= values.max()


def test_more_noise_than_there_is_time_for_is_refused(bench, monkeypatch):
    monkeypatch.setattr(site_runs, "_MOST_NOISE", 10)
    asked = question("convolutional", [Intervention((Site("conv1", (0,)),), "noise", 1.0)])

    with pytest.raises(InvalidRequestError, match="numbers of noise at once"):
        findings(bench, "convolutional", asked)


def test_a_score_that_is_no_number_names_the_site(bench):
    asked = question("convolutional", [Intervention((Site(layer),), "scale", 1e30) for layer in ("conv1", "conv2")])

    with pytest.raises(InvalidRequestError, match=r"With conv1, conv2 changed, the score of row 0 is (nan|-?inf)"):
        findings(bench, "convolutional", asked, joint=True)


def test_a_sweep_leaves_nothing_held_and_the_weights_as_they_were(bench):
    name = "residual" if "residual" in NETWORKS else "convolutional"
    graph, request = zoo_graph(name), RequestState(1, None)
    handle = bench.handle(name, request=request)
    weights = {key: tensor.detach().clone() for key, tensor in graph._program.tensors.items()}
    (before,) = bench.run(lambda: handle.ask(Forward(Rows(arrays(zoo_rows(name, 3, LENGTH))))).arrays)
    layers = [layer for layer, shape in NETWORKS[name].items() if shape]
    asked = question(name, [Intervention(tuple(Site(layer, (0,)) for layer in layers), "scale", 2.0)])
    method = registry.lookup("ablation", ABLATE)

    bench.run(lambda: list(method.function(handle, asked, method.resolve({}))))

    (after,) = bench.run(lambda: handle.ask(Forward(Rows(arrays(zoo_rows(name, 3, LENGTH))))).arrays)
    assert request.held_bytes == 0
    assert all(torch.equal(tensor, weights[key]) for key, tensor in graph._program.tensors.items())
    assert all(np.array_equal(after[key], before[key]) for key in before)


def test_the_rows_themselves_are_not_changed(bench):
    rows = zoo_rows("convolutional", 2, LENGTH)
    before = {key: array.copy() for key, array in arrays(rows).items()}

    findings(bench, "convolutional", question("convolutional", [Intervention((Site("conv1"),))], rows=rows))

    for key, array in arrays(rows).items():
        np.testing.assert_array_equal(array, before[key])
