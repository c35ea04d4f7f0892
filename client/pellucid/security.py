"""TLS and tokens: what a client shows, and what it checks, before it sends anything."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from pellucid.checks import checked_flag
from pellucid.errors import invalid

TOKEN_KEY = "authorization"  # noqa: S105 - where tokens are
"""Metadata key of a token, as `Bearer TOKEN`."""

Pem = str | Path | bytes
"""A PEM file's path, or its bytes."""

_MOST_BYTES = 8 << 20
_TOKEN = re.compile(r"[!-~]{1,4000}")
_SCHEME = re.compile(r"(dns:///|dns:|passthrough:///|ipv4:|ipv6:)")


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, or the file that it is in, which is read for each call: tokens in files are renewed."""

    given: str | Path

    def header(self) -> tuple[str, str]:
        """Return the entry of a call's metadata.

        Raises
        ------
        InvalidRequestError
            The file cannot be read, or holds no token.
        """
        if isinstance(self.given, str):
            text = self.given
        else:
            text = _read(self.given, "token").decode("ascii", "replace").strip()
            if not _TOKEN.fullmatch(text):
                raise invalid("token", f"is the file {self.given}, which does not hold one line, the token")
        return (TOKEN_KEY, f"Bearer {text}")

    def __repr__(self) -> str:
        """Keep the token to itself."""
        return "Token(...)"


def read_token(token: str | Path | None) -> Token | None:
    """Check a token; what is wrong with it is said without it.

    Raises
    ------
    InvalidRequestError
        It is none, or a file that holds none.
    """
    if token is None:
        return None
    if isinstance(token, Path):
        Token(token).header()
    elif not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise invalid("token", "must be a text of printable characters of ASCII without spaces, or a file's Path")
    return Token(token)


def read_credentials(
    *,
    credentials: grpc.ChannelCredentials | None,
    tls: bool | None,
    root_certificates: Pem | None,
    client_certificate: Pem | None,
    client_key: Pem | None,
) -> grpc.ChannelCredentials | None:
    """Return the credentials of a channel, or None for a plain one.

    Raises
    ------
    InvalidRequestError
        They contradict one another, or a file cannot be read.
    """
    parts = {
        "root_certificates": root_certificates,
        "client_certificate": client_certificate,
        "client_key": client_key,
    }
    given = [name for name, value in parts.items() if value is not None]
    wanted = bool(given) if tls is None else checked_flag(tls, "tls")
    if credentials is not None:
        if given or tls is not None:
            raise invalid("credentials", f"is given beside {', '.join([*given, 'tls'][:1])}; give one or the other")
        return credentials
    if given and not wanted:
        raise invalid(given[0], "is given, but tls is False")
    if (client_certificate is None) != (client_key is None):
        raise invalid("client_certificate", "and client_key go together; give both, or neither")
    if not wanted:
        return None
    read = {name: None if value is None else _pem(value, name) for name, value in parts.items()}
    return grpc.ssl_channel_credentials(read["root_certificates"], read["client_key"], read["client_certificate"])


def check_secret(address: str, *, secret: bool, encrypted: bool, allowed: Any) -> None:
    """See to it that nothing secret goes over a connection that others can read.

    Raises
    ------
    InvalidRequestError
        A token would go to another machine over a plain connection, and that is not allowed.
    """
    if not secret or encrypted or checked_flag(allowed, "allow_plain_token") or is_loopback(address):
        return
    what = f"would go to {address} over a plain connection, where others can read it; use tls=True or, if something"
    raise invalid("token", f"{what} else encrypts the connection, allow_plain_token=True")


def is_loopback(address: str) -> bool:
    """Tell whether an address is surely this machine's own."""
    target = _SCHEME.sub("", address, count=1)
    if target.startswith("unix:"):
        return True
    host = re.sub(r":\d+$", "", target) if target.count(":") == 1 or target.startswith("[") else target
    host = host.strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pem(value: Any, where: str) -> bytes:
    if not isinstance(value, str | Path | bytes):
        raise invalid(where, f"is of type {type(value).__name__}; it must be a PEM file's path, or its bytes")
    data = value if isinstance(value, bytes) else _read(Path(value), where)
    if b"-----BEGIN " not in data:
        raise invalid(where, "is not in PEM format, which has lines such as -----BEGIN CERTIFICATE-----")
    return data


def _read(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "that is no path"
        raise invalid(where, f"is the file {path}, which cannot be read: {reason}") from error
