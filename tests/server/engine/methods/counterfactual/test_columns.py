"""Rows in the caller's own terms: rounding, distances, encoding."""

import numpy as np
import pytest
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.models.files.manifest import ColumnManifest, InputManifest
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.vocabulary.requests import TableInput
from server.engine.methods.networks_of_rows import table_row

COLUMNS = (
    ColumnManifest("small", 0.004, 0.003, 0.0, 0.03),
    ColumnManifest("large", 5000.0, 2500.0),
    ColumnManifest("colour", categories=("red", "green", "blue")),
    ColumnManifest("grade", categories=("1", "2"), encoding="ordinal"),
)
ROW = {"small": 0.00512, "large": 4321.5, "colour": "green", "grade": "1"}


def space(digits=3, **options):
    return space_of(table_row(COLUMNS, ROW, **options), digits)


def test_changed_numbers_have_digits_of_their_columns_spread_and_others_keep_all():
    made = space().snapped(np.array([[0.0123456, 4321.5, 1.0, 0.0], [0.00512, 1234.567, 1.0, 0.0]]))

    assert made.tolist() == [[0.01235, 4321.5, 1.0, 0.0], [0.00512, 1230.0, 1.0, 0.0]]


def test_rounding_goes_away_from_the_row_or_back_to_it():
    rows = np.array([[0.00512, 1234.0, 1.0, 0.0], [0.00512, 9876.0, 1.0, 0.0]])

    assert space().snapped(rows, "away")[:, 1].tolist() == [1230.0, 9880.0]
    assert space().snapped(rows, "back")[:, 1].tolist() == [1240.0, 9870.0]


def test_rounding_never_leaves_the_bounds_nor_crosses_the_row():
    source = np.random.default_rng(1)
    made = space()
    rows = np.repeat(made.start[None], 500, axis=0)
    rows[:, 0] += source.normal(size=500) * 0.01
    rows[:, 1] += source.normal(size=500) * 5
    for how in ("nearest", "away", "back"):
        found = made.snapped(rows, how)
        assert ((found[:, 0] >= 0.0) & (found[:, 0] <= 0.03)).all()
        assert ((found - made.start) * (rows - made.start) >= 0).all()


def test_whole_numbers_are_whole_and_readable():
    made = space(rules={"large": {"whole": True}})

    assert made.snapped(np.array([[0.00512, 1234.567, 1.0, 0.0]]))[0, 1] == 1230.0
    assert made.snapped(np.array([[0.00512, 1234.567, 1.0, 0.0]]), more=5)[0, 1] == 1230.0
    assert space(6, rules={"large": {"whole": True}}).snapped(np.array([[0.00512, 1234.567, 1.0, 0.0]]))[0, 1] == 1235.0


def test_fixed_columns_go_back_whatever_is_asked():
    made = space(rules={name: {"fixed": True} for name in ROW})

    np.testing.assert_array_equal(made.snapped(np.array([[0.02, 1.0, 2.0, 1.0]])), made.start[None])
    assert not made.free.any()


def test_distances_count_spreads_and_categories():
    background = [{**ROW, "large": 4000.0 + 100.0 * number} for number in range(11)]
    made = space(background=background)

    # The median absolute deviation of eleven numbers in steps of 100 is 300; a column that does not vary has its range.
    candidates = np.array([[0.00512, 4921.5, 1.0, 0.0], [0.02012, 4321.5, 2.0, 1.0]])
    assert made.scaled_by == ("range", "median absolute deviation", "category", "category")
    np.testing.assert_allclose(made.distances(candidates, "l1"), [2.0, 0.5 + 2], rtol=1e-3)
    np.testing.assert_allclose(made.distances(candidates, "l2"), [2.0, 2.25**0.5], rtol=1e-3)
    assert made.distances(candidates, "l0").tolist() == [1, 3]


def test_where_most_rows_are_equal_the_standard_deviation_is_the_unit():
    background = [{**ROW, "large": 9000.0 if number == 0 else 4000.0} for number in range(11)]

    assert space(background=background).scaled_by[1] == "standard deviation"


def test_without_a_background_the_unit_is_the_stated_deviation():
    made = space()

    assert made.scaled_by[:2] == ("standard deviation", "standard deviation")
    assert made.scale[:2].tolist() == pytest.approx([0.003, 2500.0])


def test_candidates_are_encoded_to_the_bit_as_the_server_prepares_them():
    source = np.random.default_rng(2)
    table = TablePreprocessor(InputManifest("x", "tabular", columns=COLUMNS), np.dtype(np.float32), (6,))
    values = np.stack([source.normal(size=50), 1e4 * source.normal(size=50), *source.integers(0, 2, (2, 50))], axis=1)
    rows = tuple(
        {
            name: column.categories[int(value)] if column.categories else float(value)
            for (name, column), value in zip(((c.name, c) for c in COLUMNS), row, strict=True)
        }
        for row in values
    )

    prepared = table.prepare(TableInput(rows), "x").rows
    np.testing.assert_array_equal(table.encode(values), prepared)
    np.testing.assert_array_equal(table.values(TableInput(rows)), values)
    np.testing.assert_allclose(table.decode(prepared), values, rtol=1e-4, atol=1e-5)
    assert (prepared[:, 2:5].sum(axis=1) == 1).all()


def test_gradients_are_per_unit_of_distance():
    made = space()
    slopes = made.gradient({"x": np.array([2.0, 3.0, 9.0, 9.0, 9.0, 9.0])})

    np.testing.assert_allclose(slopes, [2.0, 3.0, 0.0, 0.0], rtol=1e-6)


def test_rows_that_obey_the_rules_are_told_from_those_that_do_not():
    made = space(rules={"colour": {"allowed": (2,)}, "large": {"minimum": 4321.5}, "grade": {"fixed": True}})
    rows = np.array(
        [
            [0.00512, 4321.5, 1, 0],
            [0.02, 5000.0, 2, 0],
            [0.02, 4000.0, 1, 0],
            [0.02, 5000.0, 0, 0],
            [0.02, 5000.0, 1, 1],
        ]
    )

    assert made.obeys(rows).tolist() == [True, True, False, False, False]


def test_values_are_written_as_callers_write_them():
    made = space()

    assert [made.text(value, at) for value, at in ((0.00512, 0), (4321.5, 1), (4000.0, 1), (2.0, 2), (1.0, 3))] == [
        "0.00512",
        "4321.5",
        "4000",
        "blue",
        "2",
    ]
