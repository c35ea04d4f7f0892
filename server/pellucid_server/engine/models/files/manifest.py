"""Reads `model.toml`: what a model's inputs and outputs mean, and how it is served.

Everything in it is optional but what a modality needs; a model without inputs or outputs in its
manifest takes plain tensors and gives plain values, under the names in its file::

    description = "Sorts photographs into the 1000 classes of ImageNet."
    runtime = "auto"                    # auto | graph | onnxruntime
    background = "background.npz"       # an array for each input, (rows, *features), after preprocessing; or a table:
                                        # [background], file = "background.npz", disclosable = true
    solo = false                        # true: rows of different requests never share a batch
    [limits]
    max_rows = 1024                     # most rows in a request
    [[inputs]]
    name = "image"
    modality = "image"                  # tensor | image | tabular
    resize = 256                        # length of the short side, in pixels
    crop = [224, 224]                   # height and width, in pixels, neither above `resize`
    interpolation = "bicubic"           # nearest | bilinear | bicubic | lanczos
    mean = [127, 127, 127]              # on 0..255; three values for RGB, one for grey
    standard_deviation = [128, 128, 128]
    [[outputs]]
    name = "output"
    kind = "logits"                     # logits | sigmoid-logits | probabilities | values
    labels_file = "labels.txt"          # or labels = ["cat", "dog"]; a label for each class
    unit = ""

A tensor input may have `ranges`, pairs [minimum, maximum]: one for all elements or one for each
element of a row's last axis; whole numbers outside theirs are refused. It may have a `role`, "mask"
where it only says which parts of other inputs count, or "values"; left out, inputs of flags, and whole
numbers under a name that ends in "mask", are masks of a model that has other inputs. A tabular input has
`[[inputs.columns]]`, each with a `name` and perhaps a `unit`, and either what a numeric column
is standardized by (`mean`, `standard_deviation`) and where its values lie (`minimum`,
`maximum`), or `categories` and an `encoding`, "one-hot" (the default) or "ordinal". A `mean` that is
stated is taken for the column's mean: without a background, it is what a row is compared with.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid_server.engine.models.files.strict_toml import (
    MOST_CHARACTERS,
    MOST_TEXTS,
    SHOWABLE,
    ManifestError,
    Table,
    is_count,
    is_numbers,
    is_texts,
    unshowable,
)
from pellucid_server.model_files.plain_files import UnfitFileError, check_file

RUNTIMES = ("auto", "graph", "onnxruntime")
MODALITIES = ("tensor", "image", "tabular")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
KINDS = ("logits", "sigmoid-logits", "probabilities", "values")
ENCODINGS = ("one-hot", "ordinal")
ROLES = ("values", "mask")

_MOST_DESCRIPTION_CHARACTERS = 4096
_MOST_MANIFEST_BYTES = 4 << 20
_MOST_LABELS_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """How pictures are made ready; sizes in pixels, mean and deviation on 0..255, one or three channels."""

    resize: int
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ColumnManifest:
    """A column of a table: numeric if it has no `categories`. Without a `mean` none is subtracted."""

    name: str
    mean: float | None = None
    standard_deviation: float = 1.0
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    encoding: str = "one-hot"
    unit: str = ""


@dataclass(frozen=True, slots=True)
class InputManifest:
    """An input: `image` is set for pictures, `columns` for tables, `ranges` and `role` perhaps for tensors."""

    name: str
    modality: str = "tensor"
    image: ImageManifest | None = None
    columns: tuple[ColumnManifest, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    role: str = ""


@dataclass(frozen=True, slots=True)
class OutputManifest:
    """An output: what its numbers mean, and a label for each class or none."""

    name: str
    kind: str = "values"
    labels: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A `model.toml`. `files` are the other files that it names, as given, relative to its folder.

    `disclosable` is whether rows of the background may be shown to callers.
    """

    description: str = ""
    runtime: str = "auto"
    background: str = ""
    solo: bool = False
    max_rows: int = 1024
    inputs: tuple[InputManifest, ...] = ()
    outputs: tuple[OutputManifest, ...] = ()
    files: tuple[str, ...] = ()
    disclosable: bool = False


def read_manifest(path: Path) -> Manifest:
    """Read a `model.toml`, and the label files that it names.

    Raises
    ------
    ManifestError
        The file cannot be read or is not TOML, a key is unknown or missing, a value is of the wrong
        type or out of range, or a file that it names is missing or outside its folder.
    """
    table = Table(path, "", _content(path))
    limits = table.table("limits")
    background, disclosable = _background(table)
    inputs = tuple(_input(entry) for entry in table.tables("inputs"))
    outputs = tuple(_output(entry) for entry in table.tables("outputs"))
    manifest = Manifest(
        description=table.text("description", most=_MOST_DESCRIPTION_CHARACTERS),
        runtime=table.choice("runtime", RUNTIMES, "auto"),
        background=background,
        disclosable=disclosable,
        solo=table.flag("solo"),
        max_rows=limits.count("max_rows", 1024),
        inputs=inputs,
        outputs=tuple(output for output, _ in outputs),
        files=tuple(sorted({name for name in (background, *(file for _, file in outputs)) if name})),
    )
    limits.finish()
    table.finish()
    table.require_distinct("inputs", [entry.name for entry in manifest.inputs])
    table.require_distinct("outputs", [entry.name for entry in manifest.outputs])
    return manifest


def _content(path: Path) -> dict[str, Any]:
    try:
        check_file(path, path.parent, most_bytes=_MOST_MANIFEST_BYTES)
        # Some editors put a byte order mark before the first key, which TOML does not know.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnfitFileError as error:
        raise ManifestError(str(error)) from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} must be UTF-8 text; it is not, from byte {error.start} on.") from error
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{path} is not TOML: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} has a number of too many digits, or is nested too deep.") from error


def _background(table: Table) -> tuple[str, bool]:
    """Read the background's file, and whether its rows may be shown: a text is a file whose rows may not."""
    if not table.is_table("background"):
        return table.file("background"), False
    found = table.table("background")
    file, disclosable = found.file("file"), found.flag("disclosable")
    if not file:
        raise found.error("file", 'is missing; name the background\'s file, such as "background.npz"')
    found.finish()
    return file, disclosable


def _input(table: Table) -> InputManifest:
    name = table.text("name", required=True)
    modality = table.choice("modality", (*MODALITIES, "text"), "tensor")
    if modality == "text":
        raise table.wrong("modality", f"must be one of: {', '.join(MODALITIES)}; texts are not supported yet")
    if modality == "image":
        entry = InputManifest(name, modality, image=_image(table))
    elif modality == "tabular":
        entry = InputManifest(name, modality, columns=_columns(table))
    else:
        entry = InputManifest(name, modality, ranges=_ranges(table), role=table.choice("role", ROLES, ""))
    table.finish()
    return entry


def _image(table: Table) -> ImageManifest:
    resize = table.count("resize", None)
    height, width = table.take("crop", _is_crop, "two whole numbers, height and width, such as [224, 224]")
    if max(height, width) > resize:
        raise table.wrong("crop", f"must not be longer than resize, {resize}, on either side")
    channels = "one number for grey pictures or three for RGB, such as [127, 127, 127]"
    mean = table.take("mean", _is_channels, channels)
    deviation = table.take("standard_deviation", _is_channels, channels)
    if len(deviation) != len(mean) or min(deviation) <= 0:
        raise table.wrong("standard_deviation", f"must be as many numbers as mean, {len(mean)}, each above 0")
    interpolation = table.choice("interpolation", INTERPOLATIONS, "bilinear")
    return ImageManifest(resize, (height, width), interpolation, _floats(mean), _floats(deviation))


def _columns(table: Table) -> tuple[ColumnManifest, ...]:
    columns = tuple(_column(entry) for entry in table.tables("columns"))
    if not columns:
        raise table.error("columns", "is missing; a table needs an [[inputs.columns]] for each column, in order")
    table.require_distinct("columns", [column.name for column in columns])
    return columns


def _column(table: Table) -> ColumnManifest:
    name, unit = table.text("name", required=True), table.text("unit")
    if table.has("categories"):
        categories = table.texts("categories")
        table.require_distinct("categories", categories)
        encoding = table.choice("encoding", ENCODINGS, "one-hot")
        column = ColumnManifest(name, categories=categories, encoding=encoding, unit=unit)
    else:
        column = _numeric_column(table, name, unit)
    table.finish()
    return column


def _numeric_column(table: Table, name: str, unit: str) -> ColumnManifest:
    mean, deviation = table.number("mean", None), table.number("standard_deviation", 1.0)
    if deviation <= 0:
        raise table.wrong("standard_deviation", "must be above 0")
    minimum, maximum = table.number("minimum", None), table.number("maximum", None)
    if minimum is not None and maximum is not None and minimum > maximum:
        raise table.wrong("minimum", f"must not be above maximum, {maximum:g}")
    return ColumnManifest(name, mean, deviation, minimum, maximum, unit=unit)


def _ranges(table: Table) -> tuple[tuple[float, float], ...]:
    if not table.has("ranges"):
        return ()
    right = "pairs [minimum, maximum], one for all elements or one for each, such as [[0, 1]]"
    ranges = table.take("ranges", lambda value: _is_range(value) or _is_ranges(value), right)
    pairs = [ranges] if _is_range(ranges) else ranges
    return tuple((float(low), float(high)) for low, high in pairs)


def _output(table: Table) -> tuple[OutputManifest, str]:
    """Read an output; return it with the name of its label file, or with an empty one."""
    name, unit = table.text("name", required=True), table.text("unit")
    kind = table.choice("kind", KINDS, "values")
    labels, file = table.texts("labels"), table.file("labels_file")
    if labels and file:
        raise table.wrong("labels_file", "must be left out where labels are given, or they where it is")
    table.finish()
    return OutputManifest(name, kind, _labels(table, file) if file else labels, unit), file


def _labels(table: Table, file: str) -> tuple[str, ...]:
    path = table.path.parent.joinpath(file)
    try:
        check_file(path, table.path.parent, most_bytes=_MOST_LABELS_BYTES)
        # Not by `splitlines`, which also parts them at what does not print.
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnfitFileError as error:
        raise table.error("labels_file", f"is a file that is not read: {str(error).rstrip('.')}") from error
    except UnicodeDecodeError as error:
        raise table.wrong("labels_file", f"must be UTF-8 text, and is not from byte {error.start} on") from error
    labels = [line.strip(" \t") for line in lines]
    if not all(labels) or not labels:
        number = labels.index("") + 1 if labels else 1
        raise table.wrong("labels_file", f"must have a label on every line, and has none on line {number}")
    controls = unshowable(labels)
    if controls is not None:
        raise table.wrong("labels_file", f"{SHOWABLE}, and has {ascii(labels[controls])[:80]} on line {controls + 1}")
    if not is_texts(labels):
        raise table.wrong(
            "labels_file", f"must have up to {MOST_TEXTS} labels, each of up to {MOST_CHARACTERS} characters"
        )
    return tuple(labels)


def _floats(values: list[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _is_channels(value: object) -> bool:
    return isinstance(value, list) and len(value) in (1, 3) and is_numbers(value)


def _is_crop(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_count(side) for side in value)


def _is_range(value: object) -> bool:
    return isinstance(value, list) and is_numbers(value) and len(value) == 2 and value[0] <= value[1]


def _is_ranges(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_range(pair) for pair in value)
