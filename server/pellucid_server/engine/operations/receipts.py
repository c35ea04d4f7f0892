"""Receipts of answers that a method made."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.vocabulary.requests import AblateRequest, DissectRequest, ParamValue, TargetSpec
from pellucid_server.vocabulary.results import Receipt


def settled_parameters(params: Any, resolved: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    """Return the parameters that an answer came from: the caller's, defaults, and what the method settled itself."""
    values = {entry.name: getattr(params, entry.name) for entry in dataclasses.fields(params)}
    return {name: value for name, value in values.items() if value is not None} | dict(resolved)


def stream_receipt(
    context: RequestContext,
    model: LoadedModel,
    request: AblateRequest | DissectRequest,
    handle: ModelHandle,
    *,
    parameters: Mapping[str, ParamValue],
    input_digest: str,
    target: TargetSpec | None,
) -> Receipt:
    """Make the receipt of an answer in parts; `target` is resolved."""
    return Receipt(
        model=model.key,
        input_digest=input_digest,
        runtime=context.runtime(model, handle.tally),
        work=handle.tally.work(),
        method=request.method,
        parameters=parameters,
        target=target,
        seed=request.seed,
        exact=request.exact,
    )
