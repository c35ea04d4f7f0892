"""A model's inputs in the caller's own terms, where there is no row: the columns of tables, the bounds of tensors."""

import numpy as np

from pellucid_server.engine.asking.counterfactuals import CellColumn, Cells, Floats
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.engine.models.loading.loaded import LoadedModel


def boxes(model: LoadedModel) -> dict[str, tuple[Floats, Floats]]:
    """Return the smallest and largest value of tensors' elements, where the manifest has them."""
    found: dict[str, tuple[Floats, Floats]] = {}
    for entry in model.manifest.inputs:
        if entry.ranges:
            pairs = np.array(entry.ranges, np.float64)
            lows, highs = pairs.T if len(pairs) > 1 else pairs[0]
            found[entry.name] = np.asarray(lows), np.asarray(highs)
    return found


def cells(model: LoadedModel) -> dict[str, Cells]:
    """Return the tables of a model by input: each column with the range that the model states."""
    return {
        name: _cells(model, name, table) for name, table in model.inputs.items() if isinstance(table, TablePreprocessor)
    }


def _cells(model: LoadedModel, name: str, table: TablePreprocessor) -> Cells:
    infos = table.info.columns
    coded = np.array([bool(info.categories) for info in infos])
    background = table.decode(model.background[name]) if model.background else np.zeros((0, len(infos)))
    return Cells(
        columns=tuple(
            CellColumn(
                info.name,
                info.unit,
                -np.inf if info.minimum is None else info.minimum,
                np.inf if info.maximum is None else info.maximum,
                info.categories,
                tuple(range(len(info.categories))),
            )
            for info in infos
        ),
        values=np.zeros(len(infos)),
        encode=table.encode,
        elements=np.where(coded, -1, table.starts),
        slopes=table.slopes,
        background=background,
    )
