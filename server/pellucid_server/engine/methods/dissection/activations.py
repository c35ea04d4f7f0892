"""Activations: what the units of a layer do over a probe set.

Sources: Vinje and Gallant, "Sparse coding and decorrelation in primary visual cortex during natural vision", Science
287, 2000 (sparseness); Morcos, Barrett, Rabinowitz and Botvinick, "On the importance of single directions for
generalization", ICLR 2018 (class selectivity).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeBatch, ProbeLayer, ProbeQuestion, Saved, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.methods.shared.drawings import COLOUR_MAPS
from pellucid_server.engine.methods.shared.save_timer import SaveTimer
from pellucid_server.engine.methods.shared.units.layer_values import Values, looked_at, position_classes, probe_of
from pellucid_server.engine.methods.shared.units.unit_pictures import PictureBudget, feature_maps, unit_sheets
from pellucid_server.engine.methods.shared.units.unit_summary import Settings, UnitSummary
from pellucid_server.engine.methods.shared.units.unit_tables import (
    dominating,
    layers_table,
    positions_table,
    top_table,
    units_table,
)
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Findings, State

_COVARIANCE_ELEMENTS = 1 << 20
"""Of all layers together: covariances of 1,447 units."""
_CLASS_ELEMENTS = 1 << 20
"""Means of classes of a layer."""
_SAMPLE_ELEMENTS = 1 << 20
"""Values that are kept of a layer for medians."""
_OF_ALL_LAYERS = 4
"""How many times as many elements of samples, and of means by class, all layers may have as one."""
_LEAST_SAMPLES = 64
_MOST_UNITS = 1 << 16


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of activations."""

    top: int = parameter(5, "How many rows to show that activate a unit most.", minimum=0, maximum=100)
    positions: str = parameter(
        "auto",
        "By which classes of position statistics are given; auto is border and centre of maps, first and others of "
        "sequences.",
        choices=("auto", "all", "border and centre", "first and others"),
    )
    without: str = parameter(
        "",
        "A class of positions that counts only in the table of positions: border or first.",
        choices=("", "border", "first"),
    )
    samples: int = parameter(
        2048, "Values of each unit that medians and quantiles are taken of.", minimum=64, maximum=65536
    )
    maps: int = parameter(0, "For how many of the first rows feature maps are drawn.", minimum=0, maximum=64)
    sheets: int = parameter(
        32, "For how many units a sheet of crops of the rows of `top` is drawn.", minimum=0, maximum=4096
    )
    crop: int = parameter(64, "Side of a crop, in pixels of the model's input.", minimum=8, maximum=512)
    colours: str = parameter("viridis", "The colour map of feature maps.", choices=tuple(COLOUR_MAPS))
    picture_bytes: int = parameter(
        16 << 20, "Bytes of all pictures together, after which none are drawn.", minimum=0, maximum=256 << 20
    )


def _cost(params: Params, question: ProbeQuestion) -> Cost:
    rows = 0 if question.probe is None else question.probe.count
    return Cost(rows + min(params.maps, rows))


@method(
    "activations",
    Params,
    verb=DISSECT,
    family="statistics",
    source="Vinje and Gallant, Science 287, 2000; Morcos et al., ICLR 2018",
    cost=_cost,
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
)
def activations(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Sum up what the units of layers do over a probe set: statistics, and the rows that activate them most.

    Raises
    ------
    InvalidRequestError
        There are no layers, or no probe, or a value is NaN or infinite.
    """
    probe = probe_of(question, "activations")
    settings = _settings(question, params)
    done, found = _begun(question, settings)
    timer = SaveTimer()

    def take(batch: ProbeBatch, values: Mapping[str, Values]) -> None:
        for name, summary in found.items():
            handle.beside(partial(summary.update, values[name], batch.numbers, batch.labels))

    for batch in looked_at(handle, question, probe, take, done):
        done += batch.count
        if timer.due() or done >= probe.count:
            state = handle.beside(partial(_state, found, done))
            timer.wait_for(state)
            yield Saved(state, done, probe.count)
    budget = PictureBudget(params.picture_bytes)
    shown = [each.highest.rows[:, : each.top].reshape(-1) for each in found.values()]
    numbers = np.unique(np.concatenate(shown)).tolist()
    names = dict(zip(numbers, probe.names(numbers), strict=True))
    for each in question.layers:
        summary = found[each.name]
        yield handle.beside(partial(_tables, each, summary, names))
    yield Findings(
        tables={"layers": layers_table([(each.name, found[each.name]) for each in question.layers])},
        warnings=(*_no_ratio(question.layers, settings), *_nothing_left_out(params.without, settings)),
    )
    for each in question.layers:
        yield from unit_sheets(each, found[each.name], probe, names, params.sheets, params.crop, budget)
    yield from feature_maps(handle, question, probe, params.maps, params.colours, budget)
    if budget.exceeded:
        text = (
            f'Pictures end after parameters["picture_bytes"], {params.picture_bytes} bytes; raise it to see the others.'
        )
        yield Findings(warnings=(text,))


def _settings(question: ProbeQuestion, params: Params) -> Mapping[str, Settings]:
    """Return how each layer is summed up: covariances of the first layers whose elements are within bounds."""
    found, left = {}, _COVARIANCE_ELEMENTS
    all_units = sum(len(each.units) for each in question.layers)
    for number, each in enumerate(question.layers):
        units = len(each.units)
        if units > _MOST_UNITS:
            text = f"layers[{number}] has {units} units; activations sums up at most {_MOST_UNITS}: name some of them."
            raise InvalidRequestError(text, field=f"layers[{number}].units")
        classes = position_classes(each, params.positions)
        if params.without and params.positions == "all":
            text = f'parameters["without"] is {params.without!r}; it needs classes of position, and "positions" is all.'
            raise InvalidRequestError(text, field='parameters["without"]')
        elements = units * (units + 1) // 2
        fits = elements <= left
        left -= elements if fits else 0
        # A pattern may stand for many layers, whose states are together in memory.
        shared = max(units, all_units // _OF_ALL_LAYERS)
        left_out = params.without if len(classes) > 1 and params.without in {one.name for one in classes} else ""
        found[each.name] = Settings(
            positions=classes,
            left_out=left_out,
            top=params.top,
            samples=max(_LEAST_SAMPLES, min(params.samples, _SAMPLE_ELEMENTS // shared)),
            most_classes=max(1, _CLASS_ELEMENTS // shared),
            covariance=fits,
            seed=question.seed,
        )
    return found


def _begun(question: ProbeQuestion, settings: Mapping[str, Settings]) -> tuple[int, dict[str, UnitSummary]]:
    if question.state is None:
        return 0, {each.name: UnitSummary(each, settings[each.name]) for each in question.layers}
    arrays = question.state.arrays
    return int(question.state.values["rows"]), {
        each.name: UnitSummary.from_state(each, settings[each.name], within(each.name, arrays))
        for each in question.layers
    }


def _state(found: Mapping[str, UnitSummary], done: int) -> State:
    states = {name: nested(name, summary.state()) for name, summary in found.items()}
    return State({key: array for state in states.values() for key, array in state.items()}, {"rows": done})


def _tables(layer: ProbeLayer, summary: UnitSummary, names: Mapping[int, str]) -> Findings:
    tables = {
        f"{layer.name}/units": units_table(layer, summary),
        f"{layer.name}/positions": positions_table(layer, summary),
    }
    if summary.top:
        tables[f"{layer.name}/top"] = top_table(layer, summary, names)
    warnings = list(dominating(layer.name, summary))
    if summary.classes.classes and summary.classless:
        warnings.append(f"{layer.name}: {summary.classless}; selectivity is left out.")
    return Findings(tables=tables, warnings=tuple(warnings))


def _nothing_left_out(without: str, settings: Mapping[str, Settings]) -> tuple[str, ...]:
    names = [name for name, each in settings.items() if without and not each.left_out]
    return (f"No positions {without!r} to leave out: {_listed(names)}.",) if names else ()


def _no_ratio(layers: tuple[ProbeLayer, ...], settings: Mapping[str, Settings]) -> tuple[str, ...]:
    names = [each.name for each in layers if not settings[each.name].covariance]
    if not names:
        return ()
    return (f"No participation ratio of {_listed(names)}: covariances of so many units are not kept; name fewer.",)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
