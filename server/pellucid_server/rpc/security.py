"""TLS and access put together: read at the start, looked at again while the server runs."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from pellucid_server.access.access_file import read_policy
from pellucid_server.access.certificates import Certificates, certificates_reader
from pellucid_server.access.policy import Policy
from pellucid_server.access.quotas import Quotas
from pellucid_server.access.watched import Contents, UnusableFileError, Watched, contents_of
from pellucid_server.rpc.gate import Gate
from pellucid_server.rpc.sealing import SealedWorkers
from pellucid_server.rpc.service import Workers
from pellucid_server.settings.security import AccessConfig, TlsConfig

_log = logging.getLogger(__name__)

_LEAST_KEY_BYTES = 16

_LOOPBACK = ("127.", "localhost", "[::1]", "::1", "unix:")


class Security:
    """The certificates and the policy in force.

    Parameters
    ----------
    on_quota
        Called with the name of an identity and of its quota when a request is refused for that.
    """

    def __init__(self, tls: TlsConfig, access: AccessConfig, on_quota: Callable[[str, str], None]) -> None:
        self._tls_config = tls
        self._access_config = access
        self._tls: Watched[Certificates] | None = None
        self._access: Watched[Policy] | None = None
        self._watching: list[asyncio.Task[None]] = []
        self.gate = Gate(lambda: self.policy, Quotas(on_refusal=on_quota))
        """Who may ask what."""

        self.digest_key = b""
        """What digests of rows in receipts are keyed by; empty for plain ones."""

    @property
    def policy(self) -> Policy | None:
        """The policy in force; None lets everyone ask everything."""
        return None if self._access is None else self._access.value

    @property
    def certificates(self) -> Certificates | None:
        """The certificates in use; None is no TLS."""
        return None if self._tls is None else self._tls.value

    def stale(self) -> Mapping[str, bool]:
        """Tell which files have changed and cannot be used."""
        watched: dict[str, Watched[Certificates] | Watched[Policy] | None] = {"tls": self._tls, "access": self._access}
        return {name: each.stale for name, each in watched.items() if each is not None}

    def load(self, host: str) -> None:
        """Read all files, and look at them from now on until `close`.

        Raises
        ------
        UnusableFileError
            One cannot be used.
        """
        tls, access = self._tls_config, self._access_config
        if access.digest_key_file is not None:
            self.digest_key = _key(access.digest_key_file)
        if tls.certificate is not None and tls.key is not None:
            read = certificates_reader(tls.certificate, tls.key, tls.client_ca)
            self._tls = Watched("the server's certificate (tls)", tls.paths, read)
            self._watching.append(asyncio.create_task(self._tls.watch(tls.poll_seconds)))
        if access.file is not None:
            path = access.file
            self._access = Watched("the access file (access.file)", (path,), _policy_reader(path))
            self._watching.append(asyncio.create_task(self._access.watch(access.poll_seconds)))
            if self._tls is None and not host.startswith(_LOOPBACK):
                _log.warning("tokens come over the network unencrypted, unless something before this server has TLS")
        elif not host.startswith(_LOOPBACK):
            _log.warning("everyone who reaches this server may ask it everything: access.file is not set")

    def credentials(self) -> grpc.ServerCredentials | None:
        """Return what the server's port is opened with; new connections always use the certificates in force."""
        if self._tls is None:
            return None
        watched, used = self._tls, self._tls.value

        def renewed() -> Any:
            # gRPC asks at each new connection, on a thread of its own; None stands for what it had last.
            nonlocal used
            if watched.value is used:
                return None
            used = watched.value
            return _configuration(used)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(used), renewed, require_client_authentication=used.client_ca is not None
        )

    def sealed(self, workers: Workers) -> Workers:
        """Return workers whose answers have keyed digests, if there is a key."""
        return SealedWorkers(workers, self.digest_key) if self.digest_key else workers

    def close(self) -> None:
        """Look at the files no more."""
        for each in self._watching:
            each.cancel()


def _policy_reader(path: Path) -> Callable[[Contents], Policy]:
    def read(contents: Contents) -> Policy:
        try:
            return read_policy(contents[path])
        except UnusableFileError as error:
            raise UnusableFileError(f"{path}: {error}") from error

    return read


def _key(path: Path) -> bytes:
    """Read a secret; a line's end behind it is no part of it."""
    key = contents_of((path,))[path].rstrip(b"\r\n")
    if len(key) < _LEAST_KEY_BYTES:
        raise UnusableFileError(f"{path} must hold a secret of {_LEAST_KEY_BYTES} bytes or more")
    return key


def _configuration(found: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], root_certificates=found.client_ca)
