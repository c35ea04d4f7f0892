"""Files that are read anew when they change, while what was read before stays in force if the new ones are unusable."""

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

_MOST_BYTES = 8 << 20

Contents = Mapping[Path, bytes]
Read = TypeVar("Read")


class UnusableFileError(Exception):
    """Files cannot be used; the message says why, without what is secret in them."""


class Watched(Generic[Read]):
    """What some files say.

    Contents are compared, not times: a volume of Kubernetes swaps a link, and two writes may fall into one tick of a
    file system's clock.

    Parameters
    ----------
    what
        Their name in the log, such as "the access file".
    paths
        The files; all must be there.
    read
        Makes a value of their contents, or raises `UnusableFileError`.
    """

    def __init__(self, what: str, paths: tuple[Path, ...], read: Callable[[Contents], Read]) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._seen: Contents | str = ""
        """What the last look found: contents, or why there are none."""
        self._problem = ""
        """What is wrong with that and not reported yet."""
        self._in_force: Contents = {}
        self.value: Read = self._first()
        """What was read last without fault."""
        self.stale = False
        """Whether the files are others than those that `value` was read from, and cannot be used."""

    def _first(self) -> Read:
        contents = contents_of(self._paths)
        value = self._read(contents)
        self._seen = self._in_force = contents
        return value

    async def watch(self, seconds: float) -> None:
        """Look at the files every so many seconds, for ever."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a bug in one look must not be the end of all
                _log.exception("%s could not be looked at", self._what)

    async def look(self) -> None:
        """Read the files again if they have changed; requests go on meanwhile.

        What cannot be used is reported at the next look if it is still so: files are found half written, or one of a
        pair new and the other not yet.
        """
        try:
            found: Contents | str = await asyncio.to_thread(contents_of, self._paths)
        except UnusableFileError as error:
            found = str(error)
        if found == self._seen:
            self._report()
            return
        self._seen, self._problem = found, ""
        if isinstance(found, str):
            self._problem = found
        elif found == self._in_force:
            self.stale = False
            _log.info("%s is as before again", self._what)
        else:
            await self._take(found)

    async def _take(self, contents: Contents) -> None:
        # A bug in reading is no reason to say that all is well.
        self._problem = "reading it failed"
        try:
            self.value = await asyncio.to_thread(self._read, contents)
        except UnusableFileError as error:
            self._problem = str(error)
            return
        self._problem = ""
        self._in_force, self.stale = contents, False
        _log.info("%s has changed and was read again", self._what)

    def _report(self) -> None:
        """Report what cannot be used, once for each state of the files."""
        if self._problem:
            text = "%s has changed and cannot be used, so what was read before stays in force: %s"
            _log.error(text, self._what, self._problem)
            self._problem, self.stale = "", True


def contents_of(paths: tuple[Path, ...]) -> Contents:
    """Read files whole.

    Raises
    ------
    UnusableFileError
        One is no plain file, cannot be read, or is far larger than any of its kind.
    """
    found: dict[Path, bytes] = {}
    for path in paths:
        try:
            with os.fdopen(_opened(path), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise UnusableFileError(f"{path} is not a plain file")
                found[path] = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise UnusableFileError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
        if len(found[path]) > _MOST_BYTES:
            raise UnusableFileError(f"{path} has more than {_MOST_BYTES >> 20} MiB")
    return found


def _opened(path: Path) -> int:
    """Open a file; a pipe that has no writer would hold its reader for ever, and with it the end of the server."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
