"""What is kept of a request once it has ended: its measures, its trace's end, what it costs its caller, one line."""

import logging
from collections.abc import Callable, Collection

import grpc

from pellucid_server.errors import PellucidError
from pellucid_server.metrics import UNKNOWN, RequestRecorder, ServedLabels
from pellucid_server.rpc import places, status
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.gate import Gate
from pellucid_server.rpc.tracing import outcome, trace_fields
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.results import RequestTiming

_log = logging.getLogger(__name__)

_NAME_LENGTH = 80


class Outcomes:
    """Records how requests end; of what the caller sent, the line has names alone.

    Parameters
    ----------
    recorder
        Takes the measures.
    served
        Gives what the workers serve: the names that may become labels.
    gate
        Charges what a request took to its caller.
    classes
        The names of the classes of requests: others are `unknown`.
    keys
        The metadata keys that errors may name.
    """

    def __init__(
        self,
        recorder: RequestRecorder,
        served: Callable[[], Hello | None],
        gate: Gate,
        classes: Collection[str],
        keys: frozenset[str],
    ) -> None:
        self._recorder = recorder
        self._served = served
        self._gate = gate
        self._classes = frozenset(classes)
        self._keys = keys
        self._labelled: Hello | None = None
        self._served_labels = ServedLabels(None)
        self._names = keys

    def record(self, call: Call, code: grpc.StatusCode, failure: PellucidError | None = None) -> None:
        """Record a request that has ended, and write its line; one that cannot be recorded has ended all the same."""
        try:
            self._record(call, code, failure)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("request %s could not be recorded", call.request_id)

    def _record(self, call: Call, code: grpc.StatusCode, failure: PellucidError | None) -> None:
        seconds = call.elapsed_seconds
        timing = _timing(call, failure)
        self._recorder.record(
            call.rpc,
            code.name,
            call.method,
            call.model,
            call.version,
            seconds=seconds,
            answered_by=call.answered_by,
            timing=timing,
            received_bytes=call.received_bytes,
            sent_bytes=call.sent_bytes,
            trace_id="" if call.trace is None else call.trace.context.trace_id,
        )
        if timing is not None:
            self._gate.charge(call, timing.rows_forward + timing.rows_backward)
        if call.timing is not None and code is not grpc.StatusCode.OK:
            self._recorder.wasted(self._labels().model(call.model, call.version)[0], call.timing)
        if call.trace is not None:
            labels = self._labels().labels(call.method, call.model, call.version, call.answered_by)
            call.trace.finish(outcome(code, failure, (*labels, self._class_label(call)), timing))
        level = logging.ERROR if code is grpc.StatusCode.INTERNAL else logging.INFO
        if _log.isEnabledFor(level):
            cause = failure.__cause__ if failure is not None and status.is_bug(failure) else None
            words = self._class_label(call), self._labels().method(call.method)
            fields = _fields(call, code, seconds, words, timing) | self._failed(failure)
            _log.log(level, "request", extra={"fields": fields}, exc_info=cause)

    def _class_label(self, call: Call) -> str:
        return call.priority if call.priority in {"", *self._classes} else UNKNOWN

    def _failed(self, failure: PellucidError | None) -> dict[str, object]:
        """Say what went wrong without the caller's values: the message may quote them, and so may a path."""
        if failure is None:
            return {}
        fields: dict[str, object] = {"reason": failure.reason}
        path = failure.metadata.get("field", "")
        if path:
            fields["field"] = places.shown(path, self._names)
        if "resource_type" in failure.metadata:
            fields["resource"] = failure.metadata["resource_type"]
        if not failure.quotes_request:
            fields["error"] = failure.message[:1000]
        return fields

    def _labels(self) -> ServedLabels:
        """Return the names that may be labels: of those that are not served, all are one."""
        hello = self._served()
        if hello is not None and hello is not self._labelled:
            self._labelled = hello
            self._served_labels = ServedLabels(hello)
            self._names = self._keys | places.served_names(hello)
        return self._served_labels


def _timing(call: Call, failure: PellucidError | None) -> RequestTiming | None:
    """Return where a worker's time went, if one had the request: with the result, or with the error."""
    if failure is not None and isinstance(failure.timing, RequestTiming):
        return failure.timing
    return call.timing


def _fields(
    call: Call, code: grpc.StatusCode, seconds: float, words: tuple[str, str], timing: RequestTiming | None
) -> dict[str, object]:
    """Return what every line has; `words` are the class and the method, in words of the server's own."""
    priority, method = words
    fields: dict[str, object] = {"id": call.request_id, **trace_fields(call), "rpc": call.rpc, "code": code.name}
    named = {"caller": call.caller, "class": priority, "model": call.model, "method": method}
    fields |= {name: value[:_NAME_LENGTH] for name, value in named.items() if value}
    fields["seconds"] = round(seconds, 6)
    if timing is not None:
        fields["queue_seconds"] = round(timing.queue_seconds, 6)
        fields["compute_seconds"] = round(timing.compute_seconds, 6)
        fields["rows_forward"] = timing.rows_forward
        fields["rows_backward"] = timing.rows_backward
    return fields
