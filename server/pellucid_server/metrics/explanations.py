"""Records how good explanations are, and on which columns of a table they put their weight."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pellucid_server.metrics.collectors import Metrics
from pellucid_server.metrics.families import Counter
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.results import AttributeResult, AttributionResult, PredictResult, Result

MOST_COLUMNS = 64
"""Columns of a model that have series of their own."""

OTHER = "other"
"""The label of a model's columns beyond those."""

_MOST_PLANS = 256

_Observe = Callable[[float], None]


class ExplanationRecorder:
    """Records the explanations of answers.

    Methods and models are what the workers say they are in the answer's receipts, so that labels are a closed set.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_labels: dict[tuple[str, str], tuple[_Observe, _Observe]] = {}
        self._shares: dict[str, _Shares] = {}

    def record(self, answer: Result | Findings) -> None:
        """Record every explained row of an answer; a part of findings that is not the last has none."""
        match answer:
            case PredictResult(explanations=explanations):
                for outcome in explanations:
                    self._add_all(outcome.attributions)
            case AttributeResult(attributions=attributions):
                self._add_all(attributions)
            case Findings(receipt=receipt, accuracy=accuracy) if receipt is not None:
                met = None if accuracy is None else accuracy.tolerance_met
                self._count(receipt.method, receipt.model.name, met)

    def _add_all(self, attributions: tuple[AttributionResult, ...]) -> None:
        for each in attributions:
            self._add(each)

    def _add(self, each: AttributionResult) -> None:
        receipt, accuracy = each.receipt, each.accuracy
        method, model = receipt.method, receipt.model.name
        self._count(method, model, accuracy.tolerance_met)
        error = each.approximation_error
        if error is not None and math.isfinite(error):
            observe_error, observe_gap = self._by_labels.get((method, model)) or self._look_up(method, model)
            observe_error(error)
            gap = _relative_gap(each, error)
            if math.isfinite(gap):
                observe_gap(gap)
        if any(scored.columns for scored in each.inputs.values()):
            shares = self._shares.get(model)
            if shares is None:
                shares = self._shares[model] = _Shares(self._metrics, model)
            shares.add(each)

    def _count(self, method: str, model: str, met: bool | None) -> None:
        tolerance = "none" if met is None else "met" if met else "missed"
        self._metrics.explanations.labels(method, model, tolerance).inc()

    def _look_up(self, method: str, model: str) -> tuple[_Observe, _Observe]:
        collectors = (self._metrics.approximation_error, self._metrics.completeness_gap)
        error, gap = (each.labels(method, model).observe for each in collectors)
        self._by_labels[method, model] = (error, gap)
        return error, gap


def _relative_gap(each: AttributionResult, error: float) -> float:
    """Return the gaps of an explanation's parts as a share of the score's change; of a whole without parts, `error`."""
    gap, baseline = each.accuracy.absolute_gap, each.baseline_output_value
    if gap is None or baseline is None:
        return error
    change = abs(each.instance_output_value - baseline)
    return gap / change if change else math.inf


class _Shares:
    """The shares of one model's columns in its explanations."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._sums = metrics.attribution_share_sum
        self._model = model
        self._count = metrics.attribution_shares.labels(model)
        self._slots: dict[str, int] = {}
        self._counters: list[Counter] = []
        self._rest = -1
        self._plans: dict[tuple[str, str], npt.NDArray[np.intp]] = {}

    def add(self, each: AttributionResult) -> None:
        """Add the columns' shares of one explanation; one whose scores are all 0, or not all finite, has none."""
        sizes = {name: np.abs(scored.scores, dtype=np.float64).reshape(-1) for name, scored in each.inputs.items()}
        total = float(sum(float(size.sum()) for size in sizes.values()))
        if not (0.0 < total < math.inf):
            return
        digest = each.receipt.model.digest
        for name, scored in each.inputs.items():
            if scored.columns:
                plan = self._plans.get((digest, name))
                if plan is None:
                    plan = self._plan((digest, name), scored.columns)
                found = np.bincount(plan, sizes[name] / total, minlength=len(self._counters))
                for counter, share in zip(self._counters, found.tolist(), strict=True):
                    counter.inc(share)
        self._count.inc()

    def _plan(self, key: tuple[str, str], columns: tuple[str, ...]) -> npt.NDArray[np.intp]:
        """Say under which counter each column goes: the first ones under their own names, the rest under one."""
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        plan = np.array([self._slot(column) for column in columns], np.intp)
        self._plans[key] = plan
        return plan

    def _slot(self, column: str) -> int:
        found = self._slots.get(column)
        if found is not None:
            return found
        if len(self._slots) < MOST_COLUMNS:
            found = self._slots[column] = self._new(column)
            return found
        # A column may have that very name.
        if self._rest < 0:
            self._rest = self._slots[OTHER] if OTHER in self._slots else self._new(OTHER)
        return self._rest

    def _new(self, label: str) -> int:
        self._counters.append(self._sums.labels(self._model, label))
        return len(self._counters) - 1
