"""Two runs of a network, a clean one and a corrupted one, and how far a change leads from one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.sites import SiteQuestion
from pellucid_server.engine.evaluations.targets import probabilities
from pellucid_server.engine.methods.shared.bootstrap import mean_intervals
from pellucid_server.engine.methods.shared.sites.site_runs import SiteRuns
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Column, Table

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DENOISE, NOISE = "denoise", "noise"
DIRECTIONS = (DENOISE, NOISE)
DIRECTION = (
    "denoise: run on the source and patch values of the inputs in, which shows what suffices; noise: run on the "
    "inputs and patch values of the source in, which shows what is needed."
)
_ROUNDINGS = 32
"""Roundings of a score that two runs may be apart and count as equal: what a network adds up, it rounds each time."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The metric of the two runs, row by row.

    Attributes
    ----------
    start, end
        Of the run that is changed, and of the one that values come from, (rows,).
    tolerance
        Up to which difference the two count as equal, (rows,).
    """

    start: Floats
    end: Floats
    tolerance: Floats

    @property
    def defined(self) -> Flags:
        """Of which rows the two runs differ, so that there is a score, (rows,)."""
        return np.asarray(np.abs(self.end - self.start) > self.tolerance)

    def scores(self, change: Floats) -> Floats:
        """Return how far changes of the metric, (rows, sites), lead: 0 at the start, 1 at the end, 0 if not defined."""
        defined = self.defined
        span = np.where(defined, self.end - self.start, 1.0)
        return np.asarray(np.where(defined[:, None], change / span[:, None], 0.0))

    def table(self, direction: str) -> Table:
        """Say what each run scores."""
        clean, corrupted = (self.end, self.start) if direction == DENOISE else (self.start, self.end)
        columns = {
            "row": Column(np.arange(len(clean))),
            "clean": Column(clean, text="Metric of the run on the inputs."),
            "corrupted": Column(corrupted, text="Metric of the run on the source."),
            "defined": Column(self.defined, text="Whether the two differ, so that there are scores."),
        }
        return Table(columns, "The two runs.")

    def warnings(self) -> tuple[str, ...]:
        """Say for which rows there are no scores."""
        lacking = np.flatnonzero(~self.defined)
        if not len(lacking):
            return ()
        some = ", ".join(map(str, lacking[:5].tolist())) + (", ..." if len(lacking) > 5 else "")
        return (
            f"The clean and the corrupted run have the same metric, to rounding, in {len(lacking)} of "
            f"{len(self.start)} rows ({some}): a score as the share of their difference is not defined there.",
        )


def changed_question(question: SiteQuestion, direction: str, method: str) -> SiteQuestion:
    """Return the question with the rows that are run as `rows`, and those that values come from as `source`.

    Raises
    ------
    InvalidRequestError
        There is no source, nothing to patch, or a change that is no patch.
    """
    if not question.source:
        raise InvalidRequestError(
            f"source is empty; {method} compares two runs: give the corrupted rows, one or as many as inputs has.",
            field="source",
        )
    if not any(each.sites for each in question.interventions):
        raise InvalidRequestError(
            f"interventions is empty; name the sites that {method} patches.", field="interventions"
        )
    for number, each in enumerate(question.interventions):
        if each.kind != "patch":
            field = f"interventions[{number}].kind"
            text = f"{field} is {each.kind.upper()}; {method} takes PATCH alone, and ablation the others."
            raise InvalidRequestError(text, field=field)
    corrupted = {
        name: np.broadcast_to(array, (question.count, *array.shape[1:])) for name, array in question.source.items()
    }
    if direction == NOISE:
        return replace(question, source=corrupted)
    return replace(question, rows=corrupted, source=question.rows)


def measure_ends(model: Handle, question: SiteQuestion, clean: npt.NDArray[np.generic]) -> Ends:
    """Measure both runs of a `changed_question`.

    Parameters
    ----------
    clean
        The output of the clean run, (rows, *shape): divergences are from it.
    """
    found = []
    for rows in (question.rows, question.source):
        runs = SiteRuns(model, replace(question, rows=rows), against=clean)
        found.append(np.array([runs.measure(row, ()).before for row in range(question.count)]))
    start, end = found
    return Ends(start, end, _tolerances(question, clean, start, end))


def _tolerances(question: SiteQuestion, clean: npt.NDArray[np.generic], start: Floats, end: Floats) -> Floats:
    """Return what the metric's rounding can make of each row: of a difference, that of what is subtracted."""
    rounding = _ROUNDINGS * float(np.finfo(np.float64 if clean.dtype == np.float64 else np.float32).eps)
    if question.divergence:
        return np.full(question.count, rounding)
    sizes = np.maximum(np.abs(start), np.abs(end))
    for row, target in enumerate(question.targets):
        read = probabilities(clean[row : row + 1].astype(np.float64), target.space).reshape(-1)
        terms = max(abs(weight * read[element]) for element, weight in target.elements)
        sizes[row] = max(sizes[row], float(terms))
    return np.asarray(rounding * sizes)


def with_scores(table: Table, scores: Floats, defined: Flags, text: str) -> Table:
    """Add scores, (rows, sites), to a table that has a row for each row of the request and each site."""
    sites = scores.shape[1]
    flags = np.repeat(defined, sites)
    columns = {
        **table.columns,
        "score": Column(scores.reshape(-1), None if defined.all() else ~flags, text=text),
        "defined": Column(flags, text="Whether the two runs differ, so that there is a score."),
    }
    return Table(columns, table.text)


def with_mean_scores(table: Table, scores: Floats, defined: Flags, seed: int) -> Table:
    """Add to a summary of sites the mean score over the rows that have one, with its bootstrap interval."""
    columns = dict(table.columns)
    count, none = scores.shape[1], ~defined.any()
    if none:
        missing = np.ones(count, np.bool_)
        empty = Column(np.zeros(count), missing)
        columns.update({"score": empty, "score low": empty, "score high": empty})
    else:
        chosen = scores[defined]
        low, high = mean_intervals(chosen, seed)
        columns["score"] = Column(chosen.mean(axis=0), text="Mean over the rows that have a score.")
        columns["score low"] = Column(low, text="Lower end of its 95 % bootstrap interval over those rows.")
        columns["score high"] = Column(high, text="Upper end of its 95 % bootstrap interval over those rows.")
    columns["rows with a score"] = Column(np.full(count, int(defined.sum()), np.int64))
    return Table(columns, table.text)


def ranked(values: Floats, count: int) -> Sequence[int]:
    """Return the indices of the `count` values of largest magnitude, the first of equal ones first."""
    order = np.argsort(-np.abs(values), kind="stable")
    return [int(index) for index in order[:count]]
