"""Every setting, read once: a TOML file, `PELLUCID_` environment variables, command-line options.

Later ones win. A variable names its section and setting: `PELLUCID_POOL__HANG_SECONDS=16` is
`hang_seconds = 16` under `[pool]`, and `PELLUCID_CLASSES__BULK__WEIGHT=2` is `weight = 2` under
`[classes.bulk]`. `PELLUCID_CONFIG` is the path of the file. The only module that
reads the environment.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pellucid_server.settings.admin import AdminConfig
from pellucid_server.settings.jobs import JobsConfig
from pellucid_server.settings.sections import (
    DEFAULT_CLASSES,
    INTERACTIVE,
    ClassConfig,
    ClassName,
    FaultsConfig,
    LimitsConfig,
    LoggingConfig,
    ModelsConfig,
    PoolConfig,
    ServerConfig,
    WorkerConfig,
)
from pellucid_server.settings.security import AccessConfig, TlsConfig
from pellucid_server.settings.tracing import TracingConfig
from pellucid_server.vocabulary.messages import WorkerSettings

_PREFIX = "PELLUCID_"

_MOST_HEARTBEAT_SECONDS = 1.0

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class ConfigError(Exception):
    """The settings cannot be used; the message tells the operator which and why."""


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
    tls: TlsConfig = TlsConfig()
    """TLS on the gRPC port."""
    access: AccessConfig = AccessConfig()
    """Who may ask what."""
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
    jobs: JobsConfig = JobsConfig()
    """Long requests whose answers are stored."""
    logging: LoggingConfig = LoggingConfig()
    """What is logged."""
    tracing: TracingConfig = TracingConfig()
    """Where traces of requests go."""
    admin: AdminConfig = AdminConfig()
    """Where administrators change what is served."""
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
                datasets=self.models.datasets_place(),
                datasets_cache=str(self.models.datasets_cache_folder()),
                datasets_cache_bytes=self.models.datasets_cache_bytes,
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
    except (ValueError, RecursionError) as error:
        text = f"The settings file {path} has a number of too many digits, or is nested too deep."
        raise ConfigError(text) from error


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
