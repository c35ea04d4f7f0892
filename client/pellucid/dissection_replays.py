"""Asking again for an answer of `Dissect`, by its receipt and its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pellucid.checks import shortened
from pellucid.dissection_records import DissectionRecord
from pellucid.dissection_specs import Concept, DissectionSpec
from pellucid.dissections import Dissection
from pellucid.errors import InvalidRequestError, invalid
from pellucid.receipts import read_plain_outcome, read_plain_parameter

_NEEDED = ("model", "input_digest", "method", "target", "seed", "exact")
_KNOWN = "a Dissection with a receipt, or what its to_dict returns"


@dataclass(frozen=True, slots=True)
class DissectionReplay:
    """What asks for an answer again, and the digests that the answer should then have.

    Attributes
    ----------
    model, version
        The model version that answered.
    spec
        What was asked, with the parameters that were used, and the model's digest.
    digests
        SHA-256 by what was digested, such as "data set"; only those that there are.
    """

    model: str
    version: int
    spec: DissectionSpec
    digests: Mapping[str, str]

    def answer(self, found: Dissection) -> Dissection:
        """Return the new answer, with a warning for each digest that has changed."""
        if found.receipt is None or found.record is None:
            return found
        now = _digests(found.receipt.input_digest, found.record)
        changed = [what for what, digest in self.digests.items() if now.get(what, "") != digest]
        if not changed:
            return found
        verb = "is" if changed == ["data set"] else "are"
        text = f"The {' and '.join(changed)} {verb} not what the replayed answer rests on."
        return replace(found, findings=replace(found.findings, warnings=(*found.warnings, text)))


def read_dissection_replay(
    answer: Any, inputs: Any, masks: Mapping[Concept, Any] | None, labels: Sequence[str] | None
) -> DissectionReplay:
    """Read off an answer what asks for it again.

    Parameters
    ----------
    answer
        A `Dissection`, or the plain dictionary of its `to_dict`, which JSON can keep.
    inputs, masks, labels
        The rows, masks and labels that the request brought itself; None for an answer without.

    Raises
    ------
    InvalidRequestError
        It is neither, has no record, or needs rows or masks that are not given.
    """
    receipt, record = _read(answer)
    if record.masks_digest and masks is None and labels is None:
        raise invalid("masks", "is None, and the answer rests on masks or labels of the request; give the same ones")
    if receipt["input_digest"] and not record.dataset and inputs is None:
        raise invalid("inputs", "is None, and the answer rests on rows of the request; give the same ones")
    model, target = receipt["model"], receipt["target"] or {}
    spec = DissectionSpec(
        method=receipt["method"],
        layers=record.layers,
        parameters=receipt["parameters"],
        dataset=record.dataset or None,
        inputs=inputs,
        masks=masks,
        labels=labels,
        rows=record.rows,
        target=read_plain_outcome(target.get("outcome")),
        output=target.get("output") or None,
        seed=receipt["seed"],
        exact=receipt["exact"],
        digest=model["digest"],
    )
    return DissectionReplay(model["name"], model["version"], spec, _digests(receipt["input_digest"], record))


def _digests(rows: str, record: DissectionRecord) -> dict[str, str]:
    found = {
        "inputs": "" if record.dataset else rows,
        "data set": record.dataset_digest,
        "masks and labels": record.masks_digest,
    }
    return {what: digest for what, digest in found.items() if digest}


def _read(answer: Any) -> tuple[Mapping[str, Any], DissectionRecord]:
    if isinstance(answer, Dissection):
        if answer.receipt is None or answer.record is None:
            raise invalid("answer", "has no receipt or no record of what was asked; it cannot be replayed")
        # Parameters as they are: arrays keep their type.
        return answer.receipt.to_dict() | {"parameters": answer.receipt.parameters}, answer.record
    if not isinstance(answer, Mapping):
        raise invalid("answer", f"is {shortened(answer)}; it must be {_KNOWN}")
    try:
        record, receipt = dict(answer["record"]), answer["receipt"]
        parameters = {name: read_plain_parameter(value) for name, value in receipt["parameters"].items()}
        needed = {key: receipt[key] for key in _NEEDED}
        return needed | {"parameters": parameters}, DissectionRecord(**(record | {"layers": tuple(record["layers"])}))
    except InvalidRequestError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise invalid("answer", f"is a dict without a receipt and a record; it must be {_KNOWN}") from error
