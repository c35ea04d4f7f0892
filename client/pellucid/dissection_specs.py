"""What `dissect` is asked, turned into the schema's request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pellucid.calls import model_spec
from pellucid.catalogue import Model
from pellucid.checks import checked_flag, checked_list, checked_mapping, checked_text, checked_whole, shortened
from pellucid.errors import invalid
from pellucid.inputs import read_inputs
from pellucid.sites import Site, SiteLike, read_sites
from pellucid.specs import MOST_SEED, Element, parameter_message, target_message
from pellucid.tensors import Array, to_tensor
from pellucid.v1 import dissection_pb2, explanation_service_pb2

_MOST_ROWS = (1 << 63) - 1

Concept = str | tuple[str, str]
"""A concept's name, or its name and its category."""


@dataclass(frozen=True, slots=True)
class DissectionSpec:
    """What is asked; see `Client.dissect`."""

    method: str = "network-dissection"
    layers: Sequence[SiteLike] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    inputs: Any = None
    masks: Mapping[Concept, Any] | None = None
    labels: Sequence[str] | None = None
    rows: int = 0
    target: Element | None = None
    output: str | None = None
    seed: int = 0
    exact: bool = False
    digest: str = ""
    """SHA-256 over the files of the model version that must answer; empty for any."""


def dissect_request(
    model: Model, name: str, version: int, spec: DissectionSpec
) -> explanation_service_pb2.DissectRequest:
    """Write the request.

    Parameters
    ----------
    model
        What the rows are read for.
    name, version
        The model as the caller names it; version 0 is the highest.
    spec
        What is asked.

    Raises
    ------
    InvalidRequestError
        A value is of a type, or a word, that there is not, or the inputs are not the model's.
    """
    parameters = checked_mapping(spec.parameters, "parameters", "values by name")
    return explanation_service_pb2.DissectRequest(
        model=model_spec(name, version, spec.digest),
        method=checked_text(spec.method, "method"),
        parameters={key: parameter_message(value, key) for key, value in parameters.items()},
        layers=[_layer(each) for each in read_sites(list(spec.layers), "layers")] if spec.layers else (),
        probe=_probe(model, spec),
        target=target_message(spec.target, None, spec.output, None, ""),
        seed=checked_whole(spec.seed, "seed", 0, MOST_SEED),
        exact=checked_flag(spec.exact, "exact"),
    )


def _layer(site: Site) -> dissection_pb2.LayerUnits:
    if site.positions is not None or site.each is not None:
        what = 'layers are named with the units that are looked at, as in "conv1[3-7]", without * or @'
        raise invalid("layers", f"has {shortened(str(site))}; {what}")
    message = site.message
    return dissection_pb2.LayerUnits(layer=message.layer, part=message.part, units=message.units)


def _probe(model: Model, spec: DissectionSpec) -> dissection_pb2.Probe | None:
    """Write where the rows come from; None where the method makes its own."""
    rows = checked_whole(spec.rows, "rows", 0, _MOST_ROWS)
    if spec.dataset is not None and spec.inputs is not None:
        raise invalid("dataset", "is set, and inputs too; set one of them")
    if spec.inputs is None:
        for name, given in (("masks", spec.masks), ("labels", spec.labels)):
            if given is not None:
                raise invalid(name, f"is set without inputs; {name} belong to rows that the request brings")
        if spec.dataset is None:
            if rows:
                raise invalid("rows", "is set, and there are none to read; set dataset or inputs")
            return None
        return dissection_pb2.Probe(dataset=checked_text(spec.dataset, "dataset"), rows=rows)
    sent = read_inputs(model, spec.inputs)
    return dissection_pb2.Probe(
        inputs=sent.messages,
        masks=_masks(spec.masks or {}, sent.count),
        labels=_labels(spec.labels, sent.count),
        rows=rows,
    )


def _labels(given: Sequence[str] | None, count: int) -> Sequence[str]:
    if given is None:
        return ()
    listed = given.tolist() if isinstance(given, np.ndarray) else checked_list(given, "labels", "texts")
    if len(listed) != count:
        raise invalid("labels", f"has {len(listed)} entries for {count} rows; give one for each row")
    return [checked_text(each, f"labels[{number}]") for number, each in enumerate(listed)]


def _masks(given: Mapping[Concept, Any], count: int) -> list[dissection_pb2.ConceptMask]:
    """Write where concepts are; a row that lacks a concept has no mask of it."""
    if not isinstance(given, Mapping):
        raise invalid("masks", f"is of type {type(given).__name__}; it must be a dict of masks by concept")
    found = []
    for concept, by_row in given.items():
        name, category = _concept(concept)
        where = f"masks[{shortened(name)}]"
        if not isinstance(by_row, list | tuple | np.ndarray) or len(by_row) != count:
            shape = f"has {len(by_row)} entries" if hasattr(by_row, "__len__") else f"is {shortened(by_row)}"
            raise invalid(where, f"{shape}; it must have a mask for each of the {count} rows")
        for row, each in enumerate(by_row):
            mask = _mask(each, f"{where}[{row}]")
            if mask is None:
                continue
            message = dissection_pb2.ConceptMask(concept=name, category=category, row=row)
            if mask.ndim:
                message.mask.CopyFrom(to_tensor(mask))
            found.append(message)
    return found


def _concept(given: Any) -> tuple[str, str]:
    pair = (given, "") if isinstance(given, str) else given
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise invalid("masks", f"has the key {shortened(given)}; it must be a concept's name, or (name, category)")
    if not checked_text(pair[0], "a concept of masks"):
        raise invalid("masks", "has a concept without a name")
    return pair[0], checked_text(pair[1], "a category of masks")


def _mask(given: Any, where: str) -> Array | None:
    """Return a row's mask, of no axes where it is everywhere; None where the concept is not in the row."""
    if given is None:
        return None
    mask = np.asarray(given)
    if mask.dtype != np.bool_ or mask.ndim not in (0, 2) or not mask.size:
        shown = f"{mask.dtype} of shape {mask.shape}" if mask.dtype != object else shortened(given)
        raise invalid(where, f"is {shown}; it must be True, False, None or bool of shape (height, width)")
    return mask if mask.any() else None
