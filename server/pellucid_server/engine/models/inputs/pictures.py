"""Pictures, encoded or as pixels, become standardized channels at model resolution.

A picture is turned as its EXIF orientation says, laid on white where it is transparent (as viewers
show it), and taken as RGB or grey; colour profiles are not applied. The crop is then resampled
straight out of it, in one step, with the filter that would have shrunk the whole picture until its
short side is `resize`: the same pixels as resizing first and cropping then, but for the rounding of
sizes, and the box that the crop covers is exact.
"""

import functools
import io
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.models.files.manifest import ImageManifest, InputManifest
from pellucid_server.engine.models.inputs.preprocessing import (
    Prepared,
    RowShape,
    UnfitManifestError,
    checked_rows,
    shape_text,
    unexpected,
)
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import ImageInfo, InputInfo
from pellucid_server.vocabulary.requests import Array, Input, PicturesInput, TensorInput
from pellucid_server.vocabulary.results import Box

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MOST_PIXELS = 50_000_000
"""Pixels in a picture, at most; looked at before it is decoded, as a small file can hold a vast picture."""
MOST_PIXELS_TOGETHER = 200_000_000
"""Pixels in all pictures of one input of a request; decoding so many takes some seconds."""

Run = Callable[[Callable[[], Any]], Any]
"""Calls a function and returns what it returns."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
)
"""What Pillow raises on files that are damaged, by the reading of its decoders."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class PicturePreprocessor:
    """Decodes, crops and standardizes pictures: rows are (channels, height, width), float32."""

    def __init__(self, manifest: InputManifest, dtype: np.dtype[np.generic], shape: RowShape) -> None:
        image = manifest.image
        if image is None:
            raise UnfitManifestError(f"input {manifest.name!r} has no picture preprocessing")
        row = (len(image.mean), *image.crop)
        if dtype != np.float32 or len(shape) != 3 or any(a not in (None, b) for a, b in zip(shape, row, strict=True)):
            raise UnfitManifestError(
                f"input {manifest.name!r} takes rows of {dtype.name} {shape_text(shape)}, and its pictures are made "
                f"float32 {shape_text(row)}, channels first; set crop, mean and modality to fit the model"
            )
        self._image = image
        self._row = row
        self._mode = _MODES[row[0]]
        self._table = _standardized(image)
        self.columns: tuple[str, ...] = ()
        self.info = InputInfo(manifest.name, "image", "float32", row, image=_info(image))
        widths = (255 / np.array(image.standard_deviation)).astype(np.float32)
        self.feature = Feature("image", True, ranges=widths[:, None, None])

    def prepare(self, given: Input, field: str, *, run: Run = lambda step: step()) -> Prepared:
        """Prepare encoded pictures, UINT8 pixels (rows, height, width, channels), or rows that are ready.

        `run` is given each step that may take long, a picture at a time, and returns what the step returns.
        """
        if isinstance(given, PicturesInput):
            return self._encoded(given.encoded, f"{field}.pictures", run)
        if not isinstance(given, TensorInput):
            raise unexpected(given, field, "encoded pictures or a tensor")
        if given.array.dtype == np.uint8:
            return self._pixels(given.array, field, run)
        if given.array.dtype.kind != "f":
            raise InvalidRequestError(
                f"{field}.tensor is of type {given.array.dtype.name}; pixels must be uint8, and pictures that are "
                "preprocessed already float32.",
                field=f"{field}.tensor.data_type",
            )
        rows = checked_rows(given.array, np.dtype(np.float32), self._row, f"{field}.tensor")
        return Prepared(rows, (None,) * len(rows))

    def _encoded(self, encoded: tuple[bytes, ...], field: str, run: Run) -> Prepared:
        if not encoded:
            raise InvalidRequestError(f"{field} has no picture; it must have at least one.", field=f"{field}.encoded")
        run(functools.partial(_require_pixels_together, encoded, field))
        rows = np.empty((len(encoded), *self._row), np.float32)

        def step(index: int) -> Box:
            return self._row_of(_decoded(encoded[index], f"{field}.encoded[{index}]"), rows[index])

        return Prepared(rows, tuple(run(functools.partial(step, index)) for index in range(len(encoded))))

    def _pixels(self, array: Array, field: str, run: Run) -> Prepared:
        if array.ndim != 4 or not array.size or array.shape[3] not in _MODES:
            raise InvalidRequestError(
                f"{field}.tensor is uint8 of the shape {shape_text(array.shape)}; pixels must be (rows, height, width, "
                "channels), with 1 channel (grey), 3 (RGB) or 4 (RGBA), and nothing of length 0.",
                field=f"{field}.tensor.shape",
            )
        _, height, width, channels = array.shape
        _require_pixels(width, height, f"{field}.tensor")
        rows = np.empty((len(array), *self._row), np.float32)

        def step(index: int) -> Box:
            return self._row_of(_from_pixels(array[index], channels), rows[index])

        return Prepared(rows, tuple(run(functools.partial(step, index)) for index in range(len(array))))

    def _row_of(self, picture: Image.Image, row: npt.NDArray[np.float32]) -> Box:
        """Fill a row, (channels, height, width), with the picture's crop; return the crop's box."""
        image = self._image
        box = crop_box(picture.width, picture.height, image.resize, image.crop)
        height, width = image.crop
        edges = (box.left, box.top, box.right, box.bottom)
        small = _plain(picture, self._mode).resize((width, height), _FILTERS[image.interpolation], box=edges)
        pixels = np.asarray(small).reshape(height, width, -1)
        for channel, values in enumerate(self._table):
            np.take(values, pixels[:, :, channel], out=row[channel])
        return box


def crop_box(width: int, height: int, resize: int, crop: tuple[int, int]) -> Box:
    """Return the part of a picture that the centre `crop` (height, width) covers once its short side is `resize`."""
    scale = min(width, height) / resize
    tall, wide = crop[0] * scale, crop[1] * scale
    left, top = (width - wide) / 2, (height - tall) / 2
    return Box(left, top, left + wide, top + tall, width, height)


def seen_pixels(row: Array, info: InputInfo) -> npt.NDArray[np.uint8]:
    """Return the pixels, (height, width, 3), that a row (channels, height, width) of an input of pictures was made of.

    They are exact where the row is one that `prepare` made of a picture. Grey is repeated.
    """
    image = info.image
    if image is None:
        raise ValueError(f"the input {info.name!r} is none of pictures")
    mean = np.array(image.mean, np.float32)[:, None, None]
    deviation = np.array(image.standard_deviation, np.float32)[:, None, None]
    levels = np.rint(row.astype(np.float32) * deviation + mean).clip(0, 255).astype(np.uint8)
    colours = np.broadcast_to(levels, (3, *levels.shape[1:]))
    return np.ascontiguousarray(np.moveaxis(colours, 0, 2))


def _require_pixels_together(encoded: Sequence[bytes], field: str) -> None:
    """Refuse pictures that have too many pixels each or together, by what their headers say."""
    total = 0
    for index, picture in enumerate(encoded):
        opened = _opened(picture, f"{field}.encoded[{index}]")
        total += opened.width * opened.height
    if total > MOST_PIXELS_TOGETHER:
        raise InvalidRequestError(
            f"{field} has {len(encoded)} pictures with {total:,} pixels in all; the pictures of an input may have "
            f"{MOST_PIXELS_TOGETHER:,} together; make them smaller first, or send fewer at once.",
            field=f"{field}.encoded",
        )


def _decoded(encoded: bytes, field: str) -> Image.Image:
    """Decode a picture and turn it upright."""
    picture = _opened(encoded, field)
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except DAMAGE as error:
        raise InvalidRequestError(
            f"{field} is a damaged {picture.format} file, {len(encoded)} bytes; send the whole file as it was written.",
            field=field,
        ) from error


def _opened(encoded: bytes, field: str) -> Image.Image:
    """Read a picture's header, and no more of it."""
    try:
        picture = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidRequestError(f"{field} has too many pixels; {_MOST}.", field=field) from error
    except DAMAGE as error:
        raise InvalidRequestError(
            f"{field}, {len(encoded)} bytes, is not a picture that can be read; it must be a whole PNG, JPEG, WebP, "
            "BMP or GIF file.",
            field=field,
        ) from error
    _require_pixels(picture.width, picture.height, field)
    return picture


_MOST = f"a picture may have {MOST_PIXELS:,}, such as 8,000 by 6,000; make it smaller first"


def _require_pixels(width: int, height: int, field: str) -> None:
    if width * height > MOST_PIXELS:
        raise InvalidRequestError(f"{field} has {width} by {height} pixels, {width * height:,}; {_MOST}.", field=field)


def _from_pixels(pixels: Array, channels: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """Return a picture without transparency, as RGB or grey with 8 bits a channel."""
    if picture.mode.startswith("I"):
        # Pillow would cut 16-bit grey off at 255.
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(white, layer)
    return picture if picture.mode == mode else picture.convert(mode)


def _standardized(image: ImageManifest) -> npt.NDArray[np.float32]:
    """Return each channel's standardized value of each of the 256 levels, (channels, 256)."""
    levels = np.arange(256, dtype=np.float32)
    mean = np.array(image.mean, np.float32)[:, None]
    deviation = np.array(image.standard_deviation, np.float32)[:, None]
    return np.asarray((levels - mean) / deviation, np.float32)


def _info(image: ImageManifest) -> ImageInfo:
    return ImageInfo(
        resize=image.resize,
        crop_height=image.crop[0],
        crop_width=image.crop[1],
        interpolation=image.interpolation,
        mean=image.mean,
        standard_deviation=image.standard_deviation,
    )
