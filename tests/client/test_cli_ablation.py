"""The commands `ablate` and `counterfactual`, against a server with written replies."""

import json

import grpc
import numpy as np
import pytest
from client.fake_server import DIGEST, Failure, column_message, effects_message, part_message
from client.test_ablations import STUDY, counterfactual_messages
from pellucid.cli.commands import app
from pellucid.tensors import from_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, findings_pb2
from PIL import Image
from typer.testing import CliRunner

NOTHING_TO_DRAW = "The answer has no effects, study, curve, joint change or map of layers and positions to draw."
ROW = ("--row", "age=40", "--row", "colour=red")


@pytest.fixture
def pellucid(server):
    """Run the command against the server."""

    def run(*words, **more):
        environment = {"PELLUCID_ADDRESS": server.address, "COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, [str(word) for word in words], env=environment, **more)

    return run


def test_effects_are_shown_with_the_largest_first(pellucid):
    result = pellucid("ablate", "table", *ROW, "--at", "conv[*]", "--top", 2)

    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line]
    assert lines[0] == ["ablation", "of", "photos", "version", "3"]
    start = lines.index(["site", "effect", "(nats)"])
    assert lines[start - 1] == ["effects:", "the", "largest", "2", "of", "3"]
    assert lines[start + 1 : start + 3] == [["conv[1]", "-2"], ["conv[2]", "1"]]
    assert "conv[0]" not in result.stdout
    assert "Note: A draw." in result.stdout
    assert DIGEST[:12] in result.stdout


def test_the_request_says_what_the_options_say(pellucid, server, tmp_path):
    np.save(tmp_path / "vector.npy", [1.0, 2.0])
    (tmp_path / "source.json").write_text('{"age": 7, "colour": "green"}')

    steered = pellucid(
        "ablate", "table", *ROW, "--at", "conv", "--at", "attn:heads[2]", "--do", "steer", "--vector",
        tmp_path / "vector.npy", "--value", -1.5, "--source", tmp_path / "source.json", "--target", "cat",
        "--contrast", 1, "--metric", "logit-difference", "--dataset", "adult", "--method", "mine", "-p", "timeout=3",
        "--seed", 7, "--exact", "--version", 3,
    )  # fmt: skip

    assert steered.exit_code == 0, steered.stderr
    (request,) = server.requests["Ablate"]
    (change,) = request.interventions
    assert change.kind == ablation_pb2.INTERVENTION_KIND_STEER
    assert [site.layer for site in change.sites] == ["conv", "attn"]
    assert (change.value, from_tensor(change.vector).tolist()) == (-1.5, [1.0, 2.0])
    assert request.source["row"].table.rows[0].cells["age"].number == 7
    assert request.target.outcome.label == "cat"
    assert list(request.target.contrast.index) == [1]
    assert request.metric == ablation_pb2.METRIC_LOGIT_DIFFERENCE
    assert (request.dataset, request.method, request.seed, request.exact) == ("adult", "mine", 7, True)
    # A parameter of the method's, whatever the client's own options are called.
    assert request.parameters["timeout"].integer == 3


@pytest.mark.parametrize(
    ("words", "kind", "fields"),
    [
        ([], "ZERO", {}),
        (
            ["--do", "mean", "--reference", "background", "--per-position"],
            "MEAN",
            {"reference": 2, "per_position": True},
        ),
        (["--do", "resample", "--draws", "3"], "RESAMPLE", {"draws": 3}),
        (["--do", "noise", "--value", "0.5", "--draws", "2"], "NOISE", {"value": 0.5, "draws": 2}),
        (["--do", "constant", "--value", "0"], "CONSTANT", {"value": 0}),
        (["--do", "scale", "--value", "2"], "SCALE", {"value": 2}),
        (["--do", "patch"], "PATCH", {}),
    ],
)
def test_every_kind_of_change_has_its_options(pellucid, server, words, kind, fields):
    result = pellucid("ablate", "table", *ROW, "--at", "conv", *words)

    assert result.exit_code == 0, result.stderr
    sites = [ablation_pb2.Site(layer="conv")]
    expected = ablation_pb2.Intervention(sites=sites, kind=f"INTERVENTION_KIND_{kind}", **fields)
    if kind == "NOISE":
        expected.value = 0.5
    assert list(server.requests["Ablate"][0].interventions) == [expected]


def test_a_data_set_takes_the_place_of_rows(pellucid, server):
    assert pellucid("ablate", "table", "--dataset", "adult", "--at", "conv").exit_code == 0
    assert not server.requests["Ablate"][0].inputs


def test_a_json_file_is_a_row_like_the_other_files(pellucid, server, tmp_path):
    (tmp_path / "row.json").write_text('{"age": 40, "colour": "red"}')

    assert pellucid("ablate", "table", tmp_path / "row.json", "--at", "conv").exit_code == 0
    assert server.requests["Ablate"][0].inputs["row"].table.rows[0].cells["age"].number == 40


def test_json_is_all_that_json_prints(pellucid):
    found = json.loads(pellucid("ablate", "table", *ROW, "--at", "conv[*]", "--json").stdout)

    assert [each["site"] for each in found["tables"]["effects"]] == ["conv[1]", "conv[2]", "conv[0]"]
    assert (found["method"], found["progress"], found["warnings"]) == ("ablation", 1.0, ["A draw."])
    assert found["receipt"]["model"]["digest"] == DIGEST


def test_the_plot_and_the_arrays_are_written(pellucid, tmp_path):
    result = pellucid(
        "ablate", "table", *ROW, "--at", "conv[*]", "--plot", tmp_path / "bars.png", "--npz", tmp_path / "arrays.npz"
    )

    assert result.exit_code == 0, result.stderr
    assert Image.open(tmp_path / "bars.png").width > 500
    assert np.load(tmp_path / "arrays.npz")["prediction"].tolist() == [1]


def test_an_answer_that_cannot_be_drawn_is_shown_all_the_same(pellucid, server, tmp_path):
    server.replies["Ablate"] = [part_message(0, 1.0, last=True)]

    result = pellucid("ablate", "table", *ROW, "--at", "conv", "--plot", tmp_path / "bars.png")

    assert result.exit_code == 0
    assert result.stderr == f"Note: {tmp_path / 'bars.png'} was not written: {NOTHING_TO_DRAW}\n"
    assert not (tmp_path / "bars.png").exists()
    assert "photos version 3" in result.stdout


def test_an_answer_that_was_cut_short_is_said_to_be(pellucid, server):
    tables = {"effects": effects_message(["conv[0]"], [1.0])}
    accuracy = explanation_pb2.Accuracy(partial=True)
    server.replies["Ablate"] = [
        part_message(0, 0.25, tables=tables),
        part_message(1, 1.0, last=True, accuracy=accuracy),
    ]

    result = pellucid("ablate", "table", *ROW, "--at", "conv[*]")

    assert "cut short by the deadline, 25% done" in result.stdout


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["--at", "conv["], "a site is LAYER"),
        (["--at", "conv", "--do", "nothing"], "--do is 'nothing'; it must be one of zero, mean"),
        (["--at", "conv", "--value", "2"], "--value is set, but --do is zero; it is for constant, scale, noise, steer"),
        (["--at", "conv", "--do", "mean", "--draws", "2"], "--draws is set, but --do is mean"),
        (["--at", "conv", "--do", "scale"], "--value is not set, and --do is scale; give it"),
        (["--at", "conv", "--do", "steer"], "--vector is not set, and --do is steer; give it"),
        (["--do", "scale", "--value", "2"], "--value is set, and --at names no site; name one"),
        ([], "--at names no site; name one of those that `pellucid model MODEL --layers` lists"),
        (["--method", "ablation-curve"], "--at names no site"),
        (["--at", "conv", "--source", "gone.npy"], "--source is gone.npy, but there is no such file"),
        (["--at", "conv", "-p", "a=1", "-p", "a=2"], "--parameter names 'a' twice"),
        (["--at", "conv", "--plot", "bars.txt"], "--plot is 'bars.txt'; it must end in one of .png"),
        (["--at", "conv", "--metric", "loss"], "metric is 'loss'; it must be one of 'score'"),
    ],
)
def test_a_callers_mistake_exits_with_2_and_says_what_would_be_right(pellucid, server, words, right):
    result = pellucid("ablate", "table", *ROW, *words)

    assert result.exit_code == 2
    assert right in result.stderr
    assert not server.requests["Ablate"]


@pytest.mark.parametrize(("code", "exit_code"), [(grpc.StatusCode.NOT_FOUND, 2), (grpc.StatusCode.INTERNAL, 1)])
def test_a_failed_call_is_one_line_on_stderr(pellucid, server, code, exit_code):
    server.failures["Ablate"].append(Failure(code, "The words."))

    result = pellucid("ablate", "table", *ROW, "--at", "conv")

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.startswith("Error: The words.")


def test_counterfactuals_are_shown_in_words_and_as_changes(pellucid, server, tmp_path):
    server.replies["Ablate"] = counterfactual_messages()
    (tmp_path / "rows.csv").write_text("colour,age\nred,40\ngreen,7\n")

    result = pellucid(
        "counterfactual", "table", tmp_path / "rows.csv", "--want", "benign", "--plot", tmp_path / "a.png"
    )

    assert result.exit_code == 0, result.stderr
    assert "1. benign if worst radius were 14.2 mm instead of 17.94 mm" in result.stdout
    assert "distance 1.5, 1 changed, every change is needed" in result.stdout
    assert "Row 1\nrow 1: not found within the budget" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["worst", "radius", "17.94", "14.2", "mm"] in lines
    assert ["colour", "red", "green"] in lines
    assert Image.open(tmp_path / "a.png").width > 500


def test_a_counterfactual_request_says_what_the_options_say(pellucid, server):
    server.replies["Ablate"] = counterfactual_messages()

    result = pellucid(
        "counterfactual", "table", *ROW, "--want", "benign", "--fix", "age", "--range", "mean radius=10:15", "--range",
        "a=b=:-1e-3", "--up", "n", "--down", "mean radius", "--k", 3, "--distance", "l1", "-p", "budget=9", "--seed", 5,
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    (request,) = server.requests["Ablate"]
    assert (request.method, request.seed, request.wanted.outcome.label) == ("counterfactual", 5, "benign")
    assert (request.parameters["k"].integer, request.parameters["distance"].text) == (3, "l1")
    assert request.parameters["budget"].integer == 9
    assert list(request.columns) == [
        ablation_pb2.ColumnRule(column="age", fixed=True),
        ablation_pb2.ColumnRule(column="mean radius", minimum=10, maximum=15, only_down=True),
        ablation_pb2.ColumnRule(column="a=b", maximum=-0.001),
        ablation_pb2.ColumnRule(column="n", only_up=True),
    ]


def test_counterfactuals_as_json_have_sentences_and_whole_rows(pellucid, server):
    server.replies["Ablate"] = counterfactual_messages()

    found = json.loads(pellucid("counterfactual", "table", *ROW, "--json").stdout)

    assert found["counterfactuals"][0]["sentence"].startswith("benign if worst radius")
    assert found["counterfactuals"][1]["values"] == {"row": 17.94, "colour": "green"}
    assert found["receipt"]["model"]["version"] == 3


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["--fix", "age", "--range", "age=1:20"], "--fix names 'age', and so does --range; leave one of the two out"),
        (["--fix", "age", "--up", "age"], "--fix names 'age', and so does --up"),
        (["--fix", "n", "--fix", "age", "--down", "age"], "--fix names 'age', and so does --down"),
        (["--up", "age", "--down", "age"], "--up names 'age', and so does --down"),
    ],
)
def test_rules_for_a_column_that_contradict_each_other_are_refused(pellucid, server, words, right):
    result = pellucid("counterfactual", "table", *ROW, *words)

    assert result.exit_code == 2
    assert right in result.stderr
    assert not server.requests["Ablate"]


def study_messages():
    running = findings_pb2.NamedTable(columns=[column_message("rows", [90]), column_message("change", ["none"])])
    return [
        part_message(0, 0.5, tables={"running": running}),
        part_message(1, 1, last=True, tables={"accuracy": STUDY}),
    ]


def test_a_study_is_shown_with_the_largest_differences_and_without_the_estimates_on_the_way(pellucid, server):
    server.replies["Ablate"] = study_messages()

    result = pellucid("ablate", "table", "--dataset", "adult", "--at", "conv", "--top", 3, "--method", "ablation-study")

    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line]
    start = lines.index(["accuracy:", "the", "largest", "3", "of", "4"])
    assert [line[:3] for line in lines[start + 2 : start + 5]] == [
        ["age", "zero", "clinic"],
        ["sex", "zero", "all"],
        ["sex", "zero", "clinic"],
    ]
    assert ["all", "90", "0.9", "0.8", "0.95"] in lines
    assert "running" not in result.stdout


def test_progress_is_lines_where_there_is_no_terminal_and_only_if_asked_for(pellucid):
    asked = pellucid("ablate", "table", *ROW, "--at", "conv[*]", "--progress")
    quiet = pellucid("ablate", "table", *ROW, "--at", "conv[*]")

    lines = asked.stderr.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"ablation: {share}% done" for share in (0, 25, 50, 75, 100)]
    assert quiet.stderr == ""


@pytest.mark.parametrize("word", ["age", "age=10", "age=a:b", "=1:2", "age=1:2:3"])
def test_a_range_that_is_none_is_refused_with_the_syntax(pellucid, word):
    result = pellucid("counterfactual", "table", *ROW, "--range", word)

    assert result.exit_code == 2
    assert "--range is" in result.stderr


def test_joint_changes_are_shown_first_and_their_outcomes_in_full(pellucid, server):
    joint = findings_pb2.NamedTable(columns=[column_message("row", [0, 1]), column_message("effect", [1.0, 2.0])])
    count = 25
    outcomes = findings_pb2.NamedTable(
        columns=[
            column_message("row", [number // 5 for number in range(count)]),
            column_message("index", [f"[{number}]" for number in range(count)]),
            column_message("label", [f"class {number}" for number in range(count)]),
            column_message("before", [number / 8 for number in range(count)]),
            column_message("after", [-number / 8 for number in range(count)]),
        ]
    )
    tables = {"a": joint, "joint": joint, "outcomes": outcomes}
    server.replies["Ablate"] = [part_message(0, 1.0, last=True, tables=tables)]

    result = pellucid("ablate", "table", *ROW, "--at", "conv", "-p", "joint=true", "--top", 3)

    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line]
    titles = [line[0] for line in lines if line in (["a"], ["joint"], ["outcomes"])]
    assert titles == ["joint", "outcomes", "a"]
    assert ["4", "[24]", "class", "24", "3", "-3"] in lines


def test_the_closest_candidate_is_drawn_and_the_command_succeeds(pellucid, server, tmp_path):
    counterfactuals = findings_pb2.NamedTable(
        columns=[column_message("row", [0]), column_message("number", [0]), column_message("found", [False])]
    )
    changes = findings_pb2.NamedTable(
        columns=[
            column_message("row", [0]),
            column_message("number", [0]),
            column_message("column", ["age"]),
            column_message("before_value", [40.0]),
            column_message("after_value", [90.0]),
        ]
    )
    tables = {"counterfactuals": counterfactuals, "changes": changes}
    server.replies["Ablate"] = [part_message(0, 1.0, last=True, tables=tables)]

    result = pellucid("counterfactual", "table", *ROW, "--plot", tmp_path / "closest.png")

    assert (result.exit_code, result.stderr) == (0, "")
    assert Image.open(tmp_path / "closest.png").width > 500


def test_where_there_is_no_candidate_a_note_says_that_there_is_no_plot(pellucid, server, tmp_path):
    server.replies["Ablate"] = [part_message(0, 1.0, last=True)]

    result = pellucid("counterfactual", "table", *ROW, "--plot", tmp_path / "none.png")

    assert result.exit_code == 0
    assert result.stderr.startswith(f"Note: {tmp_path / 'none.png'} was not written: There is no counterfactual")
