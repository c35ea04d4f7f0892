"""What an answer of `Dissect` is a function of, beside its receipt."""

from dataclasses import dataclass
from typing import Any

from pellucid.errors import InvalidRequestError
from pellucid.receipts import plain
from pellucid.sites import read_site
from pellucid.tensors import TensorError
from pellucid.v1 import ablation_pb2, dissection_pb2


@dataclass(frozen=True, slots=True, eq=False)
class DissectionRecord:
    """What was looked at; with the receipt it means the same answer.

    Attributes
    ----------
    layers
        The layers, patterns resolved, with their units where the request named some: "conv1[3-7]".
    dataset, dataset_digest
        The data set's name, and SHA-256 over its files; empty without.
    rows
        At most how many of its rows were read; 0 for all.
    masks_digest
        SHA-256 over concept masks and labels that came with the request; empty without.
    """

    layers: tuple[str, ...] = ()
    dataset: str = ""
    dataset_digest: str = ""
    rows: int = 0
    masks_digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers."""
        found: dict[str, Any] = plain(self)
        return found


def read_record(message: dissection_pb2.DissectionRecord) -> DissectionRecord:
    """Read a record off a reply.

    Raises
    ------
    TensorError
        A layer makes no sense.
    """
    try:
        layers = tuple(_text(each) for each in message.layers)
    except InvalidRequestError as error:
        # A layer that no caller can have asked for.
        raise TensorError("data", "has a layer that makes no sense") from error
    return DissectionRecord(layers, message.dataset, message.dataset_digest, message.rows, message.masks_digest)


def _text(message: dissection_pb2.LayerUnits) -> str:
    return str(read_site(ablation_pb2.Site(layer=message.layer, part=message.part, units=message.units)))
