"""Prints the pins of everything that the project needs, as installed beside it: what `constraints.txt` holds.

Packages that torch itself pins for CUDA are left out, so that the file does for machines with and without.
"""

import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "pellucid[server,cli,demo,test,check,deploy-check]"
_OF_THE_PLATFORM = ("nvidia-", "cuda-", "triton")
_OURS = {"tritonclient"}


def pins(requirement: Requirement) -> dict[str, str]:
    """Return the installed version of whatever `requirement` needs in turn, by name."""
    found: dict[str, str] = {}
    waiting = [requirement]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        entry = waiting.pop()
        name = canonicalize_name(entry.name)
        if (name, frozenset(entry.extras)) in seen or (name.startswith(_OF_THE_PLATFORM) and name not in _OURS):
            continue
        seen.add((name, frozenset(entry.extras)))
        distribution = metadata.distribution(name)
        # "2.13.0+cpu" is one of several builds of 2.13.0.
        found[name] = distribution.version.partition("+")[0]
        waiting.extend(_needs(distribution, entry.extras))
    return found


def _needs(distribution: metadata.Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        wanted = ({"extra": extra} for extra in ("", *extras))
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in wanted):
            yield requirement


def main() -> None:
    """Print a pin a line, by name."""
    project = Requirement(PROJECT)
    for name, version in sorted(pins(project).items()):
        if name != project.name:
            sys.stdout.write(f"{name}=={version}\n")


if __name__ == "__main__":
    main()
