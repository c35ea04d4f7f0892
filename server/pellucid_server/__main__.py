"""The `pellucid-server` command: reads the settings and serves until it is told to stop."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid_server import logs, token_command
from pellucid_server.app import StartError, serve
from pellucid_server.check import command as check_command
from pellucid_server.config import Config, ConfigError, load
from pellucid_server.pool.workers.launcher import WORKER_COMMAND
from pellucid_server.pool.workers.process import WorkerStartError
from pellucid_server.processes import name_process

_NOT_STARTED = 1
_NOT_CONFIGURED = 2


def main(arguments: Sequence[str] | None = None, *, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Run the server.

    Returns
    -------
    int
        The exit status: 0 after a clean stop, 1 if the server could not start, 2 for wrong settings, and 128 and the
        number of a second signal that cut its stop short.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [token_command.COMMAND]:
        return token_command.main(arguments[1:])
    if arguments[:1] == [check_command.COMMAND]:
        return check_command.main(arguments[1:], worker_command=worker_command)
    options = _parser().parse_args(arguments)
    try:
        config = load(options.config, _overrides(options))
    except ConfigError as error:
        return _give_up(str(error), _NOT_CONFIGURED)
    return _serve(config, options.ready_file, worker_command)


def _serve(config: Config, ready_file: Path | None, worker_command: Sequence[str]) -> int:
    name_process("pellucid-server")
    logs.set_up(config.logging)
    try:
        return asyncio.run(serve(config, ready_file=ready_file, worker_command=worker_command))
    except (StartError, WorkerStartError) as error:
        return _give_up(str(error), _NOT_STARTED)


def _give_up(message: str, status: int) -> int:
    sys.stderr.write(f"pellucid-server: {message}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pellucid-server",
        description="Serve the models of a folder over gRPC, with explanations.",
        epilog="Options win over PELLUCID_ environment variables, and those over the settings file. "
        "`pellucid-server check` says what would be served, and `pellucid-server token` makes a token for a caller.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings (or PELLUCID_CONFIG)")
    parser.add_argument("--models", metavar="DIR", help="the model repository")
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="gRPC port; 0 takes a free one")
    parser.add_argument("--metrics-port", type=int, help="port of the metrics page; 0 takes a free one, -1 serves none")
    parser.add_argument("--health-port", type=int, help="port of the plain health check; 0 takes a free one, -1 none")
    parser.add_argument("--devices", help='workers, for example "cpu" or "cuda:0,cuda:1"')
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="written as JSON when requests are taken")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    given = {
        "server": {
            "host": options.host,
            "port": options.port,
            "metrics_port": options.metrics_port,
            "health_port": options.health_port,
        },
        "models": {"repository": options.models},
        "pool": {"devices": options.devices},
    }
    chosen = {
        section: {name: value for name, value in entries.items() if value is not None}
        for section, entries in given.items()
    }
    return {section: entries for section, entries in chosen.items() if entries}


if __name__ == "__main__":
    sys.exit(main())
