"""Every setting, read once: a TOML file, `PELLUCID_` environment variables, command-line options.

Later ones win. A variable names its section and setting: `PELLUCID_POOL__HANG_SECONDS=16` is
`hang_seconds = 16` under `[pool]`, and `PELLUCID_CLASSES__BULK__WEIGHT=2` is `weight = 2` under
`[classes.bulk]`. `PELLUCID_CONFIG` is the path of the file. The only module that
reads the environment.
"""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pellucid_server.vocabulary.messages import WorkerSettings

_PREFIX = "PELLUCID_"
_MIB = 1 << 20

_MOST_HEARTBEAT_SECONDS = 1.0

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _spelled(pattern: str, meaning: str) -> AfterValidator:
    """Return a check of how a text is spelled; a text that is wrong is told `meaning`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(meaning)
        return text

    return AfterValidator(check)


Device = Annotated[str, _spelled(r"cpu|cuda:\d{1,3}", 'a device is "cpu", or "cuda:" and its number, such as "cuda:0"')]
ClassName = Annotated[
    str, _spelled(r"[a-z][a-z0-9-]{0,31}", "a class's name is 1 to 32 of a-z, 0-9 and -, a letter first")
]
MetadataKey = Annotated[
    str,
    _spelled(
        r"(?!grpc-)(?!.*-bin$)[a-z0-9_.-]{1,64}",
        'a metadata key is 1 to 64 of a-z, 0-9, _, . and -, does not begin with "grpc-" and does not end in "-bin"',
    ),
]


class ConfigError(Exception):
    """The settings cannot be used; the message tells the operator which and why."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerConfig(_Section):
    """Where the server listens."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address of both ports; "0.0.0.0" or "[::]" serves other machines."""

    port: int = Field(default=50051, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    metrics_port: int = Field(default=9464, ge=-1, le=65535)
    """Port of the metrics page; 0 takes any free one, -1 serves none."""

    max_message_bytes: int = Field(default=64 * _MIB, ge=1024, lt=1 << 31)
    """Largest request; a larger one is RESOURCE_EXHAUSTED before it is read."""

    inflight_bytes: int = Field(default=64 * _MIB, ge=_MIB)
    """Bytes of requests above 1 MiB that are read, waiting or worked on; above it further ones are read later."""

    reflection: bool = True
    """Whether callers can ask for the schema; off, tools such as grpcurl need the proto files."""

    grace_seconds: float = Field(default=20.0, ge=0, allow_inf_nan=False)
    """Time for running requests to end after SIGTERM; keep below the pod's termination grace period."""

    connection_age_seconds: float = Field(default=1800.0, ge=0, allow_inf_nan=False)
    """Connections are closed at this age, give or take a tenth, so that balancers spread callers; 0 is never."""

    connection_grace_seconds: float = Field(default=150.0, gt=0, allow_inf_nan=False)
    """Time for an aged connection's calls to end; keep above the longest deadline that callers set."""

    caller_key: MetadataKey = "x-pellucid-caller"
    """Metadata key by which callers are told apart, to be fair to each; without it, by the address they call from."""

    priority_key: MetadataKey = "x-pellucid-priority"
    """Metadata key by which a call names its class; without it, the kind of call decides."""


class ModelsConfig(_Section):
    """Which models are served."""

    repository: Path = Path("models")
    """Folder of model folders, each with a model.toml; a relative path starts at the working directory."""

    datasets: Path | None = None
    """Folder of labelled data sets, each with a dataset.toml; left out, `datasets` beside the repository, if there."""

    on_error: Literal["skip", "stop"] = "skip"
    """What a model that cannot be loaded does: "skip" serves the others and lists it, "stop" refuses to start."""

    load_seconds: float = Field(default=8.0, gt=0, allow_inf_nan=False)
    """Processor time for trying out a model, beside 2 s for each MiB of graph and 1 s for each 4 MiB of all files."""

    load_bytes: int = Field(default=768 * _MIB, ge=64 * _MIB)
    """Memory for trying out a model, beside 32 times the bytes of its graph and 6 times those of all files."""

    def datasets_folder(self) -> Path:
        """Return the absolute path of the folder of data sets, which need not be there."""
        return (self.datasets or self.repository.absolute().parent / "datasets").absolute()


class PoolConfig(_Section):
    """Which workers there are and how requests wait for them."""

    devices: Annotated[tuple[Device, ...], NoDecode] = ("cpu",)
    """One worker process each: "cpu", "cuda:0" ...; a variable or an option separates them by commas."""

    start_seconds: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Time for a worker to load and try out all models; one that takes longer is killed: a failed start."""

    restart_initial_seconds: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Wait before a lost worker is started again; doubles with each loss on end."""

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


class WorkerConfig(_Section):
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


class ClassConfig(_Section):
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


class FaultsConfig(_Section):
    """For tests only: requests can be held, and processes ended, at named points."""

    folder: str = ""
    """Folder of armed points, see `pellucid_server.faults`; empty, as it must be in service, for none."""


class LimitsConfig(_Section):
    """What one request may ask for; more is INVALID_ARGUMENT."""

    predict_rows: int = Field(default=1024, ge=1)
    """Rows of a Predict without explanations; a model's own limit may be lower."""

    attribute_rows: int = Field(default=64, ge=1)
    """Rows of an Attribute, or of a Predict with explanations."""

    explanations: int = Field(default=8, ge=0)
    """Explanations of one Predict."""

    interventions: int = Field(default=256, ge=1)
    """Interventions of one Ablate."""


class LoggingConfig(_Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity; the line for each request has level info."""

    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""


class Config(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    server: ServerConfig = ServerConfig()
    """Where the server listens."""
    models: ModelsConfig = ModelsConfig()
    """Which models are served."""
    pool: PoolConfig = PoolConfig()
    """Which workers there are."""
    worker: WorkerConfig = WorkerConfig()
    """How a worker computes."""
    classes: dict[ClassName, ClassConfig] = Field(default_factory=lambda: dict(DEFAULT_CLASSES), validate_default=True)
    """Classes of requests by name: changes to the default ones, and others."""
    limits: LimitsConfig = LimitsConfig()
    """What one request may ask for."""
    logging: LoggingConfig = LoggingConfig()
    """What is logged."""
    faults: FaultsConfig = FaultsConfig()
    """For tests only."""

    @field_validator("classes", mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Add the default classes, and to each of those that are given the defaults that it leaves out."""
        if not isinstance(value, Mapping):
            return value
        known = {name: entry.model_dump() for name, entry in DEFAULT_CLASSES.items()}
        return {name: _completed(value.get(name, {}), known.get(name, {})) for name in {**known, **value}}

    @field_validator("classes")
    @classmethod
    def _check_default(cls, classes: dict[str, ClassConfig]) -> dict[str, ClassConfig]:
        if not classes[INTERACTIVE].explanations:
            raise ValueError(f"explanations that name no class are {INTERACTIVE}, so it must allow them")
        return classes

    def worker_settings(self) -> tuple[WorkerSettings, ...]:
        """Return what each worker is started with, one for each device."""
        threads = self.worker.threads or _cpu_threads(self.pool.devices)
        return tuple(
            WorkerSettings(
                device=device,
                model_repository=str(self.models.repository.absolute()),
                threads=threads,
                chunk_seconds=self.worker.chunk_seconds,
                chunk_bytes=self.worker.chunk_bytes,
                class_weights={name: entry.weight for name, entry in self.classes.items()},
                heartbeat_seconds=min(_MOST_HEARTBEAT_SECONDS, self.pool.hang_seconds / 4),
                fault_folder=self.faults.folder,
                on_broken_model=self.models.on_error,
                load_seconds=self.models.load_seconds,
                load_bytes=self.models.load_bytes,
                fast_graph=self.worker.fast_graph,
                datasets=str(self.models.datasets_folder()),
            )
            for device in self.pool.devices
        )


def load(path: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """Read the settings.

    Parameters
    ----------
    path
        A TOML file; None takes the path in `PELLUCID_CONFIG`, and without that there is no file.
    overrides
        Settings by section and name that win over the file and the environment.

    Raises
    ------
    ConfigError
        The file cannot be read, or a setting is unknown or has a wrong value.
    """
    if path is None and (named := os.environ.get(_PREFIX + "CONFIG")):  # noqa: TID251 - the one place
        path = Path(named)
    if path is not None:
        _check_readable(path)
    _check_variables()

    class _Loaded(Config):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    try:
        return _Loaded(**{name: dict(section) for name, section in (overrides or {}).items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(_explained(error)) from error


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker process: this one's, and thread settings that must be there at import."""
    inherited = dict(os.environ)  # noqa: TID251 - the one place
    # Idle OpenMP threads sleep: spinning ones slow the request threads and other workers down.
    threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    # cuBLAS gives equal bits for equal work only with a workspace of a fixed size.
    return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **inherited, **threading}


def _completed(entry: Any, defaults: Mapping[str, Any]) -> Any:
    if isinstance(entry, ClassConfig):
        entry = entry.model_dump(exclude_unset=True)
    return {**defaults, **entry} if isinstance(entry, Mapping) else entry


def _cpu_threads(devices: tuple[str, ...]) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, sum(device == "cpu" for device in devices))
    return max(1, math.floor(min(cores, _quota_cores())) // workers)


def _quota_cores() -> float:
    """Return how many cores' time the process's control group may use, as a container's limit says; infinity for any.

    Threads beyond it would all be stopped together once the time is used up.
    """
    try:
        quota, period = _CPU_QUOTA.read_text("ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _check_readable(path: Path) -> None:
    try:
        tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"The settings file {path} cannot be read: {reason}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The settings file {path} is not TOML: {error}.") from error


def _check_variables() -> None:
    """Refuse variables of sections that do not exist: they would be ignored in silence."""
    for name in os.environ:  # noqa: TID251 - the one place
        section, nested, _ = name.removeprefix(_PREFIX).partition("__")
        if name.startswith(_PREFIX) and nested and section.lower() not in Config.model_fields:
            known = ", ".join(Config.model_fields)
            raise ConfigError(f"The variable {name} names no section of the settings; sections: {known}.")


def _explained(error: ValidationError) -> str:
    return "\n".join(_problem(each) for each in error.errors())


def _problem(details: ErrorDetails) -> str:
    place = [str(part) for part in details["loc"] if part != "[key]"]
    if details["loc"][-1:] == ("[key]",):
        return f"{'.'.join(place[:-1])} has {details['input']!r}: {_reason(details)}."
    return f"{'.'.join(place)} is {details['input']!r}: {_reason(details)}."


def _reason(details: ErrorDetails) -> str:
    """Return what is wrong: in our words where there are any, else in those of the library, which name the limit."""
    if details["type"] == "extra_forbidden":
        return "there is no such setting"
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    return details["msg"]
