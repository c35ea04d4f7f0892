import dataclasses

import numpy as np
import pytest
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import input_pb2, tensor_pb2
from pellucid_server.vocabulary import requests, results
from server.rpc.conftest import RECEIPT, predict_result

ROW = {"row": input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))}
ACCURACY = results.Accuracy(-0.25, 0.5, 0.01, True, 0.125, ("a kink",), absolute_tolerance=0.05)
FULL = results.AttributionResult(
    inputs={
        "photo": results.InputAttribution(
            np.array([[0.5, -1.0]], np.float16),
            box=results.Box(1.5, 2.5, 9.5, 10.5, 12, 13),
            groups=np.array([[0, 1]], np.int32),
        ),
        "row": results.InputAttribution(np.array([2.0], np.float32), columns=("width",)),
    },
    output="kind",
    output_index=(2,),
    label="virginica",
    instance_output_value=3.0,
    accuracy=ACCURACY,
    receipt=results.Receipt(
        model=requests.ModelKey("iris", 2, "ab" * 32),
        input_digest="12" * 32,
        runtime=RECEIPT.runtime,
        work=RECEIPT.work,
        method="occlusion",
        parameters={"window": 3, "share": 0.5, "exact": False, "fill": "zero", "mask": np.array([1, 0], np.int32)},
        target=requests.TargetSpec("kind", requests.Outcome((2,)), requests.Outcome(label="setosa"), "probabilities"),
        baseline="blur",
        baseline_digest="34" * 32,
        seed=2**64 - 1,
        tolerance=0.125,
    ),
    baseline_output_value=1.0,
    approximation_error=0.125,
    group_scores=np.array([0.5, -1.0]),
    group_standard_errors=np.array([0.0, 0.125]),
)
BARE = results.AttributionResult({}, "kind", (), "", 0.0, results.Accuracy(), RECEIPT)


@pytest.fixture
def attribute(explanations, pool):
    async def ask(*attributions):
        pool.answer = results.AttributeResult(attributions, results.OutputResult(np.array([[1.0]], np.float32)))
        request = service_pb.AttributeRequest(
            model=pb.ModelSpec(name="iris"), inputs=ROW, explanation=pb.ExplanationSpec(method="occlusion")
        )
        return await explanations.Attribute(request)

    return ask


async def test_a_prediction_comes_back_whole(explanations, pool):
    pool.answer = predict_result(results.ExplanationOutcome((BARE, BARE)))

    reply = await explanations.Predict(service_pb.PredictRequest(model=pb.ModelSpec(name="iris"), inputs=ROW))

    output = reply.outputs["kind"]
    np.testing.assert_array_equal(from_tensor(output.values), np.array([[1.0, 2.5, -1.0]], np.float32), strict=True)
    first, second = output.top[0].classes
    assert (first.index, first.label, first.value, first.probability) == (1, "versicolor", 2.5, 0.75)
    assert not second.HasField("probability")
    (explanation,) = reply.explanations
    assert (explanation.status.code, len(explanation.explanation.attributions)) == (0, 2)
    assert explanation.HasField("status")
    assert (reply.timing.queue_seconds, reply.timing.compute_seconds) == (0.125, 0.25)
    assert reply.timing.total_seconds > 0


async def test_a_receipt_comes_back_whole(explanations, pool):
    pool.answer = predict_result()

    reply = await explanations.Predict(service_pb.PredictRequest(model=pb.ModelSpec(name="iris"), inputs=ROW))

    assert reply.receipt == pb.Receipt(
        model=pb.ModelSpec(name="iris", version=2, digest="ab" * 32),
        input_digest="12" * 32,
        runtime=pb.Runtime(
            forward="onnxruntime",
            gradient="graph",
            device="cpu",
            precision="float32",
            libraries={"torch": "2.13.0"},
        ),
        work=pb.Work(
            rows_forward=3,
            rows_backward=4,
            batch_shapes=[pb.BatchShape(evaluation="gradient", rows=8, batches=2)],
        ),
    )


async def test_an_attribution_comes_back_whole(attribute):
    (made,) = (await attribute(FULL)).explanation.attributions

    photo, row = made.inputs["photo"], made.inputs["row"]
    np.testing.assert_array_equal(from_tensor(photo.scores), np.array([[0.5, -1.0]], np.float16), strict=True)
    np.testing.assert_array_equal(from_tensor(photo.groups), np.array([[0, 1]], np.int32), strict=True)
    assert photo.box == pb.Box(left=1.5, top=2.5, right=9.5, bottom=10.5, picture_width=12, picture_height=13)
    assert (list(row.columns), row.HasField("box"), row.HasField("groups")) == (["width"], False, False)
    assert (made.output, list(made.output_index), made.label) == ("kind", [2], "virginica")
    assert (made.instance_output_value, made.baseline_output_value, made.approximation_error) == (3.0, 1.0, 0.125)
    assert made.accuracy == pb.Accuracy(
        signed_gap=-0.25,
        absolute_gap=0.5,
        tolerance=0.01,
        absolute_tolerance=0.05,
        tolerance_met=True,
        standard_error=0.125,
        warnings=["a kink"],
    )
    np.testing.assert_array_equal(from_tensor(made.group_scores), [0.5, -1.0])
    np.testing.assert_array_equal(from_tensor(made.group_standard_errors), [0.0, 0.125])


async def test_an_attributions_receipt_comes_back_whole(attribute):
    receipt = (await attribute(FULL)).explanation.attributions[0].receipt

    assert {name: value.WhichOneof("value") for name, value in receipt.parameters.items()} == {
        "window": "integer",
        "share": "real",
        "exact": "flag",
        "fill": "text",
        "mask": "tensor",
    }
    assert receipt.parameters["window"].integer == 3
    assert receipt.parameters["mask"].tensor.data_type == tensor_pb2.DATA_TYPE_INT32
    assert receipt.target == pb.Target(
        output="kind",
        outcome=pb.Outcome(index=[2]),
        contrast=pb.Outcome(label="setosa"),
        space=pb.OUTPUT_SPACE_PROBABILITIES,
    )
    assert (receipt.method, receipt.seed) == ("occlusion", 2**64 - 1)
    assert (receipt.baseline, receipt.baseline_digest) == (pb.BASELINE_KIND_BLUR, "34" * 32)


async def test_what_was_not_measured_is_absent(attribute):
    (made,) = (await attribute(BARE)).explanation.attributions

    absent = ("baseline_output_value", "approximation_error", "group_scores", "group_standard_errors")
    assert [name for name in absent if made.HasField(name)] == []
    measured = ("signed_gap", "absolute_gap", "standard_error", "tolerance", "absolute_tolerance", "tolerance_met")
    assert [name for name in measured if made.accuracy.HasField(name)] == []
    assert not made.receipt.HasField("target")
    assert made.receipt.baseline == pb.BASELINE_KIND_UNSPECIFIED


@pytest.mark.parametrize("met", [True, False])
async def test_a_tolerance_that_was_missed_is_not_one_that_there_was_none_of(attribute, met):
    accuracy = results.Accuracy(tolerance=0.25, tolerance_met=met)

    (made,) = (await attribute(dataclasses.replace(BARE, accuracy=accuracy))).explanation.attributions

    assert made.accuracy.HasField("tolerance_met")
    assert (made.accuracy.tolerance, made.accuracy.tolerance_met) == (0.25, met)
