"""What the front and a worker say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pellucid_server.vocabulary.changes import Adopt, Prepare, Prepared
from pellucid_server.vocabulary.descriptions import BrokenModel, DatasetInfo, MethodInfo, ModelInfo, Verdict
from pellucid_server.vocabulary.findings import Findings, State
from pellucid_server.vocabulary.requests import Request
from pellucid_server.vocabulary.results import Failure, RequestTiming, Result
from pellucid_server.vocabulary.spans import WorkerSpan

PartBody = Findings
"""What a part of an answer holds: arrays by name."""

Checkpoint = Findings | State
"""What a worker needs to go on with an answer: where its method stood, or else the last part."""


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
    """"skip" serves the models that load, "stop" refuses to start unless all do, "report" greets even if none does."""
    load_seconds: float = 8.0
    """Processor time for trying out a model whose files are small."""
    load_bytes: int = 768 << 20
    """Memory for trying out a model whose files are small."""
    fast_graph: bool = True
    """Whether a model's second graph, for speed, is used where it agrees with the first."""
    verdicts: tuple[Verdict, ...] = ()
    """What an earlier process for the same device found, which is not tried out again."""
    datasets: str = ""
    """Folder of labelled data sets, or a URL of fsspec's; empty for none."""
    datasets_cache: str = ""
    """Folder that data sets at a URL are copied into."""
    datasets_cache_bytes: int = 20 << 30
    """Bytes of these copies, at most."""
    versions: tuple[tuple[str, int], ...] | None = None
    """Names and versions to load, whatever else the repository has; None for all."""


@dataclass(frozen=True, slots=True)
class Start:
    """Front to worker: do this request, within `seconds_left`; None is no deadline."""

    request_number: int
    request: Request
    seconds_left: float | None
    """From when the front sends this. Clocks of two machines differ, so a time of one says nothing on the other."""
    priority: str = ""
    """Its class: whose share of the device it has."""
    caller: str = ""
    """On whose behalf, as the caller says: the callers of a class share the device alike."""
    alone: bool = False
    """Its rows share no batch with other requests', because a worker died over one that did."""
    identity: str = ""
    """Who the caller proved to be; empty if nobody asked for a proof."""
    trace: str = ""
    """Trace context of the request's span (a `traceparent`); empty if it is not recorded, and then no times are."""
    credit_parts: int = 0
    """Parts that may be sent before a `Credit` comes."""
    credit_bytes: int = 0
    """Their bytes."""
    parts_done: int = 0
    """Parts that the caller has; the next one has this number."""
    checkpoint: Checkpoint | None = None
    """What the request goes on from after a worker was lost, if it does."""
    digest: str = ""
    """Of the model version that they were made by; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Front to worker: so many more parts, and bytes of parts, of this request may be sent."""

    request_number: int
    parts: int
    size_bytes: int


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
class StreamInfo:
    """A verb that a worker answers in parts."""

    verb: str
    """Name of its RPC, such as "Ablate"."""
    resumes: bool = False
    """Whether it can go on from a part that is a checkpoint."""


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
    streams: tuple[StreamInfo, ...] = ()
    """The verbs that answer in parts."""
    datasets: tuple[DatasetInfo, ...] = ()
    """The labelled data sets, by name, those that cannot be read among them."""


@dataclass(frozen=True, slots=True)
class ModelsChanged:
    """Worker to front: what a `Hello` would say now."""

    hello: Hello
    change: int = 0
    """Of the `Adopt` that this answers; 0 if it answers none."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Worker to front, in place of `Hello`: the worker cannot start; the operator reads why."""

    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Worker to front: share of the request done, in [0, 1]; it never becomes less.

    `rows_done` of `rows` are rows looked at, or steps; both are 0 where a method counts none.
    """

    request_number: int
    share: float
    rows_done: int = 0
    rows: int = 0


BATCH_BOUNDS = tuple(1 << power for power in range(15))
"""Rows by which batches are counted: 1, 2, 4, and so on to 16384."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Device batches of one kind of evaluation.

    `counts` has those of at most 1 row, of at most 2, and so on by `BATCH_BOUNDS`, each counted once, and last those of
    more; `rows` are the rows of all.
    """

    kind: str
    counts: tuple[int, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Worker to front, at equal intervals: it lives, and for how long it has been at what it does just now.

    The first three are in seconds, 0 if idle: the device batch in progress, the turn of Python in progress, and of the
    pictures that are being decoded the one that has taken longest.
    """

    device_seconds: float
    python_seconds: float
    offload_seconds: float
    memory_bytes: int = 0
    """Resident memory of the process; 0 if that is not known."""
    busy_seconds: float = 0.0
    """Time since the last heartbeat in which a batch was on the device."""
    batches: tuple[BatchCounts, ...] = ()
    """The batches that have ended since then, each kind once."""


@dataclass(frozen=True, slots=True)
class Part:
    """Worker to front: a part of the request's answer. The first has the number 0."""

    request_number: int
    number: int
    body: PartBody
    share: float = 0.0
    """Share of the request that is done with it, in [0, 1]."""
    checkpoint: bool = False
    """Whether another worker can go on from it, given its body."""
    digest: str = ""
    """Of the model version that it was made by: an answer goes on by the same."""
    state: State | None = None
    """Where the method stood, if it is a checkpoint by that: it stays with the service."""
    preview: bool = False
    """Whether the body is an estimate so far, which later parts replace. It is no part of the answer."""
    silent: bool = False
    """Whether it has a state alone, and no body for a caller."""
    rows_done: int = 0
    """Rows looked at with it, or steps done, of `rows`; both 0 where a method counts none."""
    rows: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes of a request's credit."""
        return self.body.size_bytes + (0 if self.state is None else self.state.size_bytes)

    def beyond(self, last: "Part | None") -> bool:
        """Tell whether it is a checkpoint that is further on than the last one: a state alone may be saved again."""
        further = last is None or self.share > last.share or self.rows_done > last.rows_done
        return self.checkpoint and (further or not self.silent)


@dataclass(frozen=True, slots=True)
class Done:
    """Worker to front: the request's result, or what went wrong; neither after parts, which were the result."""

    request_number: int
    timing: RequestTiming
    result: Result | None = None
    failure: Failure | None = None
    spans: tuple[WorkerSpan, ...] = ()
    """What was done when, if the request has a trace: the work as a whole first."""
    spans_dropped: int = 0
    """Spans beyond the bounds, which are not among them."""


Message = (
    WorkerSettings
    | Start
    | Cancel
    | Credit
    | Prepare
    | Prepared
    | Adopt
    | Loading
    | Hello
    | ModelsChanged
    | Refused
    | Progress
    | Heartbeat
    | Part
    | Done
)
