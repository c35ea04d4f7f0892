"""What results say of themselves."""

import json
import math
from dataclasses import replace

import numpy as np
from pellucid.errors import OverloadedError
from pellucid.receipts import BatchShape, ModelKey, Outcome, Receipt, Runtime, Target, Work, json_text
from pellucid.results import ClassScore, ExplanationOutcome, InputAttribution, Prediction, Timing

RECEIPT = Receipt(
    model=ModelKey("photos", 3, "ab" * 32),
    input_digest="cd" * 32,
    method="occlusion",
    parameters={"window": 3, "mask": np.array([[1, 0]], np.int32)},
    target=Target("logits", Outcome((2,), ""), None, "logits"),
    baseline="zeros",
    baseline_digest="",
    seed=2**64 - 1,
    tolerance=0.25,
    runtime=Runtime("graph", "", "cpu", "float32", {"torch": "2.13.0"}),
    work=Work(4, 0, (BatchShape("forward", 4, 1),)),
)


def prediction(*labels):
    top = tuple((ClassScore(index, label, 1.0, 0.625),) for index, label in enumerate(labels))
    values = np.ones((len(labels), 2), np.float32)
    return Prediction({"logits": values}, {"logits": top} if labels else {}, RECEIPT, Timing(0, 1, 2))


def test_a_receipt_survives_json_whole():
    found = json.loads(RECEIPT.to_json())

    assert found["parameters"] == {"window": 3, "mask": [[1, 0]]}
    assert found["seed"] == 2**64 - 1
    assert found["target"]["outcome"]["index"] == [2]
    assert found["work"]["batch_shapes"] == [{"evaluation": "forward", "rows": 4, "batches": 1}]
    assert set(found) == set(Receipt.__dataclass_fields__)


def test_json_has_words_for_the_numbers_that_it_does_not_have():
    value = {"b": [1.5, math.nan, [math.inf]], "a": {"x": -math.inf}, "text": "NaN", "none": None, "flag": True}

    text = json_text(value, sort_keys=True)

    words = '{"a": {"x": "-Infinity"}, "b": [1.5, "NaN", ["Infinity"]], "flag": true, "none": null, "text": "NaN"}'
    assert text == words


def test_warnings_are_counted_where_a_prediction_is_shown():
    assert repr(replace(prediction("owl"), warnings=("One.",))).endswith("owl 62.5%, 1 warning>")
    assert repr(replace(prediction(), warnings=("One.", "Two."))).endswith(", 2 warnings>")
    assert replace(prediction(), warnings=("One.",)).to_dict()["warnings"] == ["One."]


def test_a_prediction_says_its_highest_classes():
    assert repr(prediction("owl", "cat")) == "<Prediction by photos/3: owl 62.5%, cat 62.5%>"
    assert repr(prediction(*"abcd")).endswith("c 62.5%, …>")


def test_a_prediction_without_classes_says_its_shapes():
    assert repr(prediction()) == "<Prediction by photos/3: logits [0, 2]>"
    assert prediction()._repr_html_() is None
    assert prediction().top == ()


def test_a_notebooks_table_is_safe_from_markup_in_labels():
    shown = prediction("<b>owl</b>")._repr_html_()

    assert "&lt;b&gt;owl" in shown
    assert "<b>" not in shown


def test_a_class_without_a_label_is_named_by_its_index():
    assert repr(prediction("")) == "<Prediction by photos/3: class 0 62.5%>"


def test_a_failed_explanation_is_plain_too():
    outcome = ExplanationOutcome("saliency", (), OverloadedError("Full."))

    assert outcome.to_dict() == {"method": "saliency", "error": {"reason": "OVERLOADED", "message": "Full."}}


def test_only_a_tables_scores_have_columns():
    assert InputAttribution(np.array([1.5, -2.0]), ("a", "b")).by_column == {"a": 1.5, "b": -2.0}
    assert InputAttribution(np.ones((3, 2, 2))).by_column == {}
