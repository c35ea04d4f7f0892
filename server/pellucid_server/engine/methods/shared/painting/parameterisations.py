"""Pictures as functions of parameters whose gradients make for pictures one can read.

Source: Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017, and Mordvintsev, Pezzotti, Schubert and
Olah, "Differentiable Image Parameterizations", Distill 2018 (lucid: `param/spatial.py`, `param/color.py`); Fel et al.,
"Unlocking Feature Visualization for Deep Networks with MAgnitude Constrained Optimization", NeurIPS 2023.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]

_NOISE = 0.01
_SMALLER = 4.0
"""lucid divides its pictures by this, so that the sigmoid behind them does not saturate at once."""

_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)
"""Square root of the covariance of colours in ImageNet, as lucid has it."""

_LEAST_DEVIATION = 1e-4
_MARGIN = 1.0 / 512
"""How far levels are kept from black and white, where the sigmoid has no inverse."""


class Parameterisation(Protocol):
    """Makes pictures, (pictures, channels, height, width), before colours and the sigmoid."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one picture's parameters."""
        ...

    def start(self, source: np.random.Generator, strength: float = 1.0) -> Floats:
        """Return parameters to begin with, (*shape); `strength` multiplies what noise there is."""
        ...

    def pictures(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the pictures of parameters, (pictures, *shape); differentiable."""
        ...


@dataclass(frozen=True, slots=True)
class PixelParameters:
    """The pixels themselves: (channels, height, width)."""

    shape: tuple[int, ...]

    def start(self, source: np.random.Generator, strength: float = 1.0) -> Floats:
        """Return normal noise of the deviation 0.01."""
        return (strength * _NOISE * source.standard_normal(self.shape)).astype(np.float32)

    def pictures(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the pixels."""
        return parameters


@dataclass(frozen=True, slots=True)
class FourierParameters:
    """The spectrum, in which low frequencies count more.

    The scale of a frequency f, in cycles a pixel, is sqrt(height * width) / max(f, 1 / max(height, width)) ** decay.
    """

    channels: int
    height: int
    width: int
    decay: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width // 2 + 1, 2): real and imaginary parts."""
        return self.channels, self.height, self.width // 2 + 1, 2

    def start(self, source: np.random.Generator, strength: float = 1.0) -> Floats:
        """Return normal noise of the deviation 0.01 in both parts."""
        return (strength * _NOISE * source.standard_normal(self.shape)).astype(np.float32)

    def pictures(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the pictures of scaled spectra."""
        scale = torch.from_numpy(frequency_scale(self.height, self.width, self.decay))
        spectrum = torch.view_as_complex(parameters.contiguous()) * scale
        found: torch.Tensor = torch.fft.irfft2(spectrum, s=(self.height, self.width))
        return found / _SMALLER


@dataclass(frozen=True, slots=True)
class MagnitudeParameters:
    """The phases of a spectrum whose magnitudes are fixed; pictures have the mean 0 and the deviation 1.

    Attributes
    ----------
    magnitude
        (channels, height, width // 2 + 1), of a real picture.
    width
        The picture's width, which the spectrum leaves open.
    """

    magnitude: Floats
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the magnitudes: an angle in radians for each."""
        return self.magnitude.shape

    def start(self, source: np.random.Generator, strength: float = 1.0) -> Floats:
        """Return uniform phases."""
        return source.uniform(-math.pi, math.pi, self.shape).astype(np.float32)

    def pictures(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the pictures of the magnitudes with these phases."""
        magnitude = torch.from_numpy(self.magnitude).expand_as(parameters).contiguous()
        spectrum = torch.polar(magnitude, self._odd(parameters))
        found: torch.Tensor = torch.fft.irfft2(spectrum, s=(self.magnitude.shape[-2], self.width))
        centred = found - found.mean(dim=(1, 2, 3), keepdim=True)
        deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return centred / (deviation + _LEAST_DEVIATION)

    def _odd(self, phases: torch.Tensor) -> torch.Tensor:
        """Return phases of a real picture: in columns that mirror themselves, those of -f are minus those of f.

        Otherwise the inverse transform would leave out a part there, and with it of the magnitude.
        """
        mirrored = [0] if self.width % 2 else [0, self.width // 2]
        rows = (-torch.arange(phases.shape[-2])) % phases.shape[-2]
        columns = list(phases.unbind(-1))
        for column in mirrored:
            columns[column] = columns[column] - columns[column][..., rows]
        return torch.stack(columns, -1)


def frequency_scale(height: int, width: int, decay: float) -> Floats:
    """Return the scale of each frequency, (height, width // 2 + 1)."""
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequencies = np.maximum(np.hypot(down, right), 1 / max(height, width))
    return np.asarray(math.sqrt(height * width) / frequencies**decay, np.float32)


@dataclass(frozen=True, slots=True)
class Colours:
    """From pictures to levels between 0 and 1, and back; colours are correlated as in photographs if `decorrelated`."""

    decorrelated: bool

    def levels(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return levels in (0, 1), (pictures, channels, height, width)."""
        return torch.sigmoid(self._mixed(pictures, _matrix()) if self.decorrelated else pictures)

    def pictures(self, levels: torch.Tensor) -> torch.Tensor:
        """Return the pictures that have these levels, but for those at black and white, which are moved a little."""
        found = torch.logit(levels.clamp(_MARGIN, 1 - _MARGIN))
        return self._mixed(found, np.linalg.inv(_matrix())) if self.decorrelated else found

    def _mixed(self, pictures: torch.Tensor, matrix: Floats) -> torch.Tensor:
        return torch.einsum("ij,njhw->nihw", torch.from_numpy(np.asarray(matrix, np.float32)), pictures)


def _matrix() -> Floats:
    """Return what makes correlated colours of independent ones: its largest column has the length 1."""
    return np.asarray(_COLOURS / np.linalg.norm(_COLOURS, axis=0).max(), np.float32)
