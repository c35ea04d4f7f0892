"""What docs/kubernetes.md shows works, and what it names exists."""

import re
import tomllib

import pytest
import yaml
from deploy.kubernetes_tools import CHART, KUBERNETES, ROOT, kustomized, relative, rendered_chart
from pellucid_server.config import Config

pytestmark = pytest.mark.deploy

DOCS = (ROOT / "docs" / "kubernetes.md").read_text()
OTHER_NAMES = {"pellucid.liveness"}


def test_the_overlay_of_the_walk_through_works(tmp_path):
    overlay, settings_file = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)[:2]
    text = overlay.replace("../pellucid/deploy/kubernetes", relative(tmp_path, KUBERNETES)) + settings_file
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "pellucid.toml").write_text("[server]\nport = 50051\n")

    documents = kustomized(tmp_path)

    [deployment] = [each for each in documents if each["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.com/pellucid:")
    assert "PELLUCID_TLS__CERTIFICATE" in {each["name"] for each in container["env"]}
    [map_] = [each for each in documents if "pellucid.toml" in each.get("data", {})]
    assert tomllib.loads(map_["data"]["pellucid.toml"]) == {"server": {"port": 50051}}


def test_the_values_of_the_walk_through_are_taken(tmp_path):
    values = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)[2]
    (tmp_path / "values.yaml").write_text(values)

    [deployment] = [each for each in rendered_chart("-f", tmp_path / "values.yaml") if each["kind"] == "Deployment"]

    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 312


def test_every_setting_and_value_that_the_walk_through_names_exists():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`([a-z]+\.[a-zA-Z_.]+)(?:=[a-z]+)?`", DOCS)) - OTHER_NAMES
    files = {name for name in named if name.endswith((".yaml", ".toml"))}
    known = {f"{section}.{name}" for section, each in Config().model_dump().items() for name in each}

    for name in named - files - known:
        part = values
        for step in name.split("."):
            assert step in part, name
            part = part[step]
    assert len(named) >= 15
