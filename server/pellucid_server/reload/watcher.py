"""When files that have changed are whole: what two looks at a repository, one after the other, see alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pellucid_server.model_files.sight import Key, Sight


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since it was last acted upon, and no more since the last look.

    Attributes
    ----------
    load
        Versions that are new or whose files are others, in order.
    gone
        Versions that are there no more.
    broken
        Why models' folders are none that can be served, by name.
    """

    load: tuple[Key, ...] = ()
    gone: tuple[Key, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)


class Watcher:
    """Compares each look with the one before: what both saw alike is taken to be whole."""

    def __init__(self) -> None:
        self._before: Sight | None = None

    def changes(self, sight: Sight, known: Mapping[Key, str]) -> Changes:
        """Take a look in; return what differs from what is known and has not changed since the last look.

        Parameters
        ----------
        known
            The fingerprint by which each version was last acted upon, whatever came of that.
        """
        before, self._before = self._before, sight
        if before is None:
            return Changes()
        load = [key for key, at in sight.versions.items() if before.versions.get(key) == at != known.get(key)]
        # A folder that cannot be listed, or lacks its manifest for a moment, has lost no version.
        unclear = sight.broken.keys() | before.broken.keys()
        there = sight.versions.keys() | before.versions.keys()
        gone = [key for key in known if key not in there and key[0] not in unclear]
        broken = {name: text for name, text in sight.broken.items() if before.broken.get(name) == text}
        return Changes(tuple(sorted(load)), tuple(sorted(gone)), broken)
