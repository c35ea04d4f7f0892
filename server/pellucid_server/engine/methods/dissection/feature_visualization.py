"""Feature visualization: pictures that a unit, a direction or a class responds to most, painted from noise.

Source: Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017; Fel et al., "Unlocking Feature
Visualization for Deep Networks with MAgnitude Constrained Optimization", NeurIPS 2023.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeQuestion, Yielded
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.methods.shared.painting.magnitudes import probe_magnitude
from pellucid_server.engine.methods.shared.painting.painting import Brush, Canvas, Painting
from pellucid_server.engine.methods.shared.painting.painting_search import PaintingSearch
from pellucid_server.engine.methods.shared.painting.parameterisations import (
    Colours,
    FourierParameters,
    MagnitudeParameters,
    Parameterisation,
    PixelParameters,
    frequency_scale,
)
from pellucid_server.engine.methods.shared.painting.views import Views
from pellucid_server.engine.methods.shared.searching.input_space import held_row, row_shapes
from pellucid_server.engine.methods.shared.searching.objectives import (
    Goals,
    ObjectiveParams,
    find_goals,
    objective_rows,
)
from pellucid_server.engine.methods.shared.searching.reached import (
    NO_PROBE,
    natural_columns,
    objective_columns,
    real_column,
)
from pellucid_server.engine.methods.shared.searching.searches import (
    Floats,
    Plan,
    Searched,
    natural_limit,
    search,
    trajectory_array,
)
from pellucid_server.errors import UnsupportedError
from pellucid_server.vocabulary.findings import Column, Findings, Table

_MOST_OBJECTIVES = 64
_STATE_BYTES = 8 << 20
_KEPT_ARRAYS = 3
_RATES = {"fourier": 0.05, "pixel": 0.05, "magnitude": 0.1}
_REACHED, _DEAD = "reached", "dead"


@dataclass(frozen=True, slots=True)
class Params(ObjectiveParams):
    """Parameters of feature visualization."""

    parameterization: str = parameter(
        "fourier",
        "What is optimised: fourier, the spectrum, scaled so that low frequencies count more; pixel, the pixels; "
        "magnitude, the phases of a spectrum whose magnitudes are fixed.",
        choices=tuple(_RATES),
    )
    decay: float = parameter(
        1.0,
        "Frequencies f count by 1 / f to this power: their scale for fourier, their magnitude where that is not the "
        "probe's.",
        minimum=0.0,
        maximum=4.0,
    )
    magnitude: str = parameter(
        "probe",
        "The magnitudes that are fixed: probe, the mean of those of the probe's pictures, where there is a probe; or "
        "power, by `decay`.",
        choices=("probe", "power"),
    )
    decorrelated: bool = parameter(
        True, "Whether colours are optimised as they vary in photographs, not as red, green and blue by themselves."
    )
    pictures: int = parameter(1, "Pictures of each objective.", minimum=1, maximum=8)
    diversity: float = parameter(
        0.0,
        "What a picture is charged for the mean cosine of its Gram matrix at the layer with those of the objective's "
        "other pictures, in units of the objective; costs a second pass up to the layer. Needs `pictures` above 1.",
        minimum=0.0,
        maximum=1e6,
    )
    steps: int = parameter(
        512,
        "Steps; each costs a row forward and backward for each picture. A picture is done sooner where the mean "
        "objective of 50 steps is less than 0.1 % above that of the 50 before.",
        minimum=1,
        maximum=4096,
    )
    learning_rate: float | None = parameter(
        None,
        "Step of Adam. Left out: 0.05, or 0.1 radians for magnitude.",
        minimum=1e-4,
        maximum=10.0,
    )
    jitter: int = parameter(12, "Pixels that each view is shifted by at most, along each axis.", minimum=0, maximum=256)
    scale: float = parameter(0.1, "Share by which each view is enlarged or reduced at most.", minimum=0.0, maximum=0.5)
    rotate: int = parameter(10, "Degrees by which each view is turned at most.", minimum=0, maximum=180)
    total_variation: float = parameter(
        0.0,
        "What a picture is charged for its total variation, the mean length of the step from a pixel to its "
        "neighbours, with levels from 0 to 1; in units of the objective.",
        minimum=0.0,
        maximum=1e6,
    )
    blur: float = parameter(
        0.0,
        "What it is charged for the mean squared difference from itself blurred by 5 by 5 pixels; likewise.",
        minimum=0.0,
        maximum=1e6,
    )
    l2: float = parameter(
        0.0, "What it is charged for the mean squared difference from mid-grey; likewise.", minimum=0.0, maximum=1e6
    )
    natural_rows: int = parameter(
        1000, "Rows of the probe at most that what is reached is compared with.", minimum=1, maximum=10000
    )


def _cost(params: Params, question: ProbeQuestion) -> Cost:
    natural = 0 if question.probe is None else min(question.probe.count, params.natural_rows)
    each = params.pictures * params.steps
    if not question.layers:
        return Cost(natural, each)
    steps = objective_rows(question, params, each)
    return Cost(others={"activations": natural, **steps})


@method(
    "feature-visualization",
    Params,
    verb=DISSECT,
    family="visualisation",
    source="Olah, Mordvintsev and Schubert 2017",
    cost=_cost,
    rows_parameter="steps",
    needs=(Need.GRADIENTS, Need.LAYERS),
    baselines=Background.NONE,
)
def feature_visualization(handle: Handle, question: ProbeQuestion, params: Params) -> Iterator[Yielded]:
    """Paint pictures that a unit, a direction or a class responds to most.

    Each picture is a function of parameters that are climbed by Adam, seen through random views. What is reached is
    measured on the picture itself, rounded to 8 bits, without a view. Where a rectifier lets no gradient through, the
    value before it is climbed.

    Raises
    ------
    InvalidRequestError
        There is nothing to maximise, or a parameter does not fit.
    UnsupportedError
        The model has no picture input, or several.
    """
    canvas, shape = _canvas(question)
    require(params.pictures > 1 or not params.diversity, "diversity", params.diversity, "needs pictures above 1")
    likened = not params.diversity or question.target is None
    require(likened, "diversity", params.diversity, "must be 0 where target is set, as a class has no layer")
    sought = find_goals(question, params, most=_MOST_OBJECTIVES)
    brush = _brush(handle, question, params, canvas, shape)
    parameters = 4 * int(np.prod(brush.parameterisation.shape))
    most = max(1, _STATE_BYTES // (params.pictures * (_KEPT_ARRAYS * parameters + 4 * int(np.prod(shape[1:])))))
    blocks = tuple(block for goals in sought for block in goals.split(most))

    def start(number: int, natural: Floats) -> PaintingSearch:
        painting = handle.beside(lambda: Painting(blocks[number], canvas, brush), byte_count=16 * parameters)
        return PaintingSearch(question, painting, canvas, brush, natural)

    plan = Plan(
        blocks=blocks,
        start=start,
        steps=params.steps,
        block_rows=[len(block.objectives) * params.pictures for block in blocks],
        natural_rows=natural_limit(params.natural_rows, blocks),
    )
    found = yield from search(handle, question, plan)
    yield _summary(question, params, brush, blocks, found)


def _canvas(question: ProbeQuestion) -> tuple[Canvas, tuple[int, ...]]:
    images = {name: info.image for name, info in question.inputs.items() if info.image is not None}
    if len(images) != 1:
        what = "no picture input" if not images else f"several picture inputs ({', '.join(images)})"
        text = f"The model has {what}; feature-visualization paints for one. activation-maximization takes any inputs."
        raise UnsupportedError(text, subject="inputs")
    ((name, image),) = images.items()
    shapes = row_shapes(question)
    held = {
        other: held_row(question, other, shapes[other], np.dtype(info.data_type))
        for other, info in question.inputs.items()
        if other != name
    }
    mean, deviation = (np.array(each, np.float32)[:, None, None] for each in (image.mean, image.standard_deviation))
    return Canvas(name, mean, deviation, held), shapes[name]


def _parameterisation(
    handle: Handle, question: ProbeQuestion, params: Params, canvas: Canvas, shape: tuple[int, ...], colours: Colours
) -> Parameterisation:
    channels, height, width = shape
    if params.parameterization == "pixel":
        return PixelParameters(shape)
    if params.parameterization == "fourier":
        return FourierParameters(channels, height, width, params.decay)
    if question.probe is None or params.magnitude == "power":
        scale = frequency_scale(height, width, params.decay)
        return MagnitudeParameters(np.repeat(scale[None], channels, axis=0), width)
    return MagnitudeParameters(probe_magnitude(handle, question.probe, canvas, colours, params.natural_rows), width)


def _brush(handle: Handle, question: ProbeQuestion, params: Params, canvas: Canvas, shape: tuple[int, ...]) -> Brush:
    colours = Colours(params.decorrelated and shape[0] == 3)
    rate = _RATES[params.parameterization] if params.learning_rate is None else params.learning_rate
    return Brush(
        parameterisation=_parameterisation(handle, question, params, canvas, shape, colours),
        colours=colours,
        views=Views(params.jitter, params.scale, params.rotate),
        steps=params.steps,
        rate=rate,
        pictures=params.pictures,
        diversity=params.diversity,
        total_variation=params.total_variation,
        blur=params.blur,
        l2=params.l2,
        transparency=params.parameterization == "magnitude",
        seed=question.seed,
    )


def _summary(
    question: ProbeQuestion, params: Params, brush: Brush, blocks: tuple[Goals, ...], found: Searched
) -> Findings:
    each, records = params.pictures, found.records
    columns = objective_columns(blocks, each)
    names = columns["objective"].values
    lit = records["lit"] > 0
    numbers = np.tile(np.arange(each), len(names) // each)
    columns |= {
        "picture": Column(numbers),
        "activation": real_column(records["activation"], "The objective at the picture as it is served, in 8 bits."),
        "start": real_column(records["start"], "The objective at the first step, as a view showed it."),
        **natural_columns(np.repeat(found.natural, each, axis=1), records["activation"]),
        "steps": Column(records["steps"].astype(np.int64)),
        "begun anew": Column(records["tries"].astype(np.int64), text="How often, as no gradient reached the start."),
        "status": Column(tuple(_REACHED if on else _DEAD for on in lit), text="dead: no gradient reached it."),
        "seed": Column((str(question.seed),) * len(names)),
    }
    warnings = [] if len(found.natural) else [NO_PROBE]
    dead = list(dict.fromkeys(name for name, on in zip(names, lit, strict=True) if not on))
    if dead:
        warnings.append(f"No gradient reached {', '.join(map(str, dead))}: there is no picture to show.")
    labels = [f"{name}/{number}" for name, number in zip(names, numbers.tolist(), strict=True)]
    return Findings(
        arrays={"trajectory": trajectory_array(labels, found.trajectory)},
        tables={"objectives": Table(columns, "What was reached of each objective, a row for each picture.")},
        warnings=tuple(warnings),
        resolved={"learning_rate": brush.rate},
    )
