"""deploy/compose.yaml and what it mounts: every file is there, and ports, limits and names are those of the docs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pellucid_server.config import Config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MONITORING = DEPLOY / "monitoring"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "image" / "Dockerfile").read_text()


def mounts(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the mounts of a kind, with the names of their services."""
    for name, service in SERVICES.items():
        for mount in service["volumes"]:
            if mount["type"] == kind:
                yield name, mount


def source(service: str, target: str) -> Path:
    """Return the file or folder that a service finds at a path, which may lie below what is mounted."""
    for name, mount in mounts("bind"):
        if name == service and Path(target).is_relative_to(mount["target"]):
            return (DEPLOY / mount["source"] / Path(target).relative_to(mount["target"])).resolve()
    raise AssertionError(f"{service} has nothing at {target}")


def seconds(text: str) -> int:
    """Return a duration that is written in seconds."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return int(found[1])


def test_every_mounted_file_is_in_the_repository_and_is_mounted_read_only() -> None:
    found = list(mounts("bind"))
    for _, mount in found:
        path = (DEPLOY / mount["source"]).resolve()
        assert path == ROOT / "models" or path.exists(), path
        assert mount["read_only"] is True, mount
        # A misspelt path must fail, and not be made as an empty folder.
        assert mount["bind"] == {"create_host_path": False}
    assert len(found) == 7


def test_every_volume_is_declared_and_every_declared_one_is_used() -> None:
    assert {mount["source"] for _, mount in mounts("volume")} == set(COMPOSE["volumes"])


def test_no_port_is_open_to_other_machines_and_no_two_are_the_same() -> None:
    ports = [port for service in SERVICES.values() for port in service["ports"]]

    assert all(port.startswith("127.0.0.1:") for port in ports), ports
    assert len(set(ports)) == len(ports)


def test_the_server_has_the_ports_of_the_settings_and_nothing_that_it_does_not_need() -> None:
    server, settings = SERVICES["pellucid"], Config().server

    assert server["ports"] == [f"127.0.0.1:{port}:{port}" for port in (settings.port, settings.metrics_port)]
    assert server["read_only"] is True
    assert server["tmpfs"] == ["/tmp"]  # the docs' only writable folder
    assert f"USER {server['user']}" in DOCKERFILE
    assert "privileged" not in server


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_capabilities_or_gains_privileges(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(SERVICES[name])


def test_the_health_check_is_the_image_s() -> None:
    check = SERVICES["pellucid"]["healthcheck"]
    (options, command) = re.findall(r'HEALTHCHECK (.*) CMD \["(.*)"\]', DOCKERFILE)[0]

    assert check["test"] == ["CMD", command]
    assert f"--interval={check['interval']} --timeout={check['timeout']}" in options
    assert f"--start-period={check['start_period']} --retries={check['retries']}" in options
    assert seconds(check["start_period"]) >= Config().pool.start_seconds


def test_the_engine_waits_for_the_whole_drain() -> None:
    # Up to five seconds before new connections are refused, and two for a last span.
    assert seconds(SERVICES["pellucid"]["stop_grace_period"]) >= Config().server.grace_seconds + 5 + 2


def test_every_setting_that_is_given_to_the_server_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["pellucid"]["environment"].items():
        monkeypatch.setenv(name, value)

    assert Config().models.poll_seconds == 5


def test_images_are_of_one_version_and_the_server_s_is_never_fetched() -> None:
    for name, service in SERVICES.items():
        if name != "pellucid":
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]
    assert SERVICES["pellucid"]["pull_policy"] == "never"


def test_prometheus_has_the_shipped_configuration_with_the_services_names() -> None:
    plain = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    found = yaml.safe_load(source("prometheus", "/etc/prometheus/prometheus.yml").read_text())

    (target,) = found["scrape_configs"][0]["static_configs"][0]["targets"]
    (alertmanager,) = found["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert target == f"pellucid:{Config().server.metrics_port}"
    assert alertmanager == "alertmanager:9093"
    plain["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    plain["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    assert found == plain
    assert {target.partition(":")[0], alertmanager.partition(":")[0]} <= set(SERVICES)


def test_prometheus_finds_the_rules_beside_its_configuration() -> None:
    (pattern,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["rule_files"]

    assert pattern == "rules/*.yaml"
    assert source("prometheus", "/etc/prometheus/rules") == MONITORING / "rules"


@pytest.mark.parametrize("service", ["prometheus", "alertmanager"])
def test_what_is_named_on_a_command_line_is_mounted(service: str) -> None:
    options = dict(option.split("=", 1) for option in SERVICES[service]["command"])
    volumes = {mount["target"] for name, mount in mounts("volume") if name == service}

    assert source(service, options["--config.file"]).is_file()
    assert {value for option, value in options.items() if option.endswith(".path")} == volumes


def test_grafana_finds_its_dashboards_and_reads_the_prometheus_beside_it() -> None:
    provisioning = "/etc/grafana/provisioning"
    (data,) = yaml.safe_load(source("grafana", f"{provisioning}/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load(source("grafana", f"{provisioning}/dashboards/pellucid.yaml").read_text())["providers"]
    scrape = yaml.safe_load((MONITORING / "prometheus.compose.yml").read_text())["global"]["scrape_interval"]

    assert data["type"] == "prometheus"
    assert data["url"] == "http://prometheus:9090"
    assert data["isDefault"] is True
    assert data["jsonData"]["timeInterval"] == scrape
    assert source("grafana", provider["options"]["path"]) == MONITORING / "dashboards"


def test_who_is_not_signed_in_to_grafana_sees_and_changes_nothing() -> None:
    settings = SERVICES["grafana"]["environment"]

    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")
    assert source("grafana", settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()
