"""Holds a real server's requests at named points of their lives, and reads its counters before and after."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.serving import LONG_SECONDS, Server, children, serve, wait_until
from pellucid_server import faults
from prometheus_client.parser import text_string_to_metric_families

IN_WORKER = ("sent", "running", "chunk", "answered")
"""Points at which the worker has the request."""

_ALL = (faults.LOADING, faults.STORING, *faults.POINTS)

QUICK = {
    "PELLUCID_POOL__RESTART_INITIAL_SECONDS": "0.05",
    "PELLUCID_POOL__RESTART_MAX_SECONDS": "0.1",
    "PELLUCID_WORKER__CHUNK_SECONDS": "0.02",
}
"""Settings with which a lost worker is started again at once."""


@dataclass(frozen=True)
class Points:
    """The fault points of one server."""

    folder: Path

    def arm(self, point: str, what: str = "hold") -> None:
        """Make whoever reaches a point do `what`."""
        assert point in _ALL
        (self.folder / f"{point}.reached").unlink(missing_ok=True)
        part = self.folder / "arming"
        part.write_text(what)
        part.replace(self.folder / point)

    def release(self, *points: str) -> None:
        """Let everybody pass these points, or all of them."""
        for point in points or _ALL:
            (self.folder / point).unlink(missing_ok=True)

    def reached_by(self, point: str) -> set[int]:
        """Return the processes that have reached a point since it was armed."""
        try:
            return {int(line) for line in (self.folder / f"{point}.reached").read_text().splitlines()}
        except FileNotFoundError:
            return set()

    def wait(self, point: str) -> None:
        """Wait until somebody has reached a point."""
        wait_until(lambda: bool(self.reached_by(point)), seconds=LONG_SECONDS, what=f"a request has reached {point}")


@dataclass(frozen=True)
class Counters:
    """The counters and gauges of a server's metrics page, by name and labels."""

    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all series of a name that have these labels."""
        wanted = frozenset(labels.items())
        return sum(value for (found, known), value in self.values.items() if found == name and wanted <= known)

    def requests(self) -> "Counter[str]":
        """Return how many requests have ended with each code."""
        found: Counter[str] = Counter()
        for (name, labels), value in self.values.items():
            if name == "pellucid_request_seconds_count":
                found[dict(labels)["code"]] += round(value)
        return found

    def idle(self) -> bool:
        """Whether no request and no request is anywhere in the server."""
        gauges = ("requests_in_flight", "requests_pending", "queue_requests", "queue_rows", "queue_bytes")
        return not any(self.total(f"pellucid_{name}") for name in gauges)


def counters(server: Server) -> Counters:
    """Read a server's metrics page."""
    return Counters(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(server.metrics())
            for sample in family.samples
        }
    )


def wait_until_idle(server: Server) -> Counters:
    """Wait until nothing is left of any request, and return the counters of then."""
    wait_until(lambda: counters(server).idle(), seconds=LONG_SECONDS, what="nothing is left of the requests")
    return counters(server)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def worker_pids(server: Server) -> set[int]:
    """Return the worker processes of a server."""
    return children(server.process.pid, "pellucid-worker")


@contextlib.contextmanager
def serve_with_points(
    models: Path,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    armed: Mapping[str, str] | None = None,
) -> Iterator[tuple[Server, Points]]:
    """Run a server whose requests can be held; `folder` gets its log and its points, `armed` ones before it starts."""
    points = Points(folder / "points")
    points.folder.mkdir()
    for point, what in (armed or {}).items():
        points.arm(point, what)
    with serve(models, folder, {**QUICK, "PELLUCID_FAULTS__FOLDER": str(points.folder), **(settings or {})}) as server:
        yield server, points
