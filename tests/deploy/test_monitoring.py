"""The dashboards, rules and alerts before the real tools: Prometheus, Alertmanager and Grafana's own types."""

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from deploy.prometheus_tools import Prometheus, Receiver, alertmanager, prometheus, receiver, run
from deploy.tools import npm_folder
from e2e import small_models
from e2e.conftest import models  # noqa: F401 - a fixture
from e2e.messages import DIABETES_ROW, TABLE_MODEL, TREES_MODEL, attribute, failure, predict, rows, spec, table_rows
from e2e.serving import LONG_SECONDS, Server, serve, wait_until
from monitoring.queries import DASHBOARDS, FOLDER, RULE_FILES, alerts, filled, panel_queries, recorded
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

from deploy.monitoring.build.names import above, quantile

pytestmark = pytest.mark.deploy

NEEDS_ACCESS = ("pellucid_tls_certificate_expiry_seconds", "pellucid_quota_refusals_total")
"""The server here has neither certificates nor quotas: a query of these finds nothing. All else must find something."""

SITE = {"cluster": "local", "namespace": "pellucid"}
"""The labels that the shipped configuration gives."""
GOOD = rows(np.full((2, 30), 1.0))
SCORES_ROW: dict[str, float | str] = {"width": 12.0, "height": 1.0, "colour": "green"}
GRAFANA = {"@grafana/schema": "13.2.3", "typescript": "7.0.2"}


@dataclass(frozen=True)
class Stack:
    """All that runs."""

    server: Server
    prometheus: Prometheus
    receiver: Receiver


@pytest.fixture(scope="module")
def stack(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:  # noqa: F811 - the fixture
    """A server under load, after everything that the dashboards show has happened once, and what watches it."""
    repository = tmp_path_factory.mktemp("repository")
    for name in (TABLE_MODEL, TREES_MODEL):
        (repository / name).symlink_to(models / name, target_is_directory=True)
    small_models.write_scores(repository)
    (repository / "damaged" / "1").mkdir(parents=True)
    (repository / "damaged" / "model.toml").write_text("[[inputs]]\n")
    week_before: list[tuple[str, dict[str, str], float]] = [
        ("pellucid:attribution_shares:increase1d", {**SITE, "model": small_models.SCORES}, 1000.0),
        *(
            ("pellucid:attribution_share:ratio1d", {**SITE, "model": small_models.SCORES, "column": column}, 1 / 3)
            for column in small_models.COLUMNS
        ),
    ]
    settings = {
        "PELLUCID_SERVER__MAX_MESSAGE_BYTES": str(1 << 20),
        "PELLUCID_JOBS__FOLDER": str(tmp_path_factory.mktemp("jobs")),
    }
    with (
        serve(repository, tmp_path_factory.mktemp("server"), settings, as_users_do=True) as server,
        receiver() as notes,
        alertmanager(notes.address, tmp_path_factory.mktemp("alertmanager")) as address,
        prometheus(server.metrics_address, address, tmp_path_factory.mktemp("prometheus"), week_before) as asked,
    ):
        found = Stack(server, asked, notes)
        wait_until(lambda: bool(asked.query("up == 1")), seconds=LONG_SECONDS, what="Prometheus reads the page")
        _do_everything(found)
        yield found


def _do_everything(stack: Stack) -> None:
    """Put load on the server; between two scrapes of each thing, so that there is a rate of it."""
    server, begun = stack.server, stack.prometheus.query("time()")[0]["value"][0]
    ask_all(server)
    _until_scraped(stack, begun)
    os.kill(server.worker_pid(), signal.SIGKILL)
    for _ in range(3):
        ask_all(server)
        _until_scraped(stack, stack.prometheus.query("time()")[0]["value"][0])


def ask_all(server: Server) -> None:
    """Make one call of each kind; calls wait for a worker that is being started."""
    calls, scores = server.explanations, {"features": table_rows([SCORES_ROW])}
    for _ in range(5):
        calls.Predict(predict(small_models.SCORES, scores), wait_for_ready=True, timeout=LONG_SECONDS)
        calls.Predict(predict(TABLE_MODEL, {"features": GOOD}), timeout=LONG_SECONDS)
    for explanation in (
        spec("saliency"),
        spec("integrated-gradients", tolerance=0.01),
        spec("kernel-shap", samples=256),
    ):
        calls.Attribute(attribute(TABLE_MODEL, {"features": GOOD}, explanation), timeout=LONG_SECONDS)
        calls.Attribute(attribute(small_models.SCORES, scores, explanation), timeout=LONG_SECONDS)
    trees = {"features": table_rows([DIABETES_ROW])}
    calls.Attribute(attribute(TREES_MODEL, trees, spec("kernel-shap", samples=256)), timeout=LONG_SECONDS)
    _do_a_job(server)
    _abandon(server)
    failure(lambda: calls.Predict(predict("nobody", scores)))
    failure(lambda: calls.Predict(predict("damaged", scores)))
    failure(lambda: calls.Predict(predict(TABLE_MODEL, {"features": rows(np.ones((20000, 30)))})))


def _do_a_job(server: Server) -> None:
    """Have a job done that no other request is equal to."""
    dissect = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=TABLE_MODEL),
        method="activations",
        layers=[dissection_pb2.LayerUnits(layer="hidden1")],
        probe=dissection_pb2.Probe(inputs={"features": GOOD}),
        seed=secrets.randbits(63),
    )
    jobs = job_service_pb2_grpc.JobServiceStub(server.channel)
    submitted = jobs.SubmitJob(job_service_pb2.SubmitJobRequest(dissect=dissect), timeout=LONG_SECONDS)
    *_, last = jobs.WatchJob(job_service_pb2.WatchJobRequest(id=submitted.job.id), timeout=LONG_SECONDS)
    assert last.job.state == job_service_pb2.JOB_STATE_DONE


def _abandon(server: Server) -> None:
    """Leave an explanation once a worker has it."""
    long = attribute(TABLE_MODEL, {"features": rows(np.ones((64, 30)))}, spec("smoothgrad", samples=1000))
    call = server.explanations.Attribute.future(long, timeout=LONG_SECONDS)
    wait_until(lambda: server.busy() or call.done(), seconds=LONG_SECONDS, what="a worker has the request")
    call.cancel()
    wait_until(lambda: not server.busy(), seconds=LONG_SECONDS, what="the worker has left it")


def _until_scraped(stack: Stack, after: float) -> None:
    newer = f"timestamp(pellucid_requests_in_flight) > {after}"
    wait_until(lambda: bool(stack.prometheus.query(newer)), seconds=LONG_SECONDS, what="the page was read again")


def finite(series: list[dict[str, Any]]) -> list[float]:
    """Return the values that are numbers."""
    values = [float(each["value"][1]) for each in series]
    return [value for value in values if math.isfinite(value)]


def settles(missing: Callable[[], list[str]]) -> None:
    """Wait until nothing is missing, which takes some scrapes, and fail with what is."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not missing(), seconds=30, what="nothing is missing")
    assert missing() == []


def test_every_recording_rule_has_series(stack: Stack) -> None:
    wanted = [(rule["record"], rule.get("labels", {})) for rule in recorded()]
    assert len(wanted) > 90

    def missing() -> list[str]:
        selectors = [
            name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" for name, labels in wanted
        ]
        return [selector for selector in selectors if not finite(stack.prometheus.query(selector))]

    settles(missing)


def test_every_query_of_every_dashboard_returns_a_series(stack: Stack) -> None:
    queries = [(query.where, filled(query.expr, interval="20s", span="1m")) for query in panel_queries()]
    plain = [each for each in queries if not any(metric in each[1] for metric in NEEDS_ACCESS)]
    assert len(queries) - len(plain) == 2

    def missing() -> list[str]:
        return [f"{where}: {expr}" for where, expr in plain if not finite(stack.prometheus.query(expr))]

    settles(missing)


def test_without_certificates_and_quotas_nothing_is_said_of_them(stack: Stack) -> None:
    for metric in NEEDS_ACCESS:
        assert stack.prometheus.query(metric) == []


def test_drift_is_measured_against_the_week_before(stack: Stack) -> None:
    (found,) = stack.prometheus.query("pellucid:attribution_drift:distance1d")
    shares = stack.prometheus.query(f'pellucid:attribution_share:ratio1d{{model="{small_models.SCORES}"}}')

    wanted = sum(abs(share - 1 / 3) for share in finite(shares)) / 2
    assert {each["metric"]["column"] for each in shares} == set(small_models.COLUMNS)
    assert sum(finite(shares)) == pytest.approx(1.0, abs=1e-6)
    assert float(found["value"][1]) == pytest.approx(wanted, abs=0.05)


def test_a_killed_workers_alert_comes_through_alertmanager_with_its_page_of_the_runbook(stack: Stack) -> None:
    def lost() -> list[tuple[str, dict[str, Any]]]:
        return [
            (path, alert)
            for path, note in stack.receiver.notes
            for alert in note["alerts"]
            if alert["labels"]["alertname"] == "PellucidWorkerLost"
        ]

    wait_until(lambda: bool(lost()), seconds=60, what="the alert has come")
    path, alert = lost()[0]
    assert path == "/tickets"
    assert alert["status"] == "firing"
    assert alert["labels"].items() >= {**SITE, "device": "cpu", "cause": "exit", "severity": "ticket"}.items()
    assert alert["annotations"]["runbook_url"].endswith("#pellucidworkerlost")


def test_no_alert_fires_that_has_no_cause_here(stack: Stack) -> None:
    firing = {alert["labels"]["alertname"] for alert in stack.prometheus.alerts() if alert["state"] == "firing"}

    assert firing <= {"PellucidWorkerLost"}


@pytest.mark.parametrize("path", sorted((FOLDER / "tests").glob("*.yaml")), ids=lambda path: path.stem)
def test_alerts_fire_where_they_should_and_nowhere_else(path: Path) -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", path)


def test_every_alert_is_tested_firing_and_silent() -> None:
    contents = [yaml.safe_load(path.read_text()) for path in (FOLDER / "tests").glob("*.yaml")]
    found: dict[tuple[str, str], set[bool]] = {}
    for case in (case for each in contents for test in each["tests"] for case in test["alert_rule_test"]):
        severities = {alert["exp_labels"]["severity"] for alert in case["exp_alerts"]}
        for severity in ("page", "ticket"):
            found.setdefault((case["alertname"], severity), set()).add(severity in severities)
    for alert in alerts():
        assert found.get((alert["alert"], alert["labels"]["severity"])) == {True, False}, alert["alert"]


def test_a_quantile_above_the_last_bucket_is_left_out_and_counted(tmp_path: Path) -> None:
    # Each minute 10 requests of 10 to 20 minutes, and 90 above.
    buckets = {"600.0": "0x180", "1200.0": "0+10x180", "+Inf": "0+100x180"}
    metric = "pellucid_request_seconds"
    series = [
        {"series": f'{metric}_bucket{{method="m", le="{edge}"}}', "values": values} for edge, values in buckets.items()
    ]
    series.append({"series": f'{metric}_count{{method="m"}}', "values": buckets["+Inf"]})
    unfiltered, _, _ = quantile(0.95, metric, "", "method").rpartition(" < ")
    wanted = {
        quantile(0.95, metric, "", "method"): [],
        unfiltered: [{"labels": '{method="m"}', "value": 1200}],
        # Rank 5 of the 10 in the bucket from 600 to 1200.
        quantile(0.05, metric, "", "method"): [{"labels": '{method="m"}', "value": 900}],
        above(metric, 'method="m"'): [{"labels": "{}", "value": 5400}],
    }
    cases = [{"expr": filled(expr), "eval_time": "2h", "exp_samples": samples} for expr, samples in wanted.items()]
    file = tmp_path / "quantiles.yaml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": cases}]}))

    assert "SUCCESS" in run("promtool", "test", "rules", file)


def test_promtool_and_amtool_take_the_shipped_files() -> None:
    for path in RULE_FILES:
        assert "SUCCESS" in run("promtool", "check", "rules", path)
    assert "SUCCESS" in run("promtool", "check", "config", FOLDER / "prometheus.yml")
    assert "SUCCESS" in run("amtool", "check-config", FOLDER / "alertmanager.yml")


@pytest.fixture(scope="module")
def grafana_types() -> Path:
    """A folder with Grafana's own types and the compiler."""
    return npm_folder("grafana", *(f"{name}@{version}" for name, version in GRAFANA.items()))


TYPES = """
import type {Dashboard} from "@grafana/schema";
// In JSON an enumeration's member is its text.
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[]
  : T extends object ? {[K in keyof T]: Json<T[K]>} : T;
export const dashboard: Json<Dashboard> = """


def compiled(folder: Path, text: str) -> str:
    (folder / "dashboard.ts").write_text(f"{TYPES}{text.strip()};\n")
    options = ["--noEmit", "--skipLibCheck", "--strict", "--module", "nodenext", "--moduleResolution", "nodenext"]
    command = [str(folder / "node_modules" / ".bin" / "tsc"), *options, "dashboard.ts"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout


def test_grafanas_own_types_take_the_dashboards(grafana_types: Path) -> None:
    for path in DASHBOARDS:
        assert compiled(grafana_types, path.read_text()) == "", path.stem


def test_grafanas_types_would_refuse_a_height_that_is_a_text(grafana_types: Path) -> None:
    dashboard = json.loads(DASHBOARDS[0].read_text())
    dashboard["panels"][1]["gridPos"]["h"] = "8"

    assert "is not assignable to type 'number'" in compiled(grafana_types, json.dumps(dashboard))


def test_all_tools_are_here() -> None:
    tools = ("promtool", "prometheus", "prometheus-alertmanager", "amtool", "npm")
    assert [tool for tool in tools if shutil.which(tool) is None] == []
