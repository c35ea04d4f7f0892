"""Ablation: how the metric changes when parts of the network are switched off, set, scaled or exchanged.

Source: Meyes, Lu, de Puiseau and Meisen, "Ablation Studies in Artificial Neural Networks", 2019; sufficiency and
comprehensiveness after DeYoung et al., "ERASER: A Benchmark to Evaluate Rationalized NLP Models", ACL 2020.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.sites import Site, SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.methods.shared.bootstrap import mean_intervals
from pellucid_server.engine.methods.shared.sites.effects import Effects, Named
from pellucid_server.engine.methods.shared.sites.places import require_apart
from pellucid_server.engine.methods.shared.sites.site_parts import SitePart, site_parts
from pellucid_server.engine.methods.shared.sites.site_runs import ChangeSet, Measured, SiteRuns
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, Table

_MOST_PAIRED = 64
"""Sites of which all pairs are changed."""
_MOST_OUTCOMES = 5


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of ablation."""

    joint: bool = parameter(False, "Make all changes at once, in place of each by itself.")
    interactions: bool = parameter(
        False,
        f"Also make every two changes at once, of at most {_MOST_PAIRED}: the effect of both less that of each.",
    )


@method(
    "ablation",
    Params,
    verb=ABLATE,
    family="ablation",
    source="Meyes, Lu, de Puiseau and Meisen, 2019, https://arxiv.org/abs/1901.08644",
    cost=lambda params, question: Cost(forward=question.count),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
    skips_parts=True,
)
def ablation(model: Handle, question: SiteQuestion, params: Params) -> Iterator[Findings]:
    """Measure what changes when sites of the network are switched off, set, scaled, steered or exchanged.

    An effect is the metric without the change less the metric with it: what the site contributes. Each site is changed
    by itself, of each row; the part of the network before it is run once. With `joint` all sites are changed at
    once; the answer then also says what is left when everything else in their layers is changed (sufficiency), and
    has the outputs without and with the changes.
    """
    if params.joint and params.interactions:
        text = 'parameters["interactions"] is set, and joint too; ask for one of them at a time.'
        raise InvalidRequestError(text, field='parameters["interactions"]')
    runs = SiteRuns(model, question)
    if (params.joint or params.interactions) and question.parts_done:
        return
    if params.joint:
        yield _joint(runs, question)
    elif params.interactions:
        yield from _interactions(runs, question)
    else:
        yield from _singly(runs, question)


def _singly(runs: SiteRuns, question: SiteQuestion) -> Iterator[Findings]:
    """Yield a part for the next sites of a layer: it depends on nothing that was yielded before."""
    parts = site_parts(question)[question.parts_done :]
    for place, part in enumerate(parts):
        # The first part is soon there: others are held by one pass from the second on.
        runs.hold_ahead([each.layer for each in (parts[place:] if place else parts[:1])])
        yield _part(runs, question, part)
    runs.release()


def _part(runs: SiteRuns, question: SiteQuestion, part: SitePart) -> Findings:
    named = [Named.of(question, part.intervention, site) for site in part.sites]
    sets: list[ChangeSet] = [((part.intervention, site),) for site in part.sites]
    effects = Effects(named)
    for row in range(question.count):
        effects.add(row, runs.measure(row, sets, progress=part.of_row(row, question.count)))
    tables = {"effects": effects.table()}
    if question.count > 1:
        tables["summary"] = effects.summary(question.seed)
    return Findings(tables=tables)


def _joint(runs: SiteRuns, question: SiteQuestion) -> Findings:
    changes: ChangeSet = tuple(
        (number, site) for number, intervention in enumerate(question.interventions) for site in intervention.sites
    )
    require_apart(question.layers, [site for _, site in changes])
    others = _complement(question, changes)
    sets = [changes] if others is None else [changes, others]
    found: list[Measured] = []
    for row in range(question.count):
        progress = (row / question.count, (row + 1) / question.count)
        found.append(runs.measure(row, sets, progress=progress))
    before = np.array([each.before for each in found])
    after = np.stack([each.after for each in found])
    columns = {
        "row": Column(np.arange(question.count)),
        "before": Column(before, text="Metric of the unchanged network."),
        "after": Column(after[:, 0], text="Metric with all changes."),
        "effect": Column(before - after[:, 0], text="Before less after: the comprehensiveness of the sites."),
    }
    if others is not None:
        columns["sufficiency"] = Column(
            before - after[:, 1], text="Before less the metric with everything else in the sites' layers changed."
        )
    tables = {"joint": Table(columns, "All changes at once, row by row.")}
    if question.count > 1:
        tables["joint summary"] = _joint_summary(question, before[:, None] - after, others is not None)
    arrays, outcomes = _outputs(runs, question, changes)
    return Findings(tables=tables | outcomes, arrays=arrays)


def _joint_summary(question: SiteQuestion, effects: npt.NDArray[np.float64], both: bool) -> Table:
    low, high = mean_intervals(effects, question.seed)
    names = ("comprehensiveness", "sufficiency") if both else ("comprehensiveness",)
    return Table(
        {
            "measure": Column(names),
            "mean": Column(effects.mean(axis=0)),
            "low": Column(low, text="Lower end of the 95 % bootstrap interval over rows."),
            "high": Column(high, text="Its upper end."),
        },
        "Means over the rows.",
    )


def _outputs(
    runs: SiteRuns, question: SiteQuestion, changes: ChangeSet
) -> tuple[dict[str, NamedArray], dict[str, Table]]:
    """Return the target's output without and with the changes, of each row, in the first draw, and who is highest."""
    found = [runs.outputs(row, changes) for row in range(question.count)]
    runs.release()
    name = question.targets[0].output
    before, after = (np.stack([pair[place][name] for pair in found]) for place in (0, 1))
    arrays = {}
    for key, values, text in (("output before", before, "unchanged"), ("output after", after, "changed")):
        labels = question.labels if values.ndim == 2 and len(question.labels) == values.shape[1] else ()
        axes = [Axis("row"), *(Axis(f"axis {axis}") for axis in range(values.ndim - 1))]
        if labels:
            axes[1] = Axis("class", labels)
        if np.isfinite(values).all():
            arrays[key] = NamedArray(values, tuple(axes), text=f"Output {name} of the {text} network.")
    classes = before.ndim == 2 and before.shape[1] > 1 and len(arrays) == 2
    return arrays, {"outcomes": _outcomes(before, after, question.labels)} if classes else {}


def _outcomes(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic], labels: tuple[str, ...]) -> Table:
    """Return the highest elements of each row's output, without and with the changes, in the order with them."""
    rows, places = [], []
    for row in range(len(before)):
        highest = {
            int(place) for each in (before, after) for place in np.argsort(-each[row], kind="stable")[:_MOST_OUTCOMES]
        }
        ordered = sorted(highest, key=lambda place: (-float(after[row, place]), place))
        rows += [row] * len(ordered)
        places += ordered
    index = (np.array(rows), np.array(places))
    return Table(
        {
            "row": Column(index[0]),
            "index": Column(index[1]),
            "label": Column(tuple(labels[place] if labels else "" for place in places)),
            "before": Column(before[index].astype(np.float64), text="The output's value without the changes."),
            "after": Column(after[index].astype(np.float64), text="Its value with all changes."),
        },
        f"The {_MOST_OUTCOMES} highest elements of the output, without and with the changes.",
    )


def _complement(question: SiteQuestion, changes: ChangeSet) -> ChangeSet | None:
    """Return the changes of all units that are in no site of the same layers; None where there is no such set.

    Sites of units alone have one, where each layer has one intervention.
    """
    by_layer: dict[str, tuple[int, set[int]]] = {}
    for number, site in changes:
        if site.units is None or site.positions is not None:
            return None
        known, units = by_layer.setdefault(site.layer, (number, set()))
        if known != number:
            return None
        units.update(site.units)
    found: list[tuple[int, Site]] = []
    for name, (number, units) in by_layer.items():
        others = tuple(unit for unit in range(question.layers[name].units) if unit not in units)
        if others:
            found.append((number, Site(name, others)))
    return tuple(found) or None


def _interactions(runs: SiteRuns, question: SiteQuestion) -> Iterator[Findings]:
    changes = [
        (number, site) for number, intervention in enumerate(question.interventions) for site in intervention.sites
    ]
    if len(changes) > _MOST_PAIRED:
        text = f"interventions have {len(changes)} sites; interactions are of at most {_MOST_PAIRED}."
        raise InvalidRequestError(text, field="interventions")
    require_apart(question.layers, [site for _, site in changes])
    pairs = list(itertools.combinations(range(len(changes)), 2))
    named = [Named.of(question, number, site) for number, site in changes]
    effects = Effects(named)
    joint = np.empty((question.count, len(pairs)))
    sets: list[ChangeSet] = [(each,) for each in changes] + [(changes[a], changes[b]) for a, b in pairs]
    for row in range(question.count):
        progress = (row / question.count, (row + 1) / question.count)
        found = runs.measure(row, sets, progress=progress)
        single = Measured(found.before, found.after[: len(changes)], found.draws[:, : len(changes)])
        effects.add(row, single)
        alone = found.before - single.after
        for place, (a, b) in enumerate(pairs):
            joint[row, place] = found.before - found.after[len(changes) + place] - alone[a] - alone[b]
    runs.release()
    count = question.count
    columns = {
        "row": Column(np.repeat(np.arange(count), len(pairs))),
        "site": Column(tuple(named[a].site for a, _ in pairs) * count),
        "other site": Column(tuple(named[b].site for _, b in pairs) * count),
        "interaction": Column(joint.reshape(-1), text="Effect of both changes less the effect of each."),
    }
    tables = {"effects": effects.table(), "interactions": Table(columns, "Every two changes at once.")}
    if count > 1:
        low, high = mean_intervals(joint, question.seed)
        means = {
            "site": Column(tuple(named[a].site for a, _ in pairs)),
            "other site": Column(tuple(named[b].site for _, b in pairs)),
            "interaction": Column(joint.mean(axis=0), text="Mean over the rows."),
            "low": Column(low, text="Lower end of its 95 % bootstrap interval over rows."),
            "high": Column(high, text="Upper end of its 95 % bootstrap interval over rows."),
        }
        tables["summary"] = effects.summary(question.seed)
        tables["interaction summary"] = Table(means, "Means over the rows.")
    yield Findings(tables=tables)
