"""`python -m deploy.monitoring.build` writes the dashboards, the rules of the objectives and the manifests."""

from pathlib import Path

import yaml

from deploy.monitoring.build.drift import drift
from deploy.monitoring.build.explanations import explanations
from deploy.monitoring.build.manifests import as_yaml, dashboards_config_map, prometheus_rule
from deploy.monitoring.build.overview import overview
from deploy.monitoring.build.slo import objective_rules
from deploy.monitoring.build.versions import versions

FOLDER = Path(__file__).parents[1]
_NOTE = "# Written by `python -m deploy.monitoring.build` from deploy/monitoring/build/ and rules/: do not edit.\n"


def built() -> dict[str, str]:
    """Return the text of each file that is built, by its path in deploy/monitoring/."""
    dashboards = {f"{page.uid}.json": page.as_json() for page in (overview(), explanations(), drift(), versions())}
    rules = {name: yaml.safe_load((FOLDER / "rules" / name).read_text()) for name in ("recording.yaml", "alerts.yaml")}
    rules["slo.yaml"] = objective_rules()
    return {
        **{f"dashboards/{name}": text for name, text in dashboards.items()},
        "rules/slo.yaml": _NOTE + as_yaml(rules["slo.yaml"]),
        "manifests/prometheusrule.yaml": _NOTE + as_yaml(prometheus_rule(rules)),
        "manifests/dashboards.yaml": _NOTE + as_yaml(dashboards_config_map(dashboards)),
    }


def main() -> None:
    """Write the files."""
    for name, text in built().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
