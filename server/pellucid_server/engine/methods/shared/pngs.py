"""PNG files: of pictures that methods draw, and of rows, such that the model makes exactly the same row of the file."""

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pellucid_server.vocabulary.findings import Picture

Pixels = npt.NDArray[np.uint8]


def encoded(image: Image.Image, *, small: bool = False) -> bytes:
    """Encode a picture; as `small` as can be takes three times as long."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=small)
    return file.getvalue()


def row_picture(levels: npt.NDArray[np.generic], text: str, resize: int = 0, *, mirrored: bool = False) -> Picture:
    """Write levels, (channels, height, width) in [0, 255], as a picture that `text` describes.

    The model cuts the middle out of a picture whose short side is its `resize`: around the row there is a margin,
    which repeats its edge, or mirrors it if `mirrored`, and which the model does not look at. Where there can be no
    margin of whole pixels there is none.
    """
    plane = np.moveaxis(levels, 0, -1).astype(np.uint8)
    rims = [max(resize - length, 0) for length in plane.shape[:2]]
    if any(rim % 2 for rim in rims):
        rims = [0, 0]
    margin: Literal["edge", "symmetric"] = "symmetric" if mirrored else "edge"
    padded = np.pad(plane, [(rim // 2, rim // 2) for rim in rims] + [(0, 0)], mode=margin)
    data = encoded(Image.fromarray(np.ascontiguousarray(padded[..., 0] if padded.shape[2] == 1 else padded)))
    said = f" The outermost {max(rims) // 2} pixels are a margin that the model cuts off." if any(rims) else ""
    return Picture(data, padded.shape[1], padded.shape[0], f"{text}{said}")
