"""The server's own account of the run: its log's lines and its counters."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Line:
    """The log's line for one request."""

    id: str
    rpc: str
    code: str


@dataclass(frozen=True)
class Log:
    """What the server wrote down."""

    lines: tuple[Line, ...]
    tracebacks: tuple[str, ...]
    """The last line of each."""

    def without(self, identity: str) -> "Log":
        """Return the log without the lines of one request id."""
        return replace(self, lines=tuple(line for line in self.lines if line.id != identity))

    def by_id(self) -> Mapping[str, list[Line]]:
        """Return the lines of each request id."""
        found: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            found[line.id].append(line)
        return found

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how many requests each RPC ended with each code."""
        return Counter((line.rpc, line.code) for line in self.lines)


def read_log(path: Path) -> Log:
    """Read the server's log, in JSON; workers' own lines are text."""
    lines, tracebacks = [], []
    texts = path.read_text("utf-8", "replace").splitlines()
    for number, text in enumerate(texts):
        try:
            entry = json.loads(text)
        except ValueError:
            entry = {}
        if not isinstance(entry, dict):
            continue
        if "traceback" in entry:
            tracebacks.append(entry["traceback"].strip().splitlines()[-1])
        elif text.startswith("Traceback ("):
            tracebacks.append(next((line for line in texts[number + 1 :] if not line.startswith(" ")), text))
        if entry.get("message") == "request":
            lines.append(Line(entry["id"], entry["rpc"], entry["code"]))
    return Log(tuple(lines), tuple(tracebacks))


@dataclass(frozen=True)
class Counters:
    """The metrics page."""

    values: tuple[tuple[str, Mapping[str, str], float], ...]
    """Each sample's name, labels and value."""

    @classmethod
    def of(cls, page: str) -> "Counters":
        """Read a metrics page."""
        families = text_string_to_metric_families(page)
        return cls(tuple((each.name, dict(each.labels), each.value) for family in families for each in family.samples))

    def total(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels."""
        return sum(value for found, has, value in self.values if found == name and labels.items() <= has.items())

    def requests(self) -> Counter[tuple[str, str]]:
        """Return how many requests each RPC ended with each code."""
        found: Counter[tuple[str, str]] = Counter()
        for name, labels, value in self.values:
            if name == "pellucid_request_seconds_count":
                found[labels["rpc"], labels["code"]] += round(value)
        return found

    def not_zero(self, prefixes: Iterable[str]) -> dict[str, float]:
        """Return the samples, of names that begin so, that are not 0."""
        return {
            name + str(sorted(labels.values())): value
            for name, labels, value in self.values
            if name.startswith(tuple(prefixes)) and value
        }
