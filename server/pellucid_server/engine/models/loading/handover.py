"""What the process that tries a version out hands to the one that loads it: the ONNX file, read and checked.

It lies in memory that has no name and is closed to changes once the other process has ended. So what is served is what
was tried out, to the byte.
"""

import fcntl
import os
import tempfile
from typing import Self

from pellucid_server.engine.models.onnx.ready import ReadyFile

_SEALS = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
"""Whether memory can be closed to changes; Linux can. Elsewhere it is a file that has lost its name."""


class Handover:
    """A place for it, as a context in which it may be filled; what was taken from it stays valid afterwards."""

    def __init__(self) -> None:
        if _SEALS:
            self.descriptor = os.memfd_create("pellucid-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def take(self) -> tuple[ReadyFile, str] | None:
        """Return what was written, and the digest of the version it was made of; None if nothing was."""
        if _SEALS:
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        return ReadyFile.read(self.descriptor)
