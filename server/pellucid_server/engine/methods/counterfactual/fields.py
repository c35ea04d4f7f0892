"""Counterfactuals of tensors and pictures, by gradient: to the boundary, along it, and back to what is needed.

A row is one long vector, of the elements of all inputs that have a gradient. A picture is in levels of 0 to 255.
Points on a line, and rows with groups of elements taken back, are grown on the device.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.evaluations.recipes import Masked, Path, Rows
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.projection import distances, nearest, ranks, steps_beyond

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MANY = 4096
"""Elements from which on each row is dear: lines have fewer points, and small gains end the search."""
_ROUNDS, _STALE_ROUNDS, _LEAST_GAIN = 40, 3, 1e-3
_FEW_ROUNDS, _FEW_STALE_ROUNDS, _FEW_LEAST_GAIN = 16, 2, 0.02
_PLACES = np.concatenate([np.linspace(0.125, 1.0, 8), [1.0001, 1.002, 1.02, 1.1, 1.3, 1.7, 2.5, 4.0]])
_BETWEEN = 12
_FEW_PLACES = np.array([0.25, 0.5, 0.75, 1.0, 1.05, 1.3, 2.0, 4.0])
_FEW_BETWEEN = 6
_AIM = 3e-5
_SHORTENED, _LEAST_STEP = 8, 1e-4
"""How often steps may become shorter without coming closer, and which share of the way counts as closer."""
_RIVALS = 3
_ROUNDED = (1.0, 1.0002, 1.002, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
_HALF, _LARGER = 0.5001, np.geomspace(1.0, 12.0, 24)
"""Half a level, and how many times as large the largest change becomes so that the smaller ones remain too."""
_GROUPS = 16
_SINGLES = 256
"""Most changed elements that are reverted one by one."""
_FEW_SINGLES, _TOGETHER = 64, 8
_LOOKING, _SPARSE = 0.7, 0.97


@dataclass(frozen=True, slots=True)
class Field:
    """The elements of a row that may change.

    Attributes
    ----------
    inputs
        The row of every input, (*features) each, in the model's types; a picture in whole levels.
    names
        The inputs that may change, in order.
    start
        Their elements, (elements,), in the caller's terms: levels of pictures.
    low, high
        Bounds, (elements,).
    scale, offset
        What makes elements of the model: (value - offset) / scale, (elements,) or one number for all.
    levels
        Which elements are levels of pictures and take whole numbers, (elements,).
    """

    inputs: Arrays
    names: tuple[str, ...]
    start: Floats
    low: Floats
    high: Floats
    scale: Floats
    offset: Floats
    levels: Flags

    def row(self, values: Floats) -> Arrays:
        """Return a row of the model, (*features) each, of elements, (elements,)."""
        found, at = dict(self.inputs), 0
        made = (values - self.offset) / self.scale
        for name in self.names:
            like = self.inputs[name]
            # Of a row that is one number, `ascontiguousarray` would make an axis.
            found[name] = np.asarray(made[at : at + like.size].reshape(like.shape), like.dtype)
            at += like.size
        return found

    def taken(self, values: Floats) -> Floats:
        """Return elements as the model's type holds them."""
        row = self.row(values)
        made = np.concatenate([row[name].reshape(-1).astype(np.float64) for name in self.names])
        exact = np.where(self.levels, values, made * self.scale + self.offset)
        return np.where(values == self.start, self.start, exact)

    def gradient(self, gradients: Arrays) -> Floats:
        """Return the gradient at the elements in the caller's terms, (elements,)."""
        found = np.concatenate([gradients[name].reshape(-1).astype(np.float64) for name in self.names])
        return np.where(np.isfinite(found), found, 0.0) / self.scale

    def split(self, values: Floats) -> dict[str, Floats]:
        """Return elements by input, (*features) each."""
        found, at = {}, 0
        for name in self.names:
            like = self.inputs[name]
            found[name] = values[at : at + like.size].reshape(like.shape)
            at += like.size
        return found


@dataclass(frozen=True, slots=True)
class FieldFindings:
    """A valid row, (elements,), and whether it is known to be 1-minimal; or the row that came closest."""

    values: Floats | None
    minimal: bool | None
    closest: Floats | None = None
    impossible: bool = False


def field_of(question: CounterfactualQuestion) -> Field:
    """Put the inputs that have a gradient together; masks are held."""
    names = tuple(n for n, f in question.features.items() if f.differentiable and not f.mask)
    parts = [_part(question, name) for name in names]
    start, low, high, scale, offset, levels = (np.concatenate(each) for each in zip(*parts, strict=True))
    inputs = dict(question.inputs)
    field = Field(inputs, names, start, np.minimum(low, start), np.maximum(high, start), scale, offset, levels)
    if not levels.any():
        return field
    # The row that is compared with is the one in whole levels.
    row = field.row(start)
    pictures = {name: row[name] for name in names if name in question.pixels}
    return Field({**inputs, **pictures}, names, start, field.low, field.high, scale, offset, levels)


def _part(question: CounterfactualQuestion, name: str) -> tuple[Floats, Floats, Floats, Floats, Floats, Flags]:
    row = question.inputs[name].astype(np.float64)
    pixels = question.pixels.get(name)
    ones = np.ones(row.size)
    if pixels is not None:
        mean, deviation = (_channels(each, row) for each in (pixels.mean, pixels.standard_deviation))
        levels = np.clip(np.rint(row * deviation + mean), 0, 255)
        flat = [each.reshape(-1) for each in (levels, deviation, mean)]
        return flat[0], 0 * ones, 255 * ones, flat[1], flat[2], ones > 0
    low, high = question.boxes.get(name, (np.array(-np.inf), np.array(np.inf)))
    bounds = [np.broadcast_to(each, row.shape).reshape(-1).astype(np.float64) for each in (low, high)]
    return row.reshape(-1), bounds[0], bounds[1], ones, 0 * ones, ones < 0


def _channels(values: Floats, row: Floats) -> Floats:
    return np.asarray(np.broadcast_to(values.reshape(-1, *(1,) * (row.ndim - 1)), row.shape))


def search(judge: Judge, field: Field, question: CounterfactualQuestion, *, distance: str) -> FieldFindings:
    """Look for the nearest row that is valid: towards each of some elements where any other will do."""
    if not (field.low < field.high).any():
        return FieldFindings(None, None, impossible=True)
    judge.phase(_LOOKING)
    walk = _Walk(judge, field, distance)
    for rival in _rivals(judge, field, question):
        walk.run(rival)
    if walk.found is None and (judge.cut or judge.late):
        judge.phase(_SPARSE)
        walk.run(None)
    if walk.found is None:
        return FieldFindings(None, None, walk.closest)
    judge.phase(_SPARSE)
    rounded = _rounded(judge, field, walk.found, distance)
    if rounded is None:
        return FieldFindings(None, None, walk.found)
    if distance == "l2" and len(rounded) > _MANY:
        # The projection moves all of many elements a little, and is what is asked for.
        return FieldFindings(rounded, None)
    values, minimal = _sparse(judge, field, rounded, walk.slope)
    judge.phase(1.0)
    return FieldFindings(values, minimal)


def _rivals(judge: Judge, field: Field, question: CounterfactualQuestion) -> list[int | None]:
    held = question.goal.other_than
    if held is None or not judge.affordable(1):
        return [None]
    output = judge.outputs(Rows({name: row[None] for name, row in field.inputs.items()}))[0]
    if len(output) <= 2:
        return [None]
    order: list[int | None] = [int(each) for each in np.argsort(-output, kind="stable") if each != held]
    return order[:_RIVALS]


class _Walk:
    """Goes to the boundary and along it, and keeps the nearest valid row, and the gradient there."""

    def __init__(self, judge: Judge, field: Field, distance: str) -> None:
        self._judge, self._field, self._distance = judge, field, distance
        self._best, self._closest = math.inf, -math.inf
        self._many = many = len(field.start) > _MANY
        self._rounds, self._stale_rounds = (_FEW_ROUNDS, _FEW_STALE_ROUNDS) if many else (_ROUNDS, _STALE_ROUNDS)
        self._least_gain = _FEW_LEAST_GAIN if many else _LEAST_GAIN
        self._places, self._between = (_FEW_PLACES, _FEW_BETWEEN) if many else (_PLACES, _BETWEEN)
        self._reach = 1.0
        self.found: Floats | None = None
        self.closest: Floats | None = None
        self.slope = np.zeros(0)

    def run(self, rival: int | None) -> None:
        """Linearise, take the nearest point beyond the boundary, look at points on the way; and again from there."""
        field, judge = self._field, self._judge
        low, high = field.low - field.start, field.high - field.start
        at, nearest_here, closest_here, stale, first = field.start, math.inf, -math.inf, 0, 0.0
        rounds, self._reach = 0, 1.0
        # Until something is valid there is no limit but the budget: each round that brings it closer is worth another.
        while rounds < self._rounds and stale < (self._stale_rounds if self.found is not None else _SHORTENED):
            if not judge.steep():
                return
            rounds += math.isfinite(nearest_here)
            row = {name: each[None] for name, each in field.row(at).items()}
            margin, gradients = judge.slopes(row, rival)
            slope = field.gradient(gradients)
            if not (math.isfinite(margin) and slope.any()):
                return
            if not first:
                first, closest_here = abs(margin), margin
            moved = at - field.start
            gain = float(slope @ moved) - margin + _AIM * first
            steps = steps_beyond(slope, gain, low, high, self._distance, moved) if gain > 0 else [0.5 * moved]
            onward = stale > 0 and math.isinf(nearest_here)
            if onward:
                # What is nearest to the row leads back and forth where the way bends: it goes on from where it is.
                steps = [moved + nearest(slope, _AIM * first - margin, low - moved, high - moved, "l2")]
            valid, beyond = self._towards(at, [field.start + step for step in steps], nearest_here, onward=onward)
            if valid is None:
                closer = beyond[0] > closest_here + _LEAST_STEP * first and math.isinf(nearest_here)
                stale = 0 if closer else stale + 1
                # Where the boundary is farther than the linear function holds, steps become shorter.
                if math.isinf(nearest_here):
                    self._reach = min(1.0, 2 * self._reach) if closer else self._reach / 4
                if closer or math.isfinite(nearest_here):
                    closest_here, at = max(closest_here, beyond[0]), beyond[1]
                self._close(beyond)
                continue
            self._reach = 1.0
            size = self._rank(valid)
            stale = 0 if size < nearest_here * (1 - self._least_gain) else stale + 1
            nearest_here = min(nearest_here, size)
            at = valid
            if size < self._best:
                self._best, self.found, self.slope = size, valid, slope

    def _towards(
        self, at: Floats, aims: list[Floats], enough: float, *, onward: bool = False
    ) -> tuple[Floats | None, tuple[float, Floats]]:
        """Return the nearest valid point on lines to some aims, and the point with the largest margin.

        Where rows are dear, an aim is tried only if those before it brought nothing nearer than `enough`.
        """
        best, size, beyond = None, math.inf, (-math.inf, at)
        for aim in aims:
            for begin in (at,) if onward else (self._field.start, at):
                valid, other = self._line(begin, aim)
                beyond = max(beyond, other, key=lambda each: each[0])
                if valid is not None:
                    rank = self._rank(valid)
                    best, size = (valid, rank) if rank < size else (best, size)
                if valid is not None or begin is at:
                    break
            if self._many and size < enough:
                break
        return best, beyond

    def _rank(self, values: Floats) -> float:
        return float(ranks((values - self._field.start)[None], self._distance)[0])

    def _close(self, beyond: tuple[float, Floats]) -> None:
        if beyond[0] > self._closest:
            self._closest, self.closest = beyond

    def _line(self, begin: Floats, end: Floats) -> tuple[Floats | None, tuple[float, Floats]]:
        """Return the first valid point on the line from `begin` on, and the point with the largest margin."""
        found = self._points(begin, end, self._places * self._reach)
        if found is None:
            return None, (-math.inf, begin)
        points, margins = found
        largest = int(margins.argmax())
        beyond = float(margins[largest]), self._at(begin, end, float(points[largest]))
        if not (margins >= 0).any():
            return None, beyond
        place = int((margins >= 0).argmax())
        valid, before = float(points[place]), float(points[place - 1]) if place else 0.0
        between = self._points(begin, end, np.linspace(before, valid, self._between + 2)[1:-1])
        if between is not None and (between[1] >= 0).any():
            valid = float(between[0][int((between[1] >= 0).argmax())])
        return self._at(begin, end, valid), beyond

    def _points(self, begin: Floats, end: Floats, places: Floats) -> tuple[Floats, Floats] | None:
        field, count = self._field, self._judge.affordable(len(places))
        if not count:
            return None
        places = places[:count]
        inside = places[places <= 1.0]
        start = {name: each for name, each in field.row(begin).items() if name in field.names}
        margins = np.zeros(0)
        if len(inside):
            margins = self._judge.margins(Path(start, field.row(end), inside))
        beyond = [self._at(begin, end, float(place)) for place in places[places > 1.0]]
        if beyond:
            rows = [field.row(each) for each in beyond]
            margins = np.concatenate([margins, self._judge.margins(_stacked(rows))])
        return places, margins

    def _at(self, begin: Floats, end: Floats, place: float) -> Floats:
        return np.clip(begin + place * (end - begin), self._field.low, self._field.high)


def _stacked(rows: list[Arrays]) -> Rows:
    return Rows({name: np.stack([each[name] for each in rows]) for name in rows[0]})


def _rounded(judge: Judge, field: Field, values: Floats, distance: str) -> Floats | None:
    """Return the nearest valid row in what the model's type and whole levels hold, at or beyond `values`.

    Changes of less than half a level vanish: they are made larger together, until enough of them remain.
    """
    moved = values - field.start
    if not field.levels.any():
        return _nearest_valid(judge, field, [field.start + factor * moved for factor in _ROUNDED], distance)
    largest = float(np.abs(moved[field.levels]).max(initial=0.0))
    factors = [1.0, 1.02, 1.2, *(_HALF / max(largest, 1e-9) * _LARGER).tolist()]
    candidates = [_whole(field, field.start + factor * moved) for factor in sorted(set(factors)) if factor >= 1.0]
    away = field.start + np.trunc(moved + 0.999 * np.sign(moved))
    return _nearest_valid(judge, field, [*candidates, np.where(field.levels, away, values)], distance)


def _whole(field: Field, values: Floats) -> Floats:
    return np.where(field.levels, np.rint(values), values)


def _nearest_valid(judge: Judge, field: Field, candidates: list[Floats], distance: str) -> Floats | None:
    candidates = [field.taken(np.clip(each, field.low, field.high)) for each in candidates]
    order = np.argsort([float(ranks((each - field.start)[None], distance)[0]) for each in candidates], kind="stable")
    candidates = [candidates[at] for at in order if (candidates[at] != field.start).any()]
    count = judge.affordable(len(candidates))
    if not count:
        return None
    margins = judge.margins(_stacked([field.row(each) for each in candidates[:count]]))
    return candidates[int((margins >= 0).argmax())] if (margins >= 0).any() else None


def _sparse(judge: Judge, field: Field, values: Floats, slope: Floats) -> tuple[Floats, bool | None]:
    """Take elements back: many that matter little at once, then single ones, until none can be; None if not known."""
    values = values.copy()
    if not (values != field.start).any():
        return values, True
    most = _FEW_SINGLES if len(values) > _MANY else _SINGLES
    for _ in range(4):
        changed = np.flatnonzero(values != field.start)
        if len(changed) <= most:
            break
        effect = np.abs((values - field.start)[changed] * (slope[changed] if len(slope) else 1.0))
        order = changed[np.argsort(effect, kind="stable")]
        groups = np.array_split(order, _GROUPS)
        present = np.triu(np.ones((_GROUPS, _GROUPS), bool), 1)[:-1]
        if judge.affordable(len(present)) < len(present):
            return values, None
        margins = judge.margins(_masked(field, values, groups, present))
        if not (margins >= 0).any():
            break
        for group in groups[: int(np.flatnonzero(margins >= 0)[-1]) + 1]:
            values[group] = field.start[group]
    while True:
        changed = np.flatnonzero(values != field.start)
        if len(changed) > most or judge.affordable(len(changed)) < len(changed):
            return values, None
        if len(changed) == 1:
            return values, True
        margins = judge.margins(_masked(field, values, [changed[[at]] for at in range(len(changed))], None))
        if not (margins >= 0).any():
            return values, True
        # Those that are missed least go back together, as many as can.
        order = changed[np.argsort(-margins, kind="stable")][: int((margins >= 0).sum())]
        sizes = np.unique(np.geomspace(1, len(order), _TOGETHER).astype(np.int64))[1:]
        count = 1
        if len(sizes) and judge.affordable(len(sizes)) == len(sizes):
            groups = np.split(order, [1, *sizes.tolist()])[:-1]
            present = np.triu(np.ones((len(groups), len(groups)), bool), 1)[1:]
            fits = np.flatnonzero(judge.margins(_masked(field, values, groups, present)) >= 0)
            count = int(sizes[fits[-1]]) if len(fits) else 1
        values[order[:count]] = field.start[order[:count]]


def _masked(field: Field, values: Floats, groups: list[npt.NDArray[np.int64]], present: Flags | None) -> Masked:
    """Return rows with groups of elements taken back: those absent in each row of `present`, or each by itself."""
    count = len(groups)
    kept = ~np.eye(count, dtype=bool) if present is None else present
    # What is in no group is in one more, which is always there.
    labels = np.full(len(values), count, np.int32)
    for number, group in enumerate(groups):
        labels[group] = number
    by_input: dict[str, npt.NDArray[np.int32]] = {
        name: np.zeros((1,) * row.ndim, np.int32) + count for name, row in field.inputs.items()
    }
    by_input |= {name: each.astype(np.int32) for name, each in field.split(labels.astype(np.float64)).items()}
    baselines = {name: row[None] for name, row in field.inputs.items()}
    full = np.concatenate([kept, np.ones((len(kept), 1), bool)], axis=1)
    return Masked(field.row(values), baselines, by_input, full)


def field_distance(field: Field, values: Floats, kind: str) -> float:
    """Return the distance of elements from the row: of pictures, in levels of 0 to 255."""
    return float(distances((values - field.start)[None], kind)[0])
