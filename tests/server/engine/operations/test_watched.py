"""No number that is none leaves in an answer: of any method, from any evaluation, in any field."""

import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import pellucid_server.engine.methods
import pytest
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.question import Attribution, Feature
from pellucid_server.engine.asking.registry import Background, Method
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Rows as Recipe
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.models.graph.lengths import values_error
from pellucid_server.engine.operations.explain import PreparedExplanation, explain_row
from pellucid_server.engine.operations.rows import Rows
from pellucid_server.engine.operations.watched import NotFiniteError, WatchedHandle, nonfinite_warnings
from pellucid_server.engine.tasks.request_state import Tally
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import OutputInfo
from pellucid_server.vocabulary.requests import ExplanationSpec, ModelKey, ReplyFormat
from pellucid_server.vocabulary.results import Runtime
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question

registry.discover(pellucid_server.engine.methods)

METHODS = [method for method in registry.methods() if method.verb is ATTRIBUTE]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


class Handle(Formula):
    """A formula with a tally, as an operation's handle has."""

    def __init__(self, function, **options):
        super().__init__(function, **options)
        self.tally = Tally()


@dataclass
class RequestContext:
    only_handle: Handle

    def handle(self, model, *, exact=False):
        return self.only_handle

    def heavy(self, function, *arrays, effort=1):
        return function()

    def named(self, name):
        return nullcontext()

    def timed(self, name, **attributes):
        return nullcontext(self)

    def runtime(self, model, tally):
        return Runtime("graph", "", "cpu", "float32", {})


@dataclass
class Model:
    key = ModelKey("corner", 1)
    outputs = (OutputInfo("y", "values", "float64", (1,)),)
    open_lengths = False
    solo = False
    features: dict[str, Feature] = field(default_factory=lambda: {"x": Feature("tensor", True)})

    def baseline(self, kind, row, *, many, sigma, field):
        return "zeros", {name: np.zeros_like(array)[None] for name, array in row.items()}


def explained(method, function, x, **spec):
    row = np.asarray(x, np.float32)
    rows = Rows({"x": row[None]}, {"x": (None,)}, 1)
    outputs = {"y": function({"x": torch.from_numpy(row[None]).double()}).numpy()[:, None]}
    prepared = PreparedExplanation(
        ExplanationSpec(method.name, **spec), method, method.resolve({}), None, "explanation"
    )
    return explain_row(RequestContext(Handle(function)), Model(), prepared, rows, 0, outputs, time_share=1.0)


def numbers(value):
    """Return all floating-point numbers of an answer."""
    if isinstance(value, float | np.ndarray | np.generic):
        array = np.asarray(value)
        return [array.reshape(-1)] if array.dtype.kind == "f" else []
    if dataclasses.is_dataclass(value):
        return [each for entry in dataclasses.fields(value) for each in numbers(getattr(value, entry.name))]
    if isinstance(value, dict):
        return [each for part in value.values() for each in numbers(part)]
    if isinstance(value, tuple):
        return [each for part in value for each in numbers(part)]
    return []


def roots(inputs):
    return inputs["x"].sqrt().sum(1)


def logarithms(inputs):
    return inputs["x"].log().sum(1)


def signs(inputs):
    return (inputs["x"] / inputs["x"].abs()).sum(1)


def powers(inputs):
    return (300.0 * inputs["x"]).exp().sum(1)


def quotient(inputs):
    return (inputs["x"] * inputs["x"]).sum(1) / inputs["x"].sum(1)


def distance(inputs):
    return (inputs["x"] * inputs["x"]).sum(1).sqrt()


CORNERS = {
    "roots at 0": (roots, [0.0, 1.0, 4.0]),
    "roots": (roots, [1.0, 4.0, 9.0]),
    "logarithms": (logarithms, [1.0, 2.0, 3.0]),
    "signs": (signs, [1.0, -2.0, 3.0]),
    "powers": (powers, [0.5, 2.36, 1.0]),
    "a mean of what is there": (quotient, [1.0, 2.0, 3.0]),
    "a norm": (distance, [1.0, 2.0, 2.0]),
    "a norm at 0": (distance, [0.0, 0.0, 0.0]),
}


def outcome(method, corner):
    """Return an answer's numbers, or the error in its place."""
    try:
        return numbers(explained(method, *CORNERS[corner], format=ReplyFormat(data_type="float64")))
    except InvalidRequestError as error:
        return error


@every_method
def test_an_answer_is_made_of_finite_numbers_or_refused(method):
    found = {corner: outcome(method, corner) for corner in CORNERS}

    answers = [answer for answer in found.values() if not isinstance(answer, InvalidRequestError)]
    refusals = [error for error in found.values() if isinstance(error, InvalidRequestError)]
    assert answers
    assert refusals
    assert all(np.isfinite(part).all() for answer in answers for part in answer)
    assert all(isinstance(error, NotFiniteError) for error in refusals)
    assert {error.metadata["field"] for error in refusals} <= {"inputs", "explanation.baseline", "explanation"}


REFUSED = [
    ("saliency", "roots at 0", "inputs", "not finite for 1 of the 3 elements of input 'x', first inf at index [0]"),
    ("saliency", "a norm at 0", "inputs", "not finite for 3 of the 3 elements of input 'x', first nan at index [0]"),
    ("input-x-gradient", "roots at 0", "inputs", "at row 0 of inputs is not finite for 1 of the 3 elements"),
    ("smoothgrad", "roots at 0", "inputs", "the score nan near row 0 of inputs"),
    ("integrated-gradients", "logarithms", "explanation.baseline", "the score -inf at row 0 of the baseline"),
    ("integrated-gradients", "signs", "explanation.baseline", "the score nan at row 0 of the baseline"),
    ("kernel-shap", "signs", "explanation.baseline", "no finite score for 7 of the 8 rows"),
    ("kernel-shap", "a mean of what is there", "explanation.baseline", "at row 0 of the baseline"),
    ("feature-ablation", "logarithms", "explanation.baseline", "the score -inf at row 0 of the baseline"),
    ("occlusion", "logarithms", "explanation.baseline", "the score -inf between the baseline and row 0 of inputs"),
]


@pytest.mark.parametrize(("name", "corner", "where", "part"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_is_not_finite_is_refused_with_its_place(name, corner, where, part):
    with pytest.raises(NotFiniteError) as caught:
        explained(registry.lookup(name), *CORNERS[corner])

    assert part in caught.value.message
    assert caught.value.metadata["field"] == where


def test_integrated_gradients_need_no_gradient_where_nothing_changes():
    # The slope of the root at 0 is infinite, but the first element stays there, and the others only begin there.
    found = explained(registry.lookup("integrated-gradients"), *CORNERS["roots at 0"], tolerance=1e-3)

    np.testing.assert_allclose(found.inputs["x"].scores, [0, 1, 2], rtol=2e-3)


def test_what_is_nan_is_not_looked_for_with_ever_more_points():
    handle = Handle(signs)
    method = registry.lookup("integrated-gradients")
    rows = Rows({"x": np.ones((1, 3), np.float32)}, {"x": (None,)}, 1)
    prepared = PreparedExplanation(ExplanationSpec(method.name), method, method.resolve({}), None, "explanation")

    with pytest.raises(NotFiniteError):
        explain_row(RequestContext(handle), Model(), prepared, rows, 0, {"y": np.full((1, 1), 3.0)}, time_share=1.0)

    assert handle.rows[1] == 37


@dataclass
class NoParams:
    """Parameters of a method that has none."""


FIELDS = {
    "scores": {"scores": {"x": np.array([1.0, math.nan, math.inf])}},
    "instance_value": {"instance_value": math.inf},
    "baseline_value": {"baseline_value": -math.inf},
    "signed_gap": {"signed_gap": math.nan},
    "absolute_gap": {"absolute_gap": math.inf},
    "tolerance": {"tolerance": math.nan},
    "group_scores": {"group_scores": np.array([math.nan])},
    "group_standard_errors": {"group_standard_errors": np.array([math.inf])},
    "standard_error": {"standard_error": math.nan},
    "resolved": {"resolved": {"edges": np.array([0.0, math.nan])}},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_no_field_of_any_method_leaves_with_a_number_that_is_none(fields):
    whole = {"scores": {"x": np.ones(3)}, "instance_value": 1.0, "baseline_value": 0.0, "signed_gap": 0.0}
    rogue = Method(
        name="rogue",
        verb=ATTRIBUTE,
        family="test",
        source="",
        summary="",
        function=lambda *arguments: Attribution(**(whole | fields)),
        params=NoParams,
        parameters={},
        needs=frozenset(),
        axioms=frozenset(),
        baselines=Background.ONE,
        takes_tolerance=False,
        answers_early=False,
        cost=lambda *arguments: registry.Cost(),
        rows_parameter="",
    )

    with pytest.raises(NotFiniteError, match="rogue found no finite number for"):
        explained(rogue, roots, [1.0, 1.0, 1.0])


def test_an_answer_says_in_how_many_places_and_where_first():
    rogue = dataclasses.replace(
        registry.lookup("saliency"),
        function=lambda *arguments: Attribution({"x": np.array([1.0, math.nan, math.inf])}),
    )

    with pytest.raises(NotFiniteError, match=r"inputs\['x'\].scores in 2 of 3 places, first at \[1\]"):
        explained(rogue, roots, [1.0, 1.0, 1.0])


def test_a_share_of_next_to_nothing_is_left_out_and_not_infinite():
    tiny = dataclasses.replace(
        registry.lookup("saliency"),
        function=lambda *arguments: Attribution(
            {"x": np.ones(3)}, instance_value=5e-324, baseline_value=0.0, signed_gap=1e10
        ),
    )

    assert explained(tiny, roots, [1.0, 1.0, 1.0]).approximation_error is None


@pytest.mark.parametrize(
    ("data_type", "scale", "advice"),
    [
        ("float16", 1e5, "FLOAT32"),
        ("float16", 1e-7, "FLOAT32"),
        ("float32", 1e40, "FLOAT64"),
        ("float32", 1e-50, "FLOAT64"),
    ],
)
def test_scores_beyond_the_type_asked_for_are_refused_with_the_one_that_holds_them(data_type, scale, advice):
    large = dataclasses.replace(
        registry.lookup("saliency"), function=lambda *arguments: Attribution({"x": np.array([0.5, -1.0, 0.0]) * scale})
    )

    with pytest.raises(InvalidRequestError, match=f"set explanation.format.data_type to {advice}"):
        explained(large, roots, [1.0, 1.0, 1.0], format=ReplyFormat(data_type=data_type))


@pytest.mark.parametrize("data_type", ["float16", "float32", "float64"])
@pytest.mark.parametrize("largest", [1.0, 65504.0, 6.2e-5, 0.0])
def test_scores_within_the_type_are_right_to_a_thousandth_of_the_largest(data_type, largest):
    scores = np.array([largest, -largest / 3, largest / 70000, 0.0])
    method = dataclasses.replace(registry.lookup("saliency"), function=lambda *arguments: Attribution({"x": scores}))

    found = explained(method, roots, [1.0, 1.0, 1.0], format=ReplyFormat(data_type=data_type)).inputs["x"].scores

    assert found.dtype == data_type
    np.testing.assert_allclose(found.astype(np.float64), scores, atol=largest / 1024, rtol=0)


@pytest.mark.parametrize("baseline", [[[0.0, 5.0, 0.0]], [[9.0, 9.0, 9.0], [0.0, 5.0, 0.0]]], ids=["one", "several"])
def test_of_several_baseline_rows_the_one_at_fault_is_named(baseline):
    question = tensor_question([1.0, 2.0, 3.0], baseline)
    failing = Handle(lambda inputs: torch.where(inputs["x"][:, 1] == 5, torch.nan, inputs["x"].sum(1)))
    handle = WatchedHandle(failing, question, method="m", field="explanation", number=4)
    rows = np.concatenate([question.inputs["x"][None], question.baselines["x"]])

    with pytest.raises(
        NotFiniteError, match=f"nan at row {len(baseline) - 1} of the baseline, and no finite score for 1"
    ):
        handle.ask(Score(Recipe({"x": rows}), TARGET))


def test_a_table_of_the_model_that_noise_leaves_is_not_the_callers_mistake():
    class Refusing(Handle):
        def gradient(self, rows, target, *, at=""):
            raise InvalidRequestError("inputs hold a whole number beyond a table.", field="inputs")

    question = dataclasses.replace(tensor_question([1.0, 2.0]), baselines={})
    handle = WatchedHandle(Refusing(roots), question, method="smoothgrad", field="explanation", number=0)

    with pytest.raises(InvalidRequestError) as moved:
        handle.ask(Gradient(Recipe({"x": np.array([[1.1, 2.2]], np.float32)}), TARGET))
    with pytest.raises(InvalidRequestError) as own:
        handle.ask(Gradient(Recipe({"x": np.array([[1.0, 2.0]], np.float32)}), TARGET))

    assert "smoothgrad changes the inputs a little" in moved.value.message
    assert moved.value.metadata["field"] == "explanation.method"
    assert own.value.metadata["field"] == "inputs"


@pytest.mark.parametrize(
    ("baselines", "field", "message"),
    [
        (
            {"x": np.zeros((1, 2), np.float32)},
            "explanation.baseline",
            "The model cannot be run on explanation.baseline, ",
        ),
        ({}, "explanation.method", "smoothgrad changes the inputs a little, and the model cannot be run on what"),
    ],
    ids=["baseline", "noise"],
)
def test_values_that_the_model_cannot_be_run_on_are_not_called_numbers_beyond_a_table(baselines, field, message):
    class Refusing(Handle):
        def scores(self, rows, target):
            raise values_error(["x"], "A matrix cannot be inverted or decomposed.")

    question = dataclasses.replace(tensor_question([1.0, 2.0]), baselines=baselines)
    handle = WatchedHandle(Refusing(roots), question, method="smoothgrad", field="explanation", number=0)

    with pytest.raises(InvalidRequestError) as moved:
        handle.ask(Score(Recipe({"x": np.array([[0.0, 0.0]], np.float32)}), TARGET))
    with pytest.raises(InvalidRequestError) as own:
        handle.ask(Score(Recipe({"x": np.array([[1.0, 2.0]], np.float32)}), TARGET))

    assert moved.value.message.startswith(message)
    assert "A matrix cannot be inverted or decomposed." in moved.value.message
    assert "table" not in moved.value.message
    assert moved.value.metadata["field"] == field
    assert own.value.message.startswith("The model cannot be run on these rows of x: A matrix")
    assert own.value.metadata["field"] == "inputs"


AT_ZERO = Recipe({"x": np.array([[0.0, 0.0]], np.float32)})


@pytest.mark.parametrize(
    "ask",
    [
        lambda handle: handle.ask(Forward(AT_ZERO)),
        lambda handle: handle.ask(Capture(AT_ZERO, ("l",))),
        lambda handle: handle.hold(AT_ZERO, "l"),
        lambda handle: handle.hold_each(AT_ZERO, ("l", "m")),
    ],
    ids=["forward", "activations", "hold", "hold each"],
)
def test_every_evaluation_says_whose_the_rows_are(ask):
    class Refusing(Handle):
        def ask(self, ask, *, progress=None):
            raise values_error(["x"], "A matrix cannot be inverted or decomposed.")

        def hold(self, rows, layer):
            return self.ask(rows)

        def hold_each(self, rows, layers, *, by_unit=frozenset()):
            return self.ask(rows)

    question = tensor_question([1.0, 2.0])
    handle = WatchedHandle(Refusing(roots), question, method="m", field="explanation", number=0)

    with pytest.raises(InvalidRequestError) as caught:
        ask(handle)

    assert caught.value.metadata["field"] == "explanation.baseline"


def test_outputs_that_are_not_finite_are_named_with_how_many_and_where():
    outputs = {"y": np.array([[1.0, -np.inf], [np.nan, 2.0]]), "n": np.array([3]), "z": np.array([1.0])}

    assert nonfinite_warnings(outputs, 7) == (
        "Output 'y' of row 7 is not finite for 2 of its 4 values, first -inf at index [0, 1].",
    )


def test_an_output_of_one_number_per_row_that_is_not_finite_is_named_without_an_index():
    assert nonfinite_warnings({"y": np.float32(np.nan)}, 2) == (
        "Output 'y' of row 2 is nan, which is not a finite number.",
    )


@pytest.mark.parametrize("runtime", [[1.0, 1.0 + 1e-7], [1.0 + 1e-7, 1.0], [1.0, 1.0]], ids=["above", "below", "equal"])
def test_the_class_that_the_prediction_names_is_explained_though_the_graph_would_name_another(runtime):
    predicted = np.array([runtime])
    asked = []

    def answer(handle, question, params):
        asked.append(question.target.elements)
        return Attribution(
            {"x": np.zeros(3)},
            instance_value=float(handle.ask(Score(Recipe({"x": np.ones((1, 3))}), TARGET)).scores[0]),
        )

    method = dataclasses.replace(registry.lookup("saliency"), function=answer)
    rows = Rows({"x": np.ones((1, 3), np.float32)}, {"x": (None,)}, 1)
    prepared = PreparedExplanation(ExplanationSpec("saliency"), method, method.resolve({}), None, "explanation")
    model = Model()
    model.outputs = (OutputInfo("y", "logits", "float64", (2,), ("a", "b")),)

    found = explain_row(RequestContext(Handle(roots)), model, prepared, rows, 0, {"y": predicted}, time_share=1.0)

    expected = int(np.argmax(runtime))
    assert asked == [((expected, 1.0),)]
    assert (found.output_index, found.label) == ((expected,), "ab"[expected])
