"""Masks of maps on a grid, cell by cell: against torch's interpolation of whole maps."""

import numpy as np
import pytest
from pellucid_server.engine.methods.shared.units import upsampling
from pellucid_server.engine.methods.shared.units.upsampling import BILINEAR, NEAREST, Upsampling, areas, count_bits
from server.engine.methods.dissection.planted import upsampled

SHAPES = [
    ((7, 7), (112, 112)),
    ((7, 5), (112, 80)),
    ((3, 4), (10, 13)),
    ((20, 20), (9, 7)),
    ((1, 1), (5, 6)),
    ((1, 6), (4, 4)),
    ((7, 7), (113, 111)),
    ((30, 30), (30, 30)),
]


def maps(shape, count=6):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("rule", [BILINEAR, NEAREST])
@pytest.mark.parametrize(("shape", "grid"), SHAPES)
def test_masks_and_areas_are_those_of_whole_maps(shape, grid, rule):
    values, threshold = maps(shape), np.float32(0.7)
    found = Upsampling(shape, grid, rule)
    concepts = np.random.default_rng(1).random((3, *grid)) < 0.4

    masks = found.masks(values.reshape(6, -1), np.full(6, threshold))
    which, alone, both = areas(masks, found.packed(concepts))

    wanted = upsampled(values[:, None], grid, rule)[:, 0] > threshold
    np.testing.assert_array_equal(found.unpacked(masks, 6), wanted)
    np.testing.assert_array_equal(which, np.flatnonzero(wanted.any((1, 2))))
    np.testing.assert_array_equal(alone, wanted[which].sum((1, 2)))
    np.testing.assert_array_equal(both, (wanted[which, None] & concepts).sum((2, 3)))


@pytest.mark.parametrize("rule", [BILINEAR, NEAREST])
@pytest.mark.parametrize(("shape", "grid"), SHAPES)
def test_values_are_those_of_whole_maps(shape, grid, rule):
    values = maps(shape)

    of, found = Upsampling(shape, grid, rule).values(values.reshape(6, -1), np.full(6, -np.inf, np.float32))

    wanted = np.sort(upsampled(values[:, None], grid, rule).reshape(6, -1), axis=1)
    for number in range(6):
        mine = found[of == number]
        np.testing.assert_allclose(np.sort(mine[mine > -np.inf]), wanted[number], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("height", [6, 0.1, 1e30, -3])
@pytest.mark.parametrize("of_upsampled", [False, True])
def test_a_plateau_is_not_above_its_own_height(height, of_upsampled):
    values = np.full((1, 49), height, np.float32)

    masks = Upsampling((7, 7), (113, 97), BILINEAR).masks(values, values[:, 0], of_upsampled=of_upsampled)

    assert not count_bits(masks.bits).any()


def test_a_plateau_just_above_is_above_everywhere():
    values = np.full((1, 49), 0.1, np.float32)
    found = Upsampling((7, 7), (113, 97), BILINEAR)

    masks = found.masks(values, np.nextafter(values[:, 0], np.float32(0)))

    assert found.unpacked(masks, 1).all()


def test_bits_are_counted_alike_without_numpy_2(monkeypatch):
    words = np.random.default_rng(0).integers(0, 1 << 63, (5, 3), np.uint64)
    counted = count_bits(words)
    monkeypatch.setattr(upsampling, "_bit_count", None)

    np.testing.assert_array_equal(count_bits(words), counted)
    np.testing.assert_array_equal(counted, [sum(int(word).bit_count() for word in row) for row in words])
