"""Tuning curves of units for gratings: all see a grid of them, then each sees variations of its best."""

from collections.abc import Iterator, Sequence

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import Preview, ProbeLayer, ProbeQuestion, Yielded
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.tuning.stimuli import Grating
from pellucid_server.engine.methods.shared.tuning.tuned import Tuned, tuned
from pellucid_server.engine.methods.shared.tuning.tuning_answers import findings, joined
from pellucid_server.engine.methods.shared.tuning.tuning_measures import Floats
from pellucid_server.engine.methods.shared.tuning.tuning_stimuli import Stimuli
from pellucid_server.engine.methods.shared.tuning.unit_responses import Follow, Make, UnitResponses, grouped
from pellucid_server.vocabulary.findings import Findings


class PictureTuning:
    """Measures the tuning of layers' units.

    Parameters
    ----------
    name
        The input that takes the pictures.
    others
        A row of every other input, (1, *features) each, beside every picture.
    response, measure, rectified
        See the parameters of `tuning-curve`.
    """

    def __init__(
        self,
        handle: Handle,
        stimuli: Stimuli,
        name: str,
        others: Arrays,
        *,
        response: str,
        measure: str,
        rectified: bool,
    ) -> None:
        self._handle = handle
        self._stimuli = stimuli
        self._name = name
        self._others = others
        self._response = response
        self._measure = measure
        self._rectified = rectified
        self._common = stimuli.common
        self._each = sum(stimuli.own.values())

    def run(self, question: ProbeQuestion) -> Iterator[Yielded]:
        """Yield states to go on from, and what is found of each layer."""
        columns = len(self._common) + self._each
        groups = grouped(question.layers, columns)
        before, state = 0, question.state
        first = 0
        if state is not None:
            first, before = int(state.values["group"]), int(state.values["before"])
        for number, layers in enumerate(groups[first:], first):
            at = {"group": number, "before": before}
            responses = UnitResponses(self._handle, layers, self._response, columns, state, **at)
            yield from self._group(responses, layers, before, len(groups) - number)
            before, state = responses.done + before, None

    def _group(
        self, responses: UnitResponses, layers: tuple[ProbeLayer, ...], before: int, groups: int
    ) -> Iterator[Yielded]:
        common = len(self._common)
        units = sum(len(each.units) for each in layers)
        most = common + min(units, self._stimuli.grid) * self._each
        yield from responses.gather(self._make(self._common), 0, common, before, before + most * groups)
        tunings = [self._tuned(responses, number) for number in range(len(layers))]
        best = np.concatenate([each.best for each in tunings])
        distinct = np.unique(best[best >= 0])
        if self._each and len(distinct):
            yield Preview(joined(self._found(responses, layers, tunings)))
            owners = np.where(best >= 0, np.searchsorted(distinct, best), -1)
            count = len(distinct) * self._each
            make = self._make_variations(distinct.tolist())
            rows = before + common + count + most * (groups - 1)
            yield from responses.gather(make, common, count, before, rows, Follow(owners, self._each, common))
        yield from self._found(responses, layers, tunings)

    def _found(
        self, responses: UnitResponses, layers: tuple[ProbeLayer, ...], tunings: Sequence[Tuned]
    ) -> list[Findings]:
        """Return what is found of each layer by what was evaluated so far."""
        return [
            findings(each, self._stimuli, found, self._curves(responses.of(number), found), self._response)
            for number, (each, found) in enumerate(zip(layers, tunings, strict=True))
        ]

    def _tuned(self, responses: UnitResponses, number: int) -> Tuned:
        values = responses.of(number)
        grid = values[:, 1 : 1 + self._stimuli.grid].reshape(-1, *self._stimuli.shape)
        scale = float(responses.scales[number])
        return tuned(values[:, 0], grid, scale, self._measure, rectified=self._rectified)

    def _curves(self, values: Floats, found: Tuned) -> dict[str, Floats]:
        """Return the evoked responses beside the grid, (units, n) each; NaN where there are none."""
        curves: dict[str, Floats] = {}
        evoked = values - found.blank[:, None]
        if self._stimuli.uniform:
            curves["colour"] = evoked[:, 1 + self._stimuli.grid : len(self._common)]
        start = len(self._common)
        for name, count in self._stimuli.own.items():
            curves[name] = evoked[:, start : start + count]
            start += count
        return curves

    def _make(self, gratings: Sequence[Grating]) -> Make:
        return lambda first, last: self._rows(gratings[first:last])

    def _make_variations(self, distinct: list[int]) -> Make:
        def make(first: int, last: int) -> Arrays:
            stimuli = range(first // self._each, -(-last // self._each))
            drawn = [each for place in stimuli for each in self._stimuli.variations(self._stimuli.at(distinct[place]))]
            skipped = stimuli.start * self._each
            return self._rows(drawn[first - skipped : last - skipped])

        return make

    def _rows(self, gratings: Sequence[Grating]) -> Arrays:
        pictures = self._stimuli.canvas.draw(gratings)
        beside = {name: np.repeat(row, len(gratings), axis=0) for name, row in self._others.items()}
        return {self._name: pictures, **beside}
