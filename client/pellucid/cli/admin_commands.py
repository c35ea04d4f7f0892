"""The subcommands of `pellucid admin`: which models a server has loaded, and changing that."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from pellucid.admin import DEFAULT_ADDRESS, AdminClient, Versions
from pellucid.cli.asking import JsonOption, exit_code, fail, print_json, terminal
from pellucid.cli.connecting import connection
from pellucid.cli.tables import show_table
from pellucid.errors import PellucidError

admin = typer.Typer(
    help="Load and unload a server's models, over its admin port.", no_args_is_help=True, rich_markup_mode=None
)

_AddressOption = Annotated[
    str, typer.Option("--address", envvar="PELLUCID_ADMIN_ADDRESS", help="The server's admin port, HOST:PORT.")
]
_TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", min=0.001, help="Deadline in seconds.", show_default="30, and 300 to load")
]
_NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
_VersionOption = Annotated[int, typer.Option("--version", min=0, help="The version; 0 for all of the model.")]
_DigestOption = Annotated[
    str, typer.Option("--digest", help="What the version must have, 64 hexadecimal digits.", show_default=False)
]


@admin.command("list")
def list_versions(
    name: Annotated[str, typer.Argument(metavar="[MODEL]", help="The model's name.", show_default=False)] = "",
    address: _AddressOption = DEFAULT_ADDRESS,
    timeout: _TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions in the server's repository, and what they are at."""
    with _asking(address, timeout) as client:
        _show(client.versions(name), as_json=as_json)


@admin.command()
def load(
    name: _NameArgument,
    version: _VersionOption = 0,
    digest: _DigestOption = "",
    address: _AddressOption = DEFAULT_ADDRESS,
    timeout: _TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model from its files as they are now, and serve it. If that fails, what was served before still is."""
    with _asking(address, timeout) as client:
        _show(client.load(name, version=version, digest=digest), as_json=as_json)


@admin.command()
def unload(
    name: _NameArgument,
    version: _VersionOption = 0,
    digest: _DigestOption = "",
    address: _AddressOption = DEFAULT_ADDRESS,
    timeout: _TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model out of service until it is loaded again, or the server is restarted."""
    with _asking(address, timeout) as client:
        _show(client.unload(name, version=version, digest=digest), as_json=as_json)


@contextmanager
def _asking(address: str, timeout: float | None) -> Iterator[AdminClient]:
    try:
        with AdminClient(address, timeout=timeout, wait_for_ready=False, **connection().arguments()) as client:
            yield client
    except PellucidError as error:
        fail(str(error), exit_code(error))


def _show(versions: Versions, *, as_json: bool) -> None:
    if as_json:
        print_json([each.to_dict() for each in versions])
        return
    rows = [
        [
            each.name,
            str(each.version or ""),
            each.state + (", files changed" if each.pending and each.state != "new" else ""),
            each.key.digest[:12],
            each.reason,
        ]
        for each in versions
    ]
    show_table(terminal(), ["model", "version", "state", "digest", "reason"], rows)
