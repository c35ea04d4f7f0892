"""Verbs that answer in parts: the operation of each, by the class of its requests."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.vocabulary.findings import State
from pellucid_server.vocabulary.messages import Checkpoint, PartBody, StreamInfo


@dataclass(frozen=True, slots=True)
class Step:
    """A part of an answer, as an operation yields it."""

    body: PartBody
    share: float
    """Share of the request that is done with it, in [0, 1]; it never becomes less."""
    checkpoint: bool = False
    """Whether another worker can go on from here, given the state, or else the body."""
    state: State | None = None
    """Where the method stands."""
    preview: bool = False
    """Whether the body is an estimate so far, and no part of the answer."""
    silent: bool = False
    """Whether the state is all there is."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an operation begins: after so many parts, from `checkpoint`, which is None at the start."""

    parts_done: int = 0
    checkpoint: Checkpoint | None = None


StreamOperation = Callable[[RequestContext, Any, Resume], Generator[Step, None, None]]


@dataclass(frozen=True, slots=True)
class StreamVerb:
    """A verb and how it is answered."""

    info: StreamInfo
    run: StreamOperation


_VERBS: dict[type[Any], StreamVerb] = {}


def answers_in_parts(
    verb: str, request_class: type[Any], *, resumes: bool = False
) -> Callable[[StreamOperation], StreamOperation]:
    """Register the operation that answers requests of a class; the worker's `Hello` names its verb from then on."""

    def register(operation: StreamOperation) -> StreamOperation:
        _VERBS[request_class] = StreamVerb(StreamInfo(verb, resumes), operation)
        return operation

    return register


def stream_verb(request: object) -> StreamVerb | None:
    """Return how requests of this class are answered in parts, if they are."""
    return _VERBS.get(type(request))


def stream_infos() -> tuple[StreamInfo, ...]:
    """Return the verbs that are registered."""
    return tuple(verb.info for verb in _VERBS.values())
