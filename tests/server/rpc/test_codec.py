import numpy as np
import pytest
from google.protobuf import text_format
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid_server.errors import InvalidRequestError
from pellucid_server.rpc import codec
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import requests

LIMITS = LimitsConfig(predict_rows=3, attribute_rows=2, explanations=2)

MODEL = 'model { name: "iris" }'
CELL = 'cells { key: "width" value { number: 1.5 } }'
ROW = f"rows {{ {CELL} }}"
INPUTS = f'inputs {{ key: "row" value {{ table {{ {ROW} }} }} }}'
SALIENCY = 'explanation { method: "saliency" }'
NAN = r"\000\000\300\177"


def predict(text):
    return codec.predict_request(text_format.Parse(text, service_pb.PredictRequest()), LIMITS)


def attribute(text):
    return codec.attribute_request(text_format.Parse(text, service_pb.AttributeRequest()), LIMITS)


def explain(text):
    return attribute(f'{MODEL} {INPUTS} explanation {{ method: "saliency" {text} }}')


def one_input(value):
    return f'{MODEL} inputs {{ key: "x" value {{ {value} }} }}'


def tensor(text):
    return one_input(f"tensor {{ {text} }}")


def test_a_prediction_request_is_read_whole():
    request = predict(
        """
        model { name: "iris" version: 2 digest: "%s" }
        inputs { key: "row" value { table {
          rows { cells { key: "width" value { number: 1.5 } } cells { key: "colour" value { category: "red" } } } } } }
        inputs { key: "photo" value { pictures { encoded: "PNG" } } }
        inputs { key: "words" value { texts { texts: "" } } }
        inputs { key: "t" value { tensor { data_type: DATA_TYPE_INT16 shape: [1, 2] data: "\\001\\000\\000\\001" } } }
        outputs: "kind" top_k: 0
        explanations { method: "saliency" } explanations { method: "occlusion" seed: 9 }
        """
        % ("ab" * 32)
    )

    array = request.inputs["t"].array
    np.testing.assert_array_equal(array, np.array([[1, 256]], np.int16), strict=True)
    assert (request.model, request.outputs, request.top_k) == (requests.ModelKey("iris", 2, "ab" * 32), ("kind",), 0)
    assert request.inputs["row"] == requests.TableInput(({"width": 1.5, "colour": "red"},))
    assert (request.inputs["photo"], request.inputs["words"]) == (
        requests.PicturesInput((b"PNG",)),
        requests.TextsInput(("",)),
    )
    assert request.explanations == (requests.ExplanationSpec("saliency"), requests.ExplanationSpec("occlusion", seed=9))


def test_what_is_left_out_takes_its_default():
    request = predict(f"{MODEL} {INPUTS}")

    assert (request.model.version, request.model.digest, request.outputs, request.top_k, request.explanations) == (
        0,
        "",
        (),
        5,
        (),
    )


def test_an_explanation_is_read_whole():
    request = explain(
        """
        parameters { key: "steps" value { integer: 8 } } parameters { key: "share" value { real: 0.5 } }
        parameters { key: "exact" value { flag: true } } parameters { key: "how" value { text: "grid" } }
        parameters { key: "mask" value { tensor { data_type: DATA_TYPE_BOOL shape: 2 data: "\\001\\000" } } }
        target { output: "kind" outcome { index: [0, 2] } contrast { label: "setosa" } space: OUTPUT_SPACE_LOGITS }
        baseline { kind: BASELINE_KIND_BLUR blur_sigma: 3 } seed: 18446744073709551615 tolerance: 0.01
        format { sum_channels: true data_type: DATA_TYPE_FLOAT16 }
        """
    )

    spec = request.explanation
    assert spec.parameters["mask"].tolist() == [True, False]
    assert {name: spec.parameters[name] for name in ("steps", "share", "exact", "how")} == {
        "steps": 8,
        "share": 0.5,
        "exact": True,
        "how": "grid",
    }
    assert spec.target == requests.TargetSpec(
        "kind", requests.Outcome((0, 2)), requests.Outcome(label="setosa"), "logits"
    )
    assert spec.baseline == requests.BaselineSpec("blur", 3.0)
    assert (spec.seed, spec.tolerance, spec.format) == (2**64 - 1, 0.01, requests.ReplyFormat(True, "float16"))


def test_a_given_baseline_brings_its_row():
    request = explain(f"baseline {{ kind: BASELINE_KIND_GIVEN {INPUTS} }}")

    assert request.explanation.baseline == requests.BaselineSpec(
        "given", 0.0, {"row": requests.TableInput(({"width": 1.5},))}
    )


BAD_PREDICTIONS = {
    "no model": (INPUTS, "model.name", "is empty"),
    "negative version": (f'model {{ name: "m" version: -1 }} {INPUTS}', "model.version", "is -1"),
    "digest": (f'model {{ name: "m" digest: "AB" }} {INPUTS}', "model.digest", "is 'AB'"),
    "no inputs": (MODEL, "inputs", "is empty"),
    "nameless input": (f"{MODEL} inputs {{ key: '' value {{ table {{ {ROW} }} }} }}", "inputs", "without a name"),
    "input not set": (one_input(""), 'inputs["x"]', "is not set"),
    "no rows": (one_input("table { }"), "inputs", "has 0 rows; it must be 1 to 3"),
    "too many rows": (one_input(f"table {{ {4 * ROW} }}"), "inputs", "has 4 rows; it must be 1 to 3"),
    "too many rows to explain": (
        one_input(f"table {{ {3 * ROW} }}") + 'explanations { method: "m" }',
        "inputs",
        "has 3 rows; it must be 1 to 2",
    ),
    "row counts differ": (
        f'{MODEL} {INPUTS} inputs {{ key: "x" value {{ texts {{ texts: ["a", "b"] }} }} }}',
        "inputs",
        "'row' has 1, 'x' has 2",
    ),
    "empty picture": (one_input('pictures { encoded: ["a", ""] }'), 'inputs["x"].pictures.encoded[1]', "is empty"),
    "row without cells": (one_input("table { rows { } }"), 'inputs["x"].table.rows[0].cells', "is empty"),
    "cell not set": (
        one_input('table { rows { cells { key: "c" value { } } } }'),
        'inputs["x"].table.rows[0].cells["c"]',
        "is not set",
    ),
    "nan cell": (
        one_input('table { rows { cells { key: "c" value { number: nan } } } }'),
        'inputs["x"].table.rows[0].cells["c"].number',
        "is nan",
    ),
    "tensor without type": (tensor("shape: 1"), 'inputs["x"].tensor.data_type', "is DATA_TYPE_UNSPECIFIED"),
    "tensor of a newer type": (tensor("data_type: 77"), 'inputs["x"].tensor.data_type', "is 77"),
    "tensor of a negative shape": (
        tensor("data_type: DATA_TYPE_INT8 shape: [1, -1]"),
        'inputs["x"].tensor.shape',
        "is [1, -1]",
    ),
    "tensor of an enormous shape": (
        tensor("data_type: DATA_TYPE_INT64 shape: [1, 0, 4611686018427387904]"),
        'inputs["x"].tensor.shape',
        "more than an array can hold",
    ),
    "tensor of empty rows": (
        tensor("data_type: DATA_TYPE_INT8 shape: [1, 0]"),
        'inputs["x"].tensor.shape',
        "is [1, 0]; no axis of a row may be empty",
    ),
    "tensor of too many axes": (
        tensor("data_type: DATA_TYPE_INT8 data: 'a' " + 33 * "shape: 1 "),
        'inputs["x"].tensor.shape',
        "has 33 axes",
    ),
    "tensor without rows axis": (
        tensor("data_type: DATA_TYPE_INT8 data: 'a'"),
        'inputs["x"].tensor.shape',
        "axis 0 must be the rows",
    ),
    "tensor of too few bytes": (
        tensor("data_type: DATA_TYPE_FLOAT32 shape: [1, 2] data: 'abc'"),
        'inputs["x"].tensor.data',
        "has 3 bytes; DATA_TYPE_FLOAT32 of shape [1, 2] takes 8",
    ),
    "tensor of a third truth": (
        tensor(r"data_type: DATA_TYPE_BOOL shape: 1 data: '\002'"),
        'inputs["x"].tensor.data',
        "must be 0 or 1",
    ),
    "nan in a tensor": (
        tensor(f"data_type: DATA_TYPE_FLOAT32 shape: [1, 2] data: 'abcd{NAN}'"),
        'inputs["x"].tensor.data',
        "has nan at [0, 1]",
    ),
    "infinity in bfloat16": (
        tensor(r"data_type: DATA_TYPE_BFLOAT16 shape: 1 data: '\200\177'"),
        'inputs["x"].tensor.data',
        "has inf at [0]",
    ),
    "nameless output": (f'{MODEL} {INPUTS} outputs: ["a", ""]', "outputs[1]", "is empty"),
    "top_k below": (f"{MODEL} {INPUTS} top_k: -1", "top_k", "is -1; it must be in [0, 1000]"),
    "top_k above": (f"{MODEL} {INPUTS} top_k: 1001", "top_k", "is 1001"),
    "too many explanations": (
        f"{MODEL} {INPUTS}" + 3 * ' explanations { method: "m" }',
        "explanations",
        "has 3 entries; at most 2",
    ),
    "second explanation": (
        f'{MODEL} {INPUTS} explanations {{ method: "m" }} explanations {{ }}',
        "explanations[1].method",
        "is empty",
    ),
}


@pytest.mark.parametrize(("text", "field", "what"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_a_malformed_prediction_request_names_the_field_and_what_would_be_right(text, field, what):
    with pytest.raises(InvalidRequestError) as caught:
        predict(text)

    assert caught.value.metadata == {"field": field}
    assert caught.value.message.startswith(f"{field} ")
    assert what in caught.value.message


BAD_EXPLANATIONS = {
    "nameless parameter": ("parameters { key: '' value { integer: 1 } }", "parameters", "without a name"),
    "parameter not set": ('parameters { key: "a" value { } }', 'parameters["a"]', "is not set"),
    "nan parameter": ('parameters { key: "a" value { real: nan } }', 'parameters["a"].real', "is nan"),
    "parameter's tensor": (
        'parameters { key: "a" value { tensor { data_type: DATA_TYPE_INT8 shape: 2 } } }',
        'parameters["a"].tensor.data',
        "has 0 bytes",
    ),
    "both ways to name an outcome": (
        'target { outcome { index: 1 label: "cat" } }',
        "target.outcome",
        "has the index [1] and the label 'cat'",
    ),
    "negative index": ("target { outcome { index: [0, -1] } }", "target.outcome.index", "is [0, -1]"),
    "negative index of a contrast": ("target { contrast { index: -1 } }", "target.contrast.index", "is [-1]"),
    "empty contrast": ("target { contrast { } }", "target.contrast", "is empty"),
    "space of a newer schema": ("target { space: 9 }", "target.space", "is 9; it must be one of OUTPUT_SPACE_"),
    "baseline of a newer schema": ("baseline { kind: 9 }", "baseline.kind", "is 9"),
    "sigma without blur": ("baseline { blur_sigma: 1 }", "baseline.blur_sigma", "kind is not BASELINE_KIND_BLUR"),
    "sigma below": ("baseline { kind: BASELINE_KIND_BLUR blur_sigma: -1 }", "baseline.blur_sigma", "is -1"),
    "sigma above": ("baseline { kind: BASELINE_KIND_BLUR blur_sigma: 101 }", "baseline.blur_sigma", "is 101"),
    "sigma nan": ("baseline { kind: BASELINE_KIND_BLUR blur_sigma: nan }", "baseline.blur_sigma", "is nan"),
    "rows that are not asked for": (f"baseline {{ {INPUTS} }}", "baseline.inputs", "not BASELINE_KIND_GIVEN"),
    "given without rows": ("baseline { kind: BASELINE_KIND_GIVEN }", "baseline.inputs", "is empty"),
    "given too many rows": (
        f'baseline {{ kind: BASELINE_KIND_GIVEN inputs {{ key: "x" value {{ table {{ {4097 * ROW} }} }} }} }}',
        "baseline.inputs",
        "has 4097 rows",
    ),
    "tolerance below": ("tolerance: 0", "tolerance", "is 0; it must be in [1e-06, 1]"),
    "tolerance above": ("tolerance: 1.5", "tolerance", "is 1.5"),
    "tolerance nan": ("tolerance: nan", "tolerance", "is nan"),
    "reply type": ("format { data_type: DATA_TYPE_INT8 }", "format.data_type", "is DATA_TYPE_INT8"),
}


@pytest.mark.parametrize(("text", "field", "what"), BAD_EXPLANATIONS.values(), ids=BAD_EXPLANATIONS)
def test_a_malformed_explanation_names_the_field_and_what_would_be_right(text, field, what):
    with pytest.raises(InvalidRequestError) as caught:
        explain(text)

    assert caught.value.metadata == {"field": f"explanation.{field}"}
    assert caught.value.message.startswith(f"explanation.{field} ")
    assert what in caught.value.message


def test_an_attribution_needs_its_explanation():
    with pytest.raises(InvalidRequestError, match="explanation is not set"):
        attribute(f"{MODEL} {INPUTS}")


def test_an_attribution_has_a_bound_of_its_own():
    with pytest.raises(InvalidRequestError, match="has 3 rows; it must be 1 to 2"):
        attribute(one_input(f"table {{ {3 * ROW} }}") + SALIENCY)


def test_an_array_is_a_read_only_view_of_the_request():
    array = predict(tensor("data_type: DATA_TYPE_FLOAT32 shape: [1, 1] data: 'abcd'")).inputs["x"].array

    assert not array.flags.writeable
    assert not array.flags.owndata


def test_bfloat16_is_read_as_float32():
    array = predict(tensor(r"data_type: DATA_TYPE_BFLOAT16 shape: 2 data: '\200?\040\300'")).inputs["x"].array

    np.testing.assert_array_equal(array, np.array([1.0, -2.5], np.float32), strict=True)
