"""Coordinates of rows in few dimensions, and how well they keep neighbours: what runs in a helper process.

Libraries are imported where they are used: no process but the helper needs them. All run on one thread, for sums that
several threads add up differ in their last bits, which t-SNE then turns into another picture.

Sources: van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008; Lee and Seung, "Learning the parts of
objects by non-negative matrix factorization", Nature 401, 1999; McInnes, Healy and Melville, "UMAP", 2018; Venna and
Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001 (trustworthiness and continuity).
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.duration import takes

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.generic]
P = ParamSpec("P")
R = TypeVar("R")

TSNE_COLUMNS = 50
"""Principal components that t-SNE is given of wider rows."""
_EXAGGERATED = 250
"""The first iterations of t-SNE, of which there is no divergence."""
_FULL = 500
"""Rows or columns up to which principal components of rows are computed in full."""


def _on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def limited(*arguments: P.args, **settings: P.kwargs) -> R:
        with importlib.import_module("threadpoolctl").threadpool_limits(1):
            return function(*arguments, **settings)

    return limited


@takes(lambda covariance, *_: 0.001 + 3e-10 * len(covariance) ** 3)
@_on_one_thread
def principal(covariance: Floats, components: int) -> tuple[Floats, Floats]:
    """Return the eigenvectors of a covariance matrix, (components, width), and their eigenvalues, largest first.

    Of each vector, the element of largest magnitude is positive.
    """
    width = len(covariance)
    eigh = importlib.import_module("scipy.linalg").eigh
    values, vectors = eigh(covariance, subset_by_index=(width - components, width - 1))
    return signed(vectors[:, ::-1].T), np.maximum(values[::-1], 0)


@_on_one_thread
def principal_of_rows(rows: Rows, components: int, seed: int) -> tuple[Floats, Floats]:
    """Return what `principal` does of the covariance of rows, over their number, (n, width), by random projections."""
    found = _sklearn("decomposition").PCA(components, svd_solver="randomized", random_state=seed)
    found.fit(rows.astype(np.float64))
    shrink = (len(rows) - 1) / len(rows)
    return signed(found.components_), np.asarray(found.explained_variance_ * shrink)


@_on_one_thread
def factors(rows: Rows, components: int, iterations: int, seed: int) -> tuple[Floats, Floats, float, int]:
    """Factor rows, (n, width), none of them negative, into coordinates times components, neither negative.

    Returns
    -------
    tuple
        Coordinates, (n, components), components, (components, width), the Frobenius norm of what is left over as a
        share of that of the rows, and how many iterations it took.
    """
    wide, scale = _scaled(rows)
    model = _sklearn("decomposition").NMF(components, init="nndsvda", random_state=seed, max_iter=iterations, tol=1e-4)
    coordinates = model.fit_transform(wide)
    # A factor's scale is free: each component has norm 1, and the largest comes first.
    norms = np.linalg.norm(model.components_, axis=1)
    norms[norms == 0] = 1
    coordinates, parts = coordinates * norms, model.components_ / norms[:, None]
    order = np.argsort(-np.square(coordinates).sum(0), kind="stable")
    left = np.linalg.norm(wide - coordinates @ parts) / np.linalg.norm(wide)
    return coordinates[:, order] * scale, parts[order], float(left), int(model.n_iter_)


@takes(lambda rows, components: 1e-4 * len(rows))
@_on_one_thread
def weights(rows: Rows, components: Floats) -> Floats:
    """Return the non-negative coordinates of rows, (n, components), that come nearest to them by least squares."""
    nnls = importlib.import_module("scipy.optimize").nnls
    return np.array([nnls(components.T, row)[0] for row in rows.astype(np.float64)])


@_on_one_thread
def tsne(
    rows: Rows, components: int, perplexity: float, exaggeration: float, iterations: int, metric: str, seed: int
) -> tuple[Floats, float, int]:
    """Return t-SNE's coordinates of rows, (n, components), the Kullback-Leibler divergence and how many iterations."""
    wide, _ = _scaled(rows)
    if wide.shape[1] > TSNE_COLUMNS:
        solver = "full" if min(wide.shape) <= _FULL else "randomized"
        pca = _sklearn("decomposition").PCA(min(TSNE_COLUMNS, *wide.shape), svd_solver=solver, random_state=seed)
        wide = pca.fit_transform(wide)
    model = _sklearn("manifold").TSNE(
        components,
        perplexity=perplexity,
        early_exaggeration=exaggeration,
        learning_rate="auto",
        max_iter=max(iterations, _EXAGGERATED + 1),
        init="pca",
        metric=metric,
        method="barnes_hut" if components < 4 else "exact",
        random_state=seed,
        n_jobs=1,
    )
    coordinates = model.fit_transform(wide).astype(np.float64)
    # `n_iter_` is the number of the last one, from 0.
    return coordinates, float(model.kl_divergence_), int(model.n_iter_) + 1


@_on_one_thread
def umap(rows: Rows, components: int, neighbours: int, distance: float, metric: str, seed: int) -> Floats:
    """Return UMAP's coordinates of rows, (n, components)."""
    model = importlib.import_module("umap").UMAP(
        n_components=components, n_neighbors=neighbours, min_dist=distance, metric=metric, random_state=seed, n_jobs=1
    )
    return np.asarray(model.fit_transform(rows.astype(np.float64)), np.float64)


@_on_one_thread
def kept_neighbours(rows: Rows, coordinates: Floats, neighbours: int, metric: str) -> tuple[float, float]:
    """Return trustworthiness and continuity, in [0, 1]; `neighbours` must be less than half of the rows.

    Trustworthiness is lowered by rows that are neighbours only in the coordinates, continuity by those that no longer
    are.
    """
    wide = rows.astype(np.float64)
    near = _sklearn("manifold").trustworthiness
    trust = near(wide, coordinates, n_neighbors=neighbours, metric=metric)
    if metric == "euclidean":
        return float(trust), float(near(coordinates, wide, n_neighbors=neighbours))
    # Distances in the second place are always Euclidean: those of unit vectors are in the order of their cosines.
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(norms > 0, norms, 1)
    return float(trust), float(near(coordinates, unit, n_neighbors=neighbours))


def signed(vectors: Floats) -> Floats:
    """Turn vectors, (n, width), such that the element of largest magnitude, the first of equals, is positive."""
    # Rounded, so that which of equal elements is first does not turn on the last digits.
    magnitudes = np.abs(vectors)
    largest = magnitudes.max(1, keepdims=True)
    place = (magnitudes >= largest * (1 - 1e-9)).argmax(1)
    return np.asarray(vectors * np.where(vectors[np.arange(len(vectors)), place] < 0, -1.0, 1.0)[:, None])


def _scaled(rows: Rows) -> tuple[Floats, float]:
    """Return rows in float64, the largest magnitude 1, and what that was: bounds in libraries are absolute."""
    wide = rows.astype(np.float64)
    scale = float(np.abs(wide).max(initial=0.0)) or 1.0
    return wide / scale, scale


def _sklearn(module: str) -> Any:
    return importlib.import_module(f"sklearn.{module}")
