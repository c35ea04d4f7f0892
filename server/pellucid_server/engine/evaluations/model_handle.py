"""The handle that methods get: turns what they ask for into evaluations and waits for them."""

import difflib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid_server.engine.asking.handle import Answer, Found, Held, UnfitLayerError
from pellucid_server.engine.asking.recipe import Ask, HostTensors, Layout, Recipe
from pellucid_server.engine.device.accelerator import is_cuda
from pellucid_server.engine.device.engine import Engine, Evaluation, Lane
from pellucid_server.engine.device.evaluation import grown, row_bytes, small
from pellucid_server.engine.device.kernel import Kernel
from pellucid_server.engine.device.lane import Packing
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.prefix import OnDevice, Prefix, held
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.tasks.helpers import Helpers
from pellucid_server.engine.tasks.hub import Hub
from pellucid_server.engine.tasks.request_state import RequestState, Tally

_ANY_BATCH = 1 << 30

_GROWN_BYTES = 1 << 20
_KEEP = Keep()

_LEAST_BYTES = 2
"""Bytes that an element of a layer's value takes at least: that of a half-precision model."""

_CACHED_BYTES = 16 << 20
"""Rows of a chunk on a CPU: more would go to memory and come back from there, and are no faster."""
_LEAST_CACHED_ROWS = 16
"""Whatever they have: networks are slow at few rows."""


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker has one of, and every handle uses."""

    engine: Engine
    hub: Hub
    helper: Helpers
    device: str
    threads: int = 1


class ModelHandle:
    """Answers evaluations of one model for one answer of a request; implements `Handle`.

    Called by a task of the hub; other tasks run while it waits.
    """

    def __init__(
        self,
        model: LoadedModel,
        services: WorkerServices,
        request: RequestState,
        *,
        prediction: bool = False,
        exact: bool = False,
        on_progress: Callable[[float], None] = lambda share: None,
        span: int = 0,
    ) -> None:
        self.tally = Tally(span=span)
        self.progress = on_progress
        self._model = model
        self._services = services
        self._request = request
        self._prediction = prediction
        self._exact = exact

    def ask(self, ask: Ask, *, progress: tuple[float, float] | None = None) -> Answer:
        """Evaluate rows and return what the fold made of them; see `Handle.ask`."""
        return self._answer(self._evaluate(ask, progress))

    def hold(self, rows: Recipe, layer: str) -> Held:
        """Run the part before `layer` for some rows, and keep on the device what lies there; see `Handle.hold`."""
        return self.hold_each(rows, (layer,))[0]

    def hold_each(
        self, rows: Recipe, layers: Sequence[str], *, by_unit: frozenset[str] = frozenset()
    ) -> tuple[Held, ...]:
        """Run the part before all of `layers` once, and keep what lies before each; see `Handle.hold_each`."""
        for layer in layers:
            self._require_layer(layer)
        # What crosses in one graph of the model is not what crosses in the other.
        together: dict[int, list[str]] = {}
        for layer in dict.fromkeys(layers):
            together.setdefault(id(self._model.cuts_for(layer)), []).append(layer)
        # Refused before anything is computed, where the layers' shapes alone say that it would be too much.
        sites = self._model.sites
        least = rows.count * sum(_LEAST_BYTES * math.prod(n or 1 for n in sites[name].shape) for name in set(layers))
        self._request.hold(least)
        self._request.hold(-least)
        found: dict[str, Held] = {}
        for names in together.values():
            prefix = Prefix(rows, tuple(names), OnDevice(), by_unit=by_unit.intersection(names))
            evaluation = self._evaluate(prefix, None)
            self._answer(evaluation)
            found.update({each.layer: each for each in held(names, evaluation.results)})
        self._request.hold(sum(each.nbytes for each in found.values()))
        return tuple(found[layer] for layer in layers)

    def by_unit(self, layer: str) -> bool:
        """Whether rows with one unit of a layer changed are run from behind it; see `Handle.by_unit`."""
        # On CUDA it is not known to be any faster.
        return not is_cuda(self._services.device) and self._model.cuts_for(layer).by_unit(layer)

    def affine(self, layer: str) -> frozenset[str]:
        """Return the outputs that are affine in a layer's value; see `Handle.affine`."""
        graph = self._model.graph
        return frozenset() if graph is None else self._services.hub.offload(lambda: graph.affine_outputs(layer))

    def release(self, held: Held) -> None:
        """Let go of what was held."""
        self._request.hold(-held.nbytes)

    def _require_layer(self, layer: str) -> None:
        """Refuse a layer that there is not, or at which the network cannot be cut."""
        layers = self._model.sites
        found = layers.get(layer)
        if found is not None and found.cuttable:
            return
        what = f"{self._model.key.name} has no layer {layer!r}"
        if found is not None:
            what = f"the value of layer {layer!r} does not hold one row of the batch at each place of axis 0"
        cuttable = [name for name, each in layers.items() if each.cuttable]
        near = difflib.get_close_matches(layer, cuttable, n=3, cutoff=0.4) or cuttable[:3]
        names = ", ".join(map(repr, near)) or "none"
        raise UnfitLayerError(f"{what}; layers that GetModel shows as cuttable: {names}.", field="layer")

    def _answer(self, evaluation: Evaluation) -> Answer:
        found, fold = evaluation.answer(), evaluation.ask.fold
        if evaluation.fold is fold or isinstance(fold, Keep):
            return Answer(found, evaluation.nonfinite)
        reduced = fold.start(evaluation.count)
        reduced.add(HostTensors(found), 0, evaluation.count)
        return Answer(reduced.result(), reduced.nonfinite)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a module-level function of the engine in a helper process: short calls never wait for long ones."""
        request, finished = self._request, self._services.hub.signal()
        return self._services.helper.call(function, arguments, request.check, finished, caller=request.caller)

    def beside(self, function: Callable[[], Found], *, byte_count: int | None = None) -> Found:
        """Call `function` on a thread of the worker; see `Handle.beside`."""
        self._request.check()
        hub = self._services.hub
        return hub.offload(function) if byte_count is None else hub.heavy(byte_count, function)

    def together(self, *functions: Callable[[], Any]) -> list[Any]:
        """Call functions, each of which goes on while another waits; see `Handle.together`."""
        return self._services.hub.map(lambda function: function(), functions)

    def seconds_left(self) -> float:
        """Return the time until the request's deadline, at least 0; infinity if it has none or the answer is exact."""
        deadline = self._request.deadline
        # By the time left, methods divide their rows: an exact answer's must not depend on it.
        return math.inf if deadline is None or self._exact else max(0.0, deadline - time.monotonic())

    def least_seconds(self, rows: Mapping[str, int]) -> float:
        """Return the device time that rows take at least, by the fastest recent ones; 0 if none was measured.

        Rows longer than those that the model was tried on take more.
        """
        engine, model = self._services.engine, self._model.key
        return math.fsum(count * engine.row_seconds(model, kind=kind) for kind, count in rows.items() if count)

    def likely_seconds(self, rows: Mapping[str, int]) -> float:
        """Return about how long rows take the device, by recent ones; infinity if there were none of a kind.

        It is infinity, too, where rows have open lengths: the time of some says nothing of others.
        """
        if self._model.open_lengths:
            return math.inf
        engine, model = self._services.engine, self._model.key
        return math.fsum(count * engine.likely_row_seconds(model, kind=kind) for kind, count in rows.items() if count)

    def _evaluate(self, ask: Ask, progress: tuple[float, float] | None) -> Evaluation:
        self._request.check()
        services = self._services
        recipe, exact = ask.recipe, ask.exact or self._exact
        layout = recipe.layout
        key = (self._model.key, ask.key, self._prediction, exact, layout)
        finished = services.hub.signal()
        rows = None if is_cuda(services.device) or ask.derived else _grown(recipe, layout)
        evaluation = Evaluation(
            key,
            ask,
            self._request,
            self.tally,
            finished,
            prediction=self._prediction,
            exact=exact,
            rows=rows,
            fold=None if rows is None else _KEEP,
            layout=layout,
            on_rows=None if progress is None else self._reporter(*progress),
        )
        if evaluation.count == 0:
            raise ValueError("an evaluation needs at least one row")
        make: Callable[[], Kernel] = functools.partial(ask.kernel, self._model, services.device)
        if ask.derived and not services.engine.knows(evaluation):
            # A graph for a new layer takes some 50 ms to derive.
            kernel = services.hub.offload(make)
            make = lambda: kernel  # noqa: E731
        services.engine.submit(evaluation, lambda: self._lane(make(), layout, exact=exact))
        # The end of a part does not wait for the batch in progress, or the whole would be late with it.
        if not finished.wait(until=self._request.deadline if self._request.whole is not None else None):
            self._request.check()
        return evaluation

    def _reporter(self, begin: float, end: float) -> Callable[[float], None]:
        report = self.progress
        return lambda share: report(begin + (end - begin) * share)

    def _lane(self, kernel: Kernel, layout: Layout, *, exact: bool) -> Lane:
        growth = self._growth(layout)
        most = self._model.largest_batch or _ANY_BATCH
        if not is_cuda(kernel.device):
            most = min(most, max(_LEAST_CACHED_ROWS, _CACHED_BYTES // max(1, row_bytes(layout))))
        return Lane(
            kernel=kernel,
            row_bytes=round(self._model.row_bytes(backward=kernel.backward) * growth),
            row_limit=most,
            packing=self._packing(exact=exact),
            model=self._model.key,
            growth=growth,
        )

    def _packing(self, *, exact: bool) -> Packing:
        if self._model.solo:
            return Packing.WHOLE if self._prediction else Packing.SINGLE
        return Packing.FIXED if exact else Packing.SHARED

    def _growth(self, layout: Layout) -> float:
        """Return how much more memory a row takes than those that the model was tried on.

        Rows of open length may be longer than those. Of what a model does with them, attention grows fastest, with
        the square of the length.
        """
        features = tuple(entry for entry in layout if entry[0] in self._model.features)
        return max(1.0, row_bytes(features) / self._model.input_row_bytes) ** 2


def _grown(recipe: Recipe, layout: Layout) -> Rows | None:
    """Grow all of some table rows here, by the thread of their request; None if they are left to the device's.

    What they cost in Python would hold the device up, whose thread all requests share. Their results are all kept, and
    folded by the request: not of a derived graph, whose results may be large or have to stay on the device.
    """
    if isinstance(recipe, Rows) or not small(layout) or recipe.count * row_bytes(layout) > _GROWN_BYTES:
        return None
    return Rows(grown([(recipe, 0, recipe.count)], layout))
