"""What the responses of a layer's units to a grid of gratings say: the best grating of each, and its curves."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.tuning.tuning_measures import NEAR, Floats, Indices, harmonics, peak, ratio

MEASURES = ("larger", "F0", "F1", "max")
"""What sums up the responses over phases: mean, first harmonic, the larger of both (unit by unit), or the largest."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The tuning of a layer's units.

    Attributes
    ----------
    blank
        The response to the blank, (units,).
    evoked
        Responses less that to the blank, (units, orientations, frequencies, phases).
    rectified
        Whether responses below the blank's count as 0 wherever they are summed up.
    f0, f1
        Mean and first harmonic over phases, (units, orientations, frequencies).
    measure
        What decides which grating is best, likewise.
    orientation, frequency, phase
        The best grating of each unit, as places of the grid, (units,).
    responsive
        Whether a unit responds to the gratings at all, beyond rounding, (units,).
    """

    blank: Floats
    evoked: Floats
    rectified: bool
    f0: Floats
    f1: Floats
    measure: Floats
    orientation: Indices
    frequency: Indices
    phase: Indices
    responsive: npt.NDArray[np.bool_]

    def counted(self, evoked: Floats) -> Floats:
        """Return evoked responses as they are summed up."""
        return np.maximum(evoked, 0.0) if self.rectified else evoked

    def at_best(self, values: Floats) -> Floats:
        """Return values at each unit's best grating, (units, ...), of ones over the grid."""
        return np.asarray(values[np.arange(len(values)), self.orientation, self.frequency], np.float64)

    @property
    def over_orientation(self) -> Floats:
        """The measure at each unit's best frequency, (units, orientations)."""
        return np.asarray(self.measure[np.arange(len(self.measure)), :, self.frequency], np.float64)

    @property
    def over_frequency(self) -> Floats:
        """The measure at each unit's best orientation, (units, frequencies)."""
        return np.asarray(self.measure[np.arange(len(self.measure)), self.orientation], np.float64)

    @property
    def best(self) -> Indices:
        """The flat number of each unit's best grating; -1 for units that do not respond, (units,)."""
        numbers = np.ravel_multi_index((self.orientation, self.frequency, self.phase), self.evoked.shape[1:])
        return np.where(self.responsive, numbers, -1)

    @property
    def negative_share(self) -> Floats:
        """Of all that the gratings evoke, in magnitude, the share below the blank's response; NaN if there is none."""
        flat = self.evoked.reshape(len(self.evoked), -1)
        return ratio(np.maximum(-flat, 0).sum(axis=1), np.abs(flat).sum(axis=1))


def tuned(blank: Floats, responses: Floats, scale: float, measure: str, *, rectified: bool) -> Tuned:
    """Find the best grating of each unit.

    Parameters
    ----------
    blank
        Responses to the blank, (units,).
    responses
        Those to the grid, (units, orientations, frequencies, phases).
    scale
        The largest magnitude that any unit of the layer had: what is small beside it may be rounding.
    measure
        One of `MEASURES`.
    """
    evoked = responses - blank[:, None, None, None]
    counted = np.maximum(evoked, 0.0) if rectified else evoked
    f0, f1 = harmonics(counted)
    decided = _measured(f0, f1, counted, measure)
    best = peak(decided.reshape(len(decided), -1))
    orientation, frequency = (np.asarray(each, np.int64) for each in np.unravel_index(best, decided.shape[1:]))
    units = np.arange(len(decided))
    phase = peak(counted[units, orientation, frequency])
    responsive = decided[units, orientation, frequency] > NEAR * scale
    return Tuned(blank, evoked, rectified, f0, f1, decided, orientation, frequency, phase, responsive)


def _measured(f0: Floats, f1: Floats, counted: Floats, measure: str) -> Floats:
    if measure == "max":
        return np.asarray(counted.max(axis=-1), np.float64)
    if measure != "larger":
        return f0 if measure == "F0" else f1
    units = len(f0)
    simple = f1.reshape(units, -1).max(axis=1) > f0.reshape(units, -1).max(axis=1)
    return np.where(simple[:, None, None], f1, f0)


def suppression(curves: Floats) -> Floats:
    """Return how much each curve has fallen at its end, as a share of its peak; NaN where the peak is not above 0."""
    most = curves.max(axis=1)
    return ratio(most - curves[:, -1], most)
