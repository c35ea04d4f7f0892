"""Device batches as spans of the traced requests whose rows they hold."""

import itertools

from pellucid_server.engine.device.evaluation import ChunkPart
from pellucid_server.engine.device.kernel import Kernel
from pellucid_server.engine.tasks.spans import SpanLog
from pellucid_server.vocabulary.spans import BATCH, MOST_LINKS, Attribute, WorkerSpan

_numbers = itertools.count(1)
"""Numbers of this process's batches with rows of traced requests; the device threads share them."""


def note(kernel: Kernel, chunk: list[ChunkPart], began: float, ended: float, error: Exception | None) -> None:
    """Note a batch with every traced request that has rows in it; nothing is done where none is traced."""
    traced = [(entry, count) for entry, count in chunk if entry.request.spans is not None]
    if not traced:
        return
    batch, rows = next(_numbers), sum(count for _, count in chunk)
    requests = {entry.request.request_number for entry, _ in chunk}
    logs: dict[str, SpanLog] = {}
    # By request and by what of it asked for the rows: both explanations of one request may be in a batch.
    parts: dict[tuple[str, int], int] = {}
    for entry, count in traced:
        log = entry.request.spans
        assert log is not None  # noqa: S101 - that is what `traced` holds
        logs[log.context] = log
        key = (log.context, entry.tally.span or 1)
        parts[key] = parts.get(key, 0) + count
    attributes: dict[str, Attribute] = {
        "pellucid.batch.evaluation": kernel.evaluation,
        "pellucid.batch.rows": rows,
        "pellucid.batch.requests": len(requests),
        "pellucid.batch.backward": kernel.backward,
        "pellucid.batch.runtime": kernel.runtime,
    }
    for (context, parent), count in parts.items():
        links = tuple(itertools.islice((other for other in logs if other != context), MOST_LINKS))
        own = {**attributes, "pellucid.batch.own_rows": count}
        failed = "" if error is None else type(error).__name__
        logs[context].batch(WorkerSpan(BATCH, parent, began, ended, own, failed, batch, links))
