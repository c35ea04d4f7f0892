"""A real Prometheus and a real Alertmanager on the shipped configurations, and a receiver of alerts."""

import contextlib
import http.server
import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from deploy.tools import free_port, running
from e2e.serving import LONG_SECONDS
from monitoring.queries import FOLDER, RULE_FILES

WEEK = 7 * 86400


def run(*command: str | Path) -> str:
    """Run a tool and return what it said; one that fails ends the test with that."""
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LONG_SECONDS, check=False)
    assert found.returncode == 0, f"{command} ended with {found.returncode}:\n{found.stdout}{found.stderr}"
    return found.stdout + found.stderr


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    address: str

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series of a query as they are now."""
        answer = self._get("query", query=expr)
        assert answer["status"] == "success", f"{answer}: {expr}"
        if answer["data"]["resultType"] == "scalar":
            return [{"metric": {}, "value": answer["data"]["result"]}]
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        found: list[dict[str, Any]] = self._get("alerts")["data"]["alerts"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Return the targets that are scraped."""
        found: list[dict[str, Any]] = self._get("targets")["data"]["activeTargets"]
        return found

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=LONG_SECONDS) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            # A query that is wrong; the answer says what is.
            answer = json.loads(error.read())
        return dict(answer)


@contextlib.contextmanager
def prometheus(
    target: str, alertmanager: str, folder: Path, backfill: Sequence[tuple[str, Mapping[str, str], float]] = ()
) -> Iterator[Prometheus]:
    """Run Prometheus on the shipped configuration, with intervals of a second.

    Parameters
    ----------
    target, alertmanager
        The addresses of the metrics page and of Alertmanager.
    backfill
        Series that are there from a week before on, each with a value: their names, labels and values.
    """
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    settings["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    rules = folder / "rules"
    rules.mkdir()
    for path in RULE_FILES:
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            # Rules of long windows are evaluated less often; here they have a few seconds.
            group.pop("interval", None)
        (rules / path.name).write_text(yaml.safe_dump(content))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    run("promtool", "check", "config", folder / "prometheus.yml")
    if backfill:
        _write_week_before(folder, backfill)
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with _running(command, folder / "prometheus.log", address):
        yield Prometheus(address)


def _write_week_before(folder: Path, series: Sequence[tuple[str, Mapping[str, str], float]]) -> None:
    now = int(time.time())
    times = range(now - WEEK - 600, now - WEEK + 1800, 30)
    lines = []
    for name, labels, value in series:
        text = ",".join(f'{key}="{label}"' for key, label in labels.items())
        heading = f"# TYPE {name} gauge"
        lines += [] if heading in lines else [heading]
        lines += [f"{name}{{{text}}} {value} {at}" for at in times]
    file = folder / "week-before.txt"
    file.write_text("\n".join([*lines, "# EOF\n"]))
    run("promtool", "tsdb", "create-blocks-from", "openmetrics", file, folder / "tsdb")


@contextlib.contextmanager
def alertmanager(receiver: str, folder: Path) -> Iterator[str]:
    """Run Alertmanager on the shipped configuration with `receiver` in place of its addresses; yield its own."""
    text = (FOLDER / "alertmanager.yml").read_text()
    assert text.count("localhost:9095") == 2
    settings = yaml.safe_load(text.replace("localhost:9095", receiver))
    settings["route"]["group_wait"] = "1s"
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(settings))
    run("amtool", "check-config", folder / "alertmanager.yml")
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "alertmanager.log", address):
        yield address


def _running(command: Sequence[str], log: Path, address: str) -> AbstractContextManager[None]:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=LONG_SECONDS):
                return True
        except OSError:
            return False

    return running(command, log, ready)


@dataclass
class Receiver:
    """What Alertmanager has sent."""

    address: str = ""
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Each with the path that it came to."""


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """Take what Alertmanager sends to a webhook."""
    found = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.notes.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
