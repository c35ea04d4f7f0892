"""Measures of tuning curves, against closed forms and plain loops."""

import numpy as np
import pytest
from pellucid_server.engine.methods.shared.tuning import tuning_measures as measures
from scipy.special import ive

DEGREES = np.arange(0, 180, 15.0)


def bell(concentration, direction, degrees=DEGREES, height=3.0):
    return height * np.exp(concentration * (np.cos(np.deg2rad(2 * (degrees - direction))) - 1))


@pytest.mark.parametrize("concentration", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("direction", [0.0, 37.0, 179.0])
def test_the_vector_sum_of_a_von_mises_curve_is_a_ratio_of_bessel_functions(concentration, direction):
    length, found = measures.vector_sum(bell(concentration, direction)[None], DEGREES, 180.0)

    # Twelve samples add up a smooth periodic curve all but exactly.
    assert length[0] == pytest.approx(ive(1, concentration) / ive(0, concentration), rel=1e-3)
    assert found[0] == pytest.approx(direction, abs=0.05)


@pytest.mark.parametrize("concentration", [0.5, 2.0, 8.0])
def test_a_von_mises_curve_is_fitted_exactly(concentration):
    fit = measures.von_mises(bell(concentration, 37.0)[None], DEGREES)

    assert fit.peak[0] == pytest.approx(37)
    assert fit.explained[0] == pytest.approx(1)
    half = np.rad2deg(np.arccos(1 - np.log(2) / concentration)) / 2
    assert fit.width[0] == pytest.approx(half)
    # At the half width the curve is at half its height.
    assert bell(concentration, 37.0, np.array([37 + half]))[0] == pytest.approx(1.5)


def test_a_curve_too_flat_to_fall_to_its_half_has_no_half_width():
    curve = bell(0.2, 37.0)[None]

    assert np.isnan(measures.von_mises(curve, DEGREES).width[0])
    assert np.isnan(measures.half_width(curve, 15.0)[0])


def test_the_half_width_of_a_finely_sampled_curve_is_the_closed_form():
    degrees = np.arange(0, 180, 1.0)
    for direction in (0.0, 3.0, 90.0, 178.0):
        width = measures.half_width(bell(3.0, direction, degrees)[None], 1.0)[0]
        assert width == pytest.approx(np.rad2deg(np.arccos(1 - np.log(2) / 3)) / 2, abs=0.01)


def test_a_log_gaussian_curve_is_fitted_exactly_and_its_width_found_without_a_fit():
    frequencies = np.geomspace(0.02, 0.4, 41)
    deviation = 0.7
    curve = 5 * np.exp(-np.square(np.log2(frequencies / 0.09)) / (2 * deviation**2))[None]

    fit = measures.log_gaussian(curve, frequencies)

    width = 2 * np.sqrt(2 * np.log(2)) * deviation
    assert fit.peak[0] == pytest.approx(0.09)
    assert fit.width[0] == pytest.approx(width)
    assert measures.octave_width(curve, frequencies)[0] == pytest.approx(width, rel=0.01)


@pytest.mark.parametrize("curve", [[1, 2, 3, 4], [0, 0, 1, 0], [1, 0, 0, 1], [2, 2, 2, 2], [0, 0, 0, 0], [4, 3, 2, 1]])
def test_no_peak_is_fitted_where_there_is_none_inside(curve):
    fit = measures.log_gaussian(np.array([curve], float), np.array([0.05, 0.1, 0.2, 0.4]))

    assert np.isnan(fit.peak[0])
    assert np.isnan(fit.width[0])


def test_a_width_whose_side_is_not_measured_is_missing():
    frequencies = np.array([0.1, 0.2, 0.4])

    assert np.isnan(measures.octave_width(np.array([[1.0, 2, 4]]), frequencies)[0])
    assert measures.octave_width(np.array([[0.0, 2, 0]]), frequencies)[0] == 1
    assert np.isnan(measures.octave_width(np.ones((1, 1)), np.array([0.1]))[0])


def test_the_index_is_the_one_that_allensdk_asserts_for_a_measured_curve():
    curve = np.array([[5.5, 4.44, 3.54166667, 4.10869565, 4.42, 4.55319149]])

    length, _ = measures.vector_sum(curve, np.arange(0, 180, 30.0), 180.0)

    # allensdk/test/brain_observatory/ecephys/stimulus_analysis/test_stimulus_analysis.py, test_osi
    assert length[0] == pytest.approx(0.07873455094232604, rel=1e-7)


def test_curves_without_a_vector_sum_have_none():
    curves = np.zeros((4, 12))
    curves[1], curves[2], curves[3, 4], curves[3, 5] = 2.0, np.sin(np.deg2rad(DEGREES) * 2), 1.0, -0.5

    length, direction = measures.vector_sum(curves, DEGREES, 180.0)

    assert np.isnan(length[[0, 2, 3]]).all()
    assert length[1] == pytest.approx(0, abs=1e-12)
    assert np.isnan(direction).all()


def test_a_curve_of_one_orientation_has_selectivity_one():
    curve = np.eye(12)

    length, direction = measures.vector_sum(curve, DEGREES, 180.0)

    np.testing.assert_allclose(length, 1)
    assert (length <= 1).all()
    np.testing.assert_allclose(np.deg2rad(2 * (direction - DEGREES)) % (2 * np.pi) % (2 * np.pi - 1e-9), 0, atol=1e-9)
    np.testing.assert_array_equal(measures.classic_selectivity(curve), 1)


def test_classic_selectivity_is_worked_out_by_hand():
    curves = np.array([[4.0, 1, 2, 3], [3, 3, 3, 3], [0, 0, 0, 0], [4, 0, -1, 0]])

    found = measures.classic_selectivity(curves)

    # (4 - 2) / (4 + 2); a flat curve; none of nothing, and none where a response is below 0.
    np.testing.assert_allclose(found, [1 / 3, 0, np.nan, np.nan])


def test_harmonics_of_a_wave_are_its_mean_and_amplitude():
    phases = np.arange(8) * np.pi / 4

    mean, first = measures.harmonics((3 + 2 * np.cos(phases + 0.3) + 0.7 * np.cos(2 * phases))[None])

    assert mean[0] == pytest.approx(3)
    assert first[0] == pytest.approx(2)


def test_the_first_of_nearly_equal_values_is_the_peak():
    curves = np.array([[1.0, 3, 3 + 1e-9, 2], [0, 0, 0, 0], [-3, -1, -1, -2], [1, 2, 2.1, 0]])

    np.testing.assert_array_equal(measures.peak(curves), [1, 0, 1, 2])


@pytest.mark.parametrize(("power", "expected"), [(1.0, 0.5), (2.0, 0.5**0.5)])
def test_half_the_highest_response_is_where_a_power_of_contrast_says(power, expected):
    places = np.arange(1, 101) / 100

    assert measures.half_level(places[None] ** power, places)[0] == pytest.approx(expected, abs=1e-4)


def test_half_levels_of_odd_curves():
    places = np.array([0.5, 1.0])

    found = measures.half_level(np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 4.0], [-1.0, 1.0]]), places)

    np.testing.assert_allclose(found, [np.nan, 0.25, 0.25, 0.875])


def test_lines_are_numpys():
    generator = np.random.default_rng(3)
    places, curves = np.sort(generator.normal(size=20)), generator.normal(size=(4, 20))

    slopes, explained = measures.lines(curves, places)

    for slope, share, curve in zip(slopes, explained, curves, strict=True):
        expected = np.polyfit(places, curve, 1)
        assert slope == pytest.approx(expected[0])
        assert share == pytest.approx(np.corrcoef(places, curve)[0, 1] ** 2)
    slope, share = measures.lines(np.full((1, 20), 2.5), places)
    assert slope[0] == 0
    assert np.isnan(share[0])
