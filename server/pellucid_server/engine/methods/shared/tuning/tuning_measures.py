"""Numbers that sum up tuning curves, for many units at once. A number that is undefined is NaN.

Sources: Swindale, "Orientation tuning curves: empirical description and estimation of parameters", Biological
Cybernetics 1998 (von Mises curves); Ringach, Shapley and Hawken, "Orientation selectivity in macaque V1", Journal of
Neuroscience 2002 (circular variance); Skottun et al., "Classifying simple and complex cells on the basis of response
modulation", Vision Research 1991 (F1/F0); Mazurek, Kager and Van Hooser, "Robust quantification of orientation
selectivity and direction selectivity", Frontiers in Neural Circuits 2014.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

NEAR = 1e-5
"""Share of the largest value within which another counts as equal to it: a network's last digits decide nothing."""

FLAT = 1e-3
"""Length of a normalised vector sum below which it has no direction that means anything."""

_FITTED = 3
"""Points that a curve of three parameters needs."""

_SEEN = 0.01
"""Share of the peak that a point must have to count as one of those."""


def peak(curves: Floats) -> Indices:
    """Return the place of each curve's largest value, the first of nearly equal ones; (..., n) becomes (...)."""
    most = curves.max(axis=-1, keepdims=True)
    return np.asarray(np.argmax(curves >= most - NEAR * np.abs(curves).max(axis=-1, keepdims=True), axis=-1), np.int64)


def taken(values: npt.NDArray[np.generic], places: Indices) -> Floats:
    """Return the value at one place of each curve; (..., n) and (...) become (...)."""
    return np.asarray(np.take_along_axis(values, places[..., None], axis=-1)[..., 0], np.float64)


def harmonics(responses: Floats) -> tuple[Floats, Floats]:
    """Return the mean F0 and the amplitude F1 of the first harmonic over equally spaced phases; (..., phases)."""
    count = responses.shape[-1]
    wave = np.exp(-2j * np.pi * np.arange(count) / count)
    return responses.mean(axis=-1), np.abs(responses @ wave) * 2 / count


def ratio(above: Floats, below: Floats) -> Floats:
    """Return one divided by the other; NaN where the divisor is not above 0."""
    return np.asarray(
        np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0), np.float64
    )


def vector_sum(curves: Floats, degrees: Floats, cycle: float) -> tuple[Floats, Floats]:
    """Return length and direction of the vector sum of responses, normalised by their sum.

    Parameters
    ----------
    curves
        (units, n), over equally spaced places of the whole cycle.
    cycle
        Degrees after which places repeat: 180 for orientations, 360 for hues.

    Returns
    -------
    length
        |sum r e^(2 pi i place / cycle)| / sum r, in [0, 1]; NaN where a response is below 0 or all are 0.
    direction
        Degrees in [0, cycle); NaN too where the length is below `FLAT`.
    """
    total = curves.sum(axis=1)
    summed = curves @ np.exp(2j * np.pi * degrees / cycle)
    lengths = np.where((curves >= 0).all(axis=1), ratio(np.abs(summed), total), np.nan)
    lengths = np.minimum(lengths, 1.0)
    directions = np.angle(summed) / (2 * np.pi) * cycle % cycle
    # The remainder of a tiny negative angle rounds to the whole cycle.
    directions = np.where(directions >= cycle, 0.0, directions)
    return lengths, np.where(lengths >= FLAT, directions, np.nan)


def classic_selectivity(curves: Floats) -> Floats:
    """Return (preferred - orthogonal) / (preferred + orthogonal) of curves over an even number of orientations."""
    best = peak(curves)
    across = (best + curves.shape[1] // 2) % curves.shape[1]
    high, low = taken(curves, best), taken(curves, across)
    return np.where(low >= 0, ratio(high - low, high + low), np.nan)


def half_width(curves: Floats, step: float) -> Floats:
    """Return the half width at half height around the peak, in degrees: the mean of both sides.

    The height is that above 0, the response to the blank; between measured orientations the curve is taken as
    straight. NaN where a side does not fall to the half within a quarter turn.

    Parameters
    ----------
    curves
        (units, n), over orientations that are `step` degrees apart.
    """
    count = curves.shape[1]
    best = peak(curves)
    steps = np.arange(count // 2 + 1)
    sides = [curves[np.arange(len(curves))[:, None], (best[:, None] + way * steps) % count] for way in (1, -1)]
    half = taken(curves, best) / 2
    return np.asarray(sum(_first_fall(side, half) for side in sides) / 2 * step)


def octave_width(curves: Floats, frequencies: Floats) -> Floats:
    """Return the full width at half height around the peak, in octaves; NaN where a side does not fall to the half.

    As `half_width`, over equally spaced logarithms of frequency and not around a circle; (units, n).
    """
    count = len(frequencies)
    if count < 2:
        return np.full(len(curves), np.nan)
    best = peak(curves)
    steps = np.arange(count)
    half = taken(curves, best) / 2
    total = np.zeros(len(curves))
    for way in (1, -1):
        places = best[:, None] + way * steps
        inside = (places >= 0) & (places < count)
        side = np.take_along_axis(curves, np.clip(places, 0, count - 1), axis=1)
        total += _first_fall(np.where(inside, side, np.inf), half)
    return np.asarray(total * np.log2(frequencies[1] / frequencies[0]), np.float64)


def _first_fall(curves: Floats, level: Floats) -> Floats:
    """Return where each curve first falls to a level, in steps from its start; NaN where it does not."""
    below = curves <= level[:, None]
    at = np.argmax(below, axis=1)
    fallen = below.any(axis=1) & (at > 0)
    before, after = taken(curves, np.maximum(at - 1, 0)), taken(curves, at)
    share = ratio(np.where(fallen, before - level, 0.0), np.where(fallen, before - after, 0.0))
    return np.where(fallen, at - 1 + share, np.nan)


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve of three parameters fitted to each of several.

    Attributes
    ----------
    peak
        Where it is highest, NaN where there is no fit.
    width
        Its width, as the function says that made it; NaN likewise.
    explained
        Share of the curve's variance that it explains, at most 1; NaN likewise.
    """

    peak: Floats
    width: Floats
    explained: Floats


def von_mises(curves: Floats, degrees: Floats) -> Fit:
    """Fit A exp(k (cos 2(t - m) - 1)); the width is the half width at half height, acos(1 - ln 2 / k) / 2 in degrees.

    The logarithm of the curve is linear in three terms; they are fitted to it by least squares, each point weighted
    by its squared response, which undoes what the logarithm does to errors. Exact where the curve is of this form.
    """
    twice = np.deg2rad(2 * degrees)
    terms = np.stack([np.ones_like(twice), np.cos(twice), np.sin(twice)], axis=1)
    found, explained = _log_fit(curves, terms)
    concentration = np.hypot(found[:, 1], found[:, 2])
    directions = np.rad2deg(np.arctan2(found[:, 2], found[:, 1])) / 2 % 180.0
    inside = 1 - ratio(np.full_like(concentration, np.log(2)), concentration)
    # A curve this flat does not fall to half its height anywhere.
    narrow = inside >= -1
    widths = np.rad2deg(np.arccos(np.where(narrow, inside, 1.0))) / 2
    return Fit(directions, np.where(narrow, widths, np.nan), explained)


def log_gaussian(curves: Floats, frequencies: Floats) -> Fit:
    """Fit a Gaussian over the logarithm of frequency; the width is the full width at half height, in octaves.

    As `von_mises` does, with a parabola in place of the cosine: Caruana's method, weighted as by Guo, "A simple
    algorithm for fitting a Gaussian function", IEEE Signal Processing Magazine 2011. No fit where the parabola opens
    upwards, as for curves without a peak.
    """
    octaves = np.log2(frequencies)
    middle = octaves.mean()
    terms = np.stack([np.ones_like(octaves), octaves - middle, np.square(octaves - middle)], axis=1)
    found, explained = _log_fit(curves, terms)
    bend = np.where(found[:, 2] < 0, -found[:, 2], np.nan)
    places = found[:, 1] / (2 * bend)
    # Far outside what was measured there is no peak to speak of.
    inside = (places >= octaves[0] - middle) & (places <= octaves[-1] - middle)
    widths = 2 * np.sqrt(np.log(2) / bend)
    shown = [np.where(inside, each, np.nan) for each in (2.0 ** (np.where(inside, places, 0) + middle), widths)]
    return Fit(shown[0], shown[1], np.where(inside, explained, np.nan))


def _log_fit(curves: Floats, terms: Floats) -> tuple[Floats, Floats]:
    """Fit exp(terms . x) to each curve, (units, n) and (n, 3); return x, (units, 3), and the explained share."""
    curves = np.maximum(curves, 0.0)
    most = curves.max(axis=1, keepdims=True)
    shares = np.divide(curves, most, out=np.zeros_like(curves), where=most > 0)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    weights = np.square(shares)
    enough = (shares >= _SEEN).sum(axis=1) >= _FITTED
    left = np.einsum("un,ni,nj->uij", weights, terms, terms)
    right = np.einsum("un,ni->ui", weights * logs, terms)
    enough &= np.linalg.cond(left) < 1e12
    left[~enough] = np.eye(terms.shape[1])
    found = np.linalg.solve(left, right[..., None])[..., 0]
    found[~enough] = np.nan
    spread = np.square(shares - shares.mean(axis=1, keepdims=True)).sum(axis=1)
    with np.errstate(over="ignore"):
        missed = np.square(shares - np.exp(found @ terms.T)).sum(axis=1)
    explained = 1 - ratio(missed, spread)
    # A share that is infinitely bad has no number.
    return found, np.where(np.isfinite(explained), explained, np.nan)


def half_level(curves: Floats, places: Floats) -> Floats:
    """Return where each curve, straight between its places and from 0 at place 0, first reaches half its maximum."""
    from_zero = np.concatenate([np.zeros((len(curves), 1)), curves], axis=1)
    at = np.concatenate([[0.0], places])
    half = from_zero.max(axis=1) / 2
    first = np.argmax(from_zero >= half[:, None], axis=1)
    before = np.maximum(first - 1, 0)
    low, high = taken(from_zero, before), taken(from_zero, first)
    share = ratio(half - low, high - low)
    return np.where(half > 0, at[before] + share * (at[first] - at[before]), np.nan)


def lines(curves: Floats, places: Floats) -> tuple[Floats, Floats]:
    """Return slope and explained share of the straight line through each curve by least squares.

    Of a constant curve the slope is 0 and the share NaN.
    """
    centred = places - places.mean()
    risen = curves - curves.mean(axis=1, keepdims=True)
    across = float(centred @ centred)
    slopes = risen @ centred / across if across > 0 else np.zeros(len(curves))
    missed = np.square(risen - np.outer(slopes, centred)).sum(axis=1)
    return np.asarray(slopes), 1 - ratio(missed, np.square(risen).sum(axis=1))
