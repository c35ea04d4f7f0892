"""Masks in folders beside the pictures, and concepts in columns.

`masks = "masks"` in `dataset.toml` names the folder. In it is a folder for each category, in one of two forms:

- `CATEGORY/CONCEPT/PICTURE.png` is where the concept is in the picture: a PNG file of one channel, 0 where it is not. A
  picture without such a file does not have the concept. Concepts of one category may overlap.
- `CATEGORY/PICTURE.png` is a label map of the whole category: a PNG file of one channel, or with a palette, of up to 16
  bits. `concepts.csv` in the folder of masks, with the columns `category`, `index` and `name`, says what its values
  stand for; 0 is nothing. A category is of this form if `concepts.csv` has it. Label maps are much smaller.

`PICTURE` is the picture's path without its ending: from the folder of pictures, or, where a CSV file lists them, as it
names them there. Pictures whose paths differ by the ending alone share their masks.

`concepts = ["scene"]` names columns of the CSV file (or "label", the folders' names, or what `label` calls them) whose
cells are concepts of whole pictures, several separated by ";". The column's name is the category.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import Concept
from pellucid_server.engine.datasets.description import Description
from pellucid_server.engine.datasets.labels import as_text
from pellucid_server.engine.datasets.masks.marks import NOTHING, MarkedMap, Marks, distinct_concepts, value_table
from pellucid_server.engine.datasets.masks.mask_files import read_map, table_lines
from pellucid_server.engine.datasets.opening import DataFile, DataSetError
from pellucid_server.engine.datasets.records import Record

CONCEPTS_FILE = "concepts.csv"
_MOST_INDEX = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class FolderMasks:
    """Reads masks of folders. `indices` has the index of each concept in the label map of its category."""

    root: DataFile
    pictures: str
    """The folder that pictures' paths start at, with "/" behind it; empty for the data set's own."""
    concepts: tuple[Concept, ...]
    tables: Mapping[str, npt.NDArray[np.int64]]
    """The concept of each value of a label map, by category."""
    files: tuple[int, ...]
    """The concepts that have a file for each picture."""
    columns: Mapping[str, Mapping[str, int]]
    """The concepts in the cells of a column, by name."""

    def of(self, record: Record, picture: str) -> Marks:
        """Return the concepts in a row; see `MaskReader`."""
        stem = str(PurePosixPath(picture.removeprefix(self.pictures)).with_suffix(".png"))
        maps = []
        for category, table in self.tables.items():
            file = self._file(category, stem)
            if file.exists:
                maps.append(MarkedMap(str(file), read_map(file), table))
        for category in dict.fromkeys(self.concepts[number].category for number in self.files):
            file = self._file(category, stem)
            if file.exists:
                raise DataSetError(f"{file} is a label map, and {CONCEPTS_FILE} does not have its category.")
        for number in self.files:
            concept = self.concepts[number]
            file = self._file(concept.category, concept.name, stem)
            if file.exists:
                there = (read_map(file) != 0).view(np.uint8)
                maps.append(MarkedMap(str(file), there, np.array([NOTHING, number], np.int64)))
        whole = (known[name] for column, known in self.columns.items() for name in cell_names(record, column))
        return Marks(tuple(maps), tuple(sorted(set(whole))))

    def _file(self, *parts: str) -> DataFile:
        return DataFile(self.root.folder, "/".join((self.root.name, *parts)))


def folder_masks(folder: DataFile, description: Description, found: Iterable[Record]) -> FolderMasks:
    """Open the masks of a data set. Its records are gone through if columns have concepts.

    Raises
    ------
    DataSetError
        The folder of masks, or `concepts.csv`, is not as it should be.
    """
    root = DataFile(folder.folder, description.masks)
    named = _label_maps(root) if description.masks else {}
    by_file = _by_file(root, named) if description.masks else []
    in_columns = _in_columns(description.concepts, found)
    listed = [Concept(name, category) for category, names in named.items() for name in names.values()]
    columns = [Concept(name, category) for category, names in in_columns.items() for name in names]
    concepts = distinct_concepts([*listed, *by_file, *columns], str(root) if description.masks else description.data)
    numbers = {concept: number for number, concept in enumerate(concepts)}
    data = DataFile(folder.folder, description.data)
    return FolderMasks(
        root,
        f"{description.data.rstrip('/')}/" if data.is_folder else "",
        concepts,
        {category: value_table(category, names, concepts) for category, names in named.items()},
        tuple(numbers[each] for each in by_file),
        {column: {name: numbers[Concept(name, column)] for name in names} for column, names in in_columns.items()},
    )


def cell_names(record: Record, column: str) -> tuple[str, ...]:
    """Return the names in a cell that are separated by ";"; none where there is no such column."""
    names = (name.strip() for name in as_text(record.cells.get(column)).split(";"))
    return tuple(name for name in names if name)


def _by_file(root: DataFile, named: Mapping[str, object]) -> list[Concept]:
    found = []
    for category in root.entries(folders=True):
        inner = DataFile(root.folder, f"{root.name}/{category}")
        if category not in named:
            found += [Concept(name, category) for name in inner.entries(folders=True)]
    return found


def _in_columns(columns: tuple[str, ...], found: Iterable[Record]) -> dict[str, tuple[str, ...]]:
    names: dict[str, dict[str, None]] = {column: {} for column in columns}
    if columns:
        for record in found:
            for column, known in names.items():
                known.update(dict.fromkeys(cell_names(record, column)))
    return {column: tuple(sorted(known)) for column, known in names.items()}


def _label_maps(root: DataFile) -> dict[str, dict[int, str]]:
    """Return the names of `concepts.csv` by category and index; empty where there is no such file."""
    source = DataFile(root.folder, f"{root.name}/{CONCEPTS_FILE}")
    if not source.exists:
        return {}
    found: dict[str, dict[int, str]] = {}
    for where, line in table_lines(source, ("category", "index", "name")):
        _add(found, line, where)
    return found


def _add(found: dict[str, dict[int, str]], line: Mapping[str, str], where: str) -> None:
    category, index, name = (line[key] for key in ("category", "index", "name"))
    if not (index.isascii() and index.isdecimal() and len(index) < 6 and 1 <= int(index) <= _MOST_INDEX):
        raise DataSetError(f"{where}: the index must be a whole number from 1 to {_MOST_INDEX}; 0 marks nothing.")
    if "/" in category or category in ("", ".", ".."):
        raise DataSetError(f"{where}: the category must be the name of a folder beside the file.")
    if int(index) in found.setdefault(category, {}):
        raise DataSetError(f"{where}: the category has the index {index} twice.")
    found[category][int(index)] = name
