"""The limit is tried on devices of which it is known how many requests they can do at once."""

import itertools

import numpy as np
import pytest
from pellucid_server.pool.queue.concurrency_limiter import ConcurrencyLimiter


def steady(crowding, stay, *, rounds=200):
    """Keep all places taken: the oldest leaves after `stay(requests in places)`, and others take what is free."""
    line = []
    for _ in range(rounds):
        while len(line) < crowding.limit:
            line.append(crowding.enter())
        crowding.leave("m/ig", 50, stay(len(line)), weight=50, beside=line.pop(0), counted=True)
    return crowding.limit


def test_a_device_that_one_request_fills_has_two_at_once_or_a_third_to_try():
    quiet = ConcurrencyLimiter(64, 1)
    quiet.leave("m/ig", 50, 3.0, weight=50, beside=quiet.enter(), counted=True)

    assert steady(quiet, lambda requests: 3.0 * requests) <= 3


def test_a_device_that_sixteen_requests_fill_has_no_fewer_at_once_and_at_most_half_as_many_more():
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)

    assert 16 <= steady(crowding, lambda requests: 3.0 * max(1.0, requests / 16)) <= 25


def test_a_device_without_bound_has_all_places():
    assert steady(ConcurrencyLimiter(64, 1), lambda requests: 3.0) == 64


def test_short_requests_have_all_places_though_they_share_the_device():
    assert steady(ConcurrencyLimiter(64, 1), lambda requests: 0.001 * requests) == 64


def test_requests_of_middling_length_have_places_that_keep_their_stay_short():
    limit = steady(ConcurrencyLimiter(64, 1), lambda requests: 0.02 * requests)

    # 25 requests of 20 ms each are half a second.
    assert limit == pytest.approx(25, abs=2)


def test_long_requests_are_not_hidden_by_many_short_ones():
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    crowding.leave("m/saliency", 1, 0.01, weight=1, beside=crowding.enter(), counted=True)
    for number in itertools.islice(itertools.count(), 300):
        kind, rows, alone = ("m/ig", 50, 3.0) if number % 10 == 0 else ("m/saliency", 1, 0.01)
        places = [crowding.enter() for _ in range(crowding.limit)]
        for beside in places:
            crowding.leave(kind, rows, alone * len(places), weight=rows, beside=beside, counted=True)

    assert crowding.limit <= 8


def test_several_workers_share_the_requests():
    # Two workers, each filled by one request: four side by side stretch each other twofold.
    crowding = ConcurrencyLimiter(64, 2)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    line = []
    for _ in range(200):
        while len(line) < 2 * crowding.limit:
            line.append(crowding.enter())
        crowding.leave("m/ig", 50, 3.0 * max(1.0, len(line) / 2), weight=50, beside=line.pop(0), counted=True)

    assert crowding.limit <= 3


def test_a_request_that_was_not_done_tells_nothing():
    crowding = ConcurrencyLimiter(64, 1)
    before = crowding.limit

    crowding.leave("m/ig", 50, 100.0, weight=50, beside=crowding.enter(), counted=False)

    assert (crowding.limit, crowding.placed) == (before, 0)
    assert crowding.stay_seconds("m/ig", 50) == 0.0


def test_there_are_never_more_places_than_the_settings_give():
    assert steady(ConcurrencyLimiter(1, 1), lambda requests: 0.001) == 1


def test_a_stay_is_foretold_by_the_weight_beforehand_though_other_rows_were_evaluated():
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 13, 1.3, weight=10, beside=crowding.enter(), counted=True)

    assert crowding.stay_seconds("m/ig", 20) == pytest.approx(2.6)


def test_a_stay_is_foretold_by_rows_and_crowd():
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    limit = steady(crowding, lambda requests: 3.0 * requests)

    # Alone 60 ms a row; two side by side take twice as long, and three thrice.
    assert crowding.stay_seconds("m/ig", 100) == pytest.approx(6.0 * limit, rel=0.05)
    assert crowding.stay_seconds("m/unknown", 100) == 0.0


def test_a_device_that_was_never_quiet_has_at_most_half_as_many_more_requests_as_were_tried_at_first():
    assert steady(ConcurrencyLimiter(64, 1), lambda requests: 3.0 * requests) <= 12


def test_one_request_that_was_quick_by_chance_leaves_a_wide_device_its_places():
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    steady(crowding, lambda requests: 3.0)
    crowding.leave("m/ig", 50, 0.05, weight=50, beside=crowding.enter(), counted=True)

    assert steady(crowding, lambda requests: 3.0) == 64


@pytest.mark.parametrize("callers", [1, 2])
def test_a_wide_device_whose_first_request_was_quick_by_chance_gets_its_places_back(callers):
    # A class of many callers has up to twice its limit in places, so that no request is ever alone.
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 50, 0.05, weight=50, beside=crowding.enter(), counted=True)
    line = []
    for _ in range(600):
        while len(line) < callers * crowding.limit:
            line.append(crowding.enter())
        crowding.leave("m/ig", 50, 3.0, weight=50, beside=line.pop(0), counted=True)

    assert crowding.limit == 64


def test_requests_of_unequal_length_do_not_narrow_a_wide_device():
    seed = 3
    print("seed", seed)
    lengths = np.random.default_rng(seed).uniform(0.5, 5.5, 2000)
    stays = iter(lengths.tolist())

    assert steady(ConcurrencyLimiter(64, 1), lambda requests: next(stays), rounds=2000) == 64


def test_a_request_that_answered_early_under_a_crowd_does_not_pass_for_a_quick_one():
    # The device does two requests of 50 rows at once; each answers after 6 s with the rows that it has by then.
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/shap", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    line = []
    for _ in range(200):
        while len(line) < crowding.limit:
            line.append(crowding.enter())
        rows = max(1, round(100 * 2 / len(line)))
        crowding.leave("m/shap", rows, 6.0, weight=100, beside=line.pop(0), counted=True)

    assert crowding.limit <= 4


def test_requests_that_outlive_their_deadlines_leave_places_for_two():
    crowding = ConcurrencyLimiter(64, 1)
    for moment in range(20):
        crowding.lose(entered=moment, now=moment + 0.5)

    assert crowding.limit == 2


def test_requests_that_got_their_places_shortly_before_their_deadlines_cost_none():
    crowding = ConcurrencyLimiter(64, 1)
    before = crowding.limit

    for moment in range(20):
        crowding.lose(entered=moment, now=moment + 0.4)

    assert crowding.limit == before


def test_requests_that_were_in_places_when_a_loss_was_noted_count_as_no_other():
    crowding = ConcurrencyLimiter(64, 1)
    places = [crowding.enter() for _ in range(40)]
    for beside in places:
        crowding.leave("m/ig", 50, 0.001, weight=50, beside=beside, counted=True)
    before = crowding.limit

    # A hiccup of the machine: all that were there are late together.
    for _ in range(40):
        crowding.lose(entered=1.0, now=2.0)

    assert (before, crowding.limit) == (64, 52)
    crowding.lose(entered=2.5, now=3.0)
    assert crowding.limit == 41


def test_places_come_back_as_requests_are_done():
    crowding = ConcurrencyLimiter(64, 1)
    for moment in range(100):
        crowding.lose(entered=moment, now=moment + 0.5)

    assert steady(crowding, lambda requests: 0.001 * requests, rounds=600) == 64


def test_a_stay_is_never_foretold_longer_than_one_after_the_other_with_those_in_places():
    crowding = ConcurrencyLimiter(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    line = [crowding.enter() for _ in range(30)]
    for _ in range(20):
        crowding.leave("m/ig", 50, 90.0, weight=50, beside=line.pop(), counted=True)
        line.append(crowding.enter())
    for beside in line:
        crowding.leave("m/ig", 50, 90.0, weight=50, beside=beside, counted=False)
    crowding.enter()

    # Of late 30 were side by side; now there is one.
    assert crowding.stay_seconds("m/ig", 50) < 12.0


def test_the_crowd_of_one_kind_does_not_lengthen_the_stay_of_another():
    crowding = ConcurrencyLimiter(64, 1)
    places = [crowding.enter() for _ in range(8)]
    crowding.leave("m/slow", 50, 3.0, weight=50, beside=1, counted=True)
    for _ in places[1:]:
        crowding.leave("m/slow", 50, 24.0, weight=50, beside=8, counted=True)
        crowding.enter()
    # Another model's requests are evaluated between, and take no longer for it.
    for _ in range(20):
        crowding.leave("m/quick", 1, 0.01, weight=1, beside=crowding.enter(), counted=True)

    assert crowding.stay_seconds("m/quick", 1) == pytest.approx(0.01)
    assert crowding.stay_seconds("m/slow", 50) > 10


def test_what_a_request_costs_once_is_not_taken_for_what_its_row_costs():
    # 5 ms for a request, and 0.4 ms for each of its rows.
    crowding = ConcurrencyLimiter(64, 1)
    for number in range(200):
        rows = (1, 256)[number % 2]
        crowding.leave("m", rows, 0.005 + 0.0004 * rows, weight=rows, beside=crowding.enter(), counted=True)

    assert crowding.stay_seconds("m", 256) == pytest.approx(0.107, rel=0.1)


def test_an_answer_of_few_rows_does_not_change_how_many_others_take():
    crowding = ConcurrencyLimiter(64, 1)
    for rows, seconds in [(2, 0.2)] * 50 + [(1000, 10.0)] * 5 + [(2, 1.0)]:
        crowding.leave("m/shap", rows, seconds, weight=rows, beside=crowding.enter(), counted=True)

    assert crowding.stay_seconds("m/shap", 1000) == pytest.approx(10.0, rel=0.1)
