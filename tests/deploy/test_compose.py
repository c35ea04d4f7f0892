"""deploy/compose.yaml against the Compose Specification's schema, and its configurations before promtool and amtool.

No engine with Compose is used: the images of Prometheus and Grafana are not at hand where these checks run.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from deploy.prometheus_tools import run
from deploy.tools import ROOT, npm_folder
from monitoring.test_compose import COMPOSE, source

pytestmark = pytest.mark.deploy

SCHEMA_PACKAGE = "dclint@3.1.0"
"""It has the Compose Specification's schema in it."""


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    """The Compose Specification's schema."""
    folder = npm_folder("compose", SCHEMA_PACKAGE)
    text = (folder / "node_modules" / "dclint" / "schemas" / "compose.schema.json").read_text()
    return jsonschema.Draft7Validator(json.loads(text))


def test_compose_yaml_fits_the_compose_specification(schema: jsonschema.Draft7Validator) -> None:
    assert [error.message for error in schema.iter_errors(COMPOSE)] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda services: services["pellucid"].update(readonly=True),
        lambda services: services["pellucid"].update(tmpfs=1),
        lambda services: services["pellucid"]["healthcheck"].update(start="1s"),
        lambda services: services["grafana"]["volumes"][0]["bind"].update(create="yes"),
        lambda services: services["prometheus"].update(ports={"9090": 9090}),
    ],
)
def test_the_schema_refuses_what_is_misspelt(
    schema: jsonschema.Draft7Validator, spoil: Callable[[dict[str, Any]], None]
) -> None:
    spoiled = copy.deepcopy(COMPOSE)
    spoil(spoiled["services"])

    assert not schema.is_valid(spoiled)


def test_prometheus_and_alertmanager_take_the_mounted_configurations() -> None:
    said = run("promtool", "check", "config", ROOT / "deploy" / "monitoring" / "prometheus.compose.yml")
    run("amtool", "check-config", source("alertmanager", "/etc/alertmanager/alertmanager.yml"))

    assert said.count("rules found") == len(list((ROOT / "deploy" / "monitoring" / "rules").glob("*.yaml")))
