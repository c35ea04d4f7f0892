"""`Dissect`: what is inside a model; answered in parts, from states that another worker can go on from."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import Preview, ProbeQuestion, Saved
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.probe_layers import probe_layers
from pellucid_server.engine.operations.probe_sets import OpenedProbe, opened_probe
from pellucid_server.engine.operations.receipts import settled_parameters, stream_receipt
from pellucid_server.engine.operations.streams import Resume, Step, answers_in_parts
from pellucid_server.engine.operations.targets import element_of
from pellucid_server.engine.operations.terms import boxes, cells
from pellucid_server.errors import UnavailableError, UnsupportedError
from pellucid_server.vocabulary.findings import DissectionRecord, Findings, State
from pellucid_server.vocabulary.requests import DissectRequest, LayerSpec, TargetSpec
from pellucid_server.vocabulary.spans import METHOD


@answers_in_parts("Dissect", DissectRequest, resumes=True)
def dissect(context: RequestContext, request: DissectRequest, resume: Resume) -> Generator[Step, None, None]:
    """Yield what the method finds, part by part, and what it is a function of in the last part.

    A request whose worker was lost goes on from the method's last state; parts of the answer that were yielded behind
    it are made again and dropped, as they are a function of the request alone.

    Raises
    ------
    PellucidError
        The request is wrong, or the model does not allow the method.
    """
    model = context.models.find(request.model)
    method = registry.lookup(request.method, DISSECT, field="method")
    reason = model.refusal(method)
    if reason:
        text = f"{model.name} does not allow {method.name}: {reason}"
        raise UnsupportedError(text, subject=f"models/{model.name}/{model.version}")
    params = method.resolve(request.parameters)
    probe = opened_probe(context, model, request.probe)
    found_layers = probe_layers(context, model, request.layers, probe.rows)
    target = None if request.target is None else element_of(request.target, model.outputs, field="target")
    state = resume.checkpoint if isinstance(resume.checkpoint, State) else None
    if state is not None and state.probe != probe.digest:
        raise UnavailableError("The rows of the probe have changed since the request began; send it again.")
    question = ProbeQuestion(
        layers=found_layers.layers,
        probe=probe.rows,
        features=model.features,
        inputs={name: each.info for name, each in model.inputs.items()},
        outputs=model.outputs,
        target=None if target is None else target.target,
        seed=request.seed,
        exact=request.exact,
        state=state,
        background=model.background,
        disclosable=model.manifest.disclosable,
        cells=cells(model),
        boxes=boxes(model),
    )
    shares = _Shares(context)
    handle = replace(context, on_progress=shares.take).handle(model, exact=request.exact)
    standing = state or State(probe=probe.digest)
    # Parts behind the state that the method is at: those that callers have, and of these those that are made again.
    had = again = standing.parts
    last = Findings()
    with context.named(method.name), context.timed(f"dissect {method.name}", **{METHOD: method.name}) as inner:
        handle.tally.span = inner.span
        for found in method.function(handle, question, params):
            context.request.check()
            match found:
                case Saved(state=saved, rows_done=done, rows=rows):
                    had = again
                    standing = replace(saved, probe=probe.digest, parts=had)
                    shares.count(done, rows)
                    yield Step(Findings(), shares.last, checkpoint=True, state=standing, silent=True)
                case Preview(findings=preview):
                    yield Step(preview, shares.last, preview=True)
                case _:
                    last = replace(
                        found, accuracy=found.accuracy or last.accuracy, resolved={**last.resolved, **found.resolved}
                    )
                    if again:
                        again -= 1
                        continue
                    had += 1
                    yield Step(last, shares.last, checkpoint=True, state=replace(standing, parts=had))
    spec = None if target is None else target.spec
    yield Step(_last_part(context, model, request, params, spec, probe, found_layers.specs, handle, last), 1.0)


class _Shares:
    """The progress that a method reported last, in share and in rows."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self.last = 0.0

    def take(self, share: float) -> None:
        """Note progress and pass it on."""
        self.last = max(self.last, min(share, 1.0))
        self._context.on_progress(self.last)

    def count(self, done: int, rows: int) -> None:
        """Note how many rows are done."""
        request = self._context.request
        request.rows_done, request.rows_asked = done, rows
        if rows:
            self.take(done / rows)


def _last_part(
    context: RequestContext,
    model: LoadedModel,
    request: DissectRequest,
    params: Any,
    target: TargetSpec | None,
    probe: OpenedProbe,
    layers: tuple[LayerSpec, ...],
    handle: ModelHandle,
    last: Findings,
) -> Findings:
    receipt = stream_receipt(
        context,
        model,
        request,
        handle,
        parameters=settled_parameters(params, last.resolved),
        input_digest=probe.digest,
        target=target,
    )
    record = DissectionRecord(
        layers=layers,
        dataset=request.dataset,
        dataset_digest=probe.dataset_digest,
        rows=0 if request.probe is None else request.probe.rows,
        masks_digest=probe.masks_digest,
    )
    return Findings(
        accuracy=last.accuracy,
        warnings=probe.warnings,
        resolved=last.resolved,
        receipt=receipt,
        dissection=record,
    )
