"""Effects of changes as tables: one row for each row of the request and each site."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.sites import Site, SiteQuestion
from pellucid_server.engine.methods.shared.bootstrap import mean_intervals
from pellucid_server.engine.methods.shared.sites.site_runs import Measured
from pellucid_server.vocabulary.findings import Column, Table

Floats = npt.NDArray[np.float64]

_WITH_VALUE = frozenset({"constant", "scale", "noise", "steer"})


@dataclass(frozen=True, slots=True)
class Named:
    """A change as tables name it; `unit` and `position` are None unless it is of one."""

    site: str
    layer: str
    unit: int | None
    position: int | None
    intervention: str
    value: float | None = None
    """The constant, the factor, the deviation or the coefficient; None for others."""

    @classmethod
    def of(cls, question: SiteQuestion, number: int, site: Site) -> "Named":
        """Name what intervention `number` does at a site."""
        change = question.interventions[number]
        has_value = change.kind in _WITH_VALUE and (change.kind != "constant" or change.vector is None)
        return cls(
            site.name,
            site.layer,
            _only(site.units),
            _only(site.positions),
            change.kind,
            change.value if has_value else None,
        )


def _only(numbers: tuple[int, ...] | None) -> int | None:
    return numbers[0] if numbers is not None and len(numbers) == 1 else None


class Effects:
    """The effects of some changes, row by row."""

    def __init__(self, named: Sequence[Named]) -> None:
        self.named = named
        self._rows: list[int] = []
        self._before: list[float] = []
        self._after: list[Floats] = []
        self._errors: list[Floats | None] = []

    def add(self, row: int, measured: Measured) -> None:
        """Add what was measured of a row."""
        self._rows.append(row)
        self._before.append(measured.before)
        self._after.append(measured.after)
        self._errors.append(measured.standard_errors)

    def add_all(self, before: Floats, after: Floats) -> None:
        """Add all rows at once: (rows,) and (rows, sites)."""
        for row in range(len(before)):
            self._rows.append(row)
            self._before.append(float(before[row]))
            self._after.append(after[row])
            self._errors.append(None)

    def table(self) -> Table:
        """Return a row for each row of the request and each change, in their order."""
        count, sites = len(self._rows), len(self.named)
        before = np.repeat(self._before, sites).astype(np.float64)
        after = np.concatenate(self._after)
        columns = {"row": Column(np.repeat(np.array(self._rows, np.int64), sites)), **self._sites(count)}
        columns["before"] = Column(before, text="Metric of the unchanged network.")
        columns["after"] = Column(after, text="Metric with the change.")
        columns["effect"] = Column(before - after, text="Before less after.")
        if any(each is not None for each in self._errors):
            errors = np.concatenate([np.zeros(sites) if each is None else each for each in self._errors])
            columns["standard error"] = Column(errors, text="Standard error of `after`, over the draws.")
        return Table(columns, "The effect of each change.")

    def summary(self, seed: int) -> Table:
        """Return the mean effect of each change over the rows, with its bootstrap interval."""
        effects = np.array(self._before)[:, None] - np.stack(self._after)
        low, high = mean_intervals(effects, seed)
        columns = {
            **self._sites(1),
            "effect": Column(effects.mean(axis=0), text="Mean over the rows."),
            "low": Column(low, text="Lower end of its 95 % bootstrap interval over rows."),
            "high": Column(high, text="Upper end of its 95 % bootstrap interval over rows."),
            "rows": Column(np.full(len(self.named), len(effects), np.int64)),
        }
        return Table(columns, "Mean effects over the rows.")

    def _sites(self, times: int) -> dict[str, Column]:
        named = self.named
        return {
            "site": Column(tuple(each.site for each in named) * times),
            "layer": Column(tuple(each.layer for each in named) * times),
            "unit": _whole([each.unit for each in named] * times, "Index of the unit; missing for several."),
            "position": _whole([each.position for each in named] * times, "Index of the position."),
            "intervention": Column(tuple(each.intervention for each in named) * times),
            **self._values(times),
        }

    def _values(self, times: int) -> dict[str, Column]:
        values = [each.value for each in self.named] * times
        missing = np.array([value is None for value in values], np.bool_)
        if missing.all():
            return {}
        text = "The constant, factor, deviation or coefficient; missing for others."
        return {"value": Column(np.array([value or 0.0 for value in values]), missing, text=text)}


def _whole(numbers: list[int | None], text: str) -> Column:
    missing = np.array([number is None for number in numbers], np.bool_)
    return Column(np.array([number or 0 for number in numbers], np.int64), missing, text=text)
