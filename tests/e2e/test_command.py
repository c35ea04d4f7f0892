"""The `pellucid` command, on the real server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.messages import DIABETES_ROW, PICTURE_MODEL, TREES_MODEL
from e2e.serving import Server
from PIL import Image


def pellucid(server: Server, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "pellucid"), *arguments, "--address", server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_predicts_a_picture(server: Server, cat_file: Path) -> None:
    done = pellucid(server, "predict", PICTURE_MODEL, str(cat_file))

    assert done.returncode == 0, done.stderr
    assert "tiger cat" in done.stdout


def test_the_command_explains_a_picture_and_draws_it(server: Server, cat_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"

    done = pellucid(
        server,
        "attribute",
        PICTURE_MODEL,
        str(cat_file),
        "--method",
        "occlusion",
        "-p",
        "window=112",
        "--out",
        str(out),
    )

    assert done.returncode == 0, done.stderr
    assert Image.open(out).size[0] > 400


def test_the_command_prints_json_alone_when_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text(json.dumps(DIABETES_ROW))

    done = pellucid(
        server, "attribute", TREES_MODEL, "--json-row", str(tmp_path / "row.json"), "--method", "kernel-shap", "--json"
    )

    (found,) = json.loads(done.stdout)
    assert found["receipt"]["method"] == "kernel-shap"
    assert set(found["inputs"]["features"]["columns"]) == set(DIABETES_ROW)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models"], ["breast-cancer", "diabetes", "efficientnet-lite0"]),
        (["models", "efficientnet-lite0", "--layers"], ["onnxruntime", "_bn1"]),
        (["methods"], ["integrated-gradients", "kernel-shap"]),
        (["methods", "integrated-gradients"], ["steps", "1024"]),
    ],
    ids=" ".join,
)
def test_the_command_shows_the_catalogue(server: Server, arguments: list[str], words: list[str]) -> None:
    done = pellucid(server, *arguments)

    assert done.returncode == 0, done.stderr
    assert [word for word in words if word not in done.stdout] == []


def test_the_command_fails_where_an_explanation_beside_the_prediction_does(server: Server, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text(json.dumps(DIABETES_ROW))

    done = pellucid(
        server, "predict", TREES_MODEL, "--json-row", str(tmp_path / "row.json"), "--explain", "saliency", "--json"
    )

    assert done.returncode == 2
    assert done.stderr.startswith("Error: saliency: ")
    assert json.loads(done.stdout)["outputs"]


def test_the_command_names_a_class(server: Server, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text(json.dumps(DIABETES_ROW))
    row = ("--json-row", str(tmp_path / "row.json"))

    known = pellucid(server, "predict", TREES_MODEL, *row, "--priority", "bulk", "--caller", "reports")
    unknown = pellucid(server, "predict", TREES_MODEL, *row, "--priority", "urgent")

    assert known.returncode == 0, known.stderr
    assert unknown.returncode == 2
    assert "no class 'urgent'" in unknown.stderr


def test_the_command_says_what_is_wrong_and_exits_with_two(server: Server, cat_file: Path) -> None:
    done = pellucid(server, "attribute", PICTURE_MODEL, str(cat_file), "--method", "salience")

    assert done.returncode == 2
    assert "Did you mean 'saliency'" in done.stderr
    assert "Traceback" not in done.stderr
