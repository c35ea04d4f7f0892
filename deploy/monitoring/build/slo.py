"""The recording rules and alerts of the objectives: burn rates over several windows, for each objective."""

from typing import Any

from deploy.monitoring.build.names import OBJECTIVES, RUNBOOK, Objective

WINDOWS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21600, "1d": 86400, "3d": 259200}
"""The windows and their seconds."""

# (severity, ((long window, short window, burn rate), ...), for). A page means that 2 % of the budget went in 1 h or 5 %
# in 6 h; a ticket that 10 % went in 1 or 3 days. The short window ends the alert soon after the cause has ended.
_ALERTS = (
    ("page", (("1h", "5m", 14.4), ("6h", "30m", 6.0)), "2m"),
    ("ticket", (("1d", "2h", 3.0), ("3d", "6h", 1.0)), "15m"),
)
_LEAST_BAD = 5
"""Fewer bad calls than this in the long window alert nobody: with little traffic, one failed call is a large share."""

Rules = dict[str, Any]


def objective_rules() -> Rules:
    """Return a Prometheus rule file: one group for each window, and one of alerts."""
    groups = [
        {
            "name": f"pellucid-objectives-{window}",
            # Long windows change slowly and are dear to compute.
            **({"interval": "2m"} if seconds >= WINDOWS["6h"] else {}),
            "rules": [rule for each in OBJECTIVES for rule in _recorded(each, window)],
        }
        for window, seconds in WINDOWS.items()
    ]
    groups.append(
        {
            "name": "pellucid-alerts-objectives",
            "rules": [_alert(each, *kind) for each in OBJECTIVES for kind in _ALERTS],
        }
    )
    return {"groups": groups}


def _recorded(objective: Objective, window: str) -> list[Rules]:
    bad, calls, ratio = (f"pellucid:slo_{name}{window}" for name in ("bad:rate", "calls:rate", "bad:ratio_rate"))
    slo = f'{{slo="{objective.name}"}}'
    expressions = {
        bad: f"{objective.bad}\n".replace("WINDOW", window),
        calls: f"{objective.total}\n".replace("WINDOW", window),
        ratio: f"{bad}{slo} / {calls}{slo}",
    }
    labels = {"slo": objective.name}
    return [{"record": name, "expr": expr, "labels": labels} for name, expr in expressions.items()]


def _alert(objective: Objective, severity: str, pairs: tuple[tuple[str, str, float], ...], wait: str) -> Rules:
    return {
        "alert": objective.alert,
        "expr": "\nor\n".join(_burns(objective, *pair) for pair in pairs) + "\n",
        "for": wait,
        "labels": {"severity": severity, "slo": objective.name},
        "annotations": {
            "summary": f"Too many {objective.says} in {{{{ $labels.namespace }}}}",
            "description": (
                f"{{{{ $value | humanizePercentage }}}} of the calls are bad: {objective.says}. "
                f"{objective.allowed:.1%} are allowed over 30 days, and the budget burns too fast."
            ),
            "runbook_url": f"{RUNBOOK}{objective.alert.lower()}",
        },
    }


def _burns(objective: Objective, long: str, short: str, speed: float) -> str:
    slo = f'slo="{objective.name}"'
    limit = f"{speed:g} * {objective.allowed:g}"
    return (
        f"(\n  pellucid:slo_bad:ratio_rate{long}{{{slo}}} > {limit}\n"
        f"  and\n  pellucid:slo_bad:ratio_rate{short}{{{slo}}} > {limit}\n"
        f"  and\n  pellucid:slo_bad:rate{long}{{{slo}}} * {WINDOWS[long]} >= {_LEAST_BAD}\n)"
    )
