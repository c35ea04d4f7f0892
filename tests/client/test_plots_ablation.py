"""Pictures of ablations and counterfactuals: what is drawn, and where."""

import io

import numpy as np
import pytest
from client.fake_server import RECEIPT
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from pellucid.ablations import Ablation
from pellucid.counterfactuals import Change, Counterfactual, Counterfactuals
from pellucid.findings import Axis, Column, Findings, NamedArray, Picture, Table
from pellucid.plots_ablation import draw_map
from pellucid.receipts import read_receipt
from PIL import Image


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


@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[np.nan, np.nan]], [[1e300, -1e300]], [[1e-300, 0.0]]])
def test_a_map_of_zeros_of_nothing_and_of_extremes_is_drawn(values):
    figure = answer(arrays=[patching(values)]).plot()

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


def test_a_study_has_a_line_for_each_group_and_a_colour_for_each_change():
    study = table(
        "accuracy",
        change=["none", "none", "zero sex", "zero sex"],
        by=["all", "sex", "all", "sex"],
        group=["", "Female", "", "Female"],
        rows=[9, 5, 9, 5],
        accuracy=[0.9, 0.8, 0.85, 0.6],
        low=[0.8, 0.7, 0.8, 0.5],
        high=[0.95, 0.9, 0.9, np.nan],
    )

    figure = answer("ablation-study", tables=[study]).plot()

    (axes,) = figure.axes
    unchanged, changed = axes.get_lines()
    assert labels(axes.yaxis) == ["all rows", "sex: Female"]
    assert (unchanged.get_label(), changed.get_label()) == ("none", "zero sex")
    assert unchanged.get_xdata().tolist() == [0.9, 0.8]
    assert (changed.get_ydata() > unchanged.get_ydata()).all()
    assert axes.get_xlabel() == "accuracy"
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [[0.8, 0.95], [0.7, 0.9]]
    rendered(figure)


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


def test_changes_are_arrows_from_before_to_after_with_dollars_as_they_are():
    changes = (Change("cost $", 40.0, 41.5, "$"), Change("radius", 17.94, 14.2), Change("colour", "red", "green"))
    figure = counterfactuals(Counterfactual(0, 0, True, valid=True, prediction_after="benign", changes=changes)).plot()

    (axes,) = figure.axes
    values = [each for each in axes.texts if each.get_text()]
    assert [each.get_text() for each in values] == ["40", "41.5", "17.94", "14.2", "red", "green"]
    # What becomes smaller is drawn to the left.
    assert [each.get_position()[0] < 0.5 for each in values] == [True, False, False, True, True, False]
    assert labels(axes.yaxis) == [r"cost \$ (\$)", "radius", "colour"]
    rendered(figure)


def test_pictures_are_drawn_as_they_are():
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    pictures = {
        "counterfactual/0/image": Picture("p", buffer.getvalue(), "image/png", 6, 4, "A cat in place of a dog.")
    }

    figure = counterfactuals(Counterfactual(0, 0, True, pictures=pictures)).plot()

    (axes,) = figure.axes
    assert axes.get_images()[0].get_array().shape == (4, 6, 3)
    assert axes.get_title() == "A cat in place of a dog."
    rendered(figure)


def test_where_nothing_was_found_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="No counterfactual was found"):
        counterfactuals(Counterfactual(0, 0, False)).plot()
