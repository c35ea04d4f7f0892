"""What a request weighs before it is done: evaluation rows, by what a worker said of its methods, and bytes."""

from collections.abc import Mapping

from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import (
    AblateRequest,
    AttributeRequest,
    DissectRequest,
    ExplanationSpec,
    Input,
    ModelKey,
    PicturesInput,
    PredictRequest,
    Request,
    TableInput,
    TensorInput,
    TextsInput,
)

_MOST_ROWS = 1 << 20
"""Rows of one explanation of one row that are believed: the parameter they come from is not checked yet."""

_CELL_BYTES = 8


class CostEstimator:
    """Evaluation rows of requests, by the models and methods that a worker has.

    Of methods that average over a background, a coalition counts once, however many baseline rows it is evaluated
    with: those rows fill batches, and take far less time than as many rows of the requests beside them.
    """

    def __init__(self, hello: Hello) -> None:
        self._parameters = {method.name: method.rows_parameter for method in hello.methods}
        self._early = {method.name for method in hello.methods if method.answers_early}
        self._tolerant = {method.name for method in hello.methods if method.takes_tolerance}
        averaging = {method.name for method in hello.methods if "background" in method.baselines}
        self._rows: dict[tuple[str, int], Mapping[str, int]] = {}
        for model in sorted(hello.models, key=lambda each: each.key.version):
            averaged = max(model.background_rows, 1)
            rows = {
                entry.method: -(-entry.rows // averaged) if entry.method in averaging else entry.rows
                for entry in model.capabilities
            }
            # Version 0 is the highest.
            self._rows[model.key.name, model.key.version] = self._rows[model.key.name, 0] = rows

    def rows(self, request: Request) -> int:
        """Return how many rows a request should take; at least 1, and no more than an estimate."""
        count = _input_rows(request.inputs)
        if isinstance(request, AttributeRequest):
            return count * self._explanation_rows(request.model, request.explanation)
        return count * (1 + sum(self._explanation_rows(request.model, each) for each in _explanations(request)))

    def can_be_cut(self, request: Request) -> bool:
        """Tell whether a request answers before its deadline with what it has, however much that is."""
        if isinstance(request, AblateRequest):
            return not request.exact
        explanations = _explanations(request)
        return bool(explanations) and all(
            each.method in self._early or (each.tolerance is not None and each.method in self._tolerant)
            for each in explanations
        )

    def _explanation_rows(self, model: ModelKey, explanation: ExplanationSpec) -> int:
        asked = explanation.parameters.get(self._parameters.get(explanation.method, ""))
        if isinstance(asked, int) and not isinstance(asked, bool):
            return min(max(asked, 1), _MOST_ROWS)
        known = self._rows.get((model.name, model.version), {})
        return max(known.get(explanation.method, 0), 1)


def kind(request: Request) -> str:
    """Name what a request has in common with requests whose rows take as long."""
    model = (request.model.name, str(request.model.version))
    if isinstance(request, AblateRequest):
        return "/".join((*model, "ablate", request.method))
    if isinstance(request, DissectRequest):
        return "/".join((*model, "dissect", request.method))
    return "/".join((*model, *(each.method for each in _explanations(request))))


def size_bytes(request: Request) -> int:
    """Return how many bytes of arrays, pictures, texts and cells a request holds."""
    explanations = _explanations(request)
    groups: list[Mapping[str, Input]] = [request.inputs, *(each.baseline.inputs for each in explanations)]
    values = [value for each in explanations for value in each.parameters.values()]
    numbers = 0
    if isinstance(request, AblateRequest):
        groups.append(request.source)
        values += [*request.parameters.values()]
        values += [each.vector for each in request.interventions if each.vector is not None]
        numbers = sum(len(site.units) + len(site.positions) for each in request.interventions for site in each.sites)
    if isinstance(request, DissectRequest):
        values += [*request.parameters.values()]
        masks = () if request.probe is None else request.probe.masks
        values += [each.mask for each in masks if each.mask is not None]
        numbers = sum(len(each.units) for each in request.layers)
    inputs = sum(_input_bytes(each) for group in groups for each in group.values())
    return inputs + sum(map(_value_bytes, values)) + _CELL_BYTES * numbers


def _explanations(request: Request) -> tuple[ExplanationSpec, ...]:
    match request:
        case PredictRequest(explanations=explanations):
            return explanations
        case AttributeRequest(explanation=explanation):
            return (explanation,)
        case _:
            return ()


def _input_rows(inputs: Mapping[str, Input]) -> int:
    for each in inputs.values():
        match each:
            case TensorInput(array=array):
                return len(array) or 1 if array.ndim else 1
            case PicturesInput(encoded=found):
                return len(found) or 1
            case TextsInput(texts=found):
                return len(found) or 1
            case TableInput(rows=found):
                return len(found) or 1
    return 1


def _input_bytes(given: Input) -> int:
    match given:
        case TensorInput(array=array):
            return array.nbytes
        case PicturesInput(encoded=found):
            return sum(map(len, found))
        case TextsInput(texts=found):
            return sum(map(_value_bytes, found))
        case TableInput(rows=found):
            return sum(len(name) + _value_bytes(cell) for row in found for name, cell in row.items())


def _value_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return int(getattr(value, "nbytes", _CELL_BYTES))
