"""Keeps what is served in step with the model repository, and with what an administrator asks for."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pellucid_server.errors import NotFoundError, PellucidError, UnavailableError, UnsupportedError, broken_model
from pellucid_server.model_files.listing import ModelError
from pellucid_server.model_files.reasons import Reasons
from pellucid_server.model_files.sight import Key, Sight, look
from pellucid_server.pool.workers.worker_supervisor import WorkerSupervisor
from pellucid_server.reload.crew import Crew, Outcome
from pellucid_server.reload.state import State, digests
from pellucid_server.reload.watcher import Watcher
from pellucid_server.vocabulary.messages import WorkerSettings

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOKS = 2
"""Looks in each `poll_seconds`: files are whole that two looks see alike, so that they are taken within that time."""

SERVING, BROKEN, UNLOADED, NEW = "serving", "broken", "unloaded", "new"


@dataclass(frozen=True, slots=True)
class VersionState:
    """A version as an administrator sees it.

    Attributes
    ----------
    state
        "serving"; "broken", as it could not be loaded; "unloaded", by an administrator; "new", not loaded yet.
    digest
        Of what is served; empty if it is not.
    reason
        Why the files that are there now could not be loaded; a version may be served as it was before they changed.
    pending
        Whether there are other files than those that were last loaded, or found broken; of a version that is served,
        also whether there are none any more.
    """

    key: Key
    state: str
    digest: str = ""
    reason: str = ""
    pending: bool = False


class Manager:
    """Takes changes of the repository over, and those that an administrator asks for, one after the other.

    Parameters
    ----------
    repository
        The folder.
    poll_seconds
        Time within which changed files are seen to be whole and are loaded; 0 is never.
    patience_seconds
        Time for one worker to try out and load one version.
    look
        Looks at the repository, on a thread.
    """

    def __init__(
        self,
        workers: Collection[WorkerSupervisor],
        repository: Path,
        *,
        poll_seconds: float,
        patience_seconds: float,
        look: Callable[[Path], Sight] = look,
    ) -> None:
        self._crew = Crew(tuple(workers), patience_seconds=patience_seconds)
        self._repository = repository
        self._poll_seconds = poll_seconds
        self._look_at = look
        self._reasons = Reasons(repository)
        self._watcher = Watcher()
        self._state = State()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unseen = ""

    def start(self) -> None:
        """Begin, once every worker is ready."""
        first = next(worker.hello for worker in self._crew.workers if worker.hello is not None)
        self._state = State.of(first)
        for worker in self._crew.workers:
            worker.settings_now = self._settings
            worker.on_ready = lambda worker=worker: self._catch_up(worker)  # type: ignore[misc]
        if self._poll_seconds:
            self._spawn(self._poll())

    async def close(self) -> None:
        """End, whatever is in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def look(self) -> None:
        """Look at the repository, and take over what has changed and is whole."""
        async with self._lock:
            try:
                sight = await self._sight()
            except ModelError as error:
                # A volume that is away for a moment must not take all models with it.
                if str(error) != self._unseen:
                    _log.warning("what is served stays as it is: %s", error)
                self._unseen = str(error)
                return
            self._unseen = ""
            state = self._state
            changes = self._watcher.changes(sight, state.known)
            models = {(name, 0): text for name, text in changes.broken.items()}
            before = {key: text for key, text in state.failed.items() if not key[1]}
            # Those that only the next look confirms stay as they were.
            models |= {key: text for key, text in before.items() if key[0] in sight.broken}
            if models != before:
                for (name, _), text in sorted(models.items() - before.items()):
                    _log.error("the model %s is broken: %s", name, text)
                state.failed = {key: text for key, text in state.failed.items() if key[1]} | models
                await self._crew.adopt(state.broken)
            for key in changes.load:
                if key not in state.unloaded:
                    await self._load(key)
            if changes.gone:
                await self._remove(changes.gone, "its files are there no more")

    async def load(self, name: str, version: int, digest: str = "") -> tuple[VersionState, ...]:
        """Load a version now, or for version 0 all of a model, and serve it; what is served already stays.

        Parameters
        ----------
        digest
            What it must have; empty for any.

        Raises
        ------
        NotFoundError
            The repository has no such version.
        UnsupportedError
            It cannot be loaded, or has another digest. What was served before still is.
        UnavailableError
            The repository cannot be read, or no worker is there.
        """
        return await self._whole(self._load_now(name, version, digest))

    async def unload(self, name: str, version: int, digest: str = "") -> tuple[VersionState, ...]:
        """Take a version, or for version 0 all of a model, out of service until it is loaded by `load`.

        Raises
        ------
        NotFoundError
            There is no such version.
        UnsupportedError
            What is served has another digest.
        """
        return await self._whole(self._unload_now(name, version, digest))

    async def versions(self, name: str = "") -> tuple[VersionState, ...]:
        """Return all versions of a model, or of all, by name and number.

        Raises
        ------
        UnavailableError
            The repository cannot be read.
        """
        sight = await self._sight_for_admin()
        keys = {key for key in self._all(sight) if name in ("", key[0])}
        return tuple(self._described(key, sight) for key in sorted(keys))

    async def _load_now(self, name: str, version: int, digest: str) -> tuple[VersionState, ...]:
        async with self._lock:
            sight = await self._sight_for_admin()
            keys = sorted(key for key in sight.versions if key[0] == name and version in (0, key[1]))
            if not keys and name in sight.broken:
                raise broken_model(name, 0, sight.broken[name])
            if not keys:
                raise _not_there(name, version, sight.versions)
            errors: list[PellucidError] = []
            for key in keys:
                self._state.unloaded.discard(key)
                try:
                    await self._load(key, digest, wanted=True)
                except UnsupportedError as error:
                    errors.append(error)
            if errors:
                first = errors[0]
                raise UnsupportedError(" ".join(each.message for each in errors), **first.metadata)
            return tuple(self._described(key, sight) for key in keys)

    async def _unload_now(self, name: str, version: int, digest: str) -> tuple[VersionState, ...]:
        async with self._lock:
            state = self._state
            sight = await self._sight_for_admin()
            there = self._all(sight)
            keys = sorted(key for key in there if key[0] == name and key[1] and version in (0, key[1]))
            if not keys:
                raise _not_there(name, version, there)
            for key in keys:
                served = state.served.get(key, "")
                if digest and served != digest:
                    raise _other_digest(key, served, digest)
            state.unloaded.update(keys)
            await self._remove(tuple(keys), "an administrator asked for it")
            return tuple(self._described(key, sight) for key in keys)

    async def _load(self, key: Key, digest: str = "", *, wanted: bool = False) -> None:
        """Have a version loaded and served.

        Raises
        ------
        PellucidError
            It could not be, and `wanted` is set.
        """
        state, where = self._state, f"{key[0]}/{key[1]}"
        outcome = await self._crew.prepare(key)
        if outcome is None:
            # The next look comes to it again.
            if wanted:
                raise UnavailableError("No worker is ready; try again soon.", retry_after_seconds="1.000")
            return
        if not outcome.reason and digest and outcome.digest != digest:
            await self._crew.adopt(state.broken, change=outcome.change, kept=False)
            raise _other_digest(key, outcome.digest, digest)
        state.known[key] = outcome.fingerprint
        if outcome.reason:
            await self._fail(key, outcome)
            if wanted:
                raise (
                    broken_model(*key, state.failed[key])
                    if key not in state.served
                    else UnsupportedError(
                        f"The model {where} is served as before, as its files could not be loaded: {state.failed[key]}",
                        subject=f"models/{where}",
                        state="broken",
                    )
                )
            return
        state.failed.pop(key, None)
        state.served[key] = outcome.digest
        await self._crew.adopt(state.broken, change=outcome.change)
        for worker in self._crew.workers:
            if worker.behind:
                self._compare(worker)
        if outcome.loaded:
            _log.info("the model %s version %d, digest %s, was loaded and is served", *key, outcome.digest[:12])

    async def _fail(self, key: Key, outcome: Outcome) -> None:
        state = self._state
        state.failed[key] = self._reasons.of(outcome.reason)
        await self._crew.adopt(state.broken, change=outcome.change, kept=False)
        served = state.served.get(key)
        kept = f"; it is served as before, digest {served[:12]}" if served else ""
        _log.error("the model %s version %d could not be loaded: %s%s", *key, outcome.reason, kept)

    async def _remove(self, keys: tuple[Key, ...], why: str) -> None:
        state = self._state
        served = [key for key in keys if key in state.served]
        state.forget(keys)
        await self._crew.adopt(state.broken, removed=keys)
        for key in served:
            _log.info("the model %s version %d is served no more, as %s", *key, why)

    def _settings(self, settings: WorkerSettings) -> WorkerSettings:
        """Return what a worker that is started again begins with: what is served now, and no other versions."""
        return replace(settings, versions=self._state.versions, on_broken_model="skip")

    def _catch_up(self, worker: WorkerSupervisor) -> None:
        """See what a worker that was started again serves; have it, and the others, serve the same."""
        differ = self._compare(worker)
        if differ or (worker.hello is not None and worker.hello.broken != self._state.broken):
            self._spawn(self._align(worker, differ))

    def _compare(self, worker: WorkerSupervisor) -> tuple[Key, ...]:
        """Return the versions that a worker does not serve as it should, and keep requests for those models from it."""
        found, wanted = {} if worker.hello is None else digests(worker.hello), self._state.served
        differ = tuple(sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)))
        worker.behind = frozenset(name for name, _ in differ)
        return differ

    async def _align(self, worker: WorkerSupervisor, keys: tuple[Key, ...]) -> None:
        async with self._lock:
            state = self._state
            for key in keys:
                if key in state.served:
                    await self._load(key)
            await self._crew.adopt(state.broken, removed=tuple(key for key in keys if key not in state.served))
            self._compare(worker)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds / _LOOKS)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a bug here must not end the looks unseen
                _log.exception("a look at the model repository failed")

    async def _sight(self) -> Sight:
        return await asyncio.get_running_loop().run_in_executor(None, self._look_at, self._repository)

    async def _sight_for_admin(self) -> Sight:
        try:
            return await self._sight()
        except ModelError as error:
            raise UnavailableError(f"The model repository cannot be read: {self._reasons.of(str(error))}") from error

    def _all(self, sight: Sight) -> set[Key]:
        state = self._state
        return {*sight.versions, *((name, 0) for name in sight.broken), *state.served, *state.failed, *state.unloaded}

    def _described(self, key: Key, sight: Sight) -> VersionState:
        state = self._state
        reason = state.failed.get(key) or (sight.broken.get(key[0], "") if not key[1] else "")
        at = sight.versions.get(key)
        pending = key not in state.unloaded and (at != state.known.get(key) if key[1] else False)
        if key in state.served:
            return VersionState(key, SERVING, state.served[key], reason, pending)
        if key in state.unloaded:
            return VersionState(key, UNLOADED)
        return VersionState(key, BROKEN if reason else NEW, "", reason, pending)

    async def _whole(self, change: Coroutine[Any, Any, T]) -> T:
        """Do a change to its end, though who asked for it leaves."""
        task = self._spawn(change)
        return await asyncio.shield(task)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _not_there(name: str, version: int, there: Collection[Key]) -> NotFoundError:
    numbers = sorted(number for each, number in there if each == name and number)
    if version and numbers:
        text = f"No version {version} of model {name!r}; there are: {', '.join(map(str, numbers))}."
        return NotFoundError(text, resource_type="model version", resource_name=f"{name}/{version}")
    names = ", ".join(sorted({each for each, _ in there})) or "none"
    return NotFoundError(f"No model {name!r}; there are: {names}.", resource_type="model", resource_name=name)


def _other_digest(key: Key, found: str, wanted: str) -> UnsupportedError:
    where = f"{key[0]}/{key[1]}"
    has = f"has the digest {found}" if found else "is not served"
    return UnsupportedError(f"{where} {has}, not {wanted}.", subject=f"models/{where}")
