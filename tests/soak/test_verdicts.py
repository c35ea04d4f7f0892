"""A soak is worth what its verdicts see: each is shown one thing that is wrong, among others that are right."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from soak import verdicts
from soak.catalogue import EXPLANATIONS, Entry
from soak.ledger import Counters, Line, Log
from soak.records import Begun, Call, Ended
from soak.server import Ending

PREDICT = Entry("predict", EXPLANATIONS + "Predict")
REFUSED = Entry("no model", EXPLANATIONS + "Predict", "NOT_FOUND")
ENTRIES = (PREDICT, REFUSED)
OUTAGES = ((100.0, 110.0),)


def call(
    code: str | None = "OK", *, entry: int = 0, plan: str = "patient", seconds: float = 60.0, **ended: Any
) -> Call:
    """Return a call that began at 50 s and ended, unless `code` is None, after 1 s."""
    begun = Begun("callers1-1", entry, plan, seconds, at=50.0)
    return Call(begun, None if code is None else Ended("callers1-1", code, **{"at": 51.0, "answered": True, **ended}))


@pytest.mark.parametrize(
    ("wrong", "replays"),
    [
        (call(faults=("output output: differs by 1",)), {}),
        (call(entry=1), {}),
        (call("CANCELLED"), {}),
        (call(partial=True), {"an answer": ["row 0: the scores differ"]}),
        (call(partial=True), {}),
    ],
    ids=[
        "a differing answer",
        "an answer where a refusal was due",
        "no answer at all",
        "another answer by the receipt",
        "an answer cut short that was not made again",
    ],
)
def test_a_wrong_answer_is_seen(wrong: Call, replays: Mapping[str, list[str]]) -> None:
    assert not verdicts.answers([wrong], ENTRIES, replays).held


def test_right_answers_hold_and_those_cut_short_are_counted() -> None:
    found = verdicts.answers([call(), call(partial=True)], ENTRIES, {"an answer": []})

    assert found.held
    assert found.figures == "2 answers, 1 of them cut short by their deadline and made again"


@pytest.mark.parametrize("wrong", [call(None), call("HANG")], ids=["no end", "an end that never came"])
def test_a_call_without_an_outcome_is_seen(wrong: Call) -> None:
    assert not verdicts.outcomes([call(), wrong], killed=["callers11", "shipped1"]).held


def test_calls_of_a_killed_caller_need_no_outcome() -> None:
    assert verdicts.outcomes([call(None)], killed=["callers1"]).held


@pytest.mark.parametrize(
    "explained",
    [
        call("NOT_FOUND", entry=1),
        call("CANCELLED", plan="leaving", answered=False),
        call("DEADLINE_EXCEEDED", plan="hurried", seconds=1.0),
        call("DEADLINE_EXCEEDED", plan="hurried", seconds=10.0, stage="refused"),
        call("RESOURCE_EXHAUSTED", retry_seconds=0.1),
        call("UNAVAILABLE", retry_seconds=0.1, at=105.0),
        call("UNAVAILABLE", entry=1, retry_seconds=0.1, at=110.5),
    ],
    ids=lambda each: each.ended.code,
)
def test_a_refusal_that_the_situation_explains_holds(explained: Call) -> None:
    assert verdicts.refusals([explained], ENTRIES, OUTAGES).held


@pytest.mark.parametrize(
    "unexplained",
    [
        call("INTERNAL"),
        call("UNKNOWN", answered=False),
        call("INVALID_ARGUMENT"),
        call("NOT_FOUND"),
        call("CANCELLED"),
        call("DEADLINE_EXCEEDED"),
        call("DEADLINE_EXCEEDED", plan="hurried", seconds=10.0),
        call("RESOURCE_EXHAUSTED"),
        call("UNAVAILABLE", at=105.0),
        call("UNAVAILABLE", at=105.0, answered=False, retry_seconds=0.1),
        call("UNAVAILABLE", at=90.0, retry_seconds=0.1),
        call("UNAVAILABLE", at=112.0, retry_seconds=0.1),
    ],
    ids=lambda each: each.ended.code,
)
def test_a_refusal_that_nothing_explains_is_seen(unexplained: Call) -> None:
    found = verdicts.refusals([call("NOT_FOUND", entry=1), unexplained], ENTRIES, OUTAGES)

    assert not found.held
    assert len(found.examples) == 1


@pytest.mark.parametrize("calls", [[], [call(), call("UNAVAILABLE")]], ids=["none", "one failed"])
def test_a_failure_that_the_shipped_client_lets_through_is_seen(calls: list[Call]) -> None:
    assert not verdicts.shipped(calls).held


def logged(*lines: tuple[str, str], rpc: str = "Predict") -> Log:
    return Log(tuple(Line(identity, rpc, code) for identity, code in lines), tracebacks=())


@pytest.mark.parametrize(
    ("ended", "lines"),
    [
        (call(), []),
        (call(), [("callers1-1", "OK"), ("callers1-1", "OK")]),
        (call(), [("callers1-1", "CANCELLED")]),
        (call("CANCELLED", answered=False), [("callers1-1", "CANCELLED"), ("callers1-1", "OK")]),
        (call(), [("callers1-1", "OK"), ("nobody", "OK")]),
    ],
    ids=["no line", "two lines", "another code", "two ends of a cancelled call", "a call that nobody made"],
)
def test_a_log_that_differs_from_what_a_caller_saw_is_seen(ended: Call, lines: list[tuple[str, str]]) -> None:
    assert not verdicts.log_agrees([ended], [], ENTRIES, logged(*lines)).held


@pytest.mark.parametrize("lines", [[], [("callers1-1", "CANCELLED")], [("callers1-1", "OK")]], ids=str)
def test_a_call_that_left_may_have_had_any_one_end_or_none(lines: list[tuple[str, str]]) -> None:
    left = call("CANCELLED", plan="leaving", answered=False)

    assert verdicts.log_agrees([left], [], ENTRIES, logged(*lines)).held


def shipped(number: int, code: str = "OK") -> Call:
    identity = f"shipped1-0#{number}"
    return Call(replace(call().begun, id=identity), Ended(identity, code, at=51.0))


@pytest.mark.parametrize(("answers", "held"), [(1, False), (2, True), (3, False)])
def test_the_shipped_clients_answers_are_counted_in_the_log(answers: int, held: bool) -> None:
    retried = [("shipped1-0", "UNAVAILABLE")] * 3
    log = logged(*retried, *[("shipped1-0", "OK")] * answers)

    found = verdicts.log_agrees([], [shipped(1), shipped(2), shipped(3, "UNAVAILABLE")], ENTRIES, log)

    assert found.held is held


PAGE = """
pellucid_request_seconds_count{rpc="Predict",method="",model="m",code="OK"} 2.0
pellucid_request_seconds_count{rpc="Predict",method="",model="n",code="OK"} 1.0
pellucid_rows_evaluated_total{model="m",kind="forward"} 5.0
pellucid_rows_wasted_total{model="m",kind="forward"} 5.0
pellucid_requests_in_flight 0.0
pellucid_queue_rows{priority="bulk"} 0.0
"""


def test_counters_that_are_the_logs_hold() -> None:
    assert verdicts.counters_agree(Counters.of(PAGE), logged(*[("a", "OK")] * 3)).held


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('model="n",code="OK"} 1.0', 'model="n",code="OK"} 2.0'),
        ('model="n",code="OK"', 'model="n",code="CANCELLED"'),
        ("in_flight 0.0", "in_flight 1.0"),
        ('queue_rows{priority="bulk"} 0.0', 'queue_rows{priority="bulk"} 3.0'),
        ('rows_wasted_total{model="m",kind="forward"} 5.0', 'rows_wasted_total{model="m",kind="forward"} 6.0'),
    ],
)
def test_counters_that_are_not_the_logs_or_not_back_at_zero_are_seen(before: str, after: str) -> None:
    page = PAGE.replace(before, after)

    assert page != PAGE
    assert not verdicts.counters_agree(Counters.of(page), logged(*[("a", "OK")] * 3)).held


@pytest.mark.parametrize(
    "ending", [Ending(None, 50.0, ()), Ending(1, 1.0, ()), Ending(0, 21.0, ()), Ending(0, 1.0, (7,))], ids=str
)
def test_an_end_that_is_not_clean_is_seen(ending: Ending) -> None:
    assert verdicts.ended(Ending(0, 1.0, ())).held
    assert not verdicts.ended(ending).held


def test_a_traceback_and_callers_that_failed_are_seen() -> None:
    assert verdicts.no_bugs(logged(), {"callers1": 0}).held
    assert not verdicts.no_bugs(Log((), tracebacks=("KeyError: 1",)), {}).held
    assert not verdicts.no_bugs(logged(), {"callers1": 1}).held
