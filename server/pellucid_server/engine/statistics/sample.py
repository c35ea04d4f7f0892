"""A random sample of rows that does not depend on how they come."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

_STEP = 0x9E37_79B9_7F4A_7C15
_FIRST = 0xBF58_476D_1CE4_E5B9
_SECOND = 0x94D0_49BB_1331_11EB
_BITS = 0xFFFF_FFFF_FFFF_FFFF


class Sample:
    """At most so many rows, each of them as likely as any other to be in.

    Each row has a key of its own; those rows are kept whose keys have the least random priorities. These follow from
    the seed and the key alone: which rows are in, and in which order, depends neither on batches nor on the order in
    which rows come. The first n of them are a random sample too.

    Source: Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007; priorities are the finalizer of
    Steele, Lea and Flood's SplitMix64, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, which gives
    no two keys the same.
    """

    def __init__(self, width: int, most: int, seed: int, data_type: npt.DTypeLike = np.float32) -> None:
        self.keys: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        """The keys of the rows that are in, by priority, (rows,)."""
        self.values: npt.NDArray[np.generic] = np.zeros((0, width), data_type)
        """The rows, in the same order, (rows, width)."""
        self._most = most
        self._seed = seed & _BITS

    @property
    def full(self) -> bool:
        """Whether there are as many as may be: else all rows are in that came."""
        return len(self.keys) >= self._most

    def admitted(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the indices of the keys whose rows may come in now; `update` with the others changes nothing."""
        found = np.arange(len(keys))
        priorities = self._priorities(keys)
        if self.full:
            found = found[priorities < self._priorities(self.keys[-1:])[0]]
        if len(found) > self._most:
            least = np.argpartition(priorities[found], self._most)[: self._most]
            found = np.sort(found[least])
        return found

    def update(self, keys: npt.NDArray[np.int64], values: npt.NDArray[np.generic]) -> None:
        """Take rows in, (n, width), whose keys, (n,), no other row has."""
        keys = np.concatenate([self.keys, keys])
        order = np.argsort(self._priorities(keys), kind="stable")[: self._most]
        self.keys = keys[order]
        self.values = np.concatenate([self.values, values.astype(self.values.dtype, copy=False)])[order]

    def merge(self, other: Self) -> None:
        """Take in the rows of another sample of the same size and seed."""
        self.update(other.keys, other.values)

    def state(self) -> Arrays:
        """Return all of it."""
        return {
            "keys": self.keys.copy(),
            "values": self.values.copy(),
            "most": np.array(self._most),
            # The schema has no unsigned numbers of this size.
            "seed": np.array([self._seed >> 32, self._seed & 0xFFFF_FFFF]),
        }

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        high, low = (int(part) for part in state["seed"])
        values = state["values"]
        found = cls(values.shape[1], int(state["most"]), high << 32 | low, values.dtype)
        found.keys, found.values = state["keys"].astype(np.int64), values.copy()
        return found

    def _priorities(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return 64 bits for each key: for each seed another permutation of all there are."""
        start = np.uint64((self._seed * _FIRST + _STEP) & _BITS)
        with np.errstate(over="ignore"):
            bits = _mixed(keys.astype(np.uint64) + np.uint64(_STEP))
            return _mixed(bits ^ start)


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))
