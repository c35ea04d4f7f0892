"""What each process imports, as the interpreter sees it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHOW = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"


def imported(module):
    done = subprocess.run([sys.executable, "-c", SHOW, module], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)} | set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["pellucid_server.__main__", "pellucid_server.app"])
def test_the_front_is_free_of_torch_and_the_engine(module):
    banned = {"torch", "captum", "onnxruntime", "pellucid_server.engine", "pellucid_server.worker", "opentelemetry"}

    assert imported(module) & banned == set()


def test_the_worker_is_free_of_grpc_and_prometheus():
    banned = {"grpc", "prometheus_client", "pellucid", "pydantic", "pellucid_server.pool", "opentelemetry"}

    assert imported("pellucid_server.worker") & banned == set()


def test_the_client_is_free_of_torch_and_the_server():
    assert imported("pellucid") & {"torch", "onnxruntime", "pellucid_server", "opentelemetry"} == set()


WITHOUT = """
import importlib, sys
sys.path[:0] = ["tests", "."]
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
for module in ("gpu.conftest", "gpu.test_cuda", "gpu.test_service"):
    importlib.import_module(module)
"""


def test_the_tests_for_gpus_need_nothing_that_is_neither_gathered_nor_on_such_a_machine():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    needed = {re.match(r"[\w-]+", entry)[0] for name in ("test", "demo", "cli") for entry in extras[name]}
    gathered = set(re.findall(r'^    "([\w-]+)",$', (ROOT / "scripts/gpu/gather.py").read_text("utf-8"), re.MULTILINE))
    # scikit-learn, which is there, brings SciPy.
    lacking = needed - gathered - {"pellucid", "scipy"}
    assert {"captum", "hypothesis", "skl2onnx", "transformers"} <= lacking

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(name.replace("-", "_") for name in lacking)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
