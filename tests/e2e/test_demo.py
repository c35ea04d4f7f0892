"""The demo as a command: one photograph of the three, and what it says when something is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shown(models: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[subprocess.CompletedProcess[str], Path]":
    """The demo of one photograph, and the folder of its pictures."""
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "demo.run", "--models", str(models), "--out", str(out), "--photographs", "coffee"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return done, out


def test_the_demo_ends_well(shown: "tuple[subprocess.CompletedProcess[str], Path]") -> None:
    done, _ = shown

    assert done.returncode == 0, done.stdout
    assert "it ended with exit code 0" in done.stdout
    assert "All as it should be" in done.stdout
    assert done.stderr == ""


def test_the_demo_says_what_is_on_the_photograph_and_how_exact_its_explanation_is(
    shown: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    done, _ = shown

    assert re.search(r"^ *espresso +\d+\.\d\d% +\d+\.\d{3} *$", done.stdout, re.MULTILINE)
    assert "integrated-gradients: the score of 'espresso' goes from" in done.stdout
    assert re.search(
        r"completeness gap: signed [+-]\S+ .*; tolerance 0\.01 \(absolute 0\.05\) met$", done.stdout, re.MULTILINE
    )
    assert re.search(r"rows +\d+ forward and backward", done.stdout)
    assert "kernel-shap: the score of" in done.stdout


def test_the_demo_names_the_channels_that_the_class_needs_and_what_would_change_the_row(
    shown: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    done, _ = shown

    assert len(re.findall(r"^ *_blocks\.15\[\d+\] +-?\d+\.\d{3} +\+\d+\.\d{3} *$", done.stdout, re.MULTILINE)) == 10
    assert re.search(r"lost at once: \+\d+\.\d{3} without these ten, [+-]\d+\.\d{3} without the ten least", done.stdout)
    assert re.search(r"^ *(benign|malignant) if .* were \S+ instead of \S+", done.stdout, re.MULTILINE)


def test_the_demo_names_units_of_two_layers_and_counts_selective_channels(
    shown: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    done, _ = shown

    assert len(re.findall(r"_blocks\.\d+: [1-9]\d* of \d+ units detect a concept", done.stdout)) == 2
    assert re.search(r"^ *\d+ +[a-z ]+ +0\.\d{3} ± 0\.\d{3} +0\.\d{4}", done.stdout, re.MULTILINE)
    assert re.search(r"_conv_stem: [1-9]\d* of 32 channels are selective for orientation", done.stdout)


def test_the_demo_draws_what_it_explains_and_no_more(
    shown: "tuple[subprocess.CompletedProcess[str], Path]",
) -> None:
    _, out = shown

    pictures = {"breast-cancer.png", "channels.png", "coffee.png", "counterfactual.png"}
    inside = {"dictionary.html", "feature-visualization.png", "tuning-curves.png"}
    assert {path.name for path in out.iterdir()} == {*pictures, *inside, "datasets", "server.log"}
    with Image.open(out / "coffee.png") as picture:
        # Drawn on: a blank page has one colour.
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 1000


def test_a_photograph_that_there_is_not_is_refused_with_those_there_are(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.run", "--out", str(tmp_path / "out"), "--photographs", "tea"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 2
    assert "'tea' (choose from" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_server_that_does_not_start_fails_the_demo_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "demo.run", "--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 1
    assert "the server did not start" in done.stdout
    assert "has no models" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
