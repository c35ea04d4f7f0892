"""From a latency bucket to a trace, with a real Prometheus."""

import json
import secrets
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from deploy.tools import free_port
from e2e import otlp, small_models
from e2e.messages import predict, table_rows
from e2e.serving import LONG_SECONDS, Server, serve, wait_until

pytestmark = pytest.mark.deploy

PREDICT = predict(small_models.SCORES, {"features": table_rows([{"width": 1.0, "height": 2.0, "colour": "red"}])})

SETTINGS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: pellucid
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    small_models.write_scores(repository)
    with otlp.collecting() as collector:
        settings = otlp.QUICK | {"PELLUCID_TRACING__ENDPOINT": collector.address, "PELLUCID_TRACING__SAMPLE_RATIO": "0"}
        with serve(repository, tmp_path_factory.mktemp("server"), settings) as running:
            yield running


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that keeps exemplars and scrapes the server."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(SETTINGS.format(target=server.metrics_address))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        yield address
        process.terminate()


def exemplars(address: str, metric: str) -> list[dict[str, Any]]:
    now = time.time()
    asked = urllib.parse.urlencode({"query": metric, "start": now - 600, "end": now + 60})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query_exemplars?{asked}", timeout=LONG_SECONDS) as reply:
            found = json.load(reply)["data"]
    except OSError:
        # It is not up yet.
        return []
    return [{**series["seriesLabels"], **each["labels"]} for series in found for each in series["exemplars"]]


@pytest.mark.parametrize("stage", ["request", "queue", "compute"])
def test_prometheus_keeps_a_recorded_trace_as_the_example_of_a_bucket(
    server: Server, prometheus: str, stage: str
) -> None:
    trace_id = secrets.token_hex(16)
    server.explanations.Predict(PREDICT, metadata=[("traceparent", f"00-{trace_id}-b7ad6b7169203331-01")])

    def kept() -> list[dict[str, Any]]:
        found = exemplars(prometheus, f"pellucid_{stage}_seconds_bucket")
        return [each for each in found if each.get("trace_id") == trace_id]

    wait_until(lambda: bool(kept()), seconds=LONG_SECONDS, what="Prometheus has the exemplar")

    assert kept()[0]["model"] == small_models.SCORES
    assert kept()[0]["rpc"] == "Predict"
