"""The calls that answer in a stream: the request, and the parts put together. No input or output."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from pellucid import calls
from pellucid.ablation_specs import AblationSpec, ablate_request
from pellucid.ablations import Ablation
from pellucid.catalogue import Model
from pellucid.errors import PellucidError, unreadable
from pellucid.findings import Column, Findings, Table
from pellucid.findings_messages import read_findings
from pellucid.inputs import Sent
from pellucid.progress import Progress
from pellucid.tensors import Array
from pellucid.v1 import explanation_service_pb2

ABLATE_SECONDS = 120.0
"""Deadline of a call that answers in a stream, unless the caller sets another.

Connections that have reached a server's age give running calls 150 s by default.
"""

V = TypeVar("V")

_FIELD = re.compile(
    r"columns\[(?P<number>[0-9]{1,9})\](?:\.column)?"
    r"|\b(?P<element>wanted\.outcome|target\.outcome|target\.contrast)(?:\.label|\.index)?\b"
)
"""Fields of a request, as the server names them, that arguments of the client have other names for."""

_ARGUMENTS = {"wanted.outcome": "wanted", "target.outcome": "target", "target.contrast": "contrast"}


def ablate(
    signatures: calls.Signatures, name: str, inputs: Any, spec: AblationSpec, version: int, reader: "PartReader"
) -> calls.Flow[calls.Call]:
    """Return the call that asks for an ablation; its replies, `AblateResponse`, are for the reader."""

    def written(described: Model) -> explanation_service_pb2.AblateRequest:
        return ablate_request(described, name, version, inputs, spec)

    reader.described, request = yield from calls.written_request(signatures, name, version, written)
    reader.rows = Sent(request.inputs).count
    return calls.Call(calls.EXPLANATIONS + "Ablate", request, explanation_service_pb2.AblateResponse.FromString)


def in_callers_words(error: PellucidError, columns: Sequence[str]) -> PellucidError:
    """Return a refusal with the arguments' names in place of the request's; the error itself where it has none.

    Parameters
    ----------
    columns
        The columns that there are rules for, in the request's order.
    """

    def named(text: str) -> str:
        return _FIELD.sub(lambda found: _argument(found, columns), text)

    texts = [error.message, *error.violations]
    if texts == [named(text) for text in texts]:
        return error
    return type(error)(
        named(error.message),
        code=error.code,
        metadata={key: named(text) for key, text in error.metadata.items()},
        violations={named(field): named(text) for field, text in error.violations.items()},
        retry_after_seconds=error.retry_after_seconds,
        retriable=error.retriable,
        request_id=error.request_id,
    )


def _argument(found: "re.Match[str]", columns: Sequence[str]) -> str:
    if found["number"] is None:
        return _ARGUMENTS[found["element"]]
    number = int(found["number"])
    return f"columns[{columns[number]!r}]" if number < len(columns) else found[0]


class StreamReader(Protocol):
    """Reads the messages of one stream, whatever RPC it is of."""

    progress: Progress
    parts: int
    """Parts read."""

    def read(self, message: Any) -> Findings | None:
        """Return the part that a message brings; None for one that brings none.

        Raises
        ------
        PellucidError
            The part cannot be read, comes out of turn, or comes after the last.
        """
        ...

    def end(self) -> None:
        """See that the stream is whole.

        Raises
        ------
        PellucidError
            The last part is missing.
        """
        ...


@dataclass(slots=True)
class PartReader:
    """Reads the messages of one stream."""

    progress: Progress
    share: float = 0.0
    """Of the work, done."""
    parts: int = 0
    """Parts read."""
    rows: int = 0
    """Rows of the request."""
    described: Model | None = None
    """The model that is asked."""
    finished: bool = False
    """Whether the last part, which has the receipt, is there."""

    def read(self, message: explanation_service_pb2.AblateResponse) -> Findings | None:
        """Return the part that a message brings; None for one that only reports progress.

        Raises
        ------
        PellucidError
            The part cannot be read, comes out of turn, or comes after the last.
        """
        if not 0 <= message.progress <= 1:
            raise unreadable()
        if not message.HasField("findings"):
            self.share = message.progress
            self.progress.report(message.progress)
            return None
        if message.part != self.parts or self.finished:
            raise unreadable()
        found = read_findings(message.findings)
        self.parts += 1
        self.finished = found.receipt is not None
        if not (self.finished and found.accuracy is not None and found.accuracy.partial):
            # The last part of an answer that was cut short says 1 too: there is no more to come.
            self.share = message.progress
        self.progress.report(message.progress)
        return found

    def end(self) -> None:
        """See that the stream is whole.

        Raises
        ------
        PellucidError
            The last part is missing.
        """
        if not self.finished:
            raise unreadable()


@dataclass(slots=True)
class Gathering:
    """The parts of an answer, put together: tables of one name by their rows, arrays and pictures by their names."""

    parts: list[Findings] = field(default_factory=list)

    def add(self, part: Findings) -> None:
        """Take one more part."""
        self.parts.append(part)

    def ablation(self, method: str, reader: PartReader) -> Ablation:
        """Return all parts as one answer of a method.

        Raises
        ------
        PellucidError
            The parts do not fit together, or the last is missing.
        """
        found = self.findings()
        if found.receipt is None:
            raise unreadable()
        return Ablation(method, found, found.receipt, reader.share, reader.rows, reader.described)

    def findings(self) -> Findings:
        """Return all parts as one.

        Raises
        ------
        PellucidError
            The parts do not fit together.
        """
        tables: dict[str, list[Table]] = {}
        for part in self.parts:
            for name, table in part.tables.items():
                tables.setdefault(name, []).append(table)
        warnings = dict.fromkeys(text for part in self.parts for text in part.warnings)
        return Findings(
            arrays=_united([part.arrays for part in self.parts]),
            tables={name: _joined(each) for name, each in sorted(tables.items())},
            pictures=_united([part.pictures for part in self.parts]),
            accuracy=_last([part.accuracy for part in self.parts]),
            warnings=tuple(warnings),
            resolved={name: value for part in self.parts for name, value in part.resolved.items()},
            receipt=_last([part.receipt for part in self.parts]),
            record=_last([part.record for part in self.parts]),
            dissection=_last([part.dissection for part in self.parts]),
        )


def _united(parts: Sequence[Mapping[str, V]]) -> dict[str, V]:
    found = {name: each for part in parts for name, each in part.items()}
    if len(found) < sum(map(len, parts)):
        raise unreadable()
    return dict(sorted(found.items()))


def _last(values: Sequence[V | None]) -> V | None:
    return next((value for value in reversed(values) if value is not None), None)


def _joined(tables: Sequence[Table]) -> Table:
    """Append the rows of tables; a column that a part lacks has missing values there."""
    first = tables[0]
    if len(tables) == 1:
        return first
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns = {name: _appended(name, tables) for name in names}
    return replace(first, columns=columns)


def _appended(name: str, tables: Sequence[Table]) -> Column:
    known = [table.columns[name] for table in tables if name in table.columns]
    first = known[0]
    if len({(column.values.dtype, column.unit) for column in known}) > 1:
        raise unreadable()
    values = [table.columns[name].values if name in table.columns else _none(first, len(table)) for table in tables]
    if any(isinstance(each, np.ma.MaskedArray) for each in values):
        joined: Array = np.ma.concatenate(values)  # type: ignore[no-untyped-call]
    else:
        joined = np.concatenate(values)
        joined.flags.writeable = False
    return replace(first, values=joined)


def _none(column: Column, count: int) -> Array:
    """Return as many missing values of a column's type, as `read_findings` writes them."""
    kind = column.values.dtype
    if kind.kind in "biu":
        masked: Array = np.ma.MaskedArray(np.zeros(count, kind), np.ones(count, np.bool_))
        return masked
    return np.full(count, None if kind.kind == "O" else np.nan, kind)
