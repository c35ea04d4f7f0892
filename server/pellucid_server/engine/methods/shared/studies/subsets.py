"""The subsets that a study gives results of: all rows, the rows of each class, and those of each group."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.studies import Batch
from pellucid_server.errors import UnsupportedError

MOST_VALUES = 1000
"""Values that a group column may have."""

Subset = tuple[str, str]
"""How it is chosen ("all", "class" or a column's name), and the value."""


class Subsets:
    """Numbers subsets in the order in which they appear; the first is of all rows.

    Parameters
    ----------
    classes
        The classes' names; empty where the model predicts a number.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._numbers: dict[Subset, int] = {("all", ""): 0}
        self._values: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, batch: Batch) -> Iterator[npt.NDArray[np.intp]]:
        """Give, for each way to divide the rows, the number of each row's subset, (rows,).

        Raises
        ------
        UnsupportedError
            A group column has too many values.
        """
        yield np.zeros(batch.count, np.intp)
        if self._classes:
            yield self._coded("class", [str(int(label)) for label in batch.labels])
        for name, values in batch.groups.items():
            yield self._coded(f"\0{name}", values)

    def listed(self) -> list[tuple[int, str, str]]:
        """Return number, column and value of each: all rows, the classes in order, then the groups by value."""
        order = {by: place for place, by in enumerate(dict.fromkeys(by for by, _ in self._numbers))}

        def key(item: tuple[Subset, int]) -> tuple[int, int, str]:
            (by, value), _ = item
            return order[by], int(value) if by == "class" else 0, value

        found = sorted(self._numbers.items(), key=key)
        return [
            (number, by.removeprefix("\0"), self._classes[int(value)] if by == "class" else value)
            for (by, value), number in found
        ]

    def _coded(self, by: str, values: Sequence[str]) -> npt.NDArray[np.intp]:
        numbers = np.empty(len(values), np.intp)
        for place, value in enumerate(values):
            number = self._numbers.get((by, value))
            if number is None:
                number = self._added(by, value)
            numbers[place] = number
        return numbers

    def _added(self, by: str, value: str) -> int:
        self._values[by] = self._values.get(by, 0) + 1
        if by != "class" and self._values[by] > MOST_VALUES:
            name = by.removeprefix("\0")
            raise UnsupportedError(
                f"The group column {name!r} has more than {MOST_VALUES} values; group by categories, such as "
                "ages in tens of years.",
                subject=f"columns/{name}",
            )
        return self._numbers.setdefault((by, value), len(self._numbers))
