"""The recipes that methods grow their rows from."""

import functools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import Layout, Recipe, Stage, Tensors
from pellucid_server.engine.device.accelerator import to_device

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_TABLE_LENGTH = 1 << 21
_TABLE_KEY = 0x5065_6C6C_7563_6964
"""Any constant: the table of normal numbers is the same in every process and on every device."""


def _layout(arrays: Arrays, *, rows: bool) -> Layout:
    return tuple(
        (name, array.dtype.str, array.shape[1:] if rows else array.shape) for name, array in sorted(arrays.items())
    )


def _sent(array: npt.NDArray[np.generic], device: str) -> torch.Tensor:
    # Of arrays without axes, numpy makes numbers wherever it computes.
    return to_device(np.asarray(array), device)


def _bits(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _one(recipe: Recipe, number: int) -> Arrays:
    """Grow one row on the host."""
    out = {name: torch.from_numpy(np.empty((1, *shape), np.dtype(kind))) for name, kind, shape in recipe.layout}
    recipe.stage("cpu").write(out, number)
    return {name: tensor[0].numpy() for name, tensor in out.items()}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as they are, (rows, *features) each."""

    arrays: Arrays

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.arrays.values())))

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return _layout(self.arrays, rows=True)

    def stage(self, device: str) -> Stage:
        """Put the rows on a device."""
        return _Lying({name: _sent(array, device) for name, array in self.arrays.items()})

    def row(self, number: int) -> Arrays:
        """Return one row."""
        return {name: array[number] for name, array in self.arrays.items()}

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host."""
        for name, array in self.arrays.items():
            out[name][...] = array[first : first + len(out[name])]


@dataclass(frozen=True, slots=True)
class _Lying:
    tensors: Tensors

    def rows(self, first: int, count: int) -> Tensors:
        return {name: tensor[first : first + count] for name, tensor in self.tensors.items()}

    def write(self, out: Tensors, first: int) -> None:
        for name, tensor in self.tensors.items():
            out[name].copy_(tensor[first : first + len(out[name])])


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """Some of a few rows again and again: row i is row `of[i]` of `arrays`, (rows, *features) each."""

    arrays: Arrays
    of: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.of)

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return _layout(self.arrays, rows=True)

    def stage(self, device: str) -> Stage:
        """Put the rows on a device, each once."""
        return _PickedOnDevice(
            {name: _sent(array, device) for name, array in self.arrays.items()}, torch.from_numpy(self.of).to(device)
        )

    def row(self, number: int) -> Arrays:
        """Return one row."""
        return {name: array[self.of[number]] for name, array in self.arrays.items()}

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host."""
        for name, array in self.arrays.items():
            out[name][...] = array[self.of[first : first + len(out[name])]]


@dataclass(frozen=True, slots=True)
class _PickedOnDevice:
    tensors: Tensors
    of: torch.Tensor

    def rows(self, first: int, count: int) -> None:
        return None

    def write(self, out: Tensors, first: int) -> None:
        for name, tensor in self.tensors.items():
            torch.index_select(tensor, 0, self.of[first : first + len(out[name])], out=out[name])


@dataclass(frozen=True, slots=True)
class Path:
    """Points on the straight path from `start` to `end`, (*features) each; inputs without a start stay at the end.

    `places` are shares of the path, (rows,): 0 is the start, 1 the end itself, to the last bit.
    """

    start: Arrays
    end: Arrays
    places: Floats

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.places)

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return _layout(self.end, rows=False)

    def stage(self, device: str) -> Stage:
        """Put the ends of the path on a device."""
        ends = {name: _sent(array, device) for name, array in self.end.items()}
        starts = {name: _sent(array, device) for name, array in self.start.items()}
        changes = {name: ends[name] - start for name, start in starts.items()}
        places = {name: _column(self.places, ends[name], device) for name in starts}
        return _OnPath(starts, changes, ends, places, frozenset(np.flatnonzero(self.places == 1.0).tolist()))

    def row(self, number: int) -> Arrays:
        """Return one point."""
        return _one(self, number)

    def grow(self, out: Arrays, first: int) -> None:
        """Grow points on the host."""
        for name, end in self.end.items():
            rows = out[name]
            if name not in self.start:
                rows[...] = end
                continue
            places = self.places[first : first + len(rows)]
            start, column = self.start[name], places.astype(end.dtype).reshape(-1, *(1,) * end.ndim)
            np.multiply(column, np.subtract(end, start), out=rows)
            np.add(rows, start, out=rows)
            rows[places == 1.0] = end


def _column(values: Floats, like: torch.Tensor, device: str) -> torch.Tensor:
    """Return a value for each row in a shape that broadcasts with rows of `like`, of its type."""
    column = torch.from_numpy(values).to(like.dtype).reshape(-1, *(1,) * like.ndim)
    return column.to(device)


@dataclass(frozen=True, slots=True)
class _OnPath:
    starts: Tensors
    changes: Tensors
    ends: Tensors
    places: Tensors
    at_end: frozenset[int]

    def rows(self, first: int, count: int) -> None:
        return None

    def write(self, out: Tensors, first: int) -> None:
        for name, end in self.ends.items():
            rows = out[name]
            if name not in self.starts:
                rows.copy_(end.expand_as(rows))
                continue
            places = self.places[name][first : first + len(rows)]
            torch.addcmul(self.starts[name], places, self.changes[name], out=rows)
            for number in self.at_end:
                # start + (end - start) is not the end to the last bit.
                if first <= number < first + len(rows):
                    rows[number - first] = end


@dataclass(frozen=True, slots=True)
class Masked:
    """A row with some groups of elements replaced: each coalition of groups with each baseline row in turn.

    Attributes
    ----------
    inputs
        The row, (*features) each.
    baselines
        What replaces the groups that are absent, (baselines, *features) each.
    labels
        The group of each element, broadcastable to (*features).
    present
        The groups that each coalition has, (coalitions, groups). One that has all is a row by itself, as
        baselines make no difference there; it must be the last.
    """

    inputs: Arrays
    baselines: Arrays
    labels: Mapping[str, npt.NDArray[np.int32]]
    present: Flags

    @property
    def count(self) -> int:
        """How many rows there are."""
        full = bool(self.present[-1].all())
        return (len(self.present) - full) * len(next(iter(self.baselines.values()))) + full

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return _layout(self.inputs, rows=False)

    def stage(self, device: str) -> Stage:
        """Put the row, the baselines and the coalitions on a device."""
        # All bits of a present group's number are set: rows are put together by bits, exactly.
        bits = torch.from_numpy(-self.present.astype(np.int32)).view(torch.float32).to(device)
        labels = {
            name: (
                torch.from_numpy(np.ascontiguousarray(each).reshape(-1).astype(np.int64)).to(device),
                _full_shape(each, self.inputs[name]),
            )
            for name, each in self.labels.items()
        }
        return _Blended(
            {name: _sent(array, device) for name, array in self.inputs.items()},
            {name: _sent(array, device) for name, array in self.baselines.items()},
            labels,
            bits,
            frozenset(name for name, array in self.baselines.items() if not _bits(array).any()),
        )

    def row(self, number: int) -> Arrays:
        """Return one row."""
        return _one(self, number)

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host."""
        count, baselines = len(next(iter(out.values()))), len(next(iter(self.baselines.values())))
        numbers = np.arange(first, first + count)
        present = self.present[first : first + count] if baselines == 1 else self.present[numbers // baselines]
        for name, row in self.inputs.items():
            labels, absent = self.labels[name], self.baselines[name]
            mask = present.take(labels.reshape(-1), axis=1).reshape(count, *_full_shape(labels, row))
            out[name][...] = np.where(mask, row, absent if baselines == 1 else absent[numbers % baselines])


def _full_shape(labels: npt.NDArray[np.int32], row: npt.NDArray[np.generic]) -> tuple[int, ...]:
    """Return the shape of labels with as many axes as a row: those of rows are in front of them."""
    return (1,) * (np.ndim(row) - labels.ndim) + labels.shape


@dataclass(frozen=True, slots=True)
class _Blended:
    inputs: Tensors
    baselines: Tensors
    labels: Mapping[str, tuple[torch.Tensor, tuple[int, ...]]]
    bits: torch.Tensor
    zeros: frozenset[str]
    """Inputs whose baselines have no bit set: then a row is what the mask leaves."""

    def rows(self, first: int, count: int) -> None:
        return None

    def write(self, out: Tensors, first: int) -> None:
        count, baselines = len(next(iter(out.values()))), len(next(iter(self.baselines.values())))
        numbers = torch.arange(first, first + count, device=self.bits.device) if baselines > 1 else None
        bits = self.bits[first : first + count] if numbers is None else self.bits.index_select(0, numbers // baselines)
        for name, row in self.inputs.items():
            labels, shape = self.labels[name]
            mask = bits.index_select(1, labels).view(torch.int32).reshape(len(bits), *shape)
            absent = self.baselines[name]
            others = absent[0] if numbers is None else absent.index_select(0, numbers % baselines)
            if row.dtype == torch.float32:
                mine, theirs, found = (each.view(torch.int32) for each in (row, others, out[name]))
                if name in self.zeros:
                    torch.bitwise_and(mask, mine, out=found)
                else:
                    torch.bitwise_and(mask, mine ^ theirs, out=found)
                    found.bitwise_xor_(theirs)
            else:
                torch.where(mask != 0, row, others, out=out[name])


@dataclass(frozen=True, slots=True)
class Windows:
    """A row with a window of one input replaced, one window after the other; then the baseline; then the row itself.

    Attributes
    ----------
    inputs, baseline
        The row and what replaces it, (*features) each.
    masks
        By input, what finds the elements that windows cover: see `Masks`.
    """

    inputs: Arrays
    baseline: Arrays
    masks: "Mapping[str, Masks]"

    @property
    def windows(self) -> int:
        """How many windows there are on all inputs."""
        return sum(each.count for each in self.masks.values())

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.windows + 2

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return _layout(self.inputs, rows=False)

    def stage(self, device: str) -> Stage:
        """Put the row and the baseline on a device."""
        return _Windowed(
            {name: _sent(array, device) for name, array in self.inputs.items()},
            {name: _sent(array, device) for name, array in self.baseline.items()},
            self.masks,
            self.windows,
        )

    def row(self, number: int) -> Arrays:
        """Return one row."""
        return _one(self, number)

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host."""
        start = 0
        for name, row in self.inputs.items():
            rows, masks, baseline = out[name], self.masks[name], self.baseline[name]
            rows[...] = row
            for number in range(max(first, start), min(first + len(rows), start + masks.count)):
                part = masks.covered(number - start)
                # In one step: a row without axes is a number, of which no part can be set.
                at: tuple[Any, ...] = (number - first, *part) if isinstance(part, tuple) else (number - first, part)
                rows[at] = baseline[part]
            if first <= self.windows < first + len(rows):
                rows[self.windows - first] = baseline
            start += masks.count


class Masks:
    """The elements that each of some windows covers."""

    count: int

    def covered(self, number: int) -> tuple[slice, ...] | Flags:
        """Return the part of a row, (*features), that a window covers."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Windowed:
    inputs: Tensors
    baseline: Tensors
    masks: Mapping[str, Masks]
    windows: int

    def rows(self, first: int, count: int) -> None:
        return None

    def write(self, out: Tensors, first: int) -> None:
        start = 0
        for name, row in self.inputs.items():
            rows, masks, baseline = out[name], self.masks[name], self.baseline[name]
            rows.copy_(row.expand_as(rows))
            for number in range(max(first, start), min(first + len(rows), start + masks.count)):
                part = masks.covered(number - start)
                if isinstance(part, tuple):
                    place: tuple[Any, ...] = (number - first, *part)
                    rows[place] = baseline[part]
                else:
                    where = torch.from_numpy(part).to(row.device)
                    rows[number - first][where] = baseline[where]
            if first <= self.windows < first + len(rows):
                rows[self.windows - first] = baseline
            start += masks.count


@dataclass(frozen=True, slots=True)
class Noisy:
    """Copies of a row with Gaussian noise, row `first` of the sequence that the seed begins and those behind it.

    The noise is a window of a table of normal numbers, at a place and with a sign that follow from the seed, the
    input's name and the row's number alone: it is the same on every device and in chunks of any size. An element's
    noise is independent between rows, and between the elements of a row.

    Source: the shared table of Salimans, Ho, Chen, Sidor and Sutskever, "Evolution Strategies as a Scalable
    Alternative to Reinforcement Learning", 2017.

    Attributes
    ----------
    inputs
        The row, (*features) each.
    deviations
        Standard deviations, broadcastable to (*features), of the inputs that get noise.
    """

    inputs: Arrays
    deviations: Arrays
    seed: int
    count: int
    first: int = 0

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return _layout(self.inputs, rows=False)

    def stage(self, device: str) -> Stage:
        """Put the row and the deviations on a device."""
        numbers = np.arange(self.first, self.first + self.count)
        return _WithNoise(
            {name: _sent(array, device) for name, array in self.inputs.items()},
            {name: torch.from_numpy(np.array(array, np.float32)).to(device) for name, array in self.deviations.items()},
            {name: _hashed(self.seed, name, numbers) for name in self.deviations},
            _table(device),
        )

    def row(self, number: int) -> Arrays:
        """Return one noisy copy."""
        return _one(self, number)

    def grow(self, out: Arrays, first: int) -> None:
        """Grow noisy copies on the host."""
        table = _table("cpu").numpy()
        for name, row in self.inputs.items():
            rows = out[name]
            if name not in self.deviations:
                rows[...] = row
                continue
            bits = _hashed(self.seed, name, np.arange(self.first + first, self.first + first + len(rows)))
            starts = (bits % np.uint64(_TABLE_LENGTH)).astype(np.int64)
            noise = table.take(starts[:, None] + np.arange(row.size), mode="wrap").reshape(rows.shape)
            noise *= np.where(bits >> np.uint64(63), np.float32(1), np.float32(-1)).reshape(-1, *(1,) * row.ndim)
            noise *= np.asarray(self.deviations[name], np.float32)
            rows[...] = row + noise


@dataclass(frozen=True, slots=True)
class _WithNoise:
    inputs: Tensors
    deviations: Tensors
    hashed: Mapping[str, npt.NDArray[np.uint64]]
    table: torch.Tensor

    def rows(self, first: int, count: int) -> None:
        return None

    def write(self, out: Tensors, first: int) -> None:
        for name, row in self.inputs.items():
            rows = out[name]
            deviation = self.deviations.get(name)
            if deviation is None:
                rows.copy_(row.expand_as(rows))
                continue
            for place, number in enumerate(self.hashed[name][first : first + len(rows)].tolist()):
                noise = self._noise(number, row)
                sign = 1.0 if number >> 63 else -1.0
                if deviation.ndim == 0 and row.dtype == torch.float32:
                    torch.add(row, noise, alpha=sign * float(deviation), out=rows[place])
                else:
                    rows[place] = torch.addcmul(row.float(), noise, deviation, value=sign).to(row.dtype)

    def _noise(self, number: int, row: torch.Tensor) -> torch.Tensor:
        start, length = number % _TABLE_LENGTH, row.numel()
        if start + length <= _TABLE_LENGTH:
            return self.table[start : start + length].view(row.shape)
        pieces = [self.table[start:]]
        left = length - (_TABLE_LENGTH - start)
        pieces += [self.table] * (left // _TABLE_LENGTH) + [self.table[: left % _TABLE_LENGTH]]
        return torch.cat(pieces).view(row.shape)


def _hashed(seed: int, name: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each row number, that follow from the seed and the name alone.

    Source: the finalizer of Steele, Lea and Flood's SplitMix64, "Fast Splittable Pseudorandom Number Generators",
    OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        key = _mixed(np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF) + np.uint64(zlib.crc32(name.encode())))
        return _mixed(key + numbers.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15))


def _mixed(bits: "npt.NDArray[np.uint64] | np.uint64") -> npt.NDArray[np.uint64]:
    found = np.asarray(bits) + np.uint64(0x9E37_79B9_7F4A_7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return np.asarray(found ^ (found >> np.uint64(31)))


@functools.lru_cache(maxsize=4)
def _table(device: str) -> torch.Tensor:
    """Return normal numbers whose mean is 0 and variance 1, to rounding."""
    source = np.random.Generator(np.random.Philox(key=_TABLE_KEY))
    numbers = source.standard_normal(_TABLE_LENGTH)
    numbers = (numbers - numbers.mean()) / numbers.std()
    return torch.from_numpy(numbers.astype(np.float32)).to(device)


@dataclass(frozen=True, slots=True)
class With:
    """Rows of a recipe, each with arrays of its own beside it, (rows, ...) each, under further names."""

    recipe: Recipe
    beside: Arrays = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.recipe.count

    @property
    def layout(self) -> Layout:
        """Name, type and shape of each array of a row."""
        return tuple(sorted((*self.recipe.layout, *_layout(self.beside, rows=True))))

    def stage(self, device: str) -> Stage:
        """Put both on a device."""
        return _Both(self.recipe.stage(device), Rows(self.beside).stage(device), frozenset(self.beside))

    def row(self, number: int) -> Arrays:
        """Return one row, without what is beside it."""
        return self.recipe.row(number)

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host, with what is beside them."""
        self.recipe.grow({name: rows for name, rows in out.items() if name not in self.beside}, first)
        Rows(self.beside).grow(out, first)


@dataclass(frozen=True, slots=True)
class _Both:
    stage: Stage
    beside: Stage
    names: frozenset[str]

    def rows(self, first: int, count: int) -> Tensors | None:
        found, more = self.stage.rows(first, count), self.beside.rows(first, count)
        return None if found is None or more is None else {**found, **more}

    def write(self, out: Tensors, first: int) -> None:
        self.stage.write({name: rows for name, rows in out.items() if name not in self.names}, first)
        self.beside.write({name: out[name] for name in self.names}, first)
