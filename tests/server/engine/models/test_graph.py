"""The functional graph: outputs, layer names, captured values, refusals."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
import torch.nn.functional as F
from pellucid_server.engine.models.graph.graph import Graph, GraphValue, UnfitModelError
from pellucid_server.errors import InvalidRequestError
from server.engine.models.networks import (
    ZOO,
    eager,
    eager_values,
    zoo_graph,
    zoo_module,
    zoo_program,
    zoo_program_and_text,
    zoo_rows,
)
from torch import nn
from torch.export import Dim, ExportedProgram

SIZES = [(3, 5), (4, 4), (1, 1)]

every_network = pytest.mark.parametrize("network", ZOO)


def export(module: nn.Module, *examples: torch.Tensor) -> ExportedProgram:
    return torch.export.export(module, examples, dynamic_shapes=tuple({0: Dim.DYNAMIC} for _ in examples))


def saved_and_loaded(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


# What comes out


@pytest.mark.parametrize(("batch", "length"), SIZES)
@every_network
def test_the_outputs_equal_the_eager_network_s(network, batch, length):
    rows = zoo_rows(network, batch, length)

    outputs = zoo_graph(network)(rows)

    expected = [value.detach() for value in eager(zoo_module(network), rows)]
    torch.testing.assert_close(list(outputs.values()), expected, rtol=1e-5, atol=1e-6)


def test_inputs_have_the_names_and_row_shapes_of_the_author_s_arguments():
    assert zoo_graph("several-inputs").inputs == (
        GraphValue("image", torch.float32, (1, 6, 6)),
        GraphValue("table", torch.float32, (5,)),
        GraphValue("offset", torch.float32, ()),
    )
    assert zoo_graph("tokens").inputs == (
        GraphValue("ids", torch.int64, (None,)),
        GraphValue("mask", torch.bool, (None,)),
    )


@pytest.mark.parametrize(
    ("network", "outputs"),
    [
        ("convolutional", [("output", torch.float32, (3,))]),
        ("dict-outputs", [("logits", torch.float32, (3,)), ("embedding", torch.float32, (5,))]),
        (
            "several-outputs",
            [
                ("output_0", torch.float32, (3,)),
                ("output_1_0", torch.float32, (2,)),
                ("output_1_1", torch.int64, ()),
            ],
        ),
    ],
)
def test_outputs_are_named_by_their_keys_or_places(network, outputs):
    assert zoo_graph(network).outputs == tuple(GraphValue(*value) for value in outputs)


def test_nested_inputs_and_python_s_own_words_as_names():
    class Nested(nn.Module):
        def forward(self, input, pair, *, list):  # noqa: A002
            return {"a": {"b": input + pair[0]}, "c": (pair[1]["x"] * list, None)}

    # Were they one tensor, the export would take them for one input.
    first, second, third, fourth = torch.randn(4, 2, 3).unbind()
    axes = {0: Dim("batch")}
    shapes = {"input": axes, "pair": [axes, {"x": axes}], "list": axes}
    program = torch.export.export(Nested(), (first, [second, {"x": third}]), {"list": fourth}, dynamic_shapes=shapes)

    graph = Graph.from_program(saved_and_loaded(program))

    assert [value.name for value in graph.inputs] == ["input", "pair_0", "pair_1_x", "list"]
    one = {name: torch.full((1, 3), float(place)) for place, name in enumerate(["input", "pair_0", "pair_1_x", "list"])}
    outputs = graph(one)
    assert {name: value[0, 0].item() for name, value in outputs.items()} == {"a_b": 1.0, "c_0": 6.0}


# Layers


@every_network
def test_the_legal_cuts_are_known(network):
    graph = zoo_graph(network)

    assert [name for name, layer in graph.layers.items() if layer.cuttable] == ZOO[network].cuts.split()


@pytest.mark.parametrize("network", ["convolutional", "residual", "torch-encoder", "several-outputs", "recurrent"])
def test_layers_keep_their_names_and_shapes_when_saved_and_loaded(network):
    program = saved_and_loaded(zoo_program(network))

    graph = Graph.from_program(program)

    assert dict(graph.layers) == dict(zoo_graph(network).layers)
    rows = zoo_rows(network, 3, 5)
    torch.testing.assert_close(graph(rows), zoo_graph(network)(rows), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("network", "name", "kind", "shape", "units", "axis"),
    [
        ("convolutional", "norm1", "BatchNorm2d", (4, 7, 7), 4, 0),
        ("convolutional", "pool", "MaxPool2d", (4, 3, 3), 4, 0),
        ("convolutional", "flatten", "Flatten", (36,), 36, 0),
        ("residual", "blocks.1#1", "Block", (3, 5, 5), 3, 0),
        ("encoder", "layers.0.mlp.1", "GELU", (None, 16), 16, 1),
        ("encoder", "layers.1", "EncoderLayer", (None, 8), 8, 1),
        ("torch-encoder", "encoder.layers.0.self_attn", "MultiheadAttention", (None, 8), 8, 1),
        ("recurrent", "lstm", "LSTM", (5, 6), 6, 1),
    ],
)
def test_a_layer_tells_its_type_shape_and_units(network, name, kind, shape, units, axis):
    layer = zoo_graph(network).layers[name]

    assert (layer.type, layer.shape, layer.units, layer.unit_axis) == (kind, shape, units, axis)


def test_channels_of_a_one_dimensional_convolution_are_its_units_through_an_activation():
    module = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    graph = Graph.from_program(export(module, torch.randn(2, 2, 9)))

    assert [(layer.units, layer.unit_axis) for layer in graph.layers.values()] == [(6, 0)] * 4


def test_the_projection_inside_an_attention_is_no_layer_and_the_attention_is():
    layers = zoo_graph("torch-encoder").layers

    assert "encoder.layers.0.self_attn" in layers
    assert "encoder.layers.0.self_attn.out_proj" not in layers


# Captures


@pytest.mark.parametrize(("batch", "length"), SIZES)
@every_network
def test_captured_values_are_what_the_eager_modules_returned(network, batch, length):
    layers = tuple(ZOO[network].cuts.split())
    rows = zoo_rows(network, batch, length)

    outputs, captured = zoo_graph(network).capturing(layers)(rows)

    returned = eager_values(zoo_module(network), rows)
    expected = {layer: returned[layer] for layer in layers}
    torch.testing.assert_close(captured, expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(outputs, zoo_graph(network)(rows), rtol=0, atol=0)


def test_a_captured_batch_norm_is_not_overwritten_by_the_in_place_relu_behind_it():
    module, rows = zoo_module("convolutional"), zoo_rows("convolutional", 3, 5)

    captured = zoo_graph("convolutional").capturing(("norm1", "relu"))(rows)[1]

    convolved = F.conv2d(rows["image"], module.conv1.weight, module.conv1.bias, padding=1)
    norm = module.norm1
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    by_hand = convolved * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
    assert captured["norm1"].min() < -1
    torch.testing.assert_close(captured["norm1"], by_hand.detach(), rtol=1e-5, atol=1e-5)
    assert captured["relu"].min() == 0


def test_the_value_of_a_module_that_returns_its_state_too_is_its_output():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.cell = nn.GRU(4, 5, batch_first=True)

        def forward(self, x):
            attended, weights = self.attention(x, x, x)
            outputs, state = self.cell(attended)
            return outputs.mean(1) + state[0] + weights.mean((1, 2))[:, None]

    module = Attending().eval()
    rows = {"x": torch.randn(3, 6, 4)}
    graph = Graph.from_program(export(module, torch.randn(2, 6, 4)))

    captured = graph.capturing(("attention", "cell"))(rows)[1]

    returned = eager_values(module, rows)
    torch.testing.assert_close(captured, {name: returned[name] for name in captured}, rtol=1e-5, atol=1e-6)


def test_a_leaf_is_cut_off_from_the_rows():
    outputs, leaves = zoo_graph("encoder").with_leaf_at("layers.0")(zoo_rows("encoder", 2, 3))

    assert leaves["layers.0"].is_leaf
    assert leaves["layers.0"].requires_grad
    assert outputs["output"].requires_grad


def test_an_unknown_layer_is_a_key_error():
    with pytest.raises(KeyError):
        zoo_graph("encoder").capturing(("layers.7",))


# Nothing is changed


@every_network
def test_rows_parameters_and_the_program_stay_as_they_were(network):
    module = zoo_module(network)
    program, text = zoo_program_and_text(network)
    rows = zoo_rows(network, 3, 5)
    parameters = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    copies = {name: tensor.clone() for name, tensor in rows.items()}
    graph = Graph.from_program(program)
    before = graph(rows)

    for layer in ZOO[network].cuts.split():
        graph.capturing((layer,))(rows)
        outputs, leaves = graph.with_leaf_at(layer)(rows)
        loss = sum(value.sum() for value in outputs.values() if value.requires_grad)
        torch.autograd.grad(loss, leaves[layer])
        suffix = graph.suffix(layer)
        context = suffix.context(rows)
        suffix(context.value + 1, context)

    torch.testing.assert_close(graph(rows), before, rtol=0, atol=0)
    torch.testing.assert_close(dict(module.state_dict()), parameters, rtol=0, atol=0)
    torch.testing.assert_close(rows, copies, rtol=0, atol=0)
    assert str(program.graph) == text


def test_rows_that_the_author_s_forward_writes_to_stay_as_they_were():
    class Writing(nn.Module):
        def forward(self, x):
            x.mul_(3)
            x[:, 0] = 0
            return x.sum(1)

    graph = Graph.from_program(export(Writing(), torch.randn(2, 3)))
    rows = {"x": torch.tensor([[1.0, 2.0, 3.0]])}

    outputs = graph(rows)

    assert outputs["output"].tolist() == [15.0]
    assert rows["x"].tolist() == [[1.0, 2.0, 3.0]]


def test_parameters_are_shared_with_the_program_and_frozen():
    module = ZOO["several-outputs"].module()
    graph = Graph.from_program(ZOO["several-outputs"].export(module))
    rows = zoo_rows("several-outputs", 2, 1)
    suffix = graph.suffix("trunk")
    context = suffix.context(rows)

    with torch.no_grad():
        module.first.bias.fill_(1000.0)

    assert graph(rows)["output_0"].min() > 900
    assert graph.capturing(("trunk",))(rows)[0]["output_0"].min() > 900
    assert suffix(context.value, context)["output_0"].min() > 900
    assert not graph(rows)["output_0"].requires_grad


def test_derived_graphs_are_made_once():
    graph = zoo_graph("encoder")

    assert graph.suffix("layers.0") is graph.suffix("layers.0")
    assert graph.capturing(("layers.0", "head")) is graph.capturing(("layers.0", "head"))
    assert graph.with_leaf_at("layers.0") is not graph.with_leaf_at("layers.1")


def test_what_is_derived_waits_for_no_derivation_and_two_who_want_the_same_get_the_same(monkeypatch):
    graph = Graph.from_program(zoo_program("encoder"))
    known, began, go, make, made = graph.suffix("layers.0"), Event(), Event(), Graph._suffix, []

    def held(self, layer):
        made.append(layer)
        began.set()
        assert go.wait(10)
        return make(self, layer)

    monkeypatch.setattr(Graph, "_suffix", held)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(graph.suffix, "layers.1") for _ in range(2)]
        try:
            assert began.wait(10)
            assert graph.suffix("layers.0") is known
            assert not any(each.done() for each in both)
        finally:
            go.set()

    assert both[0].result() is both[1].result()
    assert made == ["layers.1"]


def test_a_derivation_that_failed_is_tried_again(monkeypatch):
    graph, make = Graph.from_program(zoo_program("encoder")), Graph._suffix

    monkeypatch.setattr(Graph, "_suffix", lambda self, layer: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        graph.suffix("layers.0")
    monkeypatch.setattr(Graph, "_suffix", make)

    assert graph.suffix("layers.0") is graph.suffix("layers.0")


@pytest.fixture
def quick_switches():
    """Let threads take turns often, as the worker does; else each operator waits 5 ms for Python's lock."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_four_threads_get_the_answers_that_one_gets():
    network, layers = "encoder", 2 * ZOO["encoder"].cuts.split()
    rows = zoo_rows(network, 3, 5)
    fresh = Graph.from_program(zoo_program(network))

    def work(graph: Graph, layer: str) -> list[torch.Tensor]:
        outputs, leaves = graph.with_leaf_at(layer)(rows)
        (gradient,) = torch.autograd.grad(outputs["output"].square().sum(), leaves[layer])
        suffix = graph.suffix(layer)
        context = suffix.context(rows)
        return [outputs["output"], gradient, suffix(context.value * 2, context)["output"]]

    solo = [work(zoo_graph(network), layer) for layer in layers]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda layer: work(fresh, layer), layers))

    torch.testing.assert_close(together, solo, rtol=1e-5, atol=1e-6)


# What is refused


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


class Paired(nn.Module):
    def forward(self, x):
        return x.view(2, -1, 3).sum(-1).view(-1)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Turned(nn.Module):
    def forward(self, x):
        return x.t()


class Scaled(nn.Module):
    def forward(self, x, factor):
        return x * factor


class Apart(nn.Module):
    def forward(self, x, y):
        return x.sum(1), y.sum(1)


class Summed(nn.Module):
    def forward(self, x):
        return x.sum(0)


def with_auto(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: Dim.AUTO},))


REFUSED = {
    "train-mode batch norm": (
        lambda: export(nn.Sequential(nn.BatchNorm1d(3)).train(), torch.randn(2, 3)),
        r"Layer '0' \(BatchNorm1d\) \(.*line \d+.*\) normalizes in training mode.*model\.eval\(\)",
    ),
    "train-mode dropout": (
        lambda: export(nn.Sequential(nn.Dropout(0.5)).train(), torch.randn(2, 3)),
        r"Layer '0' \(Dropout\) \(.*line \d+.*\) is random.*model\.eval\(\)",
    ),
    "train-mode attention": (
        lambda: export(nn.TransformerEncoderLayer(4, 2, 8).train(), torch.randn(2, 5, 4)),
        r"Layer 'self_attn' \(MultiheadAttention\) \(.*line \d+.*\) drops values at random.*model\.eval\(\)",
    ),
    "train-mode instance norm": (
        lambda: export(nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True)).train(), torch.randn(2, 3, 4)),
        r"Layer '0' \(InstanceNorm1d\) \(.*line \d+.*\) normalizes in training mode",
    ),
    "train-mode recurrent dropout": (
        lambda: export(nn.Sequential(nn.RNN(3, 4, 2, dropout=0.5, batch_first=True)).train(), torch.randn(2, 5, 3)),
        r"Layer '0' \(RNN\) \(.*line \d+.*\) drops values at random.*model\.eval\(\)",
    ),
    "random": (lambda: export(Noisy(), torch.randn(2, 3)), r"forward \(.*randn_like.*\) is random .*randn_like"),
    "mutated buffer": (lambda: export(Counting(), torch.randn(2, 3)), "changes the buffers calls"),
    "batch of 1": (
        lambda: with_auto(nn.Linear(3, 2), torch.randn(1, 3)),
        "Axis 0 of input 'input' is fixed to 1.*batch of at least 2",
    ),
    "no dynamic axis": (
        lambda: torch.export.export(nn.Linear(3, 2), (torch.randn(2, 3),)),
        r"Axis 0 of input 'input' is fixed to 2.*dynamic_shapes=\{'input': \{0: torch.export.Dim.DYNAMIC\}\}",
    ),
    "batch in a shape": (
        lambda: with_auto(Paired(), torch.randn(2, 3)),
        r"Axis 0 of input 'x' is (fixed to|2\*).*view\(2, -1\)",
    ),
    "number as input": (
        lambda: torch.export.export(Scaled(), (torch.randn(2, 3), 2.0), dynamic_shapes=({0: Dim.DYNAMIC}, None)),
        "Input 'factor' is not a tensor",
    ),
    "input without rows": (
        lambda: torch.export.export(
            Scaled(), (torch.randn(2, 3), torch.tensor(2.0)), dynamic_shapes=({0: Dim.DYNAMIC}, {})
        ),
        "Input 'factor' is a single number",
    ),
    "batches apart": (
        lambda: export(Apart(), torch.randn(2, 3), torch.randn(4, 3)),
        r"Axis 0 of input 'y' \(s\d+\) is not the batch of input 'x'.*Dim\('batch'\)",
    ),
    "output not by rows": (
        lambda: export(Turned(), torch.randn(2, 3)),
        r"Output 'output' has the shape \(3, s\d+\).*transposing",
    ),
    "output without rows": (lambda: export(Summed(), torch.randn(2, 3)), r"Output 'output' has the shape \(3\)"),
    "least batch": (
        lambda: torch.export.export(nn.Linear(3, 2), (torch.randn(8, 3),), dynamic_shapes=({0: Dim("batch", min=4)},)),
        "at least 4 rows",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unfit_model_is_refused_with_the_remedy(case):
    make, message = REFUSED[case]
    program = make()

    with pytest.raises(UnfitModelError, match=message):
        Graph.from_program(program)


@pytest.mark.parametrize("case", ["train-mode batch norm", "mutated buffer", "no dynamic axis"])
def test_an_unfit_model_is_refused_when_loaded_from_a_file_too(case):
    make, message = REFUSED[case]
    program = saved_and_loaded(make())

    with pytest.raises(UnfitModelError, match=message):
        Graph.from_program(program)


def test_the_largest_batch_is_what_the_export_promises():
    limited = torch.export.export(nn.Linear(3, 2), (torch.randn(2, 3),), dynamic_shapes=({0: Dim("batch", max=64)},))

    assert Graph.from_program(limited).largest_batch == 64
    assert zoo_graph("encoder").largest_batch is None


class Inverse(nn.Module):
    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(matrix)


class Eigenvalues(nn.Module):
    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(matrix).real


@pytest.mark.parametrize(
    ("module", "row"), [(Inverse(), torch.zeros(2, 2)), (Eigenvalues(), torch.full((2, 2), float("nan")))]
)
def test_a_row_that_comes_to_a_matrix_of_no_use_is_the_callers_to_change(module: nn.Module, row: torch.Tensor) -> None:
    example = torch.eye(2).repeat(2, 1, 1)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},))
    graph = Graph.from_program(program)

    with pytest.raises(InvalidRequestError, match="cannot be run on these rows of matrix") as caught:
        graph({"matrix": row[None]})

    assert caught.value.metadata["field"] == "inputs"
    assert torch.isfinite(graph({"matrix": example})["output"]).all()
