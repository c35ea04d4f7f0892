"""Activation patching: which values of one run make another run answer as the first does.

Source: Meng, Bau, Andonian and Belinkov, "Locating and Editing Factual Associations in GPT", NeurIPS 2022; directions
and metrics after Zhang and Nanda, "Towards Best Practices of Activation Patching in Language Models", ICLR 2024.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.sites import SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.methods.shared.sites.effects import Effects, Named
from pellucid_server.engine.methods.shared.sites.patched import (
    DENOISE,
    DIRECTION,
    DIRECTIONS,
    Ends,
    changed_question,
    measure_ends,
    with_mean_scores,
    with_scores,
)
from pellucid_server.engine.methods.shared.sites.score_maps import score_map
from pellucid_server.engine.methods.shared.sites.site_parts import SitePart, site_parts
from pellucid_server.engine.methods.shared.sites.site_runs import ChangeSet, SiteRuns
from pellucid_server.vocabulary.findings import Findings

Floats = npt.NDArray[np.float64]

_ONE = 1e-4
_SCORE = "How far the patch leads: 0 as the unpatched run, 1 as the run that the values are of."


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of activation patching."""

    direction: str = parameter(DENOISE, DIRECTION, choices=DIRECTIONS)


@method(
    "activation-patching",
    Params,
    verb=ABLATE,
    family="patching",
    source="Meng, Bau, Andonian and Belinkov, NeurIPS 2022, https://arxiv.org/abs/2202.05262",
    cost=lambda params, question: Cost(forward=question.count),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
    skips_parts=True,
)
def activation_patching(model: Handle, question: SiteQuestion, params: Params) -> Iterator[Findings]:
    """Patch values of one run into another, site by site, and measure how far that leads from one to the other.

    The clean run is on the inputs, the corrupted one on the source. The score of a patch is the share of the way from
    the run that is changed to the run that the values come from, by the metric: it is not defined where the two runs
    have the same metric.
    """
    changed = changed_question(question, params.direction, "activation-patching")
    runs = SiteRuns(model, changed, against=question.prediction)
    ends = measure_ends(model, changed, question.prediction)
    parts = site_parts(changed)
    sites = [site for part in parts for site in part.sites]
    drawn = score_map(sites, changed.layers, None) is not None
    found: list[Floats] = []
    for place, part in enumerate(parts):
        # What is drawn at the end needs all scores, those of parts that the caller has too.
        if place < question.parts_done and not (drawn and question.parts_done <= len(parts)):
            continue
        runs.hold_ahead([each.layer for each in (parts[place:] if place else parts[:1])])
        effects, scores = patch(runs, changed, part, ends)
        found.append(scores)
        if place >= question.parts_done:
            yield _part(question, ends, params.direction, effects, scores, first=place == 0)
    runs.release()
    if drawn and question.parts_done <= len(parts):
        mean = _means(np.concatenate(found, axis=1), ends)
        array = score_map(sites, changed.layers, mean)
        assert array is not None  # noqa: S101 - it was seen above that the sites make one
        yield Findings(arrays={"scores": array})


def patch(runs: SiteRuns, question: SiteQuestion, part: SitePart, ends: Ends) -> tuple[Effects, Floats]:
    """Patch the sites of a part; return their effects and scores, (rows, sites)."""
    sets: list[ChangeSet] = [((part.intervention, site),) for site in part.sites]
    effects = Effects([Named.of(question, part.intervention, site) for site in part.sites])
    change = np.empty((question.count, len(sets)))
    for row in range(question.count):
        measured = runs.measure(row, sets, progress=part.of_row(row, question.count))
        effects.add(row, measured)
        # Both of one evaluation: what changes nothing scores 0 though the runs' difference is small.
        change[row] = measured.after - measured.before
    return effects, ends.scores(change)


def _part(
    question: SiteQuestion, ends: Ends, direction: str, effects: Effects, scores: Floats, *, first: bool
) -> Findings:
    defined = ends.defined
    tables = {"effects": with_scores(effects.table(), scores, defined, _SCORE)}
    if question.count > 1:
        tables["summary"] = with_mean_scores(effects.summary(question.seed), scores, defined, question.seed)
    warnings = _everything(question, effects, scores)
    if not first:
        return Findings(tables=tables, warnings=warnings)
    return Findings(tables={"runs": ends.table(direction), **tables}, warnings=ends.warnings() + warnings)


def _everything(question: SiteQuestion, effects: Effects, scores: Floats) -> tuple[str, ...]:
    """Say of which layers a patch is the other run itself."""
    whole = [
        each.site
        for each, score in zip(effects.named, scores.T, strict=True)
        if each.site == each.layer and np.isfinite(score).all() and np.allclose(score, 1.0, atol=_ONE)
    ]
    if not whole:
        return ()
    named = ", ".join(whole)
    return (f"Nothing passes by {named}: patching all of it is the other run. Patch its units, positions or branch.",)


def _means(scores: Floats, ends: Ends) -> Floats:
    """Return each site's mean over the rows that have a score; NaN where none has."""
    defined = ends.defined
    return scores[defined].mean(axis=0) if defined.any() else np.full(scores.shape[1], np.nan)
