"""Where the server listens, what it serves, and how workers and queues are set."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from pellucid_server.settings.section import Section, spelled

_MIB = 1 << 20

Device = Annotated[str, spelled(r"cpu|cuda:\d{1,3}", 'a device is "cpu", or "cuda:" and its number, such as "cuda:0"')]
ClassName = Annotated[
    str, spelled(r"[a-z][a-z0-9-]{0,31}", "a class's name is 1 to 32 of a-z, 0-9 and -, a letter first")
]
MetadataKey = Annotated[
    str,
    spelled(
        r"(?!grpc-)(?!.*-bin$)[a-z0-9_.-]{1,64}",
        'a metadata key is 1 to 64 of a-z, 0-9, _, . and -, does not begin with "grpc-" and does not end in "-bin"',
    ),
]


class ServerConfig(Section):
    """Where the server listens."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address of all ports; "0.0.0.0" or "[::]" serves other machines."""

    port: int = Field(default=50051, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    metrics_port: int = Field(default=9464, ge=-1, le=65535)
    """Port of the metrics page; 0 takes any free one, -1 serves none."""

    health_port: int = Field(default=50052, ge=-1, le=65535)
    """Port of the gRPC health check and nothing else, without TLS, for probes; 0 takes any free one, -1 serves none."""

    max_message_bytes: int = Field(default=64 * _MIB, ge=1024, lt=1 << 31)
    """Largest request; a larger one is RESOURCE_EXHAUSTED before it is read."""

    inflight_bytes: int = Field(default=64 * _MIB, ge=_MIB)
    """Bytes of requests above 1 MiB that are read, waiting or worked on; above it further ones are read later."""

    reflection: bool = True
    """Whether callers can ask for the schema; off, tools such as grpcurl need the proto files."""

    open_protocol: bool = True
    """Whether Predict is also served by the Open Inference Protocol (KServe's version 2), on the same port."""

    grace_seconds: float = Field(default=20.0, ge=0, allow_inf_nan=False)
    """Time for running requests to end after SIGTERM; keep below the pod's termination grace period."""

    connection_age_seconds: float = Field(default=1800.0, ge=0, allow_inf_nan=False)
    """Connections are closed at this age, give or take a tenth, so that balancers spread callers; 0 is never."""

    connection_grace_seconds: float = Field(default=150.0, gt=0, allow_inf_nan=False)
    """Time for an aged connection's calls to end; keep above the longest deadline that callers set."""

    caller_key: MetadataKey = "x-pellucid-caller"
    """Metadata key that identifies a caller, so that callers share fairly; without it, the caller's address does."""

    priority_key: MetadataKey = "x-pellucid-priority"
    """Metadata key by which a call names its class; without it, the kind of call decides."""


class ModelsConfig(Section):
    """Which models are served."""

    repository: Path = Path("models")
    """Folder of model folders, each with a model.toml; a relative path starts at the working directory."""

    datasets: str | None = None
    """Folder of labelled data sets, each with a dataset.toml, or a URL of fsspec's, such as s3://bucket/sets.

    Left out, it is `datasets` beside the repository, if there.
    """

    datasets_cache: Path | None = None
    """Folder that data sets at a URL are copied into; left out, `pellucid-datasets` beside the repository."""

    datasets_cache_bytes: int = Field(default=20 << 30, ge=1 << 20)
    """Bytes of these copies; a data set that would exceed them is listed as broken."""

    on_error: Literal["skip", "stop"] = "skip"
    """What a model that cannot be loaded does: "skip" serves the others and lists it, "stop" refuses to start."""

    poll_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Time within which new, changed and removed versions are taken over while serving, beside that of loading them.

    Files are taken to be whole once they have not changed for half of it. 0 takes nothing over until a restart.
    """

    load_seconds: float = Field(default=8.0, gt=0, allow_inf_nan=False)
    """Processor time for trying out a model, beside 2 s for each MiB of graph and 1 s for each 4 MiB of all files."""

    load_bytes: int = Field(default=768 * _MIB, ge=64 * _MIB)
    """Memory for trying out a model, beside 32 times the bytes of its graph and 6 times those of all files."""

    @property
    def datasets_are_remote(self) -> bool:
        """Whether data sets are at a URL."""
        return self.datasets is not None and "://" in self.datasets

    def datasets_place(self) -> str:
        """Return the URL of data sets, or the absolute path of their folder, which need not be there."""
        if self.datasets is not None and self.datasets_are_remote:
            return self.datasets
        return str((Path(self.datasets) if self.datasets else self._beside("datasets")).absolute())

    def datasets_cache_folder(self) -> Path:
        """Return the absolute path of the folder of copies, which need not be there."""
        return (self.datasets_cache or self._beside("pellucid-datasets")).absolute()

    def _beside(self, name: str) -> Path:
        return self.repository.absolute().parent / name


class PoolConfig(Section):
    """Which workers there are and how requests wait for them."""

    devices: Annotated[tuple[Device, ...], NoDecode] = ("cpu",)
    """One worker process each: "cpu", "cuda:0" ...; a variable or an option separates them by commas."""

    start_seconds: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Time for a worker to load and try out all models; one that takes longer is killed: a failed start."""

    restart_initial_seconds: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Wait before a lost worker is started again; doubles with each loss in a row."""

    restart_max_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Longest such wait; after a worker that was ready for ten times its own wait, the next wait is the initial one."""

    exit_seconds: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """Time for a worker to end by itself once its connection is closed; then it is killed."""

    hang_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """A worker that is silent, or at one device batch, turn of Python or picture, for longer is killed as hung."""

    @field_validator("devices", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("devices")
    @classmethod
    def _check_some(cls, devices: tuple[Device, ...]) -> tuple[Device, ...]:
        if not devices:
            raise ValueError("there must be one device at least")
        return devices


class WorkerConfig(Section):
    """How a worker computes."""

    threads: int = Field(default=0, ge=0)
    """Threads of one evaluation on the CPU; 0 shares the cores out among the CPU workers."""

    fast_graph: bool = True
    """Whether models run as a second graph, made for speed, where that agrees with the first; on a CPU only."""

    concurrent_requests: int = Field(default=64, ge=1, le=512)
    """Most requests of each class at once per worker, so that their rows can be packed; fewer where more are no use."""

    chunk_seconds: float = Field(default=0.05, gt=0, le=10)
    """Aim for one device batch; 4 times it while nothing more urgent is about, and up to 20 times for 10 heavy rows."""

    chunk_bytes: int = Field(default=0, ge=0)
    """Most memory that one device batch may take, by measured bytes per row; 0 suits the device.

    On a CPU that is 512 MiB, on CUDA a quarter of what is free once the models are loaded.
    """


class ClassConfig(Section):
    """A class of requests: its share of a busy device, and how much of it may wait.

    The bounds hold for each worker that there is; one request beyond a bound is RESOURCE_EXHAUSTED.
    """

    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Share of a busy device; a class that uses less than its share goes before one that uses more."""

    queue_rows: int = Field(default=1 << 16, ge=0)
    """Evaluation rows that may wait: a prediction's rows, an explanation's points, masks, coalitions."""

    queue_bytes: int = Field(default=256 * _MIB, ge=0)
    """Bytes of requests that may wait."""

    queue_seconds: float = Field(default=60.0, ge=0, allow_inf_nan=False)
    """Longest time that a request may have to wait, by how fast those before it go."""

    explanations: bool = True
    """Whether explanations may be in this class."""


PREDICTIONS = "predictions"
"""The class of predictions without explanations that name none."""

INTERACTIVE = "interactive"
"""The class of other requests that name none."""

DEFAULT_CLASSES: Mapping[str, ClassConfig] = MappingProxyType(
    {
        PREDICTIONS: ClassConfig(weight=100, queue_rows=1 << 13, queue_seconds=10, explanations=False),
        INTERACTIVE: ClassConfig(weight=10, queue_seconds=60),
        "bulk": ClassConfig(weight=1, queue_rows=1 << 20, queue_seconds=600),
    }
)
"""The classes there are unless settings change them or add others."""


class FaultsConfig(Section):
    """For tests only: requests can be held, and processes ended, at named points."""

    folder: str = ""
    """Folder of armed points, see `pellucid_server.faults`; empty, as it must be in service, for none."""


class LimitsConfig(Section):
    """What one request may ask for; more is INVALID_ARGUMENT."""

    predict_rows: int = Field(default=1024, ge=1)
    """Rows of a Predict without explanations; a model's own limit may be lower."""

    probe_rows: int = Field(default=4096, ge=1)
    """Rows that one Dissect brings itself; those of data sets are not counted."""

    attribute_rows: int = Field(default=64, ge=1)
    """Rows of an Attribute, or of a Predict with explanations."""

    explanations: int = Field(default=8, ge=0)
    """Explanations of one Predict."""

    interventions: int = Field(default=256, ge=1)
    """Interventions of one Ablate."""


class LoggingConfig(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity; the line for each request has level info."""

    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
