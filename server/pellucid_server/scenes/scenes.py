"""Scenes: one to three shapes, each in a colour or a texture of two, on a ground of greys; with exact masks.

A row is a function of the seed and its number alone: the first rows of a large set are those of a small one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pellucid_server.scenes.forms import COLORS, GROUNDS, JITTER, SHAPES, TEXTURES, Flags, Pixels, grid

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "texture": tuple(TEXTURES),
    "shape": tuple(SHAPES),
    "position": ("left", "right", "top", "bottom"),
    "ground": tuple(GROUNDS),
}
"""The concepts of each category.

A colour marks the pixels that have it; a texture and a shape those of the shape; a position those of shapes whose
middle is in that third of the picture; a ground all others. Concepts of one category but "position" never overlap.
"""

LEAST_SIZE, MOST_SIZE = 32, 1024
"""Pixels on a side."""

_MOST_SHAPES = 3
_TRIES = 24


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, (size, size, 3), and where its concepts are: (size, size) by category and name.

    `label` is the first shape, which is the largest; `color` and `texture` are its own, the texture "" if it has none.
    """

    picture: Pixels
    masks: Mapping[tuple[str, str], Flags]
    label: str
    color: str
    texture: str
    ground: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A square that a shape is in."""

    top: int
    left: int
    side: int

    def meets(self, other: "_Place") -> bool:
        return (
            max(self.top, other.top) <= min(self.top + self.side, other.top + other.side)
            and max(self.left, other.left) <= min(self.left + self.side, other.left + other.side)
        )  # fmt: skip


def generate(rows: int, seed: int = 0, size: int = 224) -> Iterator[Scene]:
    """Give scenes of `size` by `size` pixels.

    Raises
    ------
    ValueError
        The size is outside [32, 1024], or a number is negative.
    """
    if not LEAST_SIZE <= size <= MOST_SIZE or rows < 0 or seed < 0:
        right = f"the size must be {LEAST_SIZE} to {MOST_SIZE}, and rows and seed at least 0"
        raise ValueError(f"size {size}, rows {rows}, seed {seed}: {right}")
    return (scene(number, seed, size) for number in range(rows))


def scene(number: int, seed: int = 0, size: int = 224) -> Scene:
    """Return the scene of a row's number."""
    source = np.random.default_rng([seed, number])
    ground = _choice(source, tuple(GROUNDS))
    picture = GROUNDS[ground](size, source)
    masks: dict[tuple[str, str], Flags] = {}
    free = np.ones((size, size), np.bool_)
    drawn = [_shape(source, place, picture, masks, free) for place in _places(source, size)]
    masks["ground", ground] = free
    ordered = {key: masks[key] for key in _KEYS if key in masks}
    return Scene(picture, ordered, *drawn[0], ground)


_KEYS = tuple((category, name) for category, names in CATEGORIES.items() for name in names)


def _places(source: np.random.Generator, size: int) -> list[_Place]:
    """Return squares that do not meet, the first the largest."""
    wanted, found = int(source.integers(1, _MOST_SHAPES + 1)), list[_Place]()
    for _ in range(_TRIES):
        side = int(source.integers(size // 4, size // 2 + 1))
        top, left = (int(each) for each in source.integers(0, size - side + 1, 2))
        place = _Place(top, left, side)
        if not any(place.meets(other) for other in found):
            found.append(place)
        if len(found) == wanted:
            break
    return sorted(found, key=lambda place: -place.side)


def _shape(
    source: np.random.Generator, place: _Place, picture: Pixels, masks: dict[tuple[str, str], Flags], free: Flags
) -> tuple[str, str, str]:
    """Draw a shape, and mark it; return its name, its colour and its texture."""
    size = len(picture)
    name, turn = _choice(source, tuple(SHAPES)), int(source.integers(4))
    inside = SHAPES[name](place.side, turn)
    first, second = (tuple(COLORS)[each] for each in source.permutation(len(COLORS))[:2])
    textured = bool(source.integers(2))
    texture = _choice(source, tuple(TEXTURES)) if textured else ""
    period = int(source.integers(max(size // 28, 4), max(size // 12, 6) + 1))
    where = TEXTURES[texture](*grid(place.side, place.side), period) if textured else np.ones_like(inside)
    window = (slice(place.top, place.top + place.side), slice(place.left, place.left + place.side))
    for color, part in ((first, inside & where), (second, inside & ~where)):
        picture[window][part] = _jittered(source, color)
        _mark(masks, ("color", color), part, window, size)
    _mark(masks, ("shape", name), inside, window, size)
    if textured:
        _mark(masks, ("texture", texture), inside, window, size)
    for position in _positions(place, size):
        _mark(masks, ("position", position), inside, window, size)
    free[window] &= ~inside
    return name, first, texture


def _positions(place: _Place, size: int) -> Iterator[str]:
    down, across = 2 * place.top + place.side, 2 * place.left + place.side
    for middle, low, high in ((across, "left", "right"), (down, "top", "bottom")):
        if 3 * middle < 2 * size:
            yield low
        elif 3 * middle > 4 * size:
            yield high


def _mark(
    masks: dict[tuple[str, str], Flags], key: tuple[str, str], part: Flags, window: tuple[slice, slice], size: int
) -> None:
    if part.any():
        masks.setdefault(key, np.zeros((size, size), np.bool_))[window] |= part


def _jittered(source: np.random.Generator, color: str) -> Pixels:
    return (np.array(COLORS[color]) + source.integers(-JITTER, JITTER + 1, 3)).astype(np.uint8)


def _choice(source: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(source.integers(len(names)))]
