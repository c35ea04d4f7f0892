"""What every method says beforehand that an answer costs, held to the rows that it then evaluates."""

import dataclasses

import numpy as np
import pellucid_server.engine.methods
import pytest
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.question import Feature, Question
from pellucid_server.engine.asking.registry import Background
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question

registry.discover(pellucid_server.engine.methods)

METHODS = [method for method in registry.methods() if method.verb is ATTRIBUTE]
PICTURE = np.random.default_rng(41).normal(size=(3, 40, 40)).astype(np.float32)

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def mixed():
    """A picture, a table with a column of three elements, and whole numbers; half of the picture is absent."""
    photo = np.where(np.arange(40) < 20, PICTURE, np.float32(0))
    return Question(
        inputs={
            "photo": photo,
            "table": np.array([1, 0, 1, 0], np.float32),
            "flags": np.array([[3, 4]]),
        },
        baselines={
            "photo": np.zeros((1, 3, 40, 40), np.float32),
            "table": np.array([[1, 1, 0, 0]], np.float32),
            "flags": np.array([[[3, 0]]]),
        },
        target=TARGET,
        features={
            "photo": Feature("image", True),
            "table": Feature("tabular", True, groups=np.array([0, 1, 1, 1], np.int32)),
            "flags": Feature("tensor", False),
        },
    )


QUESTIONS = {
    "nothing changed": tensor_question([1.0, 2.0], [1.0, 2.0]),
    "a number": tensor_question(3.0),
    "five numbers, three of them changed": tensor_question([0, 1, 2, 0, 4]),
    "thirty numbers": tensor_question(np.arange(1, 31).reshape(5, 6)),
    "a table": tensor_question(
        [1.0, 0, 1, 5], [0, 1, 1, 2], modality="tabular", groups=np.array([0, 1, 1, 2], np.int32)
    ),
    "a picture": tensor_question(PICTURE, modality="image"),
    "three inputs": mixed(),
}
BACKGROUND = tensor_question(np.arange(1, 6), np.random.default_rng(42).normal(size=(7, 5)))

SETTINGS = [
    ("smoothgrad", {"samples": 7}),
    ("integrated-gradients", {"steps": 5}),
    ("integrated-gradients", {"edges": np.array([0, 0.25, 0.5, 1.0])}),
    ("integrated-gradients", {"edges": np.linspace(0, 1, 41)}),
    ("occlusion", {"window": 3, "stride": 2}),
    ("feature-ablation", {"segments": 9, "regions": "grid"}),
    ("kernel-shap", {"samples": 131, "segments": 16, "regions": "grid"}),
    ("kernel-shap", {"samples": 500, "regions": "grid", "segments": 20}),
]


def linear(inputs):
    return sum(rows.double().reshape(len(rows), -1).sum(dim=1) for rows in inputs.values())


def on_a_grid(method):
    """Regions that can be told without looking for them."""
    return {"regions": "grid"} if "regions" in method.parameters else {}


def as_taken(method, question):
    """The question with baselines only if the method compares with one."""
    return question if method.baselines is not Background.NONE else dataclasses.replace(question, baselines={})


def cost_and_rows(method, question, parameters):
    """Return what an answer should cost, and the rows that it took."""
    params, asked, handle = method.resolve(parameters), as_taken(method, question), Formula(linear)
    method.function(handle, asked, params)
    return method.cost(params, asked), handle.rows


@every_method
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_rows_are_as_many_as_were_said(method, question):
    cost, rows = cost_and_rows(method, question, on_a_grid(method))

    assert rows == (cost.forward, cost.backward)
    assert cost.lowest.forward <= cost.forward
    assert cost.lowest.backward <= cost.backward


@pytest.mark.parametrize(("name", "parameters"), SETTINGS, ids=str)
@pytest.mark.parametrize("question", [QUESTIONS["thirty numbers"], QUESTIONS["a picture"]], ids=["numbers", "picture"])
def test_parameters_are_counted(name, parameters, question):
    cost, rows = cost_and_rows(registry.lookup(name), question, parameters)

    assert rows == (cost.forward, cost.backward)


@pytest.mark.parametrize("method", [m for m in METHODS if m.baselines is Background.MANY], ids=lambda m: m.name)
def test_every_row_of_a_background_is_counted(method):
    cost, rows = cost_and_rows(method, BACKGROUND, {})

    assert rows == (cost.forward, cost.backward)


@pytest.mark.parametrize("method", [m for m in METHODS if "regions" in m.parameters], ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("segments", "absent", "noise"),
    [(2, 0.03, 0.0), (7, 0.97, 0.1), (50, 0.5, 3.0), (50, 1.0, 0.1), (300, 0.0, 0.1), (300, 0.97, 3.0)],
)
def test_superpixels_are_never_fewer_than_was_counted_on(method, segments, absent, noise):
    source = np.random.default_rng(43)
    plane = np.add.outer(np.arange(48) // 12, np.arange(48) // 9) + noise * source.normal(size=(3, 48, 48))
    picture = np.where(np.sort(source.random((48, 48)), axis=0) < absent, 0, plane + 20)
    parameters = {"segments": segments, "samples": 2048} if "samples" in method.parameters else {"segments": segments}

    cost, rows = cost_and_rows(method, tensor_question(picture, modality="image"), parameters)

    assert rows[0] >= cost.lowest.forward
    assert rows[1] >= cost.lowest.backward


@every_method
@pytest.mark.parametrize("name", ["thirty numbers", "a picture"])
def test_with_time_for_the_least_alone_there_is_an_answer(method, name):
    asked = as_taken(method, QUESTIONS[name])
    params = method.resolve(on_a_grid(method))
    least = method.cost(params, asked).lowest
    each = 0.95 / least.rows
    handle = Formula(linear, seconds=1.0, row_seconds=each, forward_seconds=each)

    method.function(handle, asked, params)

    assert handle.rows == (least.forward, least.backward)


@pytest.mark.parametrize("method", [m for m in METHODS if m.rows_parameter], ids=lambda m: m.name)
def test_rows_are_in_proportion_to_the_parameter_that_is_said_to_decide(method):
    asked = QUESTIONS["thirty numbers"]

    few, many = (method.cost(method.resolve({method.rows_parameter: count}), asked).rows for count in (200, 800))

    assert 3.9 < many / few < 4.1


@pytest.mark.parametrize(
    ("name", "parameters", "question"),
    [
        ("feature-ablation", {}, tensor_question(np.ones(513))),
        ("kernel-shap", {}, tensor_question(np.ones(513))),
        ("kernel-shap", {"samples": 50}, QUESTIONS["thirty numbers"]),
        ("occlusion", {}, tensor_question(np.ones(16385))),
        ("occlusion", {"window": 2, "stride": 3}, QUESTIONS["thirty numbers"]),
        ("integrated-gradients", {"edges": np.array([0.0, 0.5])}, QUESTIONS["thirty numbers"]),
    ],
)
def test_what_the_method_refuses_has_no_cost(name, parameters, question):
    method = registry.lookup(name)
    params = method.resolve(parameters)
    with pytest.raises(InvalidRequestError) as refused:
        method.function(Formula(linear), question, params)

    with pytest.raises(InvalidRequestError) as uncounted:
        method.cost(params, question)

    assert (uncounted.value.message, uncounted.value.metadata) == (refused.value.message, refused.value.metadata)
