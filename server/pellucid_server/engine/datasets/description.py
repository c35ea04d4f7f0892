"""Reads `dataset.toml`: where the rows of a labelled data set are, and what its columns mean.

A data set is a folder `NAME/` below the folder of data sets, with this file and the data in it::

    description = "Census of 1994: does a person earn above 50,000 dollars a year?"
    kind = "table"                      # pictures | table | texts | tensor
    data = "rows.csv"                   # the file, or for pictures a folder with a subfolder for each class
    input = "features"                  # the model's input; left out, its only one
    label = "income"                    # the column with the labels; left out, "label"
    groups = ["sex", "race"]            # columns that results can be broken down by
    ignored = ["fnlwgt"]                # columns that are there and of no use
    [classes]                           # where names differ from the model's labels
    ">50K" = "above"                    # a label of the model, or the index of one
    "<=50K" = "below"

What `data` may be, and its columns:

- `table`: a CSV file (UTF-8, a header line, commas) or a Parquet file. Beside the model's columns it has the label, and
  it may have groups, which need not be columns of the model. Any other column must be in `ignored`.
- `pictures`: a folder with a subfolder for each class, or a CSV file with the columns `file` (the picture's name, from
  the data set's folder) and the label; `file = "path"` renames the first. Other columns are left alone.
- `texts`: a CSV file, or JSON lines (`.jsonl`), with the columns `text` and the label; `text = "body"` renames it.
- `tensor`: an `.npz` file of numpy's with an array (rows, *features) for each input of the model, under its name; an
  array (rows,) called as `label` says; and one for each group.

Data sets of pictures may have concept masks, which methods of `Dissect` compare units with. `masks` names their folder,
`concepts` columns of concepts of whole pictures; see `masks/folders.py`. `layout = "broden"` reads both as the data set
Broden has them; see `masks/broden.py`. `label = ""` says that pictures have no label.

A label is the name of a class: one of the model's labels, or what `[classes]` makes of it. A whole number that is no
label is a class's index. Where the model predicts a number, the label is a number in its unit.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid_server.engine.models.files.strict_toml import MOST_TEXTS, ManifestError, Table, is_texts, unshowable
from pellucid_server.model_files.plain_files import UnfitFileError, check_file

MANIFEST = "dataset.toml"
KINDS = ("pictures", "table", "texts", "tensor")
LAYOUTS = ("folders", "broden")

_ENDINGS = {"pictures": (".csv",), "table": (".csv", ".parquet"), "texts": (".csv", ".jsonl"), "tensor": (".npz",)}
_MOST_MANIFEST_BYTES = 4 << 20
_MOST_DESCRIPTION_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Description:
    """A `dataset.toml`. `data` is relative to its folder; `content` is the column of files or texts, if there is one.

    `classes` has the model's label, or the index of a class, by the name that the data set has for it. `label` is empty
    where there is none. `masks` is the folder of concept masks, and `concepts` the columns with concepts.
    """

    kind: str
    data: str
    description: str = ""
    input: str = ""
    label: str = "label"
    groups: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    content: str = ""
    classes: Mapping[str, str | int] | None = None
    layout: str = "folders"
    masks: str = ""
    concepts: tuple[str, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether concepts are marked."""
        return self.layout == "broden" or bool(self.masks or self.concepts)

    def picture(self, name: str) -> str:
        """Return the path, in the data set's folder, of the picture that a record names."""
        return f"images/{name}" if self.layout == "broden" else name


def read_description(path: Path) -> Description:
    """Read a `dataset.toml`.

    Raises
    ------
    ManifestError
        The file cannot be read or is not TOML, a key is unknown or missing, a value is of the wrong type, or the data
        is missing, outside the folder, or of a kind that is not read.
    """
    table = Table(path, "", _content(path))
    kind = str(table.take("kind", lambda value: value in KINDS, f"one of: {', '.join(KINDS)}"))
    layout = table.choice("layout", LAYOUTS, "folders") if kind == "pictures" else "folders"
    renamed = {"pictures": "file", "texts": "text"}.get(kind)
    if layout == "broden":
        renamed = "image"
    description = Description(
        kind=kind,
        data=_data(table, kind, layout),
        description=table.text("description", most=_MOST_DESCRIPTION_CHARACTERS),
        input=table.text("input"),
        label=_label(table, kind, layout),
        groups=table.texts("groups"),
        ignored=table.texts("ignored") if kind == "table" else (),
        content="" if renamed is None else _named(table, renamed, renamed),
        classes=_classes(table),
        layout=layout,
        masks=_masks(table) if kind == "pictures" and layout == "folders" else "",
        concepts=table.texts("concepts") if kind == "pictures" and layout == "folders" else (),
    )
    table.finish()
    listed = {name: getattr(description, name) for name in ("groups", "ignored", "concepts")}
    for key, names in listed.items():
        table.require_distinct(key, names)
    both = next((name for name in description.ignored if name in (*description.groups, description.label)), None)
    if both is not None:
        raise table.error("ignored", f"has {both!r}, which is a group or the label; leave it out")
    if description.label and description.label in description.groups:
        raise table.error("groups", f"has {description.label!r}, which is the label; results are given by class anyway")
    return description


def _content(path: Path) -> dict[str, Any]:
    try:
        check_file(path, path.parent, most_bytes=_MOST_MANIFEST_BYTES, owner="data set")
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


def _data(table: Table, kind: str, layout: str) -> str:
    name = table.text("data", required=True)
    path = table.path.parent / name
    may_be_folder = kind == "pictures" and layout == "folders"
    if may_be_folder and path.is_dir():
        if Path(name).is_absolute() or not path.resolve().is_relative_to(table.path.parent.resolve()):
            raise table.wrong("data", f"must be the name of a folder in the folder of {table.path.name}")
        return name
    endings = _ENDINGS[kind]
    if not name.lower().endswith(endings):
        folder = "a folder with a subfolder for each class, or " if may_be_folder else ""
        raise table.wrong("data", f"must be {folder}a file that ends in {' or '.join(endings)}")
    return table.file("data", owner="data set")


def _label(table: Table, kind: str, layout: str) -> str:
    if kind == "pictures" and (layout == "broden" or table.has("label")):
        return table.text("label")
    return _named(table, "label", "label")


def _masks(table: Table) -> str:
    name = table.text("masks")
    path = table.path.parent / name
    inside = path.resolve().is_relative_to(table.path.parent.resolve())
    if name and (Path(name).is_absolute() or not inside or not path.is_dir()):
        raise table.wrong("masks", f"must be the name of a folder in the folder of {table.path.name}")
    return name.rstrip("/")


def _named(table: Table, key: str, default: str) -> str:
    return table.text(key, required=True) if table.has(key) else default


def _classes(table: Table) -> Mapping[str, str | int] | None:
    def fits(value: object) -> bool:
        return (
            isinstance(value, dict)
            and 0 < len(value) <= MOST_TEXTS
            and is_texts(list(value))
            and unshowable(list(value)) is None
            and all(_is_class(entry) for entry in value.values())
        )

    right = 'a table of labels, or indices, by the data set\'s names, such as {M = "malignant"}'
    if not table.has("classes"):
        return None
    found: Mapping[str, str | int] = table.take("classes", fits, right)
    return found


def _is_class(value: object) -> bool:
    return is_texts([value]) or (type(value) is int and 0 <= value < MOST_TEXTS)
