"""Makes a worker that imports it answer `Ablate` in parts, as none does in production: for tests of streams.

The first three values of the first row say what comes: how many parts, how many bytes each has, and whether the model
is run for each part. Each part says how many were made before it.
"""

import numpy as np
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.operations.rows import prepare
from pellucid_server.engine.operations.streams import Step, answers_in_parts
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray
from pellucid_server.vocabulary.requests import AblateRequest


@answers_in_parts("Ablate", AblateRequest)
def parts(context, request, resume):
    model = context.models.find(request.model)
    rows = prepare(context, model, request.inputs)
    (given,) = request.inputs.values()
    count, size, evaluated = (int(value) for value in given.array[0, :3])
    handle = context.handle(model)
    for number in range(resume.parts_done, count):
        if evaluated:
            handle.ask(Forward(Rows(rows.arrays)))
        values = NamedArray(np.full(size // 8, number, np.float64), (Axis("value"),))
        yield Step(Findings(arrays={"values": values}), (number + 1) / count)
