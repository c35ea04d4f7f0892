"""The queries of the committed dashboards and rules, and what labels each of them has."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
RULE_FILES = sorted(FOLDER.glob("rules/*.yaml"))
SCRAPE_LABELS = frozenset({"cluster", "namespace", "job", "instance", "pod"})
"""Labels that the scrape adds to every series; only those that the manifests and the examples give."""

Labels = frozenset[str]


@dataclass(frozen=True)
class Query:
    """A query of a panel or a variable."""

    where: str
    expr: str
    legend: str
    panel: Mapping[str, Any]


def filled(expr: str, *, interval: str = "1m", span: str = "1h") -> str:
    """Put what Grafana would in place of its variables, with "All" chosen everywhere."""
    for name, value in (("$__rate_interval", interval), ("$__range", span)):
        expr = expr.replace(name, value)
    return re.sub(r"\$(cluster|namespace|model|method)\b", ".*", expr)


def panels(dashboard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all panels that are not rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_queries() -> Iterator[Query]:
    """Yield each query of each panel."""
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel["targets"]:
                where = f"{path.stem}: {panel['title']}: {target['refId']}"
                yield Query(where, target["expr"], target.get("legendFormat", ""), panel)


def variable_queries() -> Iterator[tuple[str, str, str]]:
    """Yield where it is, the selector and the label of each `label_values`."""
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found, variable
                yield f"{path.stem}: {variable['name']}", found[1], found[2]


def rules() -> list[dict[str, Any]]:
    """Return all recording rules and alerts."""
    contents = [yaml.safe_load(path.read_text()) for path in RULE_FILES]
    return [rule for content in contents for group in content["groups"] for rule in group["rules"]]


def recorded() -> list[dict[str, Any]]:
    """Return the recording rules."""
    return [rule for rule in rules() if "record" in rule]


def alerts() -> list[dict[str, Any]]:
    """Return the alerts."""
    return [rule for rule in rules() if "alert" in rule]


class Unknown(Exception):
    """A query names what there is not, or joins what can never match."""


def labels_of(expr: str, metrics: Mapping[str, Labels]) -> Labels:
    """Return the labels of a query's series.

    Raises
    ------
    Unknown
        If it names a metric or label that there is not, or joins series by labels of which one side has others.
    """
    return _Reader(metrics).read(promql.parse(filled(expr)))


class _Reader:
    def __init__(self, metrics: Mapping[str, Labels]) -> None:
        self._metrics = metrics

    def read(self, node: Any) -> Labels:
        """Return the labels of a part of a query; a scalar has none, as a sum over everything has."""
        match node:
            case promql.ParenExpr() | promql.UnaryExpr():
                return self.read(node.expr)
            case promql.MatrixSelector():
                return self.read(node.vector_selector)
            case promql.VectorSelector():
                return self._selected(node)
            case promql.AggregateExpr():
                return self._aggregated(node)
            case promql.Call():
                return self._called(node)
            case promql.BinaryExpr():
                return self._joined(node)
            case promql.NumberLiteral() | promql.StringLiteral():
                return frozenset()
        raise NotImplementedError(type(node))

    def _selected(self, node: Any) -> Labels:
        if node.name not in self._metrics:
            raise Unknown(f"there is no metric {node.name}")
        labels = self._metrics[node.name]
        for matcher in node.matchers.matchers:
            if matcher.name not in labels:
                raise Unknown(f"{node.name} has no label {matcher.name}")
        return labels

    def _aggregated(self, node: Any) -> Labels:
        inner = self.read(node.expr)
        if str(node.op) in {"topk", "bottomk"}:
            return inner
        if node.modifier is None:
            return frozenset()
        if node.modifier.type != promql.AggModifierType.By:
            raise NotImplementedError("without")
        by = frozenset(node.modifier.labels)
        if by - inner:
            raise Unknown(f"{node.expr.prettify()} has no label {sorted(by - inner)}")
        return by

    def _called(self, node: Any) -> Labels:
        arguments = [self.read(each) for each in node.args]
        match node.func.name:
            case "absent" | "vector" | "time":
                return frozenset()
            case "histogram_quantile":
                if "le" not in arguments[1]:
                    raise Unknown("a quantile needs the label le")
                return arguments[1] - {"le"}
            case "rate" | "increase" | "abs":
                return arguments[0]
        raise NotImplementedError(node.func.name)

    def _joined(self, node: Any) -> Labels:
        left, right = self.read(node.lhs), self.read(node.rhs)
        if _scalar(node.lhs) or _scalar(node.rhs):
            return left | right
        operator, modifier = str(node.op), node.modifier
        matching = None if modifier is None else modifier.matching
        if matching is None:
            if left != right and not _constant(node.rhs):
                raise Unknown(f"{operator} joins labels {sorted(left)} with {sorted(right)}, which never match")
            return left
        on = frozenset(matching.labels)
        if on - left or on - right:
            raise Unknown(f"{operator} on {sorted(on)} joins labels {sorted(left)} with {sorted(right)}")
        many = modifier.card == promql.VectorMatchCardinality.ManyToOne
        return left if many or operator in {"and", "unless"} else on


def _scalar(node: Any) -> bool:
    match node:
        case promql.NumberLiteral():
            return True
        case promql.ParenExpr() | promql.UnaryExpr():
            return _scalar(node.expr)
        case promql.Call():
            return bool(node.func.name == "time")
        case promql.BinaryExpr():
            return _scalar(node.lhs) and _scalar(node.rhs)
    return False


def _constant(node: Any) -> bool:
    """Whether a side of `or` is `vector(...)`, which stands for a sum of nothing."""
    return isinstance(node, promql.Call) and node.func.name == "vector"
