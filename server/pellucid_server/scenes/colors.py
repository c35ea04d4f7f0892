"""Names of colours: which of twelve a pixel has, for masks of any picture's colours."""

import numpy as np
import numpy.typing as npt
from PIL import Image

COLORS = ("black", "gray", "white", "red", "orange", "brown", "yellow", "green", "cyan", "blue", "purple", "pink")

_BLACK, _GRAY, _WHITE = 0, 1, 2
_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "red")
_EDGES = (15, 42, 70, 160, 195, 260, 300, 345)
"""Degrees of hue at which one of these ends and the next begins."""


def color_numbers(picture: Image.Image) -> npt.NDArray[np.int64]:
    """Return the number in `COLORS` of the name of each pixel's colour, by its hue, saturation and value.

    Names are rules of thumb: dark orange is brown, pale red is pink, and what has little colour is black, gray or
    white.
    """
    hue, saturation, value = np.moveaxis(np.asarray(picture.convert("HSV")).astype(np.int64), 2, 0)
    degrees = hue * 360 // 256
    found = np.array([COLORS.index(each) for each in _HUES])[np.searchsorted(_EDGES, degrees, side="right")]
    dark_orange = (degrees > 10) & (degrees < 50) & (value < 150)
    pale_red = (found == COLORS.index("red")) & (saturation < 130) & (value > 180)
    found = np.where(dark_orange, COLORS.index("brown"), np.where(pale_red, COLORS.index("pink"), found))
    greys = np.select([value < 60, value < 205], [_BLACK, _GRAY], _WHITE)
    return np.where(value < 45, _BLACK, np.where(saturation < 45, greys, found))
