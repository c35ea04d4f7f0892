"""Exports small functions in groups, serves them, and compares what is served with torch."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.graph.graph import Graph
from server.engine.models.operator_cases import Function, Values
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils import _pytree as pytree

Rows = dict[str, Tensor]

EXPORTED, SERVED = 11, 13
"""Rows of the example and of the comparison: primes that divide no other length."""


class Group(nn.Module):
    """Calls each function; an output of it that has no rows on axis 0 is repeated for each row."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self.functions = dict(functions)

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        values = Values(data)
        found = {}
        for name, function in self.functions.items():
            tensors = [leaf for leaf in pytree.tree_leaves(function(values)) if isinstance(leaf, Tensor)]
            if not tensors:
                raise TypeError(f"{name} gives no tensor")
            found |= {f"{name}/{place}": _plain(tensor, data) for place, tensor in enumerate(tensors)}
        return found


def _plain(value: Tensor, data: Tensor) -> Tensor:
    """Return a value with rows on axis 0, of a type that a server gives."""
    if value.is_complex():
        value = torch.view_as_real(value.to(torch.complex64).resolve_conj().clone())
    if value.dtype in (torch.bfloat16, torch.uint16):
        value = value.float()
    if value.ndim and statically_known_true(value.shape[0] == data.shape[0]):
        return value
    if any(isinstance(size, torch.SymInt) or (size > 0 and size % SERVED == 0) for size in value.shape):
        return (
            value.to(torch.float64).sum().reshape(1, 1).expand(data.shape[0], 1)
        )  # As many numbers as there are rows.
    return value.reshape(1, -1).expand(data.shape[0], -1)


def rows(count: int, seed: int = 0) -> Rows:
    """Return rows, (count, 84), of which `Values` makes what functions are given."""
    return {"data": torch.randn(count, 84, generator=torch.Generator().manual_seed(seed))}


def served(module: nn.Module, example: Rows, folder: Path, *, decomposed: bool = False) -> Graph:
    """Export, save, load as a server does and make a graph."""
    batch = Dim("batch")
    shapes = {name: {0: batch} for name in example}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), (), example, dynamic_shapes=shapes, strict=False)
        if decomposed:
            program = program.run_decompositions()
        torch.export.save(program, folder / "model.pt2")
    return Graph.from_program(load_program(folder / "model.pt2"))


def group_failures(functions: Mapping[str, Function], folder: Path, *, decomposed: bool = False) -> dict[str, str]:
    """Return what is wrong with each function, by its name: of the export, the load, the values or the derivatives."""
    try:
        return dict(differences(functions, folder, decomposed=decomposed))
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
    names = list(functions)
    found: dict[str, str] = {}
    if len(names) > 1:
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            found |= group_failures({name: functions[name] for name in half}, folder, decomposed=decomposed)
    # What fails only beside others is no less wrong.
    return found or {" beside ".join(names): message}


def differences(
    functions: Mapping[str, Function], folder: Path, *, decomposed: bool = False
) -> Iterator[tuple[str, str]]:
    """Serve functions together, and name those whose values or derivatives are not torch's own."""
    group = Group(functions)
    graph = served(group, rows(EXPORTED), folder, decomposed=decomposed)
    ours, theirs = _leaves(rows(SERVED, 1)), _leaves(rows(SERVED, 1))
    results = graph(ours)
    for key, expected in group(**theirs).items():
        name, found = key.rpartition("/")[0], results[key]
        if found.dtype != expected.dtype or found.shape != expected.shape:
            yield name, f"{found.dtype} {tuple(found.shape)}, not {expected.dtype} {tuple(expected.shape)}"
        elif not torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
            yield name, f"values differ by {float((found.double() - expected.double()).abs().max()):.3g}"
        elif found.requires_grad != expected.requires_grad:
            yield name, f"has {'a' if found.requires_grad else 'no'} derivative, and torch's the contrary"
        elif expected.requires_grad and not _same_gradients(found, ours, expected, theirs):
            yield name, "derivatives differ"


def _leaves(inputs: Rows) -> Rows:
    return {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in inputs.items()}


def _same_gradients(found: Tensor, ours: Rows, expected: Tensor, theirs: Rows) -> bool:
    first, second = _gradient(found, ours["data"]), _gradient(expected, theirs["data"])
    return second is None or (first is not None and torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True))


def _gradient(output: Tensor, data: Tensor) -> Tensor | None:
    """Return a derivative of a sum of weighted elements, or None where torch has none."""
    weights = torch.linspace(0.5, 1.5, output.numel()).reshape(output.shape).to(output.dtype)
    try:
        (gradient,) = torch.autograd.grad(
            (output * weights).sum(), [data], retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        return None
    return gradient


def operators_of(function: Function) -> set[str]:
    """Return the operators that a function comes to in an export, as a file spells them."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        graph = make_fx(lambda data: function(Values(data)), pre_dispatch=True)(rows(EXPORTED)["data"]).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    return {f"torch.ops.{target}" for target in called if isinstance(target, torch._ops.OpOverload)}
