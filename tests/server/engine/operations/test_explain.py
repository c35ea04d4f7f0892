"""What an explanation costs is known before it begins, and what cannot be in time is refused."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from pellucid_server.engine.asking.question import Attribution, Feature
from pellucid_server.engine.asking.registry import Background, Cost, Method
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.operations.explain import (
    PreparedExplanation,
    explain_row,
    require_finite,
    require_time,
    time_share,
)
from pellucid_server.engine.operations.rows import Rows
from pellucid_server.engine.tasks.request_state import Tally
from pellucid_server.errors import InvalidRequestError, TimedOutError
from pellucid_server.vocabulary.descriptions import OutputInfo
from pellucid_server.vocabulary.requests import ExplanationSpec, ModelKey
from pellucid_server.vocabulary.results import Runtime

ROWS = Rows({"x": np.arange(12, dtype=np.float32).reshape(4, 3)}, {"x": (None,) * 4}, 4)
NOTHING = Cost()


@dataclass
class Handle:
    """A handle whose rows forward take 10 ms and rows backward 1 s, or that has not measured any."""

    left: float
    measured: bool = True

    tally: Tally = field(default_factory=Tally)

    def seconds_left(self):
        return self.left

    def least_seconds(self, rows):
        return self.measured * (0.01 * rows.get("forward", 0) + 1.0 * rows.get("gradient", 0))


@dataclass
class RequestContext:
    handle_there_is: Handle

    def handle(self, model, *, exact=False):
        return self.handle_there_is

    def heavy(self, function, *arrays, effort=1):
        return function()

    def named(self, name):
        return nullcontext()

    def timed(self, name, **attributes):
        return nullcontext(self)

    def runtime(self, model, tally):
        return Runtime("graph", "", "cpu", "float32", {})


@dataclass
class NoParams:
    """Parameters of a method that has none."""


@dataclass
class Model:
    key = ModelKey("careful", 1)
    outputs = (OutputInfo("y", "values", "float32", (2,)),)
    open_lengths: bool = False
    solo: bool = False
    features: dict[str, Feature] = field(default_factory=lambda: {"x": Feature("tensor", True)})

    def baseline(self, kind, row, *, many, sigma, field):
        return "zeros", {name: np.zeros_like(array)[None] for name, array in row.items()}


def method(cost, *, rows_parameter=""):
    return Method(
        name="careful",
        verb=ATTRIBUTE,
        family="test",
        source="",
        summary="",
        function=lambda *arguments: Attribution({}),
        params=object,
        parameters={},
        needs=frozenset(),
        axioms=frozenset(),
        baselines=Background.ONE,
        takes_tolerance=False,
        answers_early=False,
        cost=cost,
        rows_parameter=rows_parameter,
    )


def check(cost, *, left, model=None, others=NOTHING, measured=True, **settings):
    prepared = PreparedExplanation(ExplanationSpec("careful"), method(cost, **settings), None, None, "explanation")
    require_time(RequestContext(Handle(left, measured)), model or Model(), prepared, ROWS, others=others)


def two_backward(params, question):
    return Cost(forward=10, backward=2)


def test_what_cannot_be_in_time_is_refused_with_what_it_needs():
    with pytest.raises(TimedOutError) as caught:
        check(two_backward, left=5.0, rows_parameter="steps")

    # Four rows take 8 s backward and 0.4 s forward; four fifths of it count as certain.
    assert caught.value.message == (
        "careful needs 8 rows backward and 40 forward, at least 6.72 s at the pace measured; the deadline leaves 5 s. "
        "Allow more time, or ask for fewer `steps`."
    )
    assert caught.value.metadata == {"stage": "refused", "needed_seconds": "6.720"}


def test_without_a_parameter_to_turn_down_fewer_rows_are_advised():
    with pytest.raises(TimedOutError, match=r"Allow more time, or send fewer rows\.$"):
        check(two_backward, left=5.0)


def test_what_can_just_be_in_time_is_begun():
    check(two_backward, left=6.73)


def test_work_beside_the_explanation_counts():
    with pytest.raises(TimedOutError, match="8 rows backward and 44 forward"):
        check(two_backward, left=6.73, others=Cost(forward=4))


def test_a_method_that_can_answer_with_less_is_judged_by_the_least():
    def refining(params, question):
        return Cost(backward=1000, least=Cost(backward=1))

    check(refining, left=3.3)

    with pytest.raises(TimedOutError, match="careful needs 4 rows backward, at"):
        check(refining, left=3.1)


def test_every_row_is_counted_by_its_own_cost():
    def by_change(params, question):
        return Cost(backward=int((question.inputs["x"] != question.baseline["x"]).sum()))

    with pytest.raises(TimedOutError, match="careful needs 11 rows backward"):
        check(by_change, left=1.0)


@pytest.mark.parametrize(
    "circumstances",
    [{"left": math.inf}, {"left": 0.1, "measured": False}, {"left": 0.1, "model": Model(open_lengths=True)}],
    ids=["no deadline", "nothing measured yet", "rows of any length"],
)
def test_what_cannot_be_judged_is_begun(circumstances):
    check(two_backward, **circumstances)


def test_a_parameter_that_the_cost_refuses_is_named_by_its_place_in_the_request():
    def refusing(params, question):
        raise InvalidRequestError("no such window", field='parameters["window"]')

    with pytest.raises(InvalidRequestError) as caught:
        check(refusing, left=5.0)

    assert caught.value.metadata == {"field": 'explanation.parameters["window"]'}


def test_a_parameter_that_a_message_begins_with_is_written_with_its_whole_path():
    def refusing(params, question):
        raise InvalidRequestError('parameters["window"] is 9; it must be 8.', field='parameters["window"]')

    with pytest.raises(InvalidRequestError) as caught:
        check(refusing, left=5.0)

    assert caught.value.message == 'explanation.parameters["window"] is 9; it must be 8.'


@pytest.mark.parametrize(("left", "asked"), [(60.0, 1), (math.inf, 0)], ids=["deadline", "no deadline"])
def test_a_baseline_is_made_once_whether_or_not_the_cost_was_asked_for(left, asked):
    made, costed, seen = [], [], []

    class Counting(Model):
        def baseline(self, kind, row, *, many, sigma, field):
            made.append(row["x"])
            return super().baseline(kind, row, many=many, sigma=sigma, field=field)

    def answer(handle, question, params):
        seen.append(question.baselines["x"])
        return Attribution({"x": np.zeros(3)})

    def cost(params, question):
        costed.append(question.baselines["x"])
        return Cost(forward=1)

    chosen = replace(method(cost), function=answer)
    prepared = PreparedExplanation(ExplanationSpec("careful"), chosen, NoParams(), None, "explanation")
    context, model = RequestContext(Handle(left)), Counting()

    require_time(context, model, prepared, ROWS)
    for number in range(ROWS.count):
        explain_row(context, model, prepared, ROWS, number, {"y": np.zeros((4, 2), np.float32)}, time_share=1.0)

    np.testing.assert_array_equal(made, ROWS.arrays["x"])
    assert len(costed) == 4 * asked
    assert all(one is other for one, other in zip(costed, seen, strict=False))
    assert not prepared.made


def test_a_row_without_successors_may_use_all_the_time():
    assert [time_share(position, 8) for position in range(8)] == [1.0] * 8


def test_rows_that_come_later_find_as_much_time_as_the_first():
    shares = [time_share(position, 20) for position in (0, 7, 8, 15, 16, 19)]

    assert shares == [1 / 3, 1 / 3, 1 / 2, 1 / 2, 1.0, 1.0]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_not_explained(score):
    with pytest.raises(InvalidRequestError, match=f"row 3 of inputs is {score}") as caught:
        require_finite(score, 3)

    assert caught.value.metadata["field"] == "inputs"


def test_a_finite_score_is_explained_however_large():
    require_finite(3.4e38, 0)
