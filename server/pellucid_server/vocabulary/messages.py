"""What the front and a worker say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pellucid_server.vocabulary.descriptions import BrokenModel, MethodInfo, ModelInfo, Verdict
from pellucid_server.vocabulary.requests import Request
from pellucid_server.vocabulary.results import Failure, RequestTiming, Result


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is started with; the front reads it from the configuration and sends it first."""

    device: str
    model_repository: str
    threads: int
    chunk_seconds: float
    chunk_bytes: int
    class_weights: Mapping[str, float] = field(default_factory=dict)
    """Shares of a busy device by class of requests; a class that is not named weighs 1."""
    heartbeat_seconds: float = 1.0
    fault_folder: str = ""
    """Where tests arm fault points, see `pellucid_server.faults`; empty for none."""
    on_broken_model: str = "skip"
    """"skip" serves the models that load, "stop" refuses to start unless all do."""
    load_seconds: float = 8.0
    """Processor time for trying out a model whose files are small."""
    load_bytes: int = 768 << 20
    """Memory for trying out a model whose files are small."""
    verdicts: tuple[Verdict, ...] = ()
    """What an earlier process for the same device found, which is not tried out again."""


@dataclass(frozen=True, slots=True)
class Start:
    """Front to worker: do this request. `deadline` is on `time.monotonic()`'s clock; None is no deadline."""

    request_number: int
    request: Request
    deadline: float | None
    priority: str = ""
    """Its class: whose share of the device it has."""
    caller: str = ""
    """On whose behalf: the callers of a class share the device alike."""
    alone: bool = False
    """Its rows share no batch with other requests', because a worker died over one that did."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Front to worker: nobody waits for this request any more."""

    request_number: int


@dataclass(frozen=True, slots=True)
class Loading:
    """Worker to front, before `Hello`: it is about to load this model version into its own process."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Worker to front, once: models are loaded and warm, work may come."""

    models: tuple[ModelInfo, ...]
    methods: tuple[MethodInfo, ...]
    device: str
    broken: tuple[BrokenModel, ...] = ()
    """Models that could not be loaded, by name, then version."""
    verdicts: tuple[Verdict, ...] = ()
    """For the settings of the next process."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Worker to front, in place of `Hello`: the worker cannot start; the operator reads why."""

    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Worker to front: share of the request done, in [0, 1]."""

    request_number: int
    share: float


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Worker to front, at equal intervals: it lives, and for how long it has been at what it does just now.

    Each is in seconds, 0 if idle: the device batch in progress, the turn of Python in progress, and of the pictures
    that are being decoded the one that has taken longest.
    """

    device_seconds: float
    python_seconds: float
    offload_seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """Worker to front: the request's result, or what went wrong."""

    request_number: int
    timing: RequestTiming
    result: Result | None = None
    failure: Failure | None = None


Message = WorkerSettings | Start | Cancel | Loading | Hello | Refused | Progress | Heartbeat | Done
