"""Requests of `Dissect`, checked for form; what depends on a model or a method is the engine's to check."""

import numpy as np
from pellucid.v1 import dissection_pb2, explanation_service_pb2

from pellucid_server.rpc.ablation import indices, part_number, part_word
from pellucid_server.rpc.ablation_bounds import require_pattern, require_short, require_small
from pellucid_server.rpc.codec import model_key, read_inputs, read_parameter, read_target, read_tensor, refuse
from pellucid_server.rpc.large_fields import NONE, LargeFields
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import findings, messages, requests

MOST_LAYERS = 1024
"""Entries of `layers`; a pattern is one."""
MOST_MASKS = 1 << 16
"""Masks of a request."""


def dissect_request(
    request: explanation_service_pb2.DissectRequest, limits: LimitsConfig, large: LargeFields = NONE, *, at: str = ""
) -> requests.DissectRequest:
    """Read a Dissect request.

    `large` has the fields that were taken out of it; `at` goes before the fields that errors name.

    Raises
    ------
    InvalidRequestError
        The request can never be valid, or asks for more than `limits`.
    """
    if not request.method:
        refuse(f"{at}method", "is empty; ListMethods names the methods that are installed")
    require_short(request.method, f"{at}method")
    if len(request.layers) > MOST_LAYERS:
        refuse(f"{at}layers", f"has {len(request.layers)} entries; at most {MOST_LAYERS} are taken")
    target = None
    if request.HasField("target"):
        require_short(request.target.output, f"{at}target.output")
        require_small(request.target.outcome, f"{at}target.outcome")
        require_small(request.target.contrast, f"{at}target.contrast")
        target = read_target(request.target, f"{at}target")
    return requests.DissectRequest(
        model=model_key(request.model),
        method=request.method,
        parameters={
            name: read_parameter(name, value, f"{at}parameters", large) for name, value in request.parameters.items()
        },
        layers=tuple(_layer(each, f"{at}layers[{number}]") for number, each in enumerate(request.layers)),
        probe=_probe(request.probe, limits, large, f"{at}probe") if request.HasField("probe") else None,
        target=target,
        seed=request.seed,
        exact=request.exact,
    )


def _layer(message: dissection_pb2.LayerUnits, field: str) -> requests.LayerSpec:
    if not message.layer:
        refuse(f"{field}.layer", "is empty; GetModel names the model's layers")
    require_pattern(message.layer, f"{field}.layer")
    if len(message.units) > requests.MOST_SITES:
        refuse(f"{field}.units", f"has {len(message.units)} entries; at most {requests.MOST_SITES} are taken")
    return requests.LayerSpec(
        message.layer, part_word(message.part, f"{field}.part"), indices(message.units, f"{field}.units")
    )


def _probe(message: dissection_pb2.Probe, limits: LimitsConfig, large: LargeFields, field: str) -> requests.ProbeSpec:
    require_short(message.dataset, f"{field}.dataset")
    if message.dataset and message.inputs:
        refuse(field, "has a dataset and inputs; set one of them")
    if not message.dataset and not message.inputs:
        refuse(field, "is empty; name a dataset, or give rows in inputs")
    if message.rows < 0:
        refuse(f"{field}.rows", f"is {message.rows}; it must be at least 1, or 0 for all rows")
    for name in ("masks", "labels"):
        if message.dataset and getattr(message, name):
            refuse(f"{field}.{name}", "is set, and dataset too, which has its own; leave one of them out")
    if len(message.masks) > MOST_MASKS:
        refuse(f"{field}.masks", f"has {len(message.masks)} entries; at most {MOST_MASKS} are taken")
    inputs = read_inputs(message.inputs, f"{field}.inputs", limits.probe_rows, large) if message.inputs else {}
    for number, label in enumerate(message.labels):
        require_short(label, f"{field}.labels[{number}]")
    return requests.ProbeSpec(
        dataset=message.dataset,
        inputs=inputs,
        masks=tuple(_mask(each, f"{field}.masks[{number}]", large) for number, each in enumerate(message.masks)),
        labels=tuple(message.labels),
        rows=message.rows,
    )


def _mask(message: dissection_pb2.ConceptMask, field: str, large: LargeFields) -> requests.MaskSpec:
    if not message.concept:
        refuse(f"{field}.concept", "is empty; name what the mask marks")
    require_short(message.concept, f"{field}.concept")
    require_short(message.category, f"{field}.category")
    if message.row < 0:
        refuse(f"{field}.row", f"is {message.row}; rows are numbered from 0")
    mask = read_tensor(message.mask, f"{field}.mask", large) if message.HasField("mask") else None
    if mask is not None and (mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size):
        refuse(f"{field}.mask", f"is {mask.dtype.name} {list(mask.shape)}; it must be BOOL (height, width)")
    return requests.MaskSpec(message.concept, message.category, message.row, mask)


def layer_messages(specs: tuple[requests.LayerSpec, ...]) -> list[dissection_pb2.LayerUnits]:
    """Write the layers that an answer is about."""
    return [
        dissection_pb2.LayerUnits(layer=each.layer, part=part_number(each.part), units=each.units) for each in specs
    ]


def record_message(record: findings.DissectionRecord) -> dissection_pb2.DissectionRecord:
    """Write what an answer is a function of, beside its receipt."""
    return dissection_pb2.DissectionRecord(
        layers=layer_messages(record.layers),
        dataset=record.dataset,
        dataset_digest=record.dataset_digest,
        rows=record.rows,
        masks_digest=record.masks_digest,
    )


def progress_message(
    progress: messages.Progress, *, rows_per_second: float = 0.0, seconds_left: float | None = None
) -> dissection_pb2.Progress:
    """Write how far a request is."""
    return dissection_pb2.Progress(
        share=progress.share,
        rows_done=progress.rows_done,
        rows=progress.rows,
        rows_per_second=rows_per_second,
        seconds_left=seconds_left,
    )
