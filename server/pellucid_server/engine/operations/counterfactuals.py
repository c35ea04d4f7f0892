"""What a request for counterfactuals asks, row by row: what is wanted, and what may change."""

from dataclasses import replace

import numpy as np

from pellucid_server.engine.asking.counterfactuals import Cells, CounterfactualQuestion, Goal, Pixels
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.registry import Method, Need
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.ablate import Asked, reads
from pellucid_server.engine.operations.column_rules import Numbered, cell_column, rules_by_column
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.explain import require_finite
from pellucid_server.engine.operations.predict import outputs_of
from pellucid_server.engine.operations.rows import Rows, digest, prepare
from pellucid_server.engine.operations.streams import Resume
from pellucid_server.engine.operations.targets import Resolved, highest, resolve
from pellucid_server.engine.operations.terms import boxes
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import ColumnInfo
from pellucid_server.vocabulary.findings import AblationRecord
from pellucid_server.vocabulary.requests import AblateRequest, Outcome, TargetSpec


@reads("counterfactual")
def read_counterfactuals(
    context: RequestContext, model: LoadedModel, request: AblateRequest, method: Method, resume: Resume
) -> Asked:
    """Make a question of each row that the caller has no answer for yet.

    Raises
    ------
    InvalidRequestError
        The rows, the target, what is wanted or a rule is wrong, or the request has what the method does not take.
    """
    _refuse_unused(request, method)
    rows = prepare(context, model, request.inputs)
    if model.solo and rows.count > 1:
        text = f"inputs has {rows.count} rows, and those of {model.name} depend on one another; send one row at a time."
        raise InvalidRequestError(text, field="inputs")
    rules = rules_by_column(request.columns, _tables(model))
    outputs = outputs_of(context.handle(model, exact=request.exact), model, rows, exact=request.exact)
    predictions = [{name: each[number] for name, each in outputs.items()} for number in range(rows.count)]
    targets = [_target(model, request, prediction, number) for number, prediction in enumerate(predictions)]
    goals = [_goal(model, request, each, made) for each, made in zip(targets, predictions, strict=True)]
    cells = _cells(model, request, rows, rules)
    info = next(info for info in model.outputs if info.name == targets[0].target.output)
    width = predictions[0][info.name].size
    pixels, bounds = _pixels(model), boxes(model)
    questions = tuple(
        CounterfactualQuestion(
            inputs=rows.row(number),
            target=targets[number].target,
            goal=goals[number],
            features=model.features,
            number=number,
            labels=info.labels if len(info.labels) == width else (),
            cells=cells[number],
            pixels=pixels,
            boxes=bounds,
            background=model.background,
            disclosable=model.manifest.disclosable,
            gradients=model.obstacle(Need.GRADIENTS),
            seed=request.seed,
            time_share=1 / (rows.count - number),
        )
        for number in range(resume.parts_done, rows.count)
    )
    same = len({each.index for each in targets}) == 1
    return Asked(
        question=questions,
        input_digest=context.heavy(lambda: digest(rows.arrays), rows.arrays),
        target=targets[0].spec if same else replace(targets[0].spec, outcome=Outcome()),
        record=AblationRecord(metric=request.metric, wanted=request.wanted, columns=request.columns),
    )


def _refuse_unused(request: AblateRequest, method: Method) -> None:
    given = {
        "interventions": bool(request.interventions),
        "source": bool(request.source),
        "dataset": bool(request.dataset),
        "metric": request.metric != "score",
    }
    for field, is_set in given.items():
        if is_set:
            text = f"{field} is set, and {method.name} changes the input, not the network; leave it out."
            raise InvalidRequestError(text, field=field)
    if not request.inputs:
        raise InvalidRequestError(f"inputs is empty; {method.name} needs the rows to change.", field="inputs")


def _target(model: LoadedModel, request: AblateRequest, prediction: Arrays, number: int) -> Resolved:
    resolved = resolve(request.target, model.outputs, prediction, field="target")
    require_finite(resolved.value, number)
    return resolved


def _goal(model: LoadedModel, request: AblateRequest, target: Resolved, prediction: Arrays) -> Goal:
    """Say what is wanted of a row: bounds, an outcome, or any other than the row's own."""
    wanted, name = request.wanted, target.target.output
    if wanted.minimum is not None or wanted.maximum is not None:
        return Goal(minimum=wanted.minimum, maximum=wanted.maximum)
    if prediction[name].size < 2:
        where = "wanted" if wanted.outcome is None else "wanted.outcome"
        state = "is empty" if wanted.outcome is None else "is set"
        text = (
            f"{where} {state}, and output {name!r} has one number per row, which is always the highest; set "
            "wanted.minimum or wanted.maximum."
        )
        raise InvalidRequestError(text, field=where)
    if wanted.outcome is None:
        return Goal(other_than=highest(prediction[name]))
    spec = TargetSpec(output=name, outcome=wanted.outcome)
    return Goal(outcome=resolve(spec, model.outputs, prediction, field="wanted").target.elements[0][0])


def _tables(model: LoadedModel) -> dict[str, tuple[ColumnInfo, ...]]:
    return {name: each.info.columns for name, each in model.inputs.items() if isinstance(each, TablePreprocessor)}


def _cells(
    model: LoadedModel, request: AblateRequest, rows: Rows, rules: dict[tuple[str, str], Numbered]
) -> list[dict[str, Cells]]:
    """Return the tables of each row by input, in the caller's own terms."""
    found: list[dict[str, Cells]] = [{} for _ in range(rows.count)]
    for name, table in model.inputs.items():
        if not isinstance(table, TablePreprocessor):
            continue
        values = table.values(request.inputs[name])
        infos = table.info.columns
        background = table.decode(model.background[name]) if model.background else np.zeros((0, len(infos)))
        coded = np.array([bool(info.categories) for info in infos])
        for number in range(rows.count):
            columns = tuple(
                cell_column(info, rules.get((name, info.name)), float(values[number, at]), number)
                for at, info in enumerate(infos)
            )
            found[number][name] = Cells(
                columns=columns,
                values=values[number],
                encode=table.encode,
                elements=np.where(coded, -1, table.starts),
                slopes=table.slopes,
                background=background,
            )
    return found


def _pixels(model: LoadedModel) -> dict[str, Pixels]:
    images = {name: each.info.image for name, each in model.inputs.items()}
    return {
        name: Pixels(np.array(image.mean, float), np.array(image.standard_deviation, float), image.resize)
        for name, image in images.items()
        if image is not None
    }
