"""Scores are read off an output alike, whether it is arrays or tensors."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.evaluations.targets import scores, scores_of_arrays

ROWS = Rows({"x": np.zeros((1, 1), np.float32)})
TARGETS = {
    "a class": ((1, 1.0),),
    "a difference": ((0, 1.0), (2, -1.0)),
    "many": ((0, 0.5), (1, 0.25), (2, 0.125), (3, 2.0)),
}


def parts(elements, space, counts):
    return [(Score(ROWS, Target("y", each, space)), count) for each, count in zip(elements, counts, strict=True)]


@pytest.mark.parametrize("space", ["", "softmax", "sigmoid"])
@pytest.mark.parametrize("elements", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_arrays_are_those_of_tensors(space, elements, shape, dtype):
    values = (np.random.default_rng(51).normal(size=(7, *shape)) * 20).astype(dtype)
    asked = parts([elements], space, [7])

    found = scores_of_arrays(values, space, asked)

    expected = scores(torch.from_numpy(values).double(), space, asked).numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_each_part_of_a_chunk_has_its_own_target():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)

    found = scores_of_arrays(values, "", parts([TARGETS["a class"], TARGETS["a difference"]], "", [1, 3]))

    np.testing.assert_array_equal(found, [1, -2, -2, -2])


def test_one_number_for_each_row_is_its_score():
    found = scores_of_arrays(np.array([3.0, -4.0], np.float32), "", parts([((0, 1.0),)], "", [2]))

    np.testing.assert_array_equal(found, [3.0, -4.0])
