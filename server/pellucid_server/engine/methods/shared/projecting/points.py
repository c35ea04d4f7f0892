"""Which points of a probe set have coordinates: rows, or positions of rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.asking.probes import ProbeSet
from pellucid_server.engine.methods.shared.projecting.reductions import Numbers, Reduction
from pellucid_server.engine.methods.shared.units.unit_tables import place_columns
from pellucid_server.vocabulary.findings import Column, Table


@dataclass(frozen=True, slots=True)
class Points:
    """Points, in the order of their coordinates.

    Attributes
    ----------
    rows
        The number of each point's row, (points,).
    names, labels
        What the row is called, and its class, empty for none, for each point.
    places
        The position of each, in row-major order over `shape`, (points,); None where points are rows.
    axes
        What the axes of `shape` are called.
    """

    rows: Numbers
    names: tuple[str, ...]
    labels: tuple[str, ...]
    shape: tuple[int, ...] = ()
    places: Numbers | None = None
    axes: tuple[str, ...] = ()

    @classmethod
    def of(cls, keys: Numbers, reduction: Reduction, probe: ProbeSet, labels: Mapping[int, str]) -> "Points":
        """Find the points of these keys."""
        rows = reduction.rows(keys)
        numbers = np.unique(rows).tolist()
        names = dict(zip(numbers, probe.names(numbers), strict=True))
        places = reduction.places(keys) if reduction.points > 1 else None
        of = rows.tolist()
        titles = tuple(names[row] for row in of)
        return cls(rows, titles, tuple(labels.get(row, "") for row in of), reduction.shape, places, reduction.axes)

    @property
    def titles(self) -> tuple[str, ...]:
        """What each is called: the row, and the position if it has one."""
        if self.places is None:
            return self.names
        at = np.column_stack(np.unravel_index(self.places, self.shape)).tolist()
        return tuple(f"{name} at {', '.join(map(str, place))}" for name, place in zip(self.names, at, strict=True))

    def table(self) -> Table:
        """Return a row for each."""
        columns = {"row": Column(self.rows), "name": Column(self.names)}
        if any(self.labels):
            columns["label"] = Column(self.labels, np.array([not label for label in self.labels]))
        if self.places is not None:
            columns |= place_columns(self.axes, self.shape, self.places)
        return Table(columns, "What has coordinates, in the order of the coordinates.")
