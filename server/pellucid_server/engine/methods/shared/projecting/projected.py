"""Coordinates of a layer's rows by each algorithm, with figures of how good they are."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.methods.shared.projecting import embeddings
from pellucid_server.engine.statistics.covariance import Covariance, participation_ratio
from pellucid_server.engine.statistics.sample import Sample
from pellucid_server.errors import InvalidRequestError

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Projection:
    """Where rows lie.

    Attributes
    ----------
    coordinates
        (rows, components), by row number.
    components, mean, deviations, ratios
        What the coordinates multiply, (components, columns), what is taken off and what columns are divided by before,
        (columns,), and the share of the variance, (components,); None where an algorithm has none.
    figures
        How good it is: name, value, and what it is.
    """

    coordinates: Floats
    components: Floats | None = None
    mean: Floats | None = None
    deviations: Floats | None = None
    ratios: Floats | None = None
    figures: tuple[tuple[str, float, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """How one layer is projected: the method's parameters, components, seed, the field at fault, and all points."""

    params: Any
    components: int
    seed: int
    field: str
    rows: int


class Projected:
    """Projects the rows of one layer."""

    def __init__(self, handle: Handle, settings: Embedding) -> None:
        self._handle = handle
        self._settings = settings
        self._params = settings.params
        self._seed = settings.seed % (1 << 32)

    def of(self, name: str, sample: Sample, covariance: Covariance | None) -> Projection:
        """Return where the rows of a sample lie; `covariance` is that of all rows, for principal components.

        Raises
        ------
        InvalidRequestError
            All rows are equal, and the algorithm needs distances.
        """
        algorithm = self._params.algorithm
        if algorithm != "pca":
            self._require_different(name, sample.values)
        found = {"pca": self._pca, "nmf": self._nmf, "tsne": self._tsne, "umap": self._umap}[algorithm](
            name, sample, covariance
        )
        figures = (*found.figures, *self._neighbours(sample, found.coordinates))
        used = len(sample.keys)
        figures += (("rows", float(used), f"Points that have coordinates, of {self._settings.rows}."),)
        order = np.argsort(sample.keys)
        warnings = found.warnings
        if used < self._settings.rows:
            warnings += (f"{name}: coordinates are of a random sample of {used} of the {self._settings.rows} points.",)
        return replace(found, coordinates=found.coordinates[order], figures=figures, warnings=warnings)

    def _pca(self, name: str, sample: Sample, covariance: Covariance | None) -> Projection:
        rows = sample.values.astype(np.float64)
        warnings: tuple[str, ...] = ()
        count = self._settings.components
        if covariance is None:
            mean = rows.mean(0)
            deviations = rows.std(0)
        else:
            mean, matrix = covariance.mean, covariance.matrix
            deviations = np.sqrt(np.diag(matrix))
        divisors = np.where(deviations > 0, deviations, 1.0) if self._params.scale else np.ones_like(mean)
        centred = (rows - mean) / divisors
        if covariance is None:
            components, variances = self._handle.compute(embeddings.principal_of_rows, centred, count, self._seed)
            total, ratio = float(np.square(centred).mean(0).sum()), None
            warnings = (
                f"{name}: the principal components are of the {len(rows)} rows of the sample, by random projections: "
                f"covariances of {rows.shape[1]} columns are not kept.",
            )
        else:
            matrix = matrix / np.outer(divisors, divisors)
            components, variances = self._handle.compute(embeddings.principal, matrix, count)
            total, ratio = float(np.trace(matrix)), participation_ratio(matrix)
        figures = []
        if total > 0:
            ratios = variances / total
            figures.append(("explained_variance", float(min(ratios.sum(), 1.0)), "Share of the variance that is kept."))
        else:
            ratios = None
            warnings += (f"{name}: all rows are equal; there is no variance to explain.",)
        if ratio is not None:
            figures.append(("participation_ratio", ratio, "Over how many directions the variance is spread."))
        scales = divisors if self._params.scale else None
        return Projection(centred @ components.T, components, mean, scales, ratios, tuple(figures), warnings)

    def _nmf(self, name: str, sample: Sample, _: Covariance | None) -> Projection:
        count, most = self._settings.components, self._params.iterations
        found = self._handle.compute(embeddings.factors, sample.values, count, most, self._seed)
        coordinates, components, left, iterations = found
        figures = (
            ("reconstruction_error", left, "Norm of what the components leave over, as a share of the rows' norm."),
            ("iterations", float(iterations), "Iterations until it changed no more."),
        )
        warnings: tuple[str, ...] = ()
        if iterations >= most:
            warnings = (f'{name}: nmf still changed after {most} iterations; raise parameters["iterations"].',)
        return Projection(coordinates, components, figures=figures, warnings=warnings)

    def _tsne(self, name: str, sample: Sample, _: Covariance | None) -> Projection:
        params = self._params
        coordinates, divergence, iterations = self._handle.compute(
            embeddings.tsne,
            sample.values,
            self._settings.components,
            params.perplexity,
            params.exaggeration,
            params.iterations,
            params.metric,
            self._seed,
        )
        figures = (
            ("kl_divergence", divergence, "Kullback-Leibler divergence of neighbourhoods, in nats."),
            ("iterations", float(iterations), "Iterations."),
        )
        text = f"{name}: sizes of clusters and distances between them mean nothing in a t-SNE."
        return Projection(coordinates, figures=figures, warnings=(text,))

    def _umap(self, name: str, sample: Sample, _: Covariance | None) -> Projection:
        params = self._params
        arguments = (self._settings.components, params.neighbours, params.min_distance, params.metric, self._seed)
        coordinates = self._handle.compute(embeddings.umap, sample.values, *arguments)
        text = f"{name}: sizes of clusters and distances between them mean little in a UMAP."
        return Projection(coordinates, warnings=(text,))

    def _neighbours(self, sample: Sample, coordinates: Floats) -> tuple[tuple[str, float, str], ...]:
        """Compare neighbours among the first rows of the sample, which are a random sample themselves."""
        params = self._params
        # By their numbers: of rows equally far away, the first is nearest.
        order = np.argsort(sample.keys[: params.quality_rows])
        some = sample.values[order]
        neighbours = min(params.quality_neighbours, (len(some) - 1) // 2)
        if neighbours < 1:
            return ()
        found = self._handle.compute(embeddings.kept_neighbours, some, coordinates[order], neighbours, params.metric)
        of = f"of {neighbours} neighbours of {len(some)} rows"
        return (
            ("trustworthiness", found[0], f"Whether neighbours in the picture are neighbours in the layer, {of}."),
            ("continuity", found[1], f"Whether neighbours in the layer are neighbours in the picture, {of}."),
        )

    def _require_different(self, name: str, rows: Rows) -> None:
        if not np.not_equal(rows, rows[:1]).any() and (self._params.algorithm != "nmf" or not rows.any()):
            text = f"{self._settings.field} is {name}, which makes the same of all rows; there is nothing to project."
            raise InvalidRequestError(text, field=self._settings.field)
