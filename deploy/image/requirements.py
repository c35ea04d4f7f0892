"""Prints what a flavour of the image installs, a requirement a line, from `pyproject.toml` in the working directory."""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

EXTRAS = {"cpu": ("server", "tracing"), "cuda": ("server-gpu", "tracing")}
"""The project's extras for each flavour of the image."""

_OWN = re.compile(r"pellucid\[([\w,-]+)\]")


def requirements(project: Mapping[str, Sequence[str]], extra: str) -> Iterator[str]:
    """Yield the requirements of an extra, with those of the project's own extras that it names."""
    for requirement in project[extra]:
        if own := _OWN.fullmatch(requirement):
            for name in own[1].split(","):
                yield from requirements(project, name)
        else:
            yield requirement


def main() -> None:
    """Print the requirements of the flavour that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        sys.exit(f"usage: requirements.py {'|'.join(EXTRAS)}")
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    wanted = set(project["dependencies"])
    for extra in EXTRAS[sys.argv[1]]:
        wanted.update(requirements(project["optional-dependencies"], extra))
    sys.stdout.writelines(f"{requirement}\n" for requirement in sorted(wanted))


if __name__ == "__main__":
    main()
