"""Where the command writes to, checked before anything is computed for it."""

import os
from importlib.util import find_spec
from pathlib import Path

from pellucid.errors import PellucidError, invalid

_PICTURES = (".png", ".jpg", ".pdf", ".svg")


def check_picture_file(path: Path | None, option: str = "--out") -> None:
    """See that a picture can be drawn and written there; None needs nothing.

    Raises
    ------
    InvalidRequestError
        The ending is no picture's, or a file cannot be made there.
    PellucidError
        What draws is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in _PICTURES:
        raise invalid(option, f"is {str(path)!r}; it must end in one of {', '.join(_PICTURES)}")
    _check_file(option, path)
    _check_drawing()


def check_array_file(path: Path | None) -> None:
    """See that arrays can be written there; None needs nothing.

    Raises
    ------
    InvalidRequestError
        A file cannot be made there.
    """
    check_file(path, "--npz")


def check_file(path: Path | None, option: str) -> None:
    """See that a file can be written there; None needs nothing.

    Raises
    ------
    InvalidRequestError
        A file cannot be made there.
    """
    if path is not None:
        _check_file(option, path)


def make_picture_folder(path: Path) -> None:
    """Make a folder for pictures where there is none.

    Raises
    ------
    InvalidRequestError
        There cannot be such a folder, or nothing may be written to it.
    PellucidError
        What draws is not installed.
    """
    _check_drawing()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid("--out", f"is {str(path)!r}, where no folder can be made") from error
    _check_writable("--out", path, path)


def _check_file(option: str, path: Path) -> None:
    if path.is_dir():
        raise invalid(option, f"is {str(path)!r}, which is a folder; it must be a file")
    if not path.parent.is_dir():
        raise invalid(option, f"is {str(path)!r}, but there is no folder {str(path.parent)!r}; make it first")
    _check_writable(option, path, path if path.exists() else path.parent)


def _check_writable(option: str, path: Path, place: Path) -> None:
    if not os.access(place, os.W_OK):
        raise invalid(option, f"is {str(path)!r}, where nothing may be written")


def _check_drawing() -> None:
    if find_spec("matplotlib") is None or find_spec("PIL") is None:
        raise PellucidError("Pictures need matplotlib and Pillow: pip install 'pellucid[plot]'")
