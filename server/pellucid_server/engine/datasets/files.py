"""The files of a data set: that they lie within its folder, and their digest."""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from pellucid_server.engine.models.files.plain_files import UnfitFileError, check_file, shown

_MOST_FILES = 10_000_000
_MOST_DEPTH = 32

_Facts = tuple[int, int, int, int]


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
        UnfitFileError, OSError
            A file cannot be read, or is not what may be one of a data set.
        """
        found = hashlib.sha256()
        for name, path in sorted(data_files(folder), key=lambda pair: os.fsencode(pair[0])):
            found.update(f"{self._of_file(path)}  {name}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def _of_file(self, path: Path) -> str:
        facts = _facts(path)
        with self._lock:
            known = self._known.get(str(path))
        if known is not None and known[0] == facts:
            return known[1]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            self._known[str(path)] = (facts, digest)
        return digest


def data_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give every file in a folder and below, with its name from there; names that begin with a dot are left out.

    Raises
    ------
    UnfitFileError
        One leads out of the folder or is no plain file, or they are too many or too deep.
    """
    for number, path in enumerate(_walk(folder, folder, 0)):
        if number >= _MOST_FILES:
            raise UnfitFileError(f"{shown(folder)} has more than {_MOST_FILES} files.")
        yield path.relative_to(folder).as_posix(), path


def stamp(folder: Path) -> tuple[tuple[str, _Facts], ...]:
    """Return what changes when a file of the folder does: names, sizes, times and places."""
    return tuple(sorted((name, _facts(path)) for name, path in data_files(folder)))


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files."""
    return sum(path.stat().st_size for _, path in data_files(folder))


def _facts(path: Path) -> _Facts:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _walk(folder: Path, root: Path, depth: int) -> Iterator[Path]:
    if depth > _MOST_DEPTH:
        raise UnfitFileError(f"{shown(folder)} is {depth} folders deep; at most {_MOST_DEPTH} are read.")
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            if entry.is_dir():
                raise UnfitFileError(f"{shown(path)} is a link to a folder; put the folder itself there.")
            check_file(path, root)
            yield path
        elif entry.is_dir():
            yield from _walk(path, root, depth + 1)
        elif stat.S_ISREG(entry.stat().st_mode):
            yield path
        else:
            raise UnfitFileError(f"{shown(path)} is not a plain file; it must be one, or be taken away.")
