"""Loads a folder of models: NAME/model.toml and NAME/VERSION/model.pt2 or model.onnx, or both."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from pellucid_server.engine.models.archive import ModelFileError, load_program
from pellucid_server.engine.models.assembly import assemble
from pellucid_server.engine.models.graph import Graph, UnfitModelError
from pellucid_server.engine.models.loaded import LoadedModel
from pellucid_server.engine.models.manifest import Manifest, read_manifest
from pellucid_server.engine.models.preprocessing import UnfitManifestError
from pellucid_server.engine.models.session import Session, SessionError
from pellucid_server.engine.models.strict_toml import ManifestError
from pellucid_server.engine.models.trial import TrialError
from pellucid_server.jobs import ModelKey

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_GRAPH_FILE, _ONNX_FILE = "model.pt2", "model.onnx"


class ModelError(Exception):
    """A repository or a model in it that cannot be served; the message names the path, and what would be right."""


def load_repository(folder: Path, device: str, threads: int) -> tuple[LoadedModel, ...]:
    """Load, try out and warm up every version of every model, by name, then version.

    Parameters
    ----------
    folder
        Each folder in it that is not hidden is a model's: `model.toml`, what that names, and a folder
        with the files of each version under its number.
    device
        "cpu" or "cuda:N".
    threads
        Threads of ONNX Runtime; torch's are for the caller to set.

    Raises
    ------
    ModelError
        A model cannot be served, or there is none.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; it must be the model repository, with a folder for each model.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ModelError(f"{folder} has no models; it needs NAME/model.toml and NAME/1/model.pt2 for each.")
    return tuple(model for name in names for model in _load_model(folder / name, device, threads))


def version_digest(folder: Path, manifest: Manifest) -> str:
    """Return the SHA-256 of a version, lower-case hexadecimal.

    It is taken over lines as `sha256sum` prints them, "DIGEST  NAME", for every file in the version's
    folder and below, for `../model.toml` and for the files that it names, in the order of their names'
    bytes. Run in the version's folder, this prints the same, with `../labels.txt` where there is one::

        (find * -type f; echo ../model.toml; echo ../labels.txt) | LC_ALL=C sort | xargs sha256sum | sha256sum
    """
    inside = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    beside = {f"../{name}": folder.parent / name for name in ("model.toml", *manifest.files)}
    files = inside | beside
    lines = (f"{_file_digest(files[name])}  {name}\n" for name in sorted(files, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_model(folder: Path, device: str, threads: int) -> Iterator[LoadedModel]:
    if not _NAME.fullmatch(folder.name):
        raise ModelError(
            f"{folder}: a model's name must be letters, digits, '.', '_' and '-', a letter or digit first."
        )
    if not (folder / "model.toml").is_file():
        raise ModelError(f"{folder} has no model.toml; every folder of the repository must be a model's, or hidden.")
    try:
        manifest = read_manifest(folder / "model.toml")
    except ManifestError as error:
        raise ModelError(str(error)) from error
    versions = sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name))
    if not versions:
        raise ModelError(f"{folder} has no version; put the model's file into {folder / '1' / _GRAPH_FILE}.")
    for version in versions:
        yield _load_version(folder / str(version), manifest, device, threads)


def _load_version(folder: Path, manifest: Manifest, device: str, threads: int) -> LoadedModel:
    try:
        graph = _graph(folder, manifest, device)
        session = _session(folder, manifest, device, threads)
        key = ModelKey(folder.parent.name, int(folder.name), version_digest(folder, manifest))
        return assemble(key, folder.parent, manifest, graph, session)
    except (UnfitManifestError, TrialError) as error:
        raise ModelError(f"{folder}: {error}.") from error


def _graph(folder: Path, manifest: Manifest, device: str) -> Graph | None:
    path = folder / _GRAPH_FILE
    if not path.is_file():
        if manifest.runtime == "graph" or not (folder / _ONNX_FILE).is_file():
            raise ModelError(f"{folder} has no {_GRAPH_FILE}; pellucid-export writes one.")
        return None
    try:
        return Graph.from_program(load_program(path), device=device)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    except UnfitModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _session(folder: Path, manifest: Manifest, device: str, threads: int) -> Session | None:
    path = folder / _ONNX_FILE
    if manifest.runtime == "graph" or (manifest.runtime == "auto" and not path.is_file()):
        return None
    if not path.is_file():
        raise ModelError(f"{folder} has no {_ONNX_FILE}, which runtime = 'onnxruntime' needs; set it to 'auto'.")
    try:
        return Session(path, threads=threads, device=device)
    except SessionError as error:
        raise ModelError(f"{path}: {error}.") from error
