"""What pictures are made of: spectra, phases, colours, views and charges, each against another road to it."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.methods.shared.painting.likeness import likeness, likeness_gradient
from pellucid_server.engine.methods.shared.painting.parameterisations import (
    Colours,
    FourierParameters,
    MagnitudeParameters,
    PixelParameters,
    frequency_scale,
)
from pellucid_server.engine.methods.shared.painting.views import Views, seen
from pellucid_server.engine.methods.shared.searching.regularisers import detail, size, total_variation
from scipy import ndimage

SIZES = [(8, 8), (7, 9), (6, 11), (12, 5), (1, 4), (5, 1)]


def source(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_spectrums_scale_falls_with_the_frequency_and_is_held_below_one_cycle(height, width):
    found = frequency_scale(height, width, 2.0)

    assert found.shape == (height, width // 2 + 1)
    for row in range(height):
        for column in range(width // 2 + 1):
            down = min(row, height - row) / height
            frequency = max(np.hypot(down, column / width), 1 / max(height, width))
            assert found[row, column] == pytest.approx(np.sqrt(height * width) / frequency**2, rel=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_fourier_picture_is_numpys_inverse_transform_of_the_scaled_spectrum(height, width):
    parameters = FourierParameters(3, height, width, 1.0)
    values = source().normal(size=(2, *parameters.shape)).astype(np.float32)

    found = parameters.pictures(torch.from_numpy(values)).numpy()

    spectrum = (values[..., 0] + 1j * values[..., 1]) * frequency_scale(height, width, 1.0)
    expected = np.fft.irfft2(spectrum.astype(np.complex128), s=(height, width)) / 4
    assert found.shape == (2, 3, height, width)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("height", "width"), SIZES[:4])
def test_a_picture_of_phases_has_the_magnitudes_that_were_given_to_one_factor(height, width):
    shape = (3, height, width // 2 + 1)
    natural = np.abs(np.fft.rfft2(source(1).normal(size=(3, height, width)))).astype(np.float32)
    parameters = MagnitudeParameters(natural, width)
    assert parameters.shape == shape
    phases = np.stack([parameters.start(source(number)) for number in range(3)])

    found = parameters.pictures(torch.from_numpy(phases)).double().numpy()

    np.testing.assert_allclose(found.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((1, 2, 3)), 1, rtol=1e-3)
    magnitudes = np.abs(np.fft.rfft2(found))
    ratios = magnitudes / natural
    ratios = ratios.reshape(3, 3, -1)[:, :, 1:]
    # The mean of each channel, frequency 0, is moved when the picture's is taken off.
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[:, :1, :1], ratios.shape), rtol=1e-3)


def test_phases_change_the_picture_and_have_a_gradient():
    parameters = MagnitudeParameters(np.ones((1, 6, 4), np.float32), 6)
    phases = torch.from_numpy(parameters.start(source())[None]).requires_grad_()

    picture = parameters.pictures(phases)
    (gradient,) = torch.autograd.grad(picture[0, 0, 2, 3], phases)

    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_noise_to_begin_with_is_of_the_strength_that_was_asked_for():
    for parameters in (PixelParameters((3, 40, 40)), FourierParameters(3, 40, 40)):
        assert parameters.start(source()).std() == pytest.approx(0.01, rel=0.05)
        assert parameters.start(source(), 10.0).std() == pytest.approx(0.1, rel=0.05)


def test_colours_are_lucids_and_come_back():
    pictures = torch.from_numpy(source().normal(size=(2, 3, 4, 5)).astype(np.float32))
    matrix = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]) / 0.46195

    levels = Colours(True).levels(pictures)

    mixed = np.einsum("ij,njhw->nihw", matrix, pictures.numpy())
    np.testing.assert_allclose(levels.numpy(), 1 / (1 + np.exp(-mixed)), rtol=1e-4)
    np.testing.assert_allclose(Colours(True).pictures(levels).numpy(), pictures.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(Colours(False).levels(pictures).numpy(), 1 / (1 + np.exp(-pictures.numpy())), rtol=1e-5)


def test_black_and_white_have_pictures_too():
    found = Colours(False).pictures(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))

    np.testing.assert_allclose(found.flatten().numpy(), [-np.log(511), np.log(511)], rtol=1e-5)


def test_a_view_that_only_shifts_shows_the_pixels_moved_and_grey_beyond():
    levels = torch.from_numpy(source().random((1, 2, 6, 9)).astype(np.float32))

    found = seen(levels, np.array([[2.0, -3.0, 1.0, 0.0]])).numpy()

    np.testing.assert_allclose(found[:, :, :4, 3:], levels[:, :, 2:, :6].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[:, :, 4:], 0.5, atol=1e-5)
    np.testing.assert_allclose(found[:, :, :, :3], 0.5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(21, 21), (15, 24)])
@pytest.mark.parametrize("view", [(0, 0, 1.1, 0.0), (0, 0, 0.8, 0.0), (0, 0, 1.0, 0.3), (1, -2, 1.2, -0.4)], ids=str)
def test_a_view_is_scipys_affine_transform(height, width, view):
    levels = source().random((1, 1, height, width)).astype(np.float32)
    down, right, scale, angle = view

    found = seen(torch.from_numpy(levels), np.array([view]))[0, 0].numpy()

    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    offset = middle + np.array([down, right]) - matrix @ middle
    expected = ndimage.affine_transform(levels[0, 0] - 0.5, matrix, offset, order=1, mode="grid-constant") + 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_drawn_views_keep_to_their_bounds_and_are_often_upright():
    views = Views(jitter=3, scale=0.1, rotate=10)
    drawn = np.stack([views.draw(source(number)) for number in range(2000)])

    assert set(drawn[:, 0]) == set(drawn[:, 1]) == set(range(-3, 4))
    assert drawn[:, 2].min() == pytest.approx(0.9)
    assert drawn[:, 2].max() == pytest.approx(1.1)
    assert len(np.unique(drawn[:, 2].round(6))) == 11
    degrees = np.rint(np.degrees(drawn[:, 3]))
    assert set(degrees) == set(range(-10, 11))
    # 21 angles, and 0 five times more.
    assert (degrees == 0).mean() == pytest.approx(6 / 26, abs=0.03)
    np.testing.assert_array_equal(Views(0, 0.0, 0).draw(source()), [0, 0, 1, 0])


def test_charges_are_what_loops_find():
    pictures = source().random((2, 2, 5, 6))
    charged = torch.from_numpy(pictures)

    lengths = [
        np.hypot(p[c, i + 1, j] - p[c, i, j], p[c, i, j + 1] - p[c, i, j])
        for p in pictures
        for c in range(2)
        for i in range(4)
        for j in range(5)
    ]
    np.testing.assert_allclose(total_variation(charged), np.reshape(lengths, (2, -1)).mean(1), rtol=1e-4)
    line = np.array([1, 4, 6, 4, 1]) / 16
    blurred = ndimage.convolve(pictures, np.outer(line, line)[None, None], mode="nearest")
    np.testing.assert_allclose(detail(charged), ((pictures - blurred) ** 2).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(size(charged), (pictures**2).mean((1, 2, 3)), rtol=1e-9)


def test_likeness_is_the_mean_cosine_of_gram_matrices_within_a_group():
    values = source().normal(size=(4, 3, 2, 5))
    grams = [np.einsum("uhw,vhw->uv", each, each).ravel() for each in values]
    cosine = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in grams] for b in grams]

    found = likeness(torch.from_numpy(values), 0, 2)

    np.testing.assert_allclose(found, [cosine[0][1], cosine[0][1], cosine[2][3], cosine[2][3]], rtol=1e-6)
    three = likeness(torch.from_numpy(values[:3]), 0, 3)
    np.testing.assert_allclose(three[0], (cosine[0][1] + cosine[0][2]) / 2, rtol=1e-6)


def test_the_gradient_of_likeness_is_its_slope_and_0_where_nothing_is_there():
    values = source().normal(size=(2, 2, 3)).astype(np.float32)
    step = np.zeros_like(values)
    step[0, 1, 2] = 1e-3

    gradient = likeness_gradient(values, 0, 2)

    above, below = (float(likeness(torch.from_numpy(values + sign * step), 0, 2).sum()) for sign in (1, -1))
    assert gradient[0, 1, 2] == pytest.approx((above - below) / 2e-3, rel=1e-2)
    assert np.isfinite(likeness_gradient(np.zeros((2, 2, 3)), 0, 2)).all()
