"""What pictures of ablations share: titles, numbers, axes. Needs `pellucid[plot]`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pellucid.ablations import Ablation, outcome_name
from pellucid.interventions import Intervention
from pellucid.plots import BLUE, RED, literal
from pellucid.receipts import Outcome
from pellucid.sites import read_sites

WIDTH = 9.0
GREY = "0.45"
MOST_TICKS = 24
_MOST_NAMED = 3
"""Interventions that a title names."""
_MOST_LETTERS = 110
_VALUES = ("value", "factor", "deviation", "coefficient")


def title(ablation: Ablation) -> str:
    """Return a figure's title: the method and the model, then what was measured and what was changed."""
    model = ablation.model
    partial = ", cut short by the deadline" if ablation.partial else ""
    said = [measured(ablation), _changed(ablation)]
    lines = [f"{ablation.method}, {model.name} version {model.version}{partial}"]
    lines += [_cut("; ".join(each for each in said if each))] if any(said) else []
    return literal("\n".join(lines))


def measured(ablation: Ablation) -> str:
    """Return what was measured, such as "logit of malignant"; empty where the answer does not say."""
    record, target = ablation.findings.record, ablation.receipt.target
    metric = "score" if record is None else record.metric
    if metric == "kl-divergence":
        return "KL divergence from the unchanged prediction"
    if target is None:
        return ""
    words = {"logits": "logit", "probabilities": "probability"}
    what = "probability" if metric == "probability" else words.get(target.space, target.output)
    element = _target_name(ablation, target.outcome, target.output)
    against = "" if target.contrast is None else outcome_name(ablation, target.contrast, target.output)
    return f"{what}{element and f' of {element}'}{against and f' less that of {against}'}"


def _target_name(ablation: Ablation, outcome: Outcome, output: str) -> str:
    rows = ablation.tables.get("rows")
    labels = {str(each) for each in rows["label"] if each} if rows is not None and "label" in rows.columns else set()
    if len(labels) == 1:
        return labels.pop()
    return "each row's highest element" if labels else outcome_name(ablation, outcome, output)


def _changed(ablation: Ablation) -> str:
    record = ablation.findings.record
    changes = () if record is None else record.interventions
    if len(changes) > _MOST_NAMED:
        return f"{len(changes)} interventions"
    return ", ".join(map(_intervention_text, changes))


def _intervention_text(each: Intervention) -> str:
    values = [getattr(each, name) for name in _VALUES if hasattr(each, name)]
    numbers = [f" {value:g}" for value in values if isinstance(value, int | float)]
    return f"{each.kind}{''.join(numbers)} {', '.join(map(str, read_sites(each.sites, 'sites')))}"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def bare(axes: Axes) -> None:
    """Leave of an axes' frame the bottom alone."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def column(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return a column's numbers as float64, (rows), NaN where there is none."""
    values = [each.get(name) for each in rows]
    return np.array([float(each) if isinstance(each, int | float) else math.nan for each in values])


def whiskers(values: Any, low: Any, high: Any) -> Any:
    """Return the distances to the interval's ends, (2, rows); None where no row has an interval."""
    if not (np.isfinite(low) & np.isfinite(high)).any():
        return None
    # A bootstrap's interval may lie beside the value itself.
    return np.maximum(0.0, np.nan_to_num(np.stack([values - low, high - values])))


def colours(values: Any) -> list[str]:
    """Return red for what is above 0, else blue."""
    return [RED if value > 0 else BLUE for value in values]


def ticks(axis: Any, places: Any, length: int, *, rotation: float = 0.0) -> None:
    """Label an axis; only each n-th of many."""
    step = -(-length // MOST_TICKS)
    names = [_value(each) for each in places] if places is not None else [str(place) for place in range(length)]
    axis.set_ticks(range(0, length, step), [literal(name) for name in names[::step]], fontsize=8, rotation=rotation)


def draw_heat(axes: Axes, values: Any, label: str) -> None:
    """Draw values as colours: red above 0, blue below, grey where there is none; with a bar that says how much."""
    shown = np.ma.masked_invalid(np.asarray(values, np.float64))
    most = float(np.abs(shown).max()) if shown.count() else 0.0
    axes.set_facecolor("0.85")
    image = axes.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-most or -1.0, vmax=most or 1.0, interpolation="none")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label(literal(label), fontsize=8)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float | np.number) else str(value)
