"""Servers on the CUDA device and on the CPU, over one repository of small models.

`PELLUCID_TEST_DEVICE=cpu` tries the tests themselves out where there is no CUDA.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from e2e.serving import Server, serve
from e2e.small_models import write_pictures, write_scores
from gpu.models import CONVERTED, ENTROPY, ONNX_ONLY, SHIFTED, WIDE, Entropy, Regression, Shifted, Wide
from pellucid import Client
from pellucid_server.export import export
from server.engine.models.networks import ZOO, zoo_module

SERVED_ZOO = ("convolutional", "residual", "encoder", "recurrent", "several-inputs")


@pytest.fixture(scope="session")
def device() -> str:
    """The device that the tests are about."""
    name = os.environ.get("PELLUCID_TEST_DEVICE", "cuda:0")
    if name != "cpu" and not torch.cuda.is_available():
        pytest.fail(f"torch {torch.__version__} sees no CUDA device")
    return name


@pytest.fixture
def cuda(device: str) -> str:
    """The device, for what only a CUDA device does."""
    if device == "cpu":
        pytest.skip("the CPU does not do this")
    return device


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every kind that CUDA makes a difference for."""
    folder = tmp_path_factory.mktemp("repository")
    write_scores(folder)
    write_pictures(folder)
    for name in SERVED_ZOO:
        dynamic = {1: "length"} if name == "encoder" else {}
        example = ZOO[name].rows(2, 4)
        export(
            zoo_module(name),
            example,
            folder / name / "1",
            onnx=False,
            dynamic=dict.fromkeys(example, dynamic) if dynamic else None,
        )
    export(Wide(), (torch.zeros(2, 512),), folder / WIDE / "1", onnx=False)
    export(Shifted(), {"ids": torch.tensor([[1, 2], [3, 4]])}, folder / SHIFTED / "1", onnx=False)
    for name in (CONVERTED, ONNX_ONLY):
        export(Regression(), (torch.ones(2, 4),), folder / name / "1")
    (folder / ONNX_ONLY / "1" / "model.pt2").unlink()
    export(Entropy(), {"x": torch.zeros(2, 3), "kind": torch.zeros(2, dtype=torch.int64)}, folder / ENTROPY / "1")
    return folder


@pytest.fixture(scope="session")
def server(device: str, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the device."""
    with serve(
        repository, tmp_path_factory.mktemp("device"), {"PELLUCID_POOL__DEVICES": device}, as_users_do=True
    ) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def cpu_client(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server on the CPU, with the same models."""
    with (
        serve(
            repository, tmp_path_factory.mktemp("cpu"), {"PELLUCID_POOL__DEVICES": "cpu"}, as_users_do=True
        ) as running,
        Client(running.address) as connected,
    ):
        yield connected
