"""How much a request of `Ablate` may have: looked at before any of it is copied."""

from collections.abc import Sequence

import numpy as np
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2

from pellucid_server.rpc.codec import refuse, shown
from pellucid_server.vocabulary import requests

MOST_CHARACTERS = 512
"""Of a name, a pattern or a category."""
MOST_STARS = 16
"""Signs `*` of a pattern."""
MOST_RULES, MOST_CATEGORIES = 4096, 1024
"""Rules for columns, and categories that one of them names."""
MOST_AXES = 64
"""Entries of an element's index."""
LARGEST = float(np.finfo(np.float32).max)
"""Of a number that values of the network become, or that they are made with."""


def require_bounded(request: explanation_service_pb2.AblateRequest) -> None:
    """Refuse a request that is too large to be read.

    Raises
    ------
    InvalidRequestError
        It has too many sites, units, positions, rules or categories, or a name is too long.
    """
    for field in ("method", "dataset"):
        require_short(getattr(request, field), field)
    require_short(request.target.output, "target.output")
    require_small(request.target.outcome, "target.outcome")
    require_small(request.target.contrast, "target.contrast")
    require_small(request.wanted.outcome, "wanted.outcome")
    _require_few_sites(request.interventions)
    if len(request.columns) > MOST_RULES:
        refuse("columns", f"has {len(request.columns)} entries; at most {MOST_RULES} are taken")
    for number, rule in enumerate(request.columns):
        field = f"columns[{number}]"
        require_short(rule.column, f"{field}.column")
        if len(rule.categories) > MOST_CATEGORIES:
            refuse(f"{field}.categories", f"has {len(rule.categories)} entries; at most {MOST_CATEGORIES} are taken")


def require_small(outcome: explanation_pb2.Outcome, field: str) -> None:
    """Refuse an element's name that is too long."""
    require_short(outcome.label, f"{field}.label")
    if len(outcome.index) > MOST_AXES:
        refuse(f"{field}.index", f"has {len(outcome.index)} entries; at most {MOST_AXES} are taken")


def require_short(text: str, field: str) -> None:
    """Refuse a name of too many characters."""
    if len(text) > MOST_CHARACTERS:
        refuse(field, f"has {len(text)} characters; at most {MOST_CHARACTERS} are taken")


def require_pattern(text: str, field: str) -> None:
    """Refuse a layer's name or pattern that would take long to look for."""
    require_short(text, field)
    stars = text.count("*")
    if stars > MOST_STARS:
        refuse(field, f"is {shown(text)}, with {stars} signs *; a pattern has at most {MOST_STARS}")


def require_representable(value: float | None, vector: requests.Array | None, field: str) -> None:
    """Refuse a value and a vector, or a product of the two, that would be infinite in a network's numbers."""
    if value is not None and abs(value) > LARGEST:
        refuse(f"{field}.value", f"is {value:g}; a network's numbers reach from -{LARGEST:.8g} to {LARGEST:.8g}")
    if vector is None or not vector.size:
        return
    largest = max(float(vector.max()), -float(vector.min()))
    if largest > LARGEST:
        text = (
            f"has an element of magnitude {largest:g}; a network's numbers reach from -{LARGEST:.8g} to {LARGEST:.8g}"
        )
        refuse(f"{field}.vector", text)
    if value is not None and abs(value) * largest > LARGEST:
        text = f"is {value:g}, which with a vector of up to {largest:g} is above what a network's numbers reach"
        refuse(f"{field}.value", f"{text}, {LARGEST:.8g}")


def _require_few_sites(interventions: Sequence[ablation_pb2.Intervention]) -> None:
    sites = 0
    for number, each in enumerate(interventions):
        sites += len(each.sites)
        _require_few(sites, "sites", f"interventions[{number}].sites")
    for name in ("units", "positions"):
        indices = 0
        for number, each in enumerate(interventions):
            for place, site in enumerate(each.sites):
                indices += len(getattr(site, name))
                if indices > requests.MOST_SITES:
                    _require_few(indices, name, f"interventions[{number}].sites[{place}].{name}")


def _require_few(count: int, what: str, field: str) -> None:
    if count > requests.MOST_SITES:
        text = f"brings the {what} that the request names to {count}; at most {requests.MOST_SITES} are taken"
        refuse(field, text)
