"""The call that asks what is inside a model: the request, and the parts put together. No input or output."""

from collections.abc import Callable
from dataclasses import dataclass

from pellucid import calls
from pellucid.ablation_calls import Gathering
from pellucid.catalogue import Model
from pellucid.dissection_specs import DissectionSpec, dissect_request
from pellucid.dissections import Dissection
from pellucid.errors import unreadable
from pellucid.findings import Findings
from pellucid.findings_messages import read_findings
from pellucid.progress import Progress
from pellucid.v1 import dissection_pb2, explanation_service_pb2

__all__ = ["DissectionReader", "DissectionSpec", "counted", "dissect", "dissect_request", "written"]

PreviewFunction = Callable[[Dissection], object]
"""Takes the estimate so far."""


def written(
    signatures: calls.Signatures, name: str, spec: DissectionSpec, version: int
) -> calls.Flow[tuple[Model, explanation_service_pb2.DissectRequest]]:
    """Return the description of the model that is asked, and the request."""
    return calls.written_request(
        signatures, name, version, lambda described: dissect_request(described, name, version, spec)
    )


def dissect(
    signatures: calls.Signatures, name: str, spec: DissectionSpec, version: int, reader: "DissectionReader"
) -> calls.Flow[calls.Call]:
    """Return the call that asks for a dissection; its replies, `DissectResponse`, are for the reader."""
    reader.described, request = yield from written(signatures, name, spec, version)
    return calls.Call(calls.EXPLANATIONS + "Dissect", request, explanation_service_pb2.DissectResponse.FromString)


def counted(progress: dissection_pb2.Progress) -> str:
    """Return how many rows or steps are done, and how fast, in words; empty where none are counted."""
    if not progress.rows_done and not progress.rows:
        return ""
    of = f" of {progress.rows:,}" if progress.rows else ""
    pace = progress.rows_per_second
    fast = f", {f'{pace:,.0f}' if pace >= 10 else f'{pace:.2g}'} a second" if pace > 0 else ""
    return f"{progress.rows_done:,}{of}{fast}"


@dataclass(slots=True)
class DissectionReader:
    """Reads the messages of one stream."""

    method: str
    progress: Progress
    on_preview: PreviewFunction | None = None
    share: float = 0.0
    """Of the work, done."""
    parts: int = 0
    """Parts read."""
    rows: int = 0
    """Rows, or steps, that were done."""
    described: Model | None = None
    """The model that is asked."""
    finished: bool = False
    """Whether the last part, which has the receipt, is there."""

    def read(self, message: explanation_service_pb2.DissectResponse) -> Findings | None:
        """Return the part that a message brings; None for one that only reports progress, or an estimate so far.

        Raises
        ------
        PellucidError
            The part cannot be read, comes out of turn, or comes after the last.
        """
        if not 0 <= message.progress.share <= 1:
            raise unreadable()
        found = read_findings(message.findings) if message.HasField("findings") else None
        if found is not None and not message.preview:
            if message.part != self.parts or self.finished:
                raise unreadable()
            self.parts += 1
            self.finished = found.receipt is not None
        partial = found is not None and found.accuracy is not None and found.accuracy.partial
        if not (self.finished and partial):
            # The last part of an answer that was cut short says 1 too: there is no more to come.
            self.share = message.progress.share
        self.rows = message.progress.rows_done
        self._report(message.progress)
        if found is None or not message.preview:
            return found
        if self.on_preview is not None:
            self.on_preview(self._dissection(found))
        return None

    def end(self) -> None:
        """See that the stream is whole.

        Raises
        ------
        PellucidError
            The last part is missing.
        """
        if not self.finished:
            raise unreadable()

    def dissection(self, gathering: Gathering) -> Dissection:
        """Return all parts as one answer.

        Raises
        ------
        PellucidError
            The parts do not fit together, or the last is missing.
        """
        self.end()
        return self._dissection(gathering.findings())

    def _dissection(self, found: Findings) -> Dissection:
        return Dissection(self.method, found, progress=self.share, rows=self.rows, described=self.described)

    def _report(self, progress: dissection_pb2.Progress) -> None:
        left = progress.seconds_left if progress.HasField("seconds_left") else None
        self.progress.report(progress.share, seconds_left=left, counted=counted(progress))
