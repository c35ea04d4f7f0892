"""`Attribute`: what a prediction was based on."""

from pellucid_server.engine.asking.registry import Cost
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.explain import explain_row, prepare_explanation, require_time, time_share
from pellucid_server.engine.operations.predict import RANKING_EFFORT, output_result, outputs_of
from pellucid_server.engine.operations.rows import prepare
from pellucid_server.vocabulary.requests import AttributeRequest
from pellucid_server.vocabulary.results import AttributeResult, AttributionResult

_TOP = 5


def attribute(context: RequestContext, request: AttributeRequest) -> AttributeResult:
    """Explain every row by the method asked for.

    Raises
    ------
    PellucidError
        The request is wrong, the model does not allow the method, or there is not the time for it.
    """
    model = context.models.find(request.model)
    prepared = prepare_explanation(context, model, request.explanation, field="explanation")
    rows = prepare(context, model, request.inputs)
    require_time(context, model, prepared, rows, others=Cost(forward=rows.count))
    exact = request.explanation.exact
    outputs = outputs_of(context.handle(model, exact=exact), model, rows, exact=exact)
    of_row = context.of_parts(rows.count)

    def explain(number: int) -> AttributionResult:
        part, share = of_row(number), time_share(number, rows.count)
        result = explain_row(part, model, prepared, rows, number, outputs, time_share=share)
        part.on_progress(1.0)
        return result

    attributions = context.services.hub.map(explain, range(rows.count))
    info = next(info for info in model.outputs if info.name == attributions[0].output)
    shown = context.heavy(lambda: output_result(info, outputs[info.name], _TOP), outputs, effort=RANKING_EFFORT)
    return AttributeResult(tuple(attributions), shown)
