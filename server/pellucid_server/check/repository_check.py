"""Has a worker load the repository, as at a server's start, and takes down what it says."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pellucid_server.check.report import ModelFound, RepositoryFound
from pellucid_server.config import Config, worker_environment
from pellucid_server.model_files.listing import GRAPH_FILE, ModelError, contents
from pellucid_server.pool.workers.launcher import WORKER_COMMAND, Launcher
from pellucid_server.pool.workers.process import WorkerProcess, WorkerStartError
from pellucid_server.vocabulary.descriptions import ModelInfo, Verdict
from pellucid_server.vocabulary.messages import Hello, WorkerSettings

_DEVICE = "cpu"


async def check_repository(config: Config, worker_command: Sequence[str] = WORKER_COMMAND) -> RepositoryFound:
    """Start a worker on the CPU, let it try out and load every model, and end it.

    A worker for a GPU tries models out on the CPU as well, but its memory may yet be too small for all of them.
    """
    # With "report" it says which models are broken even where a server would not start for them.
    settings = replace(config.worker_settings()[0], device=_DEVICE, on_broken_model="report")
    repository = Path(settings.model_repository)
    began = time.monotonic()
    try:
        hello = await _hello(config, settings, worker_command)
    except WorkerStartError as error:
        return RepositoryFound(
            str(repository), _DEVICE, seconds=time.monotonic() - began, problem=_relative(str(error), repository)
        )
    return RepositoryFound(
        str(repository),
        _DEVICE,
        _models(hello, repository),
        hello.datasets,
        _passed_over(repository),
        time.monotonic() - began,
        strict=config.models.on_error == "stop",
    )


async def _hello(config: Config, settings: WorkerSettings, command: Sequence[str]) -> Hello:
    launcher = Launcher(worker_environment(settings.threads), command)
    process = await WorkerProcess.launch(launcher, settings, lambda message: None)
    limit_seconds = config.pool.start_seconds
    try:
        async with asyncio.timeout(limit_seconds):
            return await process.hello(settings.device)
    except TimeoutError:
        raise WorkerStartError(
            f"The worker was not ready within {limit_seconds:g} s (pool.start_seconds){process.progress}."
        ) from None
    finally:
        # It has no requests to end.
        await process.end(patience_seconds=config.pool.exit_seconds)
        await launcher.close()


def _models(hello: Hello, repository: Path) -> tuple[ModelFound, ...]:
    good = [
        ModelFound(info.key.name, info.key.version, info, warnings=tuple(_warnings(info, repository)))
        for info in hello.models
    ]
    broken = [ModelFound(each.name, each.version, reason=each.reason) for each in hello.broken]
    tried = {(each.name, each.version): each for each in hello.verdicts}
    found = (_with_trial(each, tried.get((each.name, each.version))) for each in (*good, *broken))
    return tuple(sorted(found, key=lambda each: (each.name, each.version)))


def _with_trial(found: ModelFound, verdict: Verdict | None) -> ModelFound:
    return found if verdict is None else replace(found, seconds=verdict.trial_seconds, size_bytes=verdict.trial_bytes)


def _warnings(info: ModelInfo, repository: Path) -> list[str]:
    """Say what works less well than it could, and what would be better."""
    found = []
    if info.parity is not None and not info.parity.holds:
        found.append(
            f"model.onnx is not used: it differs from model.pt2 by {info.parity.largest_difference:.2g} of the largest "
            f"output, more than {info.parity.tolerance:g}; export both from the same weights."
        )
    if not (repository / info.key.name / str(info.key.version) / GRAPH_FILE).exists():
        found.append(f"it has no {GRAPH_FILE} and runs by model.onnx alone; a graph allows more methods.")
    if not info.background_rows:
        found.append("it has no background, so methods have no rows of its own to compare with; add one in model.toml.")
    if info.solo:
        found.append(
            "it is solo, by model.toml or because rows change one another's outputs: requests share no batches."
        )
    return found


def _passed_over(repository: Path) -> tuple[str, ...]:
    try:
        return tuple(path.name for path in contents(repository).others)
    except ModelError:
        return ()


def _relative(message: str, repository: Path) -> str:
    return message.replace(f"{repository}/", "")
