"""Attribution patching: what activation patching would find, estimated for all sites at once by gradients.

Source: Nanda, "Attribution Patching: Activation Patching At Industrial Scale", 2023; along a path after Hanna, Pezzelle
and Belinkov, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms", COLM 2024.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.sites import Site, SiteLayer, SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.folds import WeightedSum
from pellucid_server.engine.evaluations.layer_gradients import VALUE, LayerGradients
from pellucid_server.engine.evaluations.recipes import Path, Rows
from pellucid_server.engine.evaluations.suffix import Suffix
from pellucid_server.engine.methods.shared.paths import gauss_legendre, scaled
from pellucid_server.engine.methods.shared.sites.effects import Effects, Named
from pellucid_server.engine.methods.shared.sites.patched import (
    DENOISE,
    DIRECTION,
    DIRECTIONS,
    Ends,
    changed_question,
    measure_ends,
    ranked,
    with_mean_scores,
    with_scores,
)
from pellucid_server.engine.methods.shared.sites.score_maps import score_map
from pellucid_server.engine.methods.shared.sites.site_parts import SitePart, site_parts
from pellucid_server.engine.methods.shared.sites.site_runs import Measured, SiteRuns
from pellucid_server.engine.methods.shared.sites.site_sums import SiteSums
from pellucid_server.errors import InvalidRequestError, TimedOutError
from pellucid_server.vocabulary.findings import Column, Findings, Table

Floats = npt.NDArray[np.float64]

_MOST_POINTS = 256
_MOST_CHECKED = 1000
_MOST_BYTES = 64 << 20
"""Bytes of layers' values, of a row, that one evaluation answers with."""
_MOST_GAP = 0.5
"""Gap of the checked estimates, as a share of the effects, from which on there is a warning."""
_SCORE = "Estimated share of the way from the unpatched run, 0, to the run that the values are of, 1."


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of attribution patching."""

    direction: str = parameter(DENOISE, DIRECTION, choices=DIRECTIONS)
    points: int = parameter(
        1,
        "Points on the straight path between a layer's values in the two runs that the gradient is averaged over, by "
        "the Gauss-Legendre rule; 1 takes it at the unpatched run's values alone.",
        minimum=1,
        maximum=_MOST_POINTS,
    )
    check: int = parameter(
        5, "How many sites of the largest estimates are patched to check them.", minimum=0, maximum=_MOST_CHECKED
    )


@method(
    "attribution-patching",
    Params,
    verb=ABLATE,
    family="patching",
    source="Nanda, 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching",
    cost=lambda params, question: Cost(forward=2 * question.count, backward=params.points * question.count),
    rows_parameter="points",
    needs=(Need.LAYERS, Need.GRADIENTS),
    baselines=Background.NONE,
    skips_parts=True,
)
def attribution_patching(model: Handle, question: SiteQuestion, params: Params) -> Iterator[Findings]:
    """Estimate by gradients what patching each site would do, for all sites at once, and check the largest.

    The estimate is the change of a site's values between the two runs times the metric's gradient there. It is exact
    where the metric is linear in the values, and may have the wrong sign where it is not.
    """
    if question.divergence:
        text = (
            "metric is KL_DIVERGENCE, whose gradient is 0 where the two runs agree; attribution-patching takes SCORE, "
            "PROBABILITY or LOGIT_DIFFERENCE."
        )
        raise InvalidRequestError(text, field="metric")
    changed = changed_question(question, params.direction, "attribution-patching")
    ends = measure_ends(model, changed, question.prediction)
    parts = site_parts(changed)
    estimates = _Estimates(model, changed, params.points)
    sites = [site for part in parts for site in part.sites]
    drawn = score_map(sites, changed.layers, None) is not None
    wanted = drawn or bool(params.check)
    found: list[Floats] = []
    for group in _groups(parts, changed.layers):
        places = [place for place, _ in group]
        if max(places) < question.parts_done and not (wanted and question.parts_done <= len(parts)):
            continue
        effects = estimates.of([part for _, part in group])
        for (place, part), each in zip(group, effects, strict=True):
            found.append(each)
            if place >= question.parts_done:
                _require_time(model)
                yield _part(changed, part, ends, params.direction, each, first=place == 0)
    if wanted and question.parts_done <= len(parts):
        everything = np.concatenate(found, axis=1)
        yield _last(model, question, changed, ends, parts, everything, params.check)


def _require_time(model: Handle) -> None:
    """End at the deadline between parts, too: once estimated, they evaluate nothing, which would find it passed."""
    if model.seconds_left() <= 0:
        raise TimedOutError("The deadline passed before all parts were made.", stage="running")


def _groups(parts: Sequence[SitePart], layers: Mapping[str, SiteLayer]) -> list[list[tuple[int, SitePart]]]:
    """Put parts together whose layers one evaluation can answer for."""
    found: list[list[tuple[int, SitePart]]] = []
    inside: set[str] = set()
    size = 0
    for place, part in enumerate(parts):
        more = 0 if part.layer in inside else 8 * int(np.prod(layers[part.layer].shape))
        if not found or size + more > _MOST_BYTES:
            found.append([])
            inside, size, more = set(), 0, 8 * int(np.prod(layers[part.layer].shape))
        found[-1].append((place, part))
        inside.add(part.layer)
        size += more
    return found


class _Estimates:
    """Estimates effects of patches: the metric before less after, as if it were linear."""

    def __init__(self, model: Handle, question: SiteQuestion, points: int) -> None:
        self._model = model
        self._question = question
        self._points = points

    def of(self, parts: Sequence[SitePart]) -> list[Floats]:
        """Return the effects of the sites of each part, (rows, sites)."""
        count = self._question.count
        by_layer: dict[str, list[SitePart]] = {}
        for part in parts:
            by_layer.setdefault(part.layer, []).append(part)
        sums = {
            layer: SiteSums(self._question.layers[layer], [site for part in each for site in part.sites])
            for layer, each in by_layer.items()
        }
        found = {id(part): np.empty((count, len(part.sites))) for part in parts}
        begin, end = parts[0].begin, parts[-1].end
        for row in range(count):
            step = (end - begin) / count
            progress = (begin + row * step, begin + (row + 1) * step)
            terms = self._terms(row, tuple(by_layer), progress)
            for layer, each in by_layer.items():
                effects = -sums[layer].of(terms[layer])
                ends = np.cumsum([len(part.sites) for part in each])
                for part, of_part in zip(each, np.split(effects, ends[:-1]), strict=True):
                    found[id(part)][row] = of_part
        return [found[id(part)] for part in parts]

    def _terms(self, row: int, layers: tuple[str, ...], progress: tuple[float, float]) -> dict[str, Floats]:
        """Return the change of every value between the runs times its gradient, (*shape) by layer."""
        question, model = self._question, self._model
        one, other = (
            Rows({name: array[row : row + 1] for name, array in rows.items()})
            for rows in (question.rows, question.source)
        )
        target = question.targets[row]
        ends = model.ask(Capture(other, layers)).arrays
        if self._points == 1:
            answer = model.ask(LayerGradients(one, target, layers), progress=progress)
            slopes = {layer: answer.arrays[layer][0] for layer in layers}
            starts = {layer: answer.arrays[f"{VALUE}{layer}"][0] for layer in layers}
        else:
            slopes, starts = {}, {}
            for layer in layers:
                slopes[layer], starts[layer] = self._along(one, layer, ends[layer][0], row)
        with np.errstate(all="ignore"):
            terms = {layer: scaled(slopes[layer], _change(starts[layer], ends[layer][0])) for layer in layers}
        for layer, each in terms.items():
            if not np.isfinite(each).all():
                text = (
                    f"The gradient at {layer} is not finite for row {row}, so that nothing can be estimated; use "
                    "activation-patching there."
                )
                raise InvalidRequestError(text, field="interventions")
        return terms

    def _along(
        self, one: Rows, layer: str, end: npt.NDArray[np.generic], row: int
    ) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        """Return the gradient's mean on the path from a layer's value in one run to `end`, and where it starts."""
        nodes, weights = gauss_legendre(self._points)
        held = self._model.hold(one, layer)
        try:
            start = held.values[0]
            path = Path({layer: start}, {layer: end}, nodes)
            fold = WeightedSum(weights, np.zeros(len(nodes), np.intp), 1)
            asked = Suffix(held, path, self._question.targets[row], gradient=True, fold=fold)
            return self._model.ask(asked).values[layer][0], start
        finally:
            self._model.release(held)


def _change(start: npt.NDArray[np.generic], end: npt.NDArray[np.generic]) -> Floats:
    return np.asarray(end.astype(np.float64) - start.astype(np.float64))


def _part(
    question: SiteQuestion, part: SitePart, ends: Ends, direction: str, effects: Floats, *, first: bool
) -> Findings:
    listed = Effects([Named.of(question, part.intervention, site) for site in part.sites])
    after = ends.start[:, None] - effects
    for row in range(question.count):
        listed.add(row, Measured(float(ends.start[row]), after[row], after[row][None]))
    scores, defined = ends.scores(-effects), ends.defined
    tables = {"effects": with_scores(_estimated(listed.table()), scores, defined, _SCORE)}
    if question.count > 1:
        tables["summary"] = with_mean_scores(listed.summary(question.seed), scores, defined, question.seed)
    if not first:
        return Findings(tables=tables)
    return Findings(tables={"runs": ends.table(direction), **tables}, warnings=ends.warnings())


def _estimated(table: Table) -> Table:
    texts = {"after": "Estimated metric with the patch.", "effect": "Before less the estimate of after."}
    columns = {
        name: Column(column.values, column.missing, column.unit, texts.get(name, column.text))
        for name, column in table.columns.items()
    }
    return Table(columns, "The estimated effect of each patch.")


def _last(
    model: Handle,
    question: SiteQuestion,
    changed: SiteQuestion,
    ends: Ends,
    parts: Sequence[SitePart],
    effects: Floats,
    check: int,
) -> Findings:
    """Check the largest estimates, and draw all where they make a map."""
    sites = [(part.intervention, site) for part in parts for site in part.sites]
    defined = ends.defined
    scores = ends.scores(-effects)
    means = scores[defined].mean(axis=0) if defined.any() else np.full(len(sites), np.nan)
    array = score_map([site for _, site in sites], changed.layers, means)
    arrays = {} if array is None else {"scores": array}
    if not check:
        return Findings(arrays=arrays)
    chosen = ranked(effects.mean(axis=0), check)
    exact = _exact(SiteRuns(model, changed, against=question.prediction), changed, [sites[index] for index in chosen])
    estimate = effects[:, chosen]
    columns = {
        "row": Column(np.repeat(np.arange(question.count), len(chosen))),
        "site": Column(tuple(sites[index][1].name for index in chosen) * question.count),
        "estimate": Column(estimate.reshape(-1), text="The estimated effect: the metric before less after."),
        "exact": Column(exact.reshape(-1), text="The effect by activation patching."),
        "gap": Column((estimate - exact).reshape(-1), text="Estimate less exact."),
    }
    table = Table(columns, "The sites of the largest mean estimates, patched.")
    return Findings(arrays=arrays, tables={"check": table}, warnings=_doubts(estimate, exact))


def _exact(runs: SiteRuns, question: SiteQuestion, sites: Sequence[tuple[int, Site]]) -> Floats:
    """Return the effects of patches of some sites, (rows, sites)."""
    found = np.empty((question.count, len(sites)))
    by_layer: dict[str, list[int]] = {}
    for place, (_, site) in enumerate(sites):
        by_layer.setdefault(site.layer, []).append(place)
    for places in by_layer.values():
        for row in range(question.count):
            measured = runs.measure(row, [(sites[place],) for place in places])
            found[row, places] = measured.before - measured.after
        runs.release()
    return found


def _doubts(estimate: Floats, exact: Floats) -> tuple[str, ...]:
    """Say what the checked estimates show of the others."""
    advice = "the metric is far from linear between the two runs. Take more points, or activation-patching."
    found = []
    wrong = int((estimate * exact < 0).sum())
    if wrong:
        found.append(f"{wrong} of the {estimate.size} estimates that were checked have the wrong sign: {advice}")
    size = float(np.median(np.abs(exact)))
    off = float(np.median(np.abs(estimate - exact)))
    if off > _MOST_GAP * size:
        share = f"{off / size:.2g} times the effects themselves" if size else "not 0, where the effects are"
        found.append(f"The estimates that were checked are off by {share}, by the medians: {advice}")
    return tuple(found)
