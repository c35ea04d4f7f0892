"""What may be a file of a model: a plain file, inside the model's folder, of a name that can be written down.

Nothing is opened here. A pipe, a socket or a device in a file's place could hold a reader for ever, or feed it without
end, and a link that leads out of the folder could show callers files that are not the model's.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

_MOST_FILES = 10_000
_MOST_DEPTH = 32


class UnfitFileError(Exception):
    """A file that is not read; the message has its path, and what would be right."""


def check_file(path: Path, folder: Path, *, most_bytes: int | None = None, owner: str = "model") -> int:
    """Check that a path is of a plain file within the folder of its owner, such as a model; return its bytes.

    A link may stand in the path as long as it leads to a file inside; the folder itself may be a link.

    Raises
    ------
    UnfitFileError
        It is not, there is none, or it has more than `most_bytes`.
    """
    try:
        real, root = path.resolve(strict=True), folder.resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError) as error:
        raise UnfitFileError(f"{shown(path)} cannot be read: {_cause(error)}.") from error
    if not real.is_relative_to(root):
        raise UnfitFileError(f"{shown(path)} leads out of the {owner}'s folder; put the file itself there.")
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFileError(f"{shown(path)} is not a plain file; it must be one, or be taken away.")
    if most_bytes is not None and found.st_size > most_bytes:
        raise UnfitFileError(f"{shown(path)} has {found.st_size} bytes; at most {most_bytes} are read.")
    return found.st_size


def version_files(folder: Path, model: Path) -> list[Path]:
    """Return every file in a version's folder and below; links to folders are not followed.

    Raises
    ------
    UnfitFileError
        One is not what may be a file of a model, or they are too many or too deep.
    """
    if not folder.resolve().is_relative_to(model.resolve()):
        raise UnfitFileError(f"{shown(folder)} leads out of the model's folder; put the files themselves there.")
    found = []
    for path in _walk(folder, 0):
        if not _writable(path.name):
            raise UnfitFileError(f"{shown(path)} has a name that is not UTF-8; give it another.")
        if path.is_symlink() and path.is_dir():
            if not path.resolve().is_relative_to(model.resolve()):
                raise UnfitFileError(f"{shown(path)} leads out of the model's folder; put the files themselves there.")
            continue
        check_file(path, model)
        found.append(path)
        if len(found) > _MOST_FILES:
            raise UnfitFileError(f"{shown(folder)} has more than {_MOST_FILES} files.")
    return found


def size_on_disk(version: Path) -> int:
    """Return the bytes that the files of a version take on the disk, with those beside its folder.

    Files that cannot be looked at take none, and holes in a file none either.
    """
    beside = (path for path in _listed(version.parent) if not path.is_dir())
    sizes = (_stored_bytes(path) for path in itertools.chain(_walk_safely(version.resolve()), beside))
    return sum(itertools.islice(sizes, _MOST_FILES))


def beside_versions(model: Path) -> tuple[Path, ...]:
    """Return what a model's folder has that counts for every version: neither versions nor hidden folders."""
    return tuple(path for path in _listed(model) if not _elsewhere(path))


def fingerprint(version: Path, beside: Collection[Path] | None = None) -> str:
    """Return a text that changes with the files of a version, or beside its folder, by their sizes, times and places.

    Files are not read: it takes moments, also for files that are broken or large. Other versions do not count, nor do
    hidden folders: the next version may be on its way in one. `beside` is what `beside_versions` returns, by default as
    it is now; to list a folder of thousands of versions once for each of them would take minutes.
    """
    lines = hashlib.sha256()
    own = [version] if os.path.lexists(version) else []
    shared = beside_versions(version.parent) if beside is None else beside
    for path in sorted({part for each in (*shared, *own, version.resolve()) for part in _walk_safely(each)}):
        lines.update(f"{os.fsencode(path)!r} {_facts(path)}\n".encode())
    return lines.hexdigest()


def _elsewhere(path: Path) -> bool:
    """Whether a path beside a version's folder is of another version, or a hidden folder."""
    return path.name.isdecimal() or (path.name.startswith(".") and path.is_dir() and not path.is_symlink())


def shown(path: Path) -> str:
    """Return a path as a text that can be written anywhere: what is not UTF-8, or does not print, is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _facts(path: Path) -> tuple[int | None, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno,)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _stored_bytes(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return min(found.st_size, 512 * found.st_blocks) if stat.S_ISREG(found.st_mode) else 0


def _walk_safely(path: Path) -> list[Path]:
    try:
        return list(_walk(path, 0)) if path.is_dir() and not path.is_symlink() else [path]
    except (OSError, UnfitFileError):
        return [path]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Give everything below a folder but folders; what cannot be listed is an error."""
    if depth > _MOST_DEPTH:
        raise UnfitFileError(f"{shown(folder)} is {depth} folders deep; at most {_MOST_DEPTH} are read.")
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, depth + 1)
        else:
            yield path


def _writable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cause(error: BaseException) -> str:
    """Say why a file cannot be looked at; a link that leads to itself is a RuntimeError of pathlib's."""
    return error.strerror or "unknown" if isinstance(error, OSError) else "its links lead in a circle"
