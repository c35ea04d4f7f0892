"""The command `dissect`, against a server with written replies."""

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from client.fake_server import DIGEST, FakeServer, column_message, dictionary_message, dissected_message
from client.job_server import JobServer, message
from client.test_cli_ablation import pellucid  # noqa: F401 - a fixture
from pellucid.cli.commands import app
from pellucid.v1 import findings_pb2, job_service_pb2
from pellucid.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from pellucid.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture
def run(pellucid):  # noqa: F811 - the fixture that was imported
    return pellucid


def lines(result):
    return [line.split() for line in result.stdout.splitlines() if line]


def test_the_dictionary_is_shown_with_the_best_units_first(run):
    result = run("dissect", "photos", "conv1[3-5]", "--dataset", "shapes")

    assert result.exit_code == 0, result.stderr
    shown = lines(result)
    assert shown[0] == ["network-dissection", "of", "photos", "version", "3"]
    assert "2 of 3 units detect one of 2 concepts; 0 are dead" in result.stdout
    start = shown.index(["layer", "color", "units"])
    assert shown[start + 1] == ["conv1", "2", "3"]
    start = shown.index(["layer", "unit", "concept", "category", "IoU", "chance", "runner-up", "its", "IoU"])
    assert shown[start + 1 : start + 4] == [
        ["conv1", "3", "red", "color", "0.300"],
        ["conv1", "4", "blue", "color", "0.200"],
        ["conv1", "5", "(red)", "color", "0.020"],
    ]
    assert "Note: Two rows have no mask." in result.stdout
    assert DIGEST[:12] in result.stdout


def test_the_request_says_what_the_options_say(run, server):
    result = run(
        "dissect", "photos", "conv1[3-7]", "block*", "--method", "mine", "--dataset", "shapes", "--rows", 50,
        "-p", "top=4", "--param", "quantile=0.995", "--target", "cat", "--output", "logits", "--seed", 7, "--exact",
        "--version", 3,
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    (request,) = server.requests["Dissect"]
    assert [(each.layer, list(each.units)) for each in request.layers] == [("conv1", [3, 4, 5, 6, 7]), ("block*", [])]
    assert (request.method, request.probe.dataset, request.probe.rows) == ("mine", "shapes", 50)
    assert (request.parameters["top"].integer, request.parameters["quantile"].real) == (4, 0.995)
    assert (request.target.outcome.label, request.target.output) == ("cat", "logits")
    assert (request.seed, request.exact, request.model.version) == (7, True, 3)


def test_rows_come_from_files(run, server, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")

    result = run("dissect", "photos", "conv1", "--input", tmp_path / "a.png", "--input", tmp_path / "b.png")

    assert result.exit_code == 0, result.stderr
    (request,) = server.requests["Dissect"]
    assert len(request.probe.inputs["image"].pictures.encoded) == 2


def test_json_is_all_of_it_and_nothing_else(run):
    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--json")

    found = json.loads(result.stdout)
    assert [each["concept"] for each in found["tables"]["dictionary"]] == ["red", "blue", "red"]
    assert found["record"]["layers"] == ["conv1[3-5]"]


def test_a_page_a_picture_and_the_arrays_are_written(run, server, tmp_path):
    page, picture, arrays = (tmp_path / name for name in ("page.html", "plot.png", "arrays.npz"))

    result = run(
        "dissect", "photos", "conv1", "--dataset", "shapes", "--html", page, "--plot", picture, "--npz", arrays
    )

    assert result.exit_code == 0, result.stderr
    assert f"{page} has {page.stat().st_size:,} bytes" in result.stderr
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert Image.open(picture).width > 100
    assert np.load(arrays).files == []


def test_an_answer_is_compared_with_an_earlier_one_and_held_against_a_list(run, server, tmp_path):
    earlier = run("dissect", "photos", "conv1", "--dataset", "shapes", "--json")
    (tmp_path / "before.json").write_text(earlier.stdout)
    (tmp_path / "allowed.txt").write_text("red\n\n  green \n")
    later = dictionary_message([3, 4, 5], ["red", "dots", "red"], [0.3, 0.2, 0.1])
    server.replies["Dissect"] = [dissected_message(1.0, part=0, last=True, tables={"dictionary": later})]
    words = ["dissect", "photos", "conv1", "--dataset", "shapes", "--compare", tmp_path / "before.json"]
    words += ["--allow", tmp_path / "allowed.txt"]

    shown, found = run(*words, "--html", tmp_path / "page.html"), json.loads(run(*words, "--json").stdout)

    assert shown.exit_code == 0, shown.stderr
    assert "units that detect something else than before: 2; the same: 1" in shown.stdout
    assert "new concepts: dots" in shown.stdout
    assert "vanished concepts: blue" in shown.stdout
    assert ["conv1", "4", "blue", "dots"] in lines(shown)
    assert "units that detect what is not allowed: 1" in shown.stdout
    assert [each["after"] for each in found["comparison"]["changed"]] == ["dots", "red"]
    assert [each["concept"] for each in found["audit"]] == ["dots"]
    assert '"audit":[{' in (tmp_path / "page.html").read_text("utf-8")


def test_a_method_without_a_dictionary_has_nothing_to_compare(run, server, tmp_path):
    words = findings_pb2.NamedTable(columns=[column_message("word", ["a"])])
    server.replies["Dissect"] = [dissected_message(1.0, part=0, last=True, tables={"words": words})]
    (tmp_path / "allowed.txt").write_text("red")

    result = run(
        "dissect", "photos", "conv1", "--dataset", "shapes", "--allow", tmp_path / "allowed.txt", "--html",
        tmp_path / "page.html",
    )  # fmt: skip

    assert result.exit_code == 0, result.stderr
    assert "network-dissection makes no dictionary to compare or audit." in result.stdout


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"tables": {"dictionary": [{"layer": "a"}]}}', '{"tables": {"dictionary": 3}}']
)
def test_what_is_no_earlier_answer_is_refused_before_anything_is_asked(run, server, tmp_path, text):
    (tmp_path / "before.json").write_text(text)

    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--compare", tmp_path / "before.json")

    assert result.exit_code == 2
    assert "before.json is no answer with a dictionary" in result.stderr
    assert server.requests["Dissect"] == []


def test_a_list_that_is_not_there_is_named(run, server, tmp_path):
    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--allow", tmp_path / "none.txt")

    assert result.exit_code == 1
    assert "none.txt" in result.stderr
    assert server.requests["Dissect"] == []


def test_an_answer_that_cannot_be_drawn_is_shown_all_the_same(run, server, tmp_path):
    words = findings_pb2.NamedTable(columns=[column_message("word", ["a"])])
    server.replies["Dissect"] = [dissected_message(1.0, part=0, last=True, tables={"words": words})]

    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--plot", tmp_path / "plot.png")

    assert result.exit_code == 0
    assert "plot.png was not written: The answer has no dictionary" in result.stderr
    assert "words" in result.stdout


def test_tables_and_pictures_are_shown_up_to_a_number(run, server):
    numbers = findings_pb2.NamedTable(columns=[column_message("unit", list(range(30)))])
    shown = {f"conv1/unit {unit}": findings_pb2.Picture(text="Bright.", width=2, height=2) for unit in range(9)}
    server.replies["Dissect"] = [
        dissected_message(1.0, part=0, tables={"conv1/units": numbers}),
        dissected_message(1.0, part=1, last=True, pictures=shown),
    ]

    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--method", "activations", "--top", 3)

    assert "conv1/units: the first 3 of 30" in result.stdout
    assert ["2"] in lines(result)
    assert ["3"] not in lines(result)
    assert "Picture 'conv1/unit 4'" in result.stdout
    assert "and 4 more pictures; --html shows them" in result.stdout


def test_columns_that_a_terminal_has_no_room_for_are_counted(run, server):
    wide = findings_pb2.NamedTable(columns=[column_message(f"column-{place}", ["x" * 30]) for place in range(9)])
    server.replies["Dissect"] = [dissected_message(1.0, part=0, last=True, tables={"wide": wide})]

    result = run("dissect", "photos", "conv1", "--dataset", "shapes")

    assert "wide: 3 more columns; --json and --html have them" in result.stdout
    assert "column-5" in result.stdout
    assert "column-6" not in result.stdout


def test_tables_beside_the_dictionary_are_named(run, server):
    top = findings_pb2.NamedTable(columns=[column_message("unit", [3])])
    tables = {"dictionary": dictionary_message([3], ["red"], [0.3]), "top": top}
    server.replies["Dissect"] = [dissected_message(1.0, part=0, last=True, tables=tables)]

    result = run("dissect", "photos", "conv1", "--dataset", "shapes")

    assert "Further tables: top; --json and --html have them" in result.stdout


def test_progress_is_written_in_lines_where_there_is_no_terminal(run):
    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--progress")

    assert "network-dissection: 50% done, 3 s left" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "shapes", "--input", "a.png"], "--input is set, and --dataset too"),
        (["--dataset", "shapes", "--html", "no/such/page.html"], "--html is 'no/such/page.html'"),
        (["--dataset", "shapes", "--plot", "plot.doc"], "--plot is 'plot.doc'"),
        (["--dataset", "shapes", "-p", "top"], "--parameter"),
        (["--dataset", "shapes", "-p", "top=1", "-p", "top=2"], "--parameter"),
    ],
)
def test_options_that_make_no_sense_end_the_command_before_it_asks(run, server, words, said):
    result = run("dissect", "photos", "conv1", *words)

    assert result.exit_code == 2
    assert said in result.stderr
    assert server.requests["Dissect"] == []


@pytest.fixture
def jobs():
    """Serve models beside a job service, and run the command against them."""
    services, fake = JobServer(), FakeServer()
    grpc_server = grpc.server(ThreadPoolExecutor(4))
    add_JobServiceServicer_to_server(services, grpc_server)
    add_ModelServiceServicer_to_server(fake, grpc_server)
    address = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    grpc_server.start()

    def run(*words):
        environment = {"PELLUCID_ADDRESS": address, "COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, [str(word) for word in words], env=environment)

    yield services, run
    grpc_server.stop(None)


def test_a_job_is_submitted_in_place_of_a_call(jobs):
    services, run = jobs
    submitted = job_service_pb2.SubmitJobResponse(job=message(job_service_pb2.JOB_STATE_QUEUED))
    services.scripts = {"SubmitJob": deque([submitted, submitted])}
    words = ["dissect", "photos", "conv1", "--dataset", "shapes", "--method", "activations", "-p", "top=4", "--job"]

    shown, found = run(*words), json.loads(run(*words, "--json").stdout)

    assert shown.exit_code == 0, shown.stderr
    assert "ab: queued" in shown.stdout
    assert "pellucid jobs watch ab" in shown.stderr
    assert found["id"] == "ab"
    asked = services.requests[0].dissect
    assert (asked.method, asked.probe.dataset, asked.parameters["top"].integer) == ("activations", "shapes", 4)


@pytest.mark.parametrize("option", ["--html", "--plot", "--npz", "--compare", "--allow"])
def test_a_job_takes_no_option_that_needs_its_answer(jobs, option, tmp_path):
    services, run = jobs
    ending = {"--plot": "png", "--npz": "npz"}.get(option, "txt")

    result = run("dissect", "photos", "conv1", "--dataset", "shapes", "--job", option, tmp_path / f"a.{ending}")

    assert result.exit_code == 2
    assert f"--job has no answer yet, and {option} needs one" in result.stderr
    assert services.requests == []
