"""Ablate on the device, against the same server on the CPU."""

import numpy as np
import pytest
from e2e.small_models import PICTURES, SCORES
from gpu.test_service import inputs
from pellucid import Constant, Fixed, Mean, Noise, Patch, Resample, Scale, Zero

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4
"""How far effects may be from the CPU's, as a share of the largest score: both compute in float32, in other orders."""

MODELS = (SCORES, PICTURES, "convolutional", "residual", "encoder")

CHANGES = {
    "zero": Zero,
    "scale": lambda layer: Scale(layer, 0.5),
    "mean": lambda layer: Mean(layer, reference="batch"),
    "resample": lambda layer: Resample(layer, reference="batch", draws=3),
    "noise": lambda layer: Noise(layer, deviation=0.1, draws=3),
    "patch": Patch,
}


def several(model, count=4):
    """Return rows for a model that differ, in the form that its inputs have."""
    random = np.random.default_rng(5)
    if model == SCORES:
        return [
            {"width": 11.0 + 7 * number, "height": 2.0 - number, "colour": ("green", "red")[number % 2]}
            for number in range(count)
        ]
    if model == PICTURES:
        return random.integers(0, 256, (count, 12, 12, 3), np.uint8)
    return {
        name: np.concatenate([value * (1 + number / 3) for number in range(count)]).astype(value.dtype)
        for name, value in inputs(model).items()
    }


def layers(client, model):
    return [layer.name for layer in client.model(model).layers][:12]


def effects(client, model, *interventions, rows=4, **settings):
    table = client.ablate(model, several(model, rows), *interventions, seed=3, exact=True, **settings).effects
    return [(str(line["site"]), float(line["before"]), float(line["effect"])) for line in table]


def close(found, expected, record_property):
    found, expected = sorted(found), sorted(expected)
    assert [site for site, *_ in found] == [site for site, *_ in expected]
    values, wanted = (np.array([numbers for _, *numbers in each]) for each in (found, expected))
    largest = np.abs(wanted).max()
    record_property("deviation", float(np.abs(values - wanted).max() / largest))
    np.testing.assert_allclose(values, wanted, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model", MODELS)
def test_every_change_has_the_effects_of_the_cpu(client, cpu_client, model, change, record_property):
    changes = [CHANGES[change](layer) for layer in layers(client, model)]
    source = several(model, 1) if change == "patch" else None
    found, expected = (effects(each, model, *changes, source=source) for each in (client, cpu_client))

    close(found, expected, record_property)


@pytest.mark.parametrize("method", ["activation-patching", "attribution-patching", "ablation-curve"])
@pytest.mark.parametrize("model", [PICTURES, "residual"])
def test_every_method_of_ablation_has_the_answers_of_the_cpu(client, cpu_client, model, method, record_property):
    names = layers(client, model)[:3]
    changes = [Zero(f"{names[0]}[*]")] if method == "ablation-curve" else [Patch(name) for name in names]
    source = None if method == "ablation-curve" else several(model, 2)[1:] if model == PICTURES else None
    if model == "residual" and method != "ablation-curve":
        source = {name: value[1:] for name, value in several(model, 2).items()}
    found, expected = (
        each.ablate(model, inputs(model), *changes, method=method, source=source, exact=True)
        for each in (client, cpu_client)
    )

    assert found.tables.keys() == expected.tables.keys()
    for name, table in expected.tables.items():
        floats = [np.asarray(table[column]) for column in table.columns]
        finite = np.concatenate([each[np.isfinite(each)] for each in floats if each.dtype.kind == "f"] or [np.zeros(1)])
        # A gap is the difference of numbers that may be close: what they are is its scale.
        largest = np.abs(finite).max(initial=0.0)
        for column in table.columns:
            wanted = np.asarray(table[column])
            if wanted.dtype.kind == "f" and not name.startswith("progress"):
                finite = np.isfinite(wanted)
                values = np.asarray(found.tables[name][column])
                record_property(
                    f"deviation of {name} {column}", float(np.abs(values - wanted)[finite].max(initial=0.0))
                )
                np.testing.assert_allclose(values[finite], wanted[finite], rtol=0, atol=1e-3 * (largest or 1.0))


@pytest.mark.parametrize("model", [PICTURES, "residual", "encoder"])
def test_a_sweep_on_the_device_gives_the_same_bytes_again(client, model):
    changes = [Zero(f"{layers(client, model)[0]}[*]")]

    first, again = (effects(client, model, *changes, rows=1) for _ in range(2))

    assert first == again


def test_a_counterfactual_found_on_the_device_holds_on_the_device(client):
    row = {"width": 11.0, "height": 2.0, "colour": "green"}
    (found,) = client.counterfactual(SCORES, row, columns={"colour": Fixed}).items

    made = found.values
    assert made["colour"] == "green"
    before, after = (next(iter(client.predict(SCORES, each).outputs.values())).argmax() for each in (row, dict(made)))
    assert before != after


def test_a_constant_is_set_on_the_device(client, cpu_client, record_property):
    model = "residual"
    changes = [Constant(layer, 0.25) for layer in layers(client, model)]
    found, expected = (effects(each, model, *changes) for each in (client, cpu_client))

    close(found, expected, record_property)
