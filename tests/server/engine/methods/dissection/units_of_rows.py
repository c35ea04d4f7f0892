"""Units that answer from a formula, and questions about them: what tuning curves are tested against."""

import numpy as np
from pellucid_server.engine.asking.handle import Answer
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.vocabulary.descriptions import ImageInfo, InputInfo
from server.engine.methods.closed_forms import grown

MEAN, DEVIATION = 127.0, 128.0


class Units:
    """Answers captures from functions of the rows, dicts of (rows, *features), by layer; counts rows."""

    def __init__(self, **layers):
        self._layers = layers
        self.rows = 0

    def ask(self, ask, *, progress=None):
        rows = grown(ask.rows)
        self.rows += ask.rows.count
        return Answer({name: np.asarray(self._layers[name](rows)) for name in ask.layers})


def levels(rows, name="image"):
    """Return pictures' levels in [0, 1], float64, of the standardized rows."""
    return (rows[name].astype(np.float64) * DEVIATION + MEAN) / 255


def linear(*kernels):
    """Return a layer of units without positions: sums of a kernel, (channels, height, width), times the levels."""
    stacked = np.stack(kernels)
    return lambda rows: np.einsum("rchw,uchw->ru", levels(rows), stacked)


def picture_question(units, *, channels=3, side=32, width=None, unit_axis=0, **more):
    """Return a question about layers by name, whose shapes are `units` or (units,)."""
    shape = (channels, side, width or side)
    image = ImageInfo(side, side, width or side, "bilinear", (MEAN,) * channels, (DEVIATION,) * channels)
    layers = []
    for name, each in units.items():
        layer = SiteLayer(name, each if isinstance(each, tuple) else (each,), unit_axis)
        layers.append(ProbeLayer(layer, np.arange(layer.units)))
    return ProbeQuestion(
        layers=tuple(layers),
        features={"image": Feature("image", True)},
        inputs={"image": InputInfo("image", "image", "float32", shape, image=image)},
        **more,
    )


def gabor(orientation, frequency, *, side=32, phase=0.0, sigma=None):
    """Return a Gabor without a mean, (side, side), whose squares add up to 1; without sigma, it has no window.

    `orientation` is that of its stripes, in degrees counter-clockwise from horizontal.
    """
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    # The stripes' direction, with y downwards; the wave goes at a right angle to it.
    along = np.array([np.cos(np.deg2rad(orientation)), -np.sin(np.deg2rad(orientation))])
    across = -along[1] * x + along[0] * y
    wave = np.cos(2 * np.pi * frequency * across + np.deg2rad(phase))
    window = 1.0 if sigma is None else np.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernel = wave * window
    kernel = kernel - (kernel.mean() if sigma is None else window * kernel.sum() / np.sum(window))
    return kernel / np.linalg.norm(kernel)


def grey(kernel, channels=3):
    """Return a kernel over channels that are alike."""
    return np.broadcast_to(kernel / channels, (channels, *kernel.shape))
