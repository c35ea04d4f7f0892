"""Both clients against a server with written replies: calls, deadlines, retries, readiness."""

import threading

import grpc
import numpy as np
import pytest
from client.fake_server import (
    DIGEST,
    MODELS,
    Failure,
    attribute_message,
    attribution_message,
    predict_message,
    table_attribution,
)
from google.protobuf.message import EncodeError
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from pellucid import ExplanationSpec, errors
from pellucid.calls import ATTRIBUTE_SECONDS, MOST_MESSAGE_BYTES, PREDICT_SECONDS, Call
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, model_service_pb2, tensor_pb2

ROW = {"age": 40, "colour": "red"}


def test_a_prediction_has_arrays_labels_receipt_and_timing_in_the_models_order(client):
    prediction = client.predict("table", ROW)

    assert list(prediction.outputs) == ["logits", "risk"]
    np.testing.assert_array_equal(prediction.outputs["logits"], [[1, -1, 2]])
    assert [(each.label, each.index, each.value, each.probability) for each in prediction.top[0]] == [
        ("[owl]", 2, 2.0, 0.75),
        ("cat", 0, 1.0, 0.25),
    ]
    assert list(prediction.tops) == ["logits"]
    assert prediction.receipt.model.digest == DIGEST
    assert prediction.receipt.work.batch_shapes[0].rows == 4
    assert prediction.timing.compute_seconds == 0.5


def test_a_predict_request_says_what_was_asked(client, server):
    client.predict("table", ROW, outputs=["logits"], top_k=0, version=2)

    (request,) = server.requests["Predict"]
    assert request.model == explanation_pb2.ModelSpec(name="table", version=2)
    assert request.outputs == ["logits"]
    assert request.HasField("top_k")
    assert request.top_k == 0


def test_an_absent_top_k_is_left_to_the_server(client, server):
    client.predict("table", ROW)

    assert not server.requests["Predict"][0].HasField("top_k")


def test_an_attribution_has_scores_by_column_accuracy_prediction_and_receipt(client):
    attribution = client.attribute("table", ROW)

    assert attribution.by_column == {"age": 2.0, "colour": -0.5}
    np.testing.assert_array_equal(attribution.scores["row"], [2, -0.5])
    assert (attribution.label, attribution.output_index, attribution.probability) == ("[owl]", (2,), 0.75)
    assert attribution.instance_output_value == 2.0
    assert attribution.baseline_output_value == -0.5
    assert attribution.accuracy.signed_gap == -0.01
    assert attribution.accuracy.tolerance_met
    assert attribution.accuracy.standard_error is None
    assert attribution.accuracy.warnings == ("Only an example.",)
    assert not attribution.accuracy.partial
    assert attribution.receipt.baseline == "zeros"
    assert attribution.receipt.target.space == "logits"
    assert attribution.receipt.parameters["steps"] == 64
    assert attribution.sources["row"] == ROW


def test_an_attribution_without_baseline_or_gap_has_none_of_them(client, server):
    bare = explanation_pb2.Attribution(inputs={"row": explanation_pb2.InputAttribution(scores=to_tensor([1.0, 2.0]))})
    server.replies["Attribute"] = attribute_message(bare)

    attribution = client.attribute("table", ROW)

    assert attribution.baseline_output_value is None
    assert attribution.approximation_error is None
    assert attribution.accuracy.signed_gap is None
    assert attribution.group_scores is None


def test_an_attribution_says_that_the_deadline_cut_it_short(client, server):
    message = table_attribution()
    message.accuracy.partial = True
    server.replies["Attribute"] = attribute_message(message)

    attribution = client.attribute("table", ROW)

    assert attribution.accuracy.partial
    assert "partial" in repr(attribution)


def test_attribute_refuses_several_rows_before_the_server_computes_any(client, server):
    with pytest.raises(errors.InvalidRequestError, match="has 2 rows; attribute explains one, attribute_rows"):
        client.attribute("table", [ROW, ROW])

    assert not server.requests["Attribute"]


def test_attribute_rows_gives_each_row_its_own_source_and_classes(client, server):
    server.replies["Attribute"] = attribute_message(table_attribution(), table_attribution())
    other = {"age": 7, "colour": "green"}

    first, second = client.attribute_rows("table", [ROW, other], "saliency")

    assert (first.sources["row"], second.sources["row"]) == (ROW, other)
    assert second.top[0].label == "[owl]"


def test_explanations_beside_a_prediction_succeed_and_fail_one_by_one(client, server):
    details = explanation_service_pb2.Status(code=9, message="No gradients here.")
    details.details.add().Pack(error_details_pb2.ErrorInfo(reason="UNSUPPORTED", domain="pellucid"))
    good = explanation_service_pb2.ExplanationResult(
        explanation=explanation_pb2.Explanation(attributions=[table_attribution()])
    )
    bad = explanation_service_pb2.ExplanationResult(status=details)
    server.replies["Predict"] = predict_message(explanations=[good, bad])

    prediction = client.predict("table", ROW, explanations=["saliency", ExplanationSpec("occlusion", {"window": 3})])

    fine, failed = prediction.explanations
    assert fine.error is None
    assert fine.attribution.by_column["age"] == 2.0
    assert fine.attribution.probability == 0.75
    with pytest.raises(errors.UnsupportedError, match="No gradients here"):
        _ = failed.attribution
    assert [each.method for each in server.requests["Predict"][0].explanations] == ["saliency", "occlusion"]
    assert server.requests["Predict"][0].explanations[1].parameters["window"].integer == 3


def test_rows_are_refused_only_by_what_the_server_serves_now(client, server, monkeypatch):
    client.predict("table", ROW)
    changed = model_service_pb2.GetModelResponse()
    changed.CopyFrom(MODELS["table"])
    changed.inputs[0].columns[0].name = "years"
    monkeypatch.setitem(MODELS, "table", changed)

    client.predict("table", {"years": 40, "colour": "red"})

    assert len(server.requests["GetModel"]) == 2
    with pytest.raises(errors.InvalidRequestError, match="lacks the column 'years'"):
        client.predict("table", ROW)


def test_the_signature_is_asked_for_once(client, server):
    client.predict("table", ROW)
    client.predict("table", ROW)
    client.attribute("table", ROW)

    assert len(server.requests["GetModel"]) == 1


def test_a_model_that_was_described_is_not_asked_for_again(client, server):
    client.model("table")
    client.predict("table", ROW)

    assert len(server.requests["GetModel"]) == 1


def test_the_signature_is_asked_for_again_after_a_refusal(client, server):
    server.failures["Predict"].append(Failure(grpc.StatusCode.INVALID_ARGUMENT, "no such column"))

    with pytest.raises(errors.InvalidRequestError):
        client.predict("table", ROW)
    client.predict("table", ROW)

    assert len(server.requests["GetModel"]) == 2


def test_models_methods_and_a_model_are_described(client, server):
    key = explanation_pb2.ModelSpec(name="table", version=3, digest=DIGEST)
    server.replies["ListModels"] = model_service_pb2.ListModelsResponse(
        models=[model_service_pb2.ModelSummary(model=key, description="A table.", latest=True)]
    )
    steps = model_service_pb2.Parameter(
        name="steps",
        type="PARAMETER_TYPE_INTEGER",
        default_value=explanation_pb2.ParamValue(integer=32),
        minimum=1,
        text="Points.",
    )
    method = model_service_pb2.Method(
        name="saliency",
        rpc="attribute",
        parameters=[steps],
        baselines=["BASELINE_KIND_ZEROS"],
        needs=["gradients"],
        rows_parameter="steps",
    )
    server.replies["ListMethods"] = model_service_pb2.ListMethodsResponse(methods=[method])

    (summary,), model, (found,) = client.models(), client.model("table"), client.methods()

    assert (summary.name, summary.version, summary.latest) == ("table", 3, True)
    assert [column.name for column in model.inputs[0].columns] == ["age", "colour"]
    assert model.inputs[0].columns[0].maximum == 99
    assert model.inputs[0].columns[1].maximum is None
    assert model.outputs[0].kind == "logits"
    assert model.layers[0].shape == (8, -1, -1)
    assert (model.layers[0].heads, model.layers[0].branch) == (3, True)
    assert model.parity is not None
    assert model.parity.holds
    assert [(each.allowed, each.rows) for each in model.capabilities] == [(True, 4096), (False, None)]
    parameter = found.parameters[0]
    assert (parameter.type, parameter.default, parameter.minimum, parameter.maximum) == ("integer", 32, 1, None)
    assert found.baselines == ("zeros",)
    assert found.rows_parameter == "steps"


@pytest.mark.parametrize(
    ("ask", "rpc", "seconds"),
    [
        (lambda client: client.predict("table", ROW), "Predict", PREDICT_SECONDS),
        (lambda client: client.predict("table", ROW, explanations=["saliency"]), "Predict", ATTRIBUTE_SECONDS),
        (lambda client: client.attribute("table", ROW), "Attribute", ATTRIBUTE_SECONDS),
        (lambda client: client.attribute("table", ROW, timeout=5), "Attribute", 5),
    ],
)
def test_every_call_has_a_deadline(client, server, ask, rpc, seconds):
    result = explanation_service_pb2.ExplanationResult(
        explanation=explanation_pb2.Explanation(attributions=[table_attribution()])
    )
    server.replies["Predict"] = lambda request, _: predict_message(explanations=[result] * len(request.explanations))

    ask(client)

    assert abs(server.remaining[rpc][0] - seconds) < 3


def test_the_clients_own_timeout_holds_for_all_calls(server, connect):
    client = connect(server.address, timeout=7)

    client.attribute("table", ROW)

    assert abs(server.remaining["GetModel"][0] - 7) < 3
    assert abs(server.remaining["Attribute"][0] - 7) < 3


def test_metadata_goes_with_every_call(server, connect):
    connect(server.address, metadata={"authorization": "Bearer x"}).predict("table", ROW)

    assert [each["authorization"] for each in server.metadata] == ["Bearer x"] * 2


def test_a_request_above_the_limit_is_refused_unsent(client, server):
    rows = np.zeros((MOST_MESSAGE_BYTES // 4 // 2, 2, 1), np.float32)

    with pytest.raises(errors.MessageTooLargeError, match="Send fewer rows"):
        client.predict("numbers", rows)

    assert not server.requests["Predict"]


def test_a_request_that_protobuf_cannot_even_count_is_too_large():
    class Enormous:
        def ByteSize(self):
            raise EncodeError("Failed to serialize proto")

    with pytest.raises(errors.MessageTooLargeError, match="more than 2,147,483,648 bytes"):
        Call("/service/method", Enormous(), bytes).serialized()


TWO = predict_message(explanations=[explanation_service_pb2.ExplanationResult()])
SHORT = explanation_pb2.InputAttribution(
    scores=tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2], data=b"1")
)


@pytest.mark.parametrize(
    ("rpc", "reply", "ask"),
    [
        ("Predict", TWO, lambda client: client.predict("table", ROW)),
        ("Attribute", attribute_message(), lambda client: client.attribute("table", ROW)),
        (
            "Attribute",
            attribute_message(attribution_message({"row": SHORT})),
            lambda client: client.attribute("table", ROW),
        ),
    ],
    ids=["more explanations than asked for", "no attribution", "too few bytes"],
)
def test_a_reply_that_makes_no_sense_is_said_to(client, server, rpc, reply, ask):
    server.replies[rpc] = reply

    with pytest.raises(errors.PellucidError, match="The reply cannot be read; is that a Pellucid server"):
        ask(client)


def test_bytes_that_are_no_message_are_said_to_be_none():
    call = Call("/service/method", explanation_pb2.ModelSpec(), explanation_pb2.ModelSpec.FromString)

    with pytest.raises(errors.PellucidError, match="The reply cannot be read"):
        call.parsed(b"\xff")


def test_waiting_ends_when_the_server_turns_healthy(client, server):
    server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    turned = threading.Event()

    def turn_healthy():
        turned.set()
        server.health.set("", health_pb2.HealthCheckResponse.SERVING)

    threading.Timer(0.1, turn_healthy).start()
    client.wait_until_ready(timeout=30)

    assert turned.is_set()


def test_waiting_for_a_server_that_stays_unwell_times_out(client, server):
    server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    with pytest.raises(TimeoutError, match=r"was not ready within 0\.2 s"):
        client.wait_until_ready(timeout=0.2)


def test_waiting_goes_on_when_a_server_that_stops_cancels_the_watch(client, server):
    server.health.failures.append(Failure(grpc.StatusCode.CANCELLED))

    client.wait_until_ready(timeout=30)

    assert not server.health.failures


def test_waiting_for_a_server_that_does_not_tell_its_health_ends_at_once(client, server):
    server.health.failures.append(Failure(grpc.StatusCode.PERMISSION_DENIED, "not for you"))

    with pytest.raises(errors.PellucidError, match=r"^not for you$"):
        client.wait_until_ready(timeout=30)


def test_waiting_for_no_server_at_all_times_out(connect, free_address):
    with pytest.raises(errors.TimedOutError, match="was not ready within"):
        connect(free_address).wait_until_ready(timeout=0.3)


def test_a_call_without_a_server_says_where_it_looked(connect, free_address):
    client = connect(free_address, wait_for_ready=False)

    with pytest.raises(errors.UnavailableError, match=f"No connection to {free_address}"):
        client.predict("table", ROW, timeout=20)


def test_a_call_that_waits_for_a_server_ends_with_its_deadline(connect, free_address):
    with pytest.raises(errors.TimedOutError, match=f"No answer from {free_address} within 0.3 s"):
        connect(free_address).predict("table", ROW, timeout=0.3)


def test_a_picture_comes_back_with_the_box_it_covers(client, server):
    box = explanation_pb2.Box(left=1, top=2, right=3, bottom=4, picture_width=5, picture_height=6)
    scores = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    image = explanation_pb2.InputAttribution(
        scores=to_tensor(scores), box=box, groups=to_tensor(np.array([[0, 0], [1, 1]], np.int32))
    )
    message = attribution_message({"image": image})
    message.group_scores.CopyFrom(to_tensor([4.0, 5.0]))
    message.group_standard_errors.CopyFrom(to_tensor([0.5, 0.25]))
    server.replies["Attribute"] = attribute_message(message)
    pixels = np.zeros((6, 5, 3), np.uint8)

    attribution = client.attribute("photos", pixels, sum_channels=False, dtype="float16")

    found = attribution.inputs["image"]
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.groups, [[0, 0], [1, 1]])
    assert (found.box.left, found.box.top, found.box.right, found.box.bottom) == (1, 2, 3, 4)
    assert (found.box.picture_width, found.box.picture_height) == (5, 6)
    np.testing.assert_array_equal(attribution.group_scores, [4, 5])
    np.testing.assert_array_equal(attribution.group_standard_errors, [0.5, 0.25])
    np.testing.assert_array_equal(attribution.sources["image"], pixels)
