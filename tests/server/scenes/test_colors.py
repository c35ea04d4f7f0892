"""Names of colours: against what people call them."""

import numpy as np
import pytest
from pellucid_server.scenes.colors import COLORS, color_numbers
from PIL import Image


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((128, 128, 128), "gray"),
        ((255, 255, 255), "white"),
        ((220, 20, 20), "red"),
        ((255, 140, 0), "orange"),
        ((110, 65, 20), "brown"),
        ((250, 230, 20), "yellow"),
        ((30, 160, 40), "green"),
        ((30, 200, 210), "cyan"),
        ((20, 40, 220), "blue"),
        ((130, 30, 180), "purple"),
        ((255, 105, 180), "pink"),
    ],
)
def test_colours_have_their_names(rgb, name):
    assert COLORS[int(color_numbers(Image.new("RGB", (1, 1), rgb))[0, 0])] == name


def test_every_colour_has_one_name():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)

    found = color_numbers(Image.fromarray(pixels))

    assert found.shape == (64, 64)
    assert set(np.unique(found).tolist()) == set(range(len(COLORS)))
