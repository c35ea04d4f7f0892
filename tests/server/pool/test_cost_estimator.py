from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.pool.queue.cost_estimator import CostEstimator, kind, size_bytes
from pellucid_server.vocabulary.descriptions import CapabilityInfo, MethodInfo, ModelInfo
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import (
    AblateRequest,
    AttributeRequest,
    BaselineSpec,
    ExplanationSpec,
    InterventionSpec,
    ModelKey,
    PicturesInput,
    PredictRequest,
    SiteSpec,
    TableInput,
    TensorInput,
    TextsInput,
)


def method(name, rows_parameter):
    return MethodInfo(name, "attribute", "", "", "", (), (), (), (), False, rows_parameter)


def model(version, **rows):
    capabilities = tuple(CapabilityInfo(name, True, "", count) for name, count in rows.items())
    return ModelInfo(ModelKey("m", version), "", (), (), (), capabilities, "graph", None, 0, False)


WEIGHTS = CostEstimator(
    Hello(
        (model(2, stepped=50, fixed=7, unknown=0), model(1, stepped=20)),
        (method("stepped", "steps"), method("fixed", ""), method("unknown", "")),
        "cpu",
    )
)
THREE_ROWS = {"x": TensorInput(np.zeros((3, 4), np.float32))}


def attribute(name, version=0, inputs=None, **parameters):
    return AttributeRequest(
        ModelKey("m", version), THREE_ROWS if inputs is None else inputs, ExplanationSpec(name, parameters)
    )


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (TensorInput(np.zeros((5, 2))), 5),
        (TensorInput(np.zeros(())), 1),
        (TensorInput(np.zeros((0, 2))), 1),
        (PicturesInput((b"a", b"b")), 2),
        (TextsInput(("a", "b", "c")), 3),
        (TableInput(({"a": 1.0}, {"a": 2.0})), 2),
    ],
)
def test_a_prediction_weighs_its_rows(given, rows):
    assert WEIGHTS.rows(PredictRequest(ModelKey("m"), {"x": given})) == rows


def test_a_request_without_inputs_weighs_one_row():
    assert WEIGHTS.rows(PredictRequest(ModelKey("m"), {})) == 1


@pytest.mark.parametrize(
    ("asked", "rows_of_a_row"),
    [
        (attribute("stepped", steps=9), 9),
        (attribute("stepped"), 50),
        (attribute("stepped", version=2), 50),
        (attribute("stepped", version=1), 20),
        (attribute("stepped", version=3), 1),
        (attribute("stepped", steps="many"), 50),
        (attribute("stepped", steps=9.5), 50),
        (attribute("stepped", steps=True), 50),
        (attribute("stepped", steps=-9), 1),
        (attribute("stepped", steps=10**30), 1 << 20),
        (attribute("fixed"), 7),
        (attribute("unknown"), 1),
        (attribute("of nobody"), 1),
    ],
)
def test_an_explanation_weighs_what_its_parameter_says_or_what_the_worker_does(asked, rows_of_a_row):
    assert WEIGHTS.rows(asked) == 3 * rows_of_a_row


def test_explanations_beside_a_prediction_weigh_in_addition():
    request = PredictRequest(
        ModelKey("m"), THREE_ROWS, explanations=(ExplanationSpec("fixed"), ExplanationSpec("stepped"))
    )

    assert WEIGHTS.rows(request) == 3 * (1 + 7 + 50)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (TensorInput(np.zeros((3, 4), np.float32)), 48),
        (PicturesInput((b"abc", b"de")), 5),
        (TextsInput(("abc", "é")), 5),
        (TableInput(({"ab": 1.0, "c": "def"},)), 2 + 8 + 1 + 3),
    ],
)
def test_a_request_is_as_large_as_what_it_holds(given, expected):
    assert size_bytes(PredictRequest(ModelKey("m"), {"x": given})) == expected


def test_a_baseline_and_parameters_count_too():
    baseline = BaselineSpec("given", inputs={"x": TensorInput(np.zeros(2, np.float32))})
    explanation = ExplanationSpec("fixed", {"mask": np.zeros(5, np.int8), "steps": 3, "mode": "abc"}, baseline=baseline)

    assert size_bytes(AttributeRequest(ModelKey("m"), {}, explanation)) == 8 + 5 + 8 + 3


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        ((), False),
        ((ExplanationSpec("early"),), True),
        ((ExplanationSpec("tolerant"),), False),
        ((ExplanationSpec("tolerant", tolerance=0.1), ExplanationSpec("early")), True),
        ((ExplanationSpec("early"), ExplanationSpec("whole", tolerance=0.1)), False),
    ],
)
def test_only_requests_whose_every_explanation_answers_early_can_be_cut(specs, found):
    methods = (
        replace(method("early", ""), answers_early=True),
        replace(method("tolerant", ""), takes_tolerance=True),
        method("whole", ""),
    )
    weights = CostEstimator(Hello((), methods, "cpu"))

    assert weights.can_be_cut(PredictRequest(ModelKey("m"), THREE_ROWS, explanations=specs)) is found
    attributed = [weights.can_be_cut(AttributeRequest(ModelKey("m"), THREE_ROWS, spec)) for spec in specs]
    assert (bool(attributed) and all(attributed)) is found


AVERAGING = CostEstimator(
    Hello(
        (replace(model(1, shap=1001, other=9), background_rows=10), model(2, shap=101)),
        (replace(method("shap", "samples"), baselines=("zeros", "given", "background")), method("other", "samples")),
        "cpu",
    )
)


@pytest.mark.parametrize(
    ("version", "name", "kind", "parameters", "rows"),
    [
        (1, "shap", "", {}, 101),
        (1, "shap", "background", {}, 101),
        (1, "shap", "zeros", {}, 101),
        (1, "shap", "", {"samples": 50}, 50),
        (2, "shap", "", {}, 101),
        (1, "other", "", {}, 9),
    ],
)
def test_a_coalition_weighs_the_same_with_every_baseline(version, name, kind, parameters, rows):
    spec = ExplanationSpec(name, parameters, baseline=BaselineSpec(kind))

    assert AVERAGING.rows(AttributeRequest(ModelKey("m", version), THREE_ROWS, spec)) == 3 * rows


def test_an_ablation_is_of_a_kind_of_its_own_and_answers_early_unless_it_is_exact():
    sites = (SiteSpec("conv1", units=(1, 2, 3), positions=(4,)),)
    source = {"x": TensorInput(np.zeros((1, 4), np.float32))}
    changed = InterventionSpec(sites, "steer", vector=np.zeros(5))
    request = AblateRequest(ModelKey("net", 2), THREE_ROWS, "ablation", interventions=(changed,), source=source)

    assert kind(request) == "net/2/ablate/ablation" != kind(PredictRequest(ModelKey("net", 2), THREE_ROWS))
    assert WEIGHTS.can_be_cut(request)
    assert not WEIGHTS.can_be_cut(replace(request, exact=True))
    alone = size_bytes(AblateRequest(ModelKey("net", 2), THREE_ROWS, "ablation"))
    assert size_bytes(request) == alone + 16 + 5 * 8 + 4 * 8
