"""An answer's scores in the caller's terms: columns of a table, the box of a picture, the type asked for."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.arrays import narrowed
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.rows import Rows
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import ReplyFormat
from pellucid_server.vocabulary.results import InputAttribution

_MORE = {"float16": "FLOAT32", "float32": "FLOAT64"}
"""What to ask for where a type's range does not suffice."""


def present(
    model: LoadedModel,
    name: str,
    scores: npt.NDArray[np.generic],
    groups: Mapping[str, npt.NDArray[np.int32]],
    rows: Rows,
    number: int,
    form: ReplyFormat,
    field: str,
    *,
    layer: str = "",
) -> InputAttribution:
    """Put one input's scores into the caller's terms: columns of a table, the box of a picture, the type asked for.

    `field` is the explanation's path in the request; with `layer` the scores are of its values, in its own terms.

    Raises
    ------
    InvalidRequestError
        The scores are beyond the range of the type.
    """
    where = f"{field}.format.data_type"
    if layer:
        return InputAttribution(_typed(scores, form, name, where))
    feature, found = model.features[name], groups.get(name)
    if feature.modality == "tabular" and feature.groups is not None:
        columns, by_column = _by_column(feature.groups.reshape(-1), scores, found)
        return InputAttribution(_typed(columns, form, name, where), model.inputs[name].columns, None, by_column)
    if feature.modality == "image":
        if form.sum_channels:
            scores = scores.astype(np.float64).sum(axis=0)
        plane = None if found is None else np.ascontiguousarray(found.reshape(-1, *found.shape[-2:])[0])
        return InputAttribution(_typed(scores, form, name, where), (), rows.boxes[name][number], plane)
    shape = scores.shape
    spread = None if found is None else np.ascontiguousarray(np.broadcast_to(found, shape))
    return InputAttribution(_typed(scores, form, name, where), (), None, spread)


def _by_column(
    columns: npt.NDArray[np.int32], scores: npt.NDArray[np.generic], groups: npt.NDArray[np.int32] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32] | None]:
    """Add elements' scores up by their column, and pick the column's group, which all its elements share."""
    summed = np.bincount(columns, scores.reshape(-1).astype(np.float64)).astype(np.float64, copy=False)
    if groups is None:
        return summed, None
    _, first = np.unique(columns, return_index=True)
    return summed, np.broadcast_to(groups, scores.shape).reshape(-1)[first]


def _typed(scores: npt.NDArray[np.generic], form: ReplyFormat, name: str, where: str) -> npt.NDArray[np.generic]:
    """Return scores in the type asked for; refuse where it cannot hold three digits of the largest."""
    found = narrowed(scores, np.dtype(form.data_type))
    if found is None:
        text = (
            f"The scores of {name!r} reach {float(np.abs(scores).max()):.3g}, which {form.data_type} cannot "
            f"hold; set {where} to {_MORE[form.data_type]}."
        )
        raise InvalidRequestError(text, field=where)
    return found
