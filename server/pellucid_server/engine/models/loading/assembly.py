"""Puts a model version together: its files' signature, its manifest, and what running it shows."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.files.manifest import InputManifest, Manifest, OutputManifest
from pellucid_server.engine.models.graph.derivatives import gradient_obstacle
from pellucid_server.engine.models.graph.graph import Graph, GraphValue
from pellucid_server.engine.models.graph.independence import rows_independent
from pellucid_server.engine.models.graph.index_ranges import UNBOUNDED, IndexRange
from pellucid_server.engine.models.graph.lengths import FIXED, Lengths
from pellucid_server.engine.models.inputs.background import read_background
from pellucid_server.engine.models.inputs.baselines import medoid
from pellucid_server.engine.models.inputs.masks import with_masks
from pellucid_server.engine.models.inputs.pictures import PicturePreprocessor
from pellucid_server.engine.models.inputs.preprocessing import (
    Preprocessor,
    TensorPreprocessor,
    UnfitManifestError,
    checked_rows,
)
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.engine.models.loading.fast_graph import trusted_fast_graph
from pellucid_server.engine.models.loading.loaded import LoadedModel, wire_shape
from pellucid_server.engine.models.loading.trial import (
    PARITY_TOLERANCE,
    graph_rows,
    graph_run,
    largest_difference,
    measure_row_bytes,
    narrowed_lengths,
    rows_agree,
    run_batches,
    trial_rows,
)
from pellucid_server.engine.models.loading.twin import Twin
from pellucid_server.engine.models.onnx.cuts import OnnxCuts
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel, Value
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import OutputInfo, ParityInfo
from pellucid_server.vocabulary.requests import Array, ModelKey

_log = logging.getLogger(__name__)

_DTYPES = {
    torch.float16: "float16",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.bool: "bool",
}

_MOST_ROW_ELEMENTS = 1 << 28
"""Numbers in a row of an input or output: as float32 they are 1 GiB, half of what a message can hold."""


@dataclass(frozen=True, slots=True)
class _Signature:
    """What goes in and comes out, as the model's own files say."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class _Findings:
    """What running the model showed: its outputs of three rows, and how it may be served."""

    outputs: Arrays
    parity: ParityInfo | None
    independent: bool


def assemble(
    key: ModelKey,
    folder: Path,
    manifest: Manifest,
    graph: Graph | None,
    session: OnnxModel | None,
    *,
    fast_graph: bool | None = False,
) -> LoadedModel:
    """Check a model against its manifest in `folder`, try it out, and decide what serves its forward passes.

    ONNX Runtime does where there is a session that agrees with the graph; else the graph does. At least
    one of the two must be there. `fast_graph` is whether to use the graph's second one, for speed: None if that agrees.

    Raises
    ------
    UnfitManifestError
        The manifest says other things of the model than its files do.
    TrialError
        The model does not run as its files say.
    """
    signature = _signature(graph, session)
    _require_small_rows(signature)
    inputs = _preprocessors(manifest, signature, {} if graph is None else graph.index_ranges)
    background = _background(folder / manifest.background, signature) if manifest.background else {}
    lengths = _lengths(graph, session)
    rows = trial_rows(signature.inputs, background, lengths)
    findings = _try_out(graph, session, signature, rows)
    if findings.parity is not None and not findings.parity.holds:
        _refuse_disagreeing(manifest, findings.parity)
        _log.warning(
            "model %s, version %d: model.onnx is not used, as it differs from model.pt2 by %.2g of the largest output, "
            "more than %g; export both from the same weights",
            *(key.name, key.version, findings.parity.largest_difference, findings.parity.tolerance),
        )
        session = None
    features = {name: preprocessor.feature for name, preprocessor in inputs.items()}
    features = with_masks(features, {name: preprocessor.info for name, preprocessor in inputs.items()}, manifest)
    runs = [graph_run(graph)] if graph is not None else []
    runs += [session.run_checked] if session is not None else []
    obstacle = gradient_obstacle(graph, graph_rows(rows, graph.device)) if graph is not None else ""
    return LoadedModel(
        key=key,
        manifest=manifest,
        inputs=inputs,
        outputs=_outputs(manifest, signature, findings.outputs),
        lengths=narrowed_lengths(runs, rows, lengths),
        features=features,
        background=background,
        medoid=medoid(background, features) if background else {},
        runtime="graph" if session is None else "onnxruntime",
        graph=graph,
        session=session,
        solo=manifest.solo or not findings.independent,
        precision=_precision(signature),
        parity=findings.parity,
        memory=measure_row_bytes(graph, session, rows, gradients=not obstacle),
        input_row_bytes=sum(array[0].nbytes for array in rows.values()),
        gradient_obstacle=obstacle,
        cuts=OnnxCuts(session, rows) if graph is None and session is not None and session.skeleton else None,
        fast=_fast(key.name, graph, rows, fast_graph, gradients=not obstacle),
        twin=_twin(key.name, graph, session, rows, signature, solo=manifest.solo or not findings.independent),
    )


def _twin(
    name: str, graph: Graph | None, session: OnnxModel | None, rows: Arrays, signature: _Signature, *, solo: bool
) -> Twin | None:
    """Return the ONNX file as what runs parts of the graph, where that is plain: float32 of fixed lengths, on a CPU."""
    if graph is None or session is None or solo or session.skeleton is None or session.guarded:
        return None
    values = (*signature.inputs, *signature.outputs)
    plain = all(value.dtype == np.float32 and None not in value.shape for value in values)
    return Twin(name, session, rows) if plain and graph.device == session.device == "cpu" else None


def _fast(name: str, graph: Graph | None, rows: Arrays, wanted: bool | None, *, gradients: bool) -> Graph | None:
    """Return the graph's second one, if it is wanted; if that is not known, if it agrees with the first."""
    if graph is None or wanted is False:
        return None
    return graph.faster() if wanted else trusted_fast_graph(name, graph, rows, gradients=gradients)


def _signature(graph: Graph | None, session: OnnxModel | None) -> _Signature:
    """Return the graph's signature, or the session's where there is no graph."""
    if graph is None:
        if session is None:
            raise ValueError("a model needs a graph or a session")
        return _Signature(session.inputs, session.outputs)
    signature = _Signature(_values(graph.inputs, "input"), _values(graph.outputs, "output"))
    if session is not None:
        _require_alike("inputs", signature.inputs, session.inputs)
        _require_alike("outputs", signature.outputs, session.outputs)
    return signature


def _require_small_rows(signature: _Signature) -> None:
    """Refuse rows that no request could hold, before three of them are made."""
    for role, values in (("input", signature.inputs), ("output", signature.outputs)):
        for value in values:
            elements = math.prod(length for length in value.shape if length is not None)
            if elements > _MOST_ROW_ELEMENTS:
                raise UnfitManifestError(
                    f"{role} {value.name!r} has {elements} elements per row; at most {_MOST_ROW_ELEMENTS} are served"
                )


def _lengths(graph: Graph | None, session: OnnxModel | None) -> Lengths:
    """Return what the graph knows of open axes, as an export promises more than names; else what the session does."""
    if graph is not None:
        return graph.lengths
    return session.lengths if session is not None else FIXED


def _values(values: Sequence[GraphValue], role: str) -> tuple[Value, ...]:
    for value in values:
        if value.dtype not in _DTYPES:
            raise UnfitManifestError(
                f"{role} {value.name!r} is of type {value.dtype}; it must be one of: {', '.join(_DTYPES.values())}. "
                "Convert it inside the model's forward and export it again"
            )
    return tuple(Value(value.name, np.dtype(_DTYPES[value.dtype]), value.shape) for value in values)


def _require_alike(role: str, graph: tuple[Value, ...], session: tuple[Value, ...]) -> None:
    types = [{value.name: value.dtype.name for value in values} for values in (graph, session)]
    if types[0] != types[1]:
        graph_text, session_text = (", ".join(f"{name} ({kind})" for name, kind in found.items()) for found in types)
        raise UnfitManifestError(
            f"model.pt2 has the {role} {graph_text}, and model.onnx {session_text}; they must be the same: export both "
            "from one model, as pellucid-export does, or remove one of them"
        )


def _preprocessors(
    manifest: Manifest, signature: _Signature, taken: Mapping[str, IndexRange]
) -> dict[str, Preprocessor]:
    listed = {entry.name: entry for entry in manifest.inputs}
    _require_known("inputs", listed, signature.inputs)
    return {
        value.name: _preprocessor(listed.get(value.name), value, taken.get(value.name, UNBOUNDED))
        for value in signature.inputs
    }


def _preprocessor(entry: InputManifest | None, value: Value, taken: IndexRange) -> Preprocessor:
    entry = entry or InputManifest(value.name)
    if entry.modality == "image":
        return PicturePreprocessor(entry, value.dtype, value.shape)
    if entry.modality == "tabular":
        return TablePreprocessor(entry, value.dtype, value.shape)
    return TensorPreprocessor(entry, value.dtype, value.shape, taken=taken)


def _require_known(role: str, listed: Mapping[str, object], values: tuple[Value, ...]) -> None:
    names = [value.name for value in values]
    unknown = next((name for name in listed if name not in names), None)
    if unknown is not None:
        raise UnfitManifestError(f"model.toml has {role} called {unknown!r}; the model's are: {', '.join(names)}")


def _outputs(manifest: Manifest, signature: _Signature, results: Arrays) -> tuple[OutputInfo, ...]:
    """Describe the outputs: those in the manifest first, in its order, and then the rest."""
    listed = {entry.name: entry for entry in manifest.outputs}
    _require_known("outputs", listed, signature.outputs)
    values = {value.name: value for value in signature.outputs}
    names = [*listed, *(name for name in values if name not in listed)]
    return tuple(_output(listed.get(name, OutputManifest(name)), values[name], results[name]) for name in names)


def _output(entry: OutputManifest, value: Value, result: Array) -> OutputInfo:
    if entry.kind != "values" and value.dtype.kind != "f":
        raise UnfitManifestError(
            f"output {entry.name!r} is {value.dtype.name}, so that its kind must be 'values'; {entry.kind!r} is for "
            "floating-point numbers"
        )
    if entry.kind == "logits" and not value.shape:
        raise UnfitManifestError(
            f"output {entry.name!r} has one number per row, so that its kind must be 'values', 'probabilities' or "
            "'sigmoid-logits'; 'logits' is for classes on the last axis"
        )
    classes = result.shape[-1] if value.shape else 1
    if entry.labels and len(entry.labels) != classes:
        raise UnfitManifestError(
            f"output {entry.name!r} has {len(entry.labels)} labels, and {classes} elements on its last axis; there "
            "must be a label for each"
        )
    return OutputInfo(entry.name, entry.kind, value.dtype.name, wire_shape(value.shape), entry.labels, entry.unit)


def _background(path: Path, signature: _Signature) -> Arrays:
    """Read the background, an array (rows, *features) for each input, as the model takes it."""
    arrays = read_background(path, [value.name for value in signature.inputs])
    try:
        rows = {
            value.name: checked_rows(arrays[value.name], value.dtype, value.shape, f'{path.name}["{value.name}"]')
            for value in signature.inputs
        }
    except InvalidRequestError as error:
        raise UnfitManifestError(error.message.rstrip(".")) from error
    if len({len(array) for array in rows.values()}) != 1:
        raise UnfitManifestError(f"the arrays in {path.name} must all have the same number of rows")
    for array in rows.values():
        array.flags.writeable = False
    return rows


def _try_out(graph: Graph | None, session: OnnxModel | None, signature: _Signature, rows: Arrays) -> _Findings:
    by_graph = run_batches(graph_run(graph), rows, signature.outputs) if graph is not None else ()
    by_session = run_batches(session.run_checked, rows, signature.outputs) if session is not None else ()
    together = (by_graph or by_session)[-1]
    if graph is not None:
        return _Findings(together, _parity(by_session, by_graph) if by_session else None, rows_independent(graph))
    independent = session is not None and rows_agree(session.run_checked, rows, together)
    return _Findings(together, None, independent)


def _parity(by_session: Sequence[Arrays], by_graph: Sequence[Arrays]) -> ParityInfo:
    pairs = zip(by_session, by_graph, strict=True)
    difference = max(largest_difference(outputs, reference) for outputs, reference in pairs)
    return ParityInfo(difference, PARITY_TOLERANCE, difference <= PARITY_TOLERANCE)


def _refuse_disagreeing(manifest: Manifest, parity: ParityInfo) -> None:
    if manifest.runtime == "onnxruntime":
        raise UnfitManifestError(
            f"model.onnx and model.pt2 differ by {parity.largest_difference:.2g} of the largest output, more than "
            f"{parity.tolerance:g}, so that runtime must not be 'onnxruntime'; export both from the same weights"
        )


def _precision(signature: _Signature) -> str:
    """Return the floating-point type of the outputs, or of the inputs where no output has one."""
    values = (*signature.outputs, *signature.inputs)
    return next((value.dtype.name for value in values if value.dtype.kind == "f"), "float32")
