"""The semantic dictionary: what network dissection answers, as tables and arrays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import Concept, ProbeSet
from pellucid_server.engine.methods.shared.units.chance import iou_by_chance
from pellucid_server.engine.methods.shared.units.probed_layer import ProbedLayer
from pellucid_server.vocabulary.findings import Axis, Column, NamedArray, Table

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


SURE_ERRORS = 3
"""Standard errors by which an IoU must be above the bound: a layer has thousands of pairs of units and concepts."""


@dataclass(frozen=True, slots=True)
class Named:
    """A layer's units with their names.

    Attributes
    ----------
    layer
        What was added up.
    iou
        (units, concepts).
    best, second
        The concepts of the highest and second highest IoU, (units,); -1 where there is none above 0. Of equal ones, the
        first of the probe's.
    error
        The standard error of the best IoU, (units,).
    detector
        Whether a unit's best IoU is above the bound, (units,).
    sure
        Whether it is, by `SURE_ERRORS` standard errors, (units,).
    """

    layer: ProbedLayer
    iou: Floats
    best: Indices
    second: Indices
    error: Floats
    detector: npt.NDArray[np.bool_]
    sure: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, layer: ProbedLayer, bound: float) -> "Named":
        """Name the units of a layer."""
        iou = layer.overlap.iou()
        order = np.argsort(-iou, axis=1, kind="stable")
        ranked = [np.where(_at(iou, order[:, place]) > 0, order[:, place], -1) for place in range(min(2, iou.shape[1]))]
        best, second = (*ranked, np.full(len(iou), -1))[:2]
        highest, error = _at(iou, best), _at(layer.overlap.iou_error(), best)
        return cls(layer, iou, best, second, error, highest > bound, highest - SURE_ERRORS * error > bound)

    @property
    def best_iou(self) -> Floats:
        """The IoU of each unit with its concept, 0 for none, (units,)."""
        return _at(self.iou, self.best)

    @property
    def dead(self) -> npt.NDArray[np.bool_]:
        """Whether a unit is constant, or never above 0, (units,)."""
        return (self.layer.highest <= self.layer.lowest) | (self.layer.highest <= 0)

    @property
    def plateau(self) -> npt.NDArray[np.bool_]:
        """Whether values are equal at a unit's threshold, so that fewer are above it than asked for, (units,)."""
        # A sketch may be off by its error without any being equal.
        return self.layer.above < self.layer.rank_of(self.layer.values) - 1 - self.layer.rank_error


def tables(layers: Sequence[Named], concepts: Sequence[Concept]) -> dict[str, Table]:
    """Return the tables "dictionary", "best_by_category", "concepts", "categories" and "layers"."""
    return {
        "dictionary": _dictionary(layers, concepts),
        "best_by_category": _by_category(layers, concepts),
        "concepts": _concepts(layers, concepts),
        "categories": _categories(layers, concepts),
        "layers": _layers(layers),
    }


def ious(layers: Sequence[Named], concepts: Sequence[Concept]) -> dict[str, NamedArray]:
    """Return the IoU of every unit of a layer with every concept, by "LAYER/iou"."""
    labels = tuple(concept.name for concept in concepts)
    return {
        f"{each.layer.name}/iou": NamedArray(
            each.iou.astype(np.float32),
            (Axis("unit", coordinates=each.layer.units), Axis("concept", labels)),
            text=f"Intersection over union of the units of {each.layer.name} with concepts, over the whole probe set.",
        )
        for each in layers
    }


def top_table(layers: Sequence[Named], probe: ProbeSet) -> Table:
    """Return the rows that each unit is largest in, from the largest."""
    columns: dict[str, list[npt.NDArray[np.generic]]] = {}
    names: list[str] = []
    for each in layers:
        top = each.layer.top
        place, rank = np.nonzero(top.rows >= 0)
        rows, (height, width) = top.rows[place, rank], each.layer.upsampling.shape
        names += [each.layer.name] * len(place)
        at = top.positions[place, rank]
        found = {
            "unit": each.layer.units[place],
            "rank": rank.astype(np.int64),
            "row": rows,
            "activation": top.values[place, rank].astype(np.float64),
            "y": (at // width + 0.5) / height,
            "x": (at % width + 0.5) / width,
        }
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    unique, inverse = np.unique(joined["row"], return_inverse=True)
    called = probe.names(unique.tolist()) if len(unique) else ()
    return Table(
        {
            "layer": Column(tuple(names)),
            "unit": Column(joined["unit"]),
            "rank": Column(joined["rank"], text="0 for the row in which the unit is largest."),
            "row": Column(joined["row"], text="The row's number in the probe set, from 0."),
            "name": Column(tuple(called[number] for number in inverse.tolist())),
            "activation": Column(joined["activation"], text="The unit's largest value in the row."),
            "y": Column(joined["y"], text="Where that is, as a share of the picture's height from the top."),
            "x": Column(joined["x"], text="Where that is, as a share of the picture's width from the left."),
        },
        "The rows of the probe set that each unit is largest in.",
    )


def _dictionary(layers: Sequence[Named], concepts: Sequence[Concept]) -> Table:
    chances, precisions, recalls = [], [], []
    for each in layers:
        overlap, place = each.layer.overlap, np.maximum(each.best, 0)
        one, other, both = (
            np.where(each.best >= 0, _at(array, place), 0)
            for array in (overlap.unit_areas, overlap.concept_areas[None].repeat(len(place), 0), overlap.intersections)
        )
        chances.append(iou_by_chance(one, other, overlap.pixels[overlap.groups[place]]))
        precisions.append(both / np.maximum(one, 1))
        recalls.append(both / np.maximum(other, 1))
    best, second = _joined(each.best for each in layers), _joined(each.second for each in layers)
    none, no_second = best < 0, second < 0
    return Table(
        {
            "layer": Column(_layer_names(layers)),
            "unit": Column(_joined(each.layer.units for each in layers)),
            "concept": Column(_names(concepts, best), none, text="The concept of the highest IoU."),
            "category": Column(_category_names(concepts, best), none),
            "iou": Column(
                _joined(each.best_iou for each in layers), text="Intersection over union, over all pictures."
            ),
            "iou_chance": Column(_joined(chances), text="What independent masks of the same sizes have on average."),
            "iou_error": Column(
                _joined(each.error for each in layers), text="Standard error of the IoU over pictures."
            ),
            "runner_up": Column(_names(concepts, second), no_second, text="The concept of the second highest IoU."),
            "runner_up_iou": Column(_joined(_at(each.iou, each.second) for each in layers), no_second),
            "precision": Column(_joined(precisions), none, text="Share of the unit's mask that is the concept."),
            "recall": Column(_joined(recalls), none, text="Share of the concept that is in the unit's mask."),
            "threshold": Column(
                _joined(each.layer.thresholds for each in layers).astype(np.float64),
                text="The unit is on where its value is above this.",
            ),
            "dead": Column(_joined(each.dead for each in layers), text="Constant, or never above 0."),
            "detector": Column(
                _joined(each.detector for each in layers), text="Whether the IoU is above iou_threshold."
            ),
            "sure": Column(
                _joined(each.sure for each in layers),
                text=f"Whether it is by {SURE_ERRORS} standard errors: few pictures do not make a detector then.",
            ),
            "plateau": Column(
                _joined(each.plateau for each in layers),
                text="Whether values are equal at the threshold, so that fewer are above it than quantile says.",
            ),
            "share_on": Column(
                _joined(each.layer.above / each.layer.values for each in layers),
                text="Share of the unit's values that are above the threshold.",
            ),
        },
        "What each unit detects.",
    )


def _by_category(layers: Sequence[Named], concepts: Sequence[Concept]) -> Table:
    rows: list[tuple[str, int, str, str, float]] = []
    for category, members in _categorised(concepts).items():
        for each in layers:
            part = each.iou[:, members]
            best = part.argmax(1)
            rows += [
                (each.layer.name, int(unit), category, concepts[members[place]].name, float(value))
                for unit, place, value in zip(each.layer.units, best, part.max(1), strict=True)
                if value > 0
            ]
    columns = {
        "layer": Column(tuple(row[0] for row in rows)),
        "unit": Column(np.array([row[1] for row in rows], np.int64)),
        "category": Column(tuple(row[2] for row in rows)),
        "concept": Column(tuple(row[3] for row in rows)),
        "iou": Column(np.array([row[4] for row in rows], np.float64)),
    }
    return Table(columns, "The concept of the highest IoU that each unit has in each category, where it is above 0.")


def _concepts(layers: Sequence[Named], concepts: Sequence[Concept]) -> Table:
    ranked = np.stack([each.iou.max(0, initial=0) for each in layers])
    layer = ranked.argmax(0)
    iou = ranked.max(0)
    units = np.array(
        [layers[at].layer.units[layers[at].iou[:, number].argmax()] for number, at in enumerate(layer.tolist())],
        np.int64,
    )
    none = iou <= 0
    overlap = layers[0].layer.overlap
    detectors = sum(
        (np.bincount(each.best[each.detector], minlength=len(concepts)) for each in layers),
        np.zeros(len(concepts), int),
    )
    return Table(
        {
            "concept": Column(tuple(concept.name for concept in concepts)),
            "category": Column(tuple(concept.category for concept in concepts)),
            "pixels": Column(_grid_areas(layers), text="Pixels of the grid, over all pictures."),
            "pictures": Column(overlap.pictures, text="Pictures of the probe set that it is in."),
            "layer": Column(
                tuple("" if no else layers[at].layer.name for at, no in zip(layer, none, strict=True)), none
            ),
            "unit": Column(np.where(none, 0, units), none, text="The unit of the highest IoU with it."),
            "iou": Column(iou, text="That unit's IoU with it."),
            "detectors": Column(detectors.astype(np.int64), text="Units whose concept it is."),
        },
        "The concepts of the probe set, and the unit that detects each best.",
    )


def _grid_areas(layers: Sequence[Named]) -> Indices:
    """Return the concepts' pixels on the grid; in pictures where no layer has positions."""
    placed = next((each for each in layers if not each.layer.whole), layers[0])
    return placed.layer.overlap.concept_areas


def _categories(layers: Sequence[Named], concepts: Sequence[Concept]) -> Table:
    rows = []
    for each in layers:
        detected = each.best[each.detector]
        for category, members in _categorised(concepts).items():
            found = detected[np.isin(detected, members)]
            rows.append((each.layer.name, category, len(found), len(np.unique(found))))
    return Table(
        {
            "layer": Column(tuple(row[0] for row in rows)),
            "category": Column(tuple(row[1] for row in rows)),
            "units": Column(np.array([row[2] for row in rows], np.int64), text="Units that detect a concept of it."),
            "concepts": Column(
                np.array([row[3] for row in rows], np.int64), text="Different concepts of it that units detect."
            ),
        },
        "How many units of each layer detect concepts of each category, and how many different ones.",
    )


def _layers(layers: Sequence[Named]) -> Table:
    def numbers(values: Sequence[int]) -> Column:
        return Column(np.array(values, np.int64))

    return Table(
        {
            "layer": Column(tuple(each.layer.name for each in layers)),
            "units": numbers([len(each.layer.units) for each in layers]),
            "detectors": numbers([int(each.detector.sum()) for each in layers]),
            "concepts": numbers([len(np.unique(each.best[each.detector])) for each in layers]),
            "sure_detectors": numbers([int(each.sure.sum()) for each in layers]),
            "sure_concepts": numbers([len(np.unique(each.best[each.sure])) for each in layers]),
            "dead": numbers([int(each.dead.sum()) for each in layers]),
            "height": numbers([each.layer.upsampling.shape[0] for each in layers]),
            "width": numbers([each.layer.upsampling.shape[1] for each in layers]),
            "grid_height": numbers([each.layer.upsampling.grid[0] for each in layers]),
            "grid_width": numbers([each.layer.upsampling.grid[1] for each in layers]),
            "values": numbers([each.layer.values for each in layers]),
            "threshold_rule": Column(tuple(_rule(each.layer) for each in layers)),
            "rank_error": numbers([each.layer.rank_error for each in layers]),
            "upsampling": Column(tuple(_upsampling(each.layer) for each in layers)),
        },
        "The layers, and the rules by which their units' masks were made.",
    )


def _rule(layer: ProbedLayer) -> str:
    rank = layer.rank_of(layer.values)
    how = "exact" if not layer.rank_error else f"a sketch, its rank off by at most {layer.rank_error}"
    return f"the {rank}th largest of {layer.values} values of each unit; {how}"


def _upsampling(layer: ProbedLayer) -> str:
    return "none: units without positions are compared picture by picture" if layer.whole else layer.upsampling.rule


def _categorised(concepts: Sequence[Concept]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, concept in enumerate(concepts):
        found.setdefault(concept.category, []).append(number)
    return found


def _layer_names(layers: Sequence[Named]) -> tuple[str, ...]:
    return tuple(each.layer.name for each in layers for _ in each.layer.units)


def _names(concepts: Sequence[Concept], numbers: Indices) -> tuple[str, ...]:
    return tuple(concepts[number].name if number >= 0 else "" for number in numbers.tolist())


def _category_names(concepts: Sequence[Concept], numbers: Indices) -> tuple[str, ...]:
    return tuple(concepts[number].category if number >= 0 else "" for number in numbers.tolist())


def _joined(arrays: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(list(arrays))


def _at(array: npt.NDArray[Any], concepts: Indices) -> npt.NDArray[Any]:
    """Pick one concept of each unit; 0 where it is -1."""
    return np.where(concepts >= 0, array[np.arange(len(array)), np.maximum(concepts, 0)], 0)
