"""What counts as valid, and how many rows may be asked for."""

import math

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.counterfactuals import Goal
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.counterfactual.judge import Judge, satisfied
from server.engine.methods.networks_of_rows import Network, linear, tensor_row


def rows(*values):
    return Rows({"x": np.array(values, np.float32).reshape(len(values), -1)})


def outputs(inputs):
    """The row itself is the output."""
    return inputs["x"]


def judge(goal, function=outputs, budget=1000, **options):
    return Judge(Network(function, **options), tensor_row([0.0], goal), budget)


def test_an_outcome_must_be_ahead_of_every_other_by_more_than_rounding():
    found = judge(Goal(outcome=1)).margins(rows([0, 2, 1], [2, 2, 0], [1, 1 + 1e-7, 0], [3, 2, 9]))

    assert (found >= 0).tolist() == [True, False, False, False]
    assert found[0] == pytest.approx(1.0, rel=1e-4)
    assert found[3] == pytest.approx(-7.0, rel=1e-4)


def test_any_other_than_the_own_element_will_do():
    found = judge(Goal(other_than=0)).margins(rows([0, 2, 1], [2, 2, 0], [3, 1, 4], [3, 1, 2]))

    assert (found >= 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal", [Goal(outcome=1), Goal(other_than=0), Goal(minimum=-5.0), Goal(maximum=5.0)])
def test_what_is_not_finite_is_as_far_away_as_can_be(goal, bad):
    assert judge(goal).margins(rows([bad, bad], [bad, bad])).tolist() == [-math.inf] * 2


def test_bounds_are_met_inside_of_them():
    found = judge(Goal(minimum=1.0, maximum=2.0)).margins(rows([0, 0.5], [0, 1.0], [0, 1.5], [0, 2.0], [0, 7.0]))

    assert (found >= 0).tolist() == [False, False, True, False, False]


def test_bounds_without_room_for_rounding_are_met_exactly():
    found = judge(Goal(minimum=1.0, maximum=1.0)).margins(rows([0, 1.0], [0, 1.5]))

    assert (found >= 0).tolist() == [True, False]


def test_one_number_is_never_ahead_of_another():
    assert judge(Goal(other_than=0)).margins(rows([3.0])).tolist() == [-math.inf]


def test_slopes_are_those_of_the_margin():
    source = np.random.default_rng(1)
    weights = source.normal(size=(3, 4))

    def function(inputs):
        return torch.tanh(inputs["x"] @ torch.from_numpy(weights).T)

    x = source.normal(size=4)
    for goal in (
        Goal(outcome=2),
        Goal(other_than=int(np.tanh(weights @ x).argmax())),
        Goal(minimum=0.9),
        Goal(maximum=-0.9),
    ):
        made = judge(goal, function)
        margin, slopes = made.slopes({"x": x[None]})

        shifted = [x + 1e-6 * unit for unit in np.eye(4)]
        near = np.array([made.slopes({"x": each[None]})[0] for each in shifted])
        np.testing.assert_allclose(slopes["x"], (near - margin) / 1e-6, rtol=1e-3, atol=1e-5)


def test_the_budget_is_shared_out_by_phases():
    made = judge(Goal(outcome=1), budget=100)

    made.phase(0.5)
    assert made.affordable(80) == 50
    made.margins(rows(*[[0, 1]] * 50))
    assert made.affordable(80) == 0
    made.phase(1.0)
    assert made.affordable(80) == 50
    assert not made.late


def test_a_deadline_bounds_what_is_asked_for_and_says_so():
    made = judge(Goal(outcome=1), seconds=1.0, forward_seconds=0.01)

    count = made.affordable(1000)
    assert 0 < count < 100
    assert made.late
    for _ in range(100):
        if not made.affordable(10):
            break
        made.margins(rows(*[[0, 1]] * made.affordable(10)))
    assert made._handle.seconds_left() > 0


@pytest.mark.parametrize(
    ("goal", "output", "score", "expected"),
    [
        (Goal(outcome=1), [0.0, 1.0], 0.0, True),
        (Goal(outcome=1), [1.0, 1.0], 0.0, False),
        (Goal(other_than=0), [1.0, 1.0], 0.0, False),
        (Goal(other_than=0), [math.nan, 1.0], 0.0, False),
        (Goal(minimum=1.0), [0.0], 1.0, True),
        (Goal(maximum=1.0), [0.0], 1.5, False),
        (Goal(minimum=1.0), [0.0], math.nan, False),
    ],
)
def test_the_row_itself_is_judged_as_it_is_predicted(goal, output, score, expected):
    assert satisfied(tensor_row([0.0], goal), np.array(output), score) is expected


def test_evaluations_are_counted():
    made = judge(Goal(outcome=1), linear([1.0]))
    made.margins(rows([0.0], [1.0]))
    made.slopes({"x": np.zeros((1, 1))})

    assert made.spent == 4


def test_what_is_left_is_divided_by_sections():
    made = judge(Goal(outcome=1), budget=100)

    made.margins(rows(*[[0, 1]] * 40))
    made.section(0.5)
    assert made.affordable(80) == 30
    assert made.cut
    assert made.gone() == 0.4


def test_one_slow_row_does_not_end_a_search():
    """The cost of an evaluation by itself is not that of each row of it."""

    class Slow(Network):
        def ask(self, ask, **options):
            self._seconds -= 0.01
            return super().ask(ask, **options)

    handle = Slow(outputs, seconds=1.0)
    made = Judge(handle, tensor_row([0.0], Goal(outcome=1)), 10_000)
    made.margins(rows([0, 1]))
    done = 1
    while done < 2000 and (count := made.piece(2000 - done)):
        made.margins(rows(*[[0, 1]] * count))
        done += count

    assert done == 2000
    assert not made.late
    assert handle.seconds_left() > 0.8
