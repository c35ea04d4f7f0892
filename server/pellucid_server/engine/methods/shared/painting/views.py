"""Random views of pictures: shifted, scaled and turned, so that what is found does not hang on single pixels.

Source: lucid, `optvis/transform.py`; here in one resampling in place of five. What lies outside a picture is mid-grey.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

_GREY = 0.5
_SCALES = 11
_UPRIGHT = 5
"""As in lucid: 11 scales, and of all whole degrees 0 is drawn five times more."""


@dataclass(frozen=True, slots=True)
class Views:
    """How pictures are looked at.

    Attributes
    ----------
    jitter
        Pixels that a view is shifted by at most, along each axis.
    scale
        Share by which it is enlarged or reduced at most.
    rotate
        Degrees that it is turned by at most.
    """

    jitter: int
    scale: float
    rotate: int

    @property
    def plain(self) -> bool:
        """Whether pictures are seen as they are."""
        return not (self.jitter or self.scale or self.rotate)

    def draw(self, source: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draw one view: (down, right, scale, radians)."""
        down, right = source.integers(-self.jitter, self.jitter + 1, 2)
        scale = 1 + self.scale * (2 * source.integers(_SCALES) / (_SCALES - 1) - 1)
        angle = int(source.integers(-self.rotate, self.rotate + 1 + _UPRIGHT))
        angle = 0 if angle > self.rotate else angle
        return np.array([down, right, scale, math.radians(angle)])


def seen(levels: torch.Tensor, views: npt.NDArray[np.float64]) -> torch.Tensor:
    """Return pictures, (pictures, channels, height, width) in [0, 1], as views show them, (pictures, 4).

    The pixel at p from the middle shows the one at R p / scale + shift. Differentiable.
    """
    height, width = levels.shape[2:]
    down, right, scale, angle = views.T
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    # Of coordinates from -1 to 1 on each axis, horizontal first.
    matrices = np.stack(
        [
            np.stack([cosine, -sine * height / width, 2 * right / width], 1),
            np.stack([sine * width / height, cosine, 2 * down / height], 1),
        ],
        1,
    )
    grid = functional.affine_grid(
        torch.from_numpy(matrices.astype(np.float32)), list(levels.shape), align_corners=False
    )
    return functional.grid_sample(levels - _GREY, grid, padding_mode="zeros", align_corners=False) + _GREY
