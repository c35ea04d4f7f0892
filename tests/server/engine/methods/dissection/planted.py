"""A network whose units are planted, pictures with exact masks, and a plain dissection in two passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from pellucid_server.engine.asking.handle import Answer
from pellucid_server.engine.asking.probes import Concept, ProbeBatch, ProbeLayer, ProbeQuestion, RowMasks
from pellucid_server.engine.asking.registry import lookup
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.vocabulary.findings import Findings
from torch import nn

SIDE = 24
CONCEPTS = (
    Concept("red", "color"),
    Concept("green", "color"),
    Concept("vertical edge", "texture"),
    Concept("horizontal edge", "texture"),
    Concept("circle", "shape"),
    Concept("square", "shape"),
)
RED, GREEN, VERTICAL, HORIZONTAL, CIRCLE, SQUARE = range(len(CONCEPTS))


@dataclass
class Pictures:
    """A probe set in memory: pictures, (rows, 3, height, width), and masks, (rows, concepts, height, width)."""

    pixels: np.ndarray
    marks: np.ndarray
    concepts: tuple[Concept, ...] = CONCEPTS
    kind: str = "pictures"
    classes: tuple[str, ...] = ()
    asked: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.pixels)

    def batches(self, rows_per_batch: int, *, first: int = 0, masks: bool = False) -> Iterator[ProbeBatch]:
        for begin in range(first, self.count, rows_per_batch):
            numbers = np.arange(begin, min(begin + rows_per_batch, self.count))
            self.asked += numbers.tolist()
            found = tuple(self._masks(number) for number in numbers) if masks else ()
            yield ProbeBatch(self.rows(numbers.tolist()), numbers, (), found)

    def _masks(self, number: int) -> RowMasks:
        present = np.flatnonzero(self.marks[number].any((1, 2)))
        return RowMasks(present, self.marks[number][present])

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        return {"image": self.pixels[list(numbers)]}

    def pictures(self, numbers: Sequence[int]) -> tuple[np.ndarray, ...]:
        scaled = np.clip(self.pixels[list(numbers)] * 255, 0, 255).astype(np.uint8)
        return tuple(np.moveaxis(each, 0, 2) for each in scaled)

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(f"{number}.png" for number in numbers)


def disc(radius: float = 4.0) -> np.ndarray:
    y, x = np.mgrid[:9, :9] - 4
    return np.hypot(y, x) <= radius


def drawn(rows: int, seed: int = 0, noise: float = 0.0) -> Pictures:
    """Draw in turn a red and a green patch, a vertical and a horizontal edge, a bright circle and a square.

    Without noise, many values are equal; with it, none are.
    """
    source = np.random.default_rng(seed)
    pixels = np.full((rows, 3, SIDE, SIDE), 0.4, np.float32)
    marks = np.zeros((rows, len(CONCEPTS), SIDE, SIDE), bool)
    for row in range(rows):
        kind = row % len(CONCEPTS)
        top, left = source.integers(4, SIDE - 12, 2)
        part = (slice(top, top + 9), slice(left, left + 9))
        mask = np.zeros((SIDE, SIDE), bool)
        mask[part] = disc() if kind == CIRCLE else True
        if kind in (RED, GREEN):
            pixels[row, :, mask] = np.eye(3)[kind]
        elif kind == VERTICAL:
            pixels[row, :, part[0], left + 4 : left + 9] = 0.9
            mask[:, : left + 3] = mask[:, left + 5 :] = False
        elif kind == HORIZONTAL:
            pixels[row, :, top + 4 : top + 9, part[1]] = 0.9
            mask[: top + 3] = mask[top + 5 :] = False
        else:
            pixels[row, :, mask] = 1.0
        pixels[row] += noise * source.standard_normal(pixels[row].shape).astype(np.float32)
        marks[row, kind] = mask
    return Pictures(pixels, marks)


class Planted(nn.Module):
    """Units 0 to 4: red, vertical edge, circle, dead, constant; weights are set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 9, padding=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        weight = torch.zeros(5, 3, 9, 9)
        weight[0, :, 4, 4] = torch.tensor([1.0, -1.0, -1.0])
        weight[1, :, 2:7, 3], weight[1, :, 2:7, 4] = -1.0, 1.0
        template = torch.from_numpy(disc())
        weight[2, :] = torch.where(template, 1.0 / template.sum(), -1.4 / (~template).sum())
        weight[3, :, 4, 4] = -1.0
        self.conv.weight.data = weight
        self.conv.bias.data = torch.tensor([0.0, -1.0, 0.0, 0.0, 1.5])
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        conv = F.relu(self.conv(image))
        conv[:, 4] = 1.5
        return {"conv": conv, "small": F.max_pool2d(conv, 2), "dense": self.pool(conv).flatten(1)}


class Small(nn.Module):
    """The planted convolution alone, to be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Planted().conv

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).mean((2, 3))


class Eager:
    """A handle that runs a module, which gives layers by name; `rows` counts those that it was asked for."""

    def __init__(self, module) -> None:
        self._module = module
        self.rows = 0

    def ask(self, ask, *, progress=None) -> Answer:
        arrays = ask.rows.arrays
        self.rows += ask.rows.count
        found = self._module(torch.from_numpy(np.ascontiguousarray(arrays["image"])))
        return Answer({name: found[name].numpy() for name in ask.layers})

    def beside(self, function, *, byte_count=None):
        return function()

    def together(self, *functions):
        return [function() for function in functions]


def question(handle, probe, *layers, units=None, **more):
    found = handle._module(torch.from_numpy(probe.pixels[:1]))
    asked = []
    for name in layers:
        shape = tuple(found[name].shape[1:])
        asked.append(ProbeLayer(SiteLayer(name, shape), np.arange(shape[0]) if units is None else np.array(units)))
    return ProbeQuestion(layers=tuple(asked), probe=probe, **more)


def dissected(handle, asked, **parameters) -> list:
    """Return all that the method yields."""
    entry = lookup("network-dissection", DISSECT)
    return list(entry.function(handle, asked, entry.resolve(parameters)))


def answer(yielded) -> Findings:
    """Join the findings of an answer."""
    parts = [each for each in yielded if isinstance(each, Findings)]
    pictures = {name: each for part in parts for name, each in part.pictures.items()}
    return Findings(parts[0].arrays, parts[0].tables, pictures, warnings=parts[0].warnings)


def lines(table) -> list[dict]:
    columns = table.columns
    return [
        {
            name: None if each.missing is not None and each.missing[place] else each.values[place]
            for name, each in columns.items()
        }
        for place in range(len(next(iter(columns.values())).values))
    ]


def upsampled(values: np.ndarray, grid: tuple[int, int], rule: str) -> np.ndarray:
    mode = {"mode": "bilinear", "align_corners": False} if rule == "bilinear" else {"mode": "nearest-exact"}
    found = F.interpolate(torch.from_numpy(values.astype(np.float64)), size=grid, **mode).numpy()
    # Rounding lifts what is constant above itself.
    return np.clip(found, values.min((2, 3), keepdims=True), values.max((2, 3), keepdims=True))


def plainly(values, marks, quantile, grid, *, space="raw", rule="bilinear", groups=None):
    """Dissect in two plain passes: values (rows, units, height, width), marks (rows, concepts, height, width).

    Return thresholds and IoUs; `groups` has the category of each concept if only annotated pictures count.
    """
    big = upsampled(values, grid, rule)
    of = np.moveaxis(values.astype(np.float64) if space == "raw" else big, 1, 0).reshape(values.shape[1], -1)
    ordered = np.sort(of, axis=1)[:, ::-1]
    thresholds = ordered[:, int(np.floor(quantile * of.shape[1] + 1e-9))]
    on = big > thresholds[:, None, None]
    rows = ((np.arange(grid[0]) + 0.5) * marks.shape[2] / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * marks.shape[3] / grid[1]).astype(int)
    small = marks[:, :, rows][:, :, :, columns]
    iou = np.zeros((values.shape[1], marks.shape[1]))
    for concept in range(marks.shape[1]):
        counted = np.ones(len(values), bool)
        if groups is not None:
            counted = marks[:, [g == groups[concept] for g in groups]].any((1, 2, 3))
        for unit in range(values.shape[1]):
            both = (on[counted, unit] & small[counted, concept]).sum()
            either = (on[counted, unit] | small[counted, concept]).sum()
            iou[unit, concept] = both / max(either, 1)
    return thresholds, iou
