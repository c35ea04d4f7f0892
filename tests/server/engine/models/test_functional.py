"""What is derived in one walk is what torch's own two traces give."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.exported.torch_versions import VERSION
from pellucid_server.engine.models.graph.functional import functional_program
from pellucid_server.engine.models.graph.graph import Graph
from server.engine.models import malice
from server.engine.models.networks import ZOO, zoo_program
from torch import nn
from torch.export import Dim, ExportedProgram


def exported(module: nn.Module, *shape: int) -> ExportedProgram:
    return torch.export.export(module.eval(), (torch.randn(2, *shape),), dynamic_shapes=({0: Dim.DYNAMIC},))


def operators(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def results(program: ExportedProgram) -> list[tuple[torch.dtype, list[str]]]:
    values = [node.meta["val"] for node in program.graph.output_node().all_input_nodes]
    return [(value.dtype, [str(length) for length in value.shape]) for value in values]


@pytest.mark.parametrize("name", ZOO)
def test_values_are_derived_as_torch_derives_them(name: str) -> None:
    program = zoo_program(name)

    derived = functional_program(program)

    if name == "recurrent" and VERSION != "2.13":
        # What torch itself derives of an LSTM there has an axis too many; the module has (rows, 3).
        assert [length[1:] for _, length in results(derived)] == [["3"]]
    else:
        assert results(derived) == results(program.run_decompositions({}))
    assert not any(node.target._schema.is_mutable for node in derived.graph.nodes if hasattr(node.target, "_schema"))


def test_a_batch_norm_and_a_dropout_are_taken_apart_as_torch_takes_them_apart() -> None:
    program = exported(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten()), 2, 4, 4)

    derived = functional_program(program)

    # A flatten is a name for a view: torch writes the view, and where nothing is written to either will do.
    expected = [name for name in operators(program.run_decompositions({})) if "view" not in name]
    found = [name for name in operators(derived) if "flatten" not in name]
    assert found == [name for name in expected if "sym_size" not in name]


class NormsAndHalves(nn.Module):
    """Has parts of values before and behind an operator that is taken apart into parts of values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other_norm = nn.BatchNorm1d(4), nn.BatchNorm1d(2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        first, second = self.norm(features).chunk(2, 1)
        third, fourth = self.other_norm(first * second).chunk(2, 1)
        return third + fourth


def test_what_is_taken_apart_takes_no_name_of_another_value() -> None:
    module, rows = NormsAndHalves().eval(), torch.randn(3, 4)

    derived = functional_program(exported(module, 4))

    names = [node.name for node in derived.graph.nodes]
    assert len(set(names)) == len(names)
    torch.testing.assert_close(derived.module()(rows), module(rows), rtol=0, atol=0)


def test_the_modules_of_what_is_taken_apart_are_kept() -> None:
    program = exported(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), 2, 4, 4)

    assert list(Graph.from_program(program).layers) == ["0", "1"]


class WritesToAPart(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        changed = features + 0
        changed[:, 0] = 7
        return changed * 2


def test_a_network_that_writes_to_a_part_of_a_value_is_made_functional_by_torch() -> None:
    rows = torch.randn(3, 2)

    graph = Graph.from_program(exported(WritesToAPart(), 2))

    torch.testing.assert_close(graph({"features": rows})["output"], WritesToAPart()(rows), rtol=0, atol=0)


def test_what_a_file_says_of_values_between_inputs_and_outputs_is_not_believed(tmp_path: Path) -> None:
    program = exported(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 3)
    torch.export.save(program, tmp_path / "model.pt2")
    entries = malice.entries_of(tmp_path / "model.pt2")

    def lie(text: Any) -> None:
        values = text["graph_module"]["graph"]["tensor_values"]
        for name in ("linear", "relu", "linear_1"):
            values[name]["sizes"] = [{"as_int": 2**40}, {"as_int": 7}]

    malice.edited(entries, malice.PROGRAM, lie)

    graph = Graph.from_program(load_program(malice.written(tmp_path / "lies.pt2", entries)))

    assert {name: layer.shape for name, layer in graph.layers.items()} == {"0": (4,), "1": (4,), "2": (2,)}


def test_truth_values_that_are_neither_0_nor_1_are_read_as_1(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([True, False, True]))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.where(self.mask, features, 0.0)

    torch.export.save(exported(Masked(), 3), tmp_path / "model.pt2")
    entries = malice.entries_of(tmp_path / "model.pt2")
    entries["data/weights/weight_0"] = bytes([2, 0, 255])

    program = load_program(malice.written(tmp_path / "changed.pt2", entries))

    assert program.state_dict["mask"].view(torch.uint8).tolist() == [1, 0, 1]


class OfAnotherForm(nn.Module):
    """Looks at values in ways that torch writes as other operators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        self.widen = Widen()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.widen(self.conv(features))
        return hidden.transpose(1, 2).view_as(torch.zeros_like(hidden).transpose(1, 2)).flatten(1)


class Widen(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.to(torch.float64)


def test_the_units_of_a_value_in_another_type_are_still_its_channels() -> None:
    layers = Graph.from_program(exported(OfAnotherForm(), 2, 5)).layers

    assert {name: layer.units for name, layer in layers.items()} == {"conv": 4, "widen": 4}


def test_a_suffix_fed_values_of_other_strides_looks_at_them_all_the_same() -> None:
    module, rows = OfAnotherForm().eval(), torch.randn(3, 2, 5)
    graph = Graph.from_program(exported(module, 2, 5))
    values = module.conv(rows).detach()
    strided = values.transpose(0, 2).contiguous().transpose(0, 2)

    suffix = graph.suffix("conv")

    outputs = suffix(strided, suffix.context({"features": rows}))

    assert not strided.is_contiguous()
    torch.testing.assert_close(outputs["output"], module(rows).detach(), rtol=0, atol=1e-6)
