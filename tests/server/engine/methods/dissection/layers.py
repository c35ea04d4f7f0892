"""Layers whose values are given, and probe sets over them: what methods of `Dissect` are tested against."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pellucid_server.engine.methods
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.handle import Answer
from pellucid_server.engine.asking.probes import ProbeBatch, ProbeLayer, ProbeQuestion, Saved
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.errors import UnsupportedError
from pellucid_server.vocabulary.findings import Findings

registry.discover(pellucid_server.engine.methods)


@dataclass(frozen=True)
class Rows:
    """A probe set whose rows are their numbers, so that a handle can look up what layers make of them."""

    count: int
    labels: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    concepts: tuple[Any, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def kind(self):
        return "pictures" if self.images else "table"

    def batches(self, rows_per_batch, *, first=0, masks=False):
        for begin in range(first, self.count, rows_per_batch):
            numbers = np.arange(begin, min(begin + rows_per_batch, self.count))
            labels = tuple(self.labels[number] for number in numbers) if self.labels else ()
            yield ProbeBatch(self.rows(numbers), numbers, labels)

    def rows(self, numbers):
        return {"x": np.asarray(numbers, np.int64)}

    def pictures(self, numbers):
        if not self.images:
            raise UnsupportedError("no pictures", subject="probe")
        return tuple(self.images[number] for number in numbers)

    def names(self, numbers):
        return tuple(f"row {number}" for number in numbers)


@dataclass(frozen=True)
class Tensors(Rows):
    """A probe set of given arrays, (rows, *features) each, for real networks."""

    arrays: Any = None

    def rows(self, numbers):
        return {name: array[np.asarray(numbers)] for name, array in self.arrays.items()}


@dataclass
class Layers:
    """A handle that knows what layers make of each row: by name, (rows, *shape)."""

    values: dict[str, Any]
    computed: list[str] = field(default_factory=list)

    def ask(self, ask, *, progress=None):
        numbers = ask.rows.arrays["x"]
        return Answer({name: self.values[name][numbers] for name in ask.layers})

    def beside(self, function, *, byte_count=None):
        return function()

    def together(self, *functions):
        return [function() for function in functions]

    def compute(self, function, *arguments):
        self.computed.append(function.__name__)
        return function(*arguments)


def question(values, probe=None, *, unit_axis=0, units=None, **fields):
    """Ask about all layers of `values`."""
    count = len(next(iter(values.values())))
    layers = []
    for name, array in values.items():
        layer = SiteLayer(name, array.shape[1:], unit_axis)
        layers.append(ProbeLayer(layer, np.arange(layer.units) if units is None else np.array(units)))
    return ProbeQuestion(layers=tuple(layers), probe=probe or Rows(count), **fields)


def yielded(name, values, probe=None, *, unit_axis=0, units=None, asked=None, handle=None, **parameters):
    """Return all that a method yields."""
    method = registry.lookup(name, DISSECT)
    asked = asked or question(values, probe, unit_axis=unit_axis, units=units)
    return list(method.function(handle or Layers(values), asked, method.resolve(parameters)))


def together(parts):
    """Return the findings of all parts as one."""
    found = Findings()
    for part in parts:
        if isinstance(part, Findings):
            assert not set(found.tables) & set(part.tables)
            assert not set(found.arrays) & set(part.arrays)
            found = replace(
                found,
                arrays={**found.arrays, **part.arrays},
                tables={**found.tables, **part.tables},
                pictures={**found.pictures, **part.pictures},
                warnings=(*found.warnings, *part.warnings),
                resolved={**found.resolved, **part.resolved},
            )
    return found


def found(name, values, probe=None, **settings):
    """Return what a method finds."""
    return together(yielded(name, values, probe, **settings))


def resumed(name, values, probe=None, **parameters):
    """Return what a method finds that is lost after each of its states, and goes on from the next."""
    asked, answers = question(values, probe), []
    states = [part.state for part in yielded(name, values, asked=asked, **parameters) if isinstance(part, Saved)]
    for state in states:
        answers.append(together(yielded(name, values, asked=replace(asked, state=state), **parameters)))
    return answers


def column(table, name):
    """Return a table's column as an array, NaN or "" where there is no value."""
    each = table.columns[name]
    if isinstance(each.values, tuple):
        return np.array(each.values)
    if each.missing is None:
        return each.values
    return np.where(each.missing, np.nan, each.values)


def pixels(picture):
    """Decode a picture."""
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture.data)))
