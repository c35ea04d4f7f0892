"""Loads a repository's models so that none can stop the others: each is tried out in a child process first.

While one model is loaded here, the next is tried out there. What passed is loaded from the same files once more, as
nothing of a loaded model can cross to another process but by those.
"""

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pellucid_server.engine.asking.registry import Method
from pellucid_server.engine.models.exported.archive import program_bytes
from pellucid_server.engine.models.loading.guard import Bounds, Grow, Guard, Trial
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.models.loading.repository import check_description, load_version
from pellucid_server.faults import LOADING, Faults
from pellucid_server.model_files.listing import GRAPH_FILE, Broken, Contents, ModelError, Version, contents
from pellucid_server.model_files.plain_files import UnfitFileError, check_file, fingerprint, shown, size_on_disk
from pellucid_server.model_files.reasons import Reasons
from pellucid_server.vocabulary.descriptions import BrokenModel, Verdict
from pellucid_server.vocabulary.messages import WorkerSettings

_log = logging.getLogger(__name__)

_FIRST_LOAD_MODULES = (
    "sympy.tensor.tensor",
    "torch._export.passes._node_metadata_hook",
    "torch._functorch.aot_autograd",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "torch._subclasses.schema_check_mode",
    "torch.export._trace",
    "torch.fx.experimental.validator",
)
"""What torch imports when it loads its first model: 0.8 s that each child would take anew."""

_MIB = 1 << 20
_FILE_BYTES_A_SECOND = 4 * _MIB
_GRAPH_BYTES_A_SECOND = _MIB // 2
"""A graph of 10,000 operators takes some 10 s of processor time on a quiet machine, twice that on a crowded one."""
_MEMORY_FOR_FILES = 6
_MEMORY_FOR_GRAPH = 32
"""Bytes of memory for each byte of a graph's text: 10,000 operators are some 10 MiB of it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a repository. `verdicts` are for the next process that loads it."""

    models: tuple[LoadedModel, ...]
    broken: tuple[BrokenModel, ...]
    verdicts: tuple[Verdict, ...]


def import_for_loads() -> None:
    """Import what the first load would: before a fork, so that each forked process need not do so anew."""
    for name in _FIRST_LOAD_MODULES:
        # Other versions of torch have others: children then import those themselves.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class Loader:
    """Loads one repository: `begin` while the process has one thread and has loaded nothing, then `load`."""

    def __init__(
        self, settings: WorkerSettings, found: Contents, fingerprints: Sequence[str], known: Sequence[Verdict | None]
    ) -> None:
        self._settings = settings
        self._found = found
        self._fingerprints = dict(zip(found.versions, fingerprints, strict=True))
        self._versions = _in_good_order([*zip(found.versions, known, strict=True)])
        self._reasons = Reasons(Path(settings.model_repository))
        self._guard: Guard | None = None

    @classmethod
    def begin(cls, settings: WorkerSettings, methods: Sequence[Method]) -> "Loader":
        """List the repository, and have what is not known yet tried out from now on.

        Raises
        ------
        ModelError
            The repository is no folder, or has no models.
        """
        if threading.active_count() > 1:
            raise RuntimeError("a fork copies one thread alone, with the locks that others hold")
        import_for_loads()
        found = contents(Path(settings.model_repository), only=settings.versions)
        if found.others:
            _log.warning("passed over, as they are no models: %s", ", ".join(map(shown, found.others)))
        said = {(each.name, each.version, each.fingerprint): each for each in settings.verdicts}
        # Before anything is tried out: of files that change meanwhile, the next process finds another one.
        fingerprints = [fingerprint(each.folder) for each in found.versions]
        pairs = zip(found.versions, fingerprints, strict=True)
        loader = cls(settings, found, fingerprints, [said.get((each.name, each.number, at)) for each, at in pairs])
        trials = [trial(version, settings, methods) for version, verdict in loader._versions if verdict is None]
        if trials:
            loader._guard = Guard.start(trials)
        return loader

    def load(self, on_load: Callable[[Version], None] = lambda version: None) -> Loaded:
        """Load every version that is found good; `on_load` is called before each.

        Raises
        ------
        ModelError
            No model can be served, or one cannot and the settings say to stop; all that cannot are named.
        GuardError
            The process that tries models out is gone.
        """
        models: list[LoadedModel] = []
        broken = list(self._found.broken)
        verdicts: list[Verdict] = []
        for version, verdict in self._versions:
            message = self._message(verdict)
            # What only this process cannot load, for want of memory perhaps, the next one may.
            reason, fast_graph = message, None if verdict is None else verdict.fast_graph
            if not message and not (broken and self._settings.on_broken_model == "stop"):
                on_load(version)
                message = self._load(version, models, fast_graph)
                if not message and self._settings.fast_graph:
                    fast_graph = models[-1].fast is not None
            verdicts.append(Verdict(version.name, version.number, self._fingerprints[version], reason, fast_graph))
            if message:
                broken.append(Broken(version.name, version.number, message))
        self.close()
        self._report(models, broken)
        listed = sorted(broken, key=lambda each: (each.name, each.number))
        named = tuple(BrokenModel(each.name, each.number, self._reasons.of(each.message)) for each in listed)
        models.sort(key=lambda model: (model.name, model.version))
        return Loaded(tuple(models), named, tuple(verdicts))

    def close(self) -> None:
        """End what is still being tried out."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _message(self, verdict: Verdict | None) -> str:
        """Return why a version is broken as far as trying it out has shown, or an empty text."""
        if verdict is not None:
            return verdict.reason
        assert self._guard is not None  # noqa: S101 - it is there as long as a verdict is missing
        return self._guard.next()

    def _load(self, version: Version, models: list[LoadedModel], fast_graph: bool | None) -> str:
        settings = self._settings
        wanted = fast_graph if settings.fast_graph else False
        try:
            models.append(load_version(version, settings.device, settings.threads, fast_graph=wanted))
        except ModelError as error:
            return str(error)
        return ""

    def _report(self, models: Sequence[LoadedModel], broken: Sequence[Broken]) -> None:
        """Write a line for each broken model, and refuse what the settings say to refuse."""
        for each in broken:
            what = f"{each.name} version {each.number}" if each.number else each.name
            _log.error("the model %s is broken: %s", what, each.message)
        if not broken or (models and self._settings.on_broken_model == "skip"):
            return
        total = len(self._found.versions) + len(self._found.broken)
        raise ModelError("\n".join([_summary(len(broken), total), *(f"- {each.message}" for each in broken)]))


def _summary(broken: int, total: int) -> str:
    if broken == total:
        return "No model can be served:"
    return f"{broken} of {total} models cannot be served, and models.on_error is 'stop':"


def _in_good_order(versions: list[tuple[Version, Verdict | None]]) -> list[tuple[Version, Verdict | None]]:
    """Put the smallest first, so that there is soon one to load, and then the largest first.

    Nothing is loaded while the first is tried out, and nothing tried out while the last is loaded.
    """
    ordered = sorted(versions, key=lambda each: size_on_disk(each[0].folder), reverse=True)
    return [*ordered[-1:], *ordered[:-1]]


def trial(version: Version, settings: WorkerSettings, methods: Sequence[Method], handover: int | None = None) -> Trial:
    """Return what tries a version out in a child process; `handover` is a file for what need not be done again."""
    disk_bytes = size_on_disk(version.folder)
    bounds = Bounds(
        settings.load_seconds + disk_bytes / _FILE_BYTES_A_SECOND,
        settings.load_bytes + _MEMORY_FOR_FILES * disk_bytes,
    )
    run = partial(_try_out, version, settings, methods, disk_bytes, handover)
    return Trial(shown(version.folder), run, bounds)


def _try_out(
    version: Version,
    settings: WorkerSettings,
    methods: Sequence[Method],
    disk_bytes: int,
    handover: int | None,
    grow: Grow,
) -> str:
    """Do all of a load on the CPU; return why it failed, or an empty text."""
    # The worker says it again when it loads the model.
    logging.disable(logging.WARNING)
    Faults(settings.fault_folder).reach(LOADING, model=version.name)
    # A forked process has torch's pool of threads to make again. In a CUDA build the threads of the backward pass,
    # started all at once, would come upon it half made, and end the process.
    torch.set_num_threads(settings.threads)
    try:
        graph_bytes = min(_graph_bytes(version), disk_bytes)
        grow(Bounds(graph_bytes / _GRAPH_BYTES_A_SECOND, _MEMORY_FOR_GRAPH * graph_bytes))
        # The second graph has the first one's operators: the worker itself compares the two.
        model = load_version(version, "cpu", settings.threads, fast_graph=False, keep_ready=True)
        check_description(version, model, methods)
        if handover is not None and model.session is not None and model.session.ready is not None:
            model.session.ready.write(handover, model.digest)
    except ModelError as error:
        return str(error)
    return ""


def _graph_bytes(version: Version) -> int:
    path = version.folder / GRAPH_FILE
    try:
        check_file(path, version.folder.parent)
    except UnfitFileError:
        return 0
    return program_bytes(path)
