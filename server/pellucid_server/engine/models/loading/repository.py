"""A folder of models, NAME/model.toml and NAME/VERSION/model.pt2 or model.onnx or both: what it has, and loading it."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pellucid_server import wire
from pellucid_server.engine.asking.registry import Method
from pellucid_server.engine.device.accelerator import is_cuda
from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.exported.archive import ModelFileError, load_program
from pellucid_server.engine.models.files.manifest import Manifest, read_manifest
from pellucid_server.engine.models.files.plain_files import UnfitFileError, check_file, shown, version_files
from pellucid_server.engine.models.files.strict_toml import ManifestError
from pellucid_server.engine.models.graph.graph import Graph, UnfitModelError
from pellucid_server.engine.models.inputs.preprocessing import UnfitManifestError
from pellucid_server.engine.models.loading.assembly import assemble
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.models.loading.trial import TrialError
from pellucid_server.engine.models.loading.twin import LARGEST_TWIN_BYTES
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel, SessionError, nearest_device
from pellucid_server.vocabulary.requests import ModelKey

_log = logging.getLogger(__name__)

GRAPH_FILE, ONNX_FILE = "model.pt2", "model.onnx"
MOST_DESCRIBED_BYTES = 8 << 20
"""Bytes of all that callers can read of a model: signature, labels, layers."""

_MANIFEST = "model.toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SERVICES = re.compile(r"(pellucid|grpc)\..*")
"""What gRPC's health check calls services by, beside models."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class ModelError(Exception):
    """A repository or a model in it that cannot be served; the message names the path, and what would be right."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model, at `folder`: nothing in it has been looked at."""

    folder: Path
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A model, or one version of it, that cannot be served; `number` is 0 for the whole model."""

    name: str
    number: int
    message: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a repository, by name, then version; `others` are neither models nor hidden."""

    versions: tuple[Version, ...]
    broken: tuple[Broken, ...]
    others: tuple[Path, ...]


def contents(repository: Path) -> Contents:
    """List what a repository has, without a look into any file.

    A folder is a model's if it has a `model.toml`, or a folder called by a version's number. Hidden ones are not.

    Raises
    ------
    ModelError
        The repository is no folder, cannot be listed, or has no models at all.
    """
    if not repository.is_dir():
        raise ModelError(
            f"{shown(repository)} is not a folder; it must be the model repository, with a folder for each model."
        )
    versions: list[Version] = []
    broken: list[Broken] = []
    others: list[Path] = []
    try:
        paths = sorted(path for path in repository.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ModelError(f"{shown(repository)} cannot be listed: {error.strerror}.") from error
    for path in paths:
        try:
            numbers = _version_numbers(path)
        except OSError as error:
            # Such as lost+found, which only the system's administrator can list.
            if _NAME.fullmatch(path.name):
                broken.append(Broken(path.name, 0, f"{shown(path)} cannot be listed: {error.strerror}."))
            else:
                others.append(path)
            continue
        if numbers is None:
            others.append(path)
        elif (wrong := _wrong(path, numbers)) is not None:
            broken.append(Broken(shown(Path(path.name)), 0, wrong))
        else:
            versions.extend(Version(path / str(number), path.name, number) for number in numbers)
    if not versions and not broken:
        raise ModelError(f"{shown(repository)} has no models; it needs NAME/model.toml and NAME/1/model.pt2 for each.")
    return Contents(tuple(versions), tuple(broken), tuple(others))


def load_version(version: Version, device: str, threads: int, *, fast_graph: bool | None = None) -> LoadedModel:
    """Load a version, try it out and warm it up.

    Parameters
    ----------
    device
        "cpu" or "cuda:N".
    threads
        Threads of ONNX Runtime; torch's are for the caller to set.
    fast_graph
        Whether to use the model's second graph, for speed; None where that agrees with the first. On a CPU only.

    Raises
    ------
    ModelError
        It cannot be served. What goes wrong beyond what is foreseen is in the log, too.
    """
    folder = version.folder
    try:
        return _load(version, device, threads, fast_graph)
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
    beside = {f"../{name}": folder.parent / name for name in (_MANIFEST, *manifest.files)}
    files = inside | beside
    lines = (f"{_file_digest(files[name])}  {name}\n" for name in sorted(files, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_numbers(path: Path) -> list[int] | None:
    """Return the versions in a folder, in order; None if it is no model's."""
    if not path.is_dir():
        return None
    numbers = sorted(int(each.name) for each in path.iterdir() if _VERSION.fullmatch(each.name) and each.is_dir())
    manifest = path / _MANIFEST
    return numbers if numbers or manifest.exists() or manifest.is_symlink() else None


def _wrong(path: Path, numbers: list[int]) -> str | None:
    """Say what is wrong with a model's folder as such, or None."""
    manifest = path / _MANIFEST
    if not _NAME.fullmatch(path.name):
        return (
            f"{shown(path)}: a model's name must be letters, digits, '.', '_' and '-', a letter or digit first, 128 at "
            "most."
        )
    if _SERVICES.fullmatch(path.name):
        return f"{shown(path)}: a model's name must not begin as those of services do, with 'pellucid.' or 'grpc.'."
    if not (manifest.exists() or manifest.is_symlink()):
        return f"{shown(path)} has no {_MANIFEST}; every model must have one, even if it is empty."
    if not numbers:
        return f"{shown(path)} has no version; put the model's file into {shown(path / '1' / GRAPH_FILE)}."
    return None


def _load(version: Version, device: str, threads: int, fast_graph: bool | None) -> LoadedModel:
    folder = version.folder
    files = {path.relative_to(folder).as_posix() for path in version_files(folder, folder.parent)}
    check_file(folder.parent / _MANIFEST, folder.parent)
    manifest = read_manifest(folder.parent / _MANIFEST)
    graph = _graph(folder, files, manifest, device)
    session = _session(folder, files, manifest, device, threads)
    key = ModelKey(version.name, version.number, version_digest(folder, manifest))
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


def _session(folder: Path, files: set[str], manifest: Manifest, device: str, threads: int) -> OnnxModel | None:
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
        return OnnxModel(path, threads=threads, device=where, cuttable=cuttable)
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
