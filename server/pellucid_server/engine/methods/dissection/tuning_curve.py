"""Tuning curves: how units respond to gratings, or to the values of a table's column.

Sources: Adrian, "The impulses produced by sensory nerve endings", Journal of Physiology 1926 (response over the
strength of a stimulus); Hubel and Wiesel, "Receptive fields, binocular interaction and functional architecture in the
cat's visual cortex", Journal of Physiology 1962; Mazurek, Kager and Van Hooser, "Robust quantification of orientation
selectivity and direction selectivity", Frontiers in Neural Circuits 2014. Names of measures are those of AllenSDK.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeQuestion, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.methods.shared.tuning import tuning_stimuli
from pellucid_server.engine.methods.shared.tuning.reference_rows import reference_row
from pellucid_server.engine.methods.shared.tuning.stimuli import PAIRS, Canvas, Grating
from pellucid_server.engine.methods.shared.tuning.tuned import MEASURES
from pellucid_server.engine.methods.shared.tuning.tuning_columns import ColumnTuning, swept_columns
from pellucid_server.engine.methods.shared.tuning.tuning_pictures import PictureTuning
from pellucid_server.engine.methods.shared.tuning.tuning_stimuli import CURVES, Stimuli
from pellucid_server.engine.methods.shared.tuning.unit_responses import RESPONSES
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.descriptions import InputInfo

_NYQUIST = 0.5
_TAKEN = ("image", "tabular")


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of tuning curves."""

    input: str = parameter("", "The input that the stimuli are for; empty for the only picture, else the only table.")
    response: str = parameter(
        "centre",
        "How a unit's positions become one response: that at the middle, their mean, or their largest.",
        choices=RESPONSES,
    )
    orientations: int = parameter(12, "Orientations of the grid, over 180 degrees; even.", minimum=2, maximum=180)
    frequencies: int = parameter(
        5, "Spatial frequencies of the grid, equally spaced in octaves.", minimum=1, maximum=32
    )
    lowest_frequency: float | None = parameter(
        None,
        "Cycles per pixel; left out, octaves down from the highest, but at least a cycle in the shorter side.",
        minimum=1e-6,
    )
    highest_frequency: float = parameter(0.4, "Cycles per pixel, at most 0.5, where sampling ends.", minimum=1e-6)
    phases: int = parameter(8, "Phases of the grid, over 360 degrees; even, at least 4.", minimum=4, maximum=64)
    contrast: float = parameter(1.0, "Michelson contrast of the grid's gratings.", minimum=0.001, maximum=1.0)
    pair: str = parameter(
        "black-white", "The colours between which the grid's gratings go, through grey.", choices=tuple(PAIRS)
    )
    window: str = parameter(
        "none", "What gratings are seen through: nothing, or a round window.", choices=("none", "gaussian", "circle")
    )
    window_size: float = parameter(
        0.5,
        "Diameter of the window as a share of the shorter side; of a Gaussian, four standard deviations.",
        minimum=0.01,
        maximum=2.0,
    )
    vary: str = parameter(
        "contrast, size, colour",
        "Further curves, at each unit's best grating: of contrast, size, colour, position, or none. Colour is left "
        "out where the input has one channel.",
    )
    contrasts: int = parameter(8, "Contrasts, equally spaced up to 1.", minimum=2, maximum=64)
    sizes: int = parameter(
        8, "Diameters, equally spaced in octaves from 3 pixels to the shorter side.", minimum=2, maximum=64
    )
    hues: int = parameter(12, "Hues of the circle of HSV, at constant luma.", minimum=3, maximum=72)
    colours: str = parameter(
        "uniform",
        "Whether a hue is seen as a uniform colour, or as the best grating between it and its complement.",
        choices=("uniform", "grating"),
    )
    positions: int = parameter(7, "Places of the window on each side.", minimum=2, maximum=32)
    measure: str = parameter(
        "larger",
        "What sums up the phases: their mean F0, the first harmonic F1, the larger of both, or the largest response.",
        choices=MEASURES,
    )
    negative: str = parameter(
        "rectify",
        "Whether responses below that to the blank count as 0, or are kept: then vector sums are missing.",
        choices=("rectify", "keep"),
    )
    column: str = parameter("", "Of tables, the column that is swept; empty for each by itself.")
    points: int = parameter(33, "Values of a numeric column.", minimum=2, maximum=1024)
    low: float | None = parameter(
        None,
        "First value of a numeric column; left out, the lowest of the column's range.",
    )
    high: float | None = parameter(None, "Last value of a numeric column; left out, the highest of the column's range.")
    reference: str = parameter(
        "",
        "The row that is held beside what is varied: the probe's first, or the background's medoid or mean, or zeros; "
        "empty for the first of these that there is.",
        choices=("", "probe", "medoid", "mean", "zeros"),
    )


@method(
    "tuning-curve",
    Params,
    verb=DISSECT,
    family="stimuli",
    source="Hubel and Wiesel 1962; Mazurek, Kager and Van Hooser 2014, https://doi.org/10.3389/fncir.2014.00092",
    cost=lambda params, question: Cost(others={"activations": _rows(params, question)}),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
)
def tuning_curve(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Measure how units respond to gratings of all kinds, or to the values of a table's columns.

    Raises
    ------
    InvalidRequestError
        There are no layers, or a parameter does not fit the input.
    UnsupportedError
        No input is a picture or a table.
    """
    if not question.layers:
        raise InvalidRequestError("layers is empty; name the layers to look at.", field="layers")
    info = _input(question, params.input)
    if info.modality == "image":
        stimuli = _stimuli(info, params)
        reference = {} if len(question.inputs) == 1 else reference_row(question, params.reference)
        others = {name: row for name, row in reference.items() if name != info.name}
        pictures = PictureTuning(
            handle,
            stimuli,
            info.name,
            others,
            response=params.response,
            measure=params.measure,
            rectified=params.negative == "rectify",
        )
        yield from pictures.run(question)
        return
    columns = swept_columns(question, info.name, _chosen(info, params.column), params.points, params.low, params.high)
    tables = ColumnTuning(
        handle, columns, info.name, reference_row(question, params.reference), response=params.response
    )
    yield from tables.run(question)


def _rows(params: Params, question: Any) -> int:
    """Return about how many rows an answer takes: exactly, for a single unit."""
    if not isinstance(question, ProbeQuestion):
        return 0
    info = _input(question, params.input)
    if info.modality == "image":
        stimuli = _stimuli(info, params)
        units = sum(len(each.units) for each in question.layers)
        return len(stimuli.common) + min(units, stimuli.grid) * sum(stimuli.own.values())
    return 1 + sum(len(info.columns[at].categories) or params.points for at in _chosen(info, params.column))


def _input(question: ProbeQuestion, name: str) -> InputInfo:
    """Find the input that stimuli are made for."""
    by_kind = {kind: [key for key, each in question.inputs.items() if each.modality == kind] for kind in _TAKEN}
    listed = ", ".join(f"{key} ({each.modality})" for key, each in question.inputs.items())
    if not name:
        names = by_kind["image"] or by_kind["tabular"]
        if not names:
            text = f"tuning-curve makes pictures and rows of tables, and the model has neither; its inputs: {listed}."
            raise UnsupportedError(text, subject="inputs")
        require(len(names) == 1, "input", name, f"must name one of: {', '.join(names)}")
        name = names[0]
    require(name in question.inputs, "input", name, f"must be an input of the model: {listed}")
    found: InputInfo = question.inputs[name]
    if found.modality not in _TAKEN:
        text = f"tuning-curve makes pictures and rows of tables; input {name!r} is {found.modality}, which it does not."
        raise UnsupportedError(text, subject=f"inputs/{name}")
    return found


def _chosen(info: InputInfo, column: str) -> list[int]:
    """Return the numbers of the columns to sweep."""
    names = [each.name for each in info.columns]
    require(not column or column in names, "column", column, f"must be one of: {', '.join(names)}")
    return [names.index(column)] if column else list(range(len(names)))


def _stimuli(info: InputInfo, params: Params) -> Stimuli:
    """Return the gratings of a request.

    Raises
    ------
    InvalidRequestError
        Parameters do not fit the input, or one another.
    """
    image = info.image
    if image is None:
        raise UnsupportedError(f"Input {info.name!r} does not say how pictures are made ready.", subject=info.name)
    channels, height, width = info.shape
    canvas = Canvas((channels, height, width), image.mean, image.standard_deviation)
    _require_grid(params, canvas)
    varied = _varied(params, canvas)
    size = params.window_size * canvas.short_side if params.window != "none" else 0.0
    return Stimuli(
        canvas=canvas,
        orientations=tuning_stimuli.around(params.orientations, 180.0),
        frequencies=tuning_stimuli.frequencies(
            params.lowest_frequency, params.highest_frequency, params.frequencies, canvas.short_side
        ),
        phases=tuning_stimuli.around(params.phases, 360.0),
        base=Grating(
            contrast=params.contrast,
            colour=tuning_stimuli.pair_colour(params.pair, canvas),
            window=params.window,
            size=size,
        ),
        contrasts=np.arange(1, params.contrasts + 1) / params.contrasts if "contrast" in varied else np.zeros(0),
        sizes=tuning_stimuli.sizes(params.sizes, canvas.short_side) if "size" in varied else np.zeros(0),
        hues=tuning_stimuli.around(params.hues, 360.0) if "colour" in varied else np.zeros(0),
        places=params.positions if "position" in varied else 0,
        uniform="colour" in varied and params.colours == "uniform",
    )


def _require_grid(params: Params, canvas: Canvas) -> None:
    require(
        params.orientations % 2 == 0,
        "orientations",
        params.orientations,
        "must be even, so that each has another at a right angle",
    )
    require(params.phases % 2 == 0, "phases", params.phases, "must be even, so that each has its opposite")
    nyquist = (
        f"must be at most {_NYQUIST} cycles per pixel, the Nyquist frequency: finer stripes would look like coarser "
        "ones to the model"
    )
    require(params.highest_frequency <= _NYQUIST, "highest_frequency", params.highest_frequency, nyquist)
    lowest = params.lowest_frequency
    below = f"must be at most highest_frequency, {params.highest_frequency:g}"
    require(lowest is None or lowest <= params.highest_frequency, "lowest_frequency", lowest, below)
    plain = params.pair == "black-white" or canvas.coloured
    require(plain, "pair", params.pair, "must be 'black-white', as the input has one channel")


def _varied(params: Params, canvas: Canvas) -> frozenset[str]:
    """Return what is varied beside the grid."""
    names = [each.strip() for each in params.vary.split(",") if each.strip()]
    right = f"must name some of {', '.join(CURVES)}, or none"
    require(names == ["none"] or all(each in CURVES for each in names), "vary", params.vary, right)
    return frozenset(names) - {"none"} - (frozenset() if canvas.coloured else {"colour"})
