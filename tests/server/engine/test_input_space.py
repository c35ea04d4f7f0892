"""The space of a model's inputs: bounds, centres, and what is held."""

import dataclasses

import numpy as np
import pytest
from pellucid_server.engine.asking.counterfactuals import CellColumn
from pellucid_server.engine.asking.probes import ProbeQuestion
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.methods.shared.searching.input_space import input_space
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.descriptions import ImageInfo, InputInfo


class Cells:
    """Two numbers, standardized, of which the second states no range."""

    elements = np.array([0, 1])
    slopes = np.array([0.5, 0.1])

    def __init__(self, background=(), minimum=-4.0):
        self.columns = (CellColumn("a", "", minimum, 6.0), CellColumn("b"))
        self.background = np.array(background, float).reshape(-1, 2)

    def encode(self, values):
        return ((values - [1.0, 50.0]) * self.slopes).astype(np.float32)


def table(uncentred=(), **fields):
    groups = np.array([0, 1], np.int32)
    return ProbeQuestion(
        features={"row": Feature("tabular", True, groups=groups, columns=("a", "b"), uncentred=uncentred)},
        inputs={"row": InputInfo("row", "tabular", "float32", (2,))},
        **fields,
    )


def tensors(shape=(2,), kind="float32", **features):
    return {
        "features": {"x": Feature("tensor", kind.startswith("float"), **features)},
        "inputs": {"x": InputInfo("x", "tensor", kind, shape)},
    }


def test_columns_lie_in_their_stated_range_or_within_three_deviations():
    found = input_space(table(cells={"row": Cells()}), None, None, None)

    np.testing.assert_allclose(found.low, [-2.5, -3.0])
    np.testing.assert_allclose(found.high, [2.5, 3.0])
    np.testing.assert_allclose(found.centre, [0, 0])


def test_a_background_that_may_be_shown_bounds_columns_that_state_no_range():
    cells = Cells([[0, 40], [2, 70]])
    background = {"row": cells.encode(cells.background)}

    shown = input_space(table(cells={"row": cells}, background=background, disclosable=True), None, None, None)
    kept = input_space(table(cells={"row": cells}, background=background), None, None, None)

    np.testing.assert_allclose(shown.low, [-2.5, -1.0])
    np.testing.assert_allclose(shown.high, [2.5, 2.0])
    np.testing.assert_allclose(kept.low, [-2.5, -3.0])
    np.testing.assert_allclose(shown.centre, [0, 0.5])
    np.testing.assert_allclose(kept.centre, [0, 0])


def test_a_column_that_nothing_bounds_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="'b'"):
        input_space(table(uncentred=("b",), cells={"row": Cells()}), None, None, None)


def test_pictures_lie_between_black_and_white_about_their_mean_colour():
    image = ImageInfo(4, 2, 2, "bilinear", (100.0, 50.0), (20.0, 10.0))
    question = ProbeQuestion(
        features={"image": Feature("image", True)},
        inputs={"image": InputInfo("image", "image", "float32", (2, 2, 2), image=image)},
    )

    found = input_space(question, None, None, None)

    np.testing.assert_allclose(found.low.reshape(2, 4), [[-5] * 4, [-5] * 4])
    np.testing.assert_allclose(found.high.reshape(2, 4), [[7.75] * 4, [20.5] * 4])
    np.testing.assert_array_equal(found.centre, np.zeros(8))


def test_tensors_lie_in_the_models_ranges_before_those_that_are_given():
    stated = ProbeQuestion(**tensors(), boxes={"x": (np.array([0.0, -1.0]), np.array([2.0, 1.0]))})

    np.testing.assert_array_equal(input_space(stated, -9.0, 9.0, None).high, [2, 1])
    given = input_space(ProbeQuestion(**tensors()), -9.0, 7.0, None)
    np.testing.assert_array_equal(given.low, [-9, -9])
    np.testing.assert_array_equal(given.centre, [-1, -1])
    opened = input_space(ProbeQuestion(**tensors()), None, None, np.array([3, 4]))
    assert np.isinf(opened.low).all()
    np.testing.assert_array_equal(opened.centre, [3, 4])


def test_whole_numbers_and_masks_are_held():
    question = ProbeQuestion(
        features={
            "ids": Feature("tensor", False),
            "mask": Feature("tensor", False, mask=True),
            "x": Feature("tensor", True),
        },
        inputs={
            "ids": InputInfo("ids", "tensor", "int64", (2,)),
            "mask": InputInfo("mask", "tensor", "bool", (2,)),
            "x": InputInfo("x", "tensor", "float32", (3,)),
        },
        background={"ids": np.array([[4, 1], [4, 2], [5, 2]]), "x": np.ones((3, 3), np.float32)},
        disclosable=True,
    )

    found = input_space(question, -1.0, 2.0, None)

    np.testing.assert_array_equal(found.held["ids"], [4, 2])
    np.testing.assert_array_equal(found.held["mask"], [True, True])
    rows = found.rows(np.array([[0.5, 1, 2], [0, 0, 0]]))
    np.testing.assert_array_equal(rows["ids"], [[4, 2], [4, 2]])
    np.testing.assert_array_equal(rows["x"], np.array([[0.5, 1, 2], [0, 0, 0]], np.float32))
    assert rows["x"].dtype == np.float32
    np.testing.assert_array_equal(found.centre, [1, 1, 1])
    hidden = input_space(dataclasses.replace(question, disclosable=False), -1.0, 2.0, None)
    np.testing.assert_array_equal(hidden.held["ids"], [0, 0])
    np.testing.assert_array_equal(hidden.centre, [0.5, 0.5, 0.5])


def test_a_row_of_any_length_has_that_of_the_probes_first():
    class Probe:
        def rows(self, numbers):
            return {"x": np.zeros((len(numbers), 5, 2), np.float32)}

    with pytest.raises(InvalidRequestError, match="any length"):
        input_space(ProbeQuestion(**tensors((-1, 2))), 0.0, 1.0, None)
    assert input_space(ProbeQuestion(**tensors((-1, 2)), probe=Probe()), 0.0, 1.0, None).parts[0].shape == (5, 2)


def test_a_column_whose_zero_is_no_mean_is_centred_in_its_range():
    cells = Cells(minimum=0.0)
    found = input_space(table(uncentred=("a",), cells={"row": cells}), None, None, None)

    # From 0 to 6, of a mean of 1 and a slope of a half: -0.5 to 2.5.
    np.testing.assert_allclose(found.centre, [1, 0])
