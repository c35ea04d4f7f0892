"""What CUDA could make different: values, bits, memory, errors that stay, and what runs beside it."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES
from pellucid_server.engine.device.accelerator import to_device, to_host
from pellucid_server.engine.device.copies import StreamCopies
from pellucid_server.engine.device.engine import Engine, Evaluation
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.engine.tasks.request_state import RequestState, Tally
from server.engine.conftest import ZooModel
from server.engine.methods.closed_forms import grown
from server.engine.models.networks import ZOO, zoo_module, zoo_rows
from server.engine.test_engine import Asked, Awaited, evaluation, lane
from server.engine.test_recipes import RECIPES
from torch import nn

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]


class Hungry:
    """A program that asks the device for more memory than there is, but for single rows."""

    evaluation, kind, backward, runtime = "forward", "forward", False, "graph"

    def __init__(self, device):
        self.device = device

    def __call__(self, batch, parts):
        torch.empty(1 if len(batch["x"]) == 1 else 1 << 45, device=self.device)
        return {"y": batch["x"] * 2}


@pytest.mark.parametrize("name", ZOO)
def test_gradients_on_the_device_are_those_on_the_cpu(name, device, record_property):
    rows = {key: value.numpy() for key, value in zoo_rows(name, 6, 5).items()}
    found = {}
    for where in ("cpu", device):
        graph = Graph.from_program(ZOO[name].export(zoo_module(name)), device=where)
        target = Target(graph.outputs[0].name, ((0, 1.0),))
        ask = Gradient(Rows(rows), target)
        batch = ask.recipe.stage(where).rows(0, 6)
        results = ask.kernel(ZooModel(None, graph), where)(batch, [(ask, 6)])
        found[where] = {key: to_host(values) for key, values in results.items()}

    floating = [key for key, value in rows.items() if value.dtype.kind == "f"]
    for key in (*floating, SCORES):
        expected = found["cpu"][key]
        largest = np.abs(expected).max() or 1.0
        record_property(
            f"deviation of {key.strip(chr(0))}", float(np.abs(found[device][key] - expected).max() / largest)
        )
        np.testing.assert_allclose(found[device][key], expected, rtol=0, atol=1e-5 * largest)


def test_arrays_come_back_from_the_device_as_they_went(device):
    generator = np.random.default_rng(2)
    whole = generator.normal(size=(300, 500)).astype(np.float32)
    for array in (whole, whole[:3, :2], whole.T, np.broadcast_to(whole[0], (400, 500)), whole > 0, whole[:0]):
        tensor = to_device(array, device)

        assert str(tensor.device) == device
        np.testing.assert_array_equal(to_host(tensor * 1 if array.dtype != bool else tensor), array)


class Recurrent(nn.Module):
    """A recurrent network of one kind."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(5)
        self.inner = kind(3, 4, batch_first=True, bidirectional=True)

    def forward(self, series):
        return self.inner(series)[0].mean(1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_have_gradients_in_evaluation(kind, device):
    module = Recurrent(kind).eval()
    rows = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(module, (rows[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    leaf = rows.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(leaf).sum(), leaf)

    graph = Graph.from_program(program, device=device)
    leaf = rows.to(device).requires_grad_()
    (found,) = torch.autograd.grad(graph({"series": leaf})[graph.outputs[0].name].sum(), leaf)

    np.testing.assert_allclose(found.cpu().numpy(), expected.numpy(), rtol=0, atol=1e-5)


def test_running_out_of_device_memory_halves_the_chunk(device):
    engine = Engine(chunk_seconds=10.0, chunk_bytes=1 << 30, threads=1, device=device)
    entry: Evaluation = evaluation(range(4), request=RequestState(1, None))

    engine.submit(entry, lane(Hungry(device)))

    assert entry.wait()["y"][:, 0].tolist() == [0, 2, 4, 6]
    engine.close()


_SLEEP_CYCLES = 1 << 29
"""Some 0.3 s."""


def asked(recipe, key):
    return Awaited(key, Asked(recipe), RequestState(1, None), Tally(), threading.Event())


class Slow:
    """A program that keeps the device busy for a moment and gives its rows back."""

    evaluation, kind, backward, runtime = "forward", "forward", False, "graph"

    def __init__(self, device):
        self.device = device

    def __call__(self, batch, parts):
        if self.device != "cpu":
            torch.cuda._sleep(_SLEEP_CYCLES >> 6)
        return {name: rows.clone() for name, rows in batch.items()}


@pytest.mark.parametrize("chunk_rows", [1, 4])
def test_rows_of_every_recipe_are_what_they_should_be_however_early_they_are_copied(device, chunk_rows):
    engine, program = Engine(chunk_seconds=10.0, chunk_bytes=1 << 30, threads=1, device=device), Slow(device)
    # Equal rows share a lane, and so chunks.
    entries = [(recipe, asked(recipe, recipe.layout)) for recipe in [*RECIPES.values()] * 4]
    for _, entry in entries:
        engine.submit(entry, lane(program, chunk_rows=chunk_rows))

    for recipe, entry in entries:
        answer = entry.wait()
        for name, rows in grown(recipe).items():
            np.testing.assert_allclose(answer[name], rows, rtol=3e-7, atol=1e-7)
    engine.close()


def test_copies_ahead_are_done_while_a_chunk_computes(cuda):
    staged, picture = StreamCopies(cuda), np.random.default_rng(4).normal(size=(1, 3, 224, 224)).astype(np.float32)
    # What is first on a device takes longer: streams, pinned memory.
    staged.ahead(lambda: [asked(Rows({"x": picture}), "lane")])
    torch.cuda.synchronize(cuda)
    entry, computed = asked(Rows({"x": picture}), "lane"), torch.cuda.Event()
    torch.cuda._sleep(_SLEEP_CYCLES)
    computed.record()

    staged.ahead(lambda: [entry])
    staged._ahead[entry].synchronize()

    assert not computed.query()
    staged.join([(entry, 1)])
    assert to_host(entry.stage(cuda).rows(0, 1)["x"]).tobytes() == picture.tobytes()


def test_memory_of_what_was_copied_ahead_is_not_used_again_while_it_is_read(cuda):
    staged = StreamCopies(cuda)
    for number in range(4):
        first, second = (np.full((1 << 20, 1), value, np.float32) for value in (number + 1, -1))
        entry, other = asked(Rows({"x": first}), "lane"), asked(Rows({"x": second}), "lane")
        staged.ahead(lambda entry=entry: [entry])
        staged.join([(entry, 1)])
        rows = entry.stage(cuda).rows(0, len(first))["x"]
        torch.cuda._sleep(_SLEEP_CYCLES >> 2)
        read = rows.clone()
        del rows
        entry.finish()

        staged.ahead(lambda other=other: [other])

        assert (to_host(read) == number + 1).all()


@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="there is no CUDA")
def test_onnx_runtime_gives_its_memory_back_on_the_device(cuda, tmp_path, caplog):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(content.SerializeToString())
    session = OnnxModel(tmp_path / "model.onnx", threads=1, device=cuda, trim_seconds=0.0)

    for rows in (1, 1000, 3):
        x = np.ones((rows, 3), np.float32)
        np.testing.assert_array_equal(session.run({"x": x})["y"], x + np.array([1, 2, 3], np.float32))

    assert not caplog.records


_ASSERTS = """
import logging, os, sys, threading
import torch
from pellucid_server.engine.device.copies import StreamCopies
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.tasks.request_state import RequestState
from server.engine.test_engine import evaluation, lane

class Asserting:
    evaluation, kind, backward, device, runtime = "forward", "forward", False, sys.argv[1], "graph"
    def __call__(self, batch, parts):
        if batch["x"][0, 0] == 1:
            torch._assert_async(torch.zeros(1, device=sys.argv[1]))
        return {"y": batch["x"].mul(2)}

def ended(failed):
    os.write(1, failed.exc_type.__name__.encode())
    os._exit(7)

threading.excepthook = ended
engine = Engine(chunk_seconds=1.0, chunk_bytes=1 << 20, threads=1, device=sys.argv[1])
program = Asserting()
for value in (0, 1, 0):
    entry = evaluation([value], request=RequestState(1, None))
    engine.submit(entry, lane(program))
    entry.wait()
"""


def test_a_lost_context_ends_the_device_thread(cuda):
    path = {"PYTHONPATH": f"{ROOT / 'tests'}:{':'.join(filter(None, sys.path))}"}
    found = subprocess.run(
        [sys.executable, "-c", _ASSERTS, cuda], env=path, capture_output=True, text=True, timeout=120, check=False
    )

    assert (found.returncode, found.stdout) == (7, "DeviceLostError"), found.stderr[-2000:]
