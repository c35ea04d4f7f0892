"""A model version, loaded and tried out: all that the operations and the engine need to know of it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.asking.question import Arrays, Feature, Question, Target
from pellucid_server.engine.asking.registry import Background, Method, Need
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.models.files.manifest import Manifest
from pellucid_server.engine.models.graph.cuts import Behind, BehindUnits, Cuts
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.graph.lengths import Lengths
from pellucid_server.engine.models.graph.names import Layer
from pellucid_server.engine.models.inputs.baselines import baseline_rows, default_kind, no_default
from pellucid_server.engine.models.inputs.preprocessing import Preprocessor
from pellucid_server.engine.models.loading.trial import RowBytes
from pellucid_server.engine.models.loading.twin import Twin
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.descriptions import CapabilityInfo, LayerInfo, ModelInfo, OutputInfo, ParityInfo
from pellucid_server.vocabulary.requests import ModelKey

_NO_GRAPH = "the model has only an ONNX file; {what} need model.pt2 beside it (pellucid-export writes one)"
_NO_LAYERS = "the model has only an ONNX file, of which no value between the inputs and the outputs holds rows"
_WHOLE_NUMBERS = "every input of the model is of whole numbers, which have no gradient"


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class LoadedModel:
    """A model version that is served. Nothing of it ever changes.

    Attributes
    ----------
    key
        Name, version and digest.
    inputs
        What prepares each input, by name, in the model's order.
    outputs
        The outputs: those in the manifest first, in its order.
    lengths
        How long axes may be that are open.
    features
        What methods are told of each input.
    background
        Rows after preprocessing, (rows, *features) each; empty if there are none.
    medoid
        The background row that is closest to all others, (1, *features) each; empty without a background.
    runtime
        What serves forward passes: "onnxruntime" or "graph".
    graph, session
        The model as a graph; as an ONNX session, set only where that serves forward passes.
    cuts
        The layers of a model that has only an ONNX file.
    fast
        The model's second graph, for speed, where it may take the first one's place.
    twin
        The model's ONNX file where it runs parts of the graph in less time.
    solo
        Rows of different requests must not share a batch, as rows depend on one another.
    precision
        Floating-point type of the model's arithmetic, "float32" for example.
    parity
        Agreement of the ONNX file with the graph, if there are both and the session was wanted.
    gradient_obstacle
        Why gradients of it cannot be computed, as an operator has none; empty if they can.
    """

    key: ModelKey
    manifest: Manifest
    inputs: Mapping[str, Preprocessor]
    outputs: tuple[OutputInfo, ...]
    lengths: Lengths
    features: Mapping[str, Feature]
    background: Arrays
    medoid: Arrays
    runtime: str
    graph: Graph | None
    session: OnnxModel | None
    solo: bool
    precision: str
    parity: ParityInfo | None
    memory: RowBytes
    input_row_bytes: int
    gradient_obstacle: str = ""
    fast: Graph | None = None
    cuts: Cuts | None = None
    twin: Twin | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.key.name

    @property
    def version(self) -> int:
        """The version's number."""
        return self.key.version

    @property
    def digest(self) -> str:
        """SHA-256 over the version's files, lower-case hexadecimal."""
        return self.key.digest

    @property
    def max_rows(self) -> int:
        """Most rows that a request may have."""
        return self.manifest.max_rows

    @property
    def open_lengths(self) -> bool:
        """Whether rows can be of different sizes, and so take different times."""
        return any(-1 in preprocessor.info.shape for preprocessor in self.inputs.values())

    @property
    def largest_batch(self) -> int | None:
        """Most rows that one forward pass may have, or None for any number."""
        return None if self.graph is None else self.graph.largest_batch

    @property
    def capabilities(self) -> frozenset[Need]:
        """What the model can do."""
        return frozenset(need for need in Need if not self.obstacle(need))

    def refusal(self, method: Method) -> str:
        """Say why the model does not allow a method; empty if it does."""
        obstacles = (self.obstacle(need) for need in sorted(method.needs))
        return next((obstacle for obstacle in obstacles if obstacle), "")

    def graph_for(self, *layers: str) -> Graph:
        """Return the graph to run: the faster one if there is one and it has these layers or parts of layers."""
        if self.graph is None:
            raise UnsupportedError(
                f"{self.key.name} does not allow it: {_NO_GRAPH.format(what='gradients')}.", subject="graph"
            )
        return self.graph if self.fast is None or any(layer not in self.fast.sites for layer in layers) else self.fast

    def cuts_for(self, *layers: str) -> Cuts:
        """Return what these layers can be read and changed by: the graph, or the ONNX file where there is no other."""
        return self.cuts if self.graph is None and self.cuts is not None else self.graph_for(*layers)

    def suffix(self, layer: str) -> tuple[Behind, str]:
        """Return what the model does behind a layer, without gradients, and what runs it, for receipts."""
        cuts = self.cuts_for(layer)
        if self.twin is not None and isinstance(cuts, Graph):
            found = self.twin.suffix(cuts, layer)
            if found is not None:
                return found, self.twin.runtime
        return cuts.suffix(layer), cuts.runtime

    def unit_suffix(self, layer: str) -> tuple[BehindUnits, str]:
        """Return what it does behind a layer of which one unit is changed in each row, and what runs it."""
        cuts = self.cuts_for(layer)
        if self.twin is not None and isinstance(cuts, Graph):
            found = self.twin.unit_suffix(cuts, layer)
            if found is not None:
                return found, self.twin.runtime
        return cuts.unit_suffix(layer), cuts.runtime

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The layers by name, in the order in which a forward pass enters them."""
        found = self.graph or self.cuts
        return {} if found is None else found.layers

    @property
    def sites(self) -> Mapping[str, Layer]:
        """All that can be changed by name: the layers, and parts of them."""
        found = self.graph or self.cuts
        return {} if found is None else found.sites

    def value_of(self, layer: str) -> Hashable:
        """Return what is equal for layers that have one value, such as a block and its last part."""
        return layer if self.graph is None else self.graph.value_of(layer)

    def row_bytes(self, *, backward: bool) -> int:
        """Return the device memory that a row takes, an estimate on the high side."""
        return self.memory.backward if backward else self.memory.forward

    def baseline(
        self, kind: str, row: Arrays, *, many: bool = False, sigma: float = 10.0, field: str = "explanation.baseline"
    ) -> tuple[str, Arrays]:
        """Return the resolved kind and the baseline rows of a row; see `baselines.baseline_rows`."""
        return baseline_rows(
            kind,
            row,
            features=self.features,
            background=self.background,
            sigma=sigma,
            field=field,
            many=many,
            medoid_rows=self.medoid,
        )

    def lacking(self, method: Method) -> str:
        """Say what a request must give, as the model has no default baseline for a method; empty if it has."""
        if method.baselines is Background.NONE or self._default_kind(method):
            return ""
        return no_default(self.features)

    def devices(self, device: str, *, forward: bool, backward: bool) -> str:
        """Name where a worker on `device` runs the model forward and backward, "cpu, cuda:0" if on two."""
        found = [device if self.session is None else self.session.device] if forward else []
        return ", ".join(dict.fromkeys([*found, device] if backward or not forward else found))

    def info(self, methods: Sequence[Method]) -> ModelInfo:
        """Describe the model to callers, with what it allows of `methods`."""
        return ModelInfo(
            key=self.key,
            description=self.manifest.description,
            inputs=tuple(preprocessor.info for preprocessor in self.inputs.values()),
            outputs=self.outputs,
            layers=self._layers(),
            capabilities=tuple(self._capability(method) for method in methods),
            runtime=self.runtime,
            parity=self.parity,
            background_rows=len(next(iter(self.background.values()), ())),
            solo=self.solo,
        )

    def _capability(self, method: Method) -> CapabilityInfo:
        reason = self.refusal(method)
        rows = 0 if reason else self._default_rows(method)
        return CapabilityInfo(method.name, not reason, reason or self.lacking(method), rows)

    def _default_kind(self, method: Method) -> str:
        many = method.baselines is Background.MANY
        return default_kind(self.features, has_background=bool(self.background), many=many)

    def _default_rows(self, method: Method) -> int:
        """Return the rows that a row takes by default, if all of it differs from the baseline; 0 if not known.

        It is not known of methods that are asked of more than a row, and where the method refuses.
        """
        if method.verb is not ATTRIBUTE:
            return 0
        shapes = {
            name: tuple(max(length, 1) for length in preprocessor.info.shape)
            for name, preprocessor in self.inputs.items()
        }
        baselines = len(next(iter(self.background.values()))) if self._default_kind(method) == "background" else 1
        question = Question(
            inputs={name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()},
            baselines={
                name: np.broadcast_to(np.float32(self.features[name].mask), (baselines, *shape))
                for name, shape in shapes.items()
            },
            target=Target("", ()),
            features=self.features,
        )
        try:
            return method.cost(method.resolve({}), question).rows
        except InvalidRequestError:
            return 0

    def obstacle(self, need: Need) -> str:
        """Say why the model does not have what a method may need; empty if it has."""
        if need is Need.FORWARD:
            return ""
        if self.graph is None and need is Need.LAYERS:
            return "" if self.layers else _NO_LAYERS
        if self.graph is None:
            return _NO_GRAPH.format(what=need.value)
        if need is Need.GRADIENTS and not any(feature.differentiable for feature in self.features.values()):
            return _WHOLE_NUMBERS
        if need is Need.GRADIENTS:
            return self.gradient_obstacle
        return ""

    def _layers(self) -> tuple[LayerInfo, ...]:
        return tuple(
            LayerInfo(
                layer.name,
                layer.type,
                wire_shape(layer.shape),
                layer.units,
                layer.cuttable,
                heads=layer.heads,
                branch=layer.branch,
            )
            for layer in self.layers.values()
        )


def wire_shape(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Write a shape with -1 where a length is open."""
    return tuple(-1 if length is None else length for length in shape)
