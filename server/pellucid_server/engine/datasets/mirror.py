"""Copies data sets from a URL into a folder, from which they are read as local ones are.

`models.datasets` may be any URL that fsspec opens: `s3://bucket/sets`, `zip://::file:///sets.zip`. Below it are folders
of data sets. When a worker starts, each is copied into a folder of the cache: files that are there already, by what the
file system says of them, are not copied again, and what is gone at the URL goes. The digest of a data set, and requests
that are interrupted, need its files more than once, and some file systems read nothing but whole files.

A data set that is not copied whole has no `dataset.toml` in the cache, so that nothing reads it. The copies take at
most so many bytes: a data set that would exceed them is listed as broken. Messages name no URL, as it may hold a
password.
"""

import contextlib
import fcntl
import hashlib
import importlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pellucid_server.engine.datasets.description import MANIFEST
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.model_files.plain_files import shown

_log = logging.getLogger(__name__)

_KNOWN = ".copied.jsonl"
_PART = ".part-"
_TOGETHER = 64
"""Files that are asked for at once: object stores take as long for one as for many."""
_MOST_FILES = 10_000_000


@dataclass(frozen=True, slots=True)
class _File:
    """A file at the URL; `mark` changes when it does."""

    path: str
    size: int
    mark: str


def mirror(url: str, cache: Path, most_bytes: int) -> tuple[Path, Mapping[str, str]]:
    """Copy the data sets at a URL into a folder of its own in `cache`; return it, and why some are not there, by name.

    Workers that start together wait for one another, so that each file is copied once.

    Raises
    ------
    DataSetError
        fsspec or the URL's protocol is not installed, the URL cannot be listed, or the cache cannot be written.
    """
    folder = cache / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(folder):
            return folder, _mirrored(url, folder, most_bytes)
    except OSError as error:
        raise DataSetError(f"the folder of copies cannot be written: {os.strerror(error.errno or 0)}.") from error


def _mirrored(url: str, folder: Path, most_bytes: int) -> Mapping[str, str]:
    system, root = _opened(url)
    with _asking():
        found = _listed(system, root)
    if not found:
        raise DataSetError("models.datasets has no data set; it must have folders with a dataset.toml each.")
    for name in _entries(folder):
        if name not in found:
            shutil.rmtree(folder / name)
    refused, left = {}, most_bytes
    for name, files in sorted(found.items()):
        size = sum(each.size for each in files.values())
        if size > left:
            refused[name] = (
                f"its files have {size} bytes, and {left} of models.datasets_cache_bytes are left; raise it, or take "
                "files away."
            )
            shutil.rmtree(folder / name, ignore_errors=True)
            continue
        left -= size
        try:
            with _asking():
                _copy(system, files, folder / name)
        except DataSetError as error:
            refused[name] = str(error)
    return refused


def _opened(url: str) -> tuple[Any, str]:
    try:
        core = importlib.import_module("fsspec.core")
        system, root = core.url_to_fs(url)
    except ImportError as error:
        raise DataSetError(
            "models.datasets is a URL, for which the server needs fsspec and what reads its protocol, such as s3fs; "
            "install pellucid[remote] and that."
        ) from error
    except Exception as error:
        _log.error("models.datasets cannot be opened: %s", type(error).__name__)
        raise DataSetError("models.datasets is no URL that can be opened; it must be one of fsspec's.") from error
    return system, str(root).rstrip("/")


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Turn what file systems raise, each its own errors, into one that names its kind alone."""
    try:
        yield
    except DataSetError:
        raise
    except Exception as error:
        cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
        raise DataSetError(f"models.datasets cannot be read: {cause}.") from error


def _listed(system: Any, root: str) -> dict[str, dict[str, _File]]:
    """Return the files of each data set by their paths in it, hidden ones left out."""
    found: dict[str, dict[str, _File]] = {}
    for number, (path, info) in enumerate(system.find(root, detail=True).items()):
        if number >= _MOST_FILES:
            raise DataSetError(f"there are more than {_MOST_FILES} files at models.datasets.")
        relative = str(path)[len(root) :].lstrip("/")
        parts = PurePosixPath(relative).parts
        if len(parts) < 2 or any(part.startswith(".") for part in parts):
            continue
        if "\\" in relative or "\0" in relative or info.get("islink"):
            raise DataSetError(f"{shown(Path(relative))} is a link, or has a name that no file may have.")
        mark = hashlib.sha256(repr(sorted((key, repr(value)) for key, value in info.items())).encode()).hexdigest()
        found.setdefault(parts[0], {})["/".join(parts[1:])] = _File(str(path), int(info.get("size") or 0), mark)
    return {name: files for name, files in found.items() if MANIFEST in files}


def _copy(system: Any, files: Mapping[str, _File], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    known = _known(folder)
    stale = [name for name, file in files.items() if known.get(name) != file.mark or not (folder / name).is_file()]
    gone = [name for name in _walked(folder) if name not in files]
    if not stale and not gone:
        return
    # Without it nothing reads the rest, which is neither the old nor the new data set for a while.
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in gone:
        (folder / name).unlink()
    ordered = iter(sorted({*stale, MANIFEST}, key=lambda name: (name == MANIFEST, name)))
    while taken := list(itertools.islice(ordered, _TOGETHER)):
        _fetch(system, {name: files[name] for name in taken}, folder)
    with (folder / _KNOWN).open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps([name, file.mark])}\n" for name, file in files.items())


def _fetch(system: Any, files: Mapping[str, _File], folder: Path) -> None:
    parts = {name: folder / f"{_PART}{number}" for number, name in enumerate(files)}
    system.get([file.path for file in files.values()], [str(path) for path in parts.values()])
    with (folder / _KNOWN).open("a", encoding="utf-8") as lines:
        for name, path in parts.items():
            if path.stat().st_size != files[name].size:
                raise DataSetError(f"{shown(Path(name))} changed while it was copied.")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (folder / name).is_dir():
                # Once a folder, whose files are gone by now.
                shutil.rmtree(folder / name)
            os.replace(path, folder / name)
            lines.write(f"{json.dumps([name, files[name].mark])}\n")


def _known(folder: Path) -> dict[str, str]:
    """Return the marks of the files that were copied; a line that was cut off counts for nothing."""
    found = {}
    with contextlib.suppress(FileNotFoundError), (folder / _KNOWN).open(encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                name, mark = json.loads(line)
                found[str(name)] = str(mark)
    return found


def _walked(folder: Path) -> Iterator[str]:
    for inner, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield str(Path(inner, name).relative_to(folder))


def _entries(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.is_dir()]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
