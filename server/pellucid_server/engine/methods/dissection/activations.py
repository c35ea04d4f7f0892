"""Activations: what the units of a layer do over a probe set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeQuestion, Saved, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.statistics.moments import Moments
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Column, Findings, State, Table

_BATCH_ROWS = 32


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of activations."""

    top: int = parameter(5, "How many rows to show that activate a unit most.", minimum=0, maximum=100)


@method(
    "activations",
    Params,
    verb=DISSECT,
    family="statistics",
    source="Vinje and Gallant 2000",
    cost=lambda params, question: Cost(0 if question.probe is None else question.probe.count),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
)
def activations(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Sum up what the units of layers do over a probe set: statistics, and the rows that activate them most.

    Raises
    ------
    InvalidRequestError
        There are no layers, or no probe.
    """
    probe = question.probe
    if probe is None:
        raise InvalidRequestError("probe is not set; activations needs rows to run the model on.", field="probe")
    if not question.layers:
        raise InvalidRequestError("layers is empty; name the layers to look at.", field="layers")
    names = tuple(each.name for each in question.layers)
    done, found = 0, {each.name: Moments(len(each.units)) for each in question.layers}
    if question.state is not None:
        done = int(question.state.values["rows"])
        found = {name: Moments.from_state(within(name, question.state.arrays)) for name in names}
    for batch in probe.batches(_BATCH_ROWS, first=done):
        values = handle.ask(Capture(Rows(batch.rows), names)).arrays
        for each in question.layers:
            by_unit = np.moveaxis(values[each.name], 1 + each.layer.unit_axis, 0)
            found[each.name].update(by_unit.reshape(len(by_unit), -1)[each.units])
        done += batch.count
        arrays = {key: array for name in names for key, array in nested(name, found[name].state()).items()}
        yield Saved(State(arrays, {"rows": done}), done, probe.count)
    for each in question.layers:
        moments = found[each.name]
        columns = {
            "unit": Column(each.units),
            "mean": Column(moments.mean),
            "deviation": Column(np.sqrt(moments.variance)),
        }
        yield Findings(tables={f"{each.name}/units": Table(columns, f"The units of {each.name}.")})
