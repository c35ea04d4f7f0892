"""From a `dataset.toml` to what reads the data set's masks."""

from pathlib import Path

from pellucid_server.engine.datasets.description import Description
from pellucid_server.engine.datasets.masks.broden import broden_masks
from pellucid_server.engine.datasets.masks.folders import folder_masks
from pellucid_server.engine.datasets.masks.marks import MaskReader
from pellucid_server.engine.datasets.opening import DataFile
from pellucid_server.engine.datasets.records import records


def open_masks(folder: Path, description: Description) -> MaskReader | None:
    """Open the masks of a data set; None where it has none.

    The whole data file is gone through, if columns of it have concepts.

    Raises
    ------
    DataSetError
        They cannot be read.
    """
    if not description.has_masks:
        return None
    root = DataFile(folder, "")
    if description.layout == "broden":
        return broden_masks(root)
    return folder_masks(root, description, records(folder, description))
