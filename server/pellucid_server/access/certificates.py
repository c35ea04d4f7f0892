"""The server's certificate and key, and the authorities of its clients, read from files and checked before use."""

import binascii
import os
import re
import ssl
import time
from calendar import timegm
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pellucid_server.access.watched import Contents, UnusableFileError

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_WHOLE = re.compile(_BEGIN + rb"(.*?)" + _END, re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18
_TIME = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server shows, and what it checks its clients' certificates by; all PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    """The authorities of clients' certificates; None asks clients for none."""
    chain_expires: float
    """When the first certificate of the chain expires, in seconds since 1970."""
    client_ca_expires: float | None
    """When the last of the authorities expires."""


def certificates_reader(certificate: Path, key: Path, client_ca: Path | None) -> Callable[[Contents], Certificates]:
    """Return a function that makes `Certificates` of these files' contents, or raises `UnusableFileError`."""

    def read(contents: Contents) -> Certificates:
        chain, secret = contents[certificate], contents[key]
        chain_ends = _ends(chain, certificate)
        _check_pair(chain, secret, certificate, key)
        if min(chain_ends) <= time.time():
            raise UnusableFileError(f"{certificate} expired on {_date(min(chain_ends))}; renew it")
        if client_ca is None:
            return Certificates(chain, secret, None, min(chain_ends), None)
        authorities = contents[client_ca]
        ca_ends = _ends(authorities, client_ca)
        _check_authorities(authorities, client_ca)
        return Certificates(chain, secret, authorities, min(chain_ends), max(ca_ends))

    return read


def _ends(pem: bytes, path: Path) -> list[float]:
    """Return when each certificate of a file expires."""
    whole = _WHOLE.findall(pem)
    if not whole or pem.count(_BEGIN) != len(whole) or pem.count(_END) != len(whole):
        raise UnusableFileError(f"{path} must hold certificates in PEM, each whole; is it still being written?")
    try:
        return [_not_after(binascii.a2b_base64(each)) for each in whole]
    except (ValueError, IndexError) as error:
        raise UnusableFileError(f"{path} holds a certificate that cannot be read") from error


def _check_pair(chain: bytes, key: bytes, chain_path: Path, key_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _in_memory(chain) as chain_file, _in_memory(key) as key_file:
            # With a password OpenSSL does not ask for one at a terminal.
            context.load_cert_chain(chain_file, key_file, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        text = f"the key in {key_path} cannot be read, is encrypted, or is not that of the certificate in {chain_path}"
        raise UnusableFileError(text) from error


def _check_authorities(pem: bytes, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableFileError(f"{path} holds a certificate that cannot be read") from error


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Give a path to bytes that are in no file system: OpenSSL's checks take files, and a key is in one already."""
    descriptor = os.memfd_create("pellucid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _not_after(der: bytes) -> float:
    """Return when a certificate expires: the second time of `validity`, the fifth part of what is signed (RFC 5280).

    Raises
    ------
    ValueError, IndexError
        It is no certificate.
    """
    _, certificate, _ = _element(der)
    _, signed, _ = _element(certificate)
    tag, _, rest = _element(signed)
    if tag == 0xA0:
        # The version, which version 1 leaves out; then the serial number.
        _, _, rest = _element(rest)
    for _ in ("algorithm", "issuer"):
        _, _, rest = _element(rest)
    tag, validity, _ = _element(rest)
    if tag != _SEQUENCE:
        raise ValueError("no validity")
    _, _, rest = _element(validity)
    tag, text, _ = _element(rest)
    if tag not in _TIME:
        raise ValueError("no time")
    return float(timegm(time.strptime(text.decode("ascii"), _TIME[tag])))


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and the contents of the first element, and what follows it."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if len(der) < start + length:
        raise ValueError("cut short")
    return tag, der[start : start + length], der[start + length :]


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
