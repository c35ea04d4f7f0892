"""The models that a worker serves, and how they change while it serves them.

A version is tried out in another process (`trials`) and loaded on a thread of its own, while requests go on. The thread
that reads messages puts it among the models that are served: so the requests before that message are done on the models
of before, and those after it on the new ones. A model that is served no more is let go of with its last request.
"""

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue

import torch

from pellucid_server.engine.asking import registry
from pellucid_server.engine.datasets.catalogue import DataSets
from pellucid_server.engine.device import accelerator
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.models.graph.leftovers import clear_leftovers
from pellucid_server.engine.models.loading.guard import GuardError
from pellucid_server.engine.models.loading.handover import Handover
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.models.loading.repository import load_version, read_digest
from pellucid_server.engine.models.loading.trials import Fork, try_out
from pellucid_server.engine.operations.context import Models
from pellucid_server.memory_hygiene import no_full_collections, trim
from pellucid_server.model_files.listing import ONNX_FILE, ModelError, Version
from pellucid_server.model_files.plain_files import fingerprint, shown
from pellucid_server.vocabulary.changes import Adopt, Prepare, Prepared
from pellucid_server.vocabulary.descriptions import DatasetInfo, ModelInfo, Verdict
from pellucid_server.vocabulary.messages import Hello, ModelsChanged, WorkerSettings

_log = logging.getLogger(__name__)

_SWITCH_SECONDS = 2e-5
"""How long the thread that loads keeps the interpreter from another one that waits for it, as far as it can be had."""

_LOOK_SECONDS = 0.5
"""How often it is looked whether the last request of a model that is served no more has ended."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """What came of a `Prepare`; `model` is None if nothing was loaded."""

    verdict: Verdict
    model: LoadedModel | None = None
    info: ModelInfo | None = None


@dataclass(frozen=True, slots=True)
class _Adopted:
    """A change to report, and the models that it has replaced or removed."""

    change: int
    retired: tuple[tuple[str, "weakref.ref[LoadedModel]"], ...]


class ServedModels:
    """What a worker serves now; `hello` is what it said of that.

    Parameters
    ----------
    engine
        Lets go of what it keeps of a model that is served no more.
    fork
        Makes the process in which a version is tried out.
    send
        Sends a message to the front, from any thread.
    """

    def __init__(
        self,
        models: Models,
        hello: Hello,
        settings: WorkerSettings,
        *,
        engine: Engine,
        fork: Fork,
        send: Callable[[object], None],
    ) -> None:
        self.now = models
        """The models that requests which arrive now are done on."""
        self._hello = hello
        self._settings = settings
        self._engine = engine
        self._fork = fork
        self._send = send
        self._lock = threading.Lock()
        self._ready: dict[int, _Ready] = {}
        self._work: SimpleQueue[Prepare | _Adopted] = SimpleQueue()
        self._retired: list[tuple[str, weakref.ref[LoadedModel]]] = []
        self._thread: threading.Thread | None = None

    def prepare(self, message: Prepare) -> None:
        """Have a version loaded, and `Prepared` sent then; does not wait for it."""
        self._queue(message)

    def adopt(self, message: Adopt) -> None:
        """Serve what was prepared from now on, and what is removed no more; the front is sent `ModelsChanged`."""
        with self._lock:
            ready = self._ready.pop(message.change, None)
            models, infos = dict(self.now.by_key), {_key(info): info for info in self._hello.models}
            verdicts = {(each.name, each.version): each for each in self._hello.verdicts}
            retired = [models.pop(key, None) for key in message.removed]
            for key in message.removed:
                infos.pop(key, None)
                verdicts.pop(key, None)
            if ready is not None:
                key = (ready.verdict.name, ready.verdict.version)
                verdicts[key] = ready.verdict
                if message.kept and ready.model is not None and ready.info is not None:
                    retired.append(models.get(key))
                    models[key], infos[key] = ready.model, ready.info
            self.now = Models(models, message.broken, self.now.datasets)
            self._hello = replace(
                self._hello,
                models=tuple(infos[key] for key in sorted(infos)),
                broken=message.broken,
                verdicts=tuple(verdicts.values()),
            )
        named = tuple((_called(model), weakref.ref(model)) for model in retired if model is not None)
        self._queue(_Adopted(message.change, named))

    def complete_datasets(self, infos: tuple[DatasetInfo, ...]) -> None:
        """Say what has become known of the data sets."""
        with self._lock:
            self._hello = replace(self._hello, datasets=infos)
            hello = self._hello
        self._send(ModelsChanged(hello))

    def take_datasets(self, datasets: DataSets) -> None:
        """Serve data sets that were copied meanwhile."""
        with self._lock:
            self.now = replace(self.now, datasets=datasets)
        self.complete_datasets(datasets.infos)

    def _queue(self, work: Prepare | _Adopted) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="models", daemon=True)
            self._thread.start()
        self._work.put(work)

    def _run(self) -> None:
        # One core: the others are for what is served. torch's thread count is a setting of each thread.
        torch.set_num_threads(1)
        accelerator.prepare_thread(self._settings.device)
        while True:
            try:
                work = self._work.get(timeout=_LOOK_SECONDS if self._retired else None)
            except Empty:
                self._let_go()
                continue
            if isinstance(work, Prepare):
                self._prepare(work)
            else:
                self._report(work)
            # Nothing of it is kept until the next.
            del work

    def _report(self, adopted: _Adopted) -> None:
        with self._lock:
            hello = self._hello
        self._send(ModelsChanged(hello, adopted.change))
        self._retired.extend(adopted.retired)
        if self._retired:
            self._let_go()

    def _prepare(self, message: Prepare) -> None:
        version = Version(
            Path(self._settings.model_repository) / message.name / str(message.version), message.name, message.version
        )
        before, interval = fingerprint(version.folder), sys.getswitchinterval()
        # Loading is mostly Python: requests have the interpreter sooner.
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            with no_full_collections():
                ready, digest = self._load(version, before, message.tried)
        finally:
            sys.setswitchinterval(interval)
            clear_leftovers()
        if not ready.verdict.reason and fingerprint(version.folder) != before:
            # What was read may be half of one file and half of another.
            text = f"{shown(version.folder)}: its files changed while it was loaded."
            ready, digest = _Ready(replace(ready.verdict, reason=text)), ""
        with self._lock:
            self._ready[message.change] = ready
        self._send(Prepared(message.change, ready.verdict, digest, ready.model is not None))

    def _load(self, version: Version, at: str, tried: Verdict | None) -> tuple[_Ready, str]:
        """Load a version unless the one that is served has the same digest; return its digest too."""
        settings, key = self._settings, (version.name, version.number)
        verdict = Verdict(version.name, version.number, at)
        try:
            digest, served = read_digest(version), self.now.by_key.get(key)
            if served is not None and served.digest == digest:
                fast = served.fast is not None if settings.fast_graph else None
                return _Ready(replace(verdict, fast_graph=fast)), digest
            known = tried is not None and tried.fingerprint == at
            reason, ready = "" if tried is None else tried.reason, None
            # Another process reads and checks an ONNX file, whatever is known of it: that keeps the interpreter.
            if not known or (not reason and (version.folder / ONNX_FILE).is_file()):
                with Handover() as handover:
                    reason = try_out(version, settings, self._fork, handover.descriptor)
                    ready = None if reason else handover.take()
            if reason:
                return _Ready(replace(verdict, reason=reason)), ""
            wanted = (tried.fast_graph if tried is not None and known else None) if settings.fast_graph else False
            model = load_version(version, settings.device, settings.threads, fast_graph=wanted, ready=ready)
            info = model.info(registry.methods())
        except (ModelError, GuardError) as error:
            return _Ready(replace(verdict, reason=str(error))), ""
        except OSError as error:
            text = f"{shown(version.folder)} cannot be tried out: {error.strerror}."
            return _Ready(replace(verdict, reason=text)), ""
        fast = model.fast is not None if settings.fast_graph else None
        return _Ready(replace(verdict, fast_graph=fast), model, info), model.digest

    def _let_go(self) -> None:
        """Give back the memory of models whose last request has ended."""
        self._engine.keep({model.key for model in self.now.by_key.values()})
        gone = [name for name, model in self._retired if model() is None]
        if not gone:
            return
        self._retired = [(name, model) for name, model in self._retired if model() is not None]
        # torch's graphs are cycles. What was there when the worker began is not looked at, so that this takes moments.
        gc.collect()
        if accelerator.is_cuda(self._settings.device):
            torch.cuda.empty_cache()
        trim()
        for name in gone:
            _log.info("the memory of %s was given back", name)


def _key(info: ModelInfo) -> tuple[str, int]:
    return (info.key.name, info.key.version)


def _called(model: LoadedModel) -> str:
    return f"the model {model.name} version {model.version}, digest {model.digest[:12]},"
