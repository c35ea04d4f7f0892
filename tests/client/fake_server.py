"""A server whose replies are written by hand, and such replies."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1.health import HealthServicer
from pellucid.tensors import to_tensor
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    findings_pb2,
    input_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

DIGEST = "ab" * 32


@dataclass
class Failure:
    """A status that a call is answered with in place of its reply."""

    code: grpc.StatusCode
    text: str = ""
    trailing: tuple[tuple[str, Any], ...] = ()


class FakeHealth(HealthServicer):
    """The health service, whose first watches end with the statuses queued in `failures`."""

    def __init__(self):
        super().__init__()
        self.failures = deque()

    def Watch(self, request, context, send_response_callback=None):
        if self.failures:
            failure = self.failures.popleft()
            context.abort(failure.code, failure.text)
        return super().Watch(request, context, send_response_callback)


@dataclass
class FakeServer(explanation_service_pb2_grpc.ExplanationServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Answers with `replies` by RPC, after the `failures` queued for it; keeps what it was asked."""

    replies: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, deque[Failure]] = field(default_factory=lambda: defaultdict(deque))
    requests: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    remaining: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    metadata: list[dict[str, str]] = field(default_factory=list)
    health: FakeHealth = field(default_factory=FakeHealth)
    address: str = ""

    def Predict(self, request, context):
        return self._answer("Predict", request, context)

    def Attribute(self, request, context):
        return self._answer("Attribute", request, context)

    def Ablate(self, request, context):
        """Send the messages of the reply: a list, or what a function yields."""
        yield from self._answer("Ablate", request, context)

    def Dissect(self, request, context):
        """Send the messages of the reply: a list, or what a function yields."""
        yield from self._answer("Dissect", request, context)

    def ListModels(self, request, context):
        return self._answer("ListModels", request, context)

    def ListMethods(self, request, context):
        return self._answer("ListMethods", request, context)

    def ListDatasets(self, request, context):
        return self._answer("ListDatasets", request, context)

    def GetModel(self, request, context):
        self._answer("GetModel", request, context)
        return MODELS[request.model.name]

    def _answer(self, rpc, request, context):
        self.requests[rpc].append(request)
        self.remaining[rpc].append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures[rpc]:
            failure = self.failures[rpc].popleft()
            context.set_trailing_metadata(failure.trailing)
            context.abort(failure.code, failure.text)
        reply = self.replies.get(rpc)
        return reply(request, context) if callable(reply) else reply


def _spec(name):
    return explanation_pb2.ModelSpec(name=name, version=3, digest=DIGEST)


def _input(name, modality, shape, **more):
    return model_service_pb2.InputSignature(
        name=name, modality=f"MODALITY_{modality}", data_type="DATA_TYPE_FLOAT32", shape=shape, **more
    )


_IMAGE = _input(
    "image",
    "IMAGE",
    [3, 224, 224],
    image=model_service_pb2.ImagePreprocessing(resize=256, crop_height=224, crop_width=224, interpolation="bicubic"),
)
_COLUMNS = [
    model_service_pb2.Column(name="age", minimum=0, maximum=99, unit="years"),
    model_service_pb2.Column(name="colour", categories=["red", "green"]),
]
_CLASSES = model_service_pb2.OutputSignature(
    name="logits", kind="OUTPUT_KIND_LOGITS", data_type="DATA_TYPE_FLOAT32", shape=[3], labels=["cat", "dog", "[owl]"]
)
_VALUE = model_service_pb2.OutputSignature(name="risk", kind="OUTPUT_KIND_VALUES", data_type="DATA_TYPE_FLOAT32")


def _model(name, inputs):
    return model_service_pb2.GetModelResponse(
        model=_spec(name),
        description=f"The {name} model.",
        inputs=inputs,
        outputs=[_CLASSES, _VALUE],
        layers=[
            model_service_pb2.Layer(
                name="body.conv#2", type="Conv2d", shape=[8, -1, -1], units=8, cuttable=True, heads=3, branch=True
            )
        ],
        capabilities=[
            model_service_pb2.Capability(method="saliency", allowed=True, rows=4096),
            model_service_pb2.Capability(method="occlusion", reason="it is only an example"),
        ],
        runtime="graph",
        parity=model_service_pb2.Parity(largest_difference=1e-7, tolerance=1e-4, holds=True),
        background_rows=12,
    )


MODELS = {
    "photos": _model("photos", [_IMAGE]),
    "table": _model("table", [_input("row", "TABULAR", [3], columns=_COLUMNS)]),
    "numbers": _model("numbers", [_input("x", "TENSOR", [2, -1])]),
    "texts": _model("texts", [_input("text", "TEXT", [-1])]),
    "both": _model("both", [_IMAGE, _input("row", "TABULAR", [3], columns=_COLUMNS)]),
}

RECEIPT = explanation_pb2.Receipt(
    model=_spec("photos"),
    input_digest="cd" * 32,
    runtime=explanation_pb2.Runtime(forward="graph", device="cpu", precision="float32", libraries={"torch": "2"}),
    work=explanation_pb2.Work(
        rows_forward=2, batch_shapes=[explanation_pb2.BatchShape(evaluation="forward", rows=4, batches=1)]
    ),
)
TIMING = explanation_service_pb2.Timing(queue_seconds=0.125, compute_seconds=0.5, total_seconds=0.75)


def output_message(rows=1):
    """Write an output whose highest classes are the owl, then the cat."""
    classes = [
        explanation_service_pb2.ClassScore(index=2, label="[owl]", value=2.0, probability=0.75),
        explanation_service_pb2.ClassScore(index=0, label="cat", value=1.0, probability=0.25),
    ]
    return explanation_service_pb2.Output(
        values=to_tensor([[1.0, -1.0, 2.0]] * rows), top=[explanation_service_pb2.TopClasses(classes=classes)] * rows
    )


def predict_message(rows=1, explanations=()):
    """Write a reply to Predict."""
    risk = explanation_service_pb2.Output(values=to_tensor([0.5] * rows))
    return explanation_service_pb2.PredictResponse(
        outputs={"risk": risk, "logits": output_message(rows)},
        explanations=explanations,
        receipt=RECEIPT,
        timing=TIMING,
    )


def attribution_message(inputs):
    """Write the explanation of the owl of one row by integrated gradients."""
    receipt = explanation_pb2.Receipt()
    receipt.CopyFrom(RECEIPT)
    receipt.method = "integrated-gradients"
    receipt.parameters["steps"].integer = 64
    receipt.parameters["mask"].tensor.CopyFrom(to_tensor([1.0, 0.0]))
    receipt.target.CopyFrom(
        explanation_pb2.Target(
            output="logits", outcome=explanation_pb2.Outcome(index=[2]), space=explanation_pb2.OUTPUT_SPACE_LOGITS
        )
    )
    receipt.baseline = explanation_pb2.BASELINE_KIND_ZEROS
    return explanation_pb2.Attribution(
        inputs=inputs,
        output="logits",
        output_index=[2],
        label="[owl]",
        instance_output_value=2.0,
        baseline_output_value=-0.5,
        approximation_error=0.004,
        accuracy=explanation_pb2.Accuracy(
            signed_gap=-0.01,
            absolute_gap=0.02,
            tolerance=0.01,
            absolute_tolerance=0.05,
            tolerance_met=True,
            warnings=["Only an example."],
        ),
        receipt=receipt,
    )


def attribute_message(*attributions):
    """Write a reply to Attribute."""
    return explanation_service_pb2.AttributeResponse(
        explanation=explanation_pb2.Explanation(attributions=attributions),
        prediction=output_message(len(attributions)),
        timing=TIMING,
    )


def table_attribution():
    """Write the attribution of a table's row: age 2, colour -0.5."""
    return attribution_message(
        {"row": explanation_pb2.InputAttribution(scores=to_tensor([2.0, -0.5]), columns=["age", "colour"])}
    )


def column_message(name, values, missing=None, unit=""):
    """Write a column of a table: texts or numbers."""
    gone = None if missing is None else to_tensor(missing)
    if values and isinstance(values[0], str):
        return findings_pb2.NamedColumn(name=name, texts=input_pb2.Texts(texts=values), missing=gone, unit=unit)
    return findings_pb2.NamedColumn(name=name, numbers=to_tensor(values), missing=gone, unit=unit)


def effects_message(sites, effects, *more):
    """Write a table of effects in nats by site, and more columns."""
    columns = [column_message("site", sites), column_message("effect", effects, unit="nats"), *more]
    return findings_pb2.NamedTable(columns=columns, text="What each site does.")


def part_message(number, progress, *, last=False, **findings):
    """Write a part of an answer; the last has the receipt."""
    message = findings_pb2.Findings(**findings)
    if last:
        message.receipt.CopyFrom(RECEIPT)
        message.receipt.method = "ablation"
    return explanation_service_pb2.AblateResponse(progress=progress, findings=message, part=number)


def progress_message(progress):
    """Write a message that only reports progress."""
    return explanation_service_pb2.AblateResponse(progress=progress)


def ablate_messages():
    """Write the three parts of an answer, with progress in between; the effects are in two of them."""
    picture = findings_pb2.Picture(data=b"png", media_type="image/png", width=2, height=1, text="Two pixels.")
    accuracy = explanation_pb2.Accuracy(partial=False)
    return [
        progress_message(0.0),
        part_message(0, 0.25, tables={"effects": effects_message(["conv[0]", "conv[1]"], [0.5, -2.0])}),
        progress_message(0.5),
        part_message(1, 0.75, tables={"effects": effects_message(["conv[2]"], [1.0])}, warnings=["A draw."]),
        part_message(
            2,
            1.0,
            last=True,
            arrays={
                "prediction": findings_pb2.NamedArray(values=to_tensor([1.0]), axes=[findings_pb2.Axis(name="row")])
            },
            pictures={"site": picture},
            accuracy=accuracy,
            warnings=["A draw."],
        ),
    ]


def dissected_message(share, rows_done=0, *, part=None, last=False, preview=False, rows=200, **findings):
    """Write a message of a dissection: progress, a preview, or a part of this number; the last has the receipt."""
    progress = dissection_pb2.Progress(share=share, rows_done=rows_done, rows=rows, rows_per_second=40, seconds_left=3)
    message = explanation_service_pb2.DissectResponse(progress=progress, part=part or 0, preview=preview)
    if part is None and not preview:
        return message
    message.findings.CopyFrom(findings_pb2.Findings(**findings))
    if last:
        message.findings.receipt.CopyFrom(RECEIPT)
        message.findings.receipt.method = "network-dissection"
        layer = dissection_pb2.LayerUnits(layer="conv1", units=[3, 4, 5])
        record = dissection_pb2.DissectionRecord(layers=[layer], dataset="shapes", dataset_digest=DIGEST, rows=200)
        message.findings.dissection.CopyFrom(record)
    return message


def dictionary_message(units, concepts, iou):
    """Write the dictionary of units of conv1; those above 0.04 are detectors."""
    columns = [
        column_message("layer", ["conv1"] * len(units)),
        column_message("unit", units),
        column_message("concept", concepts),
        column_message("category", ["color"] * len(units)),
        column_message("iou", iou),
        column_message("detector", [value > 0.04 for value in iou]),
    ]
    return findings_pb2.NamedTable(columns=columns, text="What each unit stands for.")


def dissect_messages():
    """Write an answer in three parts, with progress and a preview between them."""
    guess = dictionary_message([3], ["dots"], [0.1])
    return [
        dissected_message(0.0),
        dissected_message(0.5, 100, preview=True, tables={"dictionary": guess}),
        dissected_message(0.75, 150),
        dissected_message(
            1.0, 200, part=0, tables={"dictionary": dictionary_message([3, 4], ["red", "blue"], [0.3, 0.2])}
        ),
        dissected_message(1.0, 200, part=1, tables={"dictionary": dictionary_message([5], ["red"], [0.02])}),
        dissected_message(1.0, 200, part=2, last=True, warnings=["Two rows have no mask."]),
    ]
