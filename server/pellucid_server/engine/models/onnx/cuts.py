"""Reads and changes the layers of an ONNX file, by parts of it that ONNX Runtime runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import HostTensors
from pellucid_server.engine.models.graph.cuts import BehindUnits
from pellucid_server.engine.models.graph.names import Layer
from pellucid_server.engine.models.graph.suffix import Context, Rows
from pellucid_server.engine.models.onnx.beside import DTYPES
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.engine.models.onnx.parts import CUT, Part, behind, plan, plan_between, up_to, with_edits
from pellucid_server.engine.models.onnx.probe import find_values
from pellucid_server.engine.models.onnx.session import REFUSALS
from pellucid_server.engine.models.onnx.sessions import Kept, PartSessions
from pellucid_server.engine.models.onnx.values import find_layers
from pellucid_server.errors import UnsupportedError
from pellucid_server.vocabulary.requests import Array

_FIRST_OPSET_OF_EDITS = 9
"""Of the standard domain, with an operator that chooses (Where)."""

_DERIVED = 256
"""Cuts and the like that are kept for each file, without their sessions."""

Outputs = dict[str, torch.Tensor]
Edits = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
Capturing = Callable[[Rows], tuple[Outputs, Outputs]]
Editing = Callable[..., tuple[Outputs, Outputs]]
Prefixes = Callable[[Rows], dict[str, Context]]
Run = Callable[[Arrays], list[Array]]
Between = Callable[[Sequence[torch.Tensor]], Outputs]


class OnnxCuts:
    """The layers of an ONNX file, as those of a graph (`Cuts`), on the CPU's side of ONNX Runtime.

    Parts of the file are run by sessions of their own, which are opened as the file's and share its weights. Those
    that were used last are kept. Nothing about the file's own session changes.

    Parameters
    ----------
    model
        The file, opened to be cut.
    rows
        Three rows that it takes, (3, *features) by name: what cannot be inferred is found out with them.
    """

    device = "cpu"
    """Where rows are taken and given; ONNX Runtime takes them to its own device from there."""
    runtime = "onnxruntime"

    def __init__(self, model: OnnxModel, rows: Arrays) -> None:
        if model.skeleton is None:
            raise ValueError("the file was not opened to be cut")
        self._model = model
        self._skeleton = model.skeleton
        self._values = find_values(self._skeleton, rows, model.options)
        layers, self._made = find_layers(self._skeleton, self._values)
        self.layers: Mapping[str, Layer] = MappingProxyType(layers)
        self.sites = self.layers
        """What can be changed: the layers. An ONNX file does not say which of them are heads, or a residual branch."""
        self._captures: Kept[Capturing] = Kept(_DERIVED, lambda made: 1)
        self._edits: Kept[Editing] = Kept(_DERIVED, lambda made: 1)
        self._befores: Kept[Prefixes] = Kept(_DERIVED, lambda made: 1)
        self._suffixes: Kept[OnnxSuffix] = Kept(_DERIVED, lambda made: 1)
        self._sessions = PartSessions(self._skeleton, model.options, model.largest_value_bytes)

    def capturing(self, layers: tuple[str, ...]) -> Capturing:
        """Return what gives the values of layers, (rows, *shape) by name; the outputs are left out.

        Raises
        ------
        KeyError
            There is no such layer.
        UnsupportedError
            ONNX Runtime cannot run the part.
        """
        return self._captures.get(layers, lambda: self._capturing(layers))

    def editing(self, layers: tuple[str, ...], capture: tuple[str, ...] = (), norms: tuple[str, ...] = ()) -> Editing:
        """Return what gives the outputs with edits of layers, and the values of others; see `Graph.editing`.

        An ONNX file names no norms: there are none of them to hold.

        Raises
        ------
        KeyError
            There is no such layer.
        UnsupportedError
            ONNX Runtime cannot run the part, or the file's operators are of a version without a choice.
        """
        return self._edits.get((layers, capture), lambda: self._editing(layers, capture))

    def by_unit(self, layer: str) -> bool:
        """Say that no layer has a `unit_suffix`."""
        return False

    def unit_suffix(self, layer: str) -> BehindUnits:
        """Refuse: there is none."""
        raise ValueError(f"there is no suffix by unit behind {layer}")

    def prefixes(self, layers: tuple[str, ...], by_unit: frozenset[str] = frozenset()) -> Prefixes:
        """Return what gives the context of the suffix of each layer, by one pass through what lies before them.

        Raises
        ------
        KeyError
            There is no such layer.
        UnsupportedError
            ONNX Runtime cannot run the part.
        """
        return self._befores.get(layers, lambda: self._prefixes(layers))

    def suffix(self, layer: str) -> "OnnxSuffix":
        """Return what the file does behind a layer.

        Raises
        ------
        KeyError
            There is no such layer.
        UnsupportedError
            ONNX Runtime cannot run the part.
        """
        return self._suffixes.get(layer, lambda: self._suffix(layer))

    def between(self, layers: tuple[str, ...], operators: frozenset[str] = frozenset()) -> Between | None:
        """Return what gives the outputs by name of the values of some layers, (n, *shape) each.

        None if the outputs need more than those, or if none of `operators`, where there are some, makes them.

        Raises
        ------
        KeyError
            There is no such layer.
        UnsupportedError
            ONNX Runtime cannot run the part.
        """
        names = [self._made[layer] for layer in layers]
        planned = plan_between(self._skeleton, self._values, names)
        if planned is None or (operators and operators.isdisjoint(planned.operators)):
            return None
        run = self._runner(behind(self._skeleton, self._values, planned), layers)

        def outputs(values: Sequence[torch.Tensor]) -> Outputs:
            arrays = {name: value.detach().contiguous().numpy() for name, value in zip(names, values, strict=True)}
            return _tensors(self._skeleton.wiring.outputs, run(arrays))

        return outputs

    def _capturing(self, layers: tuple[str, ...]) -> Capturing:
        made = {self._made[layer]: layer for layer in layers}
        run = self._runner(up_to(self._skeleton, list(made)), layers)

        def captured(rows: Rows) -> tuple[Outputs, Outputs]:
            return {}, _tensors(made.values(), run(_arrays(rows)))

        return captured

    def _editing(self, layers: tuple[str, ...], capture: tuple[str, ...]) -> Editing:
        versions = [each.version for each in self._skeleton.model.opset_import if each.domain in ("", "ai.onnx")]
        if versions and max(versions) < _FIRST_OPSET_OF_EDITS:
            raise UnsupportedError(
                f"Several layers of the ONNX file cannot be changed at once, as it has opset {max(versions)}; export "
                f"the model with opset {_FIRST_OPSET_OF_EDITS} or newer.",
                subject="opset",
            )
        names = {layer: (f"{CUT}keep.{number}", f"{CUT}add.{number}") for number, layer in enumerate(layers)}
        edits = {self._made[layer]: pair for layer, pair in names.items()}
        kinds = {layer: DTYPES[self._values.of(self._made[layer]).kind] for layer in layers}
        read = [self._made[layer] for layer in capture]
        run = self._runner(with_edits(self._skeleton, self._values, edits, read), layers)
        outputs = self._skeleton.wiring.outputs

        def edited(rows: Rows, given: Edits, scales: Outputs | None = None) -> tuple[Outputs, Outputs]:
            arrays = _arrays(rows)
            for layer, pair in names.items():
                arrays |= {
                    name: tensor.numpy().astype(kinds[layer], copy=False)
                    for name, tensor in zip(pair, given[layer], strict=True)
                }
            found = run(arrays)
            return _tensors(outputs, found[: len(outputs)]), _tensors(capture, found[len(outputs) :])

        return edited

    def _prefixes(self, layers: tuple[str, ...]) -> Prefixes:
        crossing = {layer: plan(self._skeleton, self._values, self._made[layer]).crossing for layer in layers}
        needed = dict.fromkeys(name for names in crossing.values() for name in names)
        part = up_to(self._skeleton, [name for name in needed if name in self._skeleton.wiring.maker])
        run = self._runner(part, layers)

        def before(rows: Rows) -> dict[str, Context]:
            arrays = _arrays(rows)
            found = {**arrays, **dict(zip(part.made, run(arrays), strict=True))}
            values = {layer: [torch.from_numpy(found[name]) for name in names] for layer, names in crossing.items()}
            return {layer: Context(value, tuple(others), ()) for layer, (value, *others) in values.items()}

        return before

    def _suffix(self, layer: str) -> "OnnxSuffix":
        planned = plan(self._skeleton, self._values, self._made[layer])
        suffix = behind(self._skeleton, self._values, planned)
        return OnnxSuffix(
            self._runner(suffix, (layer,)), crossing=planned.crossing, outputs=self._skeleton.wiring.outputs
        )

    def _runner(self, part: Part, layers: tuple[str, ...]) -> Run:
        """Return what runs a part; its session is opened now, and again if it was not kept."""
        self._sessions.of(part, layers)

        def run(arrays: Arrays) -> list[Array]:
            given = {name: arrays[name] for name in part.inputs}
            try:
                return self._sessions.of(part, layers).run(part.outputs, given)
            except REFUSALS as error:
                unfit = self._model.unfit(error, arrays)
                if unfit is None:
                    raise
                raise unfit from error

        return run


class OnnxSuffix:
    """What an ONNX file does behind one layer; made by `OnnxCuts.suffix`. May be called from several threads.

    Right for a model whose rows are independent. For others it is right only for all rows of a context at once.
    """

    def __init__(self, run: Run, *, crossing: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self._run = run
        self._crossing = crossing
        self._outputs = outputs

    def __call__(self, values: torch.Tensor, context: Context, index: torch.Tensor | None = None) -> Outputs:
        """Return the outputs by name, (n, *shape), had the layer these values, (n, *shape).

        Value i goes with the context's row `index[i]`; without an index, with the only row or with row i.

        Raises
        ------
        ValueError
            There is no `index`, and the context has neither one row nor n.
        """
        value, *others = self._crossing
        crossings = [_spread(each, len(values), index) for each in context.rows]
        # The layer's own type: what is put in its place may be computed in another one.
        arrays = {value: values.detach().to(context.value.dtype).numpy()}
        arrays |= {name: each.numpy() for name, each in zip(others, crossings, strict=True)}
        return _tensors(self._outputs, self._run(arrays))


def _spread(crossing: torch.Tensor, count: int, index: torch.Tensor | None) -> torch.Tensor:
    if index is None and len(crossing) not in (1, count):
        raise ValueError(
            f"{count} values do not go with {len(crossing)} context rows; give `index`, one context row, or {count}."
        )
    if index is None:
        return crossing.expand(count, *crossing.shape[1:])
    return crossing.index_select(0, index)


def _arrays(rows: Rows) -> dict[str, Array]:
    if isinstance(rows, HostTensors):
        return dict(rows.arrays)
    return {name: tensor.detach().numpy() for name, tensor in rows.items()}


def _tensors(names: Iterable[str], arrays: Iterable[Array]) -> Outputs:
    return {name: torch.from_numpy(np.asarray(array)) for name, array in zip(names, arrays, strict=True)}
