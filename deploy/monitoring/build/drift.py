"""Drift: whether decisions are based on the same columns as a week before."""

from deploy.monitoring.build.names import MODEL
from deploy.monitoring.build.page import Page, Row
from deploy.monitoring.build.panels import HALF, THIRD, WHOLE, Query, lines, listing, number

_SHARE = f"pellucid:attribution_share:ratio1d{{{MODEL}}}"
_OF_COLUMN = "sum by (model, column)"


def drift() -> Page:
    """Return the dashboard of attribution shares."""
    return Page(
        "pellucid-drift",
        "Pellucid: drift",
        "What decisions of tabular models are based on: each column's mean share of an explanation's attributions, "
        "over a day and a week before. A change comes from other inputs, another mix of methods or another model.",
        (_distance(), _columns()),
        since="now-14d",
    )


def _distance() -> Row:
    weekly = f"pellucid:attribution_drift:distance1d{{{MODEL}}}"
    behind = f"sum by (model) (increase(pellucid_attribution_shares_total{{{MODEL}}}[1d]))"
    return Row(
        "How far",
        (
            lines(
                "Distance from a week before",
                "Half the sum over columns of how much their shares differ from those of a week before: 0 is the same, "
                "1 is entirely other columns. The alert fires above 0.15.",
                (Query(weekly, "{{namespace}} {{model}}"),),
                unit="percentunit",
                span=WHOLE - THIRD,
                most=1,
                limit=0.15,
            ),
            number(
                "Largest distance",
                "Of the chosen models, now.",
                Query(f"max({weekly})", "distance"),
                unit="percentunit",
                bad_from=0.15,
            ),
            number("Explanations behind it", "Explanations of the last day.", Query(f"sum({behind})", "explanations")),
        ),
    )


def _columns() -> Row:
    before = f"pellucid:attribution_share:ratio1d{{{MODEL}}} offset 1w"
    now = f"avg by (model, column) ({_SHARE})"
    then = f"avg by (model, column) ({before})"
    return Row(
        "Columns",
        (
            lines(
                "Share by column",
                "Mean share of each column over a day. Columns of a model beyond the first 64 are one, `other`.",
                (Query(now, "{{model}}: {{column}}"),),
                unit="percentunit",
                span=HALF,
                stacked=True,
            ),
            lines(
                "Share by column, a week before",
                "The same, seven days earlier.",
                (Query(then, "{{model}}: {{column}}"),),
                unit="percentunit",
                span=HALF,
                stacked=True,
            ),
            lines(
                "Columns that changed most",
                "The ten largest differences from a week before, without their sign.",
                (Query(f"topk(10, abs({now} - {then}))", "{{model}}: {{column}}"),),
                unit="percentunit",
                span=HALF,
            ),
            listing(
                "Largest columns now",
                "The twenty columns with the largest shares.",
                Query(f"topk(20, {now})"),
                unit="percentunit",
            ),
        ),
    )
