"""Pictures opened and written with Pillow: only imported where a caller hands over or asks for one."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pellucid.tensors import Array

# What PNG holds without loss; other modes (CMYK, YCbCr, LAB, HSV) are made RGB.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class PictureError(ValueError):
    """A picture that cannot be encoded; the message goes on from its name."""


def encode(picture: Any) -> bytes:
    """Encode a PIL image, turned upright, or pixels (height, width[, channels]), uint8, as PNG without loss.

    Raises
    ------
    PictureError
        The image's mode cannot be a picture's, or its file is damaged, gone or closed.
    """
    if getattr(picture, "mode", "") == "F":
        raise PictureError("has the mode F, whose range is not known; convert it to RGB or L first")
    try:
        return _encoded(picture)
    except (OSError, SyntaxError, ValueError, AttributeError) as error:
        # Pillow reads a file when its pixels are first needed, and fails in these ways.
        raise PictureError("cannot be read as a picture; its file may be damaged, gone or closed") from error


def _encoded(picture: Any) -> bytes:
    image = Image.fromarray(_drawable(picture)) if isinstance(picture, np.ndarray) else ImageOps.exif_transpose(picture)
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    # The lowest level is ten times faster than the default, and not much larger for photographs.
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def open_picture(source: Any) -> Image.Image:
    """Open a picture as the server sees it: upright, on white where it is transparent, as RGB.

    Parameters
    ----------
    source
        A file's path, an encoded picture, a PIL image, or pixels (height, width[, channels]), uint8.
    """
    if isinstance(source, np.ndarray):
        image = Image.fromarray(_drawable(source))
    elif isinstance(source, str | Path):
        image = Image.open(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        image = Image.open(io.BytesIO(source))
    else:
        image = source
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _drawable(pixels: Array) -> Array:
    """Return pixels without the channel axis that Pillow does not take for grey."""
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
