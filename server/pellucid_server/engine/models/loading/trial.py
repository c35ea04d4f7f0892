"""What is found out about a model by running it when it is loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.graph.lengths import Lengths, UnfitLengthsError
from pellucid_server.engine.models.inputs.preprocessing import shape_text
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel, SessionError, Value
from pellucid_server.errors import InvalidRequestError

_ROWS = 3
PARITY_TOLERANCE = 1e-4

Run = Callable[[Arrays], Arrays]


class TrialError(Exception):
    """A model that does not run as its signature says; the message has the remedy."""


@dataclass(frozen=True, slots=True)
class RowBytes:
    """Device memory that a row takes, an estimate on the high side."""

    forward: int
    backward: int


def trial_rows(inputs: tuple[Value, ...], background: Arrays, lengths: Lengths) -> dict[str, Any]:
    """Return three rows of each input: of the background, repeated if it has fewer, or else at random.

    Random numbers are standard normal, as preprocessed inputs are; whole numbers are 0 and 1, which are
    valid as tokens, categories, masks and flags alike.
    """
    if background:
        return {name: rows[np.arange(_ROWS) % len(rows)] for name, rows in background.items()}
    generator = np.random.default_rng(0)
    rows = {}
    for value in inputs:
        shape = (_ROWS, *lengths.usual(value.name, value.shape))
        drawn = generator.standard_normal(shape) if value.dtype.kind == "f" else generator.integers(0, 2, shape)
        rows[value.name] = drawn.astype(value.dtype)
    return rows


def run_batches(run: Run, rows: Arrays, outputs: tuple[Value, ...]) -> tuple[Arrays, ...]:
    """Run the first row, the first two and all three; return the outputs of each.

    It warms the model up, too: what is made at the first call of a batch size is made here.

    Raises
    ------
    TrialError
        The model cannot be run on these rows, or its outputs are not as the signature says.
    """
    results = tuple(_run(run, _first(rows, count)) for count in range(1, _ROWS + 1))
    for count, result in enumerate(results, 1):
        for value in outputs:
            _check_output(result[value.name], value, count)
    return results


def narrowed_lengths(runs: Sequence[Run], rows: Arrays, lengths: Lengths) -> Lengths:
    """Let those lengths be 1 with which the model runs: an export says that each is at least 2, needed or not."""
    for symbol in lengths.unsure:
        shapes = lengths.shortened({name: array.shape[1:] for name, array in rows.items()}, symbol)
        if shapes is None:
            continue
        short = {name: array[_corner(shapes[name])] for name, array in rows.items()}
        if all(_runs(run, short) for run in runs):
            lengths = lengths.from_one(symbol)
    return lengths


def rows_agree(run: Run, rows: Arrays, together: Arrays) -> bool:
    """Tell whether rows have the same outputs alone as `together`, to 1e-4 of each output's largest value."""
    alone = [_run(run, {name: array[index : index + 1] for name, array in rows.items()}) for index in range(_ROWS)]
    joined = {name: np.concatenate([outputs[name] for outputs in alone]) for name in together}
    return largest_difference(joined, together) <= PARITY_TOLERANCE


def largest_difference(outputs: Arrays, reference: Arrays) -> float:
    """Return the largest absolute difference of an element, as a share of its output's largest absolute value.

    It is infinite where only one of two elements is finite, or where the reference is 0 throughout and the
    outputs are not.
    """
    return max(_difference(outputs[name], values) for name, values in reference.items())


def measure_row_bytes(
    graph: Graph | None, session: OnnxModel | None, rows: Arrays, *, gradients: bool = True
) -> RowBytes:
    """Estimate the memory that a row takes: some of the largest values, and backward what that keeps.

    Without `gradients`, nothing is run backward.
    """
    held = sum(array[0].nbytes for array in rows.values())
    if graph is None:
        largest = 0 if session is None else session.largest_value_bytes
        return RowBytes(forward=held + 4 * largest, backward=0)
    with _Bytes() as counted, torch.no_grad():
        graph(graph_rows(rows, graph.device))
    # An operator holds what it reads, what it writes and a workspace; backward, their gradients.
    forward = held + 4 * (counted.largest // _ROWS)
    if not gradients:
        return RowBytes(forward=forward, backward=0)
    # Parameters are kept as well, however many rows there are: they cancel.
    kept = (_kept_bytes(graph, rows) - _kept_bytes(graph, _first(rows, 1))) // (_ROWS - 1)
    return RowBytes(forward=forward, backward=forward + kept)


def graph_rows(rows: Arrays, device: str) -> dict[str, torch.Tensor]:
    """Return rows as tensors on a device."""
    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in rows.items()}


def graph_run(graph: Graph) -> Run:
    """Return what runs a graph forward on arrays."""

    def run(rows: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = graph(graph_rows(rows, graph.device))
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    return run


def _kept_bytes(graph: Graph, rows: Arrays) -> int:
    """Return the bytes that a forward pass keeps for a backward one."""
    tensors = graph_rows(rows, graph.device)
    leaves = {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in tensors.items()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = graph(leaves)
    # The outputs hold what was kept, so that until here no memory was used twice.
    del outputs
    return sum(kept.values())


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the bytes of the largest value that an operator gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.nbytes)
        return result


def _first(rows: Arrays, count: int) -> Arrays:
    return {name: array[:count] for name, array in rows.items()}


def _run(run: Run, rows: Arrays) -> Arrays:
    try:
        return run(rows)
    except (InvalidRequestError, SessionError, ArithmeticError, RuntimeError, IndexError, ValueError) as error:
        shapes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in rows.items())
        # A caller is told which lengths they sent; these are the loader's own, and why they do not go, torch said.
        told = error.__cause__ if isinstance(error, UnfitLengthsError) else error
        raise TrialError(
            f"cannot be run on rows of {shapes} ({' '.join(str(told).split())[:300]}); if these are no rows that it "
            "could ever take, put some that are into a background"
        ) from error


def _corner(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return (slice(None), *map(slice, shape))


def _runs(run: Run, rows: Arrays) -> bool:
    try:
        run(rows)
    except Exception:  # noqa: BLE001 - whatever a model's own operators raise, it does not take such rows
        return False
    return True


def _check_output(array: Any, value: Value, count: int) -> None:
    lengths = zip(array.shape[1:], value.shape, strict=False)
    if array.ndim != len(value.shape) + 1 or len(array) != count or any(b not in (a, None) for a, b in lengths):
        raise TrialError(
            f"gives output {value.name!r} the shape {shape_text(array.shape)} for {count} rows; its axis 0 must be the "
            f"rows and the rest {shape_text(value.shape)}: export the model with a dynamic axis 0, as "
            "pellucid-export does"
        )


def _difference(values: Any, reference: Any) -> float:
    if values.shape != reference.shape:
        return float("inf")
    first, second = values.astype(np.float64), reference.astype(np.float64)
    equal = (first == second) | (np.isnan(first) & np.isnan(second))
    if equal.all():
        return 0.0
    finite = np.isfinite(first) & np.isfinite(second)
    if not (equal | finite).all():
        return float("inf")
    scale = float(np.abs(second[finite]).max())
    return float(np.abs(first[finite] - second[finite]).max()) / scale if scale else float("inf")
