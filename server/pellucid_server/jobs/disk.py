"""Files that are there whole or not at all, whenever the machine stops."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

_PART = ".part"


class Disk:
    """Writes files.

    Parameters
    ----------
    step
        Called before everything that changes the disk, with a word for it and the bytes that it writes; tests have it
        raise, as a full disk and a machine that stops do.
    """

    def __init__(self, step: Callable[[str, int], None] = lambda what, size: None) -> None:
        self.step = step
        """Called before what others change on the disk, too."""

    def make_folder(self, path: Path) -> None:
        """Make a folder that only this user can read; its parent must be there."""
        self.step("make a folder", 0)
        path.mkdir(mode=0o700)
        self._settle(path.parent)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, in place of one that is there: a reader finds one or the other, and never a piece.

        Raises
        ------
        OSError
            It cannot be written; the file that was there still is.
        """
        part = path.with_name(path.name + _PART)
        try:
            self.step("write", len(data))
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                self.step("sync", 0)
                os.fsync(file.fileno())
            self.step("rename", 0)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        self._settle(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a file or a folder with all that is in it; harmless if it is not there."""
        self.step("remove", 0)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _settle(self, folder: Path) -> None:
        """Make sure that a folder's list of names is on the disk."""
        self.step("sync a folder", 0)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files; 0 if it is not there."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    except FileNotFoundError:
        return 0
