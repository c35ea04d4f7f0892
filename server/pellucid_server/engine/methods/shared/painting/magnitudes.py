"""The magnitudes that the frequencies of natural pictures have, which phases are then sought for."""

import functools

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeSet
from pellucid_server.engine.methods.shared.painting.painting import Canvas
from pellucid_server.engine.methods.shared.painting.parameterisations import Colours

_ROWS = 32


def probe_magnitude(
    handle: Handle, probe: ProbeSet, canvas: Canvas, colours: Colours, most: int
) -> npt.NDArray[np.float32]:
    """Return the mean magnitude of each frequency of a probe's pictures, (channels, height, width // 2 + 1).

    They are taken where pictures are painted: before colours are mixed, and before the sigmoid. `most` is how many
    rows are looked at, at most.
    """
    count, done, total = min(probe.count, most), 0, np.zeros(())
    for batch in probe.batches(_ROWS):
        rows = np.asarray(batch.rows[canvas.name][: count - done], np.float32)
        total = total + handle.beside(
            functools.partial(_magnitudes, rows, canvas, colours), byte_count=16 * rows.nbytes
        )
        done += len(rows)
        if done >= count:
            break
    return np.asarray(total / done, np.float32)


def _magnitudes(rows: npt.NDArray[np.float32], canvas: Canvas, colours: Colours) -> npt.NDArray[np.float64]:
    """Return the sum over rows of the magnitude of each frequency, in float64."""
    levels = torch.from_numpy((rows * canvas.deviation + canvas.mean) / 255)
    pictures = colours.pictures(levels)
    centred = pictures - pictures.mean(dim=(1, 2, 3), keepdim=True)
    found: npt.NDArray[np.float64] = torch.fft.rfft2(centred).abs().double().sum(0).numpy()
    return found
