"""Looks at what the settings name: folders, ports, certificates, the access file."""

import errno
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pellucid_server.access.watched import UnusableFileError
from pellucid_server.check.report import SettingsFound
from pellucid_server.config import Config
from pellucid_server.rpc.security import Security
from pellucid_server.settings.security import AccessConfig, TlsConfig

_EVERYWHERE = {"0.0.0.0", "[::]", "::"}  # noqa: S104 - compared with, not listened on
_SECURITY_LOG = "pellucid_server.rpc.security"


async def check_settings(config: Config, *, ports: bool = True) -> SettingsFound:
    """Say what would keep a server from its start; without `ports`, whether they are free is not looked at."""
    problems = [*_folder_problems(config), *_file_problems(config), *_tracing_problems(config)]
    if ports:
        problems += _port_problems(config)
    warnings = [] if problems else _security_warnings(config)
    return SettingsFound(tuple(problems), tuple(warnings))


def _folder_problems(config: Config) -> Iterator[str]:
    models, datasets = config.models.repository.absolute(), config.models.datasets
    if not models.is_dir():
        yield f"{models} is not a folder; models.repository must be one with a folder for each model."
    elif not os.access(models, os.R_OK | os.X_OK):
        yield f"{models} (models.repository) cannot be listed by this user; give it the right to read and enter."
    if config.models.datasets_are_remote:
        if importlib.util.find_spec("fsspec") is None:
            yield "models.datasets is a URL, for which the server needs fsspec; install pellucid[remote]."
    elif datasets is not None and not Path(datasets).absolute().is_dir():
        yield f"{Path(datasets).absolute()} is not a folder; models.datasets must be one, or be left out."


def _file_problems(config: Config) -> Iterator[str]:
    """Read each kind of file as a server does at its start, and name all that it would stop at."""
    tls, access = config.tls, config.access
    for each_tls, each_access in (
        (tls, AccessConfig()),
        (TlsConfig(), AccessConfig(file=access.file)),
        (TlsConfig(), AccessConfig(digest_key_file=access.digest_key_file)),
    ):
        try:
            _read_security(each_tls, each_access, config.server.host)
        except UnusableFileError as error:
            yield f"{error}."


def _security_warnings(config: Config) -> list[str]:
    try:
        return _read_security(config.tls, config.access, config.server.host)
    except UnusableFileError as error:
        # It was usable a moment ago.
        return [f"{error}."]


def _read_security(tls: TlsConfig, access: AccessConfig, host: str) -> list[str]:
    """Read the files, and return what a server's log would warn of."""
    security = Security(tls, access, lambda identity, quota: None)
    with _collected(_SECURITY_LOG) as said:
        try:
            security.load(host)
        finally:
            security.close()
    return said


@contextmanager
def _collected(name: str) -> Iterator[list[str]]:
    """Take the warnings of a logger, which then go nowhere else."""
    log, said = logging.getLogger(name), list[str]()
    propagates, handler = log.propagate, _Collector(said)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = propagates


class _Collector(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())


def _tracing_problems(config: Config) -> Iterator[str]:
    if config.tracing.endpoint and importlib.util.find_spec("opentelemetry") is None:
        yield "tracing.endpoint is set, and OpenTelemetry is not installed; install the extra, pellucid[tracing]."


def _port_problems(config: Config) -> Iterator[str]:
    server, admin = config.server, config.admin
    wanted = (
        ("server.port", server.host, server.port),
        ("server.metrics_port", server.host, server.metrics_port),
        ("server.health_port", server.host, server.health_port),
        ("admin.port", admin.host, admin.port),
    )
    seen: list[tuple[str, str, int]] = []
    for setting, host, port in wanted:
        if port < 0:
            continue
        same = [name for name, address, number in seen if number == port and _overlap(address, host)]
        if port and same:
            yield f"{setting} and {same[0]} are both {port}; each needs a port of its own."
            continue
        seen.append((setting, host, port))
        problem = _listening_problem(host.strip("[]"), port)
        if problem:
            yield f"Cannot listen on {host}:{port}: {problem}. {setting} sets the port."


def _overlap(first: str, second: str) -> bool:
    """Tell whether one port cannot be had on both addresses."""
    return first == second or not {first, second}.isdisjoint(_EVERYWHERE)


def _listening_problem(host: str, port: int) -> str:
    """Say why a port cannot be had; empty if it can."""
    if host.startswith("unix:"):
        return ""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            # As a server has it: connections that ended a moment ago do not count.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another program listens there; is a server running already? (--skip-ports does not look)"
        return error.strerror or "the address cannot be used"
    return ""
