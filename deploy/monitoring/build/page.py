"""A dashboard from rows of panels, with the variables that all of them have."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from deploy.monitoring.build.names import SITE
from deploy.monitoring.build.panels import SOURCE, Panel


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Page:
    """A dashboard."""

    uid: str
    """Its identity in Grafana and the name of its file."""
    title: str
    description: str
    rows: Sequence[Row]
    since: str = "now-6h"
    """The start of the time range that it opens with."""

    def as_json(self) -> str:
        """Return the dashboard as Grafana imports it."""
        built = dashboard.Dashboard(self.title).uid(self.uid).description(self.description).tags(["pellucid"])
        built = built.time(self.since, "now").refresh("30s").editable().timezone("browser")
        built = built.tooltip(models.DashboardCursorSync.CROSSHAIR).link(_others())
        for variable in _variables():
            built = built.with_variable(variable)
        place = 0
        for row in self.rows:
            place += 1
            built = built.with_row(dashboard.Row(row.title).id(place))
            for panel in row.panels:
                place += 1
                # Each kind of panel has a method `id`; their common base does not declare it.
                built = built.with_panel(cast(Any, panel).id(place))
        return _tidied(json.dumps(built.build(), cls=JSONEncoder))


def _variables() -> Sequence[Any]:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return (
        source.current(models.VariableOption(text="default", value="default")),
        _choice("cluster", "Cluster", "label_values(pellucid_models, cluster)"),
        _choice("namespace", "Namespace", 'label_values(pellucid_models{cluster=~"$cluster"}, namespace)'),
        _choice("model", "Model", f"label_values(pellucid_model_info{{{SITE}}}, model)"),
        _choice("method", "Method", f'label_values(pellucid_request_seconds_count{{{SITE}, method!=""}}, method)'),
    )


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    chosen = dashboard.QueryVariable(name).label(label).query({"query": query, "refId": name}).datasource(SOURCE)
    chosen = chosen.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True)
    # ".*" takes series without the label as well: a plain scrape adds neither cluster nor namespace.
    chosen = chosen.all_value(".*").sort(models.VariableSort.ALPHABETICAL_ASC)
    return chosen.current(models.VariableOption(text="All", value="$__all"))


def _others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Pellucid").type(models.DashboardLinkType.DASHBOARDS).tags(["pellucid"])
    return link.as_dropdown(False).include_vars(True).keep_time(True).target_blank(False)


# What the library writes and Grafana's own types no longer have, or not for what is here.
_DROPPED = ("style", "auto", "auto_min", "auto_count")
_NO_ID = "00000000-0000-0000-0000-000000000000"


def _tidied(text: str) -> str:
    """Drop what Grafana's own types do not have: keys without a value and those of older versions."""

    def kept(key: str, value: Any) -> bool:
        return value is not None and value != _NO_ID and key not in _DROPPED

    def tidied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tidied(each) for key, each in value.items() if kept(key, each)}
        return [tidied(each) for each in value] if isinstance(value, list) else value

    return json.dumps(tidied(json.loads(text)), indent=2, ensure_ascii=False) + "\n"
