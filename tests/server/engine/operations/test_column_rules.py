"""Rules for columns, held to the value that a row has."""

import math

import numpy as np
import pytest
from pellucid_server.engine.operations.column_rules import cell_column
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import ColumnInfo
from pellucid_server.vocabulary.requests import ColumnRule

AGE = ColumnInfo("age", unit="a", minimum=0.0, maximum=120.0)
COLOUR = ColumnInfo("colour", unit="", categories=("blue", "green", "red"))


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        (ColumnRule("age", fixed=True, minimum=50.0), "minimum"),
        (ColumnRule("age", fixed=True, maximum=20.0), "maximum"),
        (ColumnRule("age", fixed=True, minimum=50.0, maximum=60.0, only_up=True), "minimum"),
    ],
)
def test_a_fixed_column_whose_value_breaks_its_bounds_is_refused(rule, bound):
    with pytest.raises(InvalidRequestError, match="'age' of row 3 is 30 and stays as it is") as caught:
        cell_column(AGE, (2, rule), 30.0, 3)

    assert caught.value.metadata["field"] == f"columns[2].{bound}"


@pytest.mark.parametrize("value", [50.0, 55.0, 60.0, math.nan])
def test_a_fixed_column_within_its_bounds_is_taken_and_so_is_a_value_that_is_missing(value):
    found = cell_column(AGE, (0, ColumnRule("age", fixed=True, minimum=50.0, maximum=60.0)), value, 0)

    assert found.fixed


def test_a_fixed_value_may_be_at_its_bound_to_the_rounding_of_float32():
    value = float(np.float32(0.1))
    assert value > 0.1

    assert cell_column(AGE, (0, ColumnRule("age", fixed=True, maximum=0.1)), value, 0).fixed


def test_a_fixed_column_whose_category_is_left_out_is_refused():
    rule = ColumnRule("colour", fixed=True, categories=("red", "blue"))
    with pytest.raises(InvalidRequestError, match="leaves 'green' out, which 'colour' of row 0 is and stays") as caught:
        cell_column(COLOUR, (1, rule), 1.0, 0)

    assert caught.value.metadata["field"] == "columns[1].categories"
    for kept in (0.0, 2.0, math.nan):
        assert cell_column(COLOUR, (1, rule), kept, 0).fixed


def test_a_column_that_may_change_may_begin_outside_its_bounds():
    found = cell_column(AGE, (0, ColumnRule("age", minimum=50.0)), 30.0, 0)

    assert (found.minimum, found.maximum) == (50.0, 120.0)
