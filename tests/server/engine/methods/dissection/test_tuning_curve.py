"""Tuning curves of planted units: gratings find what was planted, and closed forms are met."""

import colorsys
import dataclasses

import numpy as np
import pytest
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import Preview, ProbeLayer, Saved
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.descriptions import InputInfo
from pellucid_server.vocabulary.findings import Findings
from server.engine.methods.dissection.units_of_rows import Units, gabor, grey, levels, linear, picture_question

GRID = {"orientations": 12, "frequencies": 4, "lowest_frequency": 0.03125, "highest_frequency": 0.25, "vary": "none"}


def ran(handle, question, **parameters):
    method = registry.lookup("tuning-curve", DISSECT)
    return list(method.function(handle, question, method.resolve(parameters)))


def answers(handle, question, **parameters):
    return [each for each in ran(handle, question, **parameters) if isinstance(each, Findings)]


def answer(function, units=1, *, channels=3, side=32, **parameters):
    """Return what is found of one layer whose values are a function of the rows."""
    (found,) = answers(
        Units(conv=function), picture_question({"conv": units}, channels=channels, side=side), **parameters
    )
    return found


def preference(found, name, unit=0):
    column = found.tables["preferences"].columns[name]
    return None if column.missing is not None and column.missing[unit] else column.values[unit]


def curve(found, name, unit=0):
    return found.arrays[f"conv/{name}"].values[unit]


def rectified(*kernels):
    return lambda rows: np.maximum(linear(*kernels)(rows), 0)


def energy(*pairs):
    """Return units that are the sum of squares of two linear ones."""
    return lambda rows: np.stack(
        [
            np.square(linear(one)(rows) + 0 * linear(other)(rows))[:, 0] + np.square(linear(other)(rows))[:, 0]
            for one, other in pairs
        ],
        axis=1,
    )


@pytest.mark.parametrize("orientation", [0, 30, 45, 90, 135, 165])
def test_a_gabor_unit_peaks_at_its_orientation_and_frequency(orientation):
    kernel = gabor(orientation, 0.125, sigma=4)

    found = answer(rectified(grey(kernel)), **{**GRID, "frequencies": 7})

    assert preference(found, "peak orientation") == orientation
    assert preference(found, "orientation") == pytest.approx(orientation, abs=0.5)
    assert preference(found, "spatial frequency") == 0.125
    assert preference(found, "spatial frequency in the image") == 4
    assert preference(found, "fitted spatial frequency") == pytest.approx(0.125, rel=0.1)
    # A Gaussian of 4 pixels passes one of 1 / (8 pi) cycles per pixel around 0.125: its half height is there.
    swing = np.sqrt(2 * np.log(2)) / (8 * np.pi)
    assert preference(found, "bandwidth") == pytest.approx(np.log2((0.125 + swing) / (0.125 - swing)), rel=0.02)
    assert preference(found, "OSI") > 0.8
    assert preference(found, "circular variance") == pytest.approx(1 - preference(found, "OSI"))
    assert preference(found, "responsive")


def test_a_picture_of_horizontal_stripes_is_at_zero_degrees():
    # Rows are alike along their length: a person calls these stripes horizontal.
    kernel = np.repeat(np.cos(2 * np.pi * 0.125 * np.arange(32))[:, None], 32, axis=1)

    found = answer(rectified(grey(kernel)), **GRID)

    assert preference(found, "orientation") == pytest.approx(0, abs=1e-6)
    assert preference(found, "peak orientation") == 0


def test_stripes_that_rise_to_the_right_are_at_less_than_a_right_angle():
    y, x = np.mgrid[:32, :32]
    # x grows to the right and y downwards: the sum is constant along lines that rise to the right.
    kernel = np.cos(2 * np.pi * 0.0884 * (x + y))

    found = answer(rectified(grey(kernel)), **GRID)

    assert preference(found, "peak orientation") == 45


def test_a_kernel_turned_by_a_right_angle_shifts_the_curve_by_as_much():
    kernel = np.random.default_rng(1).normal(size=(32, 32))
    kernel -= kernel.mean()

    found = answer(linear(grey(kernel), grey(np.rot90(kernel))), 2, **GRID)

    grid = found.arrays["conv/responses"].values
    moved = np.roll(grid[0], 6, axis=0)
    # From 90 degrees on the turned wave vector points the other way, and the phase with it.
    moved[:6] = np.roll(moved[:6, :, ::-1], 1, axis=2)
    np.testing.assert_allclose(grid[1], moved, atol=1e-5 * np.abs(grid).max())
    measures = [preference(found, "OSI", unit) for unit in (0, 1)]
    assert measures[0] == pytest.approx(measures[1], rel=1e-5)


def test_a_linear_units_curve_is_the_fourier_transform_of_its_kernel():
    kernel = np.random.default_rng(2).normal(size=(32, 32))
    kernel -= kernel.mean()
    spectrum = np.abs(np.fft.fft2(kernel))
    settings = {**GRID, "orientations": 2, "measure": "F1"}

    kept = answer(linear(grey(kernel)), negative="keep", **settings)
    cut = answer(linear(grey(kernel)), **settings)

    # At 0 degrees the wave goes along the rows' numbers, at 90 along the columns'; half of the levels are swung.
    frequencies = [1, 2, 4, 8]
    expected = np.stack([spectrum[frequencies, 0], spectrum[0, frequencies]]) / 2
    grid = kept.arrays["conv/responses"].values[0]
    wave = np.exp(-2j * np.pi * np.arange(8) / 8)
    np.testing.assert_allclose(np.abs(grid @ wave) / 4, expected, rtol=1e-5)
    best = np.unravel_index(expected.argmax(), expected.shape)
    np.testing.assert_allclose(curve(kept, "spatial-frequency"), expected[best[0]], rtol=1e-5)
    # Of a wave that is cut off at 0, the first harmonic is half as large.
    np.testing.assert_allclose(curve(cut, "spatial-frequency"), expected[best[0]] / 2, rtol=1e-5)


def test_simple_units_follow_the_phase_and_energy_units_do_not():
    even, odd = (grey(gabor(30, 0.125, phase=phase)) for phase in (0, 90))

    simple = answer(rectified(even), **GRID, phases=16)
    complex_ = answer(energy((even, odd)), **GRID)

    # pi / 2 with phases without end; the mean of a half wave at 16 places is cot(pi / 16) / 16.
    assert preference(simple, "F1/F0") == pytest.approx(8 * np.tan(np.pi / 16), rel=1e-5)
    assert preference(simple, "phase") == 0
    assert preference(complex_, "F1/F0") < 0.02
    assert preference(complex_, "peak orientation") == 30
    # Swings of its quadrature pair cancel: over phase it is as good as flat.
    assert np.ptp(curve(complex_, "phase")) < 0.05 * curve(complex_, "phase").max()


def test_a_units_gain_changes_no_measure():
    kernel = grey(gabor(60, 0.125, sigma=2))

    found = answer(rectified(kernel, 10 * kernel, 0.1 * kernel), 3, **{**GRID, "vary": "contrast, size"})

    names = [
        "OSI",
        "classic OSI",
        "orientation",
        "half width",
        "bandwidth",
        "F1/F0",
        "c50",
        "size",
        "suppression index",
    ]
    for name in names:
        values = [preference(found, name, unit) for unit in range(3)]
        np.testing.assert_allclose(values, values[0], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("gain", [1e-30, 1e30])
def test_huge_and_tiny_units_are_measured_as_others_are(gain):
    kernel = grey(gabor(60, 0.125, sigma=2))

    found, other = (answer(rectified(each), **{**GRID, "vary": "contrast"}) for each in (kernel, gain * kernel))

    for name in ("OSI", "orientation", "half width", "bandwidth", "F1/F0", "c50"):
        assert preference(other, name) == pytest.approx(preference(found, name), rel=1e-4), name


def test_directions_of_motion_are_alike_to_a_network_of_single_frames():
    found = answer(rectified(grey(gabor(60, 0.125))), **GRID)

    assert preference(found, "DSI") == 0


def test_contrast_and_size_curves_are_closed_forms():
    kernel = grey(gabor(0, 0.125))
    even, odd = (grey(gabor(0, 0.125, phase=phase)) for phase in (0, 90))

    simple = answer(rectified(kernel), **{**GRID, "vary": "contrast, size"})
    squared = answer(energy((even, odd)), **{**GRID, "vary": "contrast", "contrasts": 32})

    full = curve(simple, "contrast")[-1]
    np.testing.assert_allclose(curve(simple, "contrast"), full * np.arange(1, 9) / 8, rtol=1e-4)
    assert preference(simple, "c50") == pytest.approx(0.5, abs=1e-4)
    assert preference(squared, "c50") == pytest.approx(np.sqrt(0.5), abs=1e-3)
    # A larger disc covers more of a kernel without a window.
    assert (np.diff(curve(simple, "size")) > 0).all()
    assert preference(simple, "size") == 1
    assert preference(simple, "suppression index") == 0


def test_a_surround_suppresses_large_gratings():
    kernel = gabor(0, 0.125)
    y, x = np.mgrid[:32, :32] - 15.5
    kernel = np.where(np.hypot(x, y) < 8, kernel, -0.1 * kernel)

    found = answer(rectified(grey(kernel)), **{**GRID, "vary": "size", "sizes": 17}, window="circle")

    assert preference(found, "size") == pytest.approx(0.5, rel=0.15)
    assert 0.2 < preference(found, "suppression index") < 1
    sizes = curve(found, "size")
    expected = (sizes.max() - sizes[-1]) / sizes.max()
    assert preference(found, "suppression index") == pytest.approx(expected, rel=1e-6)


def test_a_colour_unit_prefers_its_hue_though_no_grey_grating_drives_it():
    opponent = np.array([1.0, -0.5, -0.5])[:, None, None] * np.full((3, 32, 32), 1 / 1024)

    found = answer(rectified(opponent), frequencies=2)

    assert not preference(found, "responsive")
    assert preference(found, "orientation") is None
    # Red, less the pull of weights that keep the luma where it is.
    assert preference(found, "hue") == pytest.approx(0, abs=20) or preference(found, "hue") == pytest.approx(
        360, abs=20
    )
    assert preference(found, "hue selectivity") > 0.3
    assert curve(found, "colour").argmax() == 0
    assert any("do not respond" in text for text in found.warnings)


def test_gratings_of_a_colour_pair_drive_an_opponent_unit():
    wave = gabor(90, 0.125)
    opponent = rectified(np.stack([wave, -wave, 0 * wave]), grey(wave))

    grey_one = answer(opponent, 2, **GRID)
    coloured = answer(opponent, 2, **GRID, pair="red-green")
    hues = answer(opponent, 2, **{**GRID, "vary": "colour"}, pair="red-green", colours="grating")

    assert not preference(grey_one, "responsive")
    assert preference(coloured, "peak orientation") == 90
    expected = []
    for hue in range(0, 360, 30):
        red, green, blue = colorsys.hsv_to_rgb(hue / 360, 1, 1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        most = max(abs(level - luma) for level in (red, green, blue))
        expected.append(max(0, (red - green) / most))
    np.testing.assert_allclose(
        np.maximum(curve(hues, "colour"), 0), curve(hues, "colour")[0] / expected[0] * np.array(expected), atol=1e-5
    )


def test_a_spot_of_the_picture_is_where_the_unit_looks():
    kernel = np.zeros((32, 32))
    kernel[8:16, 24:32] = gabor(90, 0.125, side=8)

    found = answer(rectified(grey(kernel)), **{**GRID, "vary": "position", "positions": 4})

    places = found.arrays["conv/position"]
    down, across = np.unravel_index(places.values[0].argmax(), (4, 4))
    assert places.axes[1].coordinates[down] == -4
    assert places.axes[2].coordinates[across] == 12


def test_units_that_are_dead_or_flat_have_no_preference():
    def function(rows):
        count = len(rows["image"])
        bright = levels(rows).mean(axis=(1, 2, 3))
        # Dead; constant; alike to all gratings and lower at the blank.
        contrast = levels(rows).std(axis=(1, 2, 3)) > 1e-3
        return np.stack([np.zeros(count), np.full(count, 3.25), 1.0 * contrast + 0 * bright], axis=1)

    found = answer(function, 3, frequencies=2)

    flags = found.tables["preferences"].columns["responsive"].values.tolist()
    assert flags == [False, False, True]
    for unit in range(3):
        assert preference(found, "orientation", unit) is None
        assert preference(found, "peak orientation", unit) is None
    assert preference(found, "OSI", 0) is None
    assert preference(found, "OSI", 2) == pytest.approx(0, abs=1e-9)
    assert np.isnan(found.arrays["conv/contrast"].values[:2]).all()
    assert not np.isnan(found.arrays["conv/contrast"].values[2]).any()


def test_a_unit_that_answers_one_orientation_alone_has_selectivity_one():
    def function(rows):
        # What is left of a picture once each row is alike along its length: of gratings, horizontal ones alone.
        picture = levels(rows).mean(axis=1)
        flat = np.ptp(picture, axis=2).max(axis=1) < 1e-6
        return np.where(flat, picture.std(axis=(1, 2)), 0)[:, None]

    found = answer(function, **GRID)

    assert preference(found, "OSI") == pytest.approx(1)
    assert preference(found, "classic OSI") == 1
    assert preference(found, "orientation") == pytest.approx(0, abs=1e-9)
    assert preference(found, "von Mises half width") is None


def test_suppressed_responses_count_as_zero_or_are_kept_as_asked():
    kernel = grey(gabor(30, 0.125))

    def dimmed(rows):
        return 5 - np.abs(linear(kernel)(rows))

    cut = answer(dimmed, **GRID)
    kept = answer(dimmed, **GRID, negative="keep", measure="F0")

    assert preference(cut, "negative share") == pytest.approx(1)
    assert not preference(cut, "responsive")
    assert any("mostly less than to the blank" in text for text in cut.warnings)
    assert kept.arrays["conv/orientation"].values.min() < 0
    assert preference(kept, "OSI") is None


def test_one_channel_sees_grey_gratings_and_no_colours():
    found = answer(rectified(gabor(120, 0.125)[None]), channels=1)

    assert preference(found, "peak orientation") == 120
    assert "conv/colour" not in found.arrays
    assert {"conv/contrast", "conv/size"} <= {*found.arrays}
    with pytest.raises(InvalidRequestError, match="one channel"):
        answer(rectified(gabor(120, 0.125)[None]), channels=1, pair="red-green")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"highest_frequency": 0.6}, "Nyquist"),
        ({"lowest_frequency": 0.45}, "at most highest_frequency"),
        ({"orientations": 7}, "even"),
        ({"phases": 5}, "even"),
        ({"vary": "speed"}, "contrast, size, colour, position"),
        ({"input": "other"}, "input of the model"),
        ({"contrast": 0.0}, "contrast"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_any_row(parameters, said):
    handle = Units(conv=linear(grey(gabor(0, 0.125))))

    with pytest.raises(InvalidRequestError, match=said):
        ran(handle, picture_question({"conv": 1}), **parameters)

    assert handle.rows == 0


def test_models_without_pictures_and_tables_are_refused():
    question = picture_question({"conv": 1})
    texts = {"text": dataclasses.replace(question.inputs["image"], name="text", modality="text")}

    with pytest.raises(UnsupportedError, match="neither"):
        ran(Units(), dataclasses.replace(question, inputs=texts))
    with pytest.raises(UnsupportedError, match="which it does not"):
        ran(Units(), dataclasses.replace(question, inputs=texts), input="text")
    with pytest.raises(InvalidRequestError, match="layers is empty"):
        ran(Units(), dataclasses.replace(question, layers=()))


def test_other_inputs_are_held_at_the_reference():
    kernel = gabor(60, 0.125)

    def function(rows):
        assert (rows["age"] == rows["age"][0]).all()
        return np.maximum(linear(grey(kernel))(rows), 0) * rows["age"]

    question = picture_question({"conv": 1})
    age = InputInfo("age", "tensor", "float32", (1,))
    ages = {"image": np.zeros((3, 3, 32, 32), np.float32), "age": np.array([[1.0], [2.0], [6.0]], np.float32)}
    question = dataclasses.replace(
        question,
        inputs={"age": age, **question.inputs},
        features={**question.features, "age": Feature("tensor", True)},
        background=ages,
    )

    def response(**parameters):
        (found,) = answers(Units(conv=function), question, **GRID, **parameters)
        return preference(found, "response")

    assert response(reference="mean") == pytest.approx(1.5 * response(reference="medoid"), rel=1e-6)
    assert response(reference="zeros") == 0


def test_a_response_that_is_not_finite_is_refused_by_name():
    for value, said in ((np.inf, "inf"), (np.nan, "nan"), (-2e37, "-2e[+]37")):
        with pytest.raises(UnsupportedError, match=rf"Unit 1 of conv responds {said} .* beyond 1e\+37"):
            answer(lambda rows, value=value: np.array([[0, value]] * len(rows["image"])), 2)


def test_positions_are_taken_at_the_middle_or_summed_up():
    kernel = gabor(30, 0.125)

    def function(rows):
        values = np.einsum("rhw,hw->r", levels(rows).mean(axis=1), kernel)
        places = np.arange(1, 16).reshape(3, 5)
        return np.maximum(values, 0)[:, None, None, None] * np.stack([places, -places])

    def best(response):
        found = answer(function, (2, 3, 5), **GRID, response=response)
        return np.asarray(found.tables["preferences"].columns["response"].values)

    middle, mean, most = best("centre"), best("mean"), best("max")
    np.testing.assert_allclose(mean[0], middle[0], rtol=1e-6)
    np.testing.assert_allclose(most[0], middle[0] * 15 / 8, rtol=1e-6)
    np.testing.assert_allclose([middle[1], mean[1], most[1]], 0, atol=1e-12)


def test_layers_that_count_units_last_are_read_by_unit():
    kernel = gabor(30, 0.125)
    weights = np.array([1.0, 0.0, 2.0])

    def function(rows):
        values = np.maximum(np.einsum("rhw,hw->r", levels(rows).mean(axis=1), kernel), 0)
        return np.repeat((values[:, None] * weights)[:, None], 5, axis=1)

    question = picture_question({"tokens": (5, 3)}, unit_axis=1)
    layer = dataclasses.replace(question.layers[0], units=np.array([0, 2]))
    (found,) = answers(Units(tokens=function), dataclasses.replace(question, layers=(layer,)), **GRID)

    assert any("5 positions on one axis" in text for text in found.warnings)
    columns = found.tables["preferences"].columns
    assert columns["unit"].values.tolist() == [0, 2]
    assert columns["response"].values[1] == pytest.approx(2 * columns["response"].values[0])


def test_each_unit_sees_variations_of_its_own_best_grating():
    kernels = [
        grey(gabor(orientation, frequency)) for orientation, frequency in ((0, 0.125), (90, 0.0625), (45, 0.125))
    ]
    settings = {**GRID, "vary": "contrast, size, position", "positions": 3}

    together = answer(rectified(*kernels), 3, **settings)
    singly = [answer(rectified(kernel), **settings) for kernel in kernels]

    for name in ("contrast", "size", "position", "orientation", "spatial-frequency", "phase"):
        for unit, alone in enumerate(singly):
            np.testing.assert_allclose(
                curve(together, name, unit), curve(alone, name), rtol=1e-9, atol=1e-9, err_msg=name
            )


def same(one, other):
    """Assert that two answers are equal to the last bit."""
    assert [*one.arrays] == [*other.arrays]
    for name, array in one.arrays.items():
        assert array.values.tobytes() == other.arrays[name].values.tobytes(), name
    for name, column in one.tables["preferences"].columns.items():
        theirs = other.tables["preferences"].columns[name]
        assert np.array_equal(column.values, theirs.values), name


def test_an_answer_that_is_gone_on_with_from_any_state_is_the_uninterrupted_one(monkeypatch):
    # Two groups of layers, the second with two: states in the grid, in the variations, and between groups.
    monkeypatch.setattr("pellucid_server.engine.methods.shared.tuning.unit_responses.MOST_TOGETHER", 500)
    kernels = [grey(gabor(30 * place, 0.125)) for place in range(4)]
    layers = {"a": 4, "b": 1, "c": 2}
    functions = {"a": rectified(*kernels), "b": rectified(kernels[2]), "c": rectified(*kernels[1:3])}
    question = picture_question(layers)
    settings = {"orientations": 6, "frequencies": 2, "vary": "contrast", "contrasts": 4}

    whole = ran(Units(**functions), question, **settings)

    expected = {next(iter(each.arrays)).partition("/")[0]: each for each in whole if isinstance(each, Findings)}
    assert [*expected] == ["a", "b", "c"]
    states = [each.state for each in whole if isinstance(each, Saved)]
    assert len(states) > 6
    steps = [(each.rows_done, each.rows) for each in whole if isinstance(each, Saved)]
    for number, state in enumerate(states):
        rest = ran(Units(**functions), dataclasses.replace(question, state=state), **settings)
        found = [each for each in rest if isinstance(each, Findings)]
        for each in found:
            same(each, expected[next(iter(each.arrays)).partition("/")[0]])
        assert next(iter(found[-1].arrays)).startswith("c/")
        # Nothing that was done is done again, and the progress goes on.
        assert [(each.rows_done, each.rows) for each in rest if isinstance(each, Saved)] == steps[number + 1 :]


def test_curves_over_the_grid_are_previewed_before_the_variations_are_shown():
    functions = {"a": rectified(grey(gabor(30, 0.125))), "b": rectified(grey(gabor(90, 0.125)))}

    found = ran(Units(**functions), picture_question({"a": 1, "b": 1}), **{**GRID, "vary": "contrast"})

    (preview,) = [each.findings for each in found if isinstance(each, Preview)]
    parts = [each for each in found if isinstance(each, Findings)]
    assert preference(preview, "peak orientation", 0) == 30
    assert preference(preview, "peak orientation", 1) == 90
    assert preference(preview, "c50") is None
    assert np.isnan(preview.arrays["a/contrast"].values).all()
    for part, name in zip(parts, "ab", strict=True):
        curve = f"{name}/orientation"
        np.testing.assert_array_equal(preview.arrays[curve].values, part.arrays[curve].values)
        assert preference(part, "c50") == pytest.approx(0.5, abs=1e-4)


def test_gratings_fit_pictures_that_are_no_squares():
    y, x = np.mgrid[:24, :40] - np.array([11.5, 19.5])[:, None, None]
    kernel = grey(np.cos(2 * np.pi * 0.125 * x + 0 * y))

    (found,) = answers(Units(conv=rectified(kernel)), picture_question({"conv": 1}, side=24, width=40), **GRID)

    assert preference(found, "peak orientation") == 90
    assert preference(found, "spatial frequency in the image") == 0.125 * 24


def test_progress_ends_at_all_rows():
    steps = [
        each
        for each in ran(Units(conv=rectified(grey(gabor(0, 0.125)))), picture_question({"conv": 1}))
        if isinstance(each, Saved)
    ]

    assert steps[-1].rows_done == steps[-1].rows
    assert [each.rows_done for each in steps] == sorted(each.rows_done for each in steps)


def test_a_layer_with_more_units_than_responses_are_kept_of_is_refused():
    question = picture_question({"conv": 1})
    wide = ProbeLayer(SiteLayer("conv", (1 << 20,)), np.arange(1 << 20))

    with pytest.raises(InvalidRequestError, match="Name some of its units"):
        ran(Units(), dataclasses.replace(question, layers=(wide,)))


def test_the_cost_of_one_unit_is_the_rows_that_are_evaluated():
    method = registry.lookup("tuning-curve", DISSECT)
    question, params = picture_question({"conv": 1}), method.resolve({})
    handle = Units(conv=rectified(grey(gabor(0, 0.125))))

    list(method.function(handle, question, params))

    assert handle.rows == method.cost(params, question).rows
