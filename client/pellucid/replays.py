"""Asking again for an answer of `Ablate`, by its receipt and its record."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pellucid.ablation_records import AblationRecord
from pellucid.ablation_rules import Rule
from pellucid.ablation_specs import AblationSpec
from pellucid.ablations import Ablation
from pellucid.checks import shortened
from pellucid.counterfactuals import Counterfactuals, read_counterfactuals
from pellucid.errors import InvalidRequestError, invalid
from pellucid.interventions import KINDS, Intervention
from pellucid.receipts import read_plain_outcome, read_plain_parameter

_COUNTERFACTUAL = "counterfactual"
_NEEDED = ("model", "input_digest", "method", "target", "seed", "exact")
_KNOWN = "an Ablation, a Counterfactuals, or what their to_dict returns"


@dataclass(frozen=True, slots=True)
class Replay:
    """What asks for an answer again, and the digests that the answer should then have.

    Attributes
    ----------
    model, version
        The model version that answered.
    spec
        What was asked, with the references and parameters that were used, and the model's digest.
    digests
        SHA-256 by what was digested, such as "inputs"; only those that there are.
    counterfactuals
        Whether the answer is one of counterfactuals.
    """

    model: str
    version: int
    spec: AblationSpec
    digests: Mapping[str, str]
    counterfactuals: bool

    def answer(self, found: Ablation) -> Ablation | Counterfactuals:
        """Return the new answer in the old one's class, with a warning for each digest that has changed."""
        now = _digests(found.receipt.input_digest, found.findings.record)
        changed = [what for what, digest in self.digests.items() if now.get(what, "") != digest]
        if changed:
            what = " and ".join(changed)
            text = f"The {what} {'is' if changed == ['data set'] else 'are'} not what the replayed answer rests on."
            found = replace(found, findings=replace(found.findings, warnings=(*found.warnings, text)))
        return read_counterfactuals(found) if self.counterfactuals else found


def read_replay(answer: Any, source: Any) -> Replay:
    """Read off an answer what asks for it again.

    Parameters
    ----------
    answer
        An `Ablation` or `Counterfactuals`, or the plain dictionary of its `to_dict`, which JSON can keep.
    source
        The rows that values were patched from; None for an answer without.

    Raises
    ------
    InvalidRequestError
        It is none of these, has no record, or needs source rows that are not given.
    """
    if isinstance(answer, Counterfactuals):
        answer = answer.ablation
    if isinstance(answer, Ablation):
        receipt, record = _read_answer(answer)
    elif isinstance(answer, Mapping):
        receipt, record = _read_plain(answer)
    else:
        raise invalid("answer", f"is {shortened(answer)}; it must be {_KNOWN}")
    if record.source_digest and source is None:
        raise invalid("source", "is None, and the answer rests on source rows; give the same ones")
    return _replay(receipt, record, source)


def _replay(receipt: Mapping[str, Any], record: AblationRecord, source: Any) -> Replay:
    model, target = receipt["model"], receipt["target"] or {}
    spec = AblationSpec(
        method=receipt["method"],
        interventions=record.interventions,
        parameters=receipt["parameters"],
        target=read_plain_outcome(target.get("outcome")),
        contrast=read_plain_outcome(target.get("contrast")),
        output=target.get("output") or None,
        space=target.get("space") or None,
        metric=record.metric,  # type: ignore[arg-type]  # checked with the request
        source=source,
        dataset=record.dataset or None,
        seed=receipt["seed"],
        exact=receipt["exact"],
        wanted=record.wanted,
        minimum=record.minimum,
        maximum=record.maximum,
        columns=record.columns or {},
        digest=model["digest"],
    )
    digests = _digests(receipt["input_digest"], record)
    counterfactuals = spec.method == _COUNTERFACTUAL
    return Replay(model["name"], model["version"], spec, digests, counterfactuals)


def _digests(inputs: str, record: AblationRecord | None) -> dict[str, str]:
    found = {"inputs": inputs}
    if record is not None:
        found |= {
            "source rows": record.source_digest,
            "reference rows": record.reference_digest,
            "data set": record.dataset_digest,
        }
    return {what: digest for what, digest in found.items() if digest}


def _read_answer(answer: Ablation) -> tuple[Mapping[str, Any], AblationRecord]:
    if answer.findings.record is None:
        raise invalid("answer", "has no record of what was asked; it cannot be replayed")
    # Parameters as they are: arrays keep their type.
    return answer.receipt.to_dict() | {"parameters": answer.receipt.parameters}, answer.findings.record


def _read_plain(answer: Mapping[str, Any]) -> tuple[Mapping[str, Any], AblationRecord]:
    """Read the receipt and the record off what `to_dict` returned."""
    try:
        record = dict(answer["record"])
        interventions = tuple(_intervention(each) for each in record["interventions"])
        rules = {name: Rule(**rule) for name, rule in (record["columns"] or {}).items()}
        changed = {"interventions": interventions, "columns": rules, "wanted": read_plain_outcome(record["wanted"])}
        receipt = answer["receipt"]
        # A parameter of several numbers is a list in JSON.
        parameters = {name: read_plain_parameter(value) for name, value in receipt["parameters"].items()}
        needed = {key: receipt[key] for key in _NEEDED}
        return needed | {"parameters": parameters}, AblationRecord(**(record | changed))
    except InvalidRequestError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise invalid("answer", f"is a dict without a receipt and a record; it must be {_KNOWN}") from error


def _intervention(plain: Mapping[str, Any]) -> Intervention:
    fields = {key: value for key, value in plain.items() if key != "kind"}
    return KINDS[plain["kind"]](**fields)
