"""Right answers hold, and answers with one number wrong do not."""

from typing import Any

import numpy as np
import pytest
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2

from soak import answers
from soak.catalogue import EXPLANATIONS, Entry

PREDICT = Entry("predict", EXPLANATIONS + "Predict")
ATTRIBUTE = Entry("attribute", EXPLANATIONS + "Attribute")
ADAPTIVE = Entry("attribute", EXPLANATIONS + "Attribute", adaptive=True)

Prediction = explanation_service_pb2.PredictResponse
Attributed = explanation_service_pb2.AttributeResponse


def prediction(*values: float, top: int = 2) -> Any:
    """Return an answer of one row whose highest class is said to be `top`."""
    reply = Prediction()
    reply.outputs["output"].values.CopyFrom(to_tensor(np.array([values], np.float32)))
    reply.outputs["output"].top.add().classes.add(index=top, value=values[top])
    return reply


def attribution(*scores: float, gap: float = 0.0, **accuracy: Any) -> Any:
    """Return the attribution of a score that went from 0 to 6, and says that its scores' sum misses it by `gap`."""
    reply = Attributed(prediction=prediction(1, 2, 6).outputs["output"])
    found = reply.explanation.attributions.add(instance_output_value=6.0, baseline_output_value=0.0)
    found.accuracy.CopyFrom(explanation_pb2.Accuracy(signed_gap=gap, absolute_gap=abs(gap), **accuracy))
    found.inputs["x"].scores.CopyFrom(to_tensor(np.array(scores, np.float32)))
    return reply


def faults(entry: Entry, mine: Any, quiet: Any, *, hurried: bool = False) -> list[str]:
    return answers.faults(entry, mine.SerializeToString(), quiet.SerializeToString(), hurried=hurried)


def test_a_prediction_that_differs_by_rounding_is_right() -> None:
    assert faults(PREDICT, prediction(1, 2, 6.00003), prediction(1, 2, 6)) == []


@pytest.mark.parametrize(
    "wrong",
    [prediction(1, 2, 6.0003), prediction(1, 2, float("nan")), prediction(1, 2, 6, 7), prediction(1, 2, 6, top=1)],
    ids=["value", "not a number", "shape", "highest class"],
)
def test_a_prediction_that_differs_by_more_is_wrong(wrong: Any) -> None:
    assert len(faults(PREDICT, wrong, prediction(1, 2, 6))) >= 1


def test_an_explanation_that_is_late_is_a_fault_unless_the_caller_was_in_a_hurry() -> None:
    quiet, late = prediction(1, 2, 6), prediction(1, 2, 6)
    quiet.explanations.add()
    late.explanations.add().status.code = 4

    assert len(faults(PREDICT, late, quiet)) == 1
    assert faults(PREDICT, late, quiet, hurried=True) == []


def test_an_attribution_that_differs_by_rounding_is_right() -> None:
    assert faults(ATTRIBUTE, attribution(1, 2, 3.00002), attribution(1, 2, 3)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        attribution(1, 2.01, 3, gap=0.01),
        attribution(1, 2, 3, 0),
        Attributed(explanation=attribution(1, 2, 3).explanation),
        Attributed(prediction=attribution(1, 2, 3).prediction),
    ],
    ids=["score", "shape", "no prediction", "no explanation"],
)
def test_an_attribution_that_differs_by_more_is_wrong(wrong: Any) -> None:
    assert len(faults(ATTRIBUTE, wrong, attribution(1, 2, 3))) == 1


def test_an_adaptive_answer_may_differ_by_the_error_that_it_states() -> None:
    quiet = attribution(1, 2, 3)

    assert faults(ADAPTIVE, attribution(1, 2.1, 2.94, gap=0.04), quiet) == []
    assert len(faults(ATTRIBUTE, attribution(1, 2.1, 2.94, gap=0.04), quiet)) == 1
    assert len(faults(ADAPTIVE, attribution(1, 2.2, 2.84, gap=0.04), quiet)) == 1


def test_an_answer_that_states_too_small_an_error_is_wrong() -> None:
    (fault,) = faults(ADAPTIVE, attribution(1, 2, 3.05, gap=0.01), attribution(1, 2, 3, gap=0.0401))

    assert "scores sum to 6.05, the change is 6, and the stated error is 0.01" in fault


def test_an_answer_that_was_cut_short_may_differ_by_its_standard_errors() -> None:
    quiet, cut = attribution(1, 2, 3), attribution(1.5, 1.5, 3, standard_error=0.1, partial=True)

    assert faults(ATTRIBUTE, cut, quiet) == []
    assert answers.partial(ATTRIBUTE, cut.SerializeToString())
    assert not answers.partial(ATTRIBUTE, quiet.SerializeToString())


def test_a_path_that_was_cut_short_must_be_as_complete_as_it_says() -> None:
    quiet = attribution(1, 2, 3)

    assert faults(ADAPTIVE, attribution(2, 0.98, 3, gap=-0.02, partial=True), quiet) == []
    (fault,) = faults(ADAPTIVE, attribution(2, 0.9, 3, gap=-0.02, partial=True), quiet)
    assert "scores sum to 5.9" in fault
    (fault, *_) = faults(ADAPTIVE, attribution(1, 2, float("inf"), gap=0.1, partial=True), quiet)
    assert fault.startswith("row 0: scores of x: differs by inf")


def test_an_answer_made_again_may_differ_by_rounding_only() -> None:
    reply = attribution(1.01, 2, 3, gap=0.01, partial=True)
    (cut,) = reply.explanation.attributions
    (again,) = attribution(1, 2, 3).explanation.attributions

    assert len(answers.attribution_faults(cut, again, reply.prediction)) == 1
    assert answers.attribution_faults(cut, cut, reply.prediction) == []


def test_a_score_near_0_may_differ_by_the_rounding_of_its_terms() -> None:
    quiet, mine, wrong = (attribution(0.01, 0.02, 0.03) for _ in range(3))
    for reply, score in ((quiet, 2.0), (mine, 2.0001), (wrong, 2.1)):
        reply.prediction.CopyFrom(prediction(-400, -300, score).outputs["output"])
        reply.explanation.attributions[0].instance_output_value = score
        reply.explanation.attributions[0].accuracy.Clear()

    assert faults(ATTRIBUTE, mine, quiet) == []
    assert any("the score" in fault for fault in faults(ATTRIBUTE, wrong, quiet))


def test_an_attribution_of_another_input_is_wrong() -> None:
    other = attribution(1, 2, 3)
    other.explanation.attributions[0].receipt.input_digest = "another"

    assert faults(ATTRIBUTE, other, attribution(1, 2, 3)) == ["row 0: the receipt is of another model or input"]
