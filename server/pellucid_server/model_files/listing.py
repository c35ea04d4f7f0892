"""What there is in a model repository, by the names of its folders: no file is looked into."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pellucid_server.model_files.plain_files import shown

GRAPH_FILE, ONNX_FILE, MANIFEST = "model.pt2", "model.onnx", "model.toml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SERVICES = re.compile(r"(pellucid|grpc)\..*")
"""What gRPC's health check calls services by, beside models."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class ModelError(Exception):
    """A repository or a model in it that cannot be served; the message names the path, and what would be right."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model, at `folder`: nothing in it has been looked at."""

    folder: Path
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A model, or one version of it, that cannot be served; `number` is 0 for the whole model."""

    name: str
    number: int
    message: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a repository, by name, then version; `others` are neither models nor hidden."""

    versions: tuple[Version, ...]
    broken: tuple[Broken, ...]
    others: tuple[Path, ...]


def contents(repository: Path, *, only: Collection[tuple[str, int]] | None = None) -> Contents:
    """List what a repository has, without a look into any file.

    A folder is a model's if it has a `model.toml`, or a folder called by a version's number. Hidden ones are not. With
    `only`, versions that are not in it, by name and number, are left out.

    Raises
    ------
    ModelError
        The repository is no folder, cannot be listed, or has no models at all.
    """
    if not repository.is_dir():
        raise ModelError(
            f"{shown(repository)} is not a folder; it must be the model repository, with a folder for each model."
        )
    versions: list[Version] = []
    broken: list[Broken] = []
    others: list[Path] = []
    try:
        paths = sorted(path for path in repository.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ModelError(f"{shown(repository)} cannot be listed: {error.strerror}.") from error
    for path in paths:
        try:
            numbers = _version_numbers(path)
        except OSError as error:
            # Such as lost+found, which only the system's administrator can list.
            if _NAME.fullmatch(path.name):
                broken.append(Broken(path.name, 0, f"{shown(path)} cannot be listed: {error.strerror}."))
            else:
                others.append(path)
            continue
        if numbers is None:
            others.append(path)
        elif (wrong := _wrong(path, numbers)) is not None:
            broken.append(Broken(shown(Path(path.name)), 0, wrong))
        else:
            versions.extend(Version(path / str(number), path.name, number) for number in numbers)
    if not versions and not broken:
        raise ModelError(f"{shown(repository)} has no models; it needs NAME/model.toml and NAME/1/model.pt2 for each.")
    wanted = versions if only is None else [each for each in versions if (each.name, each.number) in only]
    return Contents(tuple(wanted), tuple(broken), tuple(others))


def _version_numbers(path: Path) -> list[int] | None:
    """Return the versions in a folder, in order; None if it is no model's."""
    if not path.is_dir():
        return None
    numbers = sorted(int(each.name) for each in path.iterdir() if _VERSION.fullmatch(each.name) and each.is_dir())
    manifest = path / MANIFEST
    return numbers if numbers or manifest.exists() or manifest.is_symlink() else None


def _wrong(path: Path, numbers: list[int]) -> str | None:
    """Say what is wrong with a model's folder as such, or None."""
    manifest = path / MANIFEST
    if not _NAME.fullmatch(path.name):
        return (
            f"{shown(path)}: a model's name must be letters, digits, '.', '_' and '-', a letter or digit first, 128 at "
            "most."
        )
    if _SERVICES.fullmatch(path.name):
        return f"{shown(path)}: a model's name must not begin as those of services do, with 'pellucid.' or 'grpc.'."
    if not (manifest.exists() or manifest.is_symlink()):
        return f"{shown(path)} has no {MANIFEST}; every model must have one, even if it is empty."
    if not numbers:
        return f"{shown(path)} has no version; put the model's file into {shown(path / '1' / GRAPH_FILE)}."
    return None
