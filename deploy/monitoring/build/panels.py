"""The kinds of panel that the dashboards are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heat_kinds
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
THIRD, HALF, WHOLE = 8, 12, 24
"""Widths in columns of 24."""

Panel = Builder[models.Panel]


@dataclass(frozen=True, slots=True)
class Query:
    """A line of a panel."""

    expr: str
    legend: str = ""
    exemplars: bool = False
    """Whether points that link to traces are drawn with it."""


def lines(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str,
    span: int = THIRD,
    stacked: bool = False,
    most: float | None = None,
    limit: float | None = None,
) -> Panel:
    """Return a panel of lines over time.

    Parameters
    ----------
    unit
        Grafana's name of the unit: `s`, `reqps`, `percentunit`, `short` and others.
    most
        The top of the axis; None is where the lines need it.
    limit
        Above this the background is red, as where an alert fires; None draws no such area.
    """
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit)
    panel = panel.height(HEIGHT).span(span).min(0).line_width(1).fill_opacity(30 if stacked else 5)
    panel = panel.legend(common.VizLegendOptions().show_legend(True).placement(kinds.LegendPlacement.BOTTOM))
    panel = panel.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    if limit is not None:
        panel = panel.thresholds(_limit(limit))
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphTresholdsStyleMode.AREA)
        panel = panel.thresholds_style(style)
    for place, query in enumerate(queries):
        panel = panel.with_target(_target(place, query).range().exemplar(query.exemplars))
    return panel


def heat(title: str, description: str, expr: str, *, unit: str, span: int = HALF) -> Panel:
    """Return a heat map whose cells are the histogram's own buckets: `expr` gives one series for each `le`."""
    target = _target(0, Query(expr, "{{le}}")).range().format(PromQueryFormat.HEATMAP)
    color = heatmap.HeatmapColorOptions().mode(heat_kinds.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE)
    panel = panel.height(HEIGHT).span(span).calculate(False).color(color.exponent(0.5)).cell_gap(1)
    panel = panel.rows_frame(heatmap.RowsHeatmapOptions().layout(kinds.HeatmapCellLayout.AUTO))
    return panel.y_axis(heatmap.YAxisConfig().unit(unit)).show_legend().show_tooltip().with_target(target)


def number(
    title: str, description: str, query: Query, *, unit: str = "short", span: int = 4, bad_from: float | None = None
) -> Panel:
    """Return the latest value as a number; from `bad_from` on it is red."""
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(4).span(span)
    panel = panel.graph_mode(kinds.BigValueGraphMode.AREA).color_mode(kinds.BigValueColorMode.VALUE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if bad_from is not None:
        panel = panel.thresholds(_limit(bad_from))
    return panel.with_target(_target(0, query).range())


def listing(title: str, description: str, query: Query, *, span: int = HALF, unit: str = "short") -> Panel:
    """Return a table with a line for each series as it is now."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(HEIGHT).span(span)
    hidden = models.DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}})
    panel = panel.show_header(True).with_transformation(hidden)
    return panel.with_target(_target(0, query).instant().format(PromQueryFormat.TABLE))


def _target(place: int, query: Query) -> prometheus.Dataquery:
    letter = "ABCDEFGH"[place]
    return prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expr).legend_format(query.legend)


def _limit(value: float) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=0, color="green"), models.Threshold(value=value, color="red")]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
