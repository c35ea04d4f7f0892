"""Pictures of attributions: heat maps over the caller's picture, and bars of columns. Needs `pellucid[plot]`."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageColor

from pellucid.pictures import open_picture
from pellucid.results import Attribution, Box, InputAttribution
from pellucid.tensors import Array

FloatArray = npt.NDArray[np.floating[Any]]

_PERCENTILE = 99.0
_LONGEST_SIDE = 1600
_MOST_BARS = 15
RED = "#d01c1f"
"""What speaks for the target, or makes its score larger."""

BLUE = "#1f5fd0"
"""What speaks against it."""

# How strongly the picture shows below the map: grey and light, so that only the map has colour.
_GREY_SHARE, _LIGHT_SHARE = 0.75, 0.25
_MOST_OPACITY = 245
_FIGURE_WIDTH = 9.0


def attribution_figure(attribution: Attribution, *, picture: Any = None, smooth: float = 0.0) -> Figure:
    """Draw every input that can be drawn, one below the other, and a caption.

    Parameters
    ----------
    picture
        Drawn over in place of the picture that was sent: a file, an encoded picture, a PIL image or pixels.
    smooth
        As for `overlay_image`.

    Raises
    ------
    ValueError
        No input is a picture, a table or an array with two or three axes.
    """
    drawable = {
        name: each for name, each in attribution.inputs.items() if each.columns or each.scores.ndim in (1, 2, 3)
    }
    if not drawable:
        raise ValueError("No input of the attribution is a picture, a table or an array of one to three axes.")
    sources = {name: attribution.sources.get(name) for name in drawable}
    maps = {name: each for name, each in drawable.items() if not each.columns and each.scores.ndim > 1}
    sources |= {name: _opened(sources[name] if picture is None else picture) for name in maps}
    heights = [
        _map_height(each, sources[name]) if name in maps else _table_height(each) for name, each in drawable.items()
    ]
    scale = _common_scale(maps.values(), smooth=smooth)
    figure = Figure(figsize=(_FIGURE_WIDTH, sum(heights) + 0.35), layout="constrained")
    parts = figure.subfigures(len(drawable), 1, height_ratios=heights, squeeze=False)
    for part, (name, each) in zip(parts[:, 0], drawable.items(), strict=True):
        if name in maps:
            _draw_map(part, each, sources[name], smooth=smooth, scale=scale)
        else:
            _draw_bars(part.subplots(), each, sources[name])
    figure.suptitle(caption(attribution), fontsize=11)
    return figure


def caption(attribution: Attribution) -> str:
    """Say in two lines what was explained, how surely the model says so, and how exact the explanation is."""
    probability = attribution.probability
    said = "" if probability is None else f", probability {probability:.1%}"
    model = attribution.receipt.model
    first = f"{literal(attribution.target_name)}{said}"
    facts = [literal(attribution.method), f"{literal(model.name)} version {model.version}"]
    facts.append(f"score {attribution.instance_output_value:.4g}")
    if attribution.approximation_error is not None:
        facts.append(f"completeness gap {attribution.approximation_error:.2%}")
    if attribution.accuracy.standard_error is not None:
        facts.append(f"standard error {attribution.accuracy.standard_error:.2g}")
    if attribution.accuracy.partial:
        facts.append("cut short by the deadline")
    if attribution.accuracy.warnings:
        facts.append(f"warnings: {len(attribution.accuracy.warnings)}")
    return "\n".join([*textwrap.wrap(first, 90), ", ".join(facts)])


def overlay_image(
    scores: Array, box: Box | None = None, picture: Any = None, *, smooth: float = 0.0, scale: float | None = None
) -> Image.Image:
    """Lay a heat map over a picture.

    Red speaks for the target, blue against it; the higher the magnitude, the more opaque, up to `scale`.
    The picture shows in grey below.

    Parameters
    ----------
    scores
        (height, width), or (channels, height, width), which is summed over channels.
    box
        The part of the picture that the scores cover; None for the whole.
    picture
        A file, an encoded picture, a PIL image or pixels; None for none, which leaves the map alone.
    smooth
        Standard deviation in pixels of the map of a Gaussian blur, for the eye only; 0 for none.
    scale
        The magnitude that is painted most opaque, and all above it; None for the map's 99th percentile, so that a
        few extreme elements do not hide the rest.

    Returns
    -------
    Image.Image
        RGB, of the picture's size, made smaller if a side is above 1600 pixels.

    Raises
    ------
    ValueError
        The scores have another number of axes.
    """
    plane = signed_plane(scores, smooth=smooth, scale=scale)
    if picture is None:
        white = Image.new("RGBA", plane.shape[::-1], "white")
        return Image.alpha_composite(white, _coloured(plane)).convert("RGB")
    opened = open_picture(picture)
    shrink = min(1.0, _LONGEST_SIDE / max(opened.size))
    size = (max(1, round(opened.width * shrink)), max(1, round(opened.height * shrink)))
    grey = np.asarray(opened.resize(size, Image.Resampling.LANCZOS).convert("L"), np.float32)
    base = Image.fromarray((grey * _GREY_SHARE + 255 * _LIGHT_SHARE).astype(np.uint8)).convert("RGBA")
    base.alpha_composite(_placed(_coloured(plane), box, opened.size, size))
    return base.convert("RGB")


def save_overlay(
    attribution: Attribution,
    path: str | Path,
    *,
    input_name: str | None = None,
    picture: Any = None,
    smooth: float = 0.0,
) -> Path:
    """Write the overlay of a picture input as a file of the kind that its ending names; return its path.

    Overlays of the inputs of one attribution have the same scale.

    Parameters
    ----------
    input_name
        Which input; None for the first that is a picture.
    picture, smooth
        As for `overlay_image`; None for the picture that was sent.

    Raises
    ------
    ValueError
        There is no such input.
    """
    maps = {name: each for name, each in attribution.inputs.items() if not each.columns and each.scores.ndim in (2, 3)}
    if input_name not in (None, *maps) or not maps:
        raise ValueError(f"There is no picture input {input_name or ''!r}; there are: {', '.join(maps) or 'none'}.")
    name = input_name or next(iter(maps))
    source = attribution.sources.get(name) if picture is None else picture
    scale = _common_scale(maps.values(), smooth=smooth)
    overlay_image(maps[name].scores, maps[name].box, source, smooth=smooth, scale=scale).save(path)
    return Path(path)


def signed_plane(scores: Array, *, smooth: float = 0.0, scale: float | None = None) -> npt.NDArray[np.float32]:
    """Return scores as (height, width) in [-1, 1], where 1 is a magnitude of `scale` or more.

    Parameters
    ----------
    smooth, scale
        As for `overlay_image`.

    Raises
    ------
    ValueError
        The scores are neither (height, width) nor (channels, height, width).
    """
    plane = _plane(scores, smooth)
    most = _scale(plane) if scale is None else scale
    return np.clip(plane / most, -1, 1) if most else plane


def _plane(scores: Array, smooth: float) -> npt.NDArray[np.float32]:
    """Return scores as (height, width), summed over channels and blurred."""
    if scores.ndim not in (2, 3):
        raise ValueError(f"scores have the shape {scores.shape}; they must be ([channels,] height, width).")
    plane = scores.astype(np.float32)
    if plane.ndim == 3:
        plane = plane.sum(axis=0)
    if smooth > 0:
        plane = _blurred(_blurred(plane, smooth).T, smooth).T
    return plane


def _scale(plane: npt.NDArray[np.float32]) -> float:
    """Return the 99th percentile of the magnitude, or the highest where hardly any element has one."""
    magnitude = np.abs(plane)
    return float(np.percentile(magnitude, _PERCENTILE)) or float(magnitude.max())


def _common_scale(maps: Iterable[InputAttribution], *, smooth: float) -> float:
    """Return the highest of the maps' scales, so that equal colours mean equal scores; 0 for no map."""
    return max((_scale(_plane(each.scores, smooth)) for each in maps), default=0.0)


def _blurred(plane: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """Blur along the last axis by a Gaussian of `sigma` elements, with the edges repeated."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(plane, ((0, 0), (reach, reach)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)
    return np.asarray(windows @ (weights / weights.sum()), np.float32)


def _coloured(plane: npt.NDArray[np.float32]) -> Image.Image:
    """Return the map in colour, more opaque where its magnitude is higher."""
    pixels = np.empty((*plane.shape, 4), np.uint8)
    pixels[..., :3] = np.where(plane[..., None] > 0, ImageColor.getrgb(RED), ImageColor.getrgb(BLUE))
    pixels[..., 3] = np.round(_MOST_OPACITY * np.abs(plane))
    return Image.fromarray(pixels)


def _placed(coloured: Image.Image, box: Box | None, picture: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Return a transparent layer of `size` with the map where the box is in the picture of that size."""
    left, top, right, bottom = (0.0, 0.0, *picture) if box is None else (box.left, box.top, box.right, box.bottom)
    wide, tall = size[0] / picture[0], size[1] / picture[1]
    corner = (round(left * wide), round(top * tall))
    within = (max(1, round(right * wide) - corner[0]), max(1, round(bottom * tall) - corner[1]))
    layer = Image.new("RGBA", size, (255, 255, 255, 0))
    layer.paste(coloured.resize(within, Image.Resampling.BILINEAR), corner)
    return layer


def _opened(source: Any) -> Image.Image | None:
    return None if source is None else open_picture(source)


def _map_height(each: InputAttribution, picture: Image.Image | None) -> float:
    """Return what a map and the picture beside it need, in inches."""
    height, width = each.scores.shape[-2:] if picture is None else (picture.height, picture.width)
    return 0.4 + min(8.0, _FIGURE_WIDTH / 2 * float(height / width))


def _draw_map(part: Any, each: InputAttribution, picture: Image.Image | None, *, smooth: float, scale: float) -> None:
    """Draw the map over the picture, and beside it the picture; a dotted frame shows what the model saw of it."""
    overlay = overlay_image(each.scores, each.box, picture, smooth=smooth, scale=scale)
    if picture is None:
        axes = part.subplots()
        axes.imshow(overlay)
    else:
        left, axes = part.subplots(1, 2)
        extent = (0, picture.width, picture.height, 0)
        small = picture.copy()
        small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        left.imshow(small, extent=extent)
        _bare(left, "what was sent")
        axes.imshow(overlay, extent=extent)
        if each.box is not None:
            box = each.box
            size = (box.right - box.left, box.bottom - box.top)
            axes.add_patch(Rectangle((box.left, box.top), *size, fill=False, linestyle=":", linewidth=0.8, color="0.3"))
    signed = bool((signed_plane(each.scores) < 0).any())
    _bare(axes, "what speaks for it (red) and against it (blue)" if signed else "what it depends on (red)")


def _bare(axes: Axes, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def _table_height(each: InputAttribution) -> float:
    return 0.8 + 0.26 * min(each.scores.size, _MOST_BARS)


def _draw_bars(axes: Axes, each: InputAttribution, row: Any) -> None:
    """Draw the columns with the highest magnitudes, highest on top, with the row's values."""
    scores = each.scores.astype(np.float64)
    names = each.columns or tuple(f"element {index}" for index in range(scores.size))
    order = np.argsort(-np.abs(scores), kind="stable")[:_MOST_BARS]
    labels = [_bar_label(names[index], row) for index in order]
    places = np.arange(len(order))
    bars = axes.barh(places, scores[order], color=[RED if scores[index] > 0 else BLUE for index in order])
    axes.bar_label(bars, [f"{scores[index]:+.3g}" for index in order], padding=3, fontsize=8)
    axes.set_yticks(places, labels, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    rest = scores.size - len(order)
    others = f"; the other {rest} sum to {np.delete(scores, order).sum():+.3g}" if rest else ""
    axes.set_xlabel(f"contribution to the score{others}", fontsize=9)


def _bar_label(name: str, row: Any) -> str:
    if not isinstance(row, dict) or name not in row:
        return literal(name)
    value = row[name]
    shown = f"{value:.4g}" if isinstance(value, int | float | np.number) else str(value)
    return literal(f"{name} = {shown}")


def literal(text: str) -> str:
    """Keep matplotlib from reading dollars as mathematics."""
    return text.replace("$", r"\$")
