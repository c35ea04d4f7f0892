"""Every query of the dashboards, the rules and the alerts names metrics and labels that the server has."""

import re

import pytest
from monitoring import exposed
from monitoring.queries import (
    SCRAPE_LABELS,
    Labels,
    Unknown,
    alerts,
    labels_of,
    panel_queries,
    recorded,
    rules,
    variable_queries,
)

from deploy.monitoring.build.names import LAST_EDGES, OBJECTIVES

BUILT_IN = {"up": SCRAPE_LABELS, "ALERTS": SCRAPE_LABELS | {"alertname", "alertstate", "severity"}}


@pytest.fixture(scope="module")
def metrics() -> dict[str, Labels]:
    """The labels of everything that can be asked for: the server's series, Prometheus's own and what rules record."""
    known = BUILT_IN | {name: labels | SCRAPE_LABELS for name, labels in exposed.series().items()}
    for rule in recorded():
        labels = labels_of(rule["expr"], known) | frozenset(rule.get("labels", {}))
        assert known.setdefault(rule["record"], labels) == labels, f"{rule['record']} has other labels elsewhere"
    return known


def test_every_query_of_a_panel_parses_and_names_what_there_is(metrics: dict[str, Labels]) -> None:
    queries = list(panel_queries())
    assert len(queries) > 50
    for query in queries:
        try:
            labels = labels_of(query.expr, metrics)
        except (Unknown, ValueError) as error:
            pytest.fail(f"{query.where}: {error}: {query.expr}")
        missing = set(re.findall(r"{{(\w+)}}", query.legend)) - labels
        assert not missing, f"{query.where}: the legend names {missing}, and the series have {sorted(labels)}"


def test_every_variable_asks_for_a_label_that_there_is(metrics: dict[str, Labels]) -> None:
    variables = list(variable_queries())
    assert {where.split(": ")[1] for where, _, _ in variables} == {"cluster", "namespace", "model", "method"}
    for where, selector, label in variables:
        assert label in labels_of(selector, metrics), where


def test_every_rule_names_what_there_is_and_what_it_says_is_in_its_labels(metrics: dict[str, Labels]) -> None:
    for rule in rules():
        name = rule.get("record") or rule["alert"]
        try:
            labels = labels_of(rule["expr"], metrics)
        except (Unknown, ValueError) as error:
            pytest.fail(f"{name}: {error}")
        said = set(re.findall(r"\$labels\.(\w+)", " ".join(rule.get("annotations", {}).values())))
        assert said <= labels | set(rule.get("labels", {})), name


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        ("rate(pellucid_request_second_count[5m])", "no metric pellucid_request_second_count"),
        ('pellucid_worker_up{model="a"}', "no label model"),
        ("sum by (method) (pellucid_worker_up)", r"no label \['method'\]"),
        ("pellucid_worker_up / pellucid_queue_rows", "never match"),
        ("histogram_quantile(0.5, sum by (method) (rate(pellucid_request_seconds_bucket[5m])))", "needs the label le"),
        ("pellucid_worker_up and on (class) pellucid_queue_rows", r"on \['class'\]"),
    ],
)
def test_a_query_of_what_there_is_not_is_found(metrics: dict[str, Labels], expr: str, words: str) -> None:
    with pytest.raises(Unknown, match=words):
        labels_of(expr, metrics)


def test_every_bucket_that_a_query_names_is_an_edge_of_its_histogram() -> None:
    edges = exposed.edges()
    asked = [(query.expr, query.where) for query in panel_queries()]
    asked += [(rule["expr"], rule.get("record") or rule["alert"]) for rule in rules()]
    named = [
        (metric, bound, where)
        for expr, where in asked
        for metric, bound in re.findall(r'(\w+)_bucket\{[^}]*\ble="([^"]+)"', expr)
    ]
    assert len(named) >= 20
    for metric, bound, where in named:
        # The text must be the page's own: Prometheus compares it as text.
        assert bound in edges[metric], f"{where}: {bound}"


def test_a_quantile_above_the_last_bucket_is_never_drawn_as_the_buckets_edge() -> None:
    edges = exposed.edges()
    quantiles = [query for query in panel_queries() if "histogram_quantile" in query.expr]
    assert len(quantiles) >= 10
    for query in quantiles:
        metric, limit = re.search(r"\((\w+)_bucket\{.*\) < (\d+)$", query.expr, re.DOTALL).groups()  # type: ignore[union-attr]
        assert float(limit) == LAST_EDGES[metric] == float(edges[metric][-1]), query.where
        assert "above the last bucket" in query.panel["description"].lower(), query.where


def test_every_quantile_of_an_explanation_is_of_one_method() -> None:
    found = [query.expr for query in panel_queries() if query.where.startswith("pellucid-explanations: Latency by")]
    assert len(found) == 3
    assert all("sum by (le, method) (rate(pellucid_request_seconds_bucket{" in expr for expr in found)


def test_heat_maps_show_the_histograms_own_buckets() -> None:
    found = [query for query in panel_queries() if query.panel["type"] == "heatmap"]
    assert len(found) >= 4
    for query in found:
        assert query.panel["options"]["calculate"] is False, query.where
        assert query.panel["targets"][0]["format"] == "heatmap", query.where
        assert re.fullmatch(r"sum by \(le\) \(increase\(\w+_bucket\{.*\}\[\$__rate_interval\]\)\)", query.expr)


def test_every_objective_alerts_by_windows_that_are_recorded() -> None:
    names = {(rule["record"], rule["labels"]["slo"]) for rule in recorded() if "slo" in rule.get("labels", {})}
    for objective in OBJECTIVES:
        of_it = [rule for rule in alerts() if rule["labels"].get("slo") == objective.name]
        assert {rule["labels"]["severity"] for rule in of_it} == {"page", "ticket"}
        asked = {name for rule in of_it for name in re.findall(r"pellucid:slo_\w+:\w+", rule["expr"])}
        assert {(name, objective.name) for name in asked} <= names
