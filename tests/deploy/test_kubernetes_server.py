"""A real server with the settings of the manifests: what the probes and the autoscalers ask, it answers."""

import json
import re

import grpc
import pytest
import yaml
from deploy.kubernetes_tools import KUBERNETES, ROOT, kustomized, rendered_chart
from e2e.serving import serve
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def pod():
    [deployment] = [each for each in documents() if each["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return container


def documents():
    return kustomized(KUBERNETES / "overlays" / "monitoring")


@pytest.fixture(scope="module")
def server(pod, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    models = folder / "models"
    models.mkdir()
    (models / "breast-cancer").symlink_to(ROOT / "models" / "breast-cancer", target_is_directory=True)
    [settings] = [each["data"]["pellucid.toml"] for each in documents() if "pellucid.toml" in each.get("data", {})]
    (folder / "pellucid.toml").write_text(settings)
    variables = {each["name"]: each["value"] for each in pod["env"]}
    with serve(models, folder, {**variables, "PELLUCID_CONFIG": str(folder / "pellucid.toml")}, as_users_do=True) as it:
        yield it


@pytest.fixture(scope="module")
def health_port(server):
    facts = json.loads((server.log.parent / "ready.json").read_text())
    with grpc.insecure_channel(f"127.0.0.1:{facts['health_port']}") as channel:
        yield channel


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_what_a_probe_asks_is_serving(pod, health_port, probe):
    request = health_pb2.HealthCheckRequest(service=pod[probe]["grpc"].get("service", ""))

    reply = health_pb2_grpc.HealthStub(health_port).Check(request, timeout=pod[probe]["timeoutSeconds"])

    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_probes_port_predicts_nothing(health_port):
    call = health_port.unary_unary("/pellucid.v1.ExplanationService/Predict")

    with pytest.raises(grpc.RpcError) as failure:
        call(b"", timeout=10)

    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_metric_that_scales_is_on_the_metrics_page_with_the_labels_that_are_asked_for(server):
    there = [sample for family in text_string_to_metric_families(server.metrics()) for sample in family.samples]
    rules = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    [scaled] = [each for each in rendered_chart("--set", "autoscaling.kind=keda") if each["kind"] == "ScaledObject"]
    queries = [each["metadata"]["query"] for each in scaled["spec"]["triggers"]]

    names = {name for rule in rules for name in re.findall(r"^(\w+){", rule["seriesQuery"])}
    assert names == {name for query in queries for name in re.findall(r"(pellucid_\w+){", query)}
    assert names <= {sample.name for sample in there}
    asked = {name for query in queries for name in re.findall(r'class="(\w+)"', query)}
    assert asked == {each.labels["class"] for each in there if each.name == "pellucid_backlog_seconds"}


def test_at_sigterm_it_ends_in_the_time_that_the_pod_has(server):
    # The last test: the server ends here.
    assert server.terminate() == 0
