"""No allowed operator reads or writes beyond its arguments, whatever a model file says.

Every operator of the list is called with ill-fitting arguments in memory with fences (`operator_sweep.py`), and files
that give some of them such arguments are loaded in a process of their own.
"""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.exported.torch_versions import VERSION
from pellucid_server.engine.models.graph.derivatives import gradient_obstacle
from pellucid_server.engine.models.graph.graph import Graph, UnfitModelError
from pellucid_server.engine.models.operators.allowed import allowed, every_operator, runnable
from pellucid_server.engine.models.operators.contract_rules import RULES
from pellucid_server.engine.models.operators.contracts import BrokenContractError, checked
from server.engine.models.malice import PROGRAM, WEIGHTS, edited, entries_of, written
from torch import nn
from torch.export import Dim

aten = torch.ops.aten

FOLDER = Path(__file__).parent
SEED = 0


@pytest.fixture(scope="module")
def fence(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a command that puts fences around the memory of what it runs."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed to put fences around memory")
    library = tmp_path_factory.mktemp("fence") / "fence.so"
    source = FOLDER / "operator_fence.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return ["env", f"LD_PRELOAD={library}", "OMP_NUM_THREADS=1"]


def swept(fence: list[str], *options: str) -> tuple[list[Any], list[Any]]:
    """Sweep operators in a process of its own; return what was found, and the figures of the whole."""
    command = [*fence, sys.executable, str(FOLDER / "operator_sweep.py"), "--seed", str(SEED), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *found, figures = map(json.loads, done.stdout.splitlines())
    return found, figures


def test_no_operator_reads_or_writes_beyond_its_arguments(fence: list[str]) -> None:
    found, (operators, calls, seconds, ran) = swept(fence, "--draws", "6")

    print(f"seed {SEED}: {operators} operators, {calls} calls, {ran} of them ran through, {seconds} s")
    assert [entry for entry in found if entry[2] != "slow"] == []
    assert operators == len(list(every_operator()))
    assert ran > calls / 4


@pytest.mark.parametrize(
    "operator", ["_weight_norm.default", "_native_batch_norm_legit_no_training.default", "_fft_r2c.default"]
)
def test_the_sweep_finds_what_the_contracts_keep_out(fence: list[str], operator: str) -> None:
    if operator == "_fft_r2c.default" and VERSION != "2.13":
        pytest.skip(f"torch {VERSION} checks this itself")
    found, _ = swept(fence, "--draws", "40", "--deaths", "1", "--unchecked", "--operators", f"aten.{operator}$")

    assert any(what.startswith("signal") for _, _, what, _ in found)


def test_every_rule_is_of_an_operator_that_is_there() -> None:
    names = {f"aten::{name}" for name in RULES}

    assert [name for name in names if not torch._C._dispatch_has_kernel(name)] == []


@pytest.mark.parametrize("name", ["topk.values", "max.dim_max", "div.out_mode", "xlogy.OutTensor", "add.out"])
def test_an_overload_that_writes_into_an_argument_is_not_allowed(name: str) -> None:
    assert not allowed(f"torch.ops.aten.{name}")


@pytest.mark.parametrize("name", ["mul.left_t", "add.str", "acos.int", "slice.t", "to.prim_dtype"])
def test_an_overload_of_torchscript_is_not_allowed(name: str) -> None:
    assert not allowed(f"torch.ops.aten.{name}")


def test_no_operator_that_works_in_place_is_run() -> None:
    assert allowed("torch.ops.aten.relu_.default")
    assert not runnable(aten.relu_.default)


# Files that give operators what does not fit them

Forward = Callable[..., Any]


class Calling(nn.Module):
    """Calls an operator on its rows and on weights of its own."""

    def __init__(self, forward: Forward, *weights: torch.Tensor) -> None:
        super().__init__()
        self._call = forward
        self.weights = nn.ParameterList([nn.Parameter(weight, requires_grad=False) for weight in weights])

    def forward(self, rows: torch.Tensor) -> Any:
        return self._call(rows, *self.weights)


def saved(path: Path, module: nn.Module, *shape: int) -> Path:
    program = torch.export.export(
        module.eval(), (torch.randn(2, *shape),), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False
    )
    torch.export.save(program, path)
    return path


def argument(operator: str, name: str, value: Any) -> Callable[[Any], None]:
    """Return an edit of a program that gives the first call of an operator another argument."""

    def edit(program: Any) -> None:
        nodes = program["graph_module"]["graph"]["nodes"]
        node = next(node for node in nodes if node["target"].startswith(f"torch.ops.aten.{operator}"))
        given = next((entry for entry in node["inputs"] if entry["name"] == name), None)
        if given is None:
            node["inputs"].append({"name": name, "arg": value, "kind": 2})
        else:
            given["arg"] = value

    return edit


def smaller(sizes: list[int]) -> Callable[[Any], None]:
    """Return an edit of the weights that gives the first another shape."""

    def edit(lists: Any) -> None:
        meta = lists["config"]["weights.0"]["tensor_meta"]
        strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
        meta.update(sizes=[{"as_int": size} for size in sizes], strides=[{"as_int": stride} for stride in strides])

    return edit


def tampered(path: Path, entry: str, edit: Callable[[Any], None]) -> Path:
    entries = entries_of(path)
    edited(entries, entry, edit)
    return written(path, entries)


def lstm(rows: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    state = torch.zeros(1, rows.shape[0], 5)
    return aten.lstm.input(rows, [state, state], weights, True, 1, 0.0, False, False, True)[0]


def shrunk(rows: torch.Tensor, scale: float) -> torch.Tensor:
    return aten._upsample_bilinear2d_aa.default(rows, [3, 3], False, scale, scale)


LSTM_WEIGHTS = [torch.randn(20, 3), torch.randn(20, 5), torch.randn(20), torch.randn(20)]


def weight_norm(rows: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return rows @ aten._weight_norm.default(v, g, 0).t()


def batch_norm(rows: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return aten._native_batch_norm_legit_no_training.default(rows, None, None, mean, variance, 0.1, 1e-5)[0]


BAD: dict[str, Callable[[Path], Path]] = {
    "_weight_norm": lambda path: saved(path, Calling(weight_norm, torch.randn(64, 4), torch.randn(1)), 4),
    "_native_batch_norm_legit_no_training": lambda path: saved(
        path, Calling(batch_norm, torch.zeros(1), torch.ones(1)), 32768
    ),
    "_native_batch_norm_legit.no_stats": lambda path: tampered(
        saved(path, Calling(lambda x: aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5)[0]), 5),
        PROGRAM,
        argument("_native_batch_norm_legit.no_stats", "training", {"as_bool": False}),
    ),
    "_upsample_bilinear2d_aa": lambda path: saved(path, Calling(lambda rows: shrunk(rows, 1e-6)), 2, 6, 6),
    "grid_sampler_2d": lambda path: tampered(
        saved(path, Calling(lambda x: aten.grid_sampler_2d.default(x, x[:, :2].movedim(1, -1), 0, 0, False)), 2, 4, 4),
        PROGRAM,
        argument("grid_sampler_2d", "interpolation_mode", {"as_int": 7}),
    ),
    "_fft_r2c": lambda path: tampered(
        saved(path, Calling(lambda rows: aten._fft_r2c.default(rows, [1], 0, True).real), 6),
        PROGRAM,
        argument("_fft_r2c", "normalization", {"as_int": 2**40}),
    ),
    "sum": lambda path: tampered(
        saved(path, Calling(lambda rows: aten.sum.dim_IntList(rows, [1], dtype=torch.float32)), 3),
        PROGRAM,
        argument("sum", "dtype", {"as_int": 99}),
    ),
    "replication_pad2d": lambda path: tampered(
        saved(path, Calling(lambda x: aten.replication_pad2d.default(x, [1, 1, 1, 1])), 2, 4, 4),
        PROGRAM,
        argument("replication_pad2d", "padding", {"as_ints": [2**63 - 1] * 4}),
    ),
    "full": lambda path: saved(path, Calling(lambda rows: rows + torch.full([2**31, 2], 1.0).sum()), 3),
    "arange": lambda path: saved(path, Calling(lambda rows: rows + torch.arange(2**33).sum()), 3),
    "repeat": lambda path: saved(path, Calling(lambda rows: rows.repeat(1, 2**20, 2**10).sum(-1)[:, :3]), 3),
    "weights.0": lambda path: tampered(
        saved(path, Calling(lambda rows, weight: rows @ weight, torch.randn(4, 4)), 4), WEIGHTS, smaller([2, 4])
    ),
    "lstm": lambda path: tampered(
        saved(path, Calling(lstm, *LSTM_WEIGHTS), 4, 3), PROGRAM, argument("lstm", "num_layers", {"as_int": 2**40})
    ),
}


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Load every bad file in one process; return what each said, its seconds and the bytes it took."""
    folder = tmp_path_factory.mktemp("bad")
    paths = [str(make(folder / f"{name}.pt2")) for name, make in BAD.items()]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "load_and_run.py"), *paths], capture_output=True, text=True, check=False
    )
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_gives_an_operator_what_does_not_fit_is_refused_by_name(
    loads: dict[str, list[Any]], name: str
) -> None:
    said, seconds, grown = loads[name]

    assert said != "ran"
    assert re.search(re.escape(name) + "|cannot be derived", said), said
    assert seconds < 10
    assert grown < 2**30


GOOD: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "weight norm": (Calling(weight_norm, torch.randn(64, 4), torch.randn(64, 1)), (4,)),
    "batch norm": (Calling(batch_norm, torch.randn(5), torch.rand(5)), (5, 3)),
    "lstm": (Calling(lstm, *LSTM_WEIGHTS), (4, 3)),
    "antialiased": (Calling(lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True)), (2, 7, 7)),
    "half as large": (
        Calling(lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)),
        (2, 7, 7),
    ),
    "one and a half": (Calling(lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic")), (2, 7, 7)),
    "nearest": (Calling(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")), (2, 7, 7)),
    "grid": (Calling(lambda x: F.grid_sample(x, x[:, :2].movedim(1, -1), align_corners=False)), (2, 4, 4)),
    "spectrum": (Calling(lambda x: torch.fft.irfft(torch.fft.rfft(x), n=7)), (7,)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3)),
    "instance norm": (nn.InstanceNorm1d(4, affine=True), (4, 3)),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_model_beside_them_loads_and_agrees_with_torch(tmp_path: Path, name: str) -> None:
    module, shape = GOOD[name]
    graph = Graph.from_program(load_program(saved(tmp_path / "model.pt2", module, *shape)))
    rows = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))

    (output,) = graph({graph.inputs[0].name: rows}).values()

    torch.testing.assert_close(output, module(rows))


def test_a_size_that_is_open_at_load_is_checked_at_every_call() -> None:
    module = Calling(batch_norm, torch.zeros(1), torch.ones(1))
    shapes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},)
    graph = Graph.from_program(torch.export.export(module, (torch.randn(2, 4),), dynamic_shapes=shapes, strict=False))

    with pytest.raises(BrokenContractError, match=r"running mean of shape \(1\), where it must be \(30000\)"):
        graph._run(torch.zeros(2, 30000))


def test_named_arguments_are_held_to_a_contract_as_well() -> None:
    with pytest.raises(BrokenContractError, match=r"_weight_norm.* magnitude of shape \(1\)"):
        checked(aten._weight_norm.default)(torch.ones(64, 4), g=torch.ones(1))


@pytest.mark.parametrize(
    ("offsets", "indices"), [([0, 9], [0, 1]), ([1, 2], [0, 1]), ([0, 2, 1], [0, 1, 1]), ([0], [5]), ([0], [-1])]
)
def test_a_bag_that_reaches_beyond_its_indices_or_its_table_is_refused(offsets: list[int], indices: list[int]) -> None:
    bag = checked(aten.embedding_bag.default)

    with pytest.raises(BrokenContractError):
        bag(torch.ones(3, 2), torch.tensor(indices), torch.tensor(offsets))


def test_weights_of_another_type_than_the_graph_says_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt2", Calling(lambda rows, weight: rows @ weight, torch.randn(4, 4)), 4)
    tampered(path, WEIGHTS, lambda lists: lists["config"]["weights.0"]["tensor_meta"].update(dtype=4))

    with pytest.raises(UnfitModelError, match=r"'weights.0' is torch.int32 .* where the graph says torch.float32"):
        Graph.from_program(load_program(path))


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda rows: aten.heaviside.default(rows, rows), "heaviside"),
        (lambda rows: F.batch_norm(rows, rows.mean(0), rows.square().mean(0)), "batch_norm"),
        (lambda rows: rows * 2, ""),
    ],
)
def test_an_operator_without_a_derivative_is_named(forward: Forward, name: str) -> None:
    program = torch.export.export(Calling(forward), (torch.randn(2, 3),), dynamic_shapes=({0: Dim.DYNAMIC},))

    obstacle = gradient_obstacle(Graph.from_program(program), {"rows": torch.rand(3, 3)})

    assert name in obstacle
    assert bool(obstacle) == bool(name)


def test_a_gradient_that_memory_is_too_short_for_is_no_operator_without_a_derivative() -> None:
    def short(rows: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.")

    with pytest.raises(RuntimeError, match="allocate memory"):
        gradient_obstacle(short, {"rows": torch.rand(3, 3)})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("name", ["div", "divide"])
def test_the_lowest_whole_number_cut_by_minus_one_is_refused_and_does_not_end_the_process(
    name: str, dtype: torch.dtype
) -> None:
    packet = getattr(torch.ops.aten, name)
    lowest = torch.tensor([7, torch.iinfo(dtype).min], dtype=dtype)
    for overload, other in ((packet.Tensor_mode, torch.tensor([2, -1], dtype=dtype)), (packet.Scalar_mode, -1)):
        with pytest.raises(BrokenContractError, match="the lowest whole number, divided by -1"):
            checked(overload)(lowest, other, rounding_mode="trunc")
        assert checked(overload)(lowest[:1], other, rounding_mode="trunc").tolist() in ([3, -7], [3], [-7])
        assert checked(overload)(lowest.float(), other, rounding_mode="trunc").isfinite().all()
