"""What an operation works with: the worker's services, the request at hand, and receipts."""

import contextlib
import functools
import importlib.metadata
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.datasets.catalogue import DataSets
from pellucid_server.engine.evaluations.model_handle import ModelHandle, WorkerServices
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.tasks.request_state import RequestState, Tally
from pellucid_server.errors import NotFoundError, OverloadedError, PellucidError, UnsupportedError, broken_model
from pellucid_server.memory_hygiene import drop_frames
from pellucid_server.vocabulary.descriptions import BrokenModel, find_broken
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import Failure, Runtime
from pellucid_server.vocabulary.spans import Attribute

Found = TypeVar("Found")

_log = logging.getLogger(__name__)

_LIBRARIES = ("numpy", "onnxruntime", "pellucid", "torch")

BUG = Failure(PellucidError.reason, "internal error", {})
"""All that a caller reads of a bug."""

_NO_MEMORY = Failure(
    OverloadedError.reason,
    "The worker's memory cannot hold what this request takes; ask for less at once: fewer rows, points or samples.",
    {},
)


def failure(request: RequestState, error: Exception) -> Failure:
    """Return what the caller reads of an error; of one that is not meant for callers, the log has the rest.

    The error has no traceback afterwards.
    """
    try:
        if isinstance(error, PellucidError):
            return Failure(error.reason, error.message, error.metadata)
        if isinstance(error, MemoryError):
            _log.warning("request %d took more memory than there is", request.request_number, exc_info=error)
            return _NO_MEMORY
        _log.error("request %d failed", request.request_number, exc_info=error)
        return BUG
    finally:
        drop_frames(error)


@dataclass(frozen=True, slots=True)
class Models:
    """The models that a worker serves, and those that it could not load."""

    by_key: Mapping[tuple[str, int], LoadedModel]
    broken: tuple[BrokenModel, ...] = ()
    datasets: DataSets = field(default_factory=DataSets)
    """The labelled data sets beside them."""

    @classmethod
    def of(
        cls,
        models: tuple[LoadedModel, ...],
        broken: tuple[BrokenModel, ...] = (),
        datasets: DataSets | None = None,
    ) -> "Models":
        """Index models by name and version."""
        return cls({(model.key.name, model.key.version): model for model in models}, broken, datasets or DataSets())

    def find(self, key: ModelKey) -> LoadedModel:
        """Find a model version; version 0 is the highest that is served.

        Raises
        ------
        NotFoundError
            The model or the version is unknown.
        UnsupportedError
            The version could not be loaded, or the caller insists on another digest than the one served.
        """
        versions = sorted(version for name, version in self.by_key if name == key.name)
        if key.version not in versions and not (versions and key.version == 0):
            broken = find_broken(self.broken, key)
            if broken is not None:
                raise broken_model(broken.name, broken.version, broken.reason)
        if not versions:
            names = ", ".join(sorted({name for name, _ in self.by_key})) or "none"
            text = f"No model {key.name!r}; served: {names}."
            raise NotFoundError(text, resource_type="model", resource_name=key.name)
        version = key.version or versions[-1]
        if version not in versions:
            listed = ", ".join(map(str, versions))
            text = f"No version {version} of model {key.name!r}; served: {listed}."
            raise NotFoundError(text, resource_type="model version", resource_name=f"{key.name}/{version}")
        model = self.by_key[key.name, version]
        if key.digest not in ("", model.key.digest):
            text = f"{key.name}/{version} has the digest {model.key.digest}, not {key.digest}."
            raise UnsupportedError(text, subject=f"models/{key.name}/{version}")
        return model


class SharedProgress:
    """A request's progress from that of its parts, which are made beside one another.

    Parameters
    ----------
    report
        Gets the request's share, the mean of its parts'; it never becomes less.
    """

    def __init__(self, parts: int, report: Callable[[float], None]) -> None:
        self._shares = [0.0] * parts
        self._sum = 0.0
        self._report = report

    def part(self, number: int) -> Callable[[float], None]:
        """Return what takes the share of a part, in [0, 1]; one that is less than before is ignored."""

        def take(share: float) -> None:
            more = min(share, 1.0) - self._shares[number]
            if more > 0:
                self._shares[number] += more
                self._sum += more
                self._report(min(self._sum / len(self._shares), 1.0))

        return take


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request at work."""

    models: Models
    services: WorkerServices
    request: RequestState
    on_progress: Callable[[float], None] = field(default=lambda share: None)
    span: int = 0
    """Number of the span that it is at work for, if the request is traced."""

    def of_parts(self, count: int) -> "Callable[[int], RequestContext]":
        """Return what gives each of the request's parts its context, so that progress is the whole request's."""
        progress = SharedProgress(count, self.on_progress)
        return lambda number: replace(self, on_progress=progress.part(number))

    def handle(self, model: LoadedModel, *, prediction: bool = False, exact: bool = False) -> ModelHandle:
        """Return a new handle, all of whose asks are `exact` if it is; the work asked of it is in its `tally`."""
        return ModelHandle(
            model,
            self.services,
            self.request,
            prediction=prediction,
            exact=exact,
            on_progress=self.on_progress,
            span=self.span,
        )

    def heavy(self, function: Callable[[], Found], *arrays: Arrays, effort: int = 1) -> Found:
        """Call `function`, which works on `arrays`, on a thread beside the hub if they are large.

        `effort` is how many times as long it takes for each byte as hashing does.
        """
        byte_count = sum(array.nbytes for each in arrays for array in each.values())
        return self.services.hub.heavy(effort * byte_count, function)

    def named(self, name: str) -> AbstractContextManager[None]:
        """Log long turns of this task under `name` meanwhile; it holds nothing of the caller's."""
        return self.services.hub.named(name)

    @contextlib.contextmanager
    def timed(self, name: str, **attributes: Attribute) -> "Iterator[RequestContext]":
        """Note what is done meanwhile, with the context that is yielded, as a span of the request if it is traced.

        Name and attributes hold nothing of the caller's.
        """
        spans = self.request.spans
        if spans is None:
            yield self
            return
        number, error = spans.begin(name, self.span, attributes), ""
        try:
            yield replace(self, span=number)
        except Exception as raised:
            error = raised.reason if isinstance(raised, PellucidError) else type(raised).__name__
            raise
        finally:
            spans.end(number, error)

    def runtime(self, model: LoadedModel, tally: Tally) -> Runtime:
        """Say what computed the work of `tally`."""
        forward, gradient = (", ".join(sorted(found)) for found in (tally.forward_by, tally.backward_by))
        device = model.devices(self.services.device, forward=bool(forward), backward=bool(gradient))
        threads, capability = (self.services.threads, _cpu_capability()) if "cpu" in device else (0, "")
        return Runtime(forward, gradient, device, model.precision, _versions(), threads, capability)


@functools.cache
def _cpu_capability() -> str:
    return torch.backends.cpu.get_cpu_capability()


_cache: dict[str, str] = {}


def _versions() -> Mapping[str, str]:
    if not _cache:
        _cache.update({name: version for name in _LIBRARIES if (version := _version(name))})
    return _cache


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
