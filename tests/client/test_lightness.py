"""What the client needs: grpcio, protobuf, numpy; pictures and the command only where they are asked for."""

import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "onnxruntime",
    "matplotlib",
    "PIL",
    "rich",
    "typer",
    "pandas",
    "polars",
    "pyarrow",
    "scipy",
    "xarray",
    "opentelemetry",
    "pellucid_server",
]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("module", ["pellucid", "pellucid.aio", "pellucid.cli", "pellucid.v1.explanation_service_pb2"])
def test_importing_brings_nothing_heavy(module):
    done = python(f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])")

    assert done.stdout == "[]\n", done.stderr


def test_the_command_without_its_extra_says_what_to_install():
    done = python("import sys; sys.modules['typer'] = None; from pellucid.cli import main; main()")

    assert done.returncode == 1
    assert done.stderr == "The pellucid command needs typer: pip install 'pellucid[cli]'\n"


def test_a_notebook_falls_back_to_text_without_the_plot_extra():
    done = python(
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pellucid.results import Attribution\n"
        "print(Attribution._repr_png_(object.__new__(Attribution)))"
    )

    assert done.stdout == "None\n", done.stderr
