"""Clients that nobody here wrote: buf by reflection, gRPC for Node, NVIDIA's client for the Open Inference Protocol."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy.tools import ROOT, npm_folder
from e2e.serving import Server, serve
from pellucid import Client
from sklearn.datasets import load_breast_cancer

pytestmark = pytest.mark.deploy

HERE = Path(__file__).parent
MODEL = "breast-cancer"
SECONDS = 180


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    (repository / MODEL).symlink_to(ROOT / "models" / MODEL, target_is_directory=True)
    with serve(repository, tmp_path_factory.mktemp("server"), as_users_do=True) as running:
        yield running


@pytest.fixture(scope="module")
def row() -> list[float]:
    """A tumour, as the float32 numbers that go over the wire."""
    return [float(value) for value in load_breast_cancer().data[0].astype(np.float32)]


@pytest.fixture(scope="module")
def expected(server: Server, row: list[float]) -> list[float]:
    """What our own client finds."""
    with Client(server.address) as client:
        (values,) = client.predict(MODEL, np.array([row], np.float32)).outputs.values()
    return [float(value) for value in values[0]]


@pytest.fixture(scope="module")
def node_modules() -> Path:
    """gRPC for Node, as npm installs it."""
    return npm_folder("clients", "@grpc/grpc-js@1", "@grpc/proto-loader@0.8") / "node_modules"


def run(command: Sequence[str], *, given: Any = None, cwd: Path = ROOT, **variables: str) -> str:
    found = subprocess.run(
        command,
        input=None if given is None else json.dumps(given),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=cwd,
        env={**os.environ, **variables},
    )
    assert found.returncode == 0, f"{command}: {found.stdout}{found.stderr}"
    return found.stdout


def test_buf_calls_by_reflection_with_no_schema_at_hand(server: Server, row: list[float], tmp_path: Path) -> None:
    def curl(*arguments: str) -> str:
        prefix = ["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        return run([*prefix, *arguments], cwd=tmp_path)

    address = f"http://{server.address}"
    assert "pellucid.v1.ExplanationService" in curl("--list-services", address).split()
    assert json.loads(curl("-d", "{}", f"{address}/grpc.health.v1.Health/Check"))["status"] == "SERVING"
    cells = dict(zip(load_breast_cancer().feature_names, ({"number": value} for value in row), strict=True))
    request = {"model": {"name": MODEL}, "inputs": {"features": {"table": {"rows": [{"cells": cells}]}}}}
    predicted = json.loads(curl("-d", json.dumps(request), f"{address}/pellucid.v1.ExplanationService/Predict"))
    assert predicted["outputs"]["output"]["top"][0]["classes"][0]["label"] == "malignant"
    request |= {
        "method": "ablation",
        "interventions": [{"kind": "INTERVENTION_KIND_ZERO", "sites": [{"layer": "hidden1"}]}],
    }
    streamed = curl("-d", json.dumps(request), f"{address}/pellucid.v1.ExplanationService/Ablate")
    assert '"receipt"' in streamed


def test_node_calls_by_the_proto_files(
    server: Server, row: list[float], expected: list[float], node_modules: Path
) -> None:
    command = ["node", str(HERE / "node_calls.js"), str(ROOT / "proto"), server.address, MODEL]

    found = json.loads(run(command, given=row, NODE_PATH=str(node_modules)))

    assert found["models"] == [MODEL]
    np.testing.assert_allclose(found["values"], expected, rtol=0, atol=1e-6)
    with Client(server.address) as client:
        own = client.attribute(MODEL, np.array(row, np.float32), "integrated-gradients")
    np.testing.assert_allclose(found["scores"], own.scores["features"], rtol=0, atol=1e-5)
    assert found["parts"] >= 1
    assert found["refusal"] == "NOT_FOUND"


def test_tritonclient_predicts_by_the_open_inference_protocol(
    server: Server, row: list[float], expected: list[float]
) -> None:
    found = json.loads(run([sys.executable, str(HERE / "tritonclient_calls.py"), server.address, MODEL], given=row))

    assert found["live"]
    assert found["ready"]
    assert found["model ready"]
    assert (found["server"], found["platform"], found["id"]) == ("pellucid", "pellucid", "r-1")
    np.testing.assert_allclose(found["values"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["values of the asynchronous client"], expected, rtol=0, atol=1e-6)
    assert found["refusal"] == "StatusCode.NOT_FOUND"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("buf", "node", "npm"):
        assert shutil.which(tool), f"{tool} is not installed; `make deploy-check` installs it"
