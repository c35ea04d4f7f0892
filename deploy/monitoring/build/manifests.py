"""The rule files and the dashboards as Kubernetes objects."""

from typing import Any

import yaml

_LABELS = {"app.kubernetes.io/name": "pellucid", "app.kubernetes.io/part-of": "pellucid"}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
# The same object twice is written out twice: anchors are hard to read.
_Dumper.ignore_aliases = lambda self, data: True


def as_yaml(value: Any) -> str:
    """Return `value` as YAML, with its keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def prometheus_rule(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a PrometheusRule, of the Prometheus operator, with the groups of all rule files."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "pellucid", "labels": _LABELS},
        "spec": {"groups": [group for content in files.values() for group in content["groups"]]},
    }


def dashboards_config_map(dashboards: dict[str, str]) -> dict[str, Any]:
    """Return a ConfigMap of the dashboards' files that the Grafana sidecar loads, by its usual label."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "pellucid-dashboards", "labels": {**_LABELS, "grafana_dashboard": "1"}},
        "data": dashboards,
    }
