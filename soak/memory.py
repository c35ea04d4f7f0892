"""Whether the processes hold more and more: memory by a line through the second half, the rest by its idle count."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from soak.processes import FRONT, HELPER, WORKER, Sample, of_kind
from soak.verdicts import Verdict

MOST_MIB_PER_MINUTE = 1.0
"""A process that grows by more is not flat, unless its memory goes up and down so much that there is no telling."""

MOST_MORE = 8
"""File descriptors and threads that an idle front may have more after the run than before it: pools fill up."""

BLOCK_SECONDS = 15.0
LEAST_BLOCKS = 8
"""Memory is judged over no less: within seconds, allocators' steps are all there is."""

DOUBT = 3.0
"""Standard errors by which a slope may be above what is flat."""

_MIB = 1 << 20


def memory(samples: Sequence[Sample], *, warm_at: float, calm_from: float) -> list[Verdict]:
    """Judge the resident memory of front and workers, from samples under one and the same load.

    Parameters
    ----------
    warm_at
        From when the front is judged, on the samples' clock: by then everything was asked once.
    calm_from
        From when no worker was killed any more.
    """
    return [
        _slope("front's memory is flat", [each for each in of_kind(samples, FRONT) if each.at >= warm_at]),
        _slope("worker's memory is flat", _longest_life(of_kind(samples, WORKER), calm_from)),
        _lives("worker's memory is the same in every life", of_kind(samples, WORKER)),
        _slope("helper's memory is flat", _longest_life(of_kind(samples, HELPER), calm_from)),
    ]


def handles(before: Iterable[Sample], after: Iterable[Sample]) -> Verdict:
    """Compare the idle front's file descriptors and threads before and after the run."""
    (first,), (last,) = of_kind(before, FRONT), of_kind(after, FRONT)
    wrong = []
    if last.descriptors > first.descriptors + MOST_MORE:
        wrong.append(f"{last.descriptors - first.descriptors} more file descriptors")
    if last.threads > first.threads + MOST_MORE:
        wrong.append(f"{last.threads - first.threads} more threads")
    figures = f"{first.descriptors} to {last.descriptors} file descriptors, {first.threads} to {last.threads} threads"
    return Verdict("front's handles are flat", not wrong, figures, tuple(wrong))


def mib_per_minute(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the slope of the line of least squares through the resident memory, and its standard error.

    The line goes through means of 15 seconds, as what a batch takes for a moment is in several samples on end.
    """
    blocks = _blocks(samples)
    times = np.array([each[0] for each in blocks])
    sizes = np.array([each[1] for each in blocks])
    times, sizes = times - times.mean(), sizes - sizes.mean()
    spread = times @ times
    slope = times @ sizes / spread
    rest = sizes - slope * times
    error = np.sqrt(rest @ rest / (len(blocks) - 2) / spread)
    return 60 * float(slope), 60 * float(error)


def _blocks(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Return the mean time and memory, in MiB, of the samples of each 15 seconds."""
    found: dict[int, list[Sample]] = defaultdict(list)
    for each in samples:
        found[int((each.at - samples[0].at) // BLOCK_SECONDS)].append(each)
    return [
        (float(np.mean([each.at for each in block])), float(np.mean([each.resident_bytes for each in block])) / _MIB)
        for block in found.values()
    ]


def _slope(name: str, samples: Sequence[Sample]) -> Verdict:
    half = [each for each in samples if each.at >= (samples[0].at + samples[-1].at) / 2] if samples else []
    if not half or len(_blocks(half)) < LEAST_BLOCKS:
        return Verdict(name, True, f"not judged: fewer than {BLOCK_SECONDS * LEAST_BLOCKS:g} s in the second half")
    slope, error = mib_per_minute(half)
    figures = (
        f"{slope:+.2f} MiB/min, give or take {error:.2f}, at {half[-1].resident_bytes / _MIB:.0f} MiB, over "
        f"{half[-1].at - half[0].at:.0f} s; growth below {MOST_MIB_PER_MINUTE + DOUBT * error:.0f} is not seen"
    )
    return Verdict(name, slope - DOUBT * error <= MOST_MIB_PER_MINUTE, figures)


def _longest_life(samples: Iterable[Sample], since: float) -> list[Sample]:
    """Return, of the process that has most of them, the samples since a time."""
    lives = _by_process(each for each in samples if each.at >= since)
    return max(lives, key=len, default=[])


def _lives(name: str, samples: Iterable[Sample]) -> Verdict:
    """Compare the most that processes held: those of the first half with those of the second."""
    peaks = [max(each.resident_bytes for each in life) / _MIB for life in _by_process(samples) if len(life) > 1]
    if len(peaks) < 6:
        return Verdict(name, True, f"not judged: {len(peaks)} lives")
    early, late = np.median(peaks[: len(peaks) // 2]), np.median(peaks[len(peaks) // 2 :])
    figures = f"{len(peaks)} lives, most held at first {early:.0f} MiB, later {late:.0f} MiB (medians)"
    return Verdict(name, bool(late <= 1.1 * early), figures)


def _by_process(samples: Iterable[Sample]) -> list[list[Sample]]:
    lives: dict[int, list[Sample]] = defaultdict(list)
    for each in samples:
        lives[each.pid].append(each)
    return sorted(lives.values(), key=lambda life: life[0].at)
