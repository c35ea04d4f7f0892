"""The requests that ended two worker processes, so that they are not let near a third."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace

from pellucid_server import wire
from pellucid_server.errors import FatalRequestError
from pellucid_server.vocabulary.requests import (
    AttributeRequest,
    DissectRequest,
    ExplanationSpec,
    Input,
    PicturesInput,
    PredictRequest,
    Request,
    TableInput,
    TensorInput,
    TextsInput,
)

_MOST_REQUESTS = 64
_MEMORY_SECONDS = 600.0
_GLANCE = 64
_KEY = secrets.token_bytes(32)
"""Of this process alone: one digest is in the log, by which a guess at the request must not be found to be right."""


class Quarantine:
    """Remembers the digests of the last 64 such requests, and of those that one worker hung over, each for 10 minutes.

    Parameters
    ----------
    clock
        Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._glances: dict[bytes, Hashable] = {}
        self._blamed: OrderedDict[bytes, tuple[float, Hashable]] = OrderedDict()

    def blame(self, request: Request) -> bool:
        """Hold it against a request that a worker hung over it alone; tell whether one did so before."""
        key, now = _digest(request), self._clock()
        until, _ = self._blamed.pop(key, (now, None))
        self._blamed[key] = (now + _MEMORY_SECONDS, _glance(request))
        if len(self._blamed) > _MOST_REQUESTS:
            self._blamed.popitem(last=False)
        return until > now

    def acquit(self, request: Request) -> None:
        """Hold nothing against a request that a worker has done: it was not what the other hung over."""
        if self._blamed and any(glance == _glance(request) for _, glance in self._blamed.values()):
            self._blamed.pop(_digest(request), None)

    def add(self, request: Request) -> str:
        """Remember a request, and return its digest for the log."""
        key = _digest(request)
        self._until.pop(key, None)
        self._until[key] = self._clock() + _MEMORY_SECONDS
        self._glances[key] = _glance(request)
        if len(self._until) > _MOST_REQUESTS:
            self._forget_first()
        return key.hex()

    def knows(self, request: Request) -> bool:
        """Tell whether an equal request is remembered; free while none is, and quick unless one looks alike."""
        if not self._until:
            return False
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            self._forget_first()
        return _glance(request) in self._glances.values() and _digest(request) in self._until

    def _forget_first(self) -> None:
        key, _ = self._until.popitem(last=False)
        del self._glances[key]


def equal_requests(requests: Iterable[Request], others: Iterable[Request]) -> list[bool]:
    """Tell of each request whether it is equal to one of the others."""
    digests: dict[Hashable, set[bytes]] = {}
    for other in others:
        digests.setdefault(_glance(other), set()).add(_digest(other))
    return [_digest(request) in found if (found := digests.get(_glance(request))) else False for request in requests]


def fatal_error() -> FatalRequestError:
    """Return what the caller of such a request reads."""
    return FatalRequestError(
        "Two worker processes ended while they worked on this request. It is not tried again; do not send it again."
    )


def _digest(request: Request) -> bytes:
    """Return what only equal requests have in common. Takes a millisecond for each MiB."""
    found = hashlib.blake2b(key=_KEY, digest_size=32)
    for piece in wire.pieces(in_order(request)):
        found.update(piece)
    return found.digest()


def in_order(request: Request) -> Request:
    """Return a request whose names are in order: protobuf's maps come in any."""
    if isinstance(request, PredictRequest):
        return replace(
            request, inputs=_sorted(request.inputs), explanations=tuple(map(_spec_in_order, request.explanations))
        )
    if isinstance(request, AttributeRequest):
        return replace(request, inputs=_sorted(request.inputs), explanation=_spec_in_order(request.explanation))
    if isinstance(request, DissectRequest):
        probe = request.probe
        ordered = None if probe is None else replace(probe, inputs=_sorted(probe.inputs))
        return replace(request, parameters=dict(sorted(request.parameters.items())), probe=ordered)
    return replace(
        request,
        inputs=_sorted(request.inputs),
        source=_sorted(request.source),
        parameters=dict(sorted(request.parameters.items())),
    )


def _spec_in_order(spec: ExplanationSpec) -> ExplanationSpec:
    baseline = replace(spec.baseline, inputs=_sorted(spec.baseline.inputs))
    return replace(spec, parameters=dict(sorted(spec.parameters.items())), baseline=baseline)


def _sorted(inputs: Mapping[str, Input]) -> dict[str, Input]:
    found = dict(sorted(inputs.items()))
    tables = {name: given for name, given in found.items() if isinstance(given, TableInput)}
    found.update(
        {name: TableInput(tuple(dict(sorted(row.items())) for row in table.rows)) for name, table in tables.items()}
    )
    return found


def _glance(request: Request) -> Hashable:
    """Return what equal requests have in common, and few others, in microseconds."""
    return (type(request), request.model, *((name, *_head(given)) for name, given in sorted(request.inputs.items())))


def _head(given: Input) -> tuple[Hashable, ...]:
    """Return the sizes of an input and a sample: headers of pictures, and borders of tensors, are often the same."""
    match given:
        case TensorInput(array=array):
            step = max(array.size // _GLANCE, 1)
            return (array.shape, array.dtype.str, array.flat[::step].tobytes())
        case PicturesInput(encoded=found):
            return tuple(len(each) for each in found)
        case TextsInput(texts=found):
            return (tuple(len(each) for each in found), *(each[:_GLANCE] for each in found[:1]))
        case TableInput(rows=found):
            return (len(found), *(tuple(sorted(row)[:_GLANCE]) for row in found[:1]))
