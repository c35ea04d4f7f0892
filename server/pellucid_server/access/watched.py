"""Files that are read anew when they change, while what was read before stays in force if the new ones are unusable."""

import asyncio
import logging
import os
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
        self._tried: Contents | str = ""
        self._in_force: Contents = {}
        self.value: Read = self._first()
        """What was read last without fault."""
        self.stale = False
        """Whether the files are others than those that `value` was read from, and cannot be used."""

    def _first(self) -> Read:
        contents = contents_of(self._paths)
        value = self._read(contents)
        self._tried = self._in_force = contents
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
        """Read the files again if they have changed.

        Files that are found half written, or of which one is new and another not yet, are unusable until the next look.
        """
        try:
            contents = await asyncio.get_running_loop().run_in_executor(None, contents_of, self._paths)
        except UnusableFileError as error:
            self._refuse(str(error), str(error))
            return
        if contents == self._tried:
            return
        if contents == self._in_force:
            self._tried, self.stale = contents, False
            _log.info("%s is as before again", self._what)
            return
        try:
            value = self._read(contents)
        except UnusableFileError as error:
            self._refuse(contents, str(error))
            return
        self.value, self.stale = value, False
        self._tried = self._in_force = contents
        _log.info("%s has changed and was read again", self._what)

    def _refuse(self, tried: Contents | str, reason: str) -> None:
        """Note what cannot be used, once for each state of the files."""
        if tried != self._tried:
            _log.error(
                "%s has changed and cannot be used, so what was read before stays in force: %s", self._what, reason
            )
        self._tried, self.stale = tried, True


def contents_of(paths: tuple[Path, ...]) -> Contents:
    """Read files whole.

    Raises
    ------
    UnusableFileError
        One cannot be read, or is far larger than any of its kind.
    """
    found: dict[Path, bytes] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                found[path] = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise UnusableFileError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
        if len(found[path]) > _MOST_BYTES:
            raise UnusableFileError(f"{path} has more than {_MOST_BYTES >> 20} MiB")
    return found
