"""The metric with parts of a network changed: from a site on where all are in one layer, else from the start."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle, Held
from pellucid_server.engine.asking.question import Arrays, Target
from pellucid_server.engine.asking.recipe import Ask
from pellucid_server.engine.asking.sites import Site, SiteLayer, SiteQuestion
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.edited import Edit, Edited
from pellucid_server.engine.evaluations.patchwork import Patchwork, Piece
from pellucid_server.engine.evaluations.recipes import Picked, Rows
from pellucid_server.engine.evaluations.suffix import Suffix
from pellucid_server.engine.evaluations.targets import probabilities
from pellucid_server.engine.evaluations.unit_suffix import UnitSuffix
from pellucid_server.engine.methods.shared.sites.interventions import Affine, Interventions
from pellucid_server.engine.methods.shared.sites.places import Places, by_units, from_units
from pellucid_server.errors import InvalidRequestError, OverloadedError

Floats = npt.NDArray[np.float64]
Change = tuple[int, Site]
"""The number of an intervention, and a site that it changes."""
ChangeSet = tuple[Change, ...]
"""Changes that hold at once; none for the unchanged network."""

_MOST_OTHER_BYTES = 32 << 20
"""Bytes of other values that one evaluation sends to the device."""
_MOST_CHANGES = 1 << 15
"""Changes, all sets together, that one evaluation is put together for: it is done in one turn of Python."""
_MOST_NOISE = 1 << 26
"""Numbers of noise that are drawn at once: it takes a second."""
_LEAST_SETS = 4
"""Sets of changes from which on one gradient in place of them takes less time."""
_MOST_AHEAD, _MOST_AHEAD_BYTES = 16, 64 << 20
"""Layers, and bytes of values, that are held by one pass."""
_LEAST_PROBABILITY = 1e-12
"""Probabilities below it count as it: a divergence would be infinite."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The metric of one row, without changes and with each set of them.

    Attributes
    ----------
    before
        Without changes.
    after
        With each set, (sets,): the mean over its draws.
    draws
        With each set in each draw, (draws, sets).
    """

    before: float
    after: Floats
    draws: Floats

    @property
    def standard_errors(self) -> Floats | None:
        """Standard errors of the means, (sets,); None if nothing was drawn twice."""
        count = len(self.draws)
        return None if count < 2 else np.asarray(self.draws.std(axis=0, ddof=1) / np.sqrt(count))


class SiteRuns:
    """Runs the network of a question with changes. What lies before a layer is run once for each row, and held.

    Parameters
    ----------
    against
        Where the metric is a divergence, what it is from, (rows, *shape); left out, the unchanged network's output.
    """

    def __init__(
        self, model: Handle, question: SiteQuestion, *, against: npt.NDArray[np.generic] | None = None
    ) -> None:
        self._model = model
        self._question = question
        self._against = against
        self._held: dict[tuple[str, int], Held] = {}
        self._captured: dict[tuple[str, int], npt.NDArray[np.generic]] = {}
        self._affine: dict[str, frozenset[str]] = {}
        self._gradients: dict[tuple[str, int], tuple[float, Floats]] = {}
        self._interventions = Interventions(model, question, self._own)
        single = {
            site.layer
            for each in question.interventions
            for site in each.sites
            if site.positions is None and site.units is not None and len(site.units) == 1
        }
        self._by_unit = frozenset(layer for layer in single if model.by_unit(layer))
        """Layers of which single units are changed, and that rows are run from by unit."""

    def measure(self, row: int, sets: Sequence[ChangeSet], *, progress: tuple[float, float] | None = None) -> Measured:
        """Return the metric of a row with each set of changes.

        Raises
        ------
        InvalidRequestError
            With some of them it is no finite number.
        """
        numbers = {number for each in sets for number, _ in each}
        self._require_little_noise(sets)
        draws = self._interventions.draws(numbers)
        found = [self._draw(row, sets, draw, _part(progress, draw, draws)) for draw in range(draws)]
        table = np.stack([after for _, after in found])
        return Measured(found[0][0], table.mean(axis=0), table)

    def _by_gradient(self, row: int, sets: Sequence[ChangeSet], draw: int, target: Target | None) -> Floats | None:
        """Return the scores by one gradient where they are affine in the only layer that is changed; else None."""
        layers = {site.layer for each in sets for _, site in each}
        if target is None or target.space or len(layers) != 1 or len(sets) < _LEAST_SETS or self._question.gradients:
            return None
        layer = self._question.layers[layers.pop()]
        if layer.name not in self._affine:
            self._affine[layer.name] = self._model.affine(layer.name)
        if target.output not in self._affine[layer.name]:
            return None
        held = self._hold(layer.name, row)
        if (layer.name, row) not in self._gradients:
            unchanged = Patchwork(held, 0, layer.unit_axis, np.empty((0, *layer.shape)), ((),))
            answer = self._model.ask(Suffix(held, unchanged, target, gradient=True))
            self._gradients[layer.name, row] = (
                float(answer.scores[0]),
                np.asarray(answer.values[layer.name][0], np.float64),
            )
        before, gradient = self._gradients[layer.name, row]
        own = held.values[0].astype(np.float64)
        found = np.full(len(sets) + 1, before)
        by_number: dict[int, list[tuple[int, Places]]] = {}
        for place, merged in enumerate(self._merged(layer, sets), 1):
            for number, places in merged.items():
                by_number.setdefault(number, []).append((place, places))
        for number, changed in by_number.items():
            with np.errstate(all="ignore"):
                terms = gradient * (_changed(own, self._interventions.of(number, layer, row, draw)) - own)
            terms = np.ascontiguousarray(by_units(terms, layer))
            for place, places in changed:
                found[place] += places.total(terms)
        return found

    def outputs(self, row: int, changes: ChangeSet, *, draw: int = 0) -> tuple[Arrays, Arrays]:
        """Return every output of a row, (*shape) each, without and with changes, in one of the draws."""
        found = self._run(row, (changes,), draw, None, None)
        return {name: rows[0] for name, rows in found.items()}, {name: rows[1] for name, rows in found.items()}

    def draws(self, sets: Sequence[ChangeSet]) -> int:
        """Return how often changes are drawn: once if none is random."""
        return self._interventions.draws({number for each in sets for number, _ in each})

    def edit(self, layer: str, sets: Sequence[ChangeSet], row: int, draw: int) -> Edit:
        """Return what becomes of a layer in each of the sets, in one of the draws."""
        return self._edit(self._question.layers[layer], sets, row, draw)

    def hold_ahead(self, layers: Sequence[str]) -> None:
        """Hold the cuts at the first of `layers`, and at as many behind it as there is room for, by one pass a row.

        What is held for other layers, before those, is let go.
        """
        if any(layer == layers[0] for layer, _ in self._held):
            for layer in {layer for layer, _ in self._held} - set(layers):
                self._release(layer)
            return
        self.release()
        chosen = self._together(list(dict.fromkeys(layers)))
        try:
            for row in range(self._question.count):
                one = Rows({name: array[row : row + 1] for name, array in self._question.rows.items()})
                for held in self._model.hold_each(one, chosen, by_unit=self._by_unit.intersection(chosen)):
                    self._held[held.layer, row] = held
        except OverloadedError:
            # More crosses than was expected: each is held when it is needed.
            self.release()

    def _together(self, layers: list[str]) -> list[str]:
        """Return the first layers that may be held at once, by the bytes of their values."""
        total = 0
        for place, name in enumerate(layers[:_MOST_AHEAD]):
            # What else crosses a cut is about as much again.
            total += 2 * 4 * self._question.count * int(np.prod(self._question.layers[name].shape))
            if place and total > _MOST_AHEAD_BYTES:
                return layers[:place]
        return layers[:_MOST_AHEAD]

    def _release(self, layer: str) -> None:
        for key in [key for key in self._held if key[0] == layer]:
            self._model.release(self._held.pop(key))
            self._gradients.pop(key, None)

    def release(self) -> None:
        """Let go of all that is held: the next changes are at other layers."""
        for layer in {layer for layer, _ in self._held}:
            self._release(layer)
        self._captured.clear()
        self._gradients.clear()
        self._interventions.forget()

    def metric(self, row: int, outputs: Arrays) -> Floats:
        """Return the metric of a row's outputs, (n, *shape) each: the first are those of the unchanged network."""
        target = self._question.targets[row]
        values = outputs[target.output].astype(np.float64)
        with np.errstate(all="ignore"):
            if self._question.divergence:
                first = values[:1] if self._against is None else self._against[row : row + 1].astype(np.float64)
                return _divergences(np.concatenate([first, values]), self._question.divergence)[1:]
            read = probabilities(values, target.space).reshape(len(values), -1)
            return np.asarray(sum(weight * read[:, element] for element, weight in target.elements))

    def _require_little_noise(self, sets: Sequence[ChangeSet]) -> None:
        """Refuse changes at once for which more numbers would be drawn than a turn of Python has time for."""
        question = self._question
        for each in sets:
            noisy = {(number, site.layer) for number, site in each if question.interventions[number].kind == "noise"}
            count = sum(int(np.prod(question.layers[layer].shape)) for _, layer in noisy)
            if count > _MOST_NOISE:
                text = (
                    f"interventions draw {count} numbers of noise at once, as each draws them for all of its layer; at "
                    f"most {_MOST_NOISE} are drawn. Put sites into one intervention, or choose smaller layers."
                )
                raise InvalidRequestError(text, field="interventions")

    def _draw(
        self, row: int, sets: Sequence[ChangeSet], draw: int, progress: tuple[float, float] | None
    ) -> tuple[float, Floats]:
        target = None if self._question.divergence else self._question.targets[row]
        scores = self._by_gradient(row, sets, draw, target)
        if scores is None:
            found = self._run(row, sets, draw, target, progress)
            scores = self.metric(row, found) if target is None else np.asarray(found[""], np.float64)
        self.require_finite(scores, row, sets)
        return float(scores[0]), scores[1:]

    def require_finite(self, scores: Floats, row: int, sets: Sequence[ChangeSet]) -> None:
        """Refuse scores that are no finite numbers: of the unchanged network, and with each set of changes."""
        bad = ~np.isfinite(scores)
        if not bad.any():
            return
        first = int(bad.argmax())
        if first == 0:
            text = f"The score of row {row} of inputs is {scores[0]}; send rows for which the outputs are finite."
            raise InvalidRequestError(text, field="inputs")
        names = ", ".join(site.name for _, site in sets[first - 1][:3])
        text = (
            f"With {names} changed, the score of row {row} is {scores[first]}, and it is not finite for "
            f"{int(bad.sum())} of {len(sets)} changes; choose a smaller value, or another intervention."
        )
        raise InvalidRequestError(text, field="interventions")

    def _run(
        self,
        row: int,
        sets: Sequence[ChangeSet],
        draw: int,
        target: Target | None,
        progress: tuple[float, float] | None,
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Run the unchanged network, then each set; return scores under "", (1 + sets,), or outputs by name."""
        layers = {site.layer for each in sets for _, site in each}
        if len(layers) == 1:
            asks = self._from_layer(row, self._question.layers[layers.pop()], sets, draw, target)
        else:
            asks = self._from_start(row, [self._question.layers[name] for name in sorted(layers)], sets, draw, target)
        found: list[dict[str, npt.NDArray[np.generic]]] = []
        done = 0
        for ask, count in asks:
            part = None if progress is None else _part(progress, done, len(sets) + 1, count)
            answer = self._model.ask(ask, progress=part)
            found.append(dict(answer.arrays) if target is None else {"": answer.scores})
            done += count
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def _merged(self, layer: SiteLayer, sets: Sequence[ChangeSet]) -> list[dict[int, Places]]:
        """Return the places of a layer that each intervention changes in each set."""
        found = []
        for each in sets:
            sites: dict[int, list[Site]] = {}
            for number, site in each:
                if site.layer == layer.name:
                    sites.setdefault(number, []).append(site)
            found.append({number: Places.of(named, layer) for number, named in sites.items()})
        return found

    def _from_layer(
        self, row: int, layer: SiteLayer, sets: Sequence[ChangeSet], draw: int, target: Target | None
    ) -> Iterator[tuple[Ask, int]]:
        held = self._hold(layer.name, row)
        own = held.values[0].astype(np.float64)
        most = max(1, _MOST_OTHER_BYTES // max(1, held.values[0].nbytes))
        for chosen in _together([(), *sets], most):
            merged = self._merged(layer, chosen)
            numbers = sorted({number for each in merged for number in each})
            if len(numbers) > most:
                others = [self._composed(layer, merged[0], own, row, draw)]
                pieces: list[tuple[Piece, ...]] = [(Piece(0),)]
            else:
                others = [self._other(layer, number, own, row, draw) for number in numbers]
                order = {number: place for place, number in enumerate(numbers)}
                pieces = [tuple(places.piece(order[number]) for number, places in each.items()) for each in merged]
            stacked = np.stack(others) if others else np.empty((0, *own.shape))
            del others
            patchwork = Patchwork(held, 0, layer.unit_axis, stacked, tuple(pieces))
            by_unit = UnitSuffix.of(patchwork, target) if layer.name in self._by_unit else None
            yield by_unit or Suffix(held, patchwork, target), len(pieces)

    def _other(self, layer: SiteLayer, number: int, own: Floats, row: int, draw: int) -> Floats:
        """Return what an intervention makes of a whole layer."""
        with np.errstate(all="ignore"):
            change = _changed(own, self._interventions.of(number, layer, row, draw))
        return np.asarray(np.broadcast_to(change, own.shape), self._kind())

    def _composed(
        self, layer: SiteLayer, merged: Mapping[int, Places], own: Floats, row: int, draw: int
    ) -> npt.NDArray[np.generic]:
        """Return what many interventions at once make of a layer."""
        found = np.array(by_units(own, layer), self._kind(), order="C")
        for number, places in merged.items():
            places.write(found, by_units(self._other(layer, number, own, row, draw), layer))
        return from_units(found, layer)

    def _kind(self) -> type[np.floating[Any]]:
        """Return the type of values that are sent: that of the rows, if they are wide."""
        wide = any(array.dtype == np.float64 for array in self._question.rows.values())
        return np.float64 if wide else np.float32

    def _from_start(
        self, row: int, layers: Sequence[SiteLayer], sets: Sequence[ChangeSet], draw: int, target: Target | None
    ) -> Iterator[tuple[Ask, int]]:
        one = {name: array[row : row + 1] for name, array in self._question.rows.items()}
        row_bytes = sum(2 * 8 * int(np.prod(layer.shape)) for layer in layers) or 1
        size = max(1, _MOST_OTHER_BYTES // row_bytes)
        for chosen in _together([(), *sets], max(self._most_numbers(layers), 1), size):
            edits = {layer.name: self._edit(layer, chosen, row, draw) for layer in layers}
            rows = Picked(one, np.zeros(len(chosen), np.int64))
            yield Edited(rows, edits, target), len(chosen)

    def _most_numbers(self, layers: Sequence[SiteLayer]) -> int:
        largest = max((int(np.prod(layer.shape)) for layer in layers), default=1)
        return _MOST_OTHER_BYTES // max(1, 8 * largest)

    def _edit(self, layer: SiteLayer, sets: Sequence[ChangeSet], row: int, draw: int) -> Edit:
        """Return what becomes of a layer in each of the sets; by unit alone where that says it."""
        merged = self._merged(layer, sets)
        known = {
            number: self._interventions.of(number, layer, row, draw) for number in {n for each in merged for n in each}
        }
        narrow = tuple(layer.units if axis == layer.unit_axis else 1 for axis in range(len(layer.shape)))
        by_unit = all(places.by_unit for each in merged for places in each.values()) and all(
            np.broadcast_shapes(each.add.shape, narrow) == narrow for each in known.values()
        )
        shape = narrow if by_unit else layer.shape
        small = SiteLayer(layer.name, shape, layer.unit_axis)
        kind = self._kind()
        keep, add = np.ones((len(sets), *shape), kind), np.zeros((len(sets), *shape), kind)
        for place, each in enumerate(merged):
            for number, places in each.items():
                change = known[number]
                for out, value in ((keep, np.full(1, change.keep)), (add, change.add)):
                    found = np.array(by_units(out[place], small), order="C")
                    places.write(found, by_units(np.broadcast_to(value.astype(kind), shape), small))
                    out[place] = from_units(found, small)
        return Edit(keep, add)

    def _hold(self, layer: str, row: int) -> Held:
        if (layer, row) not in self._held:
            one = Rows({name: array[row : row + 1] for name, array in self._question.rows.items()})
            (self._held[layer, row],) = self._model.hold_each(
                one, (layer,), by_unit=self._by_unit.intersection((layer,))
            )
        return self._held[layer, row]

    def _own(self, layer: str, row: int) -> npt.NDArray[np.generic]:
        """Return the unchanged value of a layer for a row, (*shape)."""
        if (layer, row) in self._held:
            return np.asarray(self._held[layer, row].values[0])
        if (layer, row) not in self._captured:
            one = Rows({name: array[row : row + 1] for name, array in self._question.rows.items()})
            self._captured[layer, row] = self._model.ask(Capture(one, (layer,))).arrays[layer]
        return np.asarray(self._captured[layer, row][0])


def _changed(value: Floats, change: Affine) -> Floats:
    # What is kept by 0 leaves nothing, even of a value that is infinite.
    return change.add if change.keep == 0 else np.asarray(change.keep * value + change.add)


def _together(sets: Sequence[ChangeSet], numbers: int, most: int = 1 << 30) -> Iterator[list[ChangeSet]]:
    """Put sets together, in their order, that have few interventions and changes between them; a set is never split."""
    chosen: list[ChangeSet] = []
    known: set[int] = set()
    count = 0
    for each in sets:
        more = known | {number for number, _ in each}
        if chosen and (len(more) > numbers or count + len(each) > _MOST_CHANGES or len(chosen) >= most):
            yield chosen
            chosen, more, count = [], {number for number, _ in each}, 0
        chosen.append(each)
        known, count = more, count + len(each)
    yield chosen


def _part(progress: tuple[float, float] | None, done: int, total: int, count: int = 1) -> tuple[float, float] | None:
    """Return the share of a stretch of progress that `count` of `total` steps take, after `done`."""
    if progress is None:
        return None
    begin, end = progress
    return begin + (end - begin) * done / total, begin + (end - begin) * min(1.0, (done + count) / total)


def _divergences(values: Floats, space: str) -> Floats:
    """Return the Kullback-Leibler divergence of each row's distribution from the first row's, (rows,), in nats."""
    if space == "sigmoid":
        shares = np.clip(probabilities(values, space), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        shares = shares.reshape(len(values), -1)
        first = shares[:1]
        each = first * np.log(first / shares) + (1 - first) * np.log((1 - first) / (1 - shares))
        return np.asarray(each.sum(axis=1))
    shares = values if space == "probabilities" else probabilities(values, "softmax")
    shares = np.maximum(shares.reshape(len(values), -1), _LEAST_PROBABILITY)
    return np.asarray((shares[:1] * np.log(shares[:1] / shares)).sum(axis=1))
