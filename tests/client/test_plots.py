"""Pictures of attributions, pixel by pixel."""

import dataclasses
import io

import numpy as np
import pytest
from pellucid.accuracy import Accuracy
from pellucid.plots import attribution_figure, caption, overlay_image, save_overlay, signed_plane
from pellucid.receipts import ModelKey, Outcome, Receipt, Runtime, Target, Work
from pellucid.results import Attribution, Box, ClassScore, InputAttribution, Timing
from PIL import Image

WHITE = np.full((60, 100, 3), 255, np.uint8)
# A map of 4 by 4 that covers the picture's columns 40 to 80 and rows 10 to 50: an element is 10 by 10 pixels.
BOX = Box(40, 10, 80, 50, 100, 60)


def attribution(inputs, sources, *, label="owl", contrast=None):
    target = Target("logits", Outcome((2,), ""), contrast, "logits")
    runtime, work = Runtime("graph", "graph", "cpu", "float32", {}), Work(1, 2, ())
    receipt = Receipt(ModelKey("photos", 3, "ab"), "", "saliency", {}, target, "zeros", "", 0, None, runtime, work)
    return Attribution(
        method="saliency",
        inputs=inputs,
        output="logits",
        output_index=(2,),
        label=label,
        instance_output_value=2.0,
        baseline_output_value=None,
        approximation_error=0.004,
        accuracy=Accuracy(None, None, None, None, None, ()),
        group_scores=None,
        group_standard_errors=None,
        top=(ClassScore(2, label, 2.0, 0.75),),
        receipt=receipt,
        timing=Timing(0, 0, 0),
        sources=sources,
    )


def hot(row, column, value):
    scores = np.zeros((3, 4, 4), np.float32)
    scores[:, row, column] = value
    return scores


def reddish(pixels):
    return (pixels[..., 0].astype(int) - pixels[..., 2]) > 40


def bluish(pixels):
    return (pixels[..., 2].astype(int) - pixels[..., 0]) > 40


@pytest.mark.parametrize(("value", "coloured"), [(1.0, reddish), (-1.0, bluish)])
def test_a_hot_element_paints_its_own_part_of_the_box(value, coloured):
    pixels = np.asarray(overlay_image(hot(1, 3, value), BOX, WHITE))

    # Row 1 is rows 20 to 30, column 3 is columns 70 to 80; half an element around it is blended.
    assert pixels.shape == WHITE.shape
    assert coloured(pixels[23:27, 73:77]).all()
    outside = np.ones(pixels.shape[:2], bool)
    outside[14:36, 64:80] = False
    assert not coloured(pixels[outside]).any()
    assert (pixels[outside].max(axis=-1) == pixels[outside].min(axis=-1)).all()


def test_without_a_box_the_map_covers_the_whole_picture():
    pixels = np.asarray(overlay_image(hot(3, 3, 1.0), None, WHITE))

    assert reddish(pixels[50:, 80:]).all()
    assert not reddish(pixels[:40]).any()


def test_without_a_picture_the_map_stands_alone():
    pixels = np.asarray(overlay_image(hot(0, 2, -1.0)))

    assert pixels.shape == (4, 4, 3)
    assert np.argwhere(bluish(pixels)).tolist() == [[0, 2]]
    assert (pixels[1:] == 255).all()


def test_a_large_picture_is_made_smaller_and_the_box_with_it():
    picture = np.full((2400, 4000, 3), 255, np.uint8)

    overlay = overlay_image(hot(1, 3, 1.0), Box(1600, 400, 3200, 2000, 4000, 2400), picture)

    assert overlay.size == (1600, 960)
    # The hot element spans columns 2800 to 3200 and rows 800 to 1200 of the picture, times 0.4.
    assert reddish(np.asarray(overlay)[380:420, 1200:1220]).all()


def test_the_picture_shows_through_where_nothing_speaks():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = 255

    pixels = np.asarray(overlay_image(np.zeros((8, 8)), None, picture))

    assert pixels[:, :4].max() < pixels[:, 4:].min()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_channels_are_added_up_before_scaling():
    scores = np.stack([np.full((2, 2), 3.0), np.full((2, 2), -3.0), np.array([[2.0, 0.0], [0.0, -1.0]])])

    np.testing.assert_allclose(signed_plane(scores), [[1, 0], [0, -0.5]], atol=0.04)


def test_a_few_extremes_do_not_hide_the_rest():
    plane = np.ones((100, 100))
    plane[0, :50] = 1e6

    scaled = signed_plane(plane)

    np.testing.assert_array_equal(scaled, np.ones((100, 100)))


def test_a_map_of_zeros_is_blank():
    assert not signed_plane(np.zeros((3, 5, 5))).any()


def test_smoothing_spreads_and_keeps_the_sign():
    plane = np.zeros((21, 21))
    plane[10, 10] = 1

    smooth = signed_plane(plane, smooth=2.0)

    assert smooth[10, 10] == smooth.max() == 1
    np.testing.assert_allclose(smooth, smooth.T, atol=1e-6)
    # A Gaussian falls to exp(-1/2) one standard deviation off.
    unscaled = signed_plane(np.pad(plane, 100), smooth=2.0)[110, 110:113]
    np.testing.assert_allclose(unscaled[2] / unscaled[0], np.exp(-0.5), rtol=1e-3)


def test_scores_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="must be"):
        signed_plane(np.zeros(3))


def test_the_caption_names_label_probability_and_gap():
    text = caption(attribution({}, {}, contrast=Outcome((1,), "")))

    assert "owl rather than class 1, probability 75.0%" in text
    assert "completeness gap 0.40%" in text


def test_bars_are_the_strongest_columns_with_their_values_and_signs():
    names = tuple(f"c{index}" for index in range(20))
    scores = np.arange(20, dtype=np.float32) - 5
    row = {"c19": 3.25, "c0": "red"}

    figure = attribution_figure(attribution({"row": InputAttribution(scores, names)}, {"row": row}))

    axes = figure.subfigs[0].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["c19 = 3.25", "c18"]
    assert len(labels) == 15
    assert "c0 = red" in labels
    widths = {label: bar.get_width() for label, bar in zip(labels, axes.patches, strict=True)}
    assert widths["c19 = 3.25"] == 14
    assert widths["c0 = red"] == -5
    assert axes.yaxis_inverted()
    # Shown are |score| 14 to 5 and one of each pair below: what is left must sum to the whole less the shown.
    assert f"the other 5 sum to {scores.sum() - sum(widths.values()):+.3g}" in axes.get_xlabel()


def test_a_dollar_in_a_label_is_not_read_as_mathematics():
    figure = attribution_figure(attribution({"row": InputAttribution(np.ones(1), ("a$b$_",))}, {}, label="$x_$"))

    figure.savefig(io.BytesIO(), format="png")


def test_a_notebook_shows_a_png():
    shown = attribution({"image": InputAttribution(hot(0, 0, 1.0), (), BOX)}, {"image": WHITE})._repr_png_()

    assert Image.open(io.BytesIO(shown)).size[0] == 900


@pytest.mark.parametrize(
    ("inputs", "sources"),
    [
        ({"x": InputAttribution(np.ones((1, 2, 3, 4)))}, {}),
        ({"x": InputAttribution(np.ones((2, 2)))}, {"x": "gone.png"}),
    ],
    ids=["four axes", "a file that is gone"],
)
def test_a_notebook_falls_back_to_text_where_nothing_can_be_drawn(inputs, sources):
    undrawable = attribution(inputs, sources)

    assert undrawable._repr_png_() is None
    assert repr(undrawable).startswith("<Attribution by saliency of logits[owl] = 2, gap 0.40%: x [")


@pytest.mark.parametrize(("value", "title"), [(1.0, "what it depends on"), (-1.0, "against it")])
def test_a_map_without_negative_scores_is_not_said_to_speak_against(value, title):
    figure = attribution_figure(attribution({"image": InputAttribution(hot(1, 1, value), (), BOX)}, {"image": WHITE}))

    assert title in figure.subfigs[0].axes[1].get_title()


def test_several_inputs_are_drawn_below_one_another():
    both = {"image": InputAttribution(hot(0, 0, 1.0), (), BOX), "row": InputAttribution(np.ones(2), ("a", "b"))}

    figure = attribution_figure(attribution(both, {"image": WHITE}))

    assert [len(part.axes) for part in figure.subfigs] == [2, 1]


def test_inputs_of_one_attribution_have_one_scale(tmp_path):
    strong, weak = np.full((4, 4), 8.0), np.full((4, 4), 2.0)
    two = attribution({"left": InputAttribution(strong, (), BOX), "right": InputAttribution(weak, (), BOX)}, {})

    drawn = attribution_figure(two)
    save_overlay(two, tmp_path / "right.png", input_name="right")

    left, right = (part.axes[0].images[0].get_array().astype(int) for part in drawn.subfigs)
    # Blue is mixed with white by the magnitude: what is left of the white is the same share of the scale.
    faded = (255 - right[1, 1, 2]) / (255 - left[1, 1, 2])
    assert faded == pytest.approx(2 / 8, abs=0.02)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "right.png")), right)


def test_the_magnitude_of_the_scale_and_all_above_it_is_one():
    np.testing.assert_allclose(signed_plane(np.array([[1.0, -2.0], [4.0, -8.0]]), scale=4.0), [[0.25, -0.5], [1, -1]])


def test_the_caption_says_that_the_deadline_cut_it_short():
    whole = attribution({}, {})
    partial = dataclasses.replace(whole, accuracy=dataclasses.replace(whole.accuracy, partial=True))

    assert "cut short by the deadline" in caption(partial)
    assert "cut short" not in caption(whole)


def test_an_overlay_is_saved_over_the_picture_that_was_sent(tmp_path):
    sent = attribution({"image": InputAttribution(hot(1, 3, 1.0), (), BOX)}, {"image": WHITE})

    path = save_overlay(sent, tmp_path / "a.png")

    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(overlay_image(hot(1, 3, 1.0), BOX, WHITE)))


def test_an_overlay_of_no_picture_is_refused(tmp_path):
    table = attribution({"row": InputAttribution(np.ones(2), ("a", "b"))}, {})

    with pytest.raises(ValueError, match="no picture input"):
        save_overlay(table, tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["path", "bytes", "pil", "pixels"])
def test_the_picture_may_be_in_any_form_it_can_be_sent_in(tmp_path, kind):
    Image.fromarray(WHITE).save(tmp_path / "white.png")
    forms = {
        "path": tmp_path / "white.png",
        "bytes": (tmp_path / "white.png").read_bytes(),
        "pil": Image.fromarray(WHITE),
        "pixels": WHITE,
    }

    pixels = np.asarray(overlay_image(hot(1, 3, 1.0), BOX, forms[kind]))

    np.testing.assert_array_equal(pixels, np.asarray(overlay_image(hot(1, 3, 1.0), BOX, WHITE)))
