"""Pictures that methods draw: feature maps, sheets of crops, scatter plots. Colours are 8-bit RGB.

Source of the colour map: van der Walt and Smith's "viridis", 2015, in the public domain, straight lines between ten
of its colours.
"""

import struct

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pellucid_server.engine.asking.duration import takes
from pellucid_server.engine.asking.probes import Pixels
from pellucid_server.engine.methods.shared.pngs import encoded
from pellucid_server.vocabulary.findings import Picture

Floats = npt.NDArray[np.float64]

COLOUR_MAPS = {
    "viridis": (
        (68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
    ),
    "grey": ((0, 0, 0), (255, 255, 255)),
}  # fmt: skip

_SIZE = struct.Struct(">II")
_SIZE_AT = 16

_GROUND = 255
_INK = (40, 40, 40)
_GAP = 2
_MARGIN = 12
_LINE = 14
_MOST_LEGEND = 24
PALETTE = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip


def png(pixels: Pixels) -> bytes:
    """Encode a picture, (height, width, 3)."""
    return encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def picture(data: bytes, text: str) -> Picture:
    """Return a PNG with its size; `text` says what it shows."""
    width, height = _SIZE.unpack_from(data, _SIZE_AT)
    return Picture(data, width, height, text)


def coloured(values: Floats, colours: str) -> Pixels:
    """Return the colours of values in [0, 1], (...,), as (..., 3)."""
    anchors = np.array(COLOUR_MAPS[colours], np.float64)
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, at, channel) for channel in anchors.T], -1).round().astype(np.uint8)


def spread(values: npt.NDArray[np.generic]) -> Floats:
    """Scale each of some maps, (n, height, width), to [0, 1] by its own minimum and maximum; a constant map is 0."""
    wide = values.astype(np.float64)
    low, high = wide.min((1, 2), keepdims=True), wide.max((1, 2), keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return np.asarray((wide - low) / span)


def grid(tiles: list[Pixels], columns: int) -> Pixels:
    """Put tiles of one size, (height, width, 3), beside and below one another, with gaps."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _GROUND, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * (height + _GAP), number % columns * (width + _GAP)
        sheet[y : y + height, x : x + width] = tile
    return sheet


@takes(lambda values, *_: 0.005 + 2e-7 * values.size)
def map_grid(values: npt.NDArray[np.generic], colours: str, tile: int) -> bytes:
    """Draw feature maps, (units, height, width), each in its own scale, on small squares of about `tile` pixels."""
    times = max(1, tile // max(values.shape[1:]))
    tiles = [each.repeat(times, 0).repeat(times, 1) for each in coloured(spread(values), colours)]
    return png(grid(tiles, int(np.ceil(np.sqrt(len(tiles))))))


def crop(pixels: Pixels, shape: tuple[int, ...], place: int, side: int) -> Pixels:
    """Cut a square of `side` pixels out of a picture, around a position of a map of `shape` over it.

    The square lies inside the picture, and is smaller where that is. Without a map, (), or with one of a single
    position, it is the whole picture, scaled.
    """
    height, width = pixels.shape[:2]
    if not shape or shape == (1, 1):
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    side = min(side, height, width)
    y, x = divmod(place, shape[1])
    top = round((y + 0.5) / shape[0] * height - side / 2)
    left = round((x + 0.5) / shape[1] * width - side / 2)
    top, left = min(max(top, 0), height - side), min(max(left, 0), width - side)
    return pixels[top : top + side, left : left + side]


def scatter(
    points: Floats, groups: npt.NDArray[np.int64], names: list[str], thumbnails: dict[str, Pixels], side: int
) -> bytes:
    """Draw points, (n, 2), as discs or thumbnails; return a PNG of `side` by `side` pixels.

    Parameters
    ----------
    groups
        The number of each point's name in `names`, which decides its colour, (n,).
    thumbnails
        Small pictures by the point's number, "0", "1", ...
    """
    sheet = Image.new("RGB", (side, side), (_GROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    largest = max((max(each.shape[:2]) for each in thumbnails.values()), default=6)
    margin = _MARGIN + largest // 2
    low = points.min(0)
    span = float((points.max(0) - low).max()) or 1.0
    middle = (span - (points.max(0) - low)) / 2
    at = (points - low + middle) / span * (side - 2 * margin) + margin
    # Upwards is more.
    at[:, 1] = side - at[:, 1]
    for number, ((x, y), group) in enumerate(zip(at.tolist(), groups.tolist(), strict=True)):
        colour = PALETTE[group % len(PALETTE)]
        thumbnail = thumbnails.get(str(number))
        if thumbnail is None:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
            continue
        height, width = thumbnail.shape[:2]
        left, top = round(x - width / 2), round(y - height / 2)
        sheet.paste(Image.fromarray(thumbnail), (left, top))
        draw.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline=colour, width=2)
    _legend(draw, names)
    return encoded(sheet)


def _legend(draw: ImageDraw.ImageDraw, names: list[str]) -> None:
    if len(names) < 2:
        return
    font = ImageFont.load_default()
    shown = [*names[:_MOST_LEGEND], *(["..."] if len(names) > _MOST_LEGEND else [])]
    for number, name in enumerate(shown):
        y = 4 + number * _LINE
        draw.rectangle((4, y + 2, 12, y + 10), fill=PALETTE[number % len(PALETTE)])
        draw.text((16, y), name[:40].encode("latin-1", "replace").decode("latin-1"), fill=_INK, font=font)
