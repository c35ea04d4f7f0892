"""The files of a data set: that they lie within its folder, and their digest."""

import hashlib
import os
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from pellucid_server.engine.datasets.opening import DataFile, DataSetError
from pellucid_server.engine.datasets.steps import collected, drained
from pellucid_server.model_files.plain_files import UnfitFileError, shown

_MOST_FILES = 10_000_000
_MOST_DEPTH = 32
_BLOCK_BYTES = 1 << 20

_Facts = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file of a data set does: a digest of all names, sizes, times and places, and the last time.

    There may be hundreds of thousands of masks, so that it does not hold them one by one.
    """

    digest: bytes
    latest_ns: int


class Digests:
    """SHA-256 of files, each read once while its size, times and place stay the same."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Facts, str]] = {}
        self._lock = threading.Lock()

    def of_folder(self, folder: Path) -> str:
        r"""Return the SHA-256 of a data set, lower-case hexadecimal.

        It is taken over lines as `sha256sum` prints them, "DIGEST  NAME", for every file in the folder and below, in
        the order of their names' bytes. Run in the folder, this prints the same::

            find * -type f -not -path '*/.*' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum

        Raises
        ------
        UnfitFileError, DataSetError, OSError
            A file cannot be read, or is not what may be one of a data set.
        """
        return drained(self.reading(folder))

    def reading(self, folder: Path) -> Generator[None, None, str]:
        """Do as `of_folder` does, with places where it may be interrupted."""
        found = hashlib.sha256()
        files = yield from collected(data_files(folder))
        for name, path in sorted(files, key=lambda pair: os.fsencode(pair[0])):
            digest = yield from self._of_file(folder, name, path)
            found.update(f"{digest}  {name}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def _of_file(self, folder: Path, name: str, path: str) -> Generator[None, None, str]:
        yield
        facts = _facts(os.stat(path))
        with self._lock:
            known = self._known.get(path)
        if known is not None and known[0] == facts:
            return known[1]
        with DataFile(folder, name).opened() as file:
            found, before = hashlib.sha256(), _facts(os.fstat(file.fileno()))
            while block := file.read(_BLOCK_BYTES):
                found.update(block)
                yield
            after = _facts(os.fstat(file.fileno()))
        if before == after:
            with self._lock:
                self._known[path] = (before, found.hexdigest())
        return found.hexdigest()


def data_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Give every file in a folder and below, its name from there and its path, but for names with a dot first.

    Raises
    ------
    UnfitFileError
        One leads out of the folder or is no plain file, or they are too many or too deep.
    """
    for number, name in enumerate(_walk(folder, "", 0)):
        if number >= _MOST_FILES:
            raise UnfitFileError(f"The folder has more than {_MOST_FILES} files.")
        yield name, os.path.join(folder, name)


def stamping(folder: Path) -> Generator[None, None, Stamp]:
    """Return the stamp of a folder's files as they are now, with places where that may be interrupted.

    Raises
    ------
    UnfitFileError, OSError
        A file cannot be looked at, or is not what may be one of a data set.
    """
    found, latest = hashlib.sha256(), 0
    for name, path in data_files(folder):
        facts = _facts(os.stat(path))
        latest = max(latest, facts[1])
        found.update(f"{facts} {name}\n".encode(errors="surrogateescape"))
        yield
    return Stamp(found.digest(), latest)


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files."""
    return sum(os.stat(path).st_size for _, path in data_files(folder))


def _facts(found: os.stat_result) -> _Facts:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _walk(root: Path, inner: str, depth: int) -> Iterator[str]:
    """Give the names, from the root, of the files in `inner`, which is empty or ends in "/"."""
    if depth > _MOST_DEPTH:
        raise UnfitFileError(f"{shown(Path(inner))} is {depth} folders deep; at most {_MOST_DEPTH} are read.")
    for entry in sorted(os.scandir(root / inner), key=lambda each: each.name):
        name = inner + entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            if (root / name).is_dir():
                raise UnfitFileError(f"{shown(Path(name))} is a link to a folder; put the folder itself there.")
            _check_link(root, name)
            yield name
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(root, f"{name}/", depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield name
        else:
            raise UnfitFileError(f"{shown(Path(name))} is not a plain file; it must be one, or be taken away.")


def _check_link(root: Path, name: str) -> None:
    try:
        with DataFile(root, name).opened():
            return
    except DataSetError as error:
        raise UnfitFileError(str(error)) from error
