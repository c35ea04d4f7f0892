"""What the subcommands share: options, the client, inputs read off the command line, and how a command ends."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from pellucid.catalogue import Model
from pellucid.cli.connecting import connection
from pellucid.cli.values import once, row_value
from pellucid.client import Client
from pellucid.errors import InvalidRequestError, NotFoundError, PellucidError, UnsupportedError, broken, invalid
from pellucid.receipts import json_text

# The caller's own mistakes, for which another request is the remedy.
_MISTAKES = (InvalidRequestError, NotFoundError, UnsupportedError)

# A table of jobs or methods fits into this; terminals have widths of their own.
_PIPE_COLUMNS = 160

AddressOption = Annotated[
    str, typer.Option(envvar="PELLUCID_ADDRESS", help="The server, HOST:PORT.", show_default=True)
]
CallerOption = Annotated[
    str | None,
    typer.Option(
        envvar="PELLUCID_CALLER", help="On whose behalf; the server is fair between callers.", show_default=False
    ),
]
PriorityOption = Annotated[
    str | None,
    typer.Option(envvar="PELLUCID_PRIORITY", help="The class of the request, such as bulk.", show_default=False),
]
TimeoutOption = Annotated[float | None, typer.Option(min=0.001, help="Deadline in seconds.", show_default="30 or 120")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name; `pellucid models` lists them.")]
FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE...", help="Pictures, one .npy array of rows, or one .csv table.", show_default=False),
]
RowOption = Annotated[
    list[str] | None,
    typer.Option("--row", metavar="COLUMN=VALUE", help="A column of a table's row; once a column.", show_default=False),
]
JsonRowOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table's row, or a list of rows, as JSON; - for stdin.", show_default=False),
]
VersionOption = Annotated[int, typer.Option(min=0, help="The model's version; 0 for the highest.")]
NpzOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the arrays to it.", show_default=False)]


@contextmanager
def asking(
    address: str,
    timeout: float | None,
    *,
    caller: str | None = None,
    priority: str | None = None,
    patient: bool = False,
) -> Iterator[Client]:
    """Give a client; a call that fails ends the command with a line on stderr. `patient` waits for a lost server."""
    try:
        # A person waits at a terminal: a server that is not there is reported within seconds.
        with Client(
            address,
            timeout=timeout,
            caller=caller,
            priority=priority,
            wait_for_ready=patient,
            **connection().arguments(),
        ) as client:
            yield client
    except PellucidError as error:
        fail(str(error), exit_code(error))
    except OSError as error:
        fail(f"{error.filename or 'A file'}: {error.strerror or 'it cannot be read'}.", 1)


def served(client: Client, name: str, version: int) -> Model:
    """Return the description of a model that is to be asked.

    Raises
    ------
    PellucidError
        There is no such model, or the server could not load it.
    """
    model = client.model(name, version=version)
    if model.state == "broken":
        raise broken(model.name, model.version, model.reason)
    return model


def exit_code(error: PellucidError) -> int:
    """Return the command's exit code for an error: 2 for the caller's mistakes, else 1."""
    return 2 if isinstance(error, _MISTAKES) else 1


def fail(message: str, code: int) -> None:
    """End the command with a line on standard error."""
    print(f"Error: {message}", file=sys.stderr)  # noqa: T201 - a command's own words
    raise typer.Exit(code)


def read_inputs(model: Model, files: list[Path] | None, row: list[str] | None, json_row: Path | None) -> Any:
    """Read what is to be sent from the command's arguments.

    Raises
    ------
    InvalidRequestError
        Not exactly one kind of input is given, or it cannot be read.
    """
    given = [what for what, there in (("FILE", files), ("--row", row), ("--json-row", json_row)) if there]
    if len(given) != 1:
        named = " and ".join(given) or "nothing"
        raise invalid("inputs", f"is {named}; give files, or --row for each column, or --json-row")
    if row:
        return once("--row", [row_value(model, each) for each in row])
    if json_row is not None:
        return read_json(json_row)
    paths = files or []
    if len(paths) == 1 and paths[0].suffix == ".npy":
        return read_array(paths[0])
    return paths


def read_json(path: Path, option: str = "--json-row") -> Any:
    """Read JSON off a file, or off standard input where the path is "-".

    Raises
    ------
    InvalidRequestError
        It is none, or an object has a key twice.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        # A name that comes twice would lose a value.
        return json.loads(text, object_pairs_hook=lambda pairs: once(option, pairs))
    except InvalidRequestError:
        raise
    except UnicodeDecodeError as error:
        raise invalid(option, f"{path} is no text in UTF-8; it must be JSON, in UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise invalid(option, f"{path} is no JSON from {place} on; it must be an object or a list of such") from error
    except (ValueError, RecursionError) as error:
        what = "is nested too deep, or has a number of too many digits; it must be an object or a list of such"
        raise invalid(option, f"{path} {what}") from error


def read_array(path: Path, option: str = "FILE") -> Any:
    """Read an array that numpy.save has written.

    Raises
    ------
    InvalidRequestError
        It is none.
    """
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OverflowError, MemoryError) as error:
        # Its head may tell of more elements than there are, or than fit the memory.
        raise invalid(option, f"{path} is no array that numpy.save has written") from error


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays by name into one file."""
    # Opened here, as numpy would add an ending to a path without one.
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def note(message: str) -> None:
    """Say something on standard error that is no failure."""
    print(f"Note: {message}", file=sys.stderr)  # noqa: T201 - a command's own words


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    print(json_text(value))  # noqa: T201 - a command's own words


def terminal() -> Console:
    """Return what tables are printed on: files and pipes have wide lines."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    return console
