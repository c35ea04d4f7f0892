"""Whether a model's second graph, for speed, may take the first one's place: found out when the model is loaded."""

import logging

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading.trial import graph_run, largest_difference

_log = logging.getLogger(__name__)

OUTPUT_TOLERANCE = 1e-5
"""Most by which an output may differ, as a share of the largest."""

_WORSE, _ALLOWANCE = 3.0, 1e-3
"""An explanation's distance to float64 may be so many times the first graph's, and so much more.

At a kink, rounding sends a gradient one way or the other: of few points one alone is up to 3e-4, by either graph.
"""

_POINTS = 2
"""Of the integral. It is compared with the same in float64, so that few do; each takes time from a worker's start."""

Gradients = dict[str, npt.NDArray[np.float64]]


def trusted_fast_graph(name: str, graph: Graph, rows: Arrays, *, gradients: bool) -> Graph | None:
    """Return a model's second graph, if there is one and it agrees with the first on trial rows; otherwise None.

    Outputs must agree to 1e-5 of the largest. Where gradients can be computed, integrated gradients of the first row
    must be about as close to those in float64 as the first graph's: neither is the truth, as at the kinks of a
    network rounding decides which way a gradient goes. `name` is the model's, for the log.
    """
    try:
        fast = graph.faster()
        if fast is None:
            return None
        outputs = graph_run(graph)(rows)
        difference = largest_difference(graph_run(fast)(rows), outputs)
        if not difference <= OUTPUT_TOLERANCE:
            _log.info("model %s has no faster graph: its outputs differ by %.2g of the largest", name, difference)
            return None
        if gradients:
            first, second = _distances(graph, fast, rows, outputs)
            if not second <= _WORSE * first + _ALLOWANCE:
                _log.info("model %s has no faster graph: explanations are off by %.2g, not %.2g", name, second, first)
                return None
    except Exception as error:  # noqa: BLE001 - whatever a model's operators raise, in float64 perhaps: it has one graph
        _log.info("model %s has no faster graph: it cannot be compared (%s)", name, type(error).__name__)
        return None
    return fast


def _distances(graph: Graph, fast: Graph, rows: Arrays, outputs: Arrays) -> tuple[float, float]:
    """Return how far integrated gradients of both graphs are from those in float64, in L1 as a share of their size."""
    name = next(value.name for value in graph.outputs if value.dtype.is_floating_point)
    chosen = int(np.nanargmax(outputs[name][0]))
    truth = _integrated(graph.widened(), rows, np.dtype(np.float64), name, chosen)
    size = sum(float(np.abs(each).sum()) for each in truth.values())

    def distance(found: Gradients) -> float:
        return sum(float(np.abs(found[key] - each).sum()) for key, each in truth.items()) / (size or 1.0)

    first, second = (_integrated(each, rows, np.dtype(np.float32), name, chosen) for each in (graph, fast))
    return distance(first), distance(second)


def _integrated(graph: Graph, rows: Arrays, kind: np.dtype[np.generic], output: str, chosen: int) -> Gradients:
    """Integrate the gradient of an element of an output from zeros to the first row; float32 rows are made `kind`."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    total: Gradients = {}
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        tensors = {}
        for key, array in rows.items():
            point = array[:1] * np.asarray(node, array.dtype) if array.dtype.kind == "f" else array[:1].copy()
            tensors[key] = torch.from_numpy(point.astype(kind) if array.dtype == np.float32 else point)
        leaves = {key: tensor.requires_grad_() for key, tensor in tensors.items() if tensor.is_floating_point()}
        with torch.enable_grad():
            score = graph(tensors)[output].reshape(-1)[chosen]
            found = torch.autograd.grad(score, list(leaves.values()), allow_unused=True)
        for key, gradient in zip(leaves, found, strict=True):
            slope = np.zeros(rows[key][:1].shape) if gradient is None else gradient.double().numpy()
            total[key] = total.get(key, 0.0) + weight * slope * rows[key][:1]
    return total
