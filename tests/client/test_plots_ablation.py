"""Pictures of ablations and counterfactuals: what is drawn, and where."""

import io
from dataclasses import replace

import numpy as np
import pytest
from client.fake_server import MODELS, RECEIPT
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Annotation
from pellucid import Scale, Zero
from pellucid.ablation_records import AblationRecord
from pellucid.ablations import Ablation
from pellucid.catalogue import Layer, read_model
from pellucid.counterfactuals import Change, Counterfactual, Counterfactuals
from pellucid.findings import Axis, Column, Findings, NamedArray, Picture, Table
from pellucid.plots_ablation import draw_map
from pellucid.receipts import Outcome, Target, read_receipt
from PIL import Image

COLUMNS = read_model(MODELS["table"]).inputs[0].columns


def texts(values):
    found = np.empty(len(values), object)
    found[:] = values
    return found


def table(name, **columns):
    made = {
        key.replace("_", " "): texts(values) if isinstance(values[0], str) else np.array(values)
        for key, values in columns.items()
    }
    return Table(name, {key: Column(key, values) for key, values in made.items()})


def answer(method="ablation", tables=(), arrays=()):
    findings = Findings(arrays={each.name: each for each in arrays}, tables={each.name: each for each in tables})
    return Ablation(method, findings, read_receipt(RECEIPT))


def effects(count=3, **more):
    return table(
        "effects", site=[f"conv[{n}]" for n in range(count)], effect=[float(n - 1) for n in range(count)], **more
    )


def labels(axis):
    return [each.get_text() for each in axis.get_ticklabels()]


def rendered(figure):
    """Draw a figure to its end, as saving it does; return its texts' sizes in pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).size


def test_effects_are_bars_with_the_largest_on_top():
    figure = answer(tables=[effects(4)]).plot()

    (axes,) = figure.axes
    assert labels(axes.yaxis) == ["conv[3]", "conv[0]", "conv[2]", "conv[1]"]
    assert [bar.get_width() for bar in axes.patches] == [2, -1, 1, 0]
    assert axes.yaxis_inverted()
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[2] != colours[1]
    assert min(rendered(figure)) > 100


def test_many_effects_are_cut_and_the_rest_is_counted():
    (axes,) = answer(tables=[effects(100)]).plot().axes

    assert len(axes.patches) == 30
    assert "70 smaller ones are not shown" in axes.get_xlabel()


def test_of_several_rows_the_means_are_drawn_with_their_intervals():
    rows = effects(3, row=[0, 1, 2])
    means = table("summary", site=["a", "b"], effect=[1.0, -2.0], low=[0.5, -2.5], high=[2.0, -1.0])

    (axes,) = answer(tables=[rows, means]).plot().axes

    assert labels(axes.yaxis) == ["b", "a"]
    (whiskers,) = (each for each in axes.collections)
    ends = sorted(tuple(segment[:, 0].tolist()) for segment in whiskers.get_segments())
    assert ends == [(-2.5, -1.0), (0.5, 2.0)]


def test_rows_are_named_where_there_is_no_summary():
    (axes,) = answer(tables=[effects(3, row=[0, 1, 2])]).plot().axes

    assert "conv[2] (row 2)" in labels(axes.yaxis)


def patching(values, axis="position"):
    names = tuple(f"blocks.{n}" for n in range(len(values)))
    places = Axis(axis, coordinates=np.arange(np.shape(values)[1], dtype=float))
    return NamedArray("scores", np.array(values), (Axis("layer", names), places), text="Score.", missing=True)


def test_a_map_has_layers_downwards_and_positions_to_the_right():
    figure = answer(tables=[effects()], arrays=[patching([[0.0, 1.0, -4.0], [np.nan, 2.0, 0.5]])]).plot()

    axes = figure.axes[0]
    (image,) = axes.get_images()
    assert labels(axes.yaxis) == ["blocks.0", "blocks.1"]
    assert labels(axes.xaxis) == ["0", "1", "2"]
    assert image.get_clim() == (-4, 4)
    assert image.get_array().mask.tolist() == [[False] * 3, [True, False, False]]
    assert min(rendered(figure)) > 100


@pytest.mark.parametrize("row", [[0.0, 0.0], [np.nan, np.nan], [1e300, -1e300], [1e-300, 0.0]])
def test_a_map_of_zeros_of_nothing_and_of_extremes_is_drawn(row):
    figure = answer(arrays=[patching([row, row])]).plot()

    low, high = figure.axes[0].get_images()[0].get_clim()
    assert low == -high < 0
    rendered(figure)


def test_only_some_of_many_positions_are_labelled():
    figure = Figure()
    draw_map(figure.subplots(), patching(np.zeros((2, 1000))))

    assert len(labels(figure.axes[0].xaxis)) <= 24


def test_units_of_one_layer_are_bars_and_of_several_a_map():
    one = answer(tables=[effects()], arrays=[patching([[1.0, 2.0]], "unit")]).plot()
    several = answer(tables=[effects()], arrays=[patching([[1.0, 2.0], [3.0, 4.0]], "unit")]).plot()

    assert not one.axes[0].get_images()
    assert isinstance(several.axes[0].get_images()[0], AxesImage)
    assert several.axes[0].get_xlabel() == "unit"


def test_curves_have_an_order_each_and_a_band():
    curve = table(
        "curve",
        order=["most-first", "most-first", "least-first", "least-first"],
        fraction=[1.0, 0.0, 0.0, 1.0],
        score=[0.0, 4.0, 4.0, 0.0],
        low=[-0.5, 3.5, 3.5, -0.5],
        high=[0.5, 4.5, 4.5, 0.5],
    )

    figure = answer("ablation-curve", tables=[effects(), curve]).plot()

    (axes,) = figure.axes
    first, second = axes.get_lines()
    assert (first.get_xdata().tolist(), first.get_ydata().tolist()) == ([0, 1], [4, 0])
    assert (first.get_label(), second.get_label()) == ("the most important first", "the least important first")
    assert len(axes.collections) == 2
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (-0.5, 4.5)
    rendered(figure)


def test_a_curve_without_intervals_has_no_band():
    curve = table("curve", order=["most-first"] * 2, fraction=[0.0, 1.0], score=[4.0, 0.0])

    assert not answer(tables=[curve]).plot().axes[0].collections


def study(changes, differences, groups=("",), **more):
    """Return a study of accuracy: each change loses twice as much in the second group as in all rows, and so on."""
    places = [(change, number) for change in ["none", *changes] for number in range(len(groups))]
    lost = dict(zip(changes, differences, strict=True))
    values = [lost.get(change, np.nan) * (number + 1) for change, number in places]
    return table(
        "accuracy",
        change=[change for change, _ in places],
        by=["clinic" if number else "all" for _, number in places],
        group=[groups[number] for _, number in places],
        rows=[9] * len(places),
        accuracy=[0.9 if np.isnan(value) else 0.9 + value for value in values],
        low=[0.8] * len(places),
        high=[0.95] * len(places),
        difference=values,
        difference_low=[value - 0.1 for value in values],
        difference_high=[value + 0.2 for value in values],
        **more,
    )


def test_a_study_shows_differences_from_zero_with_their_intervals_and_the_worst_on_top():
    figure = answer("ablation-study", tables=[study(["a", "b", "c"], [-0.1, 0.05, -0.3])]).plot()

    (axes,) = figure.axes
    lines, points = axes.collections
    assert labels(axes.yaxis) == ["c", "a", "b"]
    assert points.get_offsets()[:, 0].tolist() == [-0.3, -0.1, 0.05]
    ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
    np.testing.assert_allclose(ends, [[-0.4, -0.1], [-0.2, 0.1], [-0.05, 0.25]])
    colours = points.get_facecolor()
    assert (colours[0] == colours[1]).all()
    assert (colours[0] != colours[2]).any()
    assert "difference from the accuracy of 0.9 without changes" in axes.get_xlabel()
    rendered(figure)


def test_of_a_study_of_many_changes_the_worst_fifteen_are_shown():
    names = [f"hidden2[{number}] zero" for number in range(64)]
    figure = answer("ablation-study", tables=[study(names, np.linspace(0.1, -0.5, 64))]).plot()

    (axes,) = figure.axes
    assert labels(axes.yaxis) == names[:-16:-1]
    assert "49 changes that do less harm are not shown" in axes.get_xlabel()
    assert axes.get_legend() is None


def test_groups_of_a_study_are_a_map_of_changes_and_groups_in_which_a_loss_is_above_zero():
    figure = answer("ablation-study", tables=[study(["a", "b"], [-0.1, -0.2], ["", "north", "south"])]).plot()

    (image,) = figure.axes[1].get_images()
    np.testing.assert_allclose(image.get_array(), [[0.4, 0.6], [0.2, 0.3]])
    assert labels(figure.axes[1].xaxis) == ["clinic: north", "clinic: south"]
    assert "loss of accuracy" in [each.get_ylabel() for each in figure.axes]
    rendered(figure)


def test_groups_that_are_not_shown_are_counted_and_what_changes_nothing_is_grey():
    groups = ["", *(f"clinic {number}" for number in range(30))]
    figure = answer("ablation-study", tables=[study(["a", "b", "c"], [-0.1, 0.0, 0.1], groups)]).plot()

    colours = figure.axes[0].collections[-1].get_facecolor()[:, :3]
    assert [each.argmax() for each in colours] == [0, 0, 2]
    assert colours[1].tolist() == [0.45] * 3
    assert figure.axes[1].get_title() == "groups; 6 more are not shown"


def test_of_errors_a_rise_is_the_worst():
    errors = table(
        "errors",
        change=["none", "a", "b"],
        by=["all"] * 3,
        group=[""] * 3,
        rows=[9] * 3,
        mean_squared_error=[4.0, 3.0, 6.0],
    )

    (axes,) = answer("ablation-study", tables=[errors]).plot().axes

    # Without a column of differences, they are those of the errors.
    assert labels(axes.yaxis) == ["b", "a"]
    assert axes.collections[-1].get_offsets()[:, 0].tolist() == [2, -1]


def test_a_study_without_a_change_is_not_drawn():
    with pytest.raises(ValueError, match="has no change whose difference"):
        answer("ablation-study", tables=[study([], [])]).plot()


def test_scores_of_patches_are_bars_with_lines_at_0_and_1():
    patched = table(
        "effects", site=["a", "b", "c"], effect=[9.0, 0.0, 1.0], score=[0.1, -2.0, 1.0], score_low=[0.0] * 3
    )

    (axes,) = answer("activation-patching", tables=[patched]).plot().axes

    assert labels(axes.yaxis) == ["b", "c", "a"]
    assert [bar.get_width() for bar in axes.patches] == [-2, 1, 0.1]
    assert sorted(line.get_xdata()[0] for line in axes.get_lines()) == [0, 1]
    assert axes.get_xlabel().startswith("score: 0 as the unpatched run, 1 as")


def test_whole_layers_stay_in_the_order_of_the_network():
    sweep = table("effects", site=["l0", "l1", "l2"], layer=["l0", "l1", "l2"], effect=[1.0, -3.0, 2.0])
    units = table("effects", site=["l0[0]", "l1[0]"], layer=["l0", "l1"], unit=[0, 0], effect=[1.0, -3.0])

    assert labels(answer(tables=[sweep]).plot().axes[0].yaxis) == ["l0", "l1", "l2"]
    assert labels(answer(tables=[units]).plot().axes[0].yaxis) == ["l1[0]", "l0[0]"]


def test_of_many_layers_the_largest_stay_in_the_order_of_the_network():
    names = [f"l{number}" for number in range(100)]
    sweep = table("effects", site=names, layer=names, effect=[float(number % 50) for number in range(100)])

    shown = labels(answer(tables=[sweep]).plot().axes[0].yaxis)

    assert shown == [*names[35:50], *names[85:]]


def test_paths_have_a_bar_each():
    paths = table("effects", site=["a", "b"], effect=[3.0, 1.0], direct=[1.0, 1.0], indirect=[2.0, 0.0])

    (axes,) = answer("path-patching", tables=[paths]).plot().axes

    assert [bar.get_width() for bar in axes.patches] == [3, 1, 1, 1, 2, 0]
    named = [each.get_text() for each in axes.get_legend().get_texts()]
    assert named == ["total", "by the direct path", "by all others"]


def test_interactions_are_a_map_of_both_sites_below_the_effects():
    pairs = table(
        "interactions",
        row=[0, 0, 0, 1, 1, 1],
        site=["a", "a", "b"] * 2,
        other_site=["b", "c", "c"] * 2,
        interaction=[1.0, 0.0, -2.0, 3.0, 0.0, -4.0],
    )

    figure = answer(tables=[effects(), pairs]).plot()

    (image,) = figure.axes[1].get_images()
    expected = [[np.nan, 2, 0], [2, np.nan, -3], [0, -3, np.nan]]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), expected)
    assert labels(figure.axes[1].yaxis) == labels(figure.axes[1].xaxis) == ["a", "b", "c"]
    rendered(figure)


def steering(sites, kinds, values):
    count = len(sites)
    return table(
        "effects", site=sites, intervention=kinds, value=values, before=[1.0] * count,
        after=[float(number) for number in range(count)], effect=[1.0 - number for number in range(count)],
    )  # fmt: skip


def test_several_strengths_of_a_change_are_a_line_and_other_changes_are_bars():
    found = steering(["a"] * 3 + ["b"], ["steer"] * 3 + ["zero"], [2.0, -1.0, 0.5, np.nan])

    lines, bars = answer(tables=[found]).plot().axes

    first, unchanged = lines.get_lines()
    assert [*zip(first.get_xdata(), first.get_ydata(), strict=True)] == [(-1, 1), (0.5, 2), (2, 0)]
    assert first.get_label() == "steer a"
    assert set(unchanged.get_ydata()) == {1}
    assert labels(bars.yaxis) == ["b"]


def test_beside_strengths_the_means_of_the_other_changes_are_bars():
    found = steering(["a", "a", "b", "b"], ["steer", "steer", "zero", "zero"], [2.0, -1.0, np.nan, np.nan])
    means = table("summary", site=["a", "a", "b"], intervention=["steer", "steer", "zero"], effect=[1.0, 2.0, 3.0])

    _, bars = answer(tables=[found, means]).plot().axes

    assert [bar.get_width() for bar in bars.patches] == [3]


def test_strengths_alone_have_no_bars():
    assert len(answer(tables=[steering(["a"] * 2, ["scale"] * 2, [0.0, 2.0])]).plot().axes) == 1


def test_bars_name_the_change_and_its_value_where_a_site_has_several():
    found = steering(["a", "a", "b"], ["steer", "zero", "zero"], [0.5, np.nan, np.nan])

    (axes,) = answer(tables=[found]).plot().axes

    assert sorted(labels(axes.yaxis)) == ["a, steer 0.5", "a, zero", "b, zero"]


def joint():
    return table("joint", row=[0, 1], before=[2.0, 1.0], after=[0.5, -1.0], effect=[1.5, 2.0])


def test_joint_changes_are_bars_before_and_after():
    (axes,) = answer(tables=[joint()]).plot().axes

    assert [bar.get_width() for bar in axes.patches] == [2, 1, 0.5, -1]
    assert labels(axes.yaxis) == ["row 0", "row 1"]


def test_the_highest_outcomes_of_joint_changes_are_bars_of_their_own():
    outcomes = table(
        "outcomes", row=[0, 0, 1], index=["[0]", "[1]", "[2]"], label=["cat $", "dog", ""], before=[1.0, 2.0, 3.0],
        after=[4.0, 5.0, 6.0],
    )  # fmt: skip

    figure = answer(tables=[joint(), outcomes]).plot()

    assert [labels(axes.yaxis) for axes in figure.axes[1:]] == [[r"cat \$", "dog"], ["[2]"]]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [1, 2, 4, 5]
    rendered(figure)


def test_one_layer_is_bars_over_its_positions():
    (axes,) = answer(arrays=[patching([[1.0, -2.0, np.nan]])]).plot().axes

    assert [bar.get_height() for bar in axes.patches] == [1, -2, 0]
    assert (labels(axes.xaxis), axes.get_title()) == (["0", "1", "2"], "blocks.0")


@pytest.mark.parametrize(("shape", "map_shape"), [((8, 2, 3), (2, 3)), ((8, 3, 3), None), ((8, -1, -1), None)])
def test_the_positions_of_one_feature_map_are_where_they_are(shape, map_shape):
    layer = Layer("blocks.0", "Conv2d", shape, 8, True)
    model = replace(read_model(MODELS["photos"]), layers=(layer,))
    found = replace(answer(arrays=[patching([np.arange(6.0)])]), described=model)

    images = found.plot().axes[0].get_images()

    assert [image.get_array().shape for image in images] == ([map_shape] if map_shape else [])


def test_the_title_says_what_was_measured_and_changed():
    target = Target("logits", Outcome((1,), ""), Outcome((2,), ""), "logits")
    record = AblationRecord("logit-difference", (Zero("conv[*]"), Scale(["a", "b@3"], 2.0)))
    found = answer(tables=[effects()])
    found = replace(
        found,
        findings=replace(found.findings, record=record),
        receipt=replace(found.receipt, target=target),
        described=read_model(MODELS["photos"]),
    )

    said = found.plot().get_suptitle()

    assert said.splitlines() == [
        "ablation, photos version 3",
        "logit of dog less that of [owl]; zero conv[*], scale 2 a, b@3",
    ]
    assert found.plot().axes[0].get_xlabel().startswith("effect: logit of dog less that of [owl] without the change")


@pytest.mark.parametrize("tables", [(), [table("effects", site=["a"])], [table("rows", row=[0])]])
def test_an_answer_with_nothing_to_draw_is_refused_and_shown_as_tables(tables):
    found = answer(tables=tables)

    with pytest.raises(ValueError, match="effect"):
        found.plot()
    assert "<img" not in found._repr_html_()


def test_a_notebook_shows_the_picture_above_the_tables():
    shown = answer(tables=[effects()])._repr_html_()

    assert 'src="data:image/png;base64,' in shown
    assert shown.index("<img") < shown.index("<table>")


def counterfactuals(*items):
    return Counterfactuals(items, answer("counterfactual"))


def pixels(arrow):
    return arrow.xy[0] - arrow.xyann[0]


def arrows(axes):
    return [each for each in axes.texts if isinstance(each, Annotation)]


def test_changes_are_arrows_as_long_as_the_change_is_in_its_range():
    changes = (Change("cost $", 40.0, 50.0, "$"), Change("radius", 8.0, 2.0), Change("colour", "red", "green"))
    found = counterfactuals(
        Counterfactual(0, 0, True, valid=True, prediction_before="a", prediction_after="b", changes=changes)
    )
    columns = (replace(COLUMNS[0], name="cost $", minimum=0.0, maximum=100.0), COLUMNS[1])
    model = read_model(MODELS["table"])
    model = replace(model, inputs=(replace(model.inputs[0], columns=columns),))
    figure = replace(found, ablation=replace(found.ablation, described=model)).plot()

    (axes,) = figure.axes
    assert [pixels(each) for each in arrows(axes)] == pytest.approx([0.1, -0.75])
    texts = [each.get_text() for each in axes.texts if each.get_text()]
    assert texts == ["40 → 50", "8 → 2", "red → green"]
    assert labels(axes.yaxis) == [r"cost \$ (\$)", "radius", "colour"]
    assert axes.get_title() == "row 0: a → b"
    rendered(figure)


@pytest.mark.parametrize(
    ("before", "after", "length"), [(-1.0, 3.0, 1.0), (0.0, 5e-324, 0), (-1e308, 1e308, 1.0), (2.0, 1.0, -0.5)]
)
def test_columns_without_a_range_are_drawn_from_zero(before, after, length):
    changes = (Change("x", before, after), Change("y", 1.0, 2.0))

    figure = counterfactuals(Counterfactual(0, 0, True, changes=changes)).plot()

    found = [pixels(each) for each in arrows(figure.axes[0])]
    assert found == pytest.approx([length, 0.5] if length else [0.5])
    rendered(figure)


def test_many_changes_are_cut_and_panels_are_aligned():
    many = tuple(Change(f"column {number}", 1.0, 2.0) for number in range(30))
    figure = counterfactuals(
        Counterfactual(0, 0, True, changes=many, prediction_after="b"),
        Counterfactual(0, 1, True, changes=(Change("a much longer name of a column", 1.0, 2.0),)),
    ).plot()

    rendered(figure)
    first, second = figure.axes
    assert len(labels(first.yaxis)) == 15
    assert "15 smaller changes are not shown" in first.get_xlabel()
    assert first.get_title() == "row 0, number 1: b"
    assert first.get_position().x0 == pytest.approx(second.get_position().x0)


def test_a_number_is_named_by_its_output_before_and_after():
    found = counterfactuals(
        Counterfactual(0, 0, True, score_before=151.3, score_after=98.73, changes=(Change("x", 1.0, 2.0),))
    )
    target = Target("progression", Outcome((0,), ""), None, "")
    receipt = replace(found.receipt, target=target)
    found = replace(found, ablation=replace(found.ablation, receipt=receipt))

    assert found.plot().axes[0].get_title() == "row 0: progression 151.3 → 98.73"


def test_the_closest_candidate_is_drawn_where_nothing_was_found():
    changes = (Change("x", 1.0, 2.0),)
    found = counterfactuals(
        Counterfactual(0, 0, False, prediction_before="a", prediction_after="a", changes=changes, wanted="b")
    )

    figure = found.plot()

    assert figure.axes[0].get_title() == "row 0, not found; the closest candidate: still a"
    assert figure.get_suptitle().endswith("wanted: b")


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(buffer, "PNG")
    return Picture("p", buffer.getvalue(), "image/png", array.shape[1], array.shape[0], "A cat in place of a dog.")


def test_pictures_are_drawn_before_after_and_as_an_amplified_difference():
    rng = np.random.default_rng(5)
    after = rng.integers(60, 200, (6, 8, 3))
    change = rng.integers(-4, 5, (3, 4, 4)).astype(np.float32)
    change[0, 0, 0] = -4
    arrays = {"change/0/image": NamedArray("change", change)}
    found = Counterfactual(0, 0, True, pictures={"counterfactual/0/image": png(after)}, arrays=arrays)

    figure = counterfactuals(found).plot()

    before, middle, difference = [axes.get_images()[0].get_array() for axes in figure.axes]
    seen, moved = after[1:5, 2:6], np.moveaxis(change, 0, -1)
    np.testing.assert_array_equal(middle, seen)
    np.testing.assert_array_equal(before, seen - moved)
    np.testing.assert_array_equal(difference, np.round(128 + 127 / 4 * moved))
    assert figure.axes[2].get_title() == "difference, 31.8 times"
    rendered(figure)


def test_a_picture_without_its_change_is_drawn_as_it_is():
    figure = counterfactuals(Counterfactual(0, 0, True, pictures={"a/0/image": png(np.zeros((4, 6, 3)))})).plot()

    assert figure.axes[0].get_images()[0].get_array().shape == (4, 6, 3)
    assert figure.axes[0].get_title() == "A cat in place of a dog."
    rendered(figure)


def test_where_there_is_no_candidate_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no counterfactual, and no candidate"):
        counterfactuals(Counterfactual(0, 0, False)).plot()
