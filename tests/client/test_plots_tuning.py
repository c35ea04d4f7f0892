"""Pictures of tuning curves: what is drawn, and where."""

import io

import numpy as np
import pytest
from matplotlib.image import AxesImage
from pellucid.findings import Axis, Column, Findings, NamedArray, Table
from pellucid.plots_tuning import draw_polar, plot_tuning, tuned_layers
from PIL import Image

ORIENTATIONS = np.arange(0, 180, 45.0)


def array(name, values, *axes, missing=False):
    return NamedArray(
        name, np.asarray(values, float), (Axis("unit", coordinates=np.array([2, 5, 9])), *axes), missing=missing
    )


def gratings():
    frequencies = np.array([0.05, 0.1, 0.2])
    curves = np.array([[1.0, 2, 3, 2], [0, 0, 0, 0], [4, 0, 0, 0]])
    hues = np.arange(0, 360, 120.0)
    arrays = [
        array("conv/orientation", curves, Axis("orientation", coordinates=ORIENTATIONS, unit="degrees")),
        array("conv/spatial-frequency", np.ones((3, 3)), Axis("spatial frequency", (), frequencies, "cycles/pixel")),
        array(
            "conv/contrast", [[1, 2], [np.nan] * 2, [2, 3]], Axis("contrast", (), np.array([0.5, 1.0])), missing=True
        ),
        array("conv/colour", np.eye(3), Axis("hue", (), hues, "degrees"), missing=True),
        array("conv/position", np.ones((3, 2, 2)), Axis("vertical"), Axis("horizontal"), missing=True),
        NamedArray("conv/cycles-per-image", frequencies * 224, (Axis("spatial frequency"),)),
    ]
    layers = np.empty(3, object)
    layers[:] = "conv"
    columns = {"layer": layers, "unit": np.array([2, 5, 9]), "orientation": np.array([90.0, np.nan, 0.0])}
    columns["OSI"] = np.array([0.25, np.nan, 1.0])
    table = Table("preferences", {name: Column(name, values) for name, values in columns.items()})
    return Findings(arrays={each.name: each for each in arrays}, tables={"preferences": table})


def columns():
    widths = array("hidden/column/width", [[1, 2], [3, 4], [5, 6]], Axis("width", (), np.array([0.0, 10.0]), "mm"))
    kinds = array("hidden/column/kind", [[1, 2, 3]] * 3, Axis("kind", ("$a$", "b", "c")))
    return Findings(arrays={each.name: each for each in (widths, kinds)})


def rendered(figure):
    """Draw a figure to its end, as saving it does."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return min(Image.open(buffer).size)


def test_each_unit_has_a_row_the_most_selective_first():
    figure = plot_tuning(gratings())

    polar = [axes for axes in figure.axes if axes.name == "polar"]
    assert [axes.get_title().split("\n") for axes in polar] == [
        ["unit 9", "0°, OSI 1.00"],
        ["unit 2", "90°, OSI 0.25"],
        ["unit 5", "no preference"],
    ]
    assert sum(bool(axes.findobj(AxesImage)) for axes in figure.axes) >= 3
    assert rendered(figure) > 100


def test_a_polar_curve_goes_all_the_way_around_with_stripes_alike_after_half_a_turn():
    figure = plot_tuning(gratings(), units=[2])

    (polar,) = (axes for axes in figure.axes if axes.name == "polar")
    curve, across = polar.lines
    angles, radii = np.rad2deg(curve.get_xdata()), curve.get_ydata()
    np.testing.assert_allclose(angles, [0, 45, 90, 135, 180, 225, 270, 315, 360])
    np.testing.assert_allclose(radii, [1, 2, 3, 2, 1, 2, 3, 2, 1])
    np.testing.assert_allclose(np.rad2deg(across.get_xdata()), [90, 270])
    # Angles go counter-clockwise from the right, as those of stripes do.
    assert (polar.get_theta_offset(), polar.get_theta_direction()) == (0, 1)


def test_responses_below_the_blanks_are_at_the_centre_of_a_polar_plot():
    axes = plot_tuning(gratings(), units=[5]).axes[0]
    axes.clear()

    draw_polar(axes, ORIENTATIONS, np.array([-1.0, 2, -3, 0]))

    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 2, 0, 0, 0, 2, 0, 0, 0])


def test_units_without_a_curve_say_so():
    figure = plot_tuning(gratings(), units=[5])

    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["no response"]


def test_columns_have_a_panel_each_with_a_line_for_every_unit():
    figure = plot_tuning(columns())

    width, kind = figure.axes[:2]
    assert [line.get_ydata().tolist() for line in width.lines[:3]] == [[1, 2], [3, 4], [5, 6]]
    assert width.get_xlabel() == "width (mm)"
    assert [text.get_text() for text in kind.get_xticklabels()] == [r"\$a\$", "b", "c"]
    assert [text.get_text() for text in width.get_legend().get_texts()] == ["unit 2", "unit 5", "unit 9"]
    assert rendered(figure) > 100


def test_many_columns_are_cut_and_counted():
    axis = Axis("x", (), np.array([0.0, 1.0]))
    arrays = [array(f"hidden/column/{number}", np.ones((3, 2)), axis) for number in range(15)]

    figure = plot_tuning(Findings(arrays={each.name: each for each in arrays}))

    assert len(figure.axes) == 12
    assert figure.get_supxlabel() == "3 more columns are not shown"


def test_what_there_is_no_curve_of_is_refused():
    with pytest.raises(ValueError, match="ask for the method"):
        plot_tuning(Findings())
    with pytest.raises(ValueError, match="there are of: conv"):
        plot_tuning(gratings(), "other")
    with pytest.raises(ValueError, match="units: 2, 5, 9"):
        plot_tuning(gratings(), "conv", [3])
    assert tuned_layers(gratings()) == ["conv"]
    assert tuned_layers(columns()) == ["hidden"]
