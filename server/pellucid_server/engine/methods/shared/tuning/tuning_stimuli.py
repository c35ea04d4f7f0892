"""Which gratings a tuning curve is measured with: a grid that all units see, and variations of each one's best."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.tuning.stimuli import PAIRS, Canvas, Grating, hue_direction

Floats = npt.NDArray[np.float64]

CURVES = ("contrast", "size", "colour", "position")
"""What can be varied beside orientation, spatial frequency and phase."""

_OCTAVES_DOWN = 2.0
_SMALLEST_PIXELS = 3.0
_POSITION_SIZE = 0.25


@dataclass(frozen=True, slots=True)
class Stimuli:
    """The gratings of a request.

    Attributes
    ----------
    canvas
        What draws them.
    orientations, frequencies, phases
        Of the grid: degrees of the stripes, cycles per pixel, degrees.
    base
        What the grid's gratings have in common.
    contrasts, sizes, hues
        Of the curves beside it: Michelson contrasts, diameters as shares of the shorter side, degrees. Empty for none.
    places
        Centres on each side, for the curve over position; 0 for none.
    uniform
        Whether hues are uniform colours, rather than what the best grating's stripes have.
    """

    canvas: Canvas
    orientations: Floats
    frequencies: Floats
    phases: Floats
    base: Grating
    contrasts: Floats
    sizes: Floats
    hues: Floats
    places: int
    uniform: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Orientations, frequencies and phases of the grid."""
        return len(self.orientations), len(self.frequencies), len(self.phases)

    @property
    def grid(self) -> int:
        """How many gratings the grid has."""
        return int(np.prod(self.shape))

    @property
    def common(self) -> list[Grating]:
        """What all units see: the blank, the grid, and hues where they are uniform."""
        grid = itertools.product(self.orientations.tolist(), self.frequencies.tolist(), self.phases.tolist())
        found = [replace(self.base, contrast=0.0)]
        found += [replace(self.base, orientation=o, frequency=f, phase=p) for o, f, p in grid]
        if self.uniform:
            found += [Grating(contrast=self.base.contrast, colour=hue_direction(hue)) for hue in self.hues.tolist()]
        return found

    @property
    def own(self) -> Mapping[str, int]:
        """How many variations of its best grating each unit sees, by what varies, in order."""
        hues = 0 if self.uniform else len(self.hues)
        found = {"contrast": len(self.contrasts), "size": len(self.sizes), "colour": hues, "position": self.places**2}
        return {name: count for name, count in found.items() if count}

    def at(self, number: int) -> Grating:
        """Return the grating of the grid that has a flat number."""
        orientation, frequency, phase = (int(each) for each in np.unravel_index(number, self.shape))
        return replace(
            self.base,
            orientation=float(self.orientations[orientation]),
            frequency=float(self.frequencies[frequency]),
            phase=float(self.phases[phase]),
        )

    def variations(self, best: Grating) -> list[Grating]:
        """Return the variations of a unit's best grating, those of `own` one after the other."""
        short = self.canvas.short_side
        window = "circle" if best.window == "none" else best.window
        found = [replace(best, contrast=contrast) for contrast in self.contrasts.tolist()]
        found += [replace(best, window=window, size=size * short) for size in self.sizes.tolist()]
        if not self.uniform:
            found += [replace(best, colour=hue_direction(hue)) for hue in self.hues.tolist()]
        spot = best if best.window != "none" else replace(best, window="gaussian", size=_POSITION_SIZE * short)
        across, down = self.centres
        found += [replace(spot, centre=(right, below)) for below in down.tolist() for right in across.tolist()]
        return found

    @property
    def centres(self) -> tuple[Floats, Floats]:
        """Return the centres of the curve over position: pixels to the right of, and below, the picture's middle."""
        _, height, width = self.canvas.shape
        shares = (np.arange(self.places) + 0.5) / max(self.places, 1) - 0.5
        return shares * width, shares * height


def around(count: int, cycle: float) -> Floats:
    """Return equally spaced degrees from 0 on, up to a whole cycle less a step."""
    return np.linspace(0.0, cycle, count, endpoint=False)


def frequencies(lowest: float | None, highest: float, count: int, short_side: int) -> Floats:
    """Return frequencies in cycles per pixel whose logarithms are equally spaced.

    Without a lowest one they are octaves down from the highest, but none has less than a cycle in the shorter side.
    """
    if lowest is None:
        lowest = max(highest / _OCTAVES_DOWN ** (count - 1), 1 / short_side)
    if count == 1 or lowest >= highest:
        return np.array([highest])
    # In this order whole octaves are exact.
    octaves = np.log2(highest / lowest) * np.arange(count - 1, -1, -1) / (count - 1)
    return np.asarray(highest / 2.0**octaves, np.float64)


def sizes(count: int, short_side: int) -> Floats:
    """Return diameters as shares of the shorter side, equally spaced in octaves: from 3 pixels to the whole of it."""
    return np.geomspace(min(1.0, _SMALLEST_PIXELS / short_side), 1.0, count)


def pair_colour(pair: str, canvas: Canvas) -> tuple[float, ...]:
    """Return what a crest adds to the channels of a canvas."""
    return tuple(PAIRS[pair].tolist()) if canvas.coloured else (1.0,)
