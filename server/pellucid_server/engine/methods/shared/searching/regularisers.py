"""What an input is charged for beside its objective: its size, its roughness, its fine detail. Lower is smoother.

Source: Mahendran and Vedaldi, "Visualizing Deep Convolutional Neural Networks Using Natural Pre-Images", IJCV 2016
(total variation); Yosinski et al., "Understanding Neural Networks Through Deep Visualization", 2015 (blur).
"""

import torch
from torch.nn import functional

_CORNER = 1e-8
"""Added to squared differences, so that a flat picture has a gradient."""

_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)


def total_variation(pictures: torch.Tensor) -> torch.Tensor:
    """Return the mean length of the step to the right and down, (rows,), of pictures (rows, channels, height, width).

    Steps over the edge do not count.
    """
    down = pictures.diff(dim=2)[..., :-1]
    right = pictures.diff(dim=3)[..., :-1, :]
    if not down.numel():
        return pictures.diff(dim=2).abs().flatten(1).sum(1) + pictures.diff(dim=3).abs().flatten(1).sum(1)
    lengths: torch.Tensor = (down**2 + right**2 + _CORNER).sqrt()
    return lengths.flatten(1).mean(1)


def detail(pictures: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference from the blurred picture, (rows,): by a binomial window of 5 by 5 pixels."""
    channels = pictures.shape[1]
    line = torch.tensor(_BLUR, dtype=pictures.dtype) / sum(_BLUR)
    window = torch.outer(line, line).expand(channels, 1, 5, 5)
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    blurred = functional.conv2d(padded, window, groups=channels)
    return ((pictures - blurred) ** 2).flatten(1).mean(1)


def size(values: torch.Tensor) -> torch.Tensor:
    """Return the mean square of each row's elements, (rows,)."""
    return (values**2).flatten(1).mean(1)
