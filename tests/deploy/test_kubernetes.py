"""The manifests and the chart: valid for Kubernetes, and the same objects."""

import copy
import json
import re
import tarfile
import tomllib

import kubernetes_validate
import pytest
import yaml
from deploy.custom_resources import is_custom, problems_by_kserve, problems_by_node
from deploy.kubernetes_tools import CHART, KUBERNETES, ROOT, helm, kustomized, objects, relative, rendered_chart

pytestmark = pytest.mark.deploy

VERSIONS = ("1.28", "1.34", "1.37")
"""The oldest that the chart takes, kubectl's own, and the newest whose schemas there are."""

VARIANTS = {
    "cpu": (),
    "gpu": ("-f", CHART / "values-gpu.yaml"),
    "monitoring": ("-f", CHART / "values-monitoring.yaml"),
}
COMPONENTS = {
    "keda": ("--set", "autoscaling.kind=keda"),
    "hpa": ("--set", "autoscaling.kind=hpa"),
    "tls": ("--set", "tls.secret=pellucid-tls,tls.clientCertificates=true"),
    "access": ("--set", "access.secret=pellucid-access"),
    "datasets": ("--set", "datasets.existingClaim=pellucid-datasets"),
    "job-data": ("--set", "jobData.enabled=true"),
}
KINDS = {
    *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim", "Pod"),
    *("PodDisruptionBudget", "PodMonitor", "PrometheusRule", "ScaledObject", "Service", "ServiceAccount"),
}


def manifests(name):
    return kustomized(KUBERNETES / "overlays" / name)


@pytest.fixture(scope="session")
def with_components(tmp_path_factory):
    """Return what the overlay for CPUs becomes with components."""

    def render(*names):
        folder = tmp_path_factory.mktemp("overlay")
        base = relative(folder, KUBERNETES)
        components = [f"{base}/components/{name}" for name in names]
        kustomization = {"resources": [f"{base}/overlays/cpu"], "components": components}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomized(folder)

    return render


@pytest.fixture(scope="session")
def everything(with_components):
    """Return each object of all variants and components once."""
    documents = [document for name in VARIANTS for document in manifests(name)]
    documents += [document for name in COMPONENTS for document in with_components(name)]
    for arguments in (*VARIANTS.values(), *COMPONENTS.values()):
        documents += rendered_chart(*arguments)
    documents += objects((KUBERNETES / "models-loader.yaml").read_text())
    return list({json.dumps(each, sort_keys=True): each for each in documents}.values())


# Sameness


def normalised(documents):
    """Return objects by kind and name, without what only Helm or only kustomize adds."""
    return {(each["kind"], _plain(each["metadata"]["name"])): _normalised(each) for each in documents}


def _plain(name):
    """Return a generated ConfigMap's name without the hash of its content."""
    return re.sub(r"^(pellucid-config)-[a-z0-9]{10}$", r"\1", name)


def _normalised(document):
    document = copy.deepcopy(document)
    metadata = document["metadata"]
    metadata["name"] = _plain(metadata["name"])
    metadata["labels"] = _labels(metadata["labels"])
    metadata.pop("annotations", None)
    spec = document.get("spec", {})
    if document["kind"] == "Deployment":
        _normalise_pod(spec["template"])
    if document["kind"] == "ConfigMap" and "pellucid.toml" in document["data"]:
        document["data"]["pellucid.toml"] = tomllib.loads(document["data"]["pellucid.toml"])
    if document["kind"] == "PrometheusRule":
        spec["groups"].sort(key=lambda group: group["name"])
    if document["kind"] == "HorizontalPodAutoscaler":
        spec["metrics"].sort(key=json.dumps)
    return document


def _labels(labels):
    own = ("app.kubernetes.io/managed-by", "app.kubernetes.io/part-of", "app.kubernetes.io/version", "helm.sh/chart")
    return {name: value for name, value in labels.items() if name not in own}


def _normalise_pod(template):
    template["metadata"].pop("annotations", None)
    for volume in template["spec"]["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["name"] = _plain(volume["configMap"]["name"])
    [container] = template["spec"]["containers"]
    for part in (container["env"], container["volumeMounts"], template["spec"]["volumes"]):
        part.sort(key=lambda each: each["name"])


@pytest.mark.parametrize("name", VARIANTS)
def test_an_overlay_and_the_chart_make_the_same_objects(name):
    ours, charts = normalised(manifests(name)), normalised(rendered_chart(*VARIANTS[name]))

    assert sorted(ours) == sorted(charts)
    for key, each in ours.items():
        assert each == charts[key], key


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_and_the_charts_value_make_the_same_objects(name, with_components):
    assert normalised(with_components(name)) == normalised(rendered_chart(*COMPONENTS[name]))


# Those that each of the three excludes: jobs are one pod's.
@pytest.mark.parametrize("without", [{"hpa", "job-data"}, {"keda", "job-data"}, {"hpa", "keda"}], ids=sorted)
def test_components_go_together(without, with_components):
    names = [name for name in COMPONENTS if name not in without]
    arguments = [part for name in names for part in COMPONENTS[name]]

    assert normalised(with_components(*names)) == normalised(rendered_chart(*arguments))


def test_jobs_are_of_one_pod_which_is_stopped_before_the_next_is_started():
    [deployment] = [each for each in rendered_chart(*COMPONENTS["job-data"]) if each["kind"] == "Deployment"]

    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    refused = helm("template", "pellucid", CHART, *COMPONENTS["job-data"], *COMPONENTS["hpa"])
    assert refused.returncode != 0
    assert "the folder of jobs is one pod's" in refused.stderr


def test_a_change_of_the_settings_replaces_the_pods(tmp_path):
    def pod(documents):
        [deployment] = [each for each in documents if each["kind"] == "Deployment"]
        return deployment["spec"]["template"]

    more = tmp_path / "more"
    more.mkdir()
    (more / "pellucid.toml").write_text("[server]\nport = 50051\n")
    merged = {"name": "pellucid-config", "namespace": "pellucid", "behavior": "merge", "files": ["pellucid.toml"]}
    overlay = relative(more, KUBERNETES / "overlays" / "cpu")
    (more / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [overlay], "configMapGenerator": [merged]}))

    assert pod(kustomized(more)) != pod(manifests("cpu"))
    assert pod(rendered_chart("--set", "settings.server.grace_seconds=91")) != pod(rendered_chart())


def test_rules_and_dashboards_are_those_of_the_monitoring_folder():
    documents = manifests("monitoring")
    [rule] = [each for each in documents if each["kind"] == "PrometheusRule"]
    [boards] = [each for each in documents if "grafana_dashboard" in each["metadata"]["labels"]]
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "deploy/monitoring/rules").glob("*.yaml")]
    groups = {group["name"]: group for file in files for group in file["groups"]}

    assert groups
    # Prometheus refuses a file with two groups of one name, and the operator makes one file of a PrometheusRule.
    assert len(rule["spec"]["groups"]) == len(groups)
    assert {group["name"]: group for group in rule["spec"]["groups"]} == groups
    dashboards = {path.name: json.loads(path.read_text()) for path in (ROOT / "deploy/monitoring/dashboards").glob("*")}
    assert {name: json.loads(text) for name, text in boards["data"].items()} == dashboards


# Validity


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_for_kubernetes(version, everything):
    assert {each["kind"] for each in everything} == KINDS
    for each in everything:
        if not is_custom(each):
            assert kubernetes_validate.validate(each, version, strict=True).startswith(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_refuse_a_misspelt_field(version):
    [deployment] = [each for each in manifests("cpu") if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, version, strict=True)


def test_custom_resources_are_valid_for_their_operators(everything, tmp_path):
    custom = [each for each in everything if is_custom(each)]

    assert {each["kind"] for each in custom} == {"PodMonitor", "PrometheusRule", "ScaledObject"}
    assert problems_by_node(custom, tmp_path) == []


def test_wrong_custom_resources_are_found(with_components, tmp_path):
    [scaled] = [each for each in with_components("keda") if each["kind"] == "ScaledObject"]
    misspelt, wrong = copy.deepcopy(scaled), copy.deepcopy(scaled)
    misspelt["spec"]["pollInterval"] = 15
    wrong["spec"]["triggers"] = "prometheus"

    said = "\n".join(problems_by_node([misspelt, wrong], tmp_path))

    assert "'\"pollInterval\"' does not exist" in said
    assert "Type 'string' is not assignable" in said
    assert "must be array" in said


def test_the_objects_for_kserve_are_valid():
    documents = kustomized(KUBERNETES / "kserve")

    assert {each["kind"] for each in documents} == {"ClusterServingRuntime", "InferenceService"}
    assert [problem for each in documents for problem in problems_by_kserve(each)] == []


def test_wrong_objects_for_kserve_are_found():
    runtime, service = kustomized(KUBERNETES / "kserve")
    runtime["spec"]["containers"][0]["probe"] = {}
    runtime["spec"]["protocolVersion"] = ["grpc-v2"]
    service["spec"]["predictor"]["minReplicas"] = "1"

    assert len(list(problems_by_kserve(runtime))) == 2
    assert len(list(problems_by_kserve(service))) == 1


def test_the_chart_has_no_lint():
    result = helm("lint", "--strict", "--quiet", CHART)

    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("gpu", "monitoring"):
        assert helm("lint", "--strict", "--quiet", CHART, "-f", CHART / f"values-{name}.yaml").returncode == 0


def test_the_chart_is_packed_with_its_rules_and_dashboards(tmp_path):
    assert helm("package", CHART, "-d", tmp_path).returncode == 0

    [package] = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        packed = {name.removeprefix("pellucid/files/") for name in archive.getnames()}
    sources = ROOT / "deploy" / "monitoring"
    wanted = [*sources.glob("rules/*.yaml"), *sources.glob("dashboards/*.json")]
    assert wanted
    assert {str(path.relative_to(sources)) for path in wanted} <= packed


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("replicas=-1", "/replicas"),
        ("settings.server.ports=1", "additional properties 'ports' not allowed"),
        ("settings.server.health_port=-1", "/settings/server/health_port"),
        ("settings.server.grace_seconds=-1", "/settings/server/grace_seconds"),
        ("settings.logging.format=xml", "/settings/logging/format"),
        ("settings.faults.folder=/tmp", "additional properties 'faults' not allowed"),
        ("settings.models.repository=/other", "/settings/models/repository"),
        ("gpu.count=two", "/gpu/count"),
        ("autoscaling.kind=vpa", "/autoscaling/kind"),
        ("autoscaling.backlogSeconds.bulk=0", "/autoscaling/backlogSeconds/bulk"),
        ("tls.clientCertificates=true", "/tls/secret"),
        ("resources.limits.memory=4GB", "/resources/limits/memory"),
        ("image.digest=sha256:12", "/image/digest"),
        ("podDisruptionBudget.maxUnavailable=0", "/podDisruptionBudget/maxUnavailable"),
        ("models.subPath=../secrets", "/models/subPath"),
        (
            "autoscaling.kind=hpa,autoscaling.maxReplicas=1",
            "minReplicas is 2, above autoscaling.maxReplicas, which is 1",
        ),
        ("autoscaling.kind=keda,autoscaling.backlogSeconds.night=9", 'backlogSeconds has "night", which is no class'),
        ("gpu.count=2,settings.pool.devices={cuda:0}", "settings.pool.devices has 1 CUDA devices, but gpu.count is 2"),
        ("settings.pool.devices={cuda:0}", "settings.pool.devices has 1 CUDA devices, but gpu.count is 0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(values, says):
    result = helm("template", "pellucid", CHART, "--set", values)

    assert result.returncode != 0
    assert says in result.stderr
