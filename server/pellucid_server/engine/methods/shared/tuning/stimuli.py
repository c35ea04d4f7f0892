"""Parametric pictures: sinusoidal gratings and uniform colours, as rows that a model takes.

Orientation is that of the stripes, in degrees counter-clockwise from horizontal as a person sees the picture, in
[0, 180): horizontal stripes are at 0, vertical ones at 90. The wave vector stands at a right angle to them. Levels are
shares of the brightest, in [0, 1]; the blank is a uniform 0.5. They are not rounded to the 256 levels of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLANK = 0.5
"""The level of the blank, and the mean level of every grating."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of the red, green and blue level in the luma of ITU-R BT.601."""

_RGB = 3


def _opposed(up: int, down: tuple[int, ...]) -> Floats:
    """Return the direction in which one channel rises and others fall so that the luma stays as it is."""
    found = np.zeros(_RGB)
    found[up] = 1.0
    found[list(down)] = -LUMA[up] / LUMA[list(down)].sum()
    return np.asarray(found / np.abs(found).max(), np.float64)


PAIRS: Mapping[str, Floats] = MappingProxyType(
    {"black-white": np.ones(_RGB), "red-green": _opposed(0, (1,)), "blue-yellow": _opposed(2, (0, 1))}
)
"""What a grating's crest adds to the channels of the blank, at most 1, by the pair of colours between which it goes."""


def hue_direction(hue: float) -> tuple[float, ...]:
    """Return what a hue adds to the channels of the blank without changing its luma, its largest magnitude 1.

    Parameters
    ----------
    hue
        Degrees on the circle of HSV: 0 is red, 120 green, 240 blue.
    """
    place = np.array([hue / 60.0, hue / 60.0 - 2.0, hue / 60.0 - 4.0])
    pure = np.clip(np.abs((place + 3.0) % 6.0 - 3.0) * -1.0 + 2.0, 0.0, 1.0)
    found = np.asarray(pure - LUMA @ pure, np.float64)
    return tuple((found / np.abs(found).max()).tolist())


@dataclass(frozen=True, slots=True)
class Grating:
    """A sinusoidal grating: 0.5 + 0.5 contrast window cos(wave vector . place + phase) along a direction of colour.

    Attributes
    ----------
    orientation
        Of the stripes, in degrees counter-clockwise from horizontal.
    frequency
        Cycles per pixel; 0 for a uniform colour.
    phase
        Degrees at the middle of the picture: at 0 a crest lies there.
    contrast
        Michelson contrast, in [0, 1]: the crest of the colour's strongest channel is at 0.5 + 0.5 contrast.
    colour
        What the crest adds, (channels,) or (1,), at most 1 in magnitude.
    window
        "none", "gaussian" or "circle".
    size
        Diameter of the window in pixels: of the circle, or of two standard deviations on either side.
    centre
        Where the window is centred, in pixels to the right of and below the middle of the picture; the stripes stay
        where they are.
    """

    orientation: float = 0.0
    frequency: float = 0.0
    phase: float = 0.0
    contrast: float = 1.0
    colour: tuple[float, ...] = (1.0,)
    window: str = "none"
    size: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Draws pictures as a model takes them: (level 255 - mean) / standard deviation, float32.

    Attributes
    ----------
    shape
        Channels, height and width: 1 channel (grey) or 3 (RGB).
    mean, standard_deviation
        Of each channel, on levels of 0 to 255.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]

    @property
    def short_side(self) -> int:
        """The shorter of height and width, in pixels."""
        return min(self.shape[1:])

    @property
    def coloured(self) -> bool:
        """Whether it has colours."""
        return self.shape[0] == _RGB

    def draw(self, gratings: Sequence[Grating]) -> npt.NDArray[np.float32]:
        """Return the standardized pictures, (gratings, channels, height, width)."""
        mean, deviation = np.array(self.mean), np.array(self.standard_deviation)
        offsets = ((255.0 * BLANK - mean) / deviation).tolist()
        found = np.empty((len(gratings), *self.shape), np.float32)
        for row, each in zip(found, gratings, strict=True):
            wave = self._wave(each).astype(np.float32)
            swings = 255.0 * BLANK * each.contrast * np.asarray(each.colour) / deviation
            for channel, swing, offset in zip(row, swings.tolist(), offsets, strict=True):
                np.multiply(wave, swing, out=channel)
                np.add(channel, offset, out=channel)
        return found

    def _wave(self, grating: Grating) -> Floats:
        """Return the windowed wave, (height, width), in [-1, 1]."""
        across, down = self._places((0.0, 0.0))
        angle = np.deg2rad(grating.orientation + 90.0)
        turn = 2 * np.pi * grating.frequency
        # Rows count downwards, and angles are seen with the vertical axis upwards.
        along = turn * np.cos(angle) * across + np.deg2rad(grating.phase)
        up = -turn * np.sin(angle) * down
        # The cosine of a sum by those of its parts takes height + width cosines rather than height times width.
        wave = np.outer(np.cos(up), np.cos(along)) - np.outer(np.sin(up), np.sin(along))
        if grating.window == "none":
            return wave
        across, down = self._places(grating.centre)
        square = np.add.outer(np.square(down), np.square(across))
        radius = grating.size / 2
        if grating.window == "gaussian":
            return np.asarray(wave * np.exp(-2.0 * square / radius**2))
        # The rim is as wide as a pixel, so that the disc grows smoothly with its size.
        return np.asarray(wave * np.clip(radius - np.sqrt(square) + 0.5, 0.0, 1.0))

    def _places(self, centre: tuple[float, float]) -> tuple[Floats, Floats]:
        """Return where columns and rows stand from a centre, in pixels to the right and downwards."""
        _, height, width = self.shape
        right, below = centre
        columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        return columns - ((width - 1) / 2 + right), rows - ((height - 1) / 2 + below)
