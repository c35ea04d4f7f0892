"""The semantic dictionary of a network dissection: which unit stands for which concept, and the other way round."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pellucid.checks import shortened
from pellucid.errors import invalid
from pellucid.receipts import plain

DICTIONARY = "dictionary"
"""The table of units."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one unit stands for. A value that the method does not give, or that the unit has none of, is None.

    Attributes
    ----------
    layer, unit
        The layer's name, and the unit's index in it.
    concept, category
        The concept that the unit's activation covers best, and its category, for example "object".
    iou
        Intersection over union of the unit's active positions and the concept's, in [0, 1].
    iou_chance
        What a unit that is as often active, wherever it may be, would have.
    iou_error
        Standard error of the IoU, or the bound on its error that the method names.
    runner_up, runner_up_iou
        The next concept, and its IoU.
    precision, recall
        The share of active positions that are the concept's, and of the concept's that are active.
    threshold
        The activation above which the unit is active.
    dead
        Whether it never differs from one value.
    detector
        Whether the IoU is high enough to say that the unit detects the concept.
    """

    layer: str
    unit: int
    concept: str | None = None
    category: str | None = None
    iou: float | None = None
    iou_chance: float | None = None
    iou_error: float | None = None
    runner_up: str | None = None
    runner_up_iou: float | None = None
    precision: float | None = None
    recall: float | None = None
    threshold: float | None = None
    dead: bool | None = None
    detector: bool | None = None

    @property
    def detected(self) -> str | None:
        """The concept that the unit detects; None if it is no detector."""
        return self.concept if self.detector and self.concept else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Change:
    """A unit that detects something else in another dictionary; None for nothing."""

    layer: str
    unit: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one dictionary differs from another.

    Attributes
    ----------
    changed
        The units that are in both and detect something else, by layer and unit. Empty for two layers, whose units
        have nothing to do with one another.
    same
        How many units that are in both detect the same, of those that detect something.
    appeared, vanished
        Concepts that only the other dictionary, and only this one, has a detector of, in alphabetical order.
    """

    changed: tuple[Change, ...]
    same: int
    appeared: tuple[str, ...]
    vanished: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers."""
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Units and their concepts, in the order of the answer. Iterating gives the entries."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "Dictionary":
        """Return the dictionary of rows of an answer's table, as they are in its JSON; what they lack is None.

        Raises
        ------
        LookupError
            A row does not name its layer and unit.
        """
        names = {each.name for each in fields(Entry)}
        found = []
        for row in rows:
            lacking = next((name for name in ("layer", "unit") if row.get(name) is None), None)
            if lacking is not None:
                raise LookupError(f"The table {DICTIONARY!r} has no {lacking!r} in a row.")
            # An empty text is no concept.
            given: dict[str, Any] = {name: None if row[name] == "" else row[name] for name in names & row.keys()}
            found.append(Entry(**given))
        return cls(tuple(found))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the order of the answer."""
        return tuple(dict.fromkeys(each.layer for each in self.entries))

    @property
    def detectors(self) -> tuple[Entry, ...]:
        """The units that detect a concept."""
        return tuple(each for each in self.entries if each.detected is not None)

    @property
    def dead(self) -> tuple[Entry, ...]:
        """The units that never differ from one value."""
        return tuple(each for each in self.entries if each.dead)

    def layer(self, name: str) -> "Dictionary":
        """Return the dictionary of one layer.

        Raises
        ------
        LookupError
            There is none of it.
        """
        self._check_layer(name)
        return Dictionary(tuple(each for each in self.entries if each.layer == name))

    def search(self, text: str) -> tuple[Entry, ...]:
        """Return the units whose concept, runner-up or category has a text in it, the highest IoU first.

        Capitals do not matter. Units that are no detectors are among them; see `Entry.detector`.
        """
        wanted = text.casefold()
        named = ((each, (each.concept, each.runner_up, each.category)) for each in self.entries)
        return _best_first([each for each, names in named if any(wanted in (name or "").casefold() for name in names)])

    def units_of(self, concept: str, layer: str | None = None) -> tuple[Entry, ...]:
        """Return the units that detect a concept, the highest IoU first.

        Raises
        ------
        LookupError
            There is no such layer.
        """
        if layer is not None:
            self._check_layer(layer)
        return _best_first([each for each in self.detectors if each.concept == concept and layer in (None, each.layer)])

    def concept_of(self, layer: str, unit: int) -> Entry:
        """Return what a unit stands for.

        Raises
        ------
        LookupError
            There is no such layer or unit.
        """
        self._check_layer(layer)
        found = next((each for each in self.entries if (each.layer, each.unit) == (layer, unit)), None)
        if found is None:
            raise LookupError(f"No unit {shortened(unit)} of {layer!r} was looked at.")
        return found

    def counts(self, layer: str | None = None) -> dict[str, int]:
        """Return how many units detect a concept of each category, the most first.

        Raises
        ------
        LookupError
            There is no such layer.
        """
        return {category: len(units) for category, units in self._by_category(layer)}

    def distinct(self, layer: str | None = None) -> dict[str, int]:
        """Return how many different concepts of each category are detected, in the order of `counts`.

        Raises
        ------
        LookupError
            There is no such layer.
        """
        return {category: len({each.concept for each in units}) for category, units in self._by_category(layer)}

    def compare(self, other: "Dictionary") -> Comparison:
        """Return what is different in another dictionary: of another version, or of another layer.

        Units are matched by layer and number, so compare two layers as `found.layer("a").compare(found.layer("b"))`.
        """
        theirs = {(each.layer, each.unit): each.detected for each in other}
        both = [(each, theirs[each.layer, each.unit]) for each in self if (each.layer, each.unit) in theirs]
        changed = [
            Change(each.layer, each.unit, each.detected, after) for each, after in both if each.detected != after
        ]
        before, after = ({each.detected or "" for each in found.detectors} for found in (self, other))
        return Comparison(
            changed=tuple(sorted(changed, key=lambda each: (each.layer, each.unit))),
            same=sum(each.detected is not None and each.detected == after for each, after in both),
            appeared=tuple(sorted(after - before)),
            vanished=tuple(sorted(before - after)),
        )

    def audit(self, allowed: Collection[str]) -> tuple[Entry, ...]:
        """Return the units that detect a concept which is not in a list of allowed ones, the highest IoU first.

        Raises
        ------
        InvalidRequestError
            The list is one text.
        """
        if isinstance(allowed, str):
            raise invalid("allowed", f"is {shortened(allowed)}; it must be a list of concepts")
        return _best_first([each for each in self.detectors if each.concept not in allowed])

    def _by_category(self, layer: str | None) -> list[tuple[str, list[Entry]]]:
        found: dict[str, list[Entry]] = {}
        for each in self.detectors if layer is None else self.layer(layer).detectors:
            found.setdefault(each.category or "", []).append(each)
        return sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))

    def _check_layer(self, name: str) -> None:
        if name not in self.layers:
            raise LookupError(f"No layer {shortened(name)} in the dictionary; its layers: {', '.join(self.layers)}.")


def _best_first(entries: list[Entry]) -> tuple[Entry, ...]:
    """Return the highest IoU first; equal ones in the order of the answer, those without at the end."""
    return tuple(sorted(entries, key=lambda each: -(each.iou if each.iou is not None else -1.0)))
