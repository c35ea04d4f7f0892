import numpy as np
import pytest
import torch
from pellucid_server.engine.engine import Engine, Evaluation
from pellucid_server.engine.job_state import JobState
from pellucid_server.engine.models.graph import Graph
from pellucid_server.engine.programs import INDICES, SCORES, WEIGHTS, Gradient
from pellucid_server.engine.question import Target
from server.engine.conftest import ZooModel
from server.engine.models.networks import ZOO, zoo_module, zoo_rows
from server.engine.test_engine import evaluation, lane

pytestmark = pytest.mark.gpu


class Hungry:
    """A program that asks the device for more memory than it has, but for single rows."""

    evaluation, backward = "forward", False

    def __call__(self, batch):
        torch.empty(1 if len(batch["x"]) == 1 else 1 << 45, device="cuda:0")
        return {"y": batch["x"] * 2}


@pytest.mark.parametrize("name", ["convolutional", "residual", "encoder", "torch-encoder"])
def test_gradients_on_the_device_are_those_on_the_cpu(name):
    rows = {key: value.numpy() for key, value in zoo_rows(name, 6, 5).items()}
    elements = {INDICES: np.zeros((6, 1), np.int64), WEIGHTS: np.ones((6, 1), np.float32)}
    found = {}
    for device in ("cpu", "cuda:0"):
        graph = Graph.from_program(ZOO[name].export(zoo_module(name)), device=device)
        target = Target(graph.outputs[0].name, ((0, 1.0),))
        found[device] = Gradient(ZooModel(None, graph), device, target, "")({**rows, **elements})

    for key in (*rows, SCORES):
        np.testing.assert_allclose(found["cuda:0"][key], found["cpu"][key], rtol=1e-3, atol=1e-5)


def test_running_out_of_device_memory_halves_the_chunk():
    engine = Engine(chunk_seconds=10.0, chunk_bytes=1 << 30, threads=1)
    entry: Evaluation = evaluation(range(4), job=JobState(1, None))

    engine.submit(entry, lane(Hungry()))

    assert entry.wait()["y"][:, 0].tolist() == [0, 2, 4, 6]
    engine.close()
