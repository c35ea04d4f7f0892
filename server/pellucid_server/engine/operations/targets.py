"""From the target that a caller names to the scalar that a method explains."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Target
from pellucid_server.engine.evaluations.targets import probabilities
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import OutputInfo
from pellucid_server.vocabulary.requests import Outcome, TargetSpec


@dataclass(frozen=True, slots=True)
class Resolved:
    """A target for one row: the scalar, and how to tell the caller of it."""

    target: Target
    spec: TargetSpec
    index: tuple[int, ...]
    label: str
    value: float
    """The target's score at the row, by the prediction."""


def resolve(spec: TargetSpec, infos: tuple[OutputInfo, ...], outputs: Arrays, *, field: str) -> Resolved:
    """Find the scalar that `spec` names.

    Parameters
    ----------
    outputs
        The prediction of one row, (*shape) each: it decides what the highest element is.
    field
        Path of the target in the request, for messages.

    Raises
    ------
    InvalidRequestError
        There is no such output, element or label, or the output cannot be read in that space.
    """
    info = output_of(spec.output, infos, field)
    values = outputs[info.name]
    space = _space(spec.space, info, field)
    index = _element(spec.outcome, info, values, f"{field}.outcome")
    flat = _flat(index, values.shape)
    elements: tuple[tuple[int, float], ...] = ((flat, 1.0),)
    contrast = None
    if spec.contrast is not None:
        where = f"{field}.contrast"
        if not (spec.contrast.index or spec.contrast.label):
            raise InvalidRequestError(f"{where} is empty; set its index or its label.", field=where)
        against = _element(spec.contrast, info, values, where)
        if not values.shape:
            text = f"{where} is set, but output {info.name!r} has one number per row; leave the contrast out."
            raise InvalidRequestError(text, field=where)
        if against == index:
            text = f"{where} is {_named(against, info)}, which is the outcome itself; name another element."
            raise InvalidRequestError(text, field=where)
        elements += ((_flat(against, values.shape), -1.0),)
        contrast = Outcome(index=against)
    with np.errstate(invalid="ignore", over="ignore"):
        read = probabilities(values[None].astype(np.float64), space).reshape(-1)
    return Resolved(
        target=Target(info.name, elements, space),
        spec=TargetSpec(info.name, Outcome(index=index), contrast, spec.space or _natural_space(info)),
        index=index,
        label=_label(index, info),
        value=sum(weight * float(read[element]) for element, weight in elements),
    )


def element_of(spec: TargetSpec, infos: tuple[OutputInfo, ...], *, field: str) -> Resolved:
    """Find the scalar that `spec` names where there is no row by which an element could be the highest.

    Its value is that of an output of zeros, and says nothing.

    Raises
    ------
    InvalidRequestError
        There is no such output, element or label, none is named, or the output cannot be read in that space.
    """
    info = output_of(spec.output, infos, field)
    if any(length < 0 for length in info.shape):
        text = f"{field} is of {info.name!r}, whose rows differ in shape; choose another output."
        raise InvalidRequestError(text, field=f"{field}.output")
    if info.shape and not (spec.outcome.index or spec.outcome.label):
        where = f"{field}.outcome"
        raise InvalidRequestError(f"{where} is empty; set its index or its label.", field=where)
    return resolve(spec, infos, {info.name: np.zeros(info.shape)}, field=field)


def highest(values: npt.NDArray[np.generic]) -> int:
    """Return the flat index of the highest value, the lowest of equal ones: the class that a prediction names first.

    However close two values are, what is explained is what was predicted. None may be NaN.
    """
    return int(values.reshape(-1).argmax())


def _flat(index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    return index[0] if len(index) == 1 else int(np.ravel_multi_index(index, shape)) if index else 0


def output_of(name: str, infos: tuple[OutputInfo, ...], field: str) -> OutputInfo:
    """Return the output that a target at `field` names; without a name, the first that can be explained.

    Raises
    ------
    InvalidRequestError
        There is none.
    """
    explainable = [info for info in infos if info.data_type.startswith(("float", "bfloat"))]
    chosen = next((info for info in explainable if name in ("", info.name)), None)
    if chosen is None:
        names = ", ".join(info.name for info in explainable) or "none, as their values are not floating-point"
        where = f"{field}.output"
        raise InvalidRequestError(f"{where} is {name!r}; outputs that can be explained: {names}.", field=where)
    return chosen


def _natural_space(info: OutputInfo) -> str:
    return {"logits": "logits", "sigmoid-logits": "logits", "probabilities": "probabilities"}.get(info.kind, "")


def _space(space: str, info: OutputInfo, field: str) -> str:
    """Return how programs read the output: as it is, or through softmax or sigmoid."""
    if space in ("", _natural_space(info)):
        return ""
    if space == "probabilities" and info.kind in ("logits", "sigmoid-logits"):
        return "softmax" if info.kind == "logits" else "sigmoid"
    where = f"{field}.space"
    text = f"{where} is {space}, but output {info.name!r} gives {info.kind}; leave the space out."
    raise InvalidRequestError(text, field=where)


def _element(outcome: Outcome, info: OutputInfo, values: npt.NDArray[np.generic], field: str) -> tuple[int, ...]:
    if outcome.label:
        return _by_label(outcome.label, info, values.shape, field)
    if not outcome.index:
        _require_rank(values, info, field)
        place = highest(values)
        return (place,) if values.ndim == 1 else tuple(int(part) for part in np.unravel_index(place, values.shape))
    shape = values.shape
    if not shape and outcome.index == (0,):
        return ()
    if len(outcome.index) != len(shape) or any(
        not 0 <= part < length for part, length in zip(outcome.index, shape, strict=False)
    ):
        text = (
            f"{field}.index is {list(outcome.index)}; a row of output {info.name!r} has shape {list(shape)}, "
            f"so it takes {len(shape)} {'index' if len(shape) == 1 else 'indices'}, each from 0 to the length less 1."
        )
        raise InvalidRequestError(text, field=f"{field}.index")
    return outcome.index


def _require_rank(values: npt.NDArray[np.generic], info: OutputInfo, field: str) -> None:
    """Refuse to name the highest of values of which some have no rank."""
    missing = np.isnan(np.asarray(values, np.float64).reshape(-1))
    if missing.any() and not values.shape:
        text = f"Output {info.name!r} is NaN; send rows for which the model's outputs are finite."
        raise InvalidRequestError(text, field=field)
    if missing.any():
        text = (
            f"Output {info.name!r} has NaN in {int(missing.sum())} of its {missing.size} values, first at index "
            f"{index_text(missing, values.shape)}, so that none is the highest; send rows for which the model's "
            f"outputs are finite, or name an element in {field}."
        )
        raise InvalidRequestError(text, field=field)


def index_text(found: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> str:
    """Write the first index where `found` is true, on each axis of `shape`."""
    return str([int(part) for part in np.unravel_index(int(found.reshape(-1).argmax()), shape)])


def _by_label(label: str, info: OutputInfo, shape: tuple[int, ...], field: str) -> tuple[int, ...]:
    where = f"{field}.label"
    if not info.labels or len(shape) > 1:
        raise InvalidRequestError(
            f"Output {info.name!r} has no labels; give an index in place of {where}.", field=where
        )
    if label not in info.labels:
        near = [known for known in info.labels if label.lower() in known.lower()][:5]
        hint = f" Labels that contain it: {', '.join(near)}." if near else ""
        text = f"{where} is {label!r}, which is none of the {len(info.labels)} labels of {info.name!r}.{hint}"
        raise InvalidRequestError(text, field=where)
    places = [index for index, known in enumerate(info.labels) if known == label]
    if len(places) > 1:
        listed = ", ".join(map(str, places))
        raise InvalidRequestError(
            f"{where} {label!r} is the label of the indices {listed}; give one of them.", field=where
        )
    return (places[0],) if shape else ()


def _label(index: tuple[int, ...], info: OutputInfo) -> str:
    """Return an element's label; the only number of a row has the only label."""
    return info.labels[index[-1] if index else 0] if info.labels else ""


def _named(index: tuple[int, ...], info: OutputInfo) -> str:
    return _label(index, info) or str(list(index))
