"""Parts of a graph that its ONNX file runs, held to the graph; and files, or parts of them, that must not be used."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pellucid_server.engine.evaluations.suffix import SuffixKernel
from pellucid_server.engine.evaluations.unit_suffix import UnitSuffixKernel
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading import twin as twins
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.engine.models.loading.twin import Twin
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.export import export
from torch import nn
from torch.export import Dim

WIDTH = 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, value):
        return value + torch.relu(self.norm(self.conv(value)))


class Pictures(nn.Module):
    """Residual blocks behind a convolution, with norms to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(), Block())
        self.wide = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, image):
        value = self.blocks(torch.relu(self.norm(self.stem(image))))
        return self.head(torch.relu(self.wide(value)).mean((2, 3)))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model that is served with both files, as a worker loads it."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "pictures"
    folder.mkdir()
    (folder / "model.toml").write_text('[[inputs]]\nname = "image"\nmodality = "tensor"\n')
    module = Pictures().eval()
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    export(module, (torch.randn(2, 3, 12, 12),), folder / "1")
    (model,) = load_repository(folder.parent, "cpu", 1)
    return model


LAYERS = ("blocks", "blocks.0", "blocks.0.norm", "blocks.1", "blocks.1.norm")


@pytest.mark.parametrize("layer", LAYERS)
def test_what_the_file_runs_behind_a_layer_is_what_the_graph_does(served, layer):
    graph = served.cuts_for(layer)
    suffix, runtime = served.suffix(layer)
    rows = {"image": torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))}
    context = graph.prefixes((layer,))(rows)[layer]
    index = torch.tensor([0, 2, 1, 1])
    values = torch.randn(4, *context.value.shape[1:], generator=torch.Generator().manual_seed(2)) * 3

    found = suffix(values, context, index)

    assert runtime == "onnxruntime"
    torch.testing.assert_close(found, graph.suffix(layer)(values, context, index), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["blocks.0"])
def test_what_it_runs_by_unit_is_what_the_graph_does(served, layer):
    graph = served.cuts_for(layer)
    suffix, runtime = served.unit_suffix(layer)
    rows = {"image": torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))}
    context = graph.prefixes((layer,), frozenset({layer}))(rows)[layer]
    units, index = torch.arange(8), torch.tensor([0, 1] * 4)
    values = torch.randn(8, *context.value.shape[2:], generator=torch.Generator().manual_seed(2)) * 3
    whole = context.value.index_select(0, index)
    whole[torch.arange(8), units] = values

    found = suffix(units, values, context, index)

    assert runtime == "onnxruntime"
    torch.testing.assert_close(found, graph.suffix(layer)(whole, context, index), rtol=1e-4, atol=1e-5)


def test_what_has_no_convolution_is_left_to_the_graph(served):
    assert served.suffix("wide")[1] == served.suffix("head")[1] == served.cuts_for("wide").runtime
    # The convolution behind the blocks is where the units are added up: none follows it.
    assert served.unit_suffix("blocks")[1] == served.cuts_for("blocks").runtime


def test_receipts_say_that_the_file_ran_it_and_gradients_stay_with_the_graph(served):
    assert SuffixKernel(served, "cpu", "blocks.0", None, gradient=False).runtime == "onnxruntime"
    assert UnitSuffixKernel(served, "blocks.0", None).runtime == "onnxruntime"
    assert SuffixKernel(served, "cpu", "blocks.0", None, gradient=True).runtime in {"graph", "fast-graph"}


class Linear(nn.Module):
    """Two linear operators, and something between them."""

    def __init__(self, between) -> None:
        super().__init__()
        self.site, self.out, self.between = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3), between

    def forward(self, x):
        return self.out(self.between(self.site(x)))


@pytest.fixture(autouse=True)
def of_any_operator(request, monkeypatch):
    """Let parts of linear operators be run by the file, where a test has no network with convolutions."""
    if "served" not in request.fixturenames:
        monkeypatch.setattr(twins, "_OPERATORS", frozenset())


def twin(tmp_path, module, nodes, **changes):
    """Return the graph of a module, and a file of these nodes beside it, with its weights but for some."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    rows = {"x": np.random.default_rng(2).random((3, 4), np.float32) + 0.1}
    program = torch.export.export(module.eval(), (torch.ones(2, 4),), dynamic_shapes=({0: Dim.DYNAMIC},))
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()} | changes
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    session = OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu", cuttable=True)
    return Graph.from_program(program), Twin("m", session, rows), session, rows


def gemm(of, name, to):
    return helper.make_node("Gemm", [of, f"{name}.weight", f"{name}.bias"], [to], transB=1)


def relu(of, to):
    return helper.make_node("Relu", [of], [to])


def agrees(graph, session, rows):
    with torch.no_grad():
        found = graph({"x": torch.from_numpy(rows["x"])})["output"].numpy()
    return np.allclose(found, session.run(rows)["output"], rtol=1e-5)


def test_a_file_of_the_same_operators_runs_both_kinds_of_suffix(tmp_path):
    nodes = [gemm("x", "site", "a"), helper.make_node("Tanh", ["a"], ["b"]), gemm("b", "out", "output")]

    graph, found, *_ = twin(tmp_path, Linear(nn.Tanh()), nodes)

    assert found.suffix(graph, "site") is not None
    assert found.unit_suffix(graph, "between") is not None


@pytest.mark.parametrize("name", ["site.weight", "out.weight"])
def test_a_file_with_other_weights_is_not_used_whether_before_a_layer_or_behind_it(tmp_path, name):
    nodes = [gemm("x", "site", "a"), helper.make_node("Tanh", ["a"], ["b"]), gemm("b", "out", "output")]
    module = Linear(nn.Tanh())
    shape = module.state_dict()[name].shape

    graph, found, *_ = twin(tmp_path, module, nodes, **{name: np.full(shape, 0.3)})

    assert found.suffix(graph, "site") is None
    assert found.unit_suffix(graph, "between") is None


def test_where_two_values_of_the_file_are_the_same_on_all_rows_neither_is_taken(tmp_path):
    # All is positive, so that what is behind the activation is what is before it.
    nodes = [gemm("x", "site", "a"), relu("a", "b"), gemm("b", "out", "output")]

    graph, found, session, rows = twin(tmp_path, Linear(nn.ReLU()), nodes)

    assert agrees(graph, session, rows)
    assert found.suffix(graph, "site") is None
    assert found.suffix(graph, "between") is None


def test_a_value_that_only_edits_tell_apart_is_not_taken(tmp_path):
    # |-v| is relu(v) for each v of the rows, and the only value like it: behind it an edit below 0 would be another.
    turned = [helper.make_node("Neg", ["site.weight"], ["w"]), helper.make_node("Neg", ["site.bias"], ["s"])]
    nodes = [
        *turned,
        helper.make_node("Gemm", ["x", "w", "s"], ["a"], transB=1),
        helper.make_node("Abs", ["a"], ["b"]),
        gemm("b", "out", "output"),
    ]

    graph, found, session, rows = twin(tmp_path, Linear(nn.ReLU()), nodes)

    assert agrees(graph, session, rows)
    assert found.suffix(graph, "site") is None
    assert found.suffix(graph, "between") is not None


def test_a_file_whose_values_would_be_too_many_at_once_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(twins, "_MOST_ELEMENTS", 4)
    nodes = [gemm("x", "site", "a"), helper.make_node("Tanh", ["a"], ["b"]), gemm("b", "out", "output")]

    graph, found, *_ = twin(tmp_path, Linear(nn.Tanh()), nodes)

    assert found.suffix(graph, "site") is None
