"""Answers asked for again, with both clients: what the request then says."""

import json

import numpy as np
import pytest
from client.fake_server import DIGEST, RECEIPT
from pellucid import Constant, Mean, Patch, Rule, Steer, Zero, errors
from pellucid.ablation_records import AblationRecord
from pellucid.ablations import Ablation
from pellucid.counterfactuals import Counterfactuals, read_counterfactuals
from pellucid.findings import Findings
from pellucid.receipts import Outcome, read_receipt
from pellucid.replays import read_replay
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2

ROW = {"age": 40, "colour": "red"}


def answer(method="ablation", *, target=None, **record):
    message = explanation_pb2.Receipt()
    message.CopyFrom(RECEIPT)
    message.model.name, message.method, message.seed, message.exact = "table", method, 2**63, True
    message.parameters["joint"].flag = True
    message.parameters["weights"].tensor.CopyFrom(to_tensor(np.array([1.5, -2], np.float32)))
    if target is not None:
        message.target.CopyFrom(target)
    found = AblationRecord("probability", **record)
    return Ablation(method, Findings(record=found), read_receipt(message))


CHANGES = (
    Zero(["conv[*3,5]", "input:features[age]"]),
    Mean("block.1:branch@3-5", reference="background", per_position=True),
    Steer("fc", [1, 2.5], coefficient=-2),
    Constant("fc[0]", 0.0),
    Constant("fc", np.array([[1.0], [2.0]])),
    Patch("attn:heads[2]"),
)
TARGET = explanation_pb2.Target(
    output="logits",
    outcome=explanation_pb2.Outcome(index=[2]),
    contrast=explanation_pb2.Outcome(label="dog"),
    space=explanation_pb2.OUTPUT_SPACE_PROBABILITIES,
)


@pytest.mark.parametrize("kept", [lambda found: found, lambda found: json.loads(json.dumps(found.to_dict()))])
def test_the_request_is_what_the_receipt_and_the_record_say(client, server, kept):
    found = answer(target=TARGET, interventions=CHANGES, dataset="adult", source_digest="12")

    client.replay(kept(found), ROW, source=ROW)

    (request,) = server.requests["Ablate"]
    assert request.model == explanation_pb2.ModelSpec(name="table", version=3, digest=DIGEST)
    assert request.inputs["row"].table.rows[0].cells["age"].number == 40
    assert request.source == request.inputs
    assert (request.method, request.dataset, request.seed, request.exact) == ("ablation", "adult", 2**63, True)
    assert request.parameters["joint"].flag
    assert from_tensor(request.parameters["weights"].tensor).tolist() == [1.5, -2]
    assert request.target == TARGET
    assert request.metric == ablation_pb2.METRIC_PROBABILITY
    zero, mean, steer, constant, vector, patch = request.interventions
    assert zero.sites[0] == ablation_pb2.Site(layer="conv", units=[3, 5], each=ablation_pb2.EACH_UNIT)
    assert zero.sites[1].layer == "input:features[age]"
    assert (mean.reference, mean.per_position) == (ablation_pb2.REFERENCE_BACKGROUND, True)
    assert mean.sites[0].part == ablation_pb2.SITE_PART_BRANCH
    assert (from_tensor(steer.vector).tolist(), steer.value) == ([1.0, 2.5], -2.0)
    assert (constant.value, constant.HasField("vector")) == (0, False)
    assert from_tensor(vector.vector).tolist() == [[1], [2]]
    assert patch.kind == ablation_pb2.INTERVENTION_KIND_PATCH


@pytest.mark.parametrize("kept", [lambda found: found, lambda found: json.loads(json.dumps(found.to_dict()))])
def test_a_counterfactual_is_asked_for_with_its_wishes_and_rules(client, server, kept):
    rules = {"age": Rule(minimum=1, only_up=True, whole=True), "colour": Rule(categories=("red",))}
    found = answer("counterfactual", wanted=Outcome((), "benign"), minimum=0.5, columns=rules)

    again = client.replay(kept(read_counterfactuals(found)), ROW)

    (request,) = server.requests["Ablate"]
    assert isinstance(again, Counterfactuals)
    assert request.wanted == ablation_pb2.Wanted(outcome=explanation_pb2.Outcome(label="benign"), minimum=0.5)
    assert list(request.columns) == [
        ablation_pb2.ColumnRule(column="age", minimum=1, only_up=True, whole=True),
        ablation_pb2.ColumnRule(column="colour", categories=["red"]),
    ]


@pytest.mark.parametrize(
    ("outcome", "sent"),
    [
        (Outcome((2,), ""), explanation_pb2.Outcome(index=[2])),
        (Outcome((1, 0), "cat"), explanation_pb2.Outcome(index=[1, 0])),
        (Outcome((), "cat"), explanation_pb2.Outcome(label="cat")),
        (Outcome((), ""), explanation_pb2.Outcome()),
    ],
)
def test_an_outcome_of_a_record_or_a_receipt_is_a_class_to_every_call(client, server, outcome, sent):
    client.counterfactual("table", ROW, wanted=outcome)
    client.ablate("table", ROW, Zero("conv"), target=outcome)

    first, second = server.requests["Ablate"]
    assert first.wanted.outcome == second.target.outcome == sent


def test_rows_whose_targets_differ_are_asked_for_their_highest_again(client, server):
    client.replay(answer(target=explanation_pb2.Target(output="logits", outcome={})), ROW)

    assert not server.requests["Ablate"][0].target.HasField("outcome")


def test_other_inputs_are_answered_with_a_warning(client):
    found = answer(interventions=(Zero("conv"),), reference_digest="34")
    same = answer(interventions=(Zero("conv"),))

    asked = read_replay(found, None)
    changed = asked.answer(answer(reference_digest="56"))

    assert changed.warnings == ("The reference rows are not what the replayed answer rests on.",)
    assert read_replay(same, None).answer(same).warnings == ()


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (3, "answer is 3; it must be an Ablation, a Counterfactuals, or what their to_dict returns"),
        ({"tables": {}}, "answer is a dict without a receipt and a record"),
        (Ablation("ablation", Findings(), read_receipt(RECEIPT)), "answer has no record of what was asked"),
        (answer(source_digest="12"), "source is None, and the answer rests on source rows; give the same ones"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_the_remedy(client, server, given, right):
    with pytest.raises(errors.InvalidRequestError, match=right):
        client.replay(given, ROW)
    assert not server.requests["Ablate"]
