"""`Attribute`: what a prediction was based on."""

from pellucid_server.engine.operations.explain import explain_row, read_order, require_time, time_share
from pellucid_server.engine.operations.predict import output_result
from pellucid_server.engine.operations.rows import prepare
from pellucid_server.engine.operations.session import Session
from pellucid_server.engine.registry import Cost
from pellucid_server.jobs import AttributeJob, AttributeResult, AttributionResult

_TOP = 5


def attribute(session: Session, job: AttributeJob) -> AttributeResult:
    """Explain every row by the method asked for.

    Raises
    ------
    PellucidError
        The request is wrong, the model does not allow the method, or there is not the time for it.
    """
    model = session.models.find(job.model)
    order = read_order(session, model, job.explanation, field="explanation")
    rows = prepare(session, model, job.inputs)
    require_time(session, model, order, rows, others=Cost(forward=rows.count))
    outputs = session.handle(model).forward(rows.arrays)

    def explain(number: int) -> AttributionResult:
        return explain_row(session, model, order, rows, number, outputs, time_share=time_share(number, rows.count))

    attributions = session.machinery.hub.map(explain, range(rows.count))
    info = next(info for info in model.outputs if info.name == attributions[0].output)
    return AttributeResult(tuple(attributions), output_result(info, outputs[info.name], _TOP))
