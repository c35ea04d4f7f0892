"""Overlap of masks: against flags counted by hand, and its error against the jackknife over pictures."""

import numpy as np
import pytest
from pellucid_server.engine.statistics.overlap import Overlap

UNITS, CONCEPTS, PIXELS = 5, 4, 40


def masks(seed, pictures):
    """Masks of units and concepts, (pictures, units, pixels) and (pictures, concepts, pixels), many of them empty."""
    source = np.random.default_rng(seed)
    units = source.random((pictures, UNITS, PIXELS)) < source.choice([0, 0.2, 0.6], (pictures, UNITS, 1))
    concepts = source.random((pictures, CONCEPTS, PIXELS)) < source.choice([0, 0.3, 1], (pictures, CONCEPTS, 1))
    return units, concepts


def added(units, concepts, groups):
    found = Overlap(UNITS, groups)
    for unit, concept in zip(units, concepts, strict=True):
        on, present = np.flatnonzero(unit.any(1)), np.flatnonzero(concept.any(1))
        both = (unit[on][:, None] & concept[present]).sum(2)
        counted = np.unique(groups[present]) if groups.any() else np.zeros(1, np.int64)
        found.update(PIXELS, counted, on, unit[on].sum(1), present, concept[present].sum(1), both)
    return found


def counted(units, concepts):
    """Intersections and unions of each picture, (pictures, units, concepts)."""
    both = (units[:, :, None] & concepts[:, None]).sum(3)
    return both, (units[:, :, None] | concepts[:, None]).sum(3)


def test_iou_is_the_sum_of_intersections_over_the_sum_of_unions():
    units, concepts = masks(1, 30)

    found = added(units, concepts, np.zeros(CONCEPTS, np.int64))

    both, either = counted(units, concepts)
    np.testing.assert_array_equal(found.intersections, both.sum(0))
    np.testing.assert_allclose(found.iou(), both.sum(0) / either.sum(0), rtol=1e-12)
    np.testing.assert_array_equal(found.pictures, concepts.any(2).sum(0))


def test_units_count_only_in_pictures_of_the_concepts_group():
    units, concepts = masks(2, 30)
    groups = np.array([0, 1, 1, 0])

    found = added(units, concepts, groups)

    for concept in range(CONCEPTS):
        of_group = concepts[:, groups == groups[concept]].any((1, 2))
        both, either = counted(units[of_group], concepts[of_group])
        np.testing.assert_allclose(found.iou()[:, concept], (both.sum(0) / either.sum(0))[:, concept], rtol=1e-12)
        assert found.pixels[groups[concept]] == PIXELS * of_group.sum()


def test_the_error_is_that_of_leaving_out_one_picture_after_the_other():
    pictures = 400
    units, concepts = masks(3, pictures)

    found = added(units, concepts, np.zeros(CONCEPTS, np.int64))

    both, either = counted(units, concepts)
    without = (both.sum(0) - both) / (either.sum(0) - either)
    jackknife = np.sqrt((pictures - 1) / pictures * np.square(without - without.mean(0)).sum(0))
    np.testing.assert_allclose(found.iou_error(), jackknife, rtol=0.02)


def test_the_order_of_pictures_changes_no_bit():
    units, concepts = masks(4, 20)
    groups = np.array([0, 1, 1, 0])
    order = np.random.default_rng(0).permutation(20)

    one, other = added(units, concepts, groups), added(units[order], concepts[order], groups)

    np.testing.assert_array_equal(one.iou(), other.iou())
    np.testing.assert_array_equal(one.iou_error(), other.iou_error())


@pytest.mark.parametrize("same", [True, False])
def test_a_mask_equal_to_the_concept_has_one_and_no_error_and_an_empty_one_zero(same):
    concepts = masks(5, 10)[1]
    units = np.zeros((10, UNITS, PIXELS), bool)
    units[:, 0] = concepts[:, 1] if same else False

    found = added(units, concepts, np.zeros(CONCEPTS, np.int64))

    assert found.iou()[0, 1] == same
    assert found.iou_error()[0, 1] == 0
