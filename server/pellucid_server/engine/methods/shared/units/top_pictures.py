"""The pictures that units are largest in, drawn for many units and layers at once: each row is read and run once."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import Pixels, ProbeSet
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.units.contact_sheets import tile, unit_sheet
from pellucid_server.engine.methods.shared.units.dictionary import Named
from pellucid_server.vocabulary.findings import Findings, Picture

Floats = npt.NDArray[np.float32]
KeptMap = Callable[[str, int, int], Floats | None]
"""Returns the map of a layer's unit in a row, (positions,), if it was kept."""

_GROUP_UNITS = 96
"""Units whose tiles are in memory at once: some 40 MB."""
_SHEETS_A_PART = 16


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A tile: the picture at a rank of a unit of a layer."""

    named: Named
    unit: int
    rank: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.named.layer.name, self.unit, self.rank


class TopPictures:
    """The sheets of the units with the highest IoU of each layer.

    Parameters
    ----------
    most
        Units of each layer that have a sheet; detectors come first.
    batch_rows
        Rows that are run at once.
    kept
        Maps for which the model need not run again.
    """

    def __init__(
        self, handle: Handle, probe: ProbeSet, named: Sequence[Named], *, most: int, batch_rows: int, kept: KeptMap
    ) -> None:
        self._handle, self._probe, self._batch_rows, self._kept = handle, probe, batch_rows, kept
        units = [(each, unit) for each in named for unit in _shown(each, most)]
        self.groups = [units[first : first + _GROUP_UNITS] for first in range(0, len(units), _GROUP_UNITS)]
        """The layers and units of each group, which is drawn in one go."""

    def rows_of(self, number: int) -> int:
        """Return how many rows a group has pictures of."""
        return len(self._by_row(number))

    def sheets(self, number: int) -> Iterator[Findings]:
        """Draw a group's sheets, in parts."""
        by_row, tiles = self._by_row(number), dict[tuple[str, int, int], Pixels]()
        rows = sorted(by_row)
        for first in range(0, len(rows), self._batch_rows):
            some = rows[first : first + self._batch_rows]
            maps = self._maps(some, by_row)
            pictures = dict(zip(some, self._probe.pictures(some), strict=True))
            tiles |= self._handle.beside(functools.partial(_tiles, some, by_row, pictures, maps))
        group = self.groups[number]
        for first in range(0, len(group), _SHEETS_A_PART):
            draw = functools.partial(self._drawn, group[first : first + _SHEETS_A_PART], tiles)
            yield Findings(pictures=self._handle.beside(draw))

    def _drawn(
        self, units: Sequence[tuple[Named, int]], tiles: Mapping[tuple[str, int, int], Pixels]
    ) -> dict[str, Picture]:
        return dict(
            unit_sheet(
                named,
                unit,
                self._probe.concepts,
                [tiles[named.layer.name, unit, rank] for rank in range(_ranks(named, unit))],
            )
            for named, unit in units
        )

    def _by_row(self, number: int) -> Mapping[int, list[_Wanted]]:
        found = defaultdict[int, list[_Wanted]](list)
        for named, unit in self.groups[number]:
            for rank in range(_ranks(named, unit)):
                found[int(named.layer.top.rows[unit, rank])].append(_Wanted(named, unit, rank))
        return found

    def _maps(self, rows: Sequence[int], by_row: Mapping[int, list[_Wanted]]) -> dict[tuple[str, int, int], Floats]:
        """Return the maps of the tiles of some rows: those that were kept, or made again."""
        found, again, layers = dict[tuple[str, int, int], Floats](), list[int](), dict[str, Named]()
        for row in rows:
            for each in by_row[row]:
                kept = self._kept(each.named.layer.name, each.unit, row)
                if kept is not None:
                    found[each.key] = kept
                    continue
                layers[each.named.layer.name] = each.named
                if row not in again[-1:]:
                    again.append(row)
        if not again:
            return found
        values = self._handle.ask(Capture(Rows(self._probe.rows(again)), tuple(layers))).arrays
        for name, named in layers.items():
            maps = dict(zip(again, named.layer.by_row(values[name]), strict=True))
            for row in again:
                for each in by_row[row]:
                    if each.named.layer.name == name and each.key not in found:
                        found[each.key] = maps[row][each.unit].copy()
        return found


def _shown(named: Named, most: int) -> list[int]:
    """Return the units of a layer that have sheets, detectors first, then by IoU; dead ones may have no picture."""
    order = np.lexsort((named.layer.units, -named.best_iou, ~named.detector))[:most]
    return [unit for unit in order.tolist() if _ranks(named, unit)]


def _ranks(named: Named, unit: int) -> int:
    return int((named.layer.top.rows[unit] >= 0).sum())


def _tiles(
    rows: Sequence[int],
    by_row: Mapping[int, list[_Wanted]],
    pictures: Mapping[int, Pixels],
    maps: Mapping[tuple[str, int, int], Floats],
) -> dict[tuple[str, int, int], Pixels]:
    return {
        each.key: tile(each.named, each.unit, each.rank, pictures[row], maps[each.key])
        for row in rows
        for each in by_row[row]
    }
