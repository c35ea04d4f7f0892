"""Ablation curves: the metric while more and more sites are changed, the most important first or last.

Source: Samek, Binder, Montavon, Lapuschkin and Müller, "Evaluating the Visualization of What a Deep Neural Network Has
Learned", IEEE Transactions on Neural Networks and Learning Systems 28, 2017; applied to a network's own parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.sites import SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.methods.shared.bootstrap import mean_intervals
from pellucid_server.engine.methods.shared.sites.effects import Effects, Named
from pellucid_server.engine.methods.shared.sites.places import require_apart
from pellucid_server.engine.methods.shared.sites.site_runs import Change, ChangeSet, SiteRuns
from pellucid_server.errors import InvalidRequestError, TimedOutError
from pellucid_server.vocabulary.findings import Column, Findings, Table
from pellucid_server.vocabulary.results import Accuracy

Floats = npt.NDArray[np.float64]

_MOST_SITES = 1 << 14
_ORDERS = ("most-first", "least-first")


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of ablation curves."""

    points: int = parameter(
        21, "Points of a curve, from no site changed to all; each costs two runs of each row.", minimum=2, maximum=1025
    )
    ranked: bool = parameter(
        True, "Rank the sites by their own effects first; else they are in the order in which the request names them."
    )


@method(
    "ablation-curve",
    Params,
    verb=ABLATE,
    family="ablation",
    source="Samek, Binder, Montavon, Lapuschkin and Müller, 2017, https://arxiv.org/abs/1509.06321",
    cost=lambda params, question: Cost(forward=2 * params.points * question.count),
    rows_parameter="points",
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
)
def ablation_curve(model: Handle, question: SiteQuestion, params: Params) -> Iterator[Findings]:
    """Change more and more sites at once, the most important first and the least important first.

    Sites are ranked by their effect on the metric, each changed by itself, averaged over the rows; of equal ones the
    first named comes first. A point of a curve has the comprehensiveness of the sites that are changed, and the
    sufficiency of the others: the metric that is lost. The area under a curve is by the trapezoidal rule over the share
    of sites, in units of the metric.
    """
    changes: list[Change] = [
        (number, site) for number, intervention in enumerate(question.interventions) for site in intervention.sites
    ]
    if len(changes) < 2:
        text = f"interventions have {len(changes)} sites; a curve needs two, as of a Site with each set to UNIT."
        raise InvalidRequestError(text, field="interventions")
    if len(changes) > _MOST_SITES:
        text = f"interventions have {len(changes)} sites; a curve takes at most {_MOST_SITES}."
        raise InvalidRequestError(text, field="interventions")
    require_apart(question.layers, [site for _, site in changes])
    runs = SiteRuns(model, question)
    order, ranking = list(range(len(changes))), None
    half = 0.5 if params.ranked else 0.0
    if params.ranked:
        order, ranking = _rank(runs, question, changes, half)
        yield Findings(tables={"effects": ranking})
    counts = _counts(len(changes), params.points)
    curves = {name: np.empty((question.count, len(counts))) for name in _ORDERS}
    rows = 0
    try:
        for row in range(question.count):
            done = half + (1 - half) * row / question.count
            progress = (done, done + (1 - half) / question.count)
            for name, ordered in zip(_ORDERS, (order, order[::-1]), strict=True):
                sets: list[ChangeSet] = [tuple(changes[place] for place in ordered[:count]) for count in counts[1:]]
                found = runs.measure(row, sets, progress=progress)
                curves[name][row] = [found.before, *found.after]
            rows += 1
    except TimedOutError:
        # Curves of fewer rows are curves too.
        if not rows:
            raise
        curves = {name: each[:rows] for name, each in curves.items()}
    runs.release()
    partial = rows < question.count
    text = f"The deadline left time for the curves of {rows} of {question.count} rows; they are the means over those."
    yield Findings(
        tables={
            "curve": _curve(curves, counts, question.seed),
            "area": _areas(curves, counts, question.seed),
        },
        accuracy=Accuracy(partial=True) if partial else None,
        warnings=(text,) if partial else (),
    )


def _rank(runs: SiteRuns, question: SiteQuestion, changes: Sequence[Change], end: float) -> tuple[list[int], Table]:
    """Return the sites' order, the most important first, and their effects."""
    by_layer: dict[str, list[int]] = {}
    for place, (_, site) in enumerate(changes):
        by_layer.setdefault(site.layer, []).append(place)
    effects = np.empty((question.count, len(changes)))
    named = [Named.of(question, number, site) for number, site in changes]
    measured = Effects(named)
    done = 0
    after = np.empty((question.count, len(changes)))
    before = np.empty(question.count)
    layers = list(by_layer)
    for number, places in enumerate(by_layer.values()):
        runs.hold_ahead(layers[number:])
        for row in range(question.count):
            share = end * (done + len(places) * row / question.count) / len(changes)
            progress = (share, share + end * len(places) / question.count / len(changes))
            found = runs.measure(row, [(changes[place],) for place in places], progress=progress)
            after[row, places], before[row] = found.after, found.before
            effects[row, places] = found.before - found.after
        done += len(places)
    runs.release()
    # A divergence grows with what is lost, where a score falls.
    mean = effects.mean(axis=0) * (-1 if question.divergence else 1)
    # A stable sort: of equal effects the first named comes first.
    order = np.argsort(-mean, kind="stable").tolist()
    measured.add_all(before, after)
    return order, measured.summary(question.seed) if question.count > 1 else measured.table()


def _counts(sites: int, points: int) -> list[int]:
    """Return how many sites are changed at each point, all different, from none to all."""
    return sorted({round(share * sites) for share in np.linspace(0, 1, points).tolist()})


def _curve(curves: dict[str, Floats], counts: Sequence[int], seed: int) -> Table:
    sites = counts[-1]
    columns: dict[str, list[npt.NDArray[np.generic]]] = {
        name: [] for name in ("changed", "fraction", "score", "low", "high", "lost")
    }
    for scores in curves.values():
        low, high = mean_intervals(scores, seed)
        mean = scores.mean(axis=0)
        columns["changed"].append(np.array(counts, np.int64))
        columns["fraction"].append(np.array(counts) / sites)
        columns["score"].append(mean)
        columns["low"].append(low)
        columns["high"].append(high)
        columns["lost"].append(mean[0] - mean)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    texts = {
        "changed": "Sites that are changed.",
        "fraction": "Their share of all sites.",
        "score": "Mean metric over the rows.",
        "low": "Lower end of its 95 % bootstrap interval over rows.",
        "high": "Upper end of its 95 % bootstrap interval over rows.",
        "lost": "The unchanged metric less this: comprehensiveness with the most important first, sufficiency with the "
        "least important first.",
    }
    order = tuple(name for name in curves for _ in counts)
    return Table(
        {"order": Column(order), **{name: Column(values, text=texts[name]) for name, values in joined.items()}},
        "The metric while more and more sites are changed.",
    )


def _areas(curves: dict[str, Floats], counts: Sequence[int], seed: int) -> Table:
    shares = np.array(counts) / counts[-1]
    areas = np.stack(
        [((each[:, 1:] + each[:, :-1]) / 2 * np.diff(shares)).sum(axis=1) for each in curves.values()], axis=1
    )
    areas = np.column_stack([areas, areas[:, 1] - areas[:, 0]])
    low, high = mean_intervals(areas, seed)
    return Table(
        {
            "order": Column((*curves, "difference")),
            "area": Column(areas.mean(axis=0), text="Mean area under the curve over the rows, in units of the metric."),
            "low": Column(low, text="Lower end of its 95 % bootstrap interval over rows."),
            "high": Column(high, text="Upper end of its 95 % bootstrap interval over rows."),
        },
        "Areas under the curves, and least-first less most-first.",
    )
