"""From the probe that a `Dissect` names to the rows that its method looks at."""

from dataclasses import dataclass
from functools import partial

from pellucid_server.engine.asking.probes import ProbeSet
from pellucid_server.engine.datasets.probe import open_probe
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.dataset_rows import offloaded
from pellucid_server.engine.operations.inline_probe import inline_probe, masks_digest
from pellucid_server.engine.operations.rows import digest, prepare
from pellucid_server.engine.tasks.ahead import ahead
from pellucid_server.vocabulary.requests import ProbeSpec

MOST_INLINE_ROWS = 4096
"""Rows that a request brings itself, at most."""


@dataclass(frozen=True, slots=True)
class OpenedProbe:
    """The rows of a request, and what the answer is a function of.

    `rows` is None where the request names none. Digests are empty where there is nothing to take one of.
    """

    rows: ProbeSet | None = None
    digest: str = ""
    dataset_digest: str = ""
    masks_digest: str = ""
    warnings: tuple[str, ...] = ()


def opened_probe(context: RequestContext, model: LoadedModel, spec: ProbeSpec | None) -> OpenedProbe:
    """Find the rows that a request names.

    Raises
    ------
    PellucidError
        There is no such data set, it does not fit the model, or inline rows are wrong.
    """
    if spec is None:
        return OpenedProbe()
    if spec.dataset:
        datasets, run = context.models.datasets, offloaded(context)
        found = datasets.find(spec.dataset, place="probe.dataset")
        files = datasets.digest(found, run)
        return OpenedProbe(open_probe(found, model, spec.rows, run, partial(ahead, context.services.hub)), files, files)
    sent = prepare(context, model, spec.inputs, field="probe.inputs", most=MOST_INLINE_ROWS)
    rows = inline_probe(model, sent, spec, offloaded(context))
    inputs = context.heavy(lambda: digest(rows.arrays), rows.arrays)
    return OpenedProbe(rows, inputs, masks_digest=masks_digest(spec, rows.count))
