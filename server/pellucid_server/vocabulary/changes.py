"""What the front and a worker say to each other when models change while they are served.

A change has two steps. `Prepare` loads a version beside those that are served, and `Adopt` serves it from then on.
The front adopts once every worker has it, so that none serves what another does not.
"""

from dataclasses import dataclass

from pellucid_server.vocabulary.descriptions import BrokenModel, Verdict


@dataclass(frozen=True, slots=True)
class Prepare:
    """Front to worker: load this version, if its files differ from those it was loaded from, and keep it ready."""

    change: int
    name: str
    version: int
    tried: Verdict | None = None
    """What another worker found of the same files; None to try them out."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Worker to front: the version is ready to be adopted, or `verdict.reason` says why not."""

    change: int
    verdict: Verdict
    digest: str = ""
    """Of the version; empty if it is not ready."""
    loaded: bool = False
    """Whether it was loaded; not if the version served has the same digest already."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Front to worker: serve what `change` prepared, and neither of `removed` any more; `ModelsChanged` answers.

    Requests that came before this are done on the models of before.
    """

    change: int
    kept: bool = True
    """Whether what was prepared is served; otherwise it is dropped."""
    removed: tuple[tuple[str, int], ...] = ()
    """Names and versions."""
    broken: tuple[BrokenModel, ...] = ()
    """All models that could not be loaded, in place of those known before."""
