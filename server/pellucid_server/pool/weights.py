"""What a job weighs before it is done: evaluation rows, by what a worker said of its methods, and bytes."""

from collections.abc import Iterable, Mapping

from pellucid_server.jobs import (
    AttributeJob,
    ExplanationSpec,
    Hello,
    Input,
    Job,
    ModelKey,
    PicturesInput,
    PredictJob,
    TableInput,
    TensorInput,
    TextsInput,
)

_MOST_ROWS = 1 << 20
"""Rows of one explanation of one row that are believed: the parameter they come from is not checked yet."""

_CELL_BYTES = 8


class Weights:
    """Evaluation rows of jobs, by the models and methods that a worker has."""

    def __init__(self, hello: Hello) -> None:
        self._parameters = {method.name: method.rows_parameter for method in hello.methods}
        self._early = {method.name for method in hello.methods if method.answers_early}
        self._averaging = {method.name for method in hello.methods if "background" in method.baselines}
        self._tolerant = {method.name for method in hello.methods if method.takes_tolerance}
        self._rows: dict[tuple[str, int], Mapping[str, int]] = {}
        self._background_rows: dict[tuple[str, int], int] = {}
        for model in sorted(hello.models, key=lambda each: each.key.version):
            rows = {entry.method: entry.rows for entry in model.capabilities}
            # Version 0 is the highest.
            for version in (model.key.version, 0):
                self._rows[model.key.name, version] = rows
                self._background_rows[model.key.name, version] = max(model.background_rows, 1)

    def rows(self, job: Job) -> int:
        """Return how many rows a job should take; at least 1, and no more than an estimate."""
        count = _input_rows(job.inputs)
        if isinstance(job, AttributeJob):
            return count * self._explanation_rows(job.model, job.explanation)
        if not job.explanations:
            return count
        return count * (1 + sum(self._explanation_rows(job.model, each) for each in job.explanations))

    def can_be_cut(self, job: Job) -> bool:
        """Tell whether a job answers before its deadline with what it has, however much that is."""
        explanations = job.explanations if isinstance(job, PredictJob) else (job.explanation,)
        return bool(explanations) and all(
            each.method in self._early or (each.tolerance is not None and each.method in self._tolerant)
            for each in explanations
        )

    def _explanation_rows(self, model: ModelKey, explanation: ExplanationSpec) -> int:
        key = (model.name, model.version)
        default = self._background_rows.get(key, 1) if explanation.method in self._averaging else 1
        baselines = self._baseline_rows(explanation, default)
        asked = explanation.parameters.get(self._parameters.get(explanation.method, ""))
        if isinstance(asked, int) and not isinstance(asked, bool):
            return min(max(asked, 1) * baselines, _MOST_ROWS)
        # What is known was counted with the default baseline.
        return max(self._rows.get(key, {}).get(explanation.method, 0) * baselines // default, 1)

    def _baseline_rows(self, explanation: ExplanationSpec, default: int) -> int:
        """Return how many rows each of the method's is evaluated with, of a method that averages over a background."""
        kind = explanation.baseline.kind
        if explanation.method not in self._averaging or kind in ("", "background"):
            return default
        return _input_rows(explanation.baseline.inputs) if kind == "given" else 1


def kind(job: Job) -> str:
    """Name what a job has in common with jobs whose rows take as long."""
    explanations = job.explanations if isinstance(job, PredictJob) else (job.explanation,)
    return "/".join((job.model.name, str(job.model.version), *(each.method for each in explanations)))


def size_bytes(job: Job) -> int:
    """Return how many bytes of arrays, pictures, texts and cells a job holds."""
    explanations = job.explanations if isinstance(job, PredictJob) else (job.explanation,)
    groups: Iterable[Mapping[str, Input]] = (job.inputs, *(each.baseline.inputs for each in explanations))
    inputs = sum(_input_bytes(each) for group in groups for each in group.values())
    return inputs + sum(_value_bytes(value) for each in explanations for value in each.parameters.values())


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
