"""What a check has found, and the exit status that follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pellucid_server.vocabulary.descriptions import DatasetInfo, ModelInfo

GOOD, BROKEN, MISCONFIGURED = 0, 1, 2
"""Exit statuses: all would be served; something would not be; the settings are wrong."""


@dataclass(frozen=True, slots=True)
class SettingsFound:
    """What is wrong with the settings and what they name, and what is merely unwise."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFound:
    """A model version: `info` is None if it is broken, and then `reason` says why, as `ListModels` does.

    `seconds` of processor time and `size_bytes` of memory are what its trial took; None if there was none.
    """

    name: str
    version: int
    info: ModelInfo | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    size_bytes: int | None = None

    @property
    def allowed(self) -> tuple[str, ...]:
        """The methods that it allows."""
        return () if self.info is None else tuple(each.method for each in self.info.capabilities if each.allowed)

    @property
    def refused(self) -> Mapping[str, str]:
        """The methods that it does not allow, and why."""
        capabilities = () if self.info is None else self.info.capabilities
        return {each.method: each.reason for each in capabilities if not each.allowed}


@dataclass(frozen=True, slots=True)
class RepositoryFound:
    """What a worker made of the repository.

    `problem` is why no worker would start at all, `seconds` how long it took to be ready.
    """

    repository: str = ""
    device: str = "cpu"
    models: tuple[ModelFound, ...] = ()
    datasets: tuple[DatasetInfo, ...] = ()
    passed_over: tuple[str, ...] = ()
    seconds: float = 0.0
    problem: str = ""
    strict: bool = False
    """Whether a server starts only if all models load (`models.on_error`)."""


@dataclass(frozen=True, slots=True)
class Report:
    """All of it; `repository` is None if the settings could not even be read."""

    settings: SettingsFound = field(default_factory=SettingsFound)
    repository: RepositoryFound | None = None

    @property
    def status(self) -> int:
        """The exit status."""
        if self.settings.problems or self.repository is None:
            return MISCONFIGURED
        found = self.repository
        broken = found.problem or any(each.info is None for each in found.models)
        return BROKEN if broken or any(each.reason for each in found.datasets) else GOOD

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        found = self.repository
        said: dict[str, Any] = {
            "status": self.status,
            "settings": {"problems": list(self.settings.problems), "warnings": list(self.settings.warnings)},
        }
        if found is None:
            return said
        return said | {
            "repository": found.repository,
            "device": found.device,
            "seconds": round(found.seconds, 3),
            "problem": found.problem,
            "models": [_model(each) for each in found.models],
            "datasets": [
                {"name": each.name, "kind": each.kind, "rows": each.rows, "digest": each.digest, "reason": each.reason}
                for each in found.datasets
            ],
            "passed_over": list(found.passed_over),
        }


def _model(found: ModelFound) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": found.name,
        "version": found.version,
        "state": "broken" if found.info is None else "serving",
        "reason": found.reason,
        "trial_seconds": found.seconds,
        "trial_bytes": found.size_bytes,
    }
    info = found.info
    if info is None:
        return said
    return said | {
        "digest": info.key.digest,
        "runtime": info.runtime,
        "inputs": [
            {"name": each.name, "modality": each.modality, "data_type": each.data_type, "shape": list(each.shape)}
            for each in info.inputs
        ],
        "outputs": [
            {"name": each.name, "kind": each.kind, "data_type": each.data_type, "shape": list(each.shape)}
            for each in info.outputs
        ],
        "layers": [each.name for each in info.layers],
        "background_rows": info.background_rows,
        "solo": info.solo,
        "methods": {"allowed": list(found.allowed), "refused": dict(found.refused)},
        "warnings": list(found.warnings),
    }
