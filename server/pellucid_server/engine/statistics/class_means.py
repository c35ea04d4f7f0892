"""Means by class."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

Floats = npt.NDArray[np.float64]


class ClassMeans:
    """The mean of each of several units over the rows of each class, in float64; rows without a label do not count.

    Classes are in the order of their first rows. From the row on that would bring more than `most` of them, `overfull`
    is set, and no further class comes in.
    """

    def __init__(self, units: int, most: int) -> None:
        self.overfull = False
        """Whether rows were left out because there were too many classes."""
        self._most = most
        self._numbers: dict[str, int] = {}
        self._counts: Floats = np.zeros(0)
        self._sums: Floats = np.zeros((0, units))

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels so far."""
        return tuple(self._numbers)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Rows of each class, (classes,)."""
        return self._counts.astype(np.int64)

    @property
    def means(self) -> Floats:
        """The mean of each class, (classes, units)."""
        return np.asarray(self._sums / self._counts[:, None])

    def update(self, labels: Sequence[str], rows: npt.NDArray[np.generic]) -> None:
        """Take rows in, (n, units), with the label of each; "" for none."""
        numbers = np.array([self._number(label) for label in labels], np.int64)
        for number in np.unique(numbers[numbers >= 0]):
            of = rows[numbers == number].astype(np.float64)
            self._counts[number] += len(of)
            self._sums[number] += of.sum(0)

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        for label, count, sums in zip(other.classes, other._counts, other._sums, strict=True):
            number = self._number(label)
            if number >= 0:
                self._counts[number] += count
                self._sums[number] += sums
        self.overfull |= other.overfull

    def state(self) -> Arrays:
        """Return all of it; the labels in UTF-8, a byte 0 behind each."""
        text = "".join(f"{label}\0" for label in self._numbers).encode()
        return {
            "labels": np.frombuffer(text, np.uint8).copy(),
            "counts": self._counts.copy(),
            "sums": self._sums.copy(),
            "most": np.array(self._most),
            "overfull": np.array(self.overfull),
        }

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(state["sums"].shape[1], int(state["most"]))
        labels = state["labels"].tobytes().decode().split("\0")[:-1]
        found._numbers = {label: number for number, label in enumerate(labels)}
        found._counts, found._sums = state["counts"].astype(np.float64), state["sums"].astype(np.float64)
        found.overfull = bool(state["overfull"])
        return found

    def _number(self, label: str) -> int:
        """Return the number of a label's class, a new one if need be; -1 for none."""
        label = label.replace("\0", "\ufffd")
        if not label:
            return -1
        number = self._numbers.get(label)
        if number is not None:
            return number
        if len(self._numbers) >= self._most:
            self.overfull = True
            return -1
        self._numbers[label] = len(self._numbers)
        self._counts = np.append(self._counts, 0.0)
        self._sums = np.vstack([self._sums, np.zeros((1, self._sums.shape[1]))])
        return self._numbers[label]
