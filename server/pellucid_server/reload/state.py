"""What the front knows of each version: which are served, which could not be loaded, which are held back."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pellucid_server.model_files.sight import Key
from pellucid_server.vocabulary.descriptions import BrokenModel
from pellucid_server.vocabulary.messages import Hello


@dataclass(slots=True)
class State:
    """The versions that all workers are to serve.

    Attributes
    ----------
    known
        The fingerprint of the files by which each version was last acted upon.
    served
        The digest of each version that is served.
    failed
        Why a version's files, or for version 0 a model's folder, could not be loaded. The version may be served as it
        was before.
    unloaded
        Versions that an administrator has taken out of service.
    """

    known: dict[Key, str] = field(default_factory=dict)
    served: dict[Key, str] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)
    unloaded: set[Key] = field(default_factory=set)

    @classmethod
    def of(cls, hello: Hello) -> "State":
        """Return what a worker says that has just started."""
        return cls(
            known={(each.name, each.version): each.fingerprint for each in hello.verdicts},
            served=digests(hello),
            failed={(each.name, each.version): each.reason for each in hello.broken},
        )

    @property
    def broken(self) -> tuple[BrokenModel, ...]:
        """What could not be loaded, by name, then version."""
        return tuple(BrokenModel(*key, self.failed[key]) for key in sorted(self.failed))

    @property
    def versions(self) -> tuple[Key, ...]:
        """What a worker that starts now is to load, as far as it can."""
        wanted = self.served.keys() | self.failed.keys() | self.known.keys()
        return tuple(sorted(key for key in wanted - self.unloaded if key[1]))

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop versions that are served no more."""
        for key in keys:
            self.known.pop(key, None)
            self.served.pop(key, None)
            self.failed.pop(key, None)


def digests(hello: Hello) -> dict[Key, str]:
    """Return the digest of each version that a worker serves."""
    return {(each.key.name, each.key.version): each.key.digest for each in hello.models}
