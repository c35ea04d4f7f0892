"""Network dissection: which concept each unit detects, the semantic dictionary of layers.

A first pass finds each unit's threshold, the next adds up where units and concepts meet; maps that may be above their
thresholds are kept from the first, so that the model runs again only for rows whose maps there was no room for.

What is found, by name:

- table "dictionary": layer, unit, concept, category, iou, iou_chance, iou_error, runner_up, runner_up_iou, precision,
  recall, threshold, dead, detector, sure, plateau, share_on; a row for each unit of each layer, in order.
- table "best_by_category": layer, unit, category, concept, iou; where the IoU is above 0.
- table "concepts": concept, category, pixels, pictures, layer, unit, iou, detectors; a row for each of the probe's,
  with the layer and unit that detect it best.
- table "categories": layer, category, units, concepts; how many units detect its concepts, and how many different
  concepts they detect.
- table "layers": layer, units, detectors, concepts, sure_detectors, sure_concepts, dead, height, width, grid_height,
  grid_width, values, threshold_rule, rank_error, upsampling.
- table "top": layer, unit, rank, row, name, activation, y, x; not in previews.
- array "LAYER/iou": (unit, concept) float32; not in previews.
- picture "LAYER/unit N": the rows of "top", in parts of their own; not in previews.
"""

import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import Preview, ProbeBatch, ProbeQuestion, ProbeSet, Saved, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.save_timer import SaveTimer
from pellucid_server.engine.methods.shared.units.dictionary import Named, ious, tables, top_table
from pellucid_server.engine.methods.shared.units.kept_maps import KeptBatch, KeptMaps
from pellucid_server.engine.methods.shared.units.layer_values import probe_of
from pellucid_server.engine.methods.shared.units.probed_layer import (
    RAW,
    UPSAMPLED,
    ProbedLayer,
    Rules,
    grid_of,
    on_grid,
)
from pellucid_server.engine.methods.shared.units.top_pictures import TopPictures
from pellucid_server.engine.methods.shared.units.upsampling import BILINEAR, RULES
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Findings, State, Table

Floats = npt.NDArray[np.float32]
Values = Mapping[str, npt.NDArray[np.generic]]

_MOST_ROWS = 32
_BATCH_BYTES = 48 << 20
"""Bytes of the layers' values of a batch, about."""
_PREVIEW_SECONDS = 5.0
_PREVIEW_SHARE = 20
"""Previews take at most one part in so many of the time."""
_PREVIEW_BATCHES = 4
"""Batches that a preview is made of before the thresholds are known."""
_MOST_PAIRS = 1 << 23
"""Units times concepts, of each of which 40 bytes of sums are kept."""


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of network dissection."""

    quantile: float = parameter(
        0.005, "Share of a unit's values, over all places of all pictures, above its threshold.", minimum=0, maximum=0.5
    )
    threshold_space: str = parameter(
        RAW,
        "Which values the threshold is a quantile of: the layer's own, or those upsampled to the grid, as masks are.",
        choices=(RAW, UPSAMPLED),
    )
    upsampling: str = parameter(
        BILINEAR,
        "How a unit's map becomes a mask: interpolated with centres aligned, or the nearest place.",
        choices=RULES,
    )
    grid: int = parameter(
        112,
        "Pixels of the longer side of the grid that masks are compared on; 0, or more, for the picture's own size.",
        minimum=0,
        maximum=4096,
    )
    iou_threshold: float = parameter(0.04, "A unit whose best IoU is above this is a detector.", minimum=0, maximum=1)
    restrict_to_annotated: bool = parameter(
        False, "Whether a unit counts, for a concept, only in pictures that have some concept of its category."
    )
    top: int = parameter(5, "How many rows to show that activate a unit most.", minimum=0, maximum=20)
    pictures: int = parameter(
        24, "Units of each layer whose top pictures are drawn, from the highest IoU.", minimum=0, maximum=256
    )
    cache_mb: int = parameter(
        32, "Megabytes of maps that are kept; the model runs again for the rows of the others.", minimum=0, maximum=4096
    )


@method(
    "network-dissection",
    Params,
    verb=DISSECT,
    family="dissection",
    source="Bau, Zhou, Khosla, Oliva and Torralba 2017",
    cost=lambda params, question: Cost(0 if question.probe is None else question.probe.count),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
)
def network_dissection(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Name the concept that each unit of a layer detects, by how well its mask covers masks of concepts.

    Raises
    ------
    InvalidRequestError
        There are no layers, no probe, no masks, too many units and concepts, or a value is not finite.
    UnsupportedError
        The units of a layer have positions that are not those of a picture.
    """
    probe = probe_of(question, "network-dissection")
    if not probe.concepts:
        text = "The probe has no concept masks; name a data set with masks, or give probe.masks."
        raise InvalidRequestError(text, field="probe")
    _require_few_pairs(question, probe)
    run = _Run(handle, question, params, probe)
    yield from run.look()
    yield from run.compare()
    yield from run.answer()


def _require_few_pairs(question: ProbeQuestion, probe: ProbeSet) -> None:
    units, concepts = sum(len(each.units) for each in question.layers), len(probe.concepts)
    if units * concepts > _MOST_PAIRS:
        text = (
            f"layers has {units} units and the probe {concepts} concepts, {units * concepts} pairs to compare; at most "
            f"{_MOST_PAIRS} are taken: name fewer layers or units, or mark fewer concepts."
        )
        raise InvalidRequestError(text, field="layers")


class _PreviewTimer:
    """Due every five seconds, or less often where a preview takes long to make."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PREVIEW_SECONDS

    def due(self) -> bool:
        """Whether it is time for a preview."""
        return time.monotonic() >= self._next

    def made(self, began: float) -> None:
        """Count the time to the next one from now, when one is made that was begun then."""
        now = time.monotonic()
        self._next = now + max(_PREVIEW_SECONDS, _PREVIEW_SHARE * (now - began))


class _Run:
    """A dissection on its way."""

    def __init__(self, handle: Handle, question: ProbeQuestion, params: Params, probe: ProbeSet) -> None:
        self._handle, self._params, self._probe = handle, params, probe
        self._layers = question.layers
        categories = list(dict.fromkeys(concept.category for concept in probe.concepts))
        groups = np.array([categories.index(concept.category) for concept in probe.concepts], np.int64)
        annotated = params.restrict_to_annotated
        rules = Rules(
            quantile=params.quantile,
            threshold_space=params.threshold_space,
            upsampling=params.upsampling,
            top=params.top,
            groups=groups if annotated else np.zeros_like(groups),
            annotated=annotated,
            seed=question.seed,
        )
        self._grid = grid_of(probe, params.grid)
        self._found = [ProbedLayer(each, self._grid, rules, probe.count) for each in question.layers]
        self._kept = KeptMaps(params.cache_mb << 20)
        row_bytes = 4 * sum(int(np.prod(each.layer.shape)) for each in question.layers)
        self._batch_rows = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, row_bytes)))
        self._looked = self._compared = self._again = self._drawn = self._shown = 0
        # Rows whose pictures are drawn count as further ones: at most so many, until it is known which they are.
        units = sum(min(len(each.units), params.pictures) for each in question.layers)
        self._most_shown = min(probe.count, units * params.top) if probe.kind == "pictures" else 0
        self._saving, self._previewing = SaveTimer(), _PreviewTimer()
        if question.state is not None:
            self._restore(question.state)

    def look(self) -> Iterator[Yielded]:
        """Look at every row once, for the thresholds."""
        stream = self._probe.batches(self._batch_rows, first=self._looked, masks=True)
        ahead = next(stream, None) if self._looked < self._probe.count else None
        values: Values = {}
        last: ProbeBatch | None = None
        while ahead is not None or last is not None:
            # The next rows are read, and the last ones' values taken in, while these are run.
            this = ahead
            values, ahead, _ = self._handle.together(
                functools.partial(self._capture, this),
                functools.partial(next, stream, None),
                functools.partial(self._keep, last, values),
            )
            self._looked += 0 if last is None else last.count
            last = this
            if self._saving.due():
                yield self._saved()
            if self._looked and self._previewing.due():
                yield self._preview()
        if not self._found[0].settled:
            for each in self._found:
                self._handle.beside(each.settle)
            self._kept.drop({each.name: each.thresholds for each in self._found})
            yield self._saved()

    def compare(self) -> Iterator[Yielded]:
        """Add up where units and concepts meet, from what was kept, and for other rows by running the model again."""
        stream: Iterator[ProbeBatch] | None = None
        while self._compared < self._probe.count:
            kept = self._kept.find(self._compared)
            if kept is None:
                if stream is None:
                    stream = self._probe.batches(self._batch_rows, first=self._compared, masks=True)
                batch = next(stream)
                kept = self._handle.beside(functools.partial(self._again_above, batch, self._capture(batch)))
                self._again += batch.count
            else:
                stream = None
            self._handle.beside(functools.partial(self._meet, kept))
            self._compared += len(kept.numbers)
            if self._saving.due():
                yield self._saved()
            if self._previewing.due():
                yield self._preview()
        yield self._saved()

    def answer(self) -> Iterator[Yielded]:
        """Yield the dictionary, and then the pictures."""
        named, found = self._handle.beside(functools.partial(self._named, self._found))
        if not self._drawn:
            if self._params.top:
                found = {**found, "top": top_table(named, self._probe)}
            arrays = ious(named, self._probe.concepts)
            yield Findings(arrays=arrays, tables=found, warnings=self._warnings(named))
        if not self._most_shown:
            return
        sheets = TopPictures(
            self._handle,
            self._probe,
            named,
            most=self._params.pictures,
            batch_rows=self._batch_rows,
            kept=self._kept_map,
        )
        shown = [sheets.rows_of(number) for number in range(len(sheets.groups))]
        self._most_shown = sum(shown)
        for number in range(self._drawn, len(shown)):
            yield from sheets.sheets(number)
            self._drawn, self._shown = number + 1, sum(shown[: number + 1])
            yield self._saved()

    def _capture(self, batch: ProbeBatch | None) -> Values:
        """Run the model for a batch, if there is one, and return the layers' values."""
        if batch is None:
            return {}
        return self._handle.ask(Capture(Rows(batch.rows), tuple(each.name for each in self._layers))).arrays

    def _keep(self, batch: ProbeBatch | None, values: Values) -> None:
        """Take a batch's values in, if there is one, and keep the maps that may be above their thresholds."""
        if batch is not None:
            self._handle.beside(functools.partial(self._take, batch, values))

    def _take(self, batch: ProbeBatch, values: Values) -> None:
        maps = {each.name: each.look(values[each.name], batch.numbers) for each in self._found}
        kept = KeptBatch(batch.numbers, maps, [on_grid(each, self._grid) for each in batch.masks])
        self._kept.keep(kept, {each.name: each.tail.floor for each in self._found})

    def _again_above(self, batch: ProbeBatch, values: Values) -> KeptBatch:
        maps = {each.name: each.maps(values[each.name]) for each in self._found}
        return KeptBatch(batch.numbers, maps, [on_grid(each, self._grid) for each in batch.masks])

    def _meet(self, batch: KeptBatch) -> None:
        for each in self._found:
            each.meet(batch.layers[each.name], batch.masks, each.thresholds, each.overlap)

    def _named(self, layers: list[ProbedLayer]) -> tuple[list[Named], dict[str, Table]]:
        named = [Named.of(each, self._params.iou_threshold) for each in layers]
        return named, tables(named, self._probe.concepts)

    def _saved(self) -> Saved:
        arrays = {
            name: array
            for number, each in enumerate(self._found)
            for name, array in nested(str(number), each.state()).items()
        }
        counts = {"looked": self._looked, "compared": self._compared, "again": self._again, "drawn": self._drawn}
        # Rows for which the model ran again, or will, count as further ones.
        missing = self._looked - self._compared - self._kept.rows(self._compared)
        rows = self._probe.count + self._again + missing + self._most_shown
        state = State(arrays, counts)
        self._saving.wait_for(state)
        return Saved(state, self._looked + self._again + self._shown, rows)

    def _restore(self, state: State) -> None:
        self._looked, self._compared, self._again, self._drawn = (
            int(state.values[name]) for name in ("looked", "compared", "again", "drawn")
        )
        for number, each in enumerate(self._found):
            each.restore(within(str(number), state.arrays))

    def _preview(self) -> Preview:
        began = time.monotonic()
        layers = self._found
        if not layers[0].settled:
            picked = self._kept.sample(_PREVIEW_BATCHES)
            layers = self._handle.beside(lambda: [each.so_far(picked, self._looked) for each in self._found])
        _, found = self._handle.beside(functools.partial(self._named, layers))
        self._previewing.made(began)
        return Preview(Findings(tables=found))

    def _warnings(self, named: list[Named]) -> tuple[str, ...]:
        found = []
        for each in named:
            layer = each.layer
            if layer.rank_of(layer.values) == 1:
                found.append(
                    f"{layer.name} has {layer.values} values of each unit, of which quantile "
                    f"{self._params.quantile:g} is less than one: no unit is on anywhere. Raise quantile, or look at "
                    "more rows."
                )
            flat = int((each.plateau & (layer.above == 0) & ~each.dead).sum())
            if flat and layer.rank_of(layer.values) > 1:
                found.append(
                    f"{flat} units of {layer.name} are at their highest value in more places than quantile "
                    f"{self._params.quantile:g} says, and so nowhere above it. Raise quantile, or name the layer "
                    "before the activation that bounds them."
                )
            if layer.rank_error:
                share = layer.rank_error / layer.values
                found.append(
                    f"The thresholds of {layer.name} are from a sketch: the share of values above them is within "
                    f"{share:.2g} of quantile {self._params.quantile:g}."
                )
        return tuple(found)

    def _kept_map(self, layer: str, unit: int, row: int) -> Floats | None:
        """Return the map of a unit in a row, (positions,), if it was kept."""
        batch = self._kept.find(row - row % self._batch_rows)
        maps = None if batch is None else batch.layers[layer].of_row(row % self._batch_rows)
        return None if maps is None or unit not in maps.units else maps.values[np.searchsorted(maps.units, unit)]
