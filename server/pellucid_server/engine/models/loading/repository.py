"""A folder of models, NAME/model.toml and NAME/VERSION/model.pt2 or model.onnx or both: what it has, and loading it."""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from pellucid_server import wire
from pellucid_server.engine.asking.registry import Method
from pellucid_server.engine.device.accelerator import is_cuda
from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.exported.archive import ModelFileError, load_program
from pellucid_server.engine.models.files.manifest import Manifest, read_manifest
from pellucid_server.engine.models.files.strict_toml import ManifestError
from pellucid_server.engine.models.graph.graph import Graph, UnfitModelError
from pellucid_server.engine.models.inputs.preprocessing import UnfitManifestError
from pellucid_server.engine.models.loading.assembly import assemble
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.models.loading.trial import TrialError
from pellucid_server.engine.models.loading.twin import LARGEST_TWIN_BYTES
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel, SessionError, nearest_device
from pellucid_server.engine.models.onnx.ready import ReadyFile
from pellucid_server.model_files.listing import GRAPH_FILE, MANIFEST, ONNX_FILE, ModelError, Version, contents
from pellucid_server.model_files.plain_files import UnfitFileError, check_file, shown, version_files
from pellucid_server.vocabulary.requests import ModelKey

_log = logging.getLogger(__name__)

MOST_DESCRIBED_BYTES = 8 << 20
"""Bytes of all that callers can read of a model: signature, labels, layers."""


def load_version(
    version: Version,
    device: str,
    threads: int,
    *,
    fast_graph: bool | None = None,
    ready: tuple[ReadyFile, str] | None = None,
    keep_ready: bool = False,
) -> LoadedModel:
    """Load a version, try it out and warm it up.

    Parameters
    ----------
    device
        "cpu" or "cuda:N".
    threads
        Threads of ONNX Runtime; torch's are for the caller to set.
    fast_graph
        Whether to use the model's second graph, for speed; None where that agrees with the first. On a CPU only.
    ready
        What another process has made of its ONNX file, and the digest of the version that it was made of.
    keep_ready
        Whether to keep what this process has made of it.

    Raises
    ------
    ModelError
        It cannot be served, or has another digest. What goes wrong beyond what is foreseen is in the log, too.
    """
    with _explained(version.folder):
        model = _load(version, device, threads, fast_graph, ready)
        if model.session is not None and not keep_ready:
            model.session.ready = None
        return model


def read_digest(version: Version) -> str:
    """Return a version's digest, by its files as they are now; see `version_digest`.

    Raises
    ------
    ModelError
        It cannot be served.
    """
    with _explained(version.folder):
        check_file(version.folder.parent / MANIFEST, version.folder.parent)
        return version_digest(version.folder, read_manifest(version.folder.parent / MANIFEST))


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Raise whatever goes wrong with a version's files as a `ModelError`."""
    try:
        yield
    except (ModelError, ManifestError, UnfitFileError, ModelFileError) as error:
        raise ModelError(str(error)) from error
    except (UnfitManifestError, TrialError) as error:
        raise ModelError(_too_large(folder, error) or f"{shown(folder)}: {error}.") from error
    except OSError as error:
        where = shown(Path(error.filename)) if isinstance(error.filename, str) else shown(folder)
        raise ModelError(f"{where} cannot be read: {error.strerror}.") from error
    except Exception as error:
        too_large = _too_large(folder, error)
        if too_large:
            raise ModelError(too_large) from error
        # The log leaves out an exception's words, for a caller's sake: here they are of the model's files alone.
        _log.exception("%s cannot be loaded, in a way that is not foreseen: %.500r", shown(folder), str(error))
        raise ModelError(
            f"{shown(folder)} cannot be loaded ({type(error).__name__}): its files contradict one another, or "
            "themselves; export the model again with pellucid-export."
        ) from error


def load_repository(repository: Path, device: str, threads: int) -> tuple[LoadedModel, ...]:
    """Load every version of every model into this process, without a guard: for files that one has written oneself.

    Raises
    ------
    ModelError
        Models cannot be served, or there are none; all of them are named.
    """
    found = contents(repository)
    loaded, messages = [], [each.message for each in found.broken]
    for version in found.versions:
        try:
            loaded.append(load_version(version, device, threads))
        except ModelError as error:
            messages.append(str(error))
    if messages:
        raise ModelError("\n".join(messages))
    return tuple(loaded)


def check_description(version: Version, model: LoadedModel, methods: Iterable[Method]) -> None:
    """Check that what callers can read of a model can be sent to them.

    Raises
    ------
    ModelError
        A name in its files is no text, a number does not fit 64 bits, or all of it is too long.
    """
    where = shown(version.folder)
    try:
        size = len(wire.encode(model.info(tuple(methods))))
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{where}: a name in its files is not Unicode text; give its inputs, outputs and modules other names."
        ) from error
    except OverflowError as error:
        raise ModelError(f"{where}: a number in its files does not fit 64 bits.") from error
    if size > MOST_DESCRIBED_BYTES:
        raise ModelError(
            f"{where}: its description, with labels and layers, has {size} bytes; at most {MOST_DESCRIBED_BYTES} are "
            "sent to callers. Shorten the labels, or leave them out."
        )


def version_digest(folder: Path, manifest: Manifest) -> str:
    """Return the SHA-256 of a version, lower-case hexadecimal.

    It is taken over lines as `sha256sum` prints them, "DIGEST  NAME", for every file in the version's
    folder and below, for `../model.toml` and for the files that it names, in the order of their names'
    bytes. Run in the version's folder, this prints the same, with `../labels.txt` where there is one::

        (find * -type f; echo ../model.toml; echo ../labels.txt) | LC_ALL=C sort | xargs sha256sum | sha256sum

    Raises
    ------
    UnfitFileError
        A file is not what may be one of a model.
    """
    inside = {path.relative_to(folder).as_posix(): path for path in version_files(folder, folder.parent)}
    beside = {f"../{name}": folder.parent / name for name in (MANIFEST, *manifest.files)}
    files = inside | beside
    lines = (f"{_file_digest(files[name])}  {name}\n" for name in sorted(files, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(
    version: Version, device: str, threads: int, fast_graph: bool | None, ready: tuple[ReadyFile, str] | None
) -> LoadedModel:
    folder = version.folder
    files = {path.relative_to(folder).as_posix() for path in version_files(folder, folder.parent)}
    check_file(folder.parent / MANIFEST, folder.parent)
    manifest = read_manifest(folder.parent / MANIFEST)
    graph = _graph(folder, files, manifest, device)
    session = _session(folder, files, manifest, device, threads, None if ready is None else ready[0])
    key = ModelKey(version.name, version.number, version_digest(folder, manifest))
    if ready is not None and key.digest != ready[1]:
        raise ModelError(f"{shown(folder)}: its files changed while it was loaded.")
    # On CUDA it is not known to be any faster.
    fast_graph = False if is_cuda(device) else fast_graph
    return assemble(key, folder.parent, manifest, graph, session, fast_graph=fast_graph)


def _graph(folder: Path, files: set[str], manifest: Manifest, device: str) -> Graph | None:
    path = folder / GRAPH_FILE
    if GRAPH_FILE not in files:
        if manifest.runtime == "graph" or ONNX_FILE not in files:
            raise ModelError(f"{shown(folder)} has no {GRAPH_FILE}; pellucid-export writes one.")
        return None
    try:
        return Graph.from_program(load_program(path), device=device)
    except UnfitModelError as error:
        raise ModelError(f"{shown(path)}: {error}") from error


def _session(
    folder: Path, files: set[str], manifest: Manifest, device: str, threads: int, ready: ReadyFile | None
) -> OnnxModel | None:
    path = folder / ONNX_FILE
    there = ONNX_FILE in files
    if manifest.runtime == "graph" or (manifest.runtime == "auto" and not there):
        return None
    if not there:
        raise ModelError(f"{shown(folder)} has no {ONNX_FILE}, which runtime = 'onnxruntime' needs; set it to 'auto'.")
    where = nearest_device(device)
    if where != device:
        if manifest.runtime == "auto" and GRAPH_FILE in files:
            _log.warning(
                "%s is not used: the installed ONNX Runtime has no CUDA, and the graph runs on it", shown(path)
            )
            return None
        _log.warning("%s runs on the CPU: the installed ONNX Runtime has no CUDA", shown(path))
    try:
        # Beside a graph, its parts only save time.
        cuttable = GRAPH_FILE not in files or path.stat().st_size <= LARGEST_TWIN_BYTES
        return OnnxModel(path, threads=threads, device=where, cuttable=cuttable, ready=ready)
    except SessionError as error:
        raise ModelError(f"{shown(path)}: {error}.") from error


def _too_large(folder: Path, error: BaseException) -> str:
    """Say that there was too little memory, if that is what an error comes from; otherwise empty."""
    for each in _causes(error):
        if out_of_memory(each):
            return (
                f"{shown(folder)} takes more memory to load than it may; if the model is your own and needs more, "
                "raise models.load_bytes."
            )
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
