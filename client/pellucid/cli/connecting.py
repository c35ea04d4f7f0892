"""How the command connects: options before the subcommand, which all of them share."""

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


@dataclass(frozen=True, slots=True)
class Connection:
    """What every client of the command is made with."""

    tls: bool | None = None
    root_certificates: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    token: str | Path | None = None
    allow_plain_token: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return them by the client's names."""
        return {name: getattr(self, name) for name in self.__slots__}


_CHOSEN: ContextVar[Connection | None] = ContextVar("chosen", default=None)


def connection() -> Connection:
    """Return what the command's options say."""
    return _CHOSEN.get() or Connection()


def connect_by(
    tls: Annotated[
        bool, typer.Option("--tls", envvar="PELLUCID_USE_TLS", help="Encrypt, and check the server's certificate.")
    ] = False,
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            envvar="PELLUCID_ROOT_CERTIFICATES",
            help="The authorities that the server's certificate must come from.",
            show_default=False,
        ),
    ] = None,
    client_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            envvar="PELLUCID_CLIENT_CERTIFICATE",
            help="For a server that asks for one.",
            show_default=False,
        ),
    ] = None,
    client_key: Annotated[
        Path | None, typer.Option(metavar="PEM", envvar="PELLUCID_CLIENT_KEY", help="Its key.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="PELLUCID_TOKEN_FILE",
            help="A bearer token; the variable PELLUCID_TOKEN may hold the token itself.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[str | None, typer.Option(envvar="PELLUCID_TOKEN", hidden=True)] = None,
    allow_plain_token: Annotated[
        bool,
        typer.Option(
            "--allow-plain-token",
            envvar="PELLUCID_ALLOW_PLAIN_TOKEN",
            help="Send it to another machine without TLS; where something else encrypts.",
        ),
    ] = False,
) -> None:
    """Ask a Pellucid server for predictions, what they were based on, and what is inside a model."""
    chosen = Connection(
        tls=True if tls else None,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
        client_key=client_key,
        token=token_file or token,
        allow_plain_token=allow_plain_token,
    )
    _CHOSEN.set(chosen)
