"""The `pellucid` command, against a server with written replies."""

import io
import json

import grpc
import numpy as np
import pytest
from client.fake_server import (
    DIGEST,
    Failure,
    attribute_message,
    attribution_message,
    predict_message,
    table_attribution,
)
from pellucid.cli.commands import app
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, model_service_pb2
from PIL import Image
from typer.testing import CliRunner

ROW = ("--row", "age=40", "--row", "colour=red")


@pytest.fixture
def pellucid(server):
    """Run the command against the server."""

    def run(*words, **more):
        environment = {"PELLUCID_ADDRESS": server.address, "COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, [str(word) for word in words], env=environment, **more)

    return run


@pytest.fixture
def picture(tmp_path):
    """Write a picture, 6 wide and 4 high."""
    Image.new("RGB", (6, 4), "white").save(tmp_path / "white.png")
    return tmp_path / "white.png"


def test_a_table_row_is_predicted_with_labels_and_probabilities(pellucid, server):
    result = pellucid("predict", "table", *ROW, "--top-k", 2)

    assert result.exit_code == 0, result.stderr
    assert "[owl]" in result.stdout
    assert "75.00%" in result.stdout
    assert DIGEST[:12] in result.stdout
    request = server.requests["Predict"][0]
    assert request.top_k == 2
    assert request.inputs["row"].table.rows[0].cells["age"].number == 40
    assert request.inputs["row"].table.rows[0].cells["colour"].category == "red"


def test_json_is_all_that_json_prints(pellucid):
    found = json.loads(pellucid("predict", "table", *ROW, "--json").stdout)

    assert found["outputs"] == {"logits": [[1.0, -1.0, 2.0]], "risk": [0.5]}
    assert found["tops"]["logits"][0][0] == {"index": 2, "label": "[owl]", "value": 2.0, "probability": 0.75}
    assert found["receipt"]["model"]["digest"] == DIGEST
    assert found["timing"]["compute_seconds"] == 0.5


@pytest.mark.parametrize("text", ['{"age": 40, "colour": "red"}', '[{"age": 40, "colour": "red"}]'])
def test_rows_come_from_a_json_file_or_stdin(pellucid, server, tmp_path, text):
    (tmp_path / "row.json").write_text(text)

    from_file = pellucid("predict", "table", "--json-row", tmp_path / "row.json")
    from_stdin = pellucid("predict", "table", "--json-row", "-", input=text)

    assert (from_file.exit_code, from_stdin.exit_code) == (0, 0)
    first, second = server.requests["Predict"]
    assert first.inputs == second.inputs
    assert first.inputs["row"].table.rows[0].cells["age"].number == 40


def test_rows_come_from_a_csv_file_by_the_headers_names(pellucid, server, tmp_path):
    (tmp_path / "rows.csv").write_text("colour,age\nred,40\ngreen,7\n")
    server.replies["Predict"] = predict_message(rows=2)
    server.replies["Attribute"] = attribute_message(table_attribution(), table_attribution())

    predicted = pellucid("predict", "table", tmp_path / "rows.csv")
    explained = pellucid("attribute", "table", tmp_path / "rows.csv", "--method", "kernel-shap")

    assert (predicted.exit_code, explained.exit_code) == (0, 0), predicted.stderr + explained.stderr
    for rpc in ("Predict", "Attribute"):
        rows = server.requests[rpc][0].inputs["row"].table.rows
        assert [(row.cells["age"].number, row.cells["colour"].category) for row in rows] == [(40, "red"), (7, "green")]
    assert "row 0: logits" in predicted.stdout
    assert "row 1: logits" in predicted.stdout
    assert "green" in explained.stdout


def test_a_csv_file_is_a_baseline(pellucid, server, tmp_path):
    (tmp_path / "rows.csv").write_text("colour,age\nred,40\n")

    result = pellucid("attribute", "table", *ROW, "--baseline", tmp_path / "rows.csv")

    assert result.exit_code == 0, result.stderr
    (row,) = server.requests["Attribute"][0].explanation.baseline.inputs["row"].table.rows
    assert (row.cells["age"].number, row.cells["colour"].category) == (40, "red")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"age": 40, "colour": "red", "age": 41}', "--json-row names 'age' twice; give it once"),
        ('{"age": "40", "colour": "red"}', "is the text '40', but the column is numeric: give the number 40"),
        ('{"age": null, "colour": "red"}', "is missing (None); the model takes no missing values"),
        ('{"age": NaN, "colour": "red"}', "is missing (nan)"),
        ('[{"age": 40, "colour": "red"}, {"age": 40, "color": "red"}]', "(perhaps 'color' for 'colour')"),
        ('{"age": 40, "colour": 1}', "is 1, no category of the column; it takes: 'red', 'green'"),
    ],
)
def test_json_rows_are_as_strict_as_any(pellucid, server, text, right):
    result = pellucid("predict", "table", "--json-row", "-", input=text)

    assert result.exit_code == 2
    assert right in result.stderr
    assert not server.requests["Predict"]


def test_pictures_are_predicted_file_by_file(pellucid, server, picture):
    server.replies["Predict"] = predict_message(rows=2)

    result = pellucid("predict", "photos", picture, picture)

    assert result.exit_code == 0, result.stderr
    assert list(server.requests["Predict"][0].inputs["image"].pictures.encoded) == [picture.read_bytes()] * 2
    assert result.stdout.count("white.png: logits") == 2


def test_an_array_file_is_sent_as_rows(pellucid, server, tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    np.save(tmp_path / "x.npy", rows)

    pellucid("predict", "numbers", tmp_path / "x.npy")

    np.testing.assert_array_equal(from_tensor(server.requests["Predict"][0].inputs["x"].tensor), rows)


def test_explanations_beside_a_prediction_are_shown_and_drawn(pellucid, server, tmp_path):
    good = explanation_service_pb2.ExplanationResult(
        explanation=explanation_pb2.Explanation(attributions=[table_attribution()])
    )
    bad = explanation_service_pb2.ExplanationResult(
        status=explanation_service_pb2.Status(code=9, message="No gradients here.")
    )
    server.replies["Predict"] = predict_message(explanations=[good, bad])

    result = pellucid(
        "predict", "table", *ROW, "--explain", "saliency", "--explain", "smoothgrad", "--out", tmp_path / "made"
    )

    assert result.exit_code == 2
    assert "smoothgrad: No gradients here." in result.stdout
    assert result.stderr == "Error: smoothgrad: No gradients here.\n"
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["saliency-0.png"]


def test_attribute_asks_what_the_options_say(pellucid, server):
    result = pellucid(
        "attribute", "table", *ROW, "--method", "smoothgrad", "-p", "steps=50", "-p", "noise=0.5", "-p", "signed=true",
        "-p", "kind=fine", "-p", "window=1,2", "--target", "2", "--contrast", "cat", "--space", "logits",
        "--baseline", "mean", "--seed", 9, "--tolerance", 0.05,
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    spec = server.requests["Attribute"][0].explanation
    assert spec.method == "smoothgrad"
    assert spec.parameters["steps"].integer == 50
    assert spec.parameters["noise"].real == 0.5
    assert spec.parameters["signed"].flag
    assert spec.parameters["kind"].text == "fine"
    np.testing.assert_array_equal(from_tensor(spec.parameters["window"].tensor), [1, 2])
    assert list(spec.target.outcome.index) == [2]
    assert spec.target.contrast.label == "cat"
    assert spec.target.space == explanation_pb2.OUTPUT_SPACE_LOGITS
    assert spec.baseline.kind == explanation_pb2.BASELINE_KIND_MEAN
    assert (spec.seed, spec.tolerance) == (9, 0.05)


def test_attribute_shows_columns_by_strength_with_the_gaps(pellucid):
    shown = pellucid("attribute", "table", *ROW).stdout

    assert shown.index("age") < shown.index("colour")
    assert "+2" in shown
    assert "signed gap -0.01 (0.400%), absolute gap 0.02" in shown
    assert "tolerance 0.01 (absolute 0.05) met" in shown
    assert "Note: Only an example." in shown


def test_attribute_writes_the_picture_and_the_arrays(pellucid, server, picture, tmp_path):
    box = explanation_pb2.Box(right=6, bottom=4, picture_width=6, picture_height=4)
    scores = np.ones((3, 2, 2), np.float32)
    image = explanation_pb2.InputAttribution(scores=to_tensor(scores), box=box)
    server.replies["Attribute"] = attribute_message(attribution_message({"image": image}))

    result = pellucid("attribute", "photos", picture, "--out", tmp_path / "map.png", "--npz", tmp_path / "arrays.npz")

    assert result.exit_code == 0, result.stderr
    assert Image.open(tmp_path / "map.png").format == "PNG"
    with np.load(tmp_path / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["0/image"], scores)


def test_attribute_as_json_has_the_parameters_and_scores(pellucid):
    (found,) = json.loads(pellucid("attribute", "table", *ROW, "--json").stdout)

    assert found["inputs"]["row"]["scores"] == [2.0, -0.5]
    assert found["receipt"]["parameters"] == {"mask": [1.0, 0.0], "steps": 64}
    assert found["accuracy"]["tolerance_met"] is True
    assert found["group_scores"] is None


def test_models_are_listed_and_described(pellucid, server):
    key = explanation_pb2.ModelSpec(name="table", version=3, digest=DIGEST)
    server.replies["ListModels"] = model_service_pb2.ListModelsResponse(
        models=[model_service_pb2.ModelSummary(model=key, description="A table.", latest=True)]
    )

    listed, one, layers = pellucid("models"), pellucid("models", "table"), pellucid("models", "table", "--layers")

    assert "A table." in listed.stdout
    assert "0 to 99" in one.stdout
    assert "red, green" in one.stdout
    assert "it is only an example" in one.stdout
    assert "evaluations a row" in one.stdout
    assert "4096" in one.stdout
    assert "cat, dog, [owl]" in one.stdout
    assert "body.conv#2" not in one.stdout
    assert "body.conv#2" in layers.stdout
    assert "(8, any, any)" in layers.stdout
    assert all(word in layers.stdout for word in ("heads", "branch"))
    assert json.loads(pellucid("models", "--json").stdout)[0]["key"]["digest"] == DIGEST
    assert json.loads(pellucid("models", "table", "--json").stdout)["outputs"][0]["labels"] == ["cat", "dog", "[owl]"]


def test_data_sets_are_listed_with_their_state(pellucid, server):
    ready = model_service_pb2.Dataset(
        name="adult", kind="DATASET_KIND_TABLE", groups=["sex", "race"], rows=16281, state="DATASET_STATE_READY"
    )
    broken = model_service_pb2.Dataset(name="bad", state="DATASET_STATE_BROKEN", reason="It has no rows.csv.")
    server.replies["ListDatasets"] = model_service_pb2.ListDatasetsResponse(datasets=[ready, broken])

    listed = pellucid("datasets").stdout

    assert all(word in listed for word in ("adult", "table", "16281", "sex, race", "ready", "broken", "rows.csv."))
    first, second = json.loads(pellucid("datasets", "--json").stdout)
    assert (first["rows"], first["groups"], second["rows"]) == (16281, ["sex", "race"], None)


def test_concepts_are_listed_where_a_data_set_has_some(pellucid, server):
    plain = model_service_pb2.Dataset(name="adult", kind="DATASET_KIND_TABLE", state="DATASET_STATE_READY")
    masked = model_service_pb2.Dataset(
        name="scenes", state="DATASET_STATE_READY", concepts=27, categories=["color", "shape"]
    )
    server.replies["ListDatasets"] = model_service_pb2.ListDatasetsResponse(datasets=[plain])
    assert "concepts" not in pellucid("datasets").stdout
    server.replies["ListDatasets"] = model_service_pb2.ListDatasetsResponse(datasets=[plain, masked])

    listed = pellucid("datasets").stdout

    assert all(word in listed for word in ("concepts", "27", "color, shape"))
    first, second = json.loads(pellucid("datasets", "--json").stdout)
    assert (first["concepts"], second["concepts"], second["categories"]) == (None, 27, ["color", "shape"])


def test_methods_are_listed_and_described(pellucid, server):
    parameters = [
        model_service_pb2.Parameter(
            name="steps",
            type="PARAMETER_TYPE_INTEGER",
            default_value=explanation_pb2.ParamValue(integer=32),
            minimum=1,
            maximum=1024,
            text="Points on the path.",
        ),
        model_service_pb2.Parameter(name="rule", type="PARAMETER_TYPE_TEXT", choices=["gauss", "midpoint"]),
    ]
    method = model_service_pb2.Method(
        name="integrated-gradients",
        rpc="attribute",
        family="gradient",
        summary="Averages.",
        parameters=parameters,
        rows_parameter="steps",
    )
    server.replies["ListMethods"] = model_service_pb2.ListMethodsResponse(methods=[method])

    listed, one = pellucid("methods"), pellucid("methods", "integrated-gradients")

    assert "Averages." in listed.stdout
    assert "1 to 1024" in one.stdout
    assert "gauss, midpoint" in one.stdout
    assert "cost: in proportion to steps" in one.stdout
    assert json.loads(pellucid("methods", "integrated-gradients", "--json").stdout)["parameters"][0]["default"] == 32
    unknown = pellucid("methods", "saliency")
    assert unknown.exit_code == 2
    assert unknown.stderr == "Error: No method 'saliency'; installed: integrated-gradients.\n"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.NOT_FOUND, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 2),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.ABORTED, 1),
    ],
)
def test_a_failed_call_is_one_line_on_stderr_and_nothing_on_stdout(pellucid, server, code, exit_code):
    server.failures["Predict"].append(Failure(code, "top_k is 7; it must be less."))

    result = pellucid("predict", "table", *ROW, "--json")

    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr == "Error: top_k is 7; it must be less.\n"


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (("predict", "table"), "inputs is nothing; give files, or --row"),
        (("predict", "table", "x.png", *ROW), "inputs is FILE and --row; give"),
        (("predict", "table", "--row", "age"), "--row is 'age'; it must be NAME=VALUE"),
        (("predict", "table", "--row", "age=old"), "--row age is 'old'; it must be a number"),
        (("predict", "table", "--row", "age=1_0"), "--row age is '1_0'; it must be a number"),
        (("predict", "table", "--row", "age=3"), "inputs['row'][0] lacks the column 'colour'; its columns are: 'age'"),
        (("predict", "table", *ROW, "--row", "size=big"), "has 'size', which the model does not take"),
        (("predict", "table", "--row", "age=3", "--row", "colour=Red"), "is 'Red', no category of the column (perhaps"),
        (("predict", "table", "nowhere.csv"), "is 'nowhere.csv', but there is no such file"),
        (("predict", "table", "a.csv", "b.csv"), "is 2 files; give one file with all rows"),
        (("predict", "table", "cat.jpg"), "a table's rows must be a dict, a pandas"),
        (("predict", "photos", "nowhere.png"), "there is no such file"),
        (("attribute", "table", *ROW, "-p", "steps"), "--parameter is 'steps'; it must be NAME=VALUE"),
        (("attribute", "table", *ROW, "--space", "odds"), "space is 'odds'; it must be one of"),
        (("attribute", "table", *ROW, "--out", "map.txt"), "--out is 'map.txt'; it must end in one of .png, .jpg"),
        (("attribute", "table", *ROW, "--target", "-1"), "target is -1; an index is counted from 0 and is never"),
        (("attribute", "table", *ROW, "--target", "1,-1"), "target is (1, -1); an index is counted from 0"),
        (("predict", "table", *ROW, "--row", "age=41"), "--row names 'age' twice; give it once"),
        (("attribute", "table", *ROW, "-p", "steps=1", "-p", "steps=2"), "--parameter names 'steps' twice"),
        (("predict", "table", *ROW, "--explain", "a", "--explain", "a"), "--explain names 'a' twice"),
        (("predict", "table", *ROW, "--priority", "süß"), "priority is 's\\xfc\\xdf'; it must have 1 to 64 printable"),
        (("predict", "table", *ROW, "--caller", ""), "caller is ''; it must have 1 to 128 printable"),
        (("attribute", "table", *ROW, "--out", "no/map.png"), "there is no folder 'no'; make it first"),
        (("attribute", "table", *ROW, "--npz", "no/a.npz"), "--npz is 'no/a.npz', but there is no folder 'no'"),
        (("predict", "table", *ROW, "--npz", "."), "--npz is '.', which is a folder; it must be a file"),
        (("predict", "table", *ROW, "--out", "/dev/null/x"), "--out is '/dev/null/x', where no folder can be made"),
    ],
)
def test_a_callers_mistake_exits_with_2_and_says_what_would_be_right(pellucid, server, words, right):
    result = pellucid(*words)

    assert result.exit_code == 2
    assert right in result.stderr
    assert result.stderr.count("\n") == 1
    assert not server.requests["Predict"]
    assert not server.requests["Attribute"]


def test_a_label_that_the_server_does_not_know_is_the_callers_mistake(pellucid, server):
    server.failures["Attribute"].append(Failure(grpc.StatusCode.INVALID_ARGUMENT, "no such label"))

    result = pellucid("attribute", "table", *ROW, "--target", "cot")

    assert result.exit_code == 2
    assert result.stderr == "Error: no such label\n"


def test_the_server_hears_on_whose_behalf_and_in_which_class(pellucid, server):
    pellucid("predict", "table", *ROW, "--caller", "reports", "--priority", "bulk")

    assert [each["x-pellucid-caller"] for each in server.metadata] == ["reports"] * 2
    assert [each["x-pellucid-priority"] for each in server.metadata] == ["bulk"] * 2


def test_an_explanation_that_the_deadline_cut_short_is_said_to_be(pellucid, server):
    message = table_attribution()
    message.accuracy.partial = True
    server.replies["Attribute"] = attribute_message(message)

    assert "cut short by the deadline" in pellucid("attribute", "table", *ROW).stdout
    assert json.loads(pellucid("attribute", "table", *ROW, "--json").stdout)[0]["accuracy"]["partial"] is True


def test_failed_explanations_are_named_after_json_too_and_the_servers_fault_is_told_apart(pellucid, server):
    failed = [
        explanation_service_pb2.ExplanationResult(status=explanation_service_pb2.Status(code=code, message=message))
        for code, message in ((14, "The worker was lost."), (13, "internal error"))
    ]
    server.replies["Predict"] = predict_message(explanations=failed)

    result = pellucid("predict", "table", *ROW, "--explain", "saliency", "--explain", "occlusion", "--json")

    assert result.exit_code == 1
    assert result.stderr == "Error: saliency: The worker was lost.\nError: occlusion: internal error\n"
    assert json.loads(result.stdout)["explanations"][0]["error"]["message"] == "The worker was lost."


def test_a_folder_for_pictures_is_made_before_anything_is_asked(pellucid, server, tmp_path):
    (tmp_path / "file").touch()

    result = pellucid("predict", "table", *ROW, "--out", tmp_path / "file")

    assert result.exit_code == 2
    assert "where no folder can be made" in result.stderr
    assert not server.requests["Predict"]


def test_a_json_row_that_is_none_is_told_by_its_place(pellucid, tmp_path):
    (tmp_path / "row.json").write_text('{"age": }')

    result = pellucid("predict", "table", "--json-row", tmp_path / "row.json")

    assert result.exit_code == 2
    assert "is no JSON from line 1, column 9 on" in result.stderr


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (b'{"colour": "ros\xe9"}', "is no text in UTF-8; it must be JSON, in UTF-8"),
        (b"[" * 100_000, "is nested too deep, or has a number of too many digits"),
        (b'{"age": ' + b"9" * 5000 + b"}", "is nested too deep, or has a number of too many digits"),
    ],
    ids=["latin", "deep", "long"],
)
def test_json_that_cannot_be_read_is_the_callers_mistake_in_a_file_and_from_stdin(pellucid, tmp_path, text, right):
    (tmp_path / "row.json").write_bytes(text)

    results = [
        pellucid("predict", "table", "--json-row", tmp_path / "row.json"),
        pellucid("predict", "table", "--json-row", "-", input=text),
    ]

    assert [result.exit_code for result in results] == [2, 2]
    assert all(right in result.stderr and result.stderr.count("\n") == 1 for result in results)


def _array_of(shape):
    """Write the head of an array's file, and no element."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"PK\x03\x04", _array_of((1, 2, 3)), _array_of((1 << 45,)), _array_of((1 << 70,))],
    ids=["empty", "text", "archive", "cut", "beyond memory", "beyond counting"],
)
def test_a_file_that_holds_no_array_is_the_callers_mistake(pellucid, server, tmp_path, data):
    (tmp_path / "x.npy").write_bytes(data)

    result = pellucid("predict", "numbers", tmp_path / "x.npy")

    assert result.exit_code == 2
    assert result.stderr == f"Error: FILE {tmp_path / 'x.npy'} is no array that numpy.save has written.\n"
    assert not server.requests["Predict"]


def test_more_digits_than_an_index_has_are_a_label(pellucid, server):
    pellucid("attribute", "table", *ROW, "--target", "9" * 5000)

    assert server.requests["Attribute"][0].explanation.target.outcome.label == "9" * 5000


def test_no_server_is_a_line_and_exit_code_1(pellucid, free_address):
    result = pellucid("models", "--address", free_address, "--timeout", 20)

    assert result.exit_code == 1
    assert result.stderr == f"Error: No connection to {free_address}, or it was lost; is a server running there?\n"
