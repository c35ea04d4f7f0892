"""The autoscalers' queries, run by Prometheus, on the server's own metrics."""

import re

import pytest
import yaml
from deploy.kubernetes_tools import CHART, KUBERNETES, kustomized, rendered_chart, run
from pellucid_server.config import load

pytestmark = pytest.mark.deploy

ADAPTER = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
SERIES = {
    # Two pods of this deployment, one whose metrics stop after four minutes, and others of the same names beside them.
    'pellucid_backlog_seconds{POD="a", class="predictions"}': "4x120",
    'pellucid_backlog_seconds{POD="b", class="predictions"}': "8x16 _x104",
    'pellucid_backlog_seconds{POD="a", class="bulk"}': "90x120",
    'pellucid_backlog_seconds{POD="b", class="bulk"}': "30x120",
    'pellucid_device_busy_seconds_total{POD="a", device="cpu", worker="0"}': "0+7.5x120",
    'pellucid_device_busy_seconds_total{POD="a", device="cpu", worker="1"}': "0+30x120",
    'pellucid_device_busy_seconds_total{POD="b", device="cpu", worker="0"}': "0+3.75x120",
    'pellucid_device_busy_seconds_total{POD="b", device="cpu", worker="1"}': "0+0x120",
}
OURS = 'namespace="pellucid", app_kubernetes_io_name="pellucid", app_kubernetes_io_instance="pellucid", pod='
OTHERS = (
    'namespace="pellucid", app_kubernetes_io_name="pellucid", app_kubernetes_io_instance="canary", pod="c-',
    'namespace="staging", app_kubernetes_io_name="pellucid", app_kubernetes_io_instance="pellucid", pod="',
)


def series():
    """Return the series of this deployment, and of two others that are overloaded."""
    ours = [{"series": name.replace("POD=", OURS), "values": values} for name, values in SERIES.items()]
    theirs = [
        {"series": name.replace('POD="', other), "values": "1000x120" if "backlog" in name else "0+15x120"}
        for name in SERIES
        for other in OTHERS
    ]
    return ours + theirs


def answers(query, minute, expected, tmp_path):
    """Return whether Prometheus answers a query with the expected value of each series, and nothing else."""
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    question = {"expr": query, "eval_time": f"{minute}m", "exp_samples": samples}
    test = {"interval": "15s", "input_series": series(), "promql_expr_test": [question]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    result = run(["promtool", "test", "rules", file])
    assert "SUCCESS" in result.stdout or "got:" in result.stdout + result.stderr, result.stdout + result.stderr
    return result.returncode == 0


def adapted(metric, pods, **labels):
    """Return the adapter's query for some pods of the namespace, as the API server asks it for an autoscaler."""
    [rule] = [each for each in ADAPTER if each["name"]["as"] == metric]
    matchers = [
        'namespace="pellucid"',
        f'pod=~"{"|".join(pods)}"',
        *(f'{name}="{value}"' for name, value in labels.items()),
    ]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", ",".join(matchers))
    return query.replace("<<.Series>>", rule["seriesQuery"].partition("{")[0]).replace("<<.GroupBy>>", "pod")


def scaler(kind):
    documents = rendered_chart("--set", f"autoscaling.kind={kind}")
    [found] = [each for each in documents if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    return found


def test_the_adapter_gives_each_pods_backlog_by_class(tmp_path):
    query = adapted("pellucid_backlog_seconds", ["a", "b"], **{"class": "predictions"})

    assert answers(query, 3, {'{pod="a"}': 4, '{pod="b"}': 8}, tmp_path)
    query = adapted("pellucid_backlog_seconds", ["a", "b"], **{"class": "bulk"})
    assert answers(query, 3, {'{pod="a"}': 90, '{pod="b"}': 30}, tmp_path)


def test_a_wrong_answer_is_found(tmp_path):
    query = adapted("pellucid_backlog_seconds", ["a", "b"], **{"class": "predictions"})

    assert not answers(query, 3, {'{pod="a"}': 4, '{pod="b"}': 9}, tmp_path)
    assert not answers(query, 3, {'{pod="a"}': 4}, tmp_path)
    assert not answers(query, 3, {}, tmp_path)


def test_a_pod_without_metrics_for_a_minute_keeps_its_backlog_and_is_never_at_zero(tmp_path):
    query = adapted("pellucid_backlog_seconds", ["a", "b"], **{"class": "predictions"})

    # The last sample is at four minutes.
    assert answers(query, 5, {'{pod="a"}': 4, '{pod="b"}': 8}, tmp_path)
    assert answers(query, 10, {'{pod="a"}': 4}, tmp_path)
    assert answers(adapted("pellucid_backlog_seconds", ["gone"]), 10, {}, tmp_path)


def test_the_adapters_busy_ratio_is_at_most_one_and_the_mean_of_the_pods_workers(tmp_path):
    # Worker 0 of a: 7.5 s of 15. Worker 1 claims 30 s of 15, which counts as all.
    query = adapted("pellucid_device_busy_ratio", ["a", "b"])
    assert answers(query, 3, {'{pod="a"}': 0.75, '{pod="b"}': 0.125}, tmp_path)


def test_kedas_queries_are_means_over_the_pods_of_this_deployment_alone(tmp_path):
    queries = {each["name"]: each["metadata"]["query"] for each in scaler("keda")["spec"]["triggers"]}

    assert answers(queries["backlog-predictions"], 3, {"{}": 6}, tmp_path)
    assert answers(queries["backlog-bulk"], 3, {"{}": 60}, tmp_path)
    assert answers(queries["busy"], 3, {"{}": 0.4375}, tmp_path)


def test_kedas_queries_take_a_silent_pod_for_one_like_the_others(tmp_path):
    queries = {each["name"]: each["metadata"]["query"] for each in scaler("keda")["spec"]["triggers"]}

    assert answers(queries["backlog-predictions"], 5, {"{}": 6}, tmp_path)
    assert answers(queries["backlog-predictions"], 10, {"{}": 4}, tmp_path)


def test_keda_takes_no_answer_for_an_error_and_not_for_zero():
    scaled = scaler("keda")["spec"]

    assert {each["metadata"]["ignoreNullValues"] for each in scaled["triggers"]} == {"false"}
    assert {each["metricType"] for each in scaled["triggers"]} == {"Value"}
    assert scaled["minReplicaCount"] >= 1


def test_kedas_queries_name_the_namespace_and_the_instance_of_the_chart(tmp_path):
    from deploy.kubernetes_tools import helm, objects

    rendered = helm("template", "second", CHART, "-n", "other", "--set", "autoscaling.kind=keda")
    [scaled] = [each for each in objects(rendered.stdout) if each["kind"] == "ScaledObject"]
    for trigger in scaled["spec"]["triggers"]:
        assert 'namespace="other"' in trigger["metadata"]["query"]
        assert 'app_kubernetes_io_instance="second"' in trigger["metadata"]["query"]


def test_the_labels_in_kedas_queries_are_those_that_the_pod_monitor_adds():
    [monitor] = [each for each in kustomized(KUBERNETES / "overlays" / "monitoring") if each["kind"] == "PodMonitor"]
    added = {re.sub(r"[^a-zA-Z0-9_]", "_", name) for name in monitor["spec"]["podTargetLabels"]}
    for trigger in scaler("keda")["spec"]["triggers"]:
        named = set(re.findall(r"(\w+)=", trigger["metadata"]["query"]))
        assert named - added <= {"namespace", "class"}


def test_every_metric_that_the_autoscaler_asks_for_has_a_rule_of_the_adapter():
    asked_for = {each["pods"]["metric"]["name"] for each in scaler("hpa")["spec"]["metrics"]}

    assert asked_for == {each["name"]["as"] for each in ADAPTER}


def test_the_adapters_rules_have_its_fields_alone():
    for rule in ADAPTER:
        assert set(rule) == {"seriesQuery", "resources", "name", "metricsQuery"}
        assert rule["resources"] == {"overrides": {name: {"resource": name} for name in ("namespace", "pod")}}


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_each_class_has_a_target_well_below_where_requests_are_refused(kind):
    classes = load().classes
    if kind == "hpa":
        metrics = [each["pods"] for each in scaler(kind)["spec"]["metrics"] if "selector" in each["pods"]["metric"]]
        targets = {
            each["metric"]["selector"]["matchLabels"]["class"]: each["target"]["averageValue"] for each in metrics
        }
    else:
        triggers = [each for each in scaler(kind)["spec"]["triggers"] if each["name"] != "busy"]
        targets = {each["name"].removeprefix("backlog-"): each["metadata"]["threshold"] for each in triggers}

    assert set(targets) == set(classes)
    for name, target in targets.items():
        assert 0 < float(target) <= classes[name].queue_seconds / 4


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_pods_are_taken_away_slowly_and_one_at_a_time(kind):
    spec = scaler(kind)["spec"]
    behavior = spec["behavior"] if kind == "hpa" else spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert [(each["type"], each["value"]) for each in behavior["scaleDown"]["policies"]] == [("Pods", 1)]


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_an_autoscaler_has_the_replicas_to_itself(kind):
    [deployment] = [
        each for each in rendered_chart("--set", f"autoscaling.kind={kind}") if each["kind"] == "Deployment"
    ]

    assert "replicas" not in deployment["spec"]
