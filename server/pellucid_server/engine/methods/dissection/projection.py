"""Projection: the rows of a probe set as points in few dimensions, by what a layer makes of them.

Sources: see `engine/methods/shared/projecting/embeddings.py`.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeBatch, ProbeLayer, ProbeQuestion, ProbeSet, Saved, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.methods.shared.projecting.component_maps import component_maps
from pellucid_server.engine.methods.shared.projecting.gathered_points import GatheredPoints
from pellucid_server.engine.methods.shared.projecting.points import Points
from pellucid_server.engine.methods.shared.projecting.projected import Embedding, Projected, Projection
from pellucid_server.engine.methods.shared.projecting.reductions import (
    POSITIONS,
    REDUCTIONS,
    Numbers,
    Reduction,
    Vectors,
)
from pellucid_server.engine.methods.shared.projecting.scatter_plots import scatter_plot
from pellucid_server.engine.methods.shared.save_timer import SaveTimer
from pellucid_server.engine.methods.shared.units.layer_values import Values, looked_at, probe_of
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, Table

_MOST_ELEMENTS = 1 << 25
"""Of the rows of all layers: 128 MiB."""


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
        "mean",
        "What a point is, of a layer with positions: a row by a number for each unit, or all, or each position.",
        choices=REDUCTIONS,
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
    maps: int = parameter(
        0,
        "For how many of the first rows maps of pca's or nmf's components are drawn, where positions are points.",
        minimum=0,
        maximum=64,
    )
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
    gathered = GatheredPoints(
        reductions, params.most_rows, question.seed, covariances=params.algorithm == "pca", state=question.state
    )
    timer = SaveTimer()

    def take(batch: ProbeBatch, values: Mapping[str, Values]) -> None:
        for name, reduction in reductions.items():
            points = reduction(values[name])
            if params.algorithm == "nmf":
                _require_positive(handle, name, points, reduction.rows(reduction.keys(batch.numbers)))
            handle.beside(partial(gathered.update, name, points, batch.numbers))
        gathered.count(batch.numbers, batch.labels)

    for _ in looked_at(handle, question, probe, take, gathered.done):
        if timer.due() or gathered.done >= probe.count:
            state = handle.beside(gathered.state)
            timer.wait_for(state)
            yield Saved(state, gathered.done, probe.count)
    figures: list[tuple[str, str, float, str]] = []
    for number, each in enumerate(question.layers):
        reduction, sample = reductions[each.name], gathered.samples[each.name]
        points = Points.of(np.sort(sample.keys), reduction, probe, gathered.labels)
        total = probe.count * reduction.points
        settings = Embedding(params, components[each.name], question.seed, f"layers[{number}]", total)
        found = Projected(handle, settings).of(each.name, sample, gathered.covariances.get(each.name))
        figures += [(each.name, *figure) for figure in found.figures]
        tables = {f"{each.name}/points": points.table()} if params.reduction == POSITIONS else {}
        if params.reduction != POSITIONS and number == 0:
            tables = {"rows": points.table()}
        yield Findings(_arrays(each, found, reduction, points.titles), tables, warnings=found.warnings)
        plot = scatter_plot(handle, probe, found.coordinates, points, params.thumbnails, params.size)
        yield Findings(pictures={f"{each.name}/thumbnails": plot(each.name, params.algorithm)})
        yield from component_maps(handle, probe, each, reduction, found, params.maps)
    resolved = {"components": max(components.values())} if len(set(components.values())) == 1 else {}
    yield Findings(tables={"quality": _quality_table(figures)}, resolved=resolved)


def _checked(
    question: ProbeQuestion, params: Params, probe: ProbeSet, reductions: dict[str, Reduction]
) -> dict[str, int]:
    """Return how many components each layer gets; refuse what cannot be done before anything is."""
    rows = min(probe.count * min(each.points for each in reductions.values()), params.most_rows)
    if params.algorithm == "umap" and importlib.util.find_spec("umap") is None:
        text = "umap is not installed on the server; install pellucid[umap], or choose another algorithm."
        raise UnsupportedError(text, subject='parameters["algorithm"]')
    if params.algorithm == "tsne":
        require(params.perplexity < rows, "perplexity", params.perplexity, f"must be less than the {rows} rows")
        require((params.components or 1) <= 3, "components", params.components, "must be in [1, 3] for tsne")
    if params.algorithm == "umap":
        require(params.neighbours < rows, "neighbours", params.neighbours, f"must be less than the {rows} rows")
    elements = sum(min(probe.count * each.points, params.most_rows) * each.width for each in reductions.values())
    if elements > _MOST_ELEMENTS:
        text = (
            f'parameters["most_rows"] is {params.most_rows}; those of all layers have {elements} numbers, more '
            f"than {_MOST_ELEMENTS}: take fewer rows, layers or units, or another reduction than {params.reduction!r}."
        )
        raise InvalidRequestError(text, field='parameters["most_rows"]')
    found = {}
    for each in question.layers:
        reduction = reductions[each.name]
        rows = min(probe.count * reduction.points, params.most_rows)
        most = min(rows, reduction.width)
        if params.components is not None:
            what = f"must be at most {most}, for {each.name} has {reduction.width} columns of {rows} rows"
            require(params.components <= most, "components", params.components, what)
        found[each.name] = params.components or min(2, most)
    return found


def _require_positive(handle: Handle, name: str, rows: Vectors, numbers: Numbers) -> None:
    if handle.beside(rows.min) < 0:
        place, column = (int(part) for part in np.argwhere(np.less(rows, 0))[0])
        text = (
            f"parameters[\"algorithm\"] is 'nmf', which is of values that are not negative; {name} is "
            f"{float(rows[place, column]):.6g} in column {column} of row {int(numbers[place])}: look behind its ReLU."
        )
        raise InvalidRequestError(text, field='parameters["algorithm"]')


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
    layer: ProbeLayer, found: Projection, reduction: Reduction, titles: tuple[str, ...]
) -> dict[str, NamedArray]:
    component, column = Axis("component"), reduction.axis
    arrays = {
        f"{layer.name}/coordinates": NamedArray(
            found.coordinates, (Axis("row", titles), component), text=f"Where each point lies, by {layer.name}."
        )
    }
    if found.components is not None:
        text = "The direction of each component, of norm 1."
        arrays[f"{layer.name}/components"] = NamedArray(found.components, (component, column), text=text)
    if found.mean is not None:
        arrays[f"{layer.name}/mean"] = NamedArray(found.mean, (column,), text="What is taken off before.")
    if found.deviations is not None:
        text = "What columns are divided by before."
        arrays[f"{layer.name}/deviation"] = NamedArray(found.deviations, (column,), text=text)
    if found.ratios is not None:
        text = "Share of the variance along each component."
        arrays[f"{layer.name}/explained_variance_ratio"] = NamedArray(found.ratios, (component,), text=text)
    return arrays
