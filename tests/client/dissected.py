"""Answers of Dissect made by hand: a dictionary of units, curves, points, pictures."""

import io

import numpy as np
from client.fake_server import RECEIPT
from pellucid.dissection_records import DissectionRecord
from pellucid.dissections import Dissection
from pellucid.findings import Axis, Column, Findings, NamedArray, Picture, Table
from pellucid.receipts import read_receipt
from pellucid.v1 import explanation_pb2
from PIL import Image

CONCEPTS = [
    ("red", "color"),
    ("blue", "color"),
    ("green", "color"),
    ("dots", "texture"),
    ("vertical grating", "texture"),
    ("checks", "texture"),
    ("circle", "shape"),
    ("square", "shape"),
    ("cross", "shape"),
    ("upper left", "position"),
    ("wheel", "part"),
    ("dog", "object"),
]


def column(values, name="", **more):
    """Make a column of texts, numbers or flags, None where there is none."""
    known = [each for each in values if each is not None]
    if known and isinstance(known[0], str):
        found = np.empty(len(values), object)
        found[:] = values
    elif any(each is None for each in values) and known and not isinstance(known[0], float):
        found = np.ma.MaskedArray(
            [type(known[0])() if each is None else each for each in values], [each is None for each in values]
        )
    else:
        found = np.array([np.nan if each is None else each for each in values])
    return Column(name, found, **more)


def table(name, text="", /, **columns):
    """Make a table from lists by column; spaces in names are underscores here."""
    return Table(name, {key: column(values, key) for key, values in columns.items()}, text)


def picture(name, colour=(200, 60, 40), size=(24, 16), text="What it answers to."):
    """Make a picture of one colour, with a square in it."""
    pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    pixels[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = 255 - np.array(colour)
    return Picture(name, png(pixels), "image/png", *size, text)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answer(method, *, arrays=(), tables=(), pictures=(), warnings=(), model="photos", layers=("conv1",), last=True):
    """Put an answer together; without `last` it is an estimate so far."""
    message = explanation_pb2.Receipt()
    message.CopyFrom(RECEIPT)
    message.method = method
    message.model.name = model
    message.parameters["quantile"].real = 0.995
    found = Findings(
        arrays={each.name: each for each in arrays},
        tables={each.name: each for each in tables},
        pictures={each.name: each for each in pictures},
        warnings=tuple(warnings),
        receipt=read_receipt(message) if last else None,
        dissection=DissectionRecord(tuple(layers), "generated-concepts", "ef" * 32) if last else None,
    )
    return Dissection(method, found, progress=1.0 if last else 0.25, rows=2000)


def dictionary_answer(units=20, layers=("conv1", "block.2"), *, seed=0, rename=None, draw=picture, **more):
    """Make a semantic dictionary: a seventh of the units is dead, some are no detectors."""
    rng = np.random.default_rng(seed)
    rename = rename or {}
    rows, overlaps, pictures, top = [], [], [], []
    for depth, layer in enumerate(layers):
        iou = np.round(rng.beta(1 + depth, 14, (units, len(CONCEPTS))), 4)
        iou[np.arange(units), rng.integers(4 * depth, 8 + 4 * depth, units) % len(CONCEPTS)] += 0.12
        iou[::7] = 0
        names = [rename.get(name, name) for name, _ in CONCEPTS]
        overlaps.append(
            NamedArray(f"{layer}/iou", iou, (Axis("unit", coordinates=np.arange(units)), Axis("concept", tuple(names))))
        )
        for unit in range(units):
            best, second = np.argsort(-iou[unit], kind="stable")[:2]
            dead = unit % 7 == 0
            name, category = (None, None) if dead else (names[best], CONCEPTS[best][1])
            value = float(iou[unit, best])
            quality = (0.5, 0.25, 1.5, dead, value > 0.13)
            next_best = (None if dead else names[second], float(iou[unit, second]))
            rows.append((layer, unit, name, category, value, 0.021, 0.004, *next_best, *quality))
            if not dead:
                colour = tuple(int(each) for each in rng.integers(30, 230, 3))
                pictures.append(draw(f"{layer}/unit {unit}", colour))
                top += [
                    (layer, unit, rank, 10 * unit + rank, f"picture {10 * unit + rank}", 3.0 - rank)
                    for rank in range(3)
                ]
    names = "layer unit concept category iou iou_chance iou_error runner_up runner_up_iou precision recall threshold"
    heads = [*names.split(), "dead", "detector"]
    concepts = [
        [rename.get(name, name), category, 12000 - 100 * number, 40 + number]
        for number, (name, category) in enumerate(CONCEPTS)
    ]
    return answer(
        "network-dissection",
        arrays=overlaps,
        tables=[
            table("dictionary", **dict(zip(heads, map(list, zip(*rows, strict=True)), strict=True))),
            table(
                "concepts",
                "The concepts of the data set.",
                **dict(
                    zip(
                        ["concept", "category", "pixels", "pictures"],
                        map(list, zip(*concepts, strict=True)),
                        strict=True,
                    )
                ),
            ),
            table(
                "top",
                **dict(
                    zip(
                        ["layer", "unit", "rank", "row", "name", "activation"],
                        map(list, zip(*top, strict=True)),
                        strict=True,
                    )
                ),
            ),
        ],
        pictures=pictures,
        layers=layers,
        **more,
    )


def activations_answer(units=6, layer="conv1"):
    """Make statistics of units, the last of which is dead."""
    dead = [False] * (units - 1) + [True]
    numbers = [float(unit) for unit in range(units)]
    rows = [(unit, rank) for unit in range(units - 1) for rank in range(3)]
    return answer(
        "activations",
        tables=[
            table(
                f"{layer}/units",
                f"The units of {layer}.",
                unit=list(range(units)),
                mean=numbers,
                deviation=[0.5 + each for each in numbers[:-1]] + [0.0],
                median=numbers,
                minimum=[-1.0] * units,
                maximum=[each + 4.0 for each in numbers],
                sparseness=[each / units for each in numbers[:-1]] + [None],
                dead=dead,
            ),
            table(
                f"{layer}/top",
                unit=[unit for unit, _ in rows],
                rank=[rank for _, rank in rows],
                row=[10 * unit + rank for unit, rank in rows],
                value=[3.0 - rank for _, rank in rows],
            ),
        ],
        pictures=[picture(f"{layer}/unit {unit}") for unit in range(units - 1)],
    )


def tuning_answer(units=5):
    """Make curves over orientations, frequencies and colours; unit 2 of the orientations answers to nothing."""
    angles, frequencies = np.arange(0, 180, 15.0), np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    peaks = 30.0 * np.arange(units)
    turned = np.exp(-(((angles - peaks[:, None] + 90) % 180 - 90) ** 2) / 400)
    turned[2:3] = 0
    tuned = np.exp(-((np.log2(frequencies) - np.arange(units)[:, None]) ** 2))
    numbered = Axis("unit", coordinates=np.arange(units))
    shades = NamedArray("conv1/colour", np.eye(units, 3), (numbered, Axis("colour", ("red", "green", "blue"))))
    return answer(
        "tuning-curve",
        arrays=[
            NamedArray("conv1/orientation", turned, (numbered, Axis("orientation", (), angles, "degrees"))),
            NamedArray("conv1/frequency", tuned, (numbered, Axis("frequency", (), frequencies, "cycles/picture"))),
            shades,
        ],
        tables=[
            table("preferences", layer=["conv1"] * units, unit=list(range(units)), orientation=[*map(float, peaks)])
        ],
    )


def visualised_answer(units=3, steps=40, layer="conv1"):
    """Make two pictures that maximise each unit, and how their objectives rose until the second half of the steps."""
    rise = np.stack([(unit + 1) * (1 - np.exp(-np.arange(steps) / 8)) for unit in range(units)])
    rise[0, steps // 2 :] = np.nan
    objectives = Axis("objective", tuple(f"{layer}[{unit}]" for unit in range(units)))
    pairs = [(unit, number) for unit in range(units) for number in range(2)]
    return answer(
        "feature-visualization",
        arrays=[NamedArray("trajectory", rise, (objectives, Axis("step")), missing=True)],
        tables=[
            table(
                "objectives",
                objective=[f"{layer}[{unit}]" for unit, _ in pairs],
                layer=[layer] * len(pairs),
                unit=[unit for unit, _ in pairs],
                position=[None] * len(pairs),
                picture=[number for _, number in pairs],
                activation=[10.0 * unit + number for unit, number in pairs],
            )
        ],
        pictures=[picture(f"{layer}[{unit}]/{number}", (40 * unit, 90, 160), (48, 48)) for unit, number in pairs],
    )


def projection_answer(rows=60, components=2, *, labels=("cat", "dog", "owl"), thumbnails=False):
    """Make the rows of a probe set as points around the centres of their classes."""
    rng = np.random.default_rng(3)
    classes = rng.integers(0, len(labels), rows)
    places = rng.normal(size=(rows, components)) + 5 * np.eye(len(labels), components)[classes]
    axes = (Axis("row", coordinates=np.arange(rows)), Axis("component"))
    return answer(
        "projection",
        arrays=[NamedArray("conv1/coordinates", places, axes)],
        tables=[
            table(
                "rows",
                row=list(range(rows)),
                name=[f"picture {row}" for row in range(rows)],
                label=[labels[each] for each in classes],
            ),
            table("quality", layer=["conv1"], trustworthiness=[0.97], explained=[0.61]),
        ],
        pictures=[picture("thumbnails", size=(160, 120))] if thumbnails else [],
    )
