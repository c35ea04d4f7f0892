"""Client of Pellucid, a service that serves models and explains every prediction they make.

`Client` is for ordinary code, `pellucid.aio.AsyncClient` for asyncio. Importing this needs grpcio,
protobuf and numpy only; pictures of results need the extra `plot`, the `pellucid` command the extra `cli`.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from pellucid import errors
from pellucid.ablation_rules import Fixed, Rule
from pellucid.ablation_specs import AblationSpec
from pellucid.ablations import Ablation
from pellucid.catalogue import Dataset, Method, Model, ModelSummary
from pellucid.client import Client
from pellucid.counterfactuals import Counterfactual, Counterfactuals
from pellucid.dictionaries import Dictionary
from pellucid.dissection_specs import DissectionSpec
from pellucid.dissections import Dissection
from pellucid.errors import PellucidError
from pellucid.findings import Findings
from pellucid.interventions import Constant, Mean, Noise, Patch, Resample, Scale, Steer, Zero
from pellucid.receipts import Receipt
from pellucid.results import Attribution, ExplanationOutcome, Prediction
from pellucid.sites import Site
from pellucid.specs import Blur, ExplanationSpec
from pellucid.tracing import trace_context

if TYPE_CHECKING:
    from pellucid import aio
    from pellucid.admin import AdminClient

__version__: str

__all__ = [
    "Ablation",
    "AblationSpec",
    "AdminClient",
    "Attribution",
    "Blur",
    "Client",
    "Constant",
    "Counterfactual",
    "Counterfactuals",
    "Dataset",
    "Dictionary",
    "Dissection",
    "DissectionSpec",
    "ExplanationOutcome",
    "ExplanationSpec",
    "Findings",
    "Fixed",
    "Mean",
    "Method",
    "Model",
    "ModelSummary",
    "Noise",
    "Patch",
    "PellucidError",
    "Prediction",
    "Receipt",
    "Resample",
    "Rule",
    "Scale",
    "Site",
    "Steer",
    "Zero",
    "__version__",
    "aio",
    "errors",
    "trace_context",
]


def __getattr__(name: str) -> Any:
    """Import what few need, and ask for the installed version, when they are first used."""
    if name == "aio":
        return import_module("pellucid.aio")
    if name == "AdminClient":
        return import_module("pellucid.admin").AdminClient
    if name == "__version__":
        return metadata.version("pellucid")
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
