"""A look at a model repository: which versions it has, and by what their files can be told from those of before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pellucid_server.model_files.listing import contents
from pellucid_server.model_files.plain_files import beside_versions, fingerprint
from pellucid_server.model_files.reasons import Reasons

Key = tuple[str, int]
"""A model's name, and a version."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was there at one look.

    Attributes
    ----------
    versions
        The fingerprint of each version's files, by name and number.
    broken
        Why a model's folder is none that can be served, by name, as callers read it.
    """

    versions: Mapping[Key, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)


def look(repository: Path) -> Sight:
    """Look at a repository; no file is opened.

    Raises
    ------
    ModelError
        It is no folder, cannot be listed, or has no models at all.
    """
    found, reasons = contents(repository), Reasons(repository)
    beside = {folder: beside_versions(folder) for folder in {each.folder.parent for each in found.versions}}
    return Sight(
        {(each.name, each.number): fingerprint(each.folder, beside[each.folder.parent]) for each in found.versions},
        {each.name: reasons.of(each.message) for each in found.broken},
    )
