"""The Broden layout: pictures with masks of several categories, as the network dissection data set has them.

Source: Bau, Zhou, Khosla, Oliva and Torralba, "Network Dissection: Quantifying Interpretability of Deep Visual
Representations", CVPR 2017; the data set "Broden1_224" that came with it.

`layout = "broden"` in a `dataset.toml` in the data set's folder reads it as it is published, `data = "index.csv"`:

- `index.csv` has a line for each picture: `image`, a path below `images/`; `split`; `ih`, `iw`, `sh`, `sw`, sizes of
  the picture and of its masks, which are not needed; and a column for each category. A cell has what marks the picture,
  separated by ";": a path below `images/` of a mask, an RGB file of numbers R + 256 G, or a number for all of it.
- `label.csv` has the columns `number`, `name` and `category`: "color(289)", or several separated by ";", how often in
  brackets. A number in the column of a category stands for that concept of that category. 0 is nothing.
- `category.csv` has the column `name`, and the order of the categories.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import Concept
from pellucid_server.engine.datasets.masks.folders import cell_names
from pellucid_server.engine.datasets.masks.marks import (
    NOTHING,
    UNKNOWN,
    MarkedMap,
    Marks,
    distinct_concepts,
    value_table,
)
from pellucid_server.engine.datasets.masks.mask_files import read_colour_map, table_lines
from pellucid_server.engine.datasets.opening import DataFile, DataSetError
from pellucid_server.engine.datasets.records import Record

IMAGES = "images/"
_MOST_NUMBER = (1 << 16) - 1
_CATEGORY = re.compile(r"([^()]+?)(\(\d*\))?")


@dataclass(frozen=True, slots=True)
class BrodenMasks:
    """Reads masks of the Broden layout."""

    root: DataFile
    concepts: tuple[Concept, ...]
    tables: Mapping[str, npt.NDArray[np.int64]]
    """The concept that each number stands for, by category."""

    def of(self, record: Record, picture: str) -> Marks:
        """Return the concepts in a row; see `MaskReader`."""
        maps, whole = [], set[int]()
        for category, table in self.tables.items():
            for mark in cell_names(record, category):
                if not (mark.isascii() and mark.isdecimal()):
                    file = DataFile(self.root.folder, f"{IMAGES}{mark}")
                    maps.append(MarkedMap(str(file), read_colour_map(file), table))
                    continue
                number = int(mark) if len(mark) < 7 else len(table)
                if number >= len(table) or table[number] == UNKNOWN:
                    raise DataSetError(f"{record.where}, column {category!r}: a number is none of the category's.")
                whole.add(int(table[number]))
        return Marks(tuple(maps), tuple(sorted(whole - {NOTHING})))


def broden_masks(root: DataFile) -> BrodenMasks:
    """Open the masks of a data set of the Broden layout.

    Raises
    ------
    DataSetError
        `label.csv` or `category.csv` is missing, or is not as it should be.
    """
    labels = DataFile(root.folder, "label.csv")
    categories = [each["name"] for _, each in table_lines(DataFile(root.folder, "category.csv"), ("name",))]
    named: dict[str, dict[int, str]] = {category: {} for category in categories}
    for where, line in table_lines(labels, ("number", "name", "category")):
        number = line["number"]
        if not (number.isascii() and number.isdecimal() and len(number) < 6 and int(number) <= _MOST_NUMBER):
            raise DataSetError(f"{where}: the number must be a whole one from 0 to {_MOST_NUMBER}.")
        for category in _categories(line["category"]):
            if category not in named:
                raise DataSetError(f"{where}: the category {category!r} is none of category.csv.")
            named[category][int(number)] = line["name"]
    marked = {category: {key: name for key, name in names.items() if key} for category, names in named.items()}
    ordered = [Concept(names[key], category) for category, names in marked.items() for key in sorted(names)]
    concepts = distinct_concepts(ordered, str(labels))
    tables = {category: value_table(category, names, concepts) for category, names in marked.items()}
    return BrodenMasks(root, concepts, tables)


def _categories(cell: str) -> Iterator[str]:
    for part in cell.split(";"):
        found = _CATEGORY.fullmatch(part.strip())
        if found:
            yield found[1].strip()
