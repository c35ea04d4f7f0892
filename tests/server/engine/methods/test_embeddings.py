"""Embeddings do not depend on the scale of rows, and say how they came about."""

import numpy as np
import pytest
from pellucid_server.engine.methods.shared.projecting import embeddings

ROWS = np.abs(np.random.default_rng(0).normal(size=(40, 6)))
HUGE, SMALL = 2.0**120, 2.0**-140
"""Powers of two, by which no digit changes."""


def tsne(rows, iterations=300):
    return embeddings.tsne(rows, 2, 5.0, 12.0, iterations, "euclidean", 0)


@pytest.mark.parametrize("scale", [HUGE, SMALL])
def test_a_tsne_is_the_same_at_any_scale(scale):
    coordinates, divergence, _ = tsne(ROWS)
    scaled, other, _ = tsne(ROWS * scale)

    assert coordinates.std() > 0
    np.testing.assert_array_equal(scaled, coordinates)
    assert other == divergence


@pytest.mark.parametrize("scale", [HUGE, SMALL])
def test_factors_are_the_same_at_any_scale(scale):
    coordinates, parts, left, iterations = embeddings.factors(ROWS, 2, 500, 0)
    scaled, same, rest, steps = embeddings.factors(ROWS * scale, 2, 500, 0)

    assert left == pytest.approx(np.linalg.norm(ROWS - coordinates @ parts) / np.linalg.norm(ROWS))
    assert left < 0.6
    np.testing.assert_array_equal(scaled, coordinates * scale)
    np.testing.assert_array_equal(same, parts)
    assert (rest, steps) == (left, iterations)


def test_a_tsne_of_the_fewest_iterations_has_a_divergence():
    _, divergence, iterations = tsne(ROWS, 250)

    assert divergence < 10
    assert iterations == 251
    assert tsne(ROWS, 300)[2] == 300
