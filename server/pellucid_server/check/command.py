"""`pellucid-server check`: says what the settings and the repository would do, before a start."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pellucid_server.check.report import Report, SettingsFound
from pellucid_server.check.repository_check import check_repository
from pellucid_server.check.settings_check import check_settings
from pellucid_server.check.text import text
from pellucid_server.config import Config, ConfigError, load
from pellucid_server.pool.workers.launcher import WORKER_COMMAND

COMMAND = "check"


def main(arguments: Sequence[str], *, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Write what a server would serve to standard output; the worker's log goes to standard error.

    Returns
    -------
    int
        The exit status: 0 if all would be served, 1 if a model or data set is broken, 2 for wrong settings.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    report = asyncio.run(_report(options, worker_command))
    sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n" if options.json else text(report))
    return report.status


async def _report(options: argparse.Namespace, worker_command: Sequence[str]) -> Report:
    try:
        config = _config(options)
    except ConfigError as error:
        return Report(SettingsFound(problems=tuple(str(error).splitlines())))
    settings = await check_settings(config, ports=not options.skip_ports)
    if not config.models.repository.is_dir():
        return Report(settings)
    return Report(settings, await check_repository(config, worker_command))


def _config(options: argparse.Namespace) -> Config:
    return load(options.config, {"models": {"repository": options.models}} if options.models is not None else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"pellucid-server {COMMAND}",
        description="Say what a server with these settings would serve, without starting one: each model is tried out.",
        epilog="Exit status: 0 if all would be served, 1 if a model or data set is broken, 2 for wrong settings.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings (or PELLUCID_CONFIG)")
    parser.add_argument("--models", metavar="DIR", help="the model repository")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--skip-ports", action="store_true", help="do not look whether the ports are free")
    return parser
