"""Changes of networks through the real server, held to the network worked out by hand and to predictions."""

import itertools
import os
import signal
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import torch
from e2e.messages import (
    PICTURE_MODEL,
    TABLE_MODEL,
    details,
    failure,
    param,
    pictures,
    predict,
    rows,
    violated_fields,
)
from e2e.serving import LONG_SECONDS, Server, serve, wait_until
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2, model_service_pb2

Floats = npt.NDArray[np.float64]


def ablate(
    model: str, inputs: Any, *changes: Any, method: str = "ablation", parameters: Any = (), **fields: Any
) -> Any:
    return explanation_service_pb2.AblateRequest(
        model=explanation_pb2.ModelSpec(name=model),
        inputs=inputs,
        method=method,
        interventions=changes,
        parameters={name: param(value) for name, value in dict(parameters).items()},
        **fields,
    )


def change(layer: str, *units: int, each: int = 0, kind: int = 0, **fields: Any) -> Any:
    return ablation_pb2.Intervention(
        sites=[ablation_pb2.Site(layer=layer, units=units, each=each)], kind=kind, **fields
    )


def column(parts: Sequence[Any], table: str, name: str) -> Any:
    """Return a column of a table that came in parts."""
    found: list[Any] = []
    for part in parts:
        if table not in part.findings.tables:
            continue
        (each,) = [each for each in part.findings.tables[table].columns if each.name == name]
        found += list(each.texts.texts) if each.WhichOneof("values") == "texts" else from_tensor(each.numbers).tolist()
    return found


@pytest.fixture(scope="module")
def network(models: Path) -> Any:
    """The table model, as a function of rows in the columns' own units and of what becomes of hidden values."""
    manifest = tomllib.loads((models / TABLE_MODEL / "model.toml").read_text(encoding="utf-8"))
    settings = manifest["inputs"][0]["columns"]
    mean, deviation = (np.array([each[key] for each in settings]) for key in ("mean", "standard_deviation"))
    (path,) = (models / TABLE_MODEL).glob("1/model.pt2")
    weights = {name: value.detach().numpy().astype(float) for name, value in torch.export.load(path).state_dict.items()}

    def linear(name: str, values: Floats) -> Floats:
        return np.asarray(values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def run(table: Floats, **changes: Any) -> Floats:
        values = (table - mean) / deviation
        for name in ("hidden1", "hidden2", "classifier"):
            values = linear(name, values)
            values = changes.get(name, lambda value: value)(values)
            values = np.maximum(values, 0) if name != "classifier" else values
        return values

    return run


def highest(logits: Floats) -> Floats:
    return np.asarray(logits[0, logits[0].argmax()])


def test_every_unit_of_a_layer_has_the_effect_worked_out_by_hand(server, network, table):
    row = table[:1]
    parts = list(server.explanations.Ablate(ablate(TABLE_MODEL, {"features": rows(row)}, change("hidden1", each=1))))

    plain = network(row)
    label = plain[0].argmax()

    def without(unit: int) -> float:
        return float(
            network(row, hidden1=lambda value: np.where(np.arange(value.shape[1]) == unit, 0, value))[0, label]
        )

    found = column(parts, "effects", "after")
    np.testing.assert_allclose(found, [without(unit) for unit in range(len(found))], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(column(parts, "effects", "before"), plain[0, label], rtol=1e-4)
    assert column(parts, "effects", "site")[:2] == ["hidden1[0]", "hidden1[1]"]
    assert parts[-1].progress == 1.0
    assert [part.part for part in parts] == list(range(len(parts)))
    receipt = parts[-1].findings.receipt
    assert (receipt.method, receipt.model.name) == ("ablation", TABLE_MODEL)
    assert list(receipt.target.outcome.index) == [label]


def test_a_joint_change_before_a_linear_suffix_is_the_sum_of_the_singles(server, table):
    inputs = {"features": rows(table[:3])}
    singles = list(server.explanations.Ablate(ablate(TABLE_MODEL, inputs, change("classifier", 0, 1, each=1))))
    joint = list(
        server.explanations.Ablate(ablate(TABLE_MODEL, inputs, change("classifier", 0, 1), parameters={"joint": True}))
    )

    sums = np.reshape(column(singles, "effects", "effect"), (3, 2)).sum(axis=1)
    np.testing.assert_allclose(column(joint, "joint", "effect"), sums, rtol=1e-5)
    np.testing.assert_allclose(from_tensor(joint[0].findings.arrays["output after"].values), 0, atol=1e-6)


@pytest.mark.parametrize("metric", ["probability", "difference", "divergence"])
def test_a_metric_is_worked_out_from_the_outputs(server, network, table, metric):
    row = table[:1]
    numbers = {
        "probability": ablation_pb2.METRIC_PROBABILITY,
        "difference": ablation_pb2.METRIC_LOGIT_DIFFERENCE,
        "divergence": ablation_pb2.METRIC_KL_DIVERGENCE,
    }
    asked = ablate(TABLE_MODEL, {"features": rows(row)}, change("hidden2", 0, 3, 5), metric=numbers[metric])

    parts = list(server.explanations.Ablate(asked))

    before = network(row)[0]
    after = network(row, hidden2=lambda value: np.where(np.isin(np.arange(value.shape[1]), (0, 3, 5)), 0, value))[0]
    label = before.argmax()
    p, q = (np.exp(each - each.max()) / np.exp(each - each.max()).sum() for each in (before, after))
    expected = {
        "probability": q[label],
        "difference": after[label] - after[1 - label],
        "divergence": (p * np.log(p / q)).sum(),
    }[metric]
    np.testing.assert_allclose(column(parts, "effects", "after"), expected, rtol=1e-3, atol=1e-6)


def test_the_same_request_gives_the_same_bytes_where_it_is_exact(server, table):
    asked = ablate(
        TABLE_MODEL,
        {"features": rows(table[:2])},
        change("hidden1", each=1, kind=ablation_pb2.INTERVENTION_KIND_NOISE, draws=3),
        seed=7,
        exact=True,
    )

    first, again = (list(server.explanations.Ablate(asked)) for _ in range(2))

    assert column(first, "effects", "after") == column(again, "effects", "after")
    assert min(column(first, "effects", "standard error")) >= 0


def test_means_and_draws_come_from_the_models_background(server, table):
    kinds = (ablation_pb2.INTERVENTION_KIND_MEAN, ablation_pb2.INTERVENTION_KIND_RESAMPLE)
    asked = ablate(TABLE_MODEL, {"features": rows(table[:1])}, *(change("hidden1", 0, kind=kind) for kind in kinds))

    parts = list(server.explanations.Ablate(asked))

    record = parts[-1].findings.ablation
    assert [each.reference for each in record.interventions] == [ablation_pb2.REFERENCE_BACKGROUND] * 2
    assert len(record.reference_digest) == 64


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"changes": [change("hidden3")]}, "NOT_FOUND", "no such layer; near ones: 'hidden"),
        ({"changes": [change("hidden1", 99)]}, "INVALID_ARGUMENT", "units, numbered from 0"),
        ({"changes": [change("conv*")]}, "NOT_FOUND", "no such layer"),
        ({"method": "ablaton", "changes": [change("hidden1")]}, "NOT_FOUND", "Did you mean 'ablation'?"),
        ({"method": "saliency", "changes": [change("hidden1")]}, "INVALID_ARGUMENT", "is a method of Attribute"),
        ({"method": "", "changes": [change("hidden1")]}, "INVALID_ARGUMENT", "method is empty"),
        ({"changes": [change("hidden1", 1, 1)]}, "INVALID_ARGUMENT", "names an index twice"),
        ({"changes": [change("hidden1", kind=6)]}, "INVALID_ARGUMENT", "give the factor"),
        ({"changes": [change("hidden1", kind=7)]}, "INVALID_ARGUMENT", "give a number for each unit"),
        ({"changes": [change("hidden1", kind=8)]}, "INVALID_ARGUMENT", "source is empty"),
        ({"changes": [change("hidden1", value=1.0)]}, "INVALID_ARGUMENT", "it is for NOISE, CONSTANT, SCALE, STEER"),
        (
            {"changes": [change("hidden1", kind=7, vector=to_tensor(np.ones(3)))]},
            "INVALID_ARGUMENT",
            "a number for each unit, or",
        ),
        ({"changes": [change("hidden1", kind=99)]}, "INVALID_ARGUMENT", "interventions[0].kind is 99"),
        ({"changes": [change("hidden1", reference=3, kind=2)]}, "INVALID_ARGUMENT", "is DATASET, and there is none"),
        ({"changes": []}, "INVALID_ARGUMENT", "nothing would change"),
        ({"changes": [change("hidden1")], "source": {"features": rows(np.ones((1, 30)))}}, "INVALID_ARGUMENT", "PATCH"),
        (
            {"changes": [change("hidden1")], "metric": 2, "target": explanation_pb2.Target(space=2)},
            "INVALID_ARGUMENT",
            "target.space is PROBABILITIES, and the metric LOGIT_DIFFERENCE",
        ),
        (
            {"changes": [change("hidden1")], "metric": 3, "target": explanation_pb2.Target(output="nope")},
            "INVALID_ARGUMENT",
            "target.output is 'nope'",
        ),
        ({"changes": [change("hidden1")], "parameters": {"joined": True}}, "INVALID_ARGUMENT", "has no parameter"),
        (
            {"changes": [ablation_pb2.Intervention(sites=[ablation_pb2.Site(layer="hidden1", part=1)])]},
            "NOT_FOUND",
            "has no layer with attention heads",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_be_right(server, table, asked, code, words):
    fields = {"inputs": {"features": rows(table[:1])}, **asked}
    changes = fields.pop("changes")
    request = ablate(TABLE_MODEL, fields.pop("inputs"), *changes, **fields)

    error = failure(lambda: list(server.explanations.Ablate(request)))

    assert error.code() is getattr(grpc.StatusCode, code)
    assert words in error.details()
    assert "Traceback" not in error.details()
    if code == "INVALID_ARGUMENT":
        assert violated_fields(error)
    else:
        assert "ResourceInfo" in details(error)


def test_predictions_beside_a_sweep_are_those_of_a_quiet_server_and_the_model_stays_as_it_is(server, cat):
    inputs = {"image": pictures(cat)}

    def prediction() -> Any:
        return server.explanations.Predict(predict(PICTURE_MODEL, inputs))

    def digest() -> str:
        spec = explanation_pb2.ModelSpec(name=PICTURE_MODEL)
        return str(server.models.GetModel(model_service_pb2.GetModelRequest(model=spec)).model.digest)

    quiet, before = prediction(), digest()
    sweep = server.explanations.Ablate(
        ablate(PICTURE_MODEL, inputs, change("_blocks.*._bn2", each=1)), timeout=LONG_SECONDS
    )
    next(sweep)
    beside = [prediction() for _ in range(5)]
    sweep.cancel()
    wait_until(lambda: not server.busy(), seconds=LONG_SECONDS, what="the sweep has ended")
    after = prediction()

    expected = from_tensor(quiet.outputs["output"].values)
    for reply in (*beside, after):
        found = from_tensor(reply.outputs["output"].values)
        if reply.receipt.work == quiet.receipt.work:
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert digest() == before


def test_a_sweep_that_its_deadline_cuts_off_returns_what_it_has(server, cat):
    asked = ablate(PICTURE_MODEL, {"image": pictures(cat)}, change("*", each=1))

    parts = list(server.explanations.Ablate(asked, timeout=4.0))

    last = parts[-1].findings
    assert last.accuracy.partial
    assert any("deadline" in each.lower() for each in last.warnings)
    assert last.receipt.work.rows_forward > 0
    assert len(column(parts, "effects", "site")) == len(set(column(parts, "effects", "site"))) > 0


@pytest.fixture(scope="module")
def restarting(table_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of its own, whose worker is killed."""
    settings = {"PELLUCID_POOL__RESTART_INITIAL_SECONDS": "0.01"}
    with serve(table_models, tmp_path_factory.mktemp("restarting"), settings) as running:
        yield running


def test_a_sweep_whose_worker_is_killed_goes_on_and_no_part_comes_twice(restarting: Server, table):
    changes = [
        change("hidden1", each=1, kind=ablation_pb2.INTERVENTION_KIND_NOISE, draws=200),
        change("hidden2", each=1, kind=ablation_pb2.INTERVENTION_KIND_NOISE, draws=200),
        change("classifier", each=1),
    ]
    asked = ablate(TABLE_MODEL, {"features": rows(table[:2])}, *changes, seed=5)
    expected = list(restarting.explanations.Ablate(asked))
    pid = restarting.worker_pid()

    call = restarting.explanations.Ablate(asked, timeout=LONG_SECONDS)
    parts = [next(call)]
    os.kill(pid, signal.SIGKILL)
    parts += list(call)

    assert [part.part for part in parts] == list(range(len(expected)))
    for name in ("site", "row"):
        assert column(parts, "effects", name) == column(expected, "effects", name)
    np.testing.assert_allclose(
        column(parts, "effects", "after"), column(expected, "effects", "after"), rtol=1e-5, atol=1e-5
    )
    assert parts[-1].findings.receipt.model.name == TABLE_MODEL
    assert restarting.worker_pid() != pid


def test_many_sweeps_at_once_do_not_meet(server, network, table):
    def asked(number: int) -> Any:
        return ablate(TABLE_MODEL, {"features": rows(table[number : number + 1])}, change("hidden1", each=1))

    alone = [column(list(server.explanations.Ablate(asked(number))), "effects", "after") for number in range(4)]
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        found[number] = column(list(server.explanations.Ablate(asked(number % 4))), "effects", "after")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_SECONDS)

    for number, values in sorted(found.items()):
        np.testing.assert_allclose(values, alone[number % 4], rtol=1e-5, atol=1e-5)
    assert len(found) == 16


def test_a_curve_ends_with_everything_changed(server, network, table):
    asked = ablate(
        TABLE_MODEL,
        {"features": rows(table[:5])},
        change("hidden2", each=1),
        method="ablation-curve",
        parameters={"points": 5},
    )

    parts = list(server.explanations.Ablate(asked))

    scores = np.reshape(column(parts, "curve", "score"), (2, 5))
    labels = network(table[:5]).argmax(axis=1)
    places = (np.arange(5), labels)
    np.testing.assert_allclose(scores[:, 0], network(table[:5])[places].mean(), rtol=1e-4)
    everything = network(table[:5], hidden2=lambda value: 0 * value)[places].mean()
    np.testing.assert_allclose(scores[:, -1], everything, rtol=1e-4, atol=1e-5)
    shares = [part.progress for part in parts]
    assert all(one <= other for one, other in itertools.pairwise(shares))
