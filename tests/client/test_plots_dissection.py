"""Pictures of dissections: what is drawn of which method, and that the numbers are those of the answer."""

from dataclasses import replace

import numpy as np
import pytest
from client.dissected import (
    activations_answer,
    answer,
    dictionary_answer,
    picture,
    projection_answer,
    table,
    visualised_answer,
)
from pellucid.findings import Axis, NamedArray


def drawn(found):
    """Draw, lay out and return the panels."""
    figure = found.plot()
    figure.canvas.draw()
    return figure.axes


def titles(axes):
    return [each.get_title() for each in axes]


def test_a_dictionary_is_drawn_as_categories_by_layer_and_the_commonest_concepts():
    found = dictionary_answer(units=20)

    categories, concepts = drawn(found)

    assert [each.get_text() for each in categories.get_yticklabels()] == ["conv1", "block.2"]
    # For each layer the bars, with the rest, are its units.
    widths = [bar.get_width() for bar in categories.patches if bar.get_width()]
    assert sum(widths) == pytest.approx(200)
    counted = {
        each.get_text(): bar.get_width() for each, bar in zip(concepts.get_yticklabels(), concepts.patches, strict=True)
    }
    assert counted == {name: len(found.dictionary.units_of(name)) for name in counted}
    assert sum(counted.values()) == len(found.dictionary.detectors)


def test_a_dictionary_without_any_detector_is_drawn_too():
    rows = table("dictionary", layer=["a"], unit=[0], concept=[None], detector=[False], dead=[True])

    (categories,) = drawn(answer("network-dissection", tables=[rows]))

    assert [bar.get_width() for bar in categories.patches] == [100]


def test_pictures_are_drawn_above_the_way_to_them():
    found = visualised_answer(units=2, layer="_a")

    *pictures, trajectory = drawn(found)

    assert titles(pictures) == ["_a[0]/0", "_a[0]/1", "_a[1]/0", "_a[1]/1"]
    assert pictures[0].images[0].get_array().shape == (48, 48, 3)
    np.testing.assert_array_equal(trajectory.lines[1].get_ydata(), found.arrays["trajectory"].values[1])
    assert [each.get_text() for each in trajectory.get_legend().get_texts()] == [" _a[0]", " _a[1]"]


def test_rows_of_a_projection_are_points_by_label():
    found = projection_answer(rows=30)

    (panel,) = drawn(found)

    labels = [each or "" for each in found.tables["rows"]["label"]]
    counted = {each.get_label(): len(each.get_offsets()) for each in panel.collections}
    assert counted == {f" {label}": labels.count(label) for label in set(labels)}


def test_rows_without_labels_are_points_of_one_colour():
    found = projection_answer(rows=30)

    (panel,) = drawn(replace(found, findings=replace(found.findings, tables={})))

    assert [len(each.get_offsets()) for each in panel.collections] == [30]
    assert panel.get_legend() is None


def test_statistics_are_drawn_from_the_lowest_mean_to_the_highest():
    found = activations_answer(units=6)

    (panel,) = drawn(found)

    assert panel.lines[0].get_ydata().tolist() == sorted(found.tables["conv1/units"]["mean"])


def test_statistics_by_class_of_position_are_not_drawn_a_second_time():
    found = activations_answer(units=2)
    classes = table("conv1/positions", positions=["all", "all"], unit=[0, 1], mean=[0.0, 1.0])
    tables = {**found.tables, classes.name: classes}

    assert titles(drawn(replace(found, findings=replace(found.findings, tables=tables)))) == ["conv1/units"]


def test_a_method_that_is_not_known_is_drawn_by_what_it_has():
    array = NamedArray("a", np.eye(3), (Axis("layer"), Axis("row")))

    assert len(drawn(answer("new", arrays=[array]))) == 2
    assert titles(drawn(answer("new", pictures=[picture("x")]))) == ["x"]


@pytest.mark.parametrize("found", [answer("new"), answer("tuning-curve", tables=[table("t", word=["a"])])])
def test_an_answer_without_anything_to_draw_says_so(found):
    with pytest.raises(ValueError, match="The answer has no dictionary, curves, points, pictures or statistics"):
        found.plot()


def test_dollar_signs_in_names_are_no_mathematics():
    found = dictionary_answer(4, ("a$b$c_{",), rename={"red": "$x_{$"})

    assert drawn(found)


def test_an_estimate_so_far_says_how_far_it_is():
    assert "25% done" in dictionary_answer(4, last=False).plot().get_suptitle()
