"""Projection: the rows of a probe set as points in few dimensions, by what a layer makes of them.

Sources: see `engine/methods/shared/embeddings.py`.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion, ProbeSet, Saved, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.methods.shared.layer_values import layer_batches, probe_of
from pellucid_server.engine.methods.shared.pace import Pace
from pellucid_server.engine.methods.shared.projected import Embedding, Projected, Projection
from pellucid_server.engine.methods.shared.reductions import REDUCTIONS, Numbers, Reduction, Vectors
from pellucid_server.engine.methods.shared.scatter_plots import scatter_plot
from pellucid_server.engine.statistics.covariance import Covariance
from pellucid_server.engine.statistics.sample import Sample
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, State, Table

_EFFORT = 16
"""How many times as long as hashing rows it takes to take them in."""
_MOST_COVARIANCES = 2048
"""Columns up to which principal components are exact."""
_MOST_ELEMENTS = 1 << 25
"""Of the rows of all layers: 128 MiB."""
_SAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of projection."""

    algorithm: str = parameter("pca", "How coordinates are found.", choices=("pca", "nmf", "tsne", "umap"))
    components: int | None = parameter(
        None,
        "How many coordinates a row gets, at most 3 for tsne; left out, 2, or 1 where there are not more.",
        minimum=1,
        maximum=512,
    )
    reduction: str = parameter(
        "mean", "What a row's numbers are, of a layer with positions: one for each unit, or all.", choices=REDUCTIONS
    )
    most_rows: int = parameter(
        2000, "Rows that get coordinates, a random sample if there are more.", minimum=1, maximum=100_000
    )
    scale: bool = parameter(False, "Whether pca divides each column by its standard deviation.")
    perplexity: float = parameter(
        30.0, "About how many neighbours a row has for tsne; less than the number of rows.", minimum=1.0, maximum=1000.0
    )
    exaggeration: float = parameter(
        12.0, "How many times as strongly tsne's rows attract one another at first.", minimum=1.0, maximum=100.0
    )
    iterations: int = parameter(1000, "Iterations of tsne and nmf, at most.", minimum=250, maximum=10_000)
    neighbours: int = parameter(15, "Neighbours of a row for umap.", minimum=2, maximum=1000)
    min_distance: float = parameter(0.1, "How close umap may put rows.", minimum=0.0, maximum=1.0)
    metric: str = parameter(
        "euclidean", "The distance of rows for tsne, umap and the figures of quality.", choices=("euclidean", "cosine")
    )
    quality_rows: int = parameter(
        1000, "Rows, a random sample, that neighbours are compared of.", minimum=3, maximum=5000
    )
    quality_neighbours: int = parameter(5, "Neighbours of each that are compared.", minimum=1, maximum=500)
    thumbnails: int = parameter(150, "Rows drawn as their pictures in the scatter plot.", minimum=0, maximum=2000)
    size: int = parameter(800, "Side of the scatter plot, in pixels.", minimum=200, maximum=4000)


@method(
    "projection",
    Params,
    verb=DISSECT,
    family="geometry",
    source="van der Maaten and Hinton, JMLR 9, 2008; Lee and Seung, Nature 401, 1999; Venna and Kaski, ICANN 2001",
    cost=lambda params, question: Cost(0 if question.probe is None else question.probe.count),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
)
def projection(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Show the rows of a probe set as points in few dimensions, by what a layer makes of them.

    Raises
    ------
    InvalidRequestError
        There are no layers or no probe, a parameter does not fit them, or a value is NaN, infinite, or negative for
        nmf.
    UnsupportedError
        umap is not installed.
    """
    probe = probe_of(question, "projection")
    reductions = {each.name: Reduction(each, params.reduction) for each in question.layers}
    components = _checked(question, params, probe, reductions)
    gathered = _Gathered(question, params, reductions)
    pace = Pace(_SAVE_SECONDS)
    for batch, values in layer_batches(handle, question, probe, gathered.done):
        for name, reduction in reductions.items():
            rows = reduction(values[name])
            if params.algorithm == "nmf":
                _require_positive(name, rows, batch.numbers.tolist())
            handle.beside(partial(gathered.update, name, rows, batch.numbers), byte_count=_EFFORT * rows.nbytes)
        gathered.count(batch.numbers, batch.labels)
        if pace.due() or gathered.done >= probe.count:
            yield Saved(gathered.state(), gathered.done, probe.count)
    numbers = sorted(gathered.sample(question.layers[0].name).keys.tolist())
    labels = tuple(gathered.labels.get(number, "") for number in numbers)
    names = probe.names(numbers)
    yield Findings(
        tables={"rows": _rows_table(numbers, names, labels)},
        resolved={"components": max(components.values())} if len(set(components.values())) == 1 else {},
    )
    figures: list[tuple[str, str, float, str]] = []
    for number, each in enumerate(question.layers):
        settings = Embedding(params, components[each.name], question.seed, f"layers[{number}]", probe.count)
        found = Projected(handle, settings).of(each.name, gathered.sample(each.name), gathered.covariance(each.name))
        figures += [(each.name, *figure) for figure in found.figures]
        arrays = _arrays(each, found, reductions[each.name], names)
        yield Findings(arrays=arrays, warnings=found.warnings)
        plot = scatter_plot(handle, probe, found.coordinates, numbers, labels, params.thumbnails, params.size)
        yield Findings(pictures={f"{each.name}/thumbnails": plot(each.name, params.algorithm)})
    yield Findings(tables={"quality": _quality_table(figures)})


class _Gathered:
    """What is kept of rows as they come: a sample, its labels, and covariances where they are small enough."""

    def __init__(self, question: ProbeQuestion, params: Params, reductions: dict[str, Reduction]) -> None:
        self.done = 0
        self.labels: dict[int, str] = {}
        self._samples: dict[str, Sample] = {}
        self._covariances: dict[str, Covariance] = {}
        state = question.state
        for name, reduction in reductions.items():
            exact = params.algorithm == "pca" and reduction.width <= _MOST_COVARIANCES
            if state is None:
                self._samples[name] = Sample(reduction.width, params.most_rows, question.seed)
                if exact:
                    self._covariances[name] = Covariance(reduction.width)
                continue
            self._samples[name] = Sample.from_state(within(f"{name}/sample", state.arrays))
            if exact:
                self._covariances[name] = Covariance.from_state(within(f"{name}/covariance", state.arrays))
        if state is not None:
            self.done = int(state.values["rows"])
            self.labels = {int(number): label for number, label in json.loads(str(state.values["labels"])).items()}

    def update(self, name: str, rows: Vectors, numbers: Numbers) -> None:
        """Take a layer's rows in, (n, width)."""
        sample = self._samples[name]
        chosen = sample.admitted(numbers)
        sample.update(numbers[chosen], rows[chosen])
        if name in self._covariances:
            self._covariances[name].update(rows)

    def count(self, numbers: Numbers, labels: tuple[str, ...]) -> None:
        """Note rows that all layers have had, and keep the labels of the sample."""
        self.done += len(numbers)
        if labels:
            self.labels.update(zip(numbers.tolist(), labels, strict=True))
            kept = next(iter(self._samples.values())).keys.tolist()
            self.labels = {number: self.labels[number] for number in kept}

    def sample(self, name: str) -> Sample:
        return self._samples[name]

    def covariance(self, name: str) -> Covariance | None:
        return self._covariances.get(name)

    def state(self) -> State:
        arrays: dict[str, Vectors] = {}
        for name, sample in self._samples.items():
            arrays |= nested(f"{name}/sample", sample.state())
        for name, covariance in self._covariances.items():
            arrays |= nested(f"{name}/covariance", covariance.state())
        return State(arrays, {"rows": self.done, "labels": json.dumps(self.labels)})


def _checked(
    question: ProbeQuestion, params: Params, probe: ProbeSet, reductions: dict[str, Reduction]
) -> dict[str, int]:
    """Return how many components each layer gets; refuse what cannot be done before anything is."""
    rows = min(probe.count, params.most_rows)
    if params.algorithm == "umap" and importlib.util.find_spec("umap") is None:
        text = "umap is not installed on the server; install pellucid[umap], or choose another algorithm."
        raise UnsupportedError(text, subject='parameters["algorithm"]')
    if params.algorithm == "tsne":
        require(params.perplexity < rows, "perplexity", params.perplexity, f"must be less than the {rows} rows")
        require((params.components or 1) <= 3, "components", params.components, "must be in [1, 3] for tsne")
    if params.algorithm == "umap":
        require(params.neighbours < rows, "neighbours", params.neighbours, f"must be less than the {rows} rows")
    elements = rows * sum(each.width for each in reductions.values())
    if elements > _MOST_ELEMENTS:
        text = (
            f'parameters["most_rows"] is {params.most_rows}; {rows} rows of all layers have {elements} numbers, more '
            f"than {_MOST_ELEMENTS}: take fewer rows, layers or units, or another reduction than {params.reduction!r}."
        )
        raise InvalidRequestError(text, field='parameters["most_rows"]')
    found = {}
    for each in question.layers:
        # Of rows around their mean, the last component has nothing.
        most = min(rows, reductions[each.name].width)
        if params.components is not None:
            what = f"must be at most {most}, for {each.name} has {reductions[each.name].width} columns of {rows} rows"
            require(params.components <= most, "components", params.components, what)
        found[each.name] = params.components or min(2, most)
    return found


def _require_positive(name: str, rows: Vectors, numbers: list[int]) -> None:
    negative = np.argwhere(np.less(rows, 0))
    if len(negative):
        place, column = (int(part) for part in negative[0])
        text = (
            f"parameters[\"algorithm\"] is 'nmf', which is of values that are not negative; {name} is "
            f"{float(rows[place, column]):.6g} in column {column} of row {numbers[place]}: look behind its ReLU."
        )
        raise InvalidRequestError(text, field='parameters["algorithm"]')


def _rows_table(numbers: list[int], names: tuple[str, ...], labels: tuple[str, ...]) -> Table:
    columns = {"row": Column(np.array(numbers, np.int64)), "name": Column(names)}
    if any(labels):
        columns["label"] = Column(labels, np.array([not label for label in labels]))
    return Table(columns, "The rows that have coordinates, in the order of the coordinates.")


def _quality_table(figures: list[tuple[str, str, float, str]]) -> Table:
    layers, names, values, texts = zip(*figures, strict=True)
    columns = {
        "layer": Column(tuple(layers)),
        "figure": Column(tuple(names)),
        "value": Column(np.array(values, np.float64)),
        "text": Column(tuple(texts)),
    }
    return Table(columns, "How good the coordinates are.")


def _arrays(
    layer: ProbeLayer, found: Projection, reduction: Reduction, names: tuple[str, ...]
) -> dict[str, NamedArray]:
    component, column = Axis("component"), reduction.axis
    arrays = {
        f"{layer.name}/coordinates": NamedArray(
            found.coordinates, (Axis("row", names), component), text=f"Where each row lies, by {layer.name}."
        )
    }
    if found.components is not None:
        text = "The components, in the units of the layer."
        arrays[f"{layer.name}/components"] = NamedArray(found.components, (component, column), text=text)
    if found.mean is not None:
        arrays[f"{layer.name}/mean"] = NamedArray(found.mean, (column,), text="What is taken off before.")
    if found.ratios is not None:
        text = "Share of the variance along each component."
        arrays[f"{layer.name}/explained_variance_ratio"] = NamedArray(found.ratios, (component,), text=text)
    return arrays
