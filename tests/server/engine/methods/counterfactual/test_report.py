"""Counterfactuals as tables and pictures."""

import io

import numpy as np
import pytest
from pellucid_server.engine.asking.counterfactuals import Pixels
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.methods.counterfactual import report
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.fields import field_of
from pellucid_server.engine.models.files.manifest import ColumnManifest, ImageManifest, InputManifest
from pellucid_server.engine.models.inputs.pictures import PicturePreprocessor
from pellucid_server.vocabulary.requests import PicturesInput
from PIL import Image
from server.engine.methods.networks_of_rows import table_row, tensor_row

COLUMNS = (ColumnManifest("row", 0.0, 1.0, unit="m"), ColumnManifest("colour", categories=("red", "green")))


@pytest.fixture
def space():
    return space_of(table_row(COLUMNS, {"row": 1.5, "colour": "red"}), 3)


def test_changes_have_texts_numbers_and_units_the_largest_first(space):
    table = report.changes(4, space, [np.array([1.75, 1.0])])

    found = {name: list(column.values) for name, column in table.columns.items()}
    assert found["column"] == ["colour", "row"]
    assert (found["before"], found["after"]) == (["red", "1.5"], ["green", "1.75"])
    assert found["after_value"] == [0.0, 1.75]
    assert table.columns["after_value"].missing.tolist() == [True, False]
    assert found["unit"] == ["", "m"]
    assert found["row"] == [4, 4]


def test_a_column_of_the_model_keeps_its_name_beside_those_of_the_table(space):
    table = report.rows(4, space, [np.array([1.75, 1.0])])

    assert list(table.columns) == ["row_", "number", "row", "colour"]
    assert table.columns["row"].values.tolist() == [1.75]
    assert table.columns["colour"].values == ("green",)


def test_without_any_the_tables_have_their_columns_and_no_rows(space):
    assert report.changes(0, space, []).columns["column"].values == ()
    assert len(report.rows(0, space, []).columns["row"].values) == 0
    assert len(report.summary(0, [], (1.0, "a"), "L1").columns["found"].values) == 0


def test_a_score_that_is_not_finite_is_missing():
    line = report.Line("search", False, 1.0, 1, float("nan"), "", None)
    table = report.summary(0, [line], (1.0, "a"), "L1")

    assert table.columns["score_after"].missing.tolist() == [True]
    assert table.columns["minimal"].missing.tolist() == [True]


@pytest.mark.parametrize(
    ("output", "labels", "expected"),
    [([1.0, 2.0], ("a", "b"), "b"), ([3.0, 2.0], (), "0"), ([1.0], ("a",), ""), ([np.nan, 1.0], ("a", "b"), "")],
)
def test_predictions_are_named(output, labels, expected):
    assert report.named(np.array(output), labels) == expected


@pytest.mark.parametrize(("resize", "crop"), [(6, (6, 6)), (10, (6, 6)), (9, (5, 7)), (8, (4, 6))])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_png_is_preprocessed_to_exactly_the_row(resize, crop, channels):
    levels = np.random.default_rng(1).integers(0, 256, (channels, *crop))
    manifest = ImageManifest(resize, crop, "bicubic", (127.0,) * channels, (50.0,) * channels)
    model = PicturePreprocessor(InputManifest("x", "image", image=manifest), np.dtype(np.float32), (channels, *crop))
    pixels = Pixels(np.full(channels, 127.0), np.full(channels, 50.0), resize)
    row = ((levels - 127.0) / 50.0).astype(np.float32)
    question = tensor_row(row, features={"x": Feature("image", True)}, pixels={"x": pixels})
    field = field_of(question)

    (made,) = report.pictures(question, field, field.start, "A picture.").values()

    again = model.prepare(PicturesInput((made.data,)), "x").rows[0]
    np.testing.assert_array_equal(again, row)
    assert Image.open(io.BytesIO(made.data)).size == (made.width, made.height)
