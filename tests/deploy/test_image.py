"""The image, run by a real engine as hardened as in production, and asked from outside."""

import json
import re
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from deploy.engines import HARDENED, Engine
from deploy.tools import ROOT, free_port
from e2e.messages import long_request
from e2e.serving import LONG_SECONDS, wait_until
from pellucid import Client
from pellucid.v1 import explanation_service_pb2_grpc
from pellucid_server.settings.sections import ServerConfig
from sklearn.datasets import load_breast_cancer

# The base takes minutes where the machine is busy.
pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]

DOCKERFILE = ROOT / "deploy" / "image" / "Dockerfile"
MODELS = ROOT / "models"
MODEL = "breast-cancer"
SBOM = "/usr/share/pellucid/sbom.cdx.json"
LARGEST_BYTES = 1_300_000_000
ROWS, GRACE_SECONDS = 8, 100
START_SECONDS = 300.0
"""As the image's health check allows for a start."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROW = dict(zip((str(name) for name in load_breast_cancer().feature_names), load_breast_cancer().data[0], strict=True))
"""A malignant one."""


@dataclass(frozen=True)
class Container:
    """A container in which a server runs."""

    engine: Engine
    id: str
    port: int
    metrics_port: int

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell's commands in it, as its user."""
        return self.engine("exec", self.id, "sh", "-c", script, check=check)

    def healthy(self) -> bool:
        """Whether its health check has passed."""
        assert self.state("Status") == "running", self.engine("logs", self.id)
        if self.engine.checks_health:
            return self.state("Health.Status") == "healthy"
        return subprocess.run([*self.engine.command, "exec", self.id, "pellucid-health"], check=False).returncode == 0

    def state(self, path: str) -> str:
        return self.engine("inspect", "--format", f"{{{{.State.{path}}}}}", self.id)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=LONG_SECONDS) as page:
            text: str = page.read().decode()
        return text


@contextmanager
def running(engine: Engine, image: str, *options: str) -> Iterator[Container]:
    """Run the image on the table model and wait until it is healthy."""
    port, metrics_port = free_port(), free_port()
    # All containers are in the machine's network.
    own = {"PORT": port, "METRICS_PORT": metrics_port, "HEALTH_PORT": free_port()}
    ports = [f"--env=PELLUCID_SERVER__{name}={own[name]}" for name in own if name.lower() in ServerConfig.model_fields]
    container = engine.run(
        image,
        *HARDENED,
        *options,
        *ports,
        *("--volume", f"{(MODELS / MODEL).resolve()}:/models/{MODEL}:ro"),
        *("--env", "PELLUCID_WORKER__THREADS=1", "--env", f"PELLUCID_SERVER__GRACE_SECONDS={GRACE_SECONDS}"),
    )
    try:
        made = Container(engine, container, port, metrics_port)
        wait_until(made.healthy, seconds=START_SECONDS, what="the container is healthy")
        yield made
    finally:
        engine("rm", "--force", container)


@pytest.fixture(scope="module")
def container(engine: Engine, image: str) -> Iterator[Container]:
    with running(engine, image) as made:
        yield made


@pytest.fixture(scope="module")
def client(container: Container) -> Iterator[Client]:
    with Client(f"127.0.0.1:{container.port}", timeout=LONG_SECONDS) as connected:
        yield connected


def logits(rows: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return what the model's file says of standardized rows, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(MODELS / MODEL / "1" / "model.onnx")
    (found,) = session.run(["output"], {"features": rows.astype(np.float32)})
    return np.asarray(found, np.float64)


def standardized() -> "np.ndarray[Any, Any]":
    """Return the row as the model's file takes it."""
    columns = tomllib.loads((MODELS / MODEL / "model.toml").read_text())["inputs"][0]["columns"]
    return np.array([[(ROW[each["name"]] - each["mean"]) / each["standard_deviation"] for each in columns]])


def test_the_dockerfile_is_as_hadolint_wants_it() -> None:
    done = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_says_what_it_was_made_of_and_is_no_larger_than_documented(engine: Engine, image: str) -> None:
    facts = json.loads(engine("inspect", "--type", "image", image))[0]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in facts["Config"]["Labels"].items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    print(f"{engine.name} built an image of {facts['Size'] / 1e6:.0f} MB")
    assert labels["version"] == PROJECT["version"]
    assert labels["revision"].removesuffix("-changed") == commit.strip()
    assert labels["licenses"] == PROJECT["license"]
    assert labels["description"] == PROJECT["description"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", labels["created"])
    assert facts["Config"]["User"] == "10001:10001"
    assert facts["Size"] < LARGEST_BYTES


def test_a_prediction_through_the_image_is_what_the_models_file_says(client: Client) -> None:
    prediction = client.predict(MODEL, ROW)

    np.testing.assert_allclose(prediction.outputs["output"], logits(standardized()), rtol=1e-4)
    assert prediction.top[0][0].name == "malignant"


def test_an_explanation_through_the_image_adds_up_to_the_scores_distance_from_the_background(client: Client) -> None:
    background = np.load(MODELS / MODEL / "background.npz")["features"]

    explained = client.attribute(MODEL, ROW, "kernel-shap", target="malignant", samples=512, seed=7)

    distance = logits(standardized())[0, 0] - logits(background)[:, 0].mean()
    assert sum(explained.by_column.values()) == pytest.approx(distance, rel=1e-3)
    assert set(explained.by_column) == set(ROW)


def test_nothing_in_the_container_has_a_privilege(container: Container) -> None:
    status = dict(line.split(":\t", 1) for line in container.sh("cat /proc/1/status").splitlines() if ":\t" in line)

    assert status["Name"] == "pellucid-server"
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert container.sh("id -u") == "10001"


def test_only_the_folder_for_scratch_can_be_written(container: Container) -> None:
    places = ("/", "/etc/pellucid", "/opt/pellucid", "/models", f"/models/{MODEL}", "/usr/share/pellucid", "/data")
    for place in places:
        assert "Read-only file system" in container.sh(f"touch {place}/new", check=False), place

    assert container.sh("touch /tmp/new && echo written") == "written"
    written = container.sh("find / -xdev -newer /proc/1/comm -type f -not -path '/proc/*' 2> /dev/null", check=False)
    assert written == ""


def test_the_folder_of_job_data_can_be_written_once_it_is_mounted(engine: Engine, image: str) -> None:
    script = "touch /data/job && echo written"
    options = ("--network", "none", "--tmpfs", "/data:uid=10001", *engine.run_options)

    written = engine("run", "--rm", *options, *HARDENED, "--entrypoint", "sh", image, "-c", script)

    assert written == "written"


def test_there_is_no_compiler_no_cache_of_packages_and_no_wheel_in_the_image(container: Container) -> None:
    tools = "gcc g++ cc c++ cpp clang make cmake ld as nvcc"
    found = container.sh(f"for tool in {tools}; do command -v $tool; done", check=False)
    names = ("cc1", "cc1plus", "*.whl", "*.deb", "libtorch*.a")
    wanted = " -o ".join((*(f"-name '{name}'" for name in names), "-path '*/.cache/pip'", "-path '*/torch/include'"))
    # Python's own installer of packages comes with the base, as a wheel.
    passed_over = "-path '*/ensurepip' -prune -o -path '*/python-wheels' -prune -o -path /proc -prune"
    script = f"find / -xdev {passed_over} -o \\( {wanted} \\) -print"
    files = container.engine("exec", "--user", "0", container.id, "sh", "-c", script)

    assert found == ""
    assert files == ""


def test_the_bill_of_materials_is_valid_and_lists_what_pip_and_dpkg_list(container: Container) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = container.sh(f"cat {SBOM}")
    bill = json.loads(text)
    listed = {each["purl"].partition("?")[0] for each in (bill["metadata"]["component"], *bill["components"])}
    pip = json.loads(container.sh("/usr/bin/python3 -m pip --python /opt/pellucid/bin/python list --format json"))
    dpkg = container.sh("dpkg-query -W -f '${Package} ${Version}\\n'").splitlines()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert {f"pkg:pypi/{canonical(each['name'])}@{quoted(each['version'])}" for each in pip} <= listed
    assert {f"pkg:deb/debian/{quoted(name)}@{quoted(version)}" for name, version in map(str.split, dpkg)} <= listed
    assert len(listed) == len(pip) + len(dpkg)
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]
    assert "pkg:pypi/torch" in {locator.partition("@")[0] for locator in listed}


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def quoted(text: str) -> str:
    """Spell a name or version as locators have it."""
    return text.replace("+", "%2B").replace(":", "%3A").replace("~", "~")


def test_the_same_packages_make_the_same_bill_of_materials(container: Container) -> None:
    script = (DOCKERFILE.parent / "sbom.py").read_text()
    again = subprocess.run(
        [*container.engine.command, "exec", "-i", container.id, "python", "-P", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )

    assert again.stdout.strip() == container.sh(f"cat {SBOM}")


def test_a_killed_worker_comes_back_and_leaves_no_dead_processes_to_the_containers_first(container: Container) -> None:
    worker = container.sh("grep -l pellucid-worker /proc/[0-9]*/comm | head -1 | cut -d/ -f3")

    container.sh(f"kill -9 {worker}")
    with Client(f"127.0.0.1:{container.port}", timeout=LONG_SECONDS) as client:
        answer = client.predict(MODEL, ROW)

    assert answer.top[0][0].name == "malignant"
    assert 'pellucid_worker_losses_total{cause="exit",device="cpu"} 1.0' in container.metrics()
    dead = "grep -l '^State:.Z' /proc/[0-9]*/status 2> /dev/null"
    wait_until(lambda: container.sh(dead, check=False) == "", seconds=LONG_SECONDS, what="the dead are gone")


def test_sigterm_during_an_explanation_answers_it_and_exits_with_0(engine: Engine, image: str) -> None:
    with running(engine, image) as container, grpc.insecure_channel(f"127.0.0.1:{container.port}") as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        call = stub.Attribute.future(long_request(rows=ROWS), timeout=LONG_SECONDS)
        wait_until(
            lambda: call.done() or "pellucid_requests_pending 0.0" not in container.metrics(),
            seconds=LONG_SECONDS,
            what="the worker explains",
        )
        answered_before = call.done()

        engine("stop", "--time", "120", container.id)

        log = engine("logs", container.id)
        state = {name: container.state(name) for name in ("ExitCode", "OOMKilled")}
        answer = call.result(LONG_SECONDS)
    assert not answered_before
    assert len(answer.explanation.attributions) == ROWS
    assert state == {"ExitCode": "0", "OOMKilled": "false"}, log
    messages = [json.loads(line).get("message", "") for line in log.splitlines()]
    assert messages.index(f"stopping; requests have {GRACE_SECONDS} s to end") < messages.index("stopped")


def test_an_unhealthy_server_is_found_out(engine: Engine, image: str) -> None:
    options = (*engine.run_options, "--network", "none", *HARDENED)

    said = engine("run", "--rm", *options, "--entrypoint", "pellucid-health", image, check=False)

    assert said == "pellucid-health: 127.0.0.1:50052 answered UNAVAILABLE."
