"""Network dissection: planted units get their names, and a plain dissection in two passes finds the same numbers."""

import numpy as np
import pytest
import torch
from server.engine.methods.dissection.planted import (
    SIDE,
    Eager,
    Planted,
    answer,
    dissected,
    drawn,
    lines,
    plainly,
    question,
)


@pytest.fixture(scope="module")
def planted():
    return Eager(Planted())


def test_planted_units_get_their_names(planted):
    found = answer(dissected(planted, question(planted, drawn(60), "conv"), quantile=0.03, grid=0))

    names = [(each["concept"], each["detector"], each["dead"]) for each in lines(found.tables["dictionary"])]
    assert names == [
        ("red", True, False),
        ("vertical edge", True, False),
        ("circle", True, False),
        (None, False, True),
        (None, False, True),
    ]


@pytest.mark.parametrize("layer", ["conv", "small"])
@pytest.mark.parametrize("space", ["raw", "upsampled"])
@pytest.mark.parametrize("rule", ["bilinear", "nearest"])
@pytest.mark.parametrize("grid", [0, 12, 17])
def test_numbers_are_those_of_a_plain_dissection_in_two_passes(planted, layer, space, rule, grid):
    probe = drawn(36, noise=0.02)
    asked = question(planted, probe, layer)
    found = answer(dissected(planted, asked, quantile=0.013, grid=grid, threshold_space=space, upsampling=rule))

    values = planted._module(torch.from_numpy(probe.pixels))[layer].numpy()
    side = grid or SIDE
    thresholds, iou = plainly(values, probe.marks, 0.013, (side, side), space=space, rule=rule)
    np.testing.assert_allclose(found.tables["dictionary"].columns["threshold"].values, thresholds, rtol=1e-6)
    np.testing.assert_allclose(found.arrays[f"{layer}/iou"].values, iou, rtol=1e-6)
