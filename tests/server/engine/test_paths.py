"""Integrals of the gradient along the path from a baseline to an input."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.methods.shared.paths import (
    FIRST_SEGMENTS,
    POINTS,
    InputLine,
    first_segments,
    gauss_legendre,
    integrated,
    measure,
    path_rows,
    refined,
    summed,
)
from server.engine.methods.closed_forms import Formula, grown, tensor_question
from server.engine.methods.networks import mlp, score


def kinks(inputs):
    """Seven kinks, up and down, at places that no rule knows of."""
    places = torch.linspace(0.13, 0.887, 7, dtype=torch.float64) ** 1.3
    slopes = torch.tensor([9, -17, 21, -26, 30, -19, 4], dtype=torch.float64)
    return (torch.relu(inputs["x"].mean(dim=1, keepdim=True) - places) * slopes).sum(dim=1)


@pytest.mark.parametrize("points", [1, 2, 3, 8, 64])
def test_the_rule_is_exact_for_polynomials_up_to_twice_its_points(points):
    nodes, weights = gauss_legendre(points)

    powers = np.arange(2 * points)
    np.testing.assert_allclose((nodes[:, np.newaxis] ** powers * weights[:, np.newaxis]).sum(axis=0), 1 / (powers + 1))


def test_the_ends_of_the_path_are_the_rows_to_the_last_bit():
    x, baseline = np.random.default_rng(14).normal(size=(2, 50)).astype(np.float32) * [[1e-3], [1e3]]
    question = tensor_question(x, baseline)

    rows = grown(InputLine(question).scores(np.array([0.0, 0.25, 1.0])).rows)["x"]

    np.testing.assert_array_equal(rows[0], question.baselines["x"][0])
    np.testing.assert_array_equal(rows[2], question.inputs["x"])
    np.testing.assert_allclose(rows[1], 0.75 * baseline + 0.25 * x, rtol=1e-5, atol=1e-2)


def test_segments_add_up_to_the_whole_path():
    module, x = mlp(), np.random.default_rng(15).normal(size=6).astype(np.float32)
    line = InputLine(tensor_question(x))
    cuts = np.array([0.0, 0.1, 0.35, 0.8, 1.0])
    pairs = np.stack([cuts[:-1], cuts[1:]], axis=1)

    values, slopes = measure(Formula(score(module, 0)), line, pairs, cuts, points=40)
    _, whole = measure(Formula(score(module, 0)), line, np.array([[0.0, 1.0]]), cuts[:1], points=1000)
    sums = {"x": slopes["x"] * line.change["x"]}

    assert sums["x"].shape == (4, 6)
    np.testing.assert_allclose(sums["x"].sum(axis=1), np.diff(values), atol=2e-3)
    np.testing.assert_allclose(slopes["x"].sum(axis=0), whole["x"][0], atol=2e-3)


def test_halving_keeps_the_path_whole():
    handle, line = Formula(kinks), InputLine(tensor_question(np.ones(5)))
    segments = first_segments(handle, line)

    halved = refined(handle, line, segments, (0, 2))

    edges = [(segment.begin, segment.end) for segment in halved]
    assert edges == [(0, 0.125), (0.125, 0.25), (0.25, 0.5), (0.5, 0.625), (0.625, 0.75), (0.75, 1)]
    assert [segment.end_value for segment in halved[:-1]] == [segment.begin_value for segment in halved[1:]]
    assert halved[2] is segments[1]


def test_segments_between_edges_are_the_same_however_many_are_integrated_at_once():
    handle, line = Formula(kinks), InputLine(tensor_question(np.ones(5)))
    edges = np.sort(np.append(np.random.default_rng(16).random(38), [0.0, 1.0]))

    segments = integrated(handle, line, edges)

    np.testing.assert_array_equal([segments[0].begin, *(segment.end for segment in segments)], edges)
    values = kinks({"x": torch.from_numpy(np.tile(edges[:, np.newaxis], 5))}).numpy()
    np.testing.assert_allclose([segment.begin_value for segment in segments], values[:-1], atol=1e-5)
    np.testing.assert_allclose([segment.end_value for segment in segments], values[1:], atol=1e-5)
    _, whole = measure(Formula(kinks), line, np.stack([edges[:-1], edges[1:]], axis=1), edges, points=POINTS)
    np.testing.assert_allclose(summed(segments, line, "x"), whole["x"].sum(axis=0), rtol=1e-5)
    # No corner is scored twice.
    assert handle.rows == (0, 39 * POINTS + 40)


@pytest.mark.parametrize(("size", "small"), [(4096, True), (4097, False)])
def test_rows_are_counted_as_they_are_evaluated(size, small):
    question = tensor_question(np.ones(size))
    handle = Formula(lambda inputs: inputs["x"].sum(dim=1))

    first_segments(handle, InputLine(question))

    points, corners = FIRST_SEGMENTS * POINTS, FIRST_SEGMENTS + 1
    assert handle.rows == ((0, points + corners) if small else (corners, points))
    assert path_rows(question.inputs, points=points, corners=corners) == handle.rows
