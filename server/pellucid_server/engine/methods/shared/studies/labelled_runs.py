"""What a model predicts of rows of a data set, with parts of the network and columns of the input changed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle, Held
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import Ask
from pellucid_server.engine.asking.sites import Site, SiteLayer, SiteQuestion
from pellucid_server.engine.asking.studies import INPUT_PREFIX, Batch, StudyQuestion
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.edited import Edit, Edited
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.evaluations.suffix import Suffix
from pellucid_server.engine.methods.shared.arrays import generator
from pellucid_server.engine.methods.shared.sites.interventions import RANDOM, Interventions
from pellucid_server.engine.methods.shared.sites.places import Places, from_units, require_apart
from pellucid_server.errors import InvalidRequestError

_BATCH_BYTES = 32 << 20
_BATCH_ROWS = 256
_MOST_CHANGES = 4096
_EVALUATED = 8192
"""Rows that are evaluated between two looks at the clock."""

Predicted = npt.NDArray[np.generic]
"""Class indices, int64, or numbers, float64, (rows,)."""
Progress = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class StudyChange:
    """What is changed at once: pairs of an intervention's number and a site, and how often it is drawn."""

    name: str
    parts: tuple[tuple[int, Site], ...]
    draws: int


def study_changes(question: StudyQuestion, *, joint: bool) -> tuple[StudyChange, ...]:
    """Return the changes of a study: each site by itself, or all of them at once.

    Raises
    ------
    InvalidRequestError
        There are too many, or those that are made at once overlap.
    """
    pairs = [(number, site) for number, each in enumerate(question.interventions) for site in each.sites]
    if not joint and len(pairs) > _MOST_CHANGES:
        text = (
            f"interventions have {len(pairs)} sites; a study makes at most {_MOST_CHANGES} changes, each on all rows."
        )
        raise InvalidRequestError(text, field="interventions")
    if joint and pairs:
        _require_apart(question, [site for _, site in pairs])
        numbers = range(len(question.interventions))
        return (StudyChange("all", tuple(pairs), max(_draws(question, number) for number in numbers)),)
    names = [_name(question, number, site) for number, site in pairs]
    times = Counter(names)
    return tuple(
        StudyChange(name if times[name] == 1 else f"{name} ({pair[0]})", (pair,), _draws(question, pair[0]))
        for name, pair in zip(names, pairs, strict=True)
    )


def _require_apart(question: StudyQuestion, sites: Sequence[Site]) -> None:
    """Refuse sites that overlap, and columns that are named twice."""
    require_apart(question.layers, [site for site in sites if site.layer in question.layers])
    columns = [site for site in sites if site.layer not in question.layers]
    twice = next((site for site, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        name = question.names.get(twice, twice.name)
        text = f"{name} is changed twice; where changes are made at once, name each place once."
        raise InvalidRequestError(text, field="interventions")


def _draws(question: StudyQuestion, number: int) -> int:
    intervention = question.interventions[number]
    return intervention.draws if intervention.kind in RANDOM else 1


def _name(question: StudyQuestion, number: int, site: Site) -> str:
    intervention = question.interventions[number]
    valued = intervention.kind in ("constant", "scale", "noise", "steer") and intervention.vector is None
    value = f" {intervention.value:g}" if valued else ""
    return f"{question.names.get(site, site.name)} {intervention.kind}{value}"


class LabelledRuns:
    """Runs the model on batches of a data set. What lies before a layer is run once for each batch, and held."""

    def __init__(self, model: Handle, question: StudyQuestion) -> None:
        self._model = model
        self._question = question
        self._batch: Batch | None = None
        self._held: dict[str, Held] = {}
        self._captured: dict[str, npt.NDArray[np.generic]] = {}
        self._fixed: dict[tuple[int, str], tuple[float, npt.NDArray[np.float64]]] = {}
        self._means: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
        self._interventions = Interventions(
            model,
            SiteQuestion(
                rows={},
                targets=(),
                prediction=np.empty(0),
                layers=question.layers,
                interventions=question.interventions,
                references=question.references,
                features=question.features,
                seed=question.seed,
            ),
            self._own,
        )

    def rows_per_batch(self, changes: Sequence[StudyChange]) -> int:
        """Return how many rows fit a batch, by the bytes of what the changes send to the device."""
        sizes = {name: 16 * int(np.prod(layer.shape)) for name, layer in self._question.layers.items()}
        most = max((sum(sizes.get(site.layer, 0) for _, site in each.parts) for each in changes), default=0)
        evaluated = 1 + sum(each.draws for each in changes)
        return int(
            min(max(_BATCH_BYTES // (self._question.row_bytes + most), 1), max(_EVALUATED // evaluated, 1), _BATCH_ROWS)
        )

    def begin(self, batch: Batch) -> None:
        """Go on to the next batch; nothing of the last one is held any more."""
        self._release()
        self._captured.clear()
        self._batch = batch

    def predicted(self, *, progress: Progress = None) -> Predicted:
        """Return what the unchanged model predicts of the batch."""
        return self._read(Forward(Rows(self._now.rows)), progress)

    def changed(self, change: StudyChange, draw: int, *, progress: Progress = None) -> Predicted:
        """Return what is predicted of the batch with a change, in one of its draws."""
        inputs = [pair for pair in change.parts if pair[1].layer.startswith(INPUT_PREFIX)]
        by_layer: dict[str, list[tuple[int, Site]]] = {}
        for pair in change.parts:
            if pair not in inputs:
                by_layer.setdefault(pair[1].layer, []).append(pair)
        rows = self._with_columns(inputs, draw)
        if not by_layer:
            return self._read(Forward(Rows(rows)), progress)
        if len(by_layer) == 1 and not inputs:
            ((name, pairs),) = by_layer.items()
            return self._read(self._from(name, pairs, draw), progress)
        edits = {name: self._edit(self._question.layers[name], pairs, draw) for name, pairs in by_layer.items()}
        return self._read(Edited(Rows(rows), edits), progress)

    def end(self) -> None:
        """Let go of all that is held."""
        self._release()
        self._interventions.forget()

    @property
    def _now(self) -> Batch:
        assert self._batch is not None  # noqa: S101 - `begin` comes first
        return self._batch

    def _read(self, ask: Ask, progress: Progress) -> Predicted:
        decision = self._question.decision
        return decision.read(self._model.ask(ask, progress=progress).arrays[decision.output])

    def _from(self, name: str, pairs: Sequence[tuple[int, Site]], draw: int) -> Suffix:
        held = self._hold(name)
        values = held.values
        own: npt.NDArray[np.float64] = values.astype(np.float64)
        edit = self._edit(self._question.layers[name], pairs, draw)
        keep, add = (np.asarray(each, np.float64) for each in (edit.keep, edit.add))
        with np.errstate(all="ignore"):
            changed = np.where(keep == 0, add, keep * own + add)
            changed = np.where((keep == 1) & (add == 0), values, changed)
        return Suffix(held, Rows({name: changed.astype(values.dtype)}))

    def _edit(self, layer: SiteLayer, pairs: Sequence[tuple[int, Site]], draw: int) -> Edit:
        """Return what becomes of a layer's values in each row of the batch; later changes come after earlier ones."""
        count = self._now.count
        keep, add = np.ones((count, *layer.shape)), np.zeros((count, *layer.shape))
        by_number: dict[int, list[Site]] = {}
        for number, site in pairs:
            by_number.setdefault(number, []).append(site)
        for number, sites in by_number.items():
            mask = _mask(layer, sites)
            random = self._question.interventions[number].kind in RANDOM
            for place in range(count) if random else (slice(None),):
                row = int(self._now.numbers[place]) if isinstance(place, int) else 0
                scale, shift = self._affine(number, layer, row, draw)
                keep[place] = np.where(mask, scale * keep[place], keep[place])
                add[place] = np.where(mask, (scale * add[place] if scale else 0.0) + shift, add[place])
        return Edit(keep.astype(np.float32), add.astype(np.float32))

    def _affine(self, number: int, layer: SiteLayer, row: int, draw: int) -> tuple[float, npt.NDArray[np.float64]]:
        if self._question.interventions[number].kind in RANDOM:
            found = self._interventions.of(number, layer, row, draw)
            return found.keep, found.add
        if (number, layer.name) not in self._fixed:
            found = self._interventions.of(number, layer, 0, 0)
            self._fixed[number, layer.name] = (found.keep, found.add)
        return self._fixed[number, layer.name]

    def _hold(self, name: str) -> Held:
        if name not in self._held:
            self._release()
            self._held[name] = self._model.hold(Rows(self._now.rows), name)
        return self._held[name]

    def _release(self) -> None:
        for held in self._held.values():
            self._model.release(held)
        self._held.clear()

    def _own(self, layer: str, row: int) -> npt.NDArray[np.generic]:
        if layer in self._held:
            held: npt.NDArray[np.generic] = self._held[layer].values[row - int(self._now.numbers[0])]
            return held
        if layer not in self._captured:
            self._captured[layer] = self._model.ask(Capture(Rows(self._now.rows), (layer,))).arrays[layer]
        found: npt.NDArray[np.generic] = self._captured[layer][row - int(self._now.numbers[0])]
        return found

    def _with_columns(self, pairs: Sequence[tuple[int, Site]], draw: int) -> Arrays:
        rows = self._now.rows
        if not pairs:
            return rows
        found = {name: array.copy() for name, array in rows.items()}
        for number, site in pairs:
            name = site.layer.removeprefix(INPUT_PREFIX)
            flat = found[name].reshape(len(found[name]), -1)
            elements = list(site.units or ())
            flat[:, elements] = self._column(number, name, elements, draw)
        return found

    def _column(self, number: int, name: str, elements: list[int], draw: int) -> npt.NDArray[np.generic]:
        """Return what takes the place of some elements of an input, (elements,) or (rows, elements)."""
        intervention = self._question.interventions[number]
        if intervention.kind == "zero":
            return np.zeros(len(elements))
        reference = self._question.references[intervention.reference][name]
        table = reference.reshape(len(reference), -1)[:, elements]
        if intervention.kind == "mean":
            return np.asarray(table.astype(np.float64).mean(axis=0))
        source = generator(self._question.seed, f"columns/{number}/{draw}")
        # A number for each row of the data set, whichever batch it is in.
        source.bit_generator.advance(int(self._now.numbers[0]))  # type: ignore[attr-defined]
        places = (source.random(self._now.count) * len(table)).astype(np.int64)
        return np.asarray(table[places])


def _mask(layer: SiteLayer, sites: Sequence[Site]) -> npt.NDArray[np.bool_]:
    """Return which elements of a layer some sites have, (*shape)."""
    found = np.zeros((layer.units, layer.positions), np.bool_)
    Places.of(sites, layer).write(found, np.ones_like(found))
    return np.asarray(from_units(found, layer), np.bool_)
