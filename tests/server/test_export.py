"""What the export helper writes is what a server loads, and agrees with the network; what it cannot export it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.files.manifest import read_manifest
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.export import Exported, ExportError, export, main
from server.engine.models.networks import zoo_graph, zoo_module, zoo_rows
from torch import nn


class Picture(nn.Module):
    """Batch norm and dropout, in training mode unless an export sees to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(4).eval()
        self.head = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(self.frozen(self.norm(self.conv(image))))
        return self.head(hidden.relu().mean((2, 3)))


class Shifted(nn.Module):
    """An argument that may be left out, and two outputs."""

    def forward(
        self, left: torch.Tensor, scale: float = 2.0, right: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return left * scale, left if right is None else left + right


class FixedBatch(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(2, -1)


class Choosing(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if rows.sum() > 0 else -rows


class Summed(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.sum(0)


class Centred(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows - rows.mean(0)


class Counting(nn.Module):
    """Answers otherwise at every call, by a state that no export sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return rows * self.calls


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.lstm(series)[0][:, -1]


class Starred(nn.Module):
    def forward(self, *rows: torch.Tensor) -> torch.Tensor:
        return rows[0]


class Unserializable(nn.Module):
    """Has an operator that ONNX does not know, and a server does."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.lgamma()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Exported]:
    """A network and its version, exported with both files."""
    module = Picture().eval()
    folder = tmp_path_factory.mktemp("repository") / "picture" / "1"
    return module, export(module, (torch.randn(2, 3, 9, 9),), folder, description='A "test".')


def test_a_version_is_written_that_a_server_loads(picture: tuple[nn.Module, Exported]) -> None:
    _, exported = picture

    (loaded,) = load_repository(exported.folder.parents[1], device="cpu", threads=1)
    info = loaded.info([])
    assert (exported.folder.name, exported.inputs, exported.outputs) == ("1", ("image",), ("output",))
    assert sorted(path.name for path in exported.folder.iterdir()) == ["model.onnx", "model.pt2"]
    assert info.description == 'A "test".'
    assert info.parity is not None
    assert info.parity.holds


def test_both_files_agree_with_the_network_at_any_number_of_rows(picture: tuple[nn.Module, Exported]) -> None:
    module, exported = picture
    rows = torch.randn(7, 3, 9, 9, generator=torch.Generator().manual_seed(5))

    graph = Graph.from_program(load_program(exported.folder / "model.pt2"))
    session = OnnxModel(exported.folder / "model.onnx", threads=1, device="cpu")

    expected = module(rows).detach()
    torch.testing.assert_close(graph({"image": rows})["output"].detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(session.run({"image": rows.numpy()})["output"], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert exported.graph_difference < 1e-6
    assert exported.onnx_difference is not None
    assert exported.onnx_difference < 1e-5


def test_a_network_in_training_is_exported_in_eval_mode_and_left_in_training(tmp_path: Path) -> None:
    module = Picture().train()
    module.frozen.eval()
    mean = module.norm.running_mean.clone()

    export(module, (torch.randn(2, 3, 9, 9),), tmp_path / "1", onnx=False)

    modes = {name: part.training for name, part in module.named_modules()}
    rows = torch.randn(3, 3, 9, 9)
    graph = Graph.from_program(load_program(tmp_path / "1" / "model.pt2"))
    assert modes == {"": True, "conv": True, "norm": True, "drop": True, "frozen": False, "head": True}
    assert torch.equal(module.norm.running_mean, mean)
    torch.testing.assert_close(graph({"image": rows})["output"], module.eval()(rows))


def test_one_example_row_does_not_fix_the_batch(tmp_path: Path) -> None:
    export(Picture(), {"image": torch.randn(1, 3, 9, 9)}, tmp_path / "1", onnx=False)

    graph = Graph.from_program(load_program(tmp_path / "1" / "model.pt2"))
    assert graph({"image": torch.zeros(4, 3, 9, 9)})["output"].shape == (4, 2)


@pytest.mark.parametrize("name", ["several-inputs", "several-outputs", "dict-outputs", "recurrent", "tokens"])
def test_names_in_both_files_are_those_of_forward(tmp_path: Path, name: str) -> None:
    exported = export(zoo_module(name), zoo_rows(name, 2, 4), tmp_path / "1")

    graph = zoo_graph(name)
    session = OnnxModel(tmp_path / "1" / "model.onnx", threads=1, device="cpu")
    assert exported.outputs == tuple(value.name for value in graph.outputs)
    assert tuple(value.name for value in session.outputs) == exported.outputs
    assert {value.name for value in session.inputs} == set(exported.inputs) == set(zoo_rows(name, 2, 4))


def test_further_axes_stay_open(tmp_path: Path) -> None:
    module = zoo_module("tokens")

    export(module, zoo_rows("tokens", 2, 4), tmp_path / "1", dynamic={"ids": {1: "length"}, "mask": {1: "length"}})

    rows = zoo_rows("tokens", 3, 9)
    session = OnnxModel(tmp_path / "1" / "model.onnx", threads=1, device="cpu")
    graph = Graph.from_program(load_program(tmp_path / "1" / "model.pt2"))
    expected = module(**rows).detach()
    torch.testing.assert_close(graph(rows)["output"].detach(), expected)
    outputs = session.run({name: tensor.numpy() for name, tensor in rows.items()})
    np.testing.assert_allclose(outputs["output"], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_an_argument_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    example = {"right": torch.randn(2, 3), "left": torch.randn(2, 3)}

    exported = export(Shifted(), example, tmp_path / "1")

    graph = Graph.from_program(load_program(tmp_path / "1" / "model.pt2"))
    outputs = graph({"left": torch.ones(4, 3), "right": torch.full((4, 3), 5.0)})
    assert exported.inputs == ("left", "right")
    assert {name: float(value[0, 0]) for name, value in outputs.items()} == {"output_0": 2.0, "output_1": 6.0}


@pytest.mark.parametrize(
    ("module", "example", "dynamic", "message"),
    [
        (FixedBatch(), (torch.ones(2, 4),), {}, "works for 2 rows only; .* write -1 or x.shape"),
        (FixedBatch(), (torch.ones(1, 4),), {}, "works for 2 rows only"),
        (
            Choosing(),
            (torch.ones(2, 4),),
            {},
            r"values of a tensor \(test_export\.py, line \d+: return rows if rows.sum.*\); .* with torch\.where",
        ),
        (Summed(), (torch.ones(2, 4),), {}, "A server would refuse the network: "),
        (
            Recurrent(),
            (torch.ones(2, 5, 4),),
            {"series": {1: "length"}},
            "works for length = 5 only; leave",
        ),
        (
            Starred(),
            (torch.ones(2, 4),),
            {},
            "has 1 tensors, and forward 0 positional arguments",
        ),
        (Summed(), {"columns": torch.ones(2, 4)}, {}, "has 'columns', which is no argument of forward; it has: rows"),
        (Shifted(), {"right": torch.ones(2, 4)}, {}, "lacks 'left'"),
        (Shifted(), {"left": torch.ones(2, 4), "right": torch.ones(3, 4)}, {}, "left 2, right 3. Give every input"),
        (Summed(), (torch.ones(0, 4),), {}, "rows 0. Give every input the same, 2 or more"),
        (Summed(), (torch.tensor(1.0),), {}, "rows 0. Give every input"),
        (Shifted(), {}, {}, "lacks 'left'"),
        (Summed(), (torch.ones(2, 4, device="meta"),), {}, "'rows' is on the device 'meta'. Call module.cpu()"),
        (Summed(), "text", {}, "The example is a text; it must be a tuple of tensors"),
        (Summed(), ("text",), {}, r"'rows' is a text. Give a tensor, \(rows, \*features\): for a text, the tensors"),
        (Summed(), torch.ones(2, 4), {}, r"The example is a single tensor; .*: write \(example,\)"),
        (Summed(), np.ones((2, 4)), {}, "The example is a numpy array; .*: torch.from_numpy makes one of an array"),
        (Summed(), {"rows": np.ones((2, 4))}, {}, "'rows' is a numpy array. Give a tensor, .*: torch.from_"),
        (Summed(), None, {}, "The example is None; it must be"),
        (torch.jit.trace(Summed(), torch.ones(2, 4)), (torch.ones(2, 4),), {}, "The network is a module of torch.jit"),
        (len, (torch.ones(2, 4),), {}, "The network is of type builtin_function_or_method; it must"),
        (Centred(), (torch.ones(2, 4),), {"columns": {1: "length"}}, "asked for of 'columns'; the inputs are: rows"),
        (Centred(), (torch.ones(2, 4),), {"rows": {0: "length"}}, "Axis 0 of 'rows' cannot be dynamic"),
        (Centred(), (torch.ones(2, 4),), {"rows": {2: "length"}}, r"example's shape is \(2, 4\)"),
        (Centred(), (torch.ones(2, 1),), {"rows": {1: "length"}}, "a length of at least 2"),
        (Centred(), (torch.ones(2, 4),), {"rows": {1: "a b"}}, "is called 'a b'; use a word"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_remedy_and_leaves_nothing(
    tmp_path: Path,
    module: nn.Module,
    example: dict[str, torch.Tensor] | tuple[torch.Tensor, ...],
    dynamic: dict[str, dict[int, str]],
    message: str,
) -> None:
    with pytest.raises(ExportError, match=message):
        export(module, example, tmp_path / "model" / "1", dynamic=dynamic)

    assert list(tmp_path.iterdir()) == []


class Squeezed(nn.Module):
    """Loses the axis of its rows where there is one row."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.sum(1, keepdim=True).squeeze()


class Limited(nn.Module):
    """Does something else for three rows or fewer."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if rows.shape[0] > 3 else rows * 2


class Answer:
    """What a library returns around its tensors."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Wrapping(nn.Module):
    """Returns an object that holds its logits."""

    def forward(self, rows: torch.Tensor) -> Answer:
        return Answer(rows)


def turned(rows: torch.Tensor) -> torch.Tensor:
    if rows.mean() > 0:
        return rows
    return -rows


class Asking(nn.Module):
    """Leaves a choice by values to a function."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return turned(rows)


class Cutting(nn.Module):
    """Takes a length from values."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, : int(rows.sum())]


class Turning(nn.Module):
    """Runs a loop as often as values say."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for _ in range(rows.max().int().item()):
            rows = rows + 1
        return rows


class Leaving(nn.Module):
    """Computes with another library."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rows.numpy() * 2)


def parallel() -> nn.Module:
    """A layer that is wrapped as on a machine with a GPU."""
    layer = nn.DataParallel(nn.Linear(4, 2))
    layer.device_ids = [0]
    return nn.Sequential(layer)


class Drawing(nn.Module):
    """Adds noise."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + torch.randn_like(rows)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Squeezed(), r"shape \(\) for 1 row; .*\(rows,\) for 2 rows and \(\) for 1: write squeeze\(1\)"),
        (Limited(), r"works for batch up to 3 only: it compares a length with a number"),
        (Wrapping(), r"returns Answer; .* whose forward\(rows\) says: return model\(rows\)\.logits"),
        (
            Asking(),
            r"values of a tensor \(test_export\.py, line \d+ in turned: if rows\.mean\(\) > 0:\); .* torch\.where",
        ),
        (
            Cutting(),
            r"a number of Python .* \(test_export\.py, line \d+: return rows.*int\(rows.sum\(\)\).*from a shape",
        ),
        (Turning(), r"a number of Python .* \(test_export\.py, line \d+: for _ in range.*\); keep it a tensor"),
        (Leaving(), r"numpy\(\) is not supported .* \(test_export\.py, line \d+: return torch\.from_numpy"),
        (nn.DataParallel(nn.Linear(4, 2)), r"wrapped in DataParallel, .* Give the network inside \(network\.module\)"),
        (parallel(), r"Layer '0' is wrapped in DataParallel, .* Put the layer inside \(its \.module\) in its place"),
        (torch.compile(nn.Linear(4, 2)), r"made by torch\.compile.* Give the network that was compiled"),
        (Drawing(), r"'aten\.randn_like\.default' \(test_export\.py, line \d+: return rows \+ .*as an input"),
    ],
)
def test_what_a_server_would_refuse_is_said_in_words_for_the_author(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], module: nn.Module, message: str
) -> None:
    capfd.readouterr()

    with pytest.raises(ExportError, match=message) as caught:
        export(module, (torch.ones(2, 4),), tmp_path / "model" / "1", onnx=False)

    assert capfd.readouterr() == ("", "")
    assert "Constraints violated" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_answers_do_not_repeat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"differs from the network by .* no random numbers, no state"):
        export(Counting(), (torch.ones(2, 4),), tmp_path / "1")


@pytest.mark.parametrize("name", ["picture", "0", "v1"])
def test_a_folder_that_is_no_version_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="must be the version, such as models/NAME/1"):
        export(Picture(), (torch.ones(2, 3, 9, 9),), tmp_path / name)


def test_rows_that_depend_on_one_another_are_exported_with_a_warning(tmp_path: Path) -> None:
    exported = export(Centred(), (torch.ones(2, 4),), tmp_path / "1", onnx=False)

    assert exported.warnings == (
        "Rows of a batch depend on one another, so that every request will be served on its own.",
    )


def test_without_onnx_the_graph_is_written_with_a_warning_and_an_older_file_goes(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"another model's")

    exported = export(Unserializable(), (torch.ones(2, 4),), tmp_path / "1")

    assert exported.onnx_difference is None
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["model.pt2"]
    assert exported.warnings[0].startswith(
        "There is no model.onnx, so that the graph will serve forward passes: torch.onnx"
    )


def test_the_starter_manifest_names_what_the_network_takes_and_gives(tmp_path: Path) -> None:
    export(zoo_module("several-inputs"), zoo_rows("several-inputs", 2, 4), tmp_path / "1", onnx=False)

    manifest = read_manifest(tmp_path / "model.toml")

    assert [(entry.name, entry.modality) for entry in manifest.inputs] == [
        ("image", "tensor"),
        ("table", "tensor"),
        ("offset", "tensor"),
    ]
    assert [(entry.name, entry.kind) for entry in manifest.outputs] == [("output", "values")]


@pytest.mark.parametrize(
    ("module", "example", "modality", "suggestions"),
    [
        (Picture(), torch.ones(2, 3, 14, 14), "image", 5),
        (nn.Linear(2, 2), torch.ones(2, 2), "tabular", 0),
    ],
)
def test_the_starter_manifest_is_right_with_its_suggestions_taken_up(
    tmp_path: Path, module: nn.Module, example: torch.Tensor, modality: str, suggestions: int
) -> None:
    export(module, (example,), tmp_path / "1", onnx=False)
    path = tmp_path / "model.toml"
    text = path.read_text()
    lines = text.replace('modality = "tensor"', f'modality = "{modality}"').splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("# modality")) + 1
    end = next(number for number, line in enumerate(lines) if number > start and not line.startswith("#"))
    lines[start:end] = [line.removeprefix("# ") for line in lines[start:end]]
    path.write_text("\n".join(lines))

    (entry,) = read_manifest(path).inputs

    assert entry.modality == modality
    assert end - start >= suggestions


def test_a_manifest_that_is_there_is_kept_and_compared(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text('[[inputs]]\nname = "picture"\n')

    exported = export(Picture(), (torch.ones(2, 3, 9, 9),), tmp_path / "1", onnx=False)

    assert (tmp_path / "model.toml").read_text() == '[[inputs]]\nname = "picture"\n'
    assert exported.warnings == (f"{tmp_path / 'model.toml'} names 'picture', which the network does not have.",)


def test_progress_is_reported_step_by_step(tmp_path: Path) -> None:
    lines: list[str] = []

    export(Picture(), (torch.ones(2, 3, 9, 9),), tmp_path / "1", onnx=False, progress=lines.append)

    assert lines == ["Exporting the graph.", "Loading it as a server does, and comparing it with the network."]


FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))

number = 7

def wrong():
    return "network"
"""


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_networks.py").write_text(FACTORY)
    return tmp_path


def test_the_command_exports(working_directory: Path) -> None:
    command = Path(sys.executable).with_name("pellucid-export")
    arguments = [
        "my_networks:make",
        "--example",
        "input=2,6:int64",
        "--dynamic",
        "input:1=length",
        "--out",
        "models/words",
    ]

    done = subprocess.run([command, *arguments], cwd=working_directory, capture_output=True, text=True, check=False)

    (loaded,) = load_repository(working_directory / "models", device="cpu", threads=1)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Exporting the graph.\n")
    assert "models/words/1 takes input and gives output." in done.stdout
    assert "model.onnx differs from the network by" in done.stdout
    assert loaded.info([]).inputs[0].shape == (-1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my_networks:make", "--example", "input=2,x"], "'input=2,x' is not INPUT=ROWS,LENGTH"),
        (["my_networks:make", "--example", "input=2,6:float7"], "such as image=2,3,224,224"),
        (["my_networks:make", "--example", "input=2,6:int64", "--dynamic", "input=1"], "is not INPUT:AXIS=NAME"),
        (["my_networks:make"], "required: --example"),
    ],
)
def test_arguments_that_cannot_be_read_end_the_command_with_2(
    working_directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exited:
        main([*arguments, "--out", "models/words"])

    assert exited.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("my_networks", "'my_networks' is not MODULE:FACTORY"),
        ("your_networks:make", "There is no module 'your_networks' to import from"),
        ("my_networks:absent", "The module 'my_networks' has no function 'absent'."),
        ("my_networks:number", "has no function 'number'"),
        ("my_networks:wrong", "my_networks:wrong returned str; it must return a torch.nn.Module."),
    ],
)
def test_a_factory_that_makes_no_network_ends_the_command_with_2(
    working_directory: Path, capsys: pytest.CaptureFixture[str], factory: str, message: str
) -> None:
    code = main([factory, "--example", "input=2,6:int64", "--out", "models/words"])

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (working_directory / "models").exists()
