"""Maps of units that may turn out to be above their thresholds, kept so that the model need not run again for them."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UnitMaps:
    """Some maps of one layer in some rows, ordered by row and then by unit.

    Attributes
    ----------
    rows
        The row that each is of, counted from the batch's first, (maps,).
    units
        The unit that each is of, by its place among those looked at, (maps,).
    values
        (maps, positions).
    """

    rows: Indices
    units: Indices
    values: Floats

    @property
    def size_bytes(self) -> int:
        """The bytes of its arrays."""
        return self.rows.nbytes + self.units.nbytes + self.values.nbytes

    def above(self, floors: Floats) -> "UnitMaps":
        """Return the maps that are above their unit's floor, (units,), somewhere."""
        high = self.values.max(1, initial=-np.inf) > floors[self.units]
        return self if high.all() else UnitMaps(self.rows[high], self.units[high], self.values[high])

    def of_row(self, row: int) -> "UnitMaps":
        """Return the maps of one row."""
        part = slice(*np.searchsorted(self.rows, (row, row + 1)))
        return UnitMaps(self.rows[part], self.units[part], self.values[part])


@dataclass(frozen=True, slots=True)
class GridMasks:
    """The concepts of a row, (present,), and where they are on the grid: flags (present, height, width), compressed."""

    concepts: Indices
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, concepts: Indices, masks: npt.NDArray[np.bool_]) -> "GridMasks":
        """Compress masks."""
        return cls(concepts, masks.shape, zlib.compress(np.packbits(masks).tobytes(), 1))

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """The masks, (present, height, width)."""
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        count = int(np.prod(self.shape))
        return np.unpackbits(bits, count=count).astype(np.bool_).reshape(self.shape)

    @property
    def size_bytes(self) -> int:
        """About the bytes that it takes."""
        return self.concepts.nbytes + len(self.data)


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """A batch of rows: the maps of each layer, and the masks of each row."""

    numbers: Indices
    layers: Mapping[str, UnitMaps]
    masks: Sequence[GridMasks]

    @property
    def size_bytes(self) -> int:
        """About the bytes that it takes."""
        return sum(each.size_bytes for each in self.layers.values()) + sum(each.size_bytes for each in self.masks)

    def above(self, floors: Mapping[str, Floats]) -> "KeptBatch":
        """Return it with the maps that are above their floors alone."""
        return KeptBatch(
            self.numbers, {name: each.above(floors[name]) for name, each in self.layers.items()}, self.masks
        )


class KeptMaps:
    """Batches of maps, as many as fit: of those that are not kept, the model runs again.

    A threshold is never below the floors that are known so far: maps that stay below them are dropped as these rise.
    """

    def __init__(self, size_bytes: int) -> None:
        self._most = size_bytes
        self._batches: dict[int, KeptBatch] = {}
        self._bytes = self._settled = 0

    def keep(self, batch: KeptBatch, floors: Mapping[str, Floats]) -> None:
        """Keep a batch, if there is room."""
        taken = batch.size_bytes
        if self._bytes + taken > min(self._most, max(2 * self._settled, self._most // 8)):
            self.drop(floors)
        if self._bytes + taken <= self._most:
            self._batches[int(batch.numbers[0])] = batch
            self._bytes += taken

    def drop(self, floors: Mapping[str, Floats]) -> None:
        """Drop the maps that are nowhere above their floors."""
        # One after the other, so that no two copies of all are held.
        for first, batch in self._batches.items():
            self._batches[first] = batch.above(floors)
        self._bytes = self._settled = sum(each.size_bytes for each in self._batches.values())

    def find(self, first: int) -> KeptBatch | None:
        """Return the batch whose first row has this number; None if it is not kept."""
        return self._batches.get(first)

    def rows(self, first: int) -> int:
        """Return how many rows are kept, from the row of this number on."""
        return sum(len(each.numbers) for at, each in self._batches.items() if at >= first)

    def sample(self, count: int) -> tuple[KeptBatch, ...]:
        """Return at most so many of those that are kept, spread over the rows."""
        kept = sorted(self._batches)
        picked = kept if len(kept) <= count else [kept[at * len(kept) // count] for at in range(count)]
        return tuple(self._batches[first] for first in picked)
