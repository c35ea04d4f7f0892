"""Gratings and colours, looked at as a person would look at them."""

import colorsys

import numpy as np
import pytest
from pellucid_server.engine.methods.shared.tuning import tuning_stimuli
from pellucid_server.engine.methods.shared.tuning.stimuli import LUMA, PAIRS, Canvas, Grating, hue_direction

GREY, COLOUR = Canvas((1, 24, 32), (127.0,), (128.0,)), Canvas((3, 24, 32), (120.0, 127.0, 130.0), (60.0, 64.0, 70.0))


def levels(canvas, grating):
    """Return a picture's levels, (channels, height, width), as the standardization has them."""
    mean, deviation = (np.array(each)[:, None, None] for each in (canvas.mean, canvas.standard_deviation))
    return (canvas.draw([grating])[0] * deviation + mean) / 255


def test_a_grating_is_its_formula_at_every_pixel():
    grating = Grating(orientation=20, frequency=0.11, phase=40, contrast=0.6)

    found = levels(GREY, grating)[0]

    # The stripes run along (cos 20, sin 20) with y upwards, and the wave at a right angle to them.
    wave = np.deg2rad(110)
    for row in range(24):
        for column in range(32):
            right, up = column - 15.5, 11.5 - row
            angle = 2 * np.pi * 0.11 * (right * np.cos(wave) + up * np.sin(wave)) + np.deg2rad(40)
            assert found[row, column] == pytest.approx(0.5 + 0.3 * np.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("orientation", "axis"), [(0, 2), (90, 1)])
def test_stripes_at_zero_are_horizontal_and_at_a_right_angle_vertical(orientation, axis):
    found = levels(COLOUR, Grating(orientation=orientation, frequency=0.1))

    assert np.ptp(found, axis=axis).max() < 1e-6
    assert np.ptp(found, axis=3 - axis).min() > 0.5


@pytest.mark.parametrize("orientation", [0, 33, 90, 150])
def test_a_cycle_is_as_long_as_the_frequency_says(orientation):
    found = levels(Canvas((1, 64, 64), (127.0,), (128.0,)), Grating(orientation, 0.125))[0] - 0.5

    # A person who walks at a right angle to the stripes meets the next crest 8 pixels on.
    wave = np.deg2rad(orientation + 90)
    step = np.rint([-8 * np.sin(wave), 8 * np.cos(wave)]).astype(int)
    exact = np.hypot(*(step - [-8 * np.sin(wave), 8 * np.cos(wave)]))
    moved = np.roll(found, -step, axis=(0, 1))[16:48, 16:48]
    assert np.abs(moved - found[16:48, 16:48]).max() <= 0.5 * 2 * np.pi * 0.125 * exact + 1e-6


def test_the_blank_is_grey_and_gratings_of_whole_cycles_have_its_mean():
    blank = levels(COLOUR, Grating(contrast=0.0, frequency=0.1))
    grating = levels(Canvas((1, 32, 32), (127.0,), (128.0,)), Grating(orientation=0, frequency=0.125, phase=33))

    np.testing.assert_allclose(blank, 0.5, atol=1e-6)
    assert grating.mean() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("pair", sorted(PAIRS))
def test_colour_pairs_stay_within_range_and_change_luma_only_between_black_and_white(pair):
    found = levels(COLOUR, Grating(orientation=90, frequency=0.125, colour=tuple(PAIRS[pair].tolist())))

    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-6
    luma = np.tensordot(LUMA, found, axes=1)
    assert (np.ptp(luma) > 0.9) == (pair == "black-white")
    if pair != "black-white":
        np.testing.assert_allclose(luma, 0.5, atol=1e-6)


@pytest.mark.parametrize("hue", range(0, 360, 15))
def test_a_uniform_hue_has_the_hue_that_it_is_named_after_at_the_luma_of_the_blank(hue):
    pixel = levels(COLOUR, Grating(contrast=0.8, colour=hue_direction(hue)))[:, 0, 0]

    away = (colorsys.rgb_to_hsv(*pixel)[0] * 360 - hue + 180) % 360 - 180
    assert away == pytest.approx(0, abs=0.01)
    assert LUMA @ pixel == pytest.approx(0.5, abs=1e-6)
    # Some channel goes as far as the contrast allows, and the complement lies opposite.
    assert np.abs(pixel - 0.5).max() == pytest.approx(0.4, abs=1e-6)
    np.testing.assert_allclose(hue_direction((hue + 180) % 360), -np.array(hue_direction(hue)), atol=1e-12)


def test_windows_cut_off_what_is_outside():
    y, x = np.mgrid[:24, :32] - np.array([11.5, 15.5])[:, None, None]
    bare = Grating(frequency=0.0, contrast=1.0)

    disc = levels(GREY, Grating(window="circle", size=12.0))[0]
    spot = levels(GREY, Grating(window="gaussian", size=12.0, centre=(4.0, -2.0)))[0]

    np.testing.assert_allclose(levels(GREY, bare), 1.0, atol=1e-6)
    radius = np.hypot(x, y)
    np.testing.assert_allclose(disc[radius > 6.5], 0.5, atol=1e-6)
    np.testing.assert_allclose(disc[radius < 5.5], 1.0, atol=1e-6)
    # The disc's area is that of a circle of its diameter.
    assert (2 * disc - 1).sum() == pytest.approx(np.pi * 36, rel=0.01)
    square = (x - 4) ** 2 + (y + 2) ** 2
    np.testing.assert_allclose(spot, 0.5 + 0.5 * np.exp(-square / (2 * 3.0**2)), atol=1e-6)


def test_frequencies_are_octaves_down_and_at_least_a_cycle():
    np.testing.assert_array_equal(tuning_stimuli.frequencies(None, 0.4, 5, 224), 0.4 / 2.0 ** np.arange(4, -1, -1))
    np.testing.assert_allclose(tuning_stimuli.frequencies(None, 0.25, 5, 28)[[0, -1]], [1 / 28, 0.25])
    np.testing.assert_array_equal(tuning_stimuli.frequencies(0.1, 0.2, 1, 224), [0.2])
    np.testing.assert_array_equal(tuning_stimuli.frequencies(None, 0.25, 5, 4), [0.25])
    np.testing.assert_array_equal(tuning_stimuli.frequencies(0.0625, 0.5, 4, 224), [0.0625, 0.125, 0.25, 0.5])
