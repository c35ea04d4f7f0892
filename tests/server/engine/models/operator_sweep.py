"""Calls every operator that a model file may name with ill-fitting arguments, and reports what is not safe.

    python operator_sweep.py --draws 12 --seed 0 [--operators PATTERN] [--unchecked] [--lanes I/N]

Each draw takes a call that fits (`operator_calls.json`), breaks one or two of its arguments, and makes it twice, with
new memory filled with another byte; every other draw runs backward too. Run under `operator_fence.c` (preloaded), each
block of numbers lies between pages that nobody may touch. Operators run in children; a report is one line of JSON:
`[operator, draw, what, arguments]`, `what` being

- `signal N`: the process ended: memory beyond an argument or a result was touched;
- `differs`: results depend on what new memory held: something was read that nothing has written;
- `changed input`: an operator that works out of place wrote to what it was given;
- `slow`: a call took more than 3 s of the processor.

The last line is `[operators, calls, seconds, calls that ran through]`. The same seed makes the same calls.
"""

import argparse
import ctypes
import json
import math
import mmap
import os
import random
import re
import resource
import signal
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pellucid_server.engine.models.operators.allowed import every_operator
from pellucid_server.engine.models.operators.contracts import checked, mistyped
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

CALLS: dict[str, list[Any]] = json.loads(Path(__file__).with_name("operator_calls.json").read_text())
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]
DTYPES += [torch.bool, torch.complex64]
SHAPES = [(), (0,), (1,), (3,), (17,), (1, 1), (2, 3), (0, 3), (64, 4), (2, 3, 4), (1, 33000, 1), (2, 3, 4, 4)]
SHAPES += [(1, 2, 3, 4, 5), (1, 2, 2, 2, 2, 2)]
INTS = [-(2**63), -(2**62), -(2**31) - 1, -100, -2, -1, 0, 1, 2, 3, 5, 8, 64, 1000, 2**15, 2**20, 2**31 - 1, 2**31]
INTS += [2**32 + 1, 2**40, 2**62, 2**63 - 1]
FLOATS = [0.0, 1e-6, 1e-30, -1.0, -1e-6, 0.5, 2.0, 3.7, 1e10, 1e30, 1e308, math.inf, -math.inf, math.nan, 2.0**63]
TEXTS = ["", "none", "mean", "sum", "reflect", "constant", "zeros", "ij", "floor", "tanh", "left", "amax", "prod", "x"]
TEXTS += ["a" * 300, "i,j->ij", "ij,jk->ik", "ii->i", "->", "..."]
PLACEMENT = frozenset({"layout", "device", "pin_memory", "memory_format", "generator"})
FILLS = (0x11, 0x6E)
SIGNALS = {signal.SIGPROF: "slow"}


class Draw:
    """The arguments of one call, always the same for the same operator, number and seed."""

    def __init__(self, operator: OpOverload, number: int, seed: int) -> None:
        mixed = zlib.crc32(f"{operator}/{number}/{seed}".encode())
        self.random = random.Random(mixed)
        self.generator = torch.Generator().manual_seed(mixed)
        self.operator = operator
        self.number = number

    def call(self) -> tuple[list[Any], dict[str, Any]]:
        fitting = CALLS.get(str(self.operator), [])
        given = self._broken(fitting[self.number % len(fitting)]) if fitting and self.random.random() < 0.9 else None
        given = self._fresh() if given is None else given
        arguments = self.operator._schema.arguments
        positional = [
            given.get(argument.name, argument.default_value)
            for argument in arguments
            if not argument.kwarg_only and (argument.name in given or argument.has_default_value())
        ]
        named = {argument.name for argument in arguments if argument.kwarg_only}
        return positional, {name: value for name, value in given.items() if name in named}

    def _broken(self, fitting: dict[str, Any]) -> dict[str, Any]:
        given = {name: self._unfolded(value) for name, value in fitting.items()}
        arguments = self.operator._schema.arguments
        for argument in arguments:
            if argument.has_default_value() and argument.name not in PLACEMENT:
                given.setdefault(argument.name, argument.default_value)
        types = {argument.name: str(argument.type) for argument in arguments}
        can = sorted(given.keys() - PLACEMENT)
        for name in self.random.sample(can, min(self.random.choice([0, 1, 1, 1, 1, 1, 2, 2, 3]), len(can))):
            given[name] = self._broken_value(given[name], types[name])
        if self.random.random() < 0.2:
            dtype = self.random.choice(DTYPES)
            given = {name: _as_type(value, dtype) for name, value in given.items()}
        return given

    def _fresh(self) -> dict[str, Any]:
        return {
            argument.name: self._any(str(argument.type), argument.name)
            for argument in self.operator._schema.arguments
            if argument.name not in PLACEMENT and not (argument.has_default_value() and self.random.random() < 0.5)
        }

    def _unfolded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._unfolded(part) for part in value]
        if not isinstance(value, dict):
            return value
        if "dtype" in value:
            return getattr(torch, value["dtype"])
        dtype = getattr(torch, value["tensor"])
        if "values" in value:
            return torch.tensor(value["values"], dtype=dtype).reshape(value["shape"])
        return self._numbers(value["shape"], dtype)

    def _numbers(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype)
        return torch.randint(0, 3, shape, generator=self.generator).to(dtype)

    def _wild_numbers(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        tensor = self._numbers(shape, dtype).clone()
        wild: list[Any] = FLOATS if dtype.is_floating_point or dtype.is_complex else INTS
        wild = [0, 1] if dtype is torch.bool else wild
        how = self.random.randrange(4)
        if tensor.numel() and how:
            places = slice(None) if how == 1 else self.random.randrange(tensor.numel())
            tensor.view(-1)[places] = torch.tensor(self.random.choice(wild)).to(dtype)
        return tensor

    def _tensor(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        chosen = dtype or self.random.choice([*DTYPES, *[torch.float32] * 5, *[torch.int64] * 4])
        return self._strided(self._wild_numbers(self.random.choice(SHAPES), chosen))

    def _strided(self, tensor: torch.Tensor) -> torch.Tensor:
        how = self.random.randrange(8)
        if how == 0 and tensor.ndim >= 2:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if how == 1 and tensor.ndim and tensor.shape[0]:
            return tensor[:1].expand(tensor.shape)
        return torch.stack([tensor, tensor], -1)[..., 0] if how == 2 else tensor

    def _broken_tensor(self, tensor: torch.Tensor) -> torch.Tensor | None:
        how, shape = self.random.randrange(13), list(tensor.shape)
        if how == 0 or not shape:
            return self._tensor(tensor.dtype)
        if how <= 4:
            axis = self.random.randrange(len(shape))
            size = shape[axis]
            many = size * 50 if tensor.numel() < 2000 else 1
            shape[axis] = self.random.choice([0, 1, max(size - 1, 0), size + 1, size * 2, size // 2, many])
        elif how == 5:
            shape.pop(self.random.randrange(len(shape)))
        elif how == 6:
            shape.insert(self.random.randrange(len(shape) + 1), self.random.choice([0, 1, 2, 3]))
        elif how == 7:
            return tensor.to(self.random.choice(DTYPES))
        elif how == 8:
            return self._strided(tensor)
        elif how == 9:
            return tensor.reshape(-1)[:1].clone()
        elif how == 10:
            return tensor.reshape(-1).clone()
        elif how == 11 and self.random.random() < 0.3:
            return None
        else:
            return self._wild_numbers(shape, tensor.dtype)
        return self._numbers(shape, tensor.dtype)

    def _broken_value(self, value: Any, kind: str) -> Any:
        if isinstance(value, torch.Tensor):
            return self._broken_tensor(value)
        if isinstance(value, list | tuple):
            return self._broken_list(list(value), kind)
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            near = [value + 1, value - 1, value * 2, -value, value * 1000]
            return self.random.choice(near if self.random.random() < 0.35 else INTS)
        if isinstance(value, float):
            return self.random.choice(FLOATS)
        if isinstance(value, str):
            return self.random.choice(TEXTS)
        return self.random.choice(DTYPES) if isinstance(value, torch.dtype) else self._any(kind, "")

    def _broken_list(self, values: list[Any], kind: str) -> list[Any]:
        how = self.random.randrange(6)
        if how == 0 and values:
            values.pop(self.random.randrange(len(values)))
        elif how == 1:
            values.insert(0, self.random.choice(values) if values else self._any(_part(kind), ""))
        elif how == 2:
            values = []
        elif how == 3 and values and isinstance(values[0], int | float):
            values = [self.random.choice(INTS if isinstance(values[0], int) else FLOATS)] * len(values)
        elif values:
            place = self.random.randrange(len(values))
            values[place] = self._broken_value(values[place], _part(kind))
        return values

    def _any(self, kind: str, name: str) -> Any:
        if name == "dtype":
            return self.random.choice(DTYPES)
        if kind.startswith("Optional["):
            return None if self.random.random() < 0.4 else self._any(_part(kind), name)
        if kind.startswith("List["):
            return [self._any(_part(kind), name) for _ in range(self.random.choice([0, 1, 1, 2, 2, 3, 4]))]
        makers: dict[str, Callable[[], Any]] = {
            "Tensor": self._tensor,
            "int": lambda: self.random.choice(INTS) if self.random.random() < 0.5 else self.random.randrange(-3, 6),
            "bool": lambda: self.random.random() < 0.5,
            "float": lambda: self.random.choice(FLOATS),
            "number": lambda: self.random.choice([*FLOATS, *INTS]),
            "str": lambda: self.random.choice(TEXTS),
            "complex": lambda: complex(1, 2),
        }
        return makers.get(kind, lambda: None)()


def _part(kind: str) -> str:
    return kind.partition("[")[2].removesuffix("]") or kind


def _as_type(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def shown(value: Any) -> str:
    """Write arguments in short."""
    if isinstance(value, torch.Tensor):
        few = f"={value.reshape(-1).tolist()}" if 0 < value.numel() < 9 and not value.is_floating_point() else ""
        return f"{str(value.dtype)[6:]}{list(value.shape)}s{list(value.stride())}{few}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {shown(part)}' for name, part in value.items())}}}"
    return repr(value)


def alike(first: Any, second: Any) -> bool:
    """Tell whether two results are the same bit for bit, NaN being like NaN."""
    if not isinstance(first, torch.Tensor):
        return bool(first == second or first != first)
    if not isinstance(second, torch.Tensor) or first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.is_complex():
        first, second = torch.view_as_real(first.resolve_conj()), torch.view_as_real(second.resolve_conj())
    return torch.equal(first, second) or bool(((first == second) | ((first != first) & (second != second))).all())


class Fence:
    """The memory that `operator_fence.c` gives; plain memory where it is not preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self.there = hasattr(self._library, "fence_on")
        if self.there:
            self._library.fence_on(1)

    def set(self, fill: int, *, front: bool) -> None:
        if self.there:
            self._library.fence_fill(fill)
            self._library.fence_front(int(front))


def results(run: Callable[..., Any], draw: Draw, *, backward: bool) -> list[Any] | str:
    """Make a call; return its results and gradients, or what was wrong, or "refused"."""
    args, kwargs = draw.call()
    if mistyped(draw.operator, args, kwargs):
        return "refused"  # when the model is loaded
    torch.manual_seed(0)
    tensors = [tensor for tensor in pytree.tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
    before = [tensor.clone() for tensor in tensors]
    leaves = [tensor for tensor in tensors if backward and (tensor.is_floating_point() or tensor.is_complex())]
    for tensor in leaves:
        tensor.requires_grad_()
    try:
        with torch.set_grad_enabled(bool(leaves)):
            given = [value for value in pytree.tree_leaves(run(*args, **kwargs)) if value is not None]
    except Exception:
        return "refused"
    if not all(map(alike, before, (tensor.detach() for tensor in tensors))):
        return "changed input"
    scores = [value for value in given if isinstance(value, torch.Tensor) and value.requires_grad]
    gradients: tuple[Any, ...] = ()
    if scores:
        try:
            gradients = torch.autograd.grad(scores, leaves, [torch.ones_like(s) for s in scores], allow_unused=True)
        except Exception:
            gradients = ()
    found = [value for value in (*given, *gradients) if value is not None]
    if sum(value.numel() for value in found if isinstance(value, torch.Tensor)) > 10**6:
        return "refused"
    try:
        return [value.detach().clone() if isinstance(value, torch.Tensor) else value for value in found]
    except Exception:
        return "refused"


def verdict(fence: Fence, operator: OpOverload, number: int, options: argparse.Namespace) -> str:
    """Make a call twice; return what is wrong with it, "refused", or "" for nothing."""
    run = operator if options.unchecked else checked(operator)
    made = []
    for fill in FILLS:
        fence.set(fill, front=number % 5 == 4)
        made.append(results(run, Draw(operator, number, options.seed), backward=number % 2 == 1))
        if isinstance(made[-1], str):
            return str(made[-1])
    try:
        same = len(made[0]) == len(made[1]) and all(map(alike, made[0], made[1]))
    except Exception:  # sparse gradients, values of negative size
        return "refused"
    return "" if same else "differs"


def child(fence: Fence, operators: list[OpOverload], first: int, options: argparse.Namespace, pipe: int) -> None:
    """Make all calls from the one numbered `first` on, and write what is wrong to the pipe."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with os.fdopen(pipe, "w") as report:
        ran = 0
        for number in range(first, len(operators) * options.draws):
            SHARED[:16] = struct.pack("qq", number, ran)
            signal.setitimer(signal.ITIMER_PROF, 3.0)
            operator, draw = operators[number // options.draws], number % options.draws
            what = verdict(fence, operator, draw, options)
            ran += what != "refused"
            if what not in ("", "refused"):
                report.write(json.dumps([str(operator), draw, what]) + "\n")
                report.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
        SHARED[:16] = struct.pack("qq", len(operators) * options.draws, ran)
    os._exit(0)


SHARED = mmap.mmap(-1, 16)


def sweep(operators: list[OpOverload], options: argparse.Namespace) -> Iterator[list[Any]]:
    """Yield the reports of all operators, and the count of calls that ran through."""
    fence, first, calls, ran, deaths = Fence(), 0, len(operators) * options.draws, 0, 0
    while first < calls:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(fence, operators, first, options, writing)
        os.close(writing)
        with os.fdopen(reading) as report:
            for line in report.read().splitlines():
                yield [*json.loads(line), ""]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        number, through = struct.unpack("qq", SHARED[:16])
        ran += through
        if status == 0:
            break
        what = SIGNALS.get(-status, f"signal {-status}")
        operator = operators[number // options.draws]
        yield [str(operator), number % options.draws, what, ""]
        first, deaths = number + 1, deaths + 1
        if deaths % options.deaths == 0:
            first = (number // options.draws + 1) * options.draws
    yield [ran]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=12, help="calls of each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operators", default=".", help="a pattern of those to call")
    parser.add_argument("--unchecked", action="store_true", help="call them without their contracts")
    parser.add_argument("--deaths", type=int, default=10, help="ended processes after which an operator is left")
    parser.add_argument("--lanes", default="0/1", help="part I of N of the operators, to run parts side by side")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lane, lanes = map(int, options.lanes.split("/"))
    operators = [operator for operator in every_operator() if re.search(options.operators, str(operator))][lane::lanes]
    known = {str(operator): operator for operator in operators}
    started = time.monotonic()
    for report in sweep(operators, options):
        if len(report) == 1:
            seconds = round(time.monotonic() - started, 1)
            print(json.dumps([len(operators), len(operators) * options.draws, seconds, *report]))
            break
        report[3] = shown(Draw(known[report[0]], report[1], options.seed).call())
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    sys.setrecursionlimit(5000)
    main()
