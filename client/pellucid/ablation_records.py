"""What an answer of `Ablate` is a function of, beside its receipt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.ablation_rules import Rule, read_rule
from pellucid.errors import InvalidRequestError
from pellucid.interventions import Intervention, read_intervention
from pellucid.receipts import Outcome, enum_word, plain, read_outcome
from pellucid.tensors import TensorError
from pellucid.v1 import ablation_pb2


@dataclass(frozen=True, slots=True, eq=False)
class AblationRecord:
    """What was measured, changed and wanted; with the receipt it means the same answer.

    Attributes
    ----------
    metric
        "score", "probability", "logit-difference" or "kl-divergence".
    interventions
        The changes, with the references that were used; they can be sent again.
    source_digest, reference_digest
        SHA-256 over the source rows, and over the rows that means and draws came from, after preprocessing; empty
        without.
    dataset, dataset_digest
        The data set's name, and SHA-256 over its files; empty without.
    wanted, minimum, maximum
        What counterfactuals were to reach; None for what was not said.
    columns
        What counterfactuals might do to columns, by name.
    """

    metric: str
    interventions: tuple[Intervention, ...] = ()
    source_digest: str = ""
    reference_digest: str = ""
    dataset: str = ""
    dataset_digest: str = ""
    wanted: Outcome | None = None
    minimum: float | None = None
    maximum: float | None = None
    columns: Mapping[str, Rule] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers."""
        found: dict[str, Any] = plain(self)
        return found | {"interventions": [each.to_dict() for each in self.interventions]}


def read_record(message: ablation_pb2.AblationRecord) -> AblationRecord:
    """Read a record off a reply.

    Raises
    ------
    TensorError
        A vector or a site is malformed.
    """
    try:
        interventions = tuple(read_intervention(each) for each in message.interventions)
    except InvalidRequestError as error:
        # A site that no caller can have asked for.
        raise TensorError("data", "has a site that makes no sense") from error
    wanted = message.wanted
    return AblationRecord(
        metric=enum_word(ablation_pb2.Metric, message.metric, "METRIC_") or "score",
        interventions=interventions,
        source_digest=message.source_digest,
        reference_digest=message.reference_digest,
        dataset=message.dataset,
        dataset_digest=message.dataset_digest,
        wanted=read_outcome(wanted.outcome) if wanted.HasField("outcome") else None,
        minimum=wanted.minimum if wanted.HasField("minimum") else None,
        maximum=wanted.maximum if wanted.HasField("maximum") else None,
        columns={each.column: read_rule(each) for each in message.columns},
    )
