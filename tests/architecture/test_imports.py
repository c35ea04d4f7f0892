"""What each process imports, as the interpreter sees it."""

import json
import subprocess
import sys

import pytest

SHOW = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"


def imported(module):
    done = subprocess.run([sys.executable, "-c", SHOW, module], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)} | set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["pellucid_server.__main__", "pellucid_server.app"])
def test_the_front_is_free_of_torch_and_the_engine(module):
    banned = {"torch", "captum", "onnxruntime", "pellucid_server.engine", "pellucid_server.worker"}

    assert imported(module) & banned == set()


def test_the_worker_is_free_of_grpc_and_prometheus():
    banned = {"grpc", "prometheus_client", "pellucid", "pydantic", "pellucid_server.pool"}

    assert imported("pellucid_server.worker") & banned == set()


def test_the_client_is_free_of_torch_and_the_server():
    assert imported("pellucid") & {"torch", "onnxruntime", "pellucid_server"} == set()
