"""Findings of tuning curves for gratings: arrays of curves, and the table of preferences, a layer at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import ProbeLayer
from pellucid_server.engine.methods.shared.columns import number_column
from pellucid_server.engine.methods.shared.tuning import tuning_measures as measures
from pellucid_server.engine.methods.shared.tuning.tuned import Tuned, suppression
from pellucid_server.engine.methods.shared.tuning.tuning_measures import Floats, peak, ratio
from pellucid_server.engine.methods.shared.tuning.tuning_stimuli import Stimuli
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, Table

MOST_GRID_BYTES = 4 << 20
"""The responses to the whole grid are part of the answer up to this size."""

_MOSTLY = 0.75
"""Share of what the gratings evoke that lies below the blank's response, from which on a warning says so: of a linear
unit it is a half."""

_SEQUENCE = 2
"""Axes of a layer whose positions are on one, such as tokens."""

PREFERENCES = "preferences"
"""The table of every layer's units."""

_DIRECTION = (
    "Selectivity for the direction of motion. It is 0 by symmetry: a grating that drifts one way shows a network of "
    "single frames the same pictures as one that drifts the other way."
)


def unit_axis(layer: ProbeLayer) -> Axis:
    """Return the axis of a layer's units, which are numbered as in the layer."""
    return Axis("unit", coordinates=layer.units)


def findings(
    layer: ProbeLayer, stimuli: Stimuli, found: Tuned, curves: Mapping[str, Floats], response: str
) -> Findings:
    """Return what was found of a layer.

    Parameters
    ----------
    curves
        Evoked responses to variations of each unit's best grating, and "colour" where hues were uniform, (units, n).
    response
        How positions became one response.
    """
    arrays = {**_grid_curves(layer, stimuli, found), **_other_curves(layer, stimuli, curves)}
    if found.evoked.size * 4 <= MOST_GRID_BYTES:
        arrays["responses"] = NamedArray(
            found.evoked.astype(np.float32),
            (unit_axis(layer), _orientations(stimuli), _frequencies(stimuli), _phases(stimuli)),
            text="Response to each grating of the grid, less that to the blank.",
        )
    columns = _preferences(layer, stimuli, found, curves)
    return Findings(
        arrays={f"{layer.name}/{name}": array for name, array in arrays.items()},
        tables={PREFERENCES: Table(columns, "What each unit prefers; missing where it has no preference.")},
        warnings=_warnings(layer, found, response),
    )


def joined(parts: Sequence[Findings]) -> Findings:
    """Put what was found of several layers into one, without the responses to the whole grid, which are long."""
    tables = [part.tables[PREFERENCES] for part in parts]
    columns = {name: _joined_column([table.columns[name] for table in tables]) for name in tables[0].columns}
    return Findings(
        arrays={
            name: array for part in parts for name, array in part.arrays.items() if not name.endswith("/responses")
        },
        tables={PREFERENCES: Table(columns, tables[0].text)},
        warnings=tuple(text for part in parts for text in part.warnings),
    )


def _joined_column(columns: Sequence[Column]) -> Column:
    first = columns[0]
    if isinstance(first.values, tuple):
        return Column(tuple(text for each in columns for text in each.values), None, first.unit, first.text)
    missing = [each.missing for each in columns if each.missing is not None]
    values = np.concatenate([np.asarray(each.values) for each in columns])
    return Column(values, np.concatenate(missing) if missing else None, first.unit, first.text)


def _warnings(layer: ProbeLayer, found: Tuned, response: str) -> tuple[str, ...]:
    said = []
    shape = layer.layer.shape
    if response == "centre" and len(shape) == _SEQUENCE and layer.layer.positions > 1:
        said.append(
            f"{layer.name} has its {layer.layer.positions} positions on one axis; the middle one, whose response this "
            "is, need not lie in the middle of the picture. Ask for the mean or the max of them."
        )
    silent = int((~found.responsive).sum())
    if silent:
        said.append(f"{silent} of {len(found.responsive)} units of {layer.name} do not respond to the gratings.")
    below = found.negative_share > _MOSTLY
    if below.any():
        said.append(
            f"{int(below.sum())} of {len(below)} units of {layer.name} respond to gratings mostly less than to the "
            "blank; their preferences say little."
        )
    return tuple(said)


def _orientations(stimuli: Stimuli) -> Axis:
    return Axis("orientation", coordinates=stimuli.orientations, unit="degrees")


def _frequencies(stimuli: Stimuli) -> Axis:
    return Axis("spatial frequency", coordinates=stimuli.frequencies, unit="cycles/pixel")


def _phases(stimuli: Stimuli) -> Axis:
    return Axis("phase", coordinates=stimuli.phases, unit="degrees")


def _grid_curves(layer: ProbeLayer, stimuli: Stimuli, found: Tuned) -> dict[str, NamedArray]:
    units = unit_axis(layer)
    return {
        "orientation": NamedArray(
            found.over_orientation,
            (units, _orientations(stimuli)),
            text="Response over the orientation of the stripes, at the unit's best spatial frequency.",
        ),
        "spatial-frequency": NamedArray(
            found.over_frequency,
            (units, _frequencies(stimuli)),
            text="Response over spatial frequency, at the unit's best orientation.",
        ),
        "cycles-per-image": NamedArray(
            stimuli.frequencies * stimuli.canvas.short_side,
            (_frequencies(stimuli),),
            unit="cycles/image",
            text="The same frequencies in cycles across the shorter side of the model's input.",
        ),
        "phase": NamedArray(
            found.at_best(found.evoked),
            (units, _phases(stimuli)),
            text="Response over phase, at the unit's best orientation and spatial frequency; less that to the blank.",
        ),
    }


def _other_curves(layer: ProbeLayer, stimuli: Stimuli, curves: Mapping[str, Floats]) -> dict[str, NamedArray]:
    places = {
        "contrast": Axis("contrast", coordinates=stimuli.contrasts, unit="Michelson contrast"),
        "size": Axis("size", coordinates=stimuli.sizes, unit="of the shorter side"),
        "colour": Axis("hue", coordinates=stimuli.hues, unit="degrees"),
    }
    texts = {
        "contrast": "Response over contrast, to the unit's best grating",
        "size": "Response over the diameter of the window, to the unit's best grating",
        "colour": "Response over hue at constant luma, to " + ("uniform pictures" if stimuli.uniform else "gratings"),
    }
    units = unit_axis(layer)
    found = {
        name: NamedArray(curves[name], (units, axis), text=f"{texts[name]}; less that to the blank.", missing=True)
        for name, axis in places.items()
        if name in curves
    }
    if "position" in curves:
        across, down = stimuli.centres
        axes = (
            units,
            Axis("vertical", coordinates=down, unit="pixels below the middle"),
            Axis("horizontal", coordinates=across, unit="pixels to the right of the middle"),
        )
        text = "Response over the place of the window, to the unit's best grating; less that to the blank."
        found["position"] = NamedArray(
            curves["position"].reshape(-1, stimuli.places, stimuli.places), axes, text=text, missing=True
        )
    return found


def _preferences(layer: ProbeLayer, stimuli: Stimuli, found: Tuned, curves: Mapping[str, Floats]) -> dict[str, Column]:
    unresponsive = ~found.responsive
    none = np.where(unresponsive, np.nan, 0.0)
    columns = {
        **_orientation_columns(stimuli, found, none),
        **_frequency_columns(stimuli, found, none),
        **_phase_columns(stimuli, found, none),
        **_other_columns(stimuli, found, curves, none),
    }
    return {
        "layer": Column((layer.name,) * len(layer.units)),
        "unit": Column(layer.units),
        "responsive": Column(found.responsive, text="Whether it responds to the gratings at all, beyond rounding."),
        "response": Column(
            found.at_best(found.measure), text="To its best grating, less that to the blank, over phases."
        ),
        "blank": Column(found.blank, text="Response to the blank, a uniform grey of level 0.5."),
        "negative share": number_column(
            found.negative_share, text="Of all that the gratings evoke, the share below the response to the blank."
        ),
        **columns,
    }


def _orientation_columns(stimuli: Stimuli, found: Tuned, none: Floats) -> dict[str, Column]:
    curves, degrees = found.over_orientation, stimuli.orientations
    length, direction = measures.vector_sum(curves, degrees, 180.0)
    length += none
    flat = np.where(_is_flat(curves), np.nan, none)
    fit = measures.von_mises(curves, degrees)
    step = 180.0 / len(degrees)
    across = "|sum r e^(2it)| / sum r over orientations t"
    return {
        "orientation": number_column(
            direction + none, "degrees", "Preferred orientation of the stripes, half the angle of the vector sum."
        ),
        "peak orientation": number_column(
            degrees[found.orientation] + flat, "degrees", "The measured one with most response."
        ),
        "OSI": number_column(length, text=f"Orientation selectivity: {across}."),
        "circular variance": number_column(1 - length, text=f"1 - {across}."),
        "classic OSI": number_column(
            measures.classic_selectivity(curves) + none, text="(preferred - orthogonal) / (preferred + orthogonal)."
        ),
        "DSI": number_column(none, text=_DIRECTION),
        "half width": number_column(
            measures.half_width(curves, step) + none, "degrees", "At half height; straight lines between orientations."
        ),
        "von Mises half width": number_column(
            fit.width + none, "degrees", "At half height of the von Mises curve fitted."
        ),
        "von Mises fit": number_column(
            fit.explained + none, text="Share of the curve's variance that the fit explains."
        ),
    }


def _frequency_columns(stimuli: Stimuli, found: Tuned, none: Floats) -> dict[str, Column]:
    curves, frequencies = found.over_frequency, stimuli.frequencies
    best = frequencies[found.frequency] + none
    fit = measures.log_gaussian(curves, frequencies)
    return {
        "spatial frequency": number_column(best, "cycles/pixel", "The measured one with most response."),
        "spatial frequency in the image": number_column(
            best * stimuli.canvas.short_side, "cycles/image", "The same, in cycles across the shorter side."
        ),
        "fitted spatial frequency": number_column(
            fit.peak + none, "cycles/pixel", "The peak of the Gaussian over log frequency fitted, if it is inside."
        ),
        "bandwidth": number_column(
            measures.octave_width(curves, frequencies) + none,
            "octaves",
            "Full width at half height; straight lines between frequencies.",
        ),
        "fitted bandwidth": number_column(fit.width + none, "octaves", "Full width at half height of that Gaussian."),
        "frequency fit": number_column(
            fit.explained + none, text="Share of the curve's variance that the fit explains."
        ),
    }


def _phase_columns(stimuli: Stimuli, found: Tuned, none: Floats) -> dict[str, Column]:
    mean, first = found.at_best(found.f0), found.at_best(found.f1)
    over_phase = found.at_best(found.evoked)
    flat = np.where(_is_flat(over_phase), np.nan, none)
    return {
        "phase": number_column(stimuli.phases[found.phase] + flat, "degrees", "The measured one with most response."),
        "F0": number_column(mean + none, text="Mean over phases, at the best orientation and frequency."),
        "F1": number_column(first + none, text="Amplitude of the first harmonic over phases, likewise."),
        "F1/F0": number_column(ratio(first, mean) + none, text="Above 1 for simple cells, below for complex ones."),
    }


def _other_columns(stimuli: Stimuli, found: Tuned, curves: Mapping[str, Floats], none: Floats) -> dict[str, Column]:
    counted = {name: np.nan_to_num(found.counted(each)) for name, each in curves.items()}
    columns: dict[str, Column] = {}
    if "contrast" in counted:
        half = measures.half_level(counted["contrast"], stimuli.contrasts)
        text = "Contrast at which the response is half its highest; straight lines between contrasts."
        columns["c50"] = number_column(half + none, "Michelson contrast", text)
    if "size" in counted:
        sizes = counted["size"]
        best = np.where(sizes.max(axis=1) > 0, stimuli.sizes[peak(sizes)], np.nan)
        columns["size"] = number_column(
            best + none, "of the shorter side", "Diameter with most response; the smallest one."
        )
        text = "(highest - that of the largest diameter) / highest."
        columns["suppression index"] = number_column(suppression(sizes) + none, text=text)
    if "colour" in counted:
        # Uniform colours drive units too that no grating does.
        base = np.zeros(len(none)) if stimuli.uniform else none
        base = np.where(_is_silent(counted["colour"], found), np.nan, base)
        length, direction = measures.vector_sum(counted["colour"], stimuli.hues, 360.0)
        columns["hue"] = number_column(
            direction + base, "degrees", "Preferred hue, the angle of the vector sum; 0 is red."
        )
        columns["hue selectivity"] = number_column(length + base, text="|sum r e^(it)| / sum r over hues t.")
    return columns


def _is_flat(curves: Floats) -> npt.NDArray[np.bool_]:
    """Whether a curve is constant but for rounding, so that it has no peak."""
    return np.asarray(np.ptp(curves, axis=1) <= measures.FLAT * np.abs(curves).max(axis=1), np.bool_)


def _is_silent(curves: Floats, found: Tuned) -> npt.NDArray[np.bool_]:
    """Whether a unit's responses are small beside all that it has elsewhere, such as rounding is."""
    elsewhere = np.maximum(np.abs(found.blank), np.abs(found.evoked).reshape(len(curves), -1).max(axis=1))
    return np.asarray(curves.max(axis=1) <= measures.NEAR * elsewhere, np.bool_)
