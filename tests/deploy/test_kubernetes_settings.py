"""What the manifests say of the server: its settings, ports, probes and ends are those of the server itself."""

import math
import tomllib

import pytest
from deploy.kubernetes_tools import CHART, KUBERNETES, ROOT, kustomized, objects, rendered_chart
from pellucid_server.config import Config, load

pytestmark = pytest.mark.deploy

HEALTH = "health"
EVERYTHING = "tls.secret=t,tls.clientCertificates=true,access.secret=a,datasets.existingClaim=d,jobData.enabled=true"
# What the image sets, and more: a variable wins over the file.
IMAGE = {"PELLUCID_CONFIG": "/etc/pellucid/pellucid.toml", "PELLUCID_SERVER__HOST": "127.0.0.1"}
OTHER_TIMES = 'settings={"server":{"grace_seconds":600.5},"pool":{"exit_seconds":7}}'
RENDERINGS = {
    "overlay cpu": lambda: kustomized(KUBERNETES / "overlays" / "cpu"),
    "overlay gpu": lambda: kustomized(KUBERNETES / "overlays" / "gpu"),
    "overlay monitoring": lambda: kustomized(KUBERNETES / "overlays" / "monitoring"),
    "chart": rendered_chart,
    "chart gpu": lambda: rendered_chart("-f", CHART / "values-gpu.yaml"),
    "chart with four gpus": lambda: rendered_chart("-f", CHART / "values-gpu.yaml", "--set", "gpu.count=4"),
    "chart with everything": lambda: rendered_chart("--set", EVERYTHING),
    "chart with other times": lambda: rendered_chart("--set-json", OTHER_TIMES, "--set", "preStopSeconds=11"),
    "chart with another class": lambda: rendered_chart("--set-json", 'settings.classes={"bulk":{"weight":0.5},"x":{}}'),
    "chart with other ports": lambda: rendered_chart(
        "--set", "settings.server.port=1,settings.server.health_port=2,settings.server.metrics_port=3"
    ),
    "chart for ipv6": lambda: rendered_chart("--set-string", "settings.server.host=[::]"),
    "chart with two workers": lambda: rendered_chart("--set", "settings.pool.devices={cpu,cpu}"),
    "chart with slow models": lambda: rendered_chart("--set", "settings.pool.start_seconds=1801"),
}


@pytest.fixture(scope="module", params=RENDERINGS)
def documents(request):
    return RENDERINGS[request.param]()


def one(documents, kind, name="pellucid"):
    [found] = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.fixture
def pod(documents):
    return one(documents, "Deployment")["spec"]["template"]["spec"]


@pytest.fixture
def container(pod):
    [only] = pod["containers"]
    return only


@pytest.fixture
def config(documents, container, tmp_path, monkeypatch) -> Config:
    """The settings as the server in the pod reads them: the file, and the variables of its container."""
    return loaded(documents, container, tmp_path, monkeypatch)


def loaded(documents, container, tmp_path, monkeypatch):
    for name, value in IMAGE.items():
        monkeypatch.setenv(name, value)
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    [map_] = [each for each in documents if "pellucid.toml" in each.get("data", {})]
    path = tmp_path / "pellucid.toml"
    path.write_text(map_["data"]["pellucid.toml"])
    return load(path)


def test_the_server_reads_the_settings_without_error_and_listens_beyond_its_pod(config):
    assert config.server.host in ("0.0.0.0", "[::]")
    assert config.faults.folder == ""


def test_every_setting_of_the_file_is_in_force(documents, config):
    [map_] = [each for each in documents if "pellucid.toml" in each.get("data", {})]
    for section, each in tomllib.loads(map_["data"]["pellucid.toml"]).items():
        if section != "classes":
            there = config.model_dump(mode="json")[section]
            assert each.items() <= there.items()


def test_the_pod_mounts_the_settings_where_the_server_looks(documents, pod, container):
    [named] = [each["value"] for each in container["env"] if each["name"] == "PELLUCID_CONFIG"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "config"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "config"]

    assert mount["mountPath"] == named
    assert "pellucid.toml" in one(documents, "ConfigMap", volume["configMap"]["name"])["data"]


def test_ports_are_the_settings_ports(documents, container, config):
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}

    assert ports == {
        "grpc": config.server.port,
        HEALTH: config.server.health_port,
        "metrics": config.server.metrics_port,
    }
    for name in ("pellucid", "pellucid-headless"):
        [port] = one(documents, "Service", name)["spec"]["ports"]
        assert (port["targetPort"], port["port"]) == ("grpc", config.server.port)
    assert one(documents, "Service", "pellucid-headless")["spec"]["clusterIP"] == "None"


def test_every_probe_is_a_plain_health_check_of_its_own_port(container, config):
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["grpc"]["port"] == config.server.health_port
    # Readiness and the start are about the whole server; a front without a worker is alive.
    assert "service" not in container["readinessProbe"]["grpc"]
    assert "service" not in container["startupProbe"]["grpc"]
    assert container["livenessProbe"]["grpc"]["service"] == "pellucid.liveness"


def test_the_startup_probe_waits_longer_than_the_server_may_take_to_start(documents, container, config):
    probe = container["startupProbe"]
    waits = probe["periodSeconds"] * probe["failureThreshold"]

    assert waits > config.pool.start_seconds
    assert one(documents, "Deployment")["spec"]["progressDeadlineSeconds"] > waits


def test_a_pod_has_the_time_to_finish_what_runs(pod, container, config):
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    needs = float(pause) + config.server.grace_seconds + config.pool.exit_seconds + 2

    assert pod["terminationGracePeriodSeconds"] >= needs
    assert pod["terminationGracePeriodSeconds"] == math.ceil(needs)
    # Endpoints are gone before the server refuses: two readiness periods are a bound on how late callers notice.
    assert float(pause) >= 5


def test_each_gpu_has_a_worker(container, config):
    gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))

    assert [each for each in config.pool.devices if each != "cpu"] == [f"cuda:{number}" for number in range(gpus)]
    assert gpus == 0 or "cpu" not in config.pool.devices


def test_models_and_data_lie_where_the_server_looks(container, config):
    mounts = {each["name"]: each for each in container["volumeMounts"]}

    assert mounts["models"]["mountPath"] == str(config.models.repository)
    assert mounts["models"]["readOnly"]
    assert mounts["data"]["mountPath"] == "/data"
    if "datasets" in mounts:
        assert mounts["datasets"]["mountPath"] == config.models.datasets_place()
        assert mounts["datasets"]["readOnly"]


def test_the_pod_is_restricted(pod, container):
    """The rules of the Pod Security Standard `restricted`, and a root file system that is only read."""
    assert not [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    assert not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for volume in pod["volumes"]:
        assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    assert {each["name"] for each in container["volumeMounts"] if not each.get("readOnly")} == {"data", "tmp"}


def test_a_cpus_limit_is_whole_cores(container):
    assert float(container["resources"]["limits"]["cpu"]).is_integer()


def test_everything_that_selects_pods_selects_these(documents):
    deployment = one(documents, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        one(documents, "Service")["spec"]["selector"],
        one(documents, "Service", "pellucid-headless")["spec"]["selector"],
        one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in deployment["template"]["spec"]["topologySpreadConstraints"]),
        *(each["spec"]["selector"]["matchLabels"] for each in documents if each["kind"] == "PodMonitor"),
    ]

    for selector in selectors:
        assert len(selector) == 2
        assert selector.items() <= labels


def test_the_network_policy_names_ports_that_there_are_and_lets_nothing_out(documents, container):
    policy = one(documents, "NetworkPolicy")["spec"]
    named = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}

    assert named == {"grpc", "metrics"}
    assert named < {each["name"] for each in container["ports"]}
    assert policy["egress"] == []
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]


def test_the_pod_that_loads_models_is_restricted_too():
    [loader] = objects((KUBERNETES / "models-loader.yaml").read_text())
    deployment = one(RENDERINGS["overlay cpu"](), "Deployment")["spec"]["template"]["spec"]
    [container], [server] = loader["spec"]["containers"], deployment["containers"]

    assert loader["spec"]["securityContext"] == deployment["securityContext"]
    assert container["securityContext"] == server["securityContext"]
    assert container["image"] == server["image"]
    [claim] = [each for each in deployment["volumes"] if each["name"] == "models"]
    [mine] = loader["spec"]["volumes"]
    assert mine["persistentVolumeClaim"]["claimName"] == claim["persistentVolumeClaim"]["claimName"]


def test_secrets_are_files_that_the_settings_name(tmp_path, monkeypatch):
    documents = RENDERINGS["chart with everything"]()
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    config = loaded(documents, container, tmp_path, monkeypatch)
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}

    assert str(config.tls.certificate) == f"{mounts['tls']}/tls.crt"
    assert str(config.tls.key) == f"{mounts['tls']}/tls.key"
    assert str(config.tls.client_ca) == f"{mounts['tls']}/ca.crt"
    assert str(config.access.file) == f"{mounts['access']}/access.toml"
    # A renewed certificate reaches a mounted folder, and never a single file that is mounted by itself.
    assert not [each for each in container["volumeMounts"] if each["name"] in ("tls", "access") and "subPath" in each]


def test_kserves_runtime_has_settings_and_ports_of_the_server(tmp_path, monkeypatch):
    runtime, service = kustomized(KUBERNETES / "kserve")
    [container] = runtime["spec"]["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    config = load()

    assert container["name"] == "kserve-container"
    assert str(config.models.repository) == "/mnt/models"
    assert [each["containerPort"] for each in container["ports"]] == [config.server.port]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["grpc"]["port"] == config.server.health_port
    predictor = service["spec"]["predictor"]
    assert predictor["terminationGracePeriodSeconds"] >= config.server.grace_seconds + config.pool.exit_seconds + 2
    [known] = runtime["spec"]["supportedModelFormats"]
    assert predictor["model"]["modelFormat"]["name"] == known["name"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]


def test_versions_are_the_projects():
    import yaml

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = set()
    for name in ("overlay cpu", "overlay gpu", "chart", "chart gpu"):
        [container] = one(RENDERINGS[name](), "Deployment")["spec"]["template"]["spec"]["containers"]
        images.add(container["image"])
    runtime, _ = kustomized(KUBERNETES / "kserve")

    assert runtime["spec"]["containers"][0]["image"] == f"pellucid:{version}"
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version
    assert images == {f"pellucid:{version}", f"pellucid:{version}-cuda"}


def test_new_versions_on_the_volume_are_served_without_a_restart(config):
    assert 0 < config.models.poll_seconds <= 60
