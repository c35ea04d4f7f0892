"""Messages about a repository's files as callers read them."""

from pathlib import Path

from pellucid_server.model_files.plain_files import shown

_MOST_BYTES = 640
"""Of a reason that callers read: with what goes before it, it fits a status."""


class Reasons:
    """Writes messages without the place of the repository, in one line of a bounded length."""

    def __init__(self, repository: Path) -> None:
        # As it was given, and where its links lead.
        names = dict.fromkeys(str(path) for path in (repository, repository.resolve()))
        self._prefixes = tuple(f"{shown(Path(each))}/" for each in names)

    def of(self, message: str) -> str:
        """Return a message for callers."""
        for prefix in self._prefixes:
            message = message.replace(prefix, "")
        line = " ".join(message.split()).encode("utf-8", "backslashreplace")
        if len(line) > _MOST_BYTES:
            line = line[: _MOST_BYTES - 3] + "…".encode()
        return line.decode("utf-8", "ignore")
