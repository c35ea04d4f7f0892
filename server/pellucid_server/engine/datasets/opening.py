"""Opens files of a data set: plain files within its folder, whatever was put into their place since it was described.

A link may lead to another place in the folder. The place is worked out first, and then opened part by part without
following links: one that is swapped in meanwhile is an error, and never another file. Messages name a file by its path
within the data set.
"""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pellucid_server.model_files.plain_files import shown

_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""A pipe that nobody writes to opens at once, and is then seen to be no plain file."""

_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


class DataSetError(Exception):
    """A data set that cannot be read; the message names the file and the row, and what would be right."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file, or a folder, of a data set.

    Attributes
    ----------
    folder
        The data set's folder.
    name
        The path from there.
    """

    folder: Path
    name: str

    def __str__(self) -> str:
        """Return the name as messages show it."""
        return shown(Path(self.name))

    @property
    def ending(self) -> str:
        """The name's ending in small letters, ".csv" for one."""
        return Path(self.name).suffix.lower()

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder now."""
        return (self.folder / self.name).is_dir()

    @property
    def exists(self) -> bool:
        """Whether there is something of that name now, be it a link that leads nowhere."""
        return os.path.lexists(self.folder / self.name)

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file; what libraries raise on reading it becomes the data set's own error.

        Raises
        ------
        DataSetError
            It is not there, is no plain file, lies elsewhere, or is not what it should be.
        """
        with self.reading(), os.fdopen(self._descriptor(), "rb") as file:
            yield file

    def entries(self, *, folders: bool = False) -> tuple[str, ...]:
        """Return the names of what is in the folder, or of its `folders` alone, in order; hidden ones are left out.

        Raises
        ------
        DataSetError
            It cannot be listed, or lies elsewhere.
        """
        with self.reading():
            found = self._walked(self._parts(), _FOLDER)
            try:
                with os.scandir(found) as entries:
                    kept = [
                        each.name
                        for each in entries
                        if not each.name.startswith(".") and (not folders or each.is_dir(follow_symlinks=False))
                    ]
            finally:
                os.close(found)
        return tuple(sorted(kept))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what libraries raise on files that they cannot read into the data set's own error."""
        try:
            yield
        except DataSetError as error:
            if Path(str(self)).name in str(error):
                raise
            raise DataSetError(f"{self}: {error}") from error
        except UnicodeDecodeError as error:
            raise DataSetError(f"{self} must be UTF-8 text; it is not.") from error
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else "it is damaged"
            raise DataSetError(f"{self} cannot be read: {cause}.") from error
        except _UNREADABLE as error:
            raise DataSetError(f"{self} is damaged, or not what its name says it is.") from error

    def _descriptor(self) -> int:
        parts = self._parts()
        plain = (self.folder / self.name).is_file()
        found = self._walked(parts, _FILE) if parts and plain else -1
        if found >= 0 and stat.S_ISREG(os.fstat(found).st_mode):
            return found
        if found >= 0:
            os.close(found)
        raise DataSetError(f"{self} is not a plain file; it must be one, or be taken away.")

    def _parts(self) -> tuple[str, ...]:
        """Return the way from the folder once all links are followed."""
        if "\0" in self.name:
            raise DataSetError(f"{self} is no name of a file.")
        try:
            root = self.folder.resolve(strict=True)
            real = (root / self.name).resolve(strict=True)
        except RuntimeError as error:
            raise DataSetError(f"{self} cannot be read: its links lead in a circle.") from error
        if not real.is_relative_to(root):
            raise DataSetError(f"{self} leads out of the data set's folder; put the file itself there.")
        return real.relative_to(root).parts

    def _walked(self, parts: tuple[str, ...], flags: int) -> int:
        here = os.open(self.folder.resolve(strict=True), _FOLDER)
        for number, part in enumerate(parts):
            try:
                inner = os.open(part, flags if number + 1 == len(parts) else _FOLDER, dir_fd=here)
            finally:
                os.close(here)
            here = inner
        return here
