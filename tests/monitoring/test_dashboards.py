"""The committed dashboards and rules are what the code builds, and are laid out as they should be."""

import json
import re
from typing import Any

import pytest
import yaml
from monitoring.queries import DASHBOARDS, FOLDER, RULE_FILES, alerts, panels

from deploy.monitoring.build.__main__ import built
from deploy.monitoring.build.names import EXPLANATION_SECONDS, OBJECTIVES, PREDICTION_SECONDS, RUNBOOK

RUNBOOK_FILE = FOLDER.parents[1] / "docs" / "runbook.md"


@pytest.fixture(scope="module")
def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}


def test_the_committed_files_are_what_the_code_builds() -> None:
    for name, text in built().items():
        assert (FOLDER / name).read_text() == text, f"{name} is old: run `python -m deploy.monitoring.build`"


def test_no_dashboard_is_there_that_no_code_builds() -> None:
    assert {f"dashboards/{path.name}" for path in DASHBOARDS} == {name for name in built() if name.endswith(".json")}


def test_the_manifest_has_the_groups_of_all_rule_files() -> None:
    manifest = yaml.safe_load((FOLDER / "manifests" / "prometheusrule.yaml").read_text())
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    assert sorted(manifest["spec"]["groups"], key=lambda group: group["name"]) == sorted(
        groups, key=lambda group: group["name"]
    )
    assert len({group["name"] for group in groups}) == len(groups)


def test_the_config_map_has_the_dashboards(dashboards: dict[str, dict[str, Any]]) -> None:
    manifest = yaml.safe_load((FOLDER / "manifests" / "dashboards.yaml").read_text())
    assert {name: json.loads(text) for name, text in manifest["data"].items()} == {
        f"{name}.json": content for name, content in dashboards.items()
    }
    # A ConfigMap is refused above 1 MiB, and `kubectl apply` keeps a copy of up to 256 KiB in an annotation.
    assert sum(map(len, manifest["data"].values())) < 200_000


def test_rows_of_the_overview_follow_a_request(dashboards: dict[str, dict[str, Any]]) -> None:
    rows = [panel["title"] for panel in dashboards["pellucid-overview"]["panels"] if panel["type"] == "row"]
    assert rows == ["State", "Traffic", "Refusals", "Queue", "Workers and devices", "Compute", "Jobs", "Errors"]


def test_every_panel_says_what_it_shows_in_which_unit(dashboards: dict[str, dict[str, Any]]) -> None:
    for name, dashboard in dashboards.items():
        found = panels(dashboard)
        assert len({panel["title"] for panel in found}) == len(found), name
        for panel in found:
            where = f"{name}: {panel['title']}"
            assert panel["description"].endswith("."), where
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, where
            unit = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
            assert unit["unit"], where


def test_every_query_can_be_narrowed_by_cluster_and_namespace(dashboards: dict[str, dict[str, Any]]) -> None:
    for name, dashboard in dashboards.items():
        assert [each["name"] for each in dashboard["templating"]["list"]] == [
            "datasource", "cluster", "namespace", "model", "method"
        ]  # fmt: skip
        for panel in panels(dashboard):
            for target in panel["targets"]:
                selectors = re.findall(r"[\w:]+\{([^}]*)\}", target["expr"])
                assert selectors, f"{name}: {panel['title']}"
                for selector in selectors:
                    assert 'cluster=~"$cluster", namespace=~"$namespace"' in selector, f"{name}: {panel['title']}"


def test_panels_do_not_overlap_and_have_numbers_of_their_own(dashboards: dict[str, dict[str, Any]]) -> None:
    for name, dashboard in dashboards.items():
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            x, y = place.get("x", 0), place.get("y", 0)
            assert x + place["w"] <= 24, f"{name}: {panel['title']}"
            for cell in ((i, j) for i in range(x, x + place["w"]) for j in range(y, y + place["h"])):
                assert cell not in taken, f"{name}: {panel['title']} lies on {taken[cell]}"
                taken[cell] = panel["title"]
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers), name


def test_the_operators_page_names_every_alert_and_gives_the_objectives_numbers() -> None:
    text = (RUNBOOK_FILE.parent / "monitoring.md").read_text()
    objectives = text[text.index("## The objectives") : text.index("## The other alerts")]
    for alert in alerts():
        assert "slo" in alert["labels"] or f"`{alert['alert']}`" in text, alert["alert"]
    allowed = [re.search(r"\| ([\d.]+) % of", line) for line in objectives.splitlines()]
    assert [float(found[1]) / 100 for found in allowed if found] == [each.allowed for each in OBJECTIVES]
    for seconds in (PREDICTION_SECONDS, EXPLANATION_SECONDS):
        assert f"above {seconds:g} s" in objectives


def test_every_alert_has_a_section_of_the_runbook_and_no_section_is_left_over() -> None:
    sections = re.split(r"^## ", RUNBOOK_FILE.read_text(), flags=re.MULTILINE)[1:]
    by_name = {section.split("\n", 1)[0].strip(): section for section in sections}
    for alert in alerts():
        name = alert["alert"]
        assert alert["annotations"]["runbook_url"] == f"{RUNBOOK}{name.lower()}"
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]
        assert alert["labels"]["severity"] in {"page", "ticket"}
        for part in ("**What it means.**", "**How to look.**", "**What to do.**"):
            assert part in by_name[name], f"{name} lacks {part}"
    assert {name for name in by_name if name.startswith("Pellucid")} == {alert["alert"] for alert in alerts()}
