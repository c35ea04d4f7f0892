"""Places in a network, as callers name them: in parts, or as one text such as "layer4[3,5-9]@7"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pellucid.checks import checked_text, shortened
from pellucid.errors import invalid
from pellucid.v1 import ablation_pb2

Part = Literal["heads", "branch"]
Each = Literal["unit", "position", "element"]

_PARTS = {"heads": ablation_pb2.SITE_PART_HEADS, "branch": ablation_pb2.SITE_PART_BRANCH}
_EACH = {"unit": ablation_pb2.EACH_UNIT, "position": ablation_pb2.EACH_POSITION, "element": ablation_pb2.EACH_ELEMENT}

_MOST_INDEX = (1 << 63) - 1
_MOST_INDICES = 1 << 16
"""What a server takes at most by default; a range of more would only fill the memory."""

_SYNTAX = 'a site is LAYER, then :heads or :branch, [UNITS] and @POSITIONS where it has them, as in "layer4[3,5-9]@7"'
_NUMBERS = r"\*?[0-9, -]*"
_TEXT = re.compile(rf"(?P<name>[^\[\]@]+)(\[(?P<units>{_NUMBERS})\])?(@(?P<positions>{_NUMBERS}))?")
_COLUMN = re.compile(r"input:.+\[.+\]", re.DOTALL)
"""A column of a table, as studies of data sets change it; its name may have any characters."""
_PART = re.compile(r"(?P<layer>.+):(?P<part>[a-z]+)")
_RANGE = re.compile(r" *([0-9]{1,19})(?:-([0-9]{1,19}))? *")


@dataclass(frozen=True, slots=True, repr=False)
class Site:
    """A place in the network, or several.

    Its text has the syntax of the sites' names in tables: `str(site)` is what `Site.parse` reads.

    Attributes
    ----------
    layer
        The layer's name, as `Client.model` lists it, or a pattern of names: `*` is any characters, `?` is one.
    units
        Indices of channels, neurons, features or heads, from 0: a whole number or a list of them. None for all.
    positions
        Indices of places on the axes that do not count units, in row-major order; None for all.
    part
        "heads" for the attention heads of the layer, whose units they are; "branch" for the residual branch, which
        is what the layer adds to its input. None for the layer's value.
    each
        "unit", "position" or "element" to change each of these by itself; None to change all of them together.

    Raises
    ------
    InvalidRequestError
        A value is of a type, or a word, that there is not.
    """

    layer: str
    units: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    part: Part | None = None
    each: Each | None = None

    def __post_init__(self) -> None:
        if not checked_text(self.layer, "layer"):
            raise invalid("layer", "is empty; Client.model lists the layers of a model")
        # Frozen, but lists become tuples: a site can be hashed, and does not change.
        object.__setattr__(self, "units", _indices(self.units, "units"))
        object.__setattr__(self, "positions", _indices(self.positions, "positions"))
        _check_word(self.part, _PARTS, "part")
        _check_word(self.each, _EACH, "each")

    @classmethod
    def parse(cls, text: str, where: str = "site") -> "Site":
        """Read a site off its text.

        Parameters
        ----------
        text
            For example "layer4", "layer4[3,5-9]", "layer4@7", "attn:heads[2]", "block.1:branch". A star among the
            units or positions means each of them by itself: "layer4[*]", "layer4[*3,5]", "tokens@*". A column of a
            table is "input:features[age]"; methods that run on a data set change it.
        where
            What the site is called in messages.

        Raises
        ------
        InvalidRequestError
            It is no site.
        """
        if _COLUMN.fullmatch(checked_text(text, where)):
            return cls(text)
        found = _TEXT.fullmatch(text)
        if found is None or found["name"] != found["name"].strip():
            raise invalid(where, f"is {shortened(text)}; {_SYNTAX}")
        layer, part = found["name"], None
        named = _PART.fullmatch(layer)
        if named is not None:
            layer, part = named["layer"], named["part"]
            if part not in _PARTS:
                raise invalid(where, f"is {shortened(text)}, of the part {part!r}; the parts are heads and branch")
        each_unit, units = _parsed(found["units"], "units", text, where)
        each_position, positions = _parsed(found["positions"], "positions", text, where)
        each = {(True, True): "element", (True, False): "unit", (False, True): "position"}.get(
            (each_unit, each_position)
        )
        return cls(layer, units, positions, part, each)  # type: ignore[arg-type]  # both were looked up

    @property
    def message(self) -> ablation_pb2.Site:
        """The site in the schema's terms."""
        return ablation_pb2.Site(
            layer=self.layer,
            part=_PARTS[self.part] if self.part else ablation_pb2.SITE_PART_UNSPECIFIED,
            units=self.units or (),
            positions=self.positions or (),
            each=_EACH[self.each] if self.each else ablation_pb2.EACH_UNSPECIFIED,
        )

    def __str__(self) -> str:
        part = f":{self.part}" if self.part else ""
        units = _written(self.units, each=self.each in ("unit", "element"))
        positions = _written(self.positions, each=self.each in ("position", "element"))
        return f"{self.layer}{part}{units and f'[{units}]'}{positions and f'@{positions}'}"

    def __repr__(self) -> str:
        return f"<Site {self}>"


SiteLike = Site | str
"""A site, or its text."""

Sites = SiteLike | Sequence[SiteLike]
"""One site or several."""


def read_sites(given: Any, where: str) -> tuple[Site, ...]:
    """Read one site or a list of them; texts are parsed.

    Raises
    ------
    InvalidRequestError
        One is no site, or there is none.
    """
    if isinstance(given, Site | str):
        return (_site(given, where),)
    if not isinstance(given, list | tuple):
        raise invalid(where, f"is {shortened(given)}; it must be a Site, its text, or a list of those")
    if not given:
        raise invalid(where, "is empty; name a layer, as Client.model lists it")
    return tuple(_site(each, f"{where}[{number}]") for number, each in enumerate(given))


def read_site(message: ablation_pb2.Site) -> Site:
    """Read a site off a reply."""
    words: dict[str, Any] = {
        "part": {number: word for word, number in _PARTS.items()}.get(message.part),
        "each": {number: word for word, number in _EACH.items()}.get(message.each),
    }
    return Site(message.layer, tuple(message.units) or None, tuple(message.positions) or None, **words)


def _site(given: Any, where: str) -> Site:
    if isinstance(given, Site):
        return given
    if isinstance(given, str):
        return Site.parse(given, where)
    raise invalid(where, f"is {shortened(given)}; it must be a Site or its text")


def _indices(given: Any, where: str) -> tuple[int, ...] | None:
    """Return indices as a tuple; None for all."""
    if given is None:
        return None
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    listed = list(given) if isinstance(given, list | tuple | range) else [given]
    for index in listed:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index <= _MOST_INDEX:
            raise invalid(where, f"has {shortened(index)}; each must be an index, a whole number from 0")
    if not listed:
        raise invalid(where, "is empty; leave it out for all of them")
    found = tuple(int(index) for index in listed)
    if len(set(found)) < len(found):
        twice = next(index for place, index in enumerate(found) if index in found[:place])
        raise invalid(where, f"names {twice} twice; name each once")
    return found


def _check_word(word: Any, words: dict[str, Any], where: str) -> None:
    if word is not None and (not isinstance(word, str) or word not in words):
        raise invalid(where, f"is {shortened(word)}; it must be one of {', '.join(map(repr, words))}, or None")


def _parsed(written: str | None, what: str, text: str, where: str) -> tuple[bool, tuple[int, ...] | None]:
    """Return whether each index is meant by itself, and the indices; None for all."""
    if written is None:
        return False, None
    each, rest = written.startswith("*"), written.removeprefix("*")
    if each and not rest:
        return True, None
    indices: list[int] = []
    for run in rest.split(","):
        found = _RANGE.fullmatch(run)
        first = int(found[1]) if found else -1
        last = int(found[2] or first) if found else -2
        if not 0 <= first <= last <= _MOST_INDEX:
            raise invalid(where, f"is {shortened(text)}, and {run!r} is none of its {what}; {_SYNTAX}")
        if len(indices) + last - first >= _MOST_INDICES:
            raise invalid(where, f"is {shortened(text)}, of more than {_MOST_INDICES:,} {what}; name fewer")
        indices.extend(range(first, last + 1))
    return each, tuple(indices)


def _written(indices: tuple[int, ...] | None, *, each: bool) -> str:
    """Write indices, runs of them as "3-7"."""
    runs: list[list[int]] = []
    for index in indices or ():
        if runs and index == runs[-1][-1] + 1:
            runs[-1][-1:] = [index] if len(runs[-1]) > 1 else [runs[-1][0], index]
        else:
            runs.append([index])
    return ("*" if each else "") + ",".join("-".join(map(str, run)) for run in runs)
