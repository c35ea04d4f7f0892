import pytest
from pellucid_server.access.policy import Identity, Quota
from pellucid_server.access.quotas import Quotas
from pellucid_server.errors import QuotaExceededError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def refusals():
    return []


@pytest.fixture
def quotas(clock, refusals):
    return Quotas(clock, lambda *what: refusals.append(what))


def refused(quotas, who):
    with pytest.raises(QuotaExceededError) as caught:
        quotas.enter(who)
    return float(caught.value.metadata["retry_after_seconds"])


def test_requests_come_at_once_up_to_the_burst_and_then_at_the_rate(quotas, clock, refusals):
    who = Identity("web", quota=Quota(requests_per_second=2, requests_burst=3))
    for _ in range(3):
        quotas.enter(who)

    assert refused(quotas, who) == 0.5
    clock.now += 0.5
    quotas.enter(who)
    assert refused(quotas, who) == 0.5
    clock.now += 1000
    for _ in range(3):
        quotas.enter(who)
    assert refused(quotas, who) == 0.5
    assert refusals == [("web", "requests_per_second")] * 3


def test_less_than_one_request_a_second_still_lets_one_pass(quotas, clock):
    who = Identity("web", quota=Quota(requests_per_second=0.1))
    quotas.enter(who)

    assert refused(quotas, who) == 10
    clock.now += 10
    quotas.enter(who)


def test_rows_are_charged_when_they_are_known_and_then_waited_for(quotas, clock):
    who = Identity("web", quota=Quota(rows_per_minute=600))
    quotas.enter(who)
    quotas.charge(who, 1199)

    # 599 rows too many, at 10 a second, and one to have.
    assert refused(quotas, who) == 60
    clock.now += 60
    quotas.enter(who)


def test_requests_at_once_are_bounded_until_one_ends(quotas):
    who = Identity("web", quota=Quota(concurrent_requests=2))
    quotas.enter(who)
    quotas.enter(who)

    assert refused(quotas, who) > 0
    quotas.leave(who)
    quotas.enter(who)


def test_a_refused_request_uses_up_nothing(quotas, clock):
    who = Identity("web", quota=Quota(requests_per_second=1, requests_burst=2, concurrent_requests=1))
    quotas.enter(who)
    for _ in range(5):
        refused(quotas, who)

    quotas.leave(who)
    quotas.enter(who)


def test_one_identity_does_not_use_up_anothers(quotas):
    one, other = (Identity(name, quota=Quota(concurrent_requests=1)) for name in ("one", "other"))
    quotas.enter(one)

    quotas.enter(other)


def test_a_policy_that_is_read_again_finds_what_was_used(quotas):
    quotas.enter(Identity("web", quota=Quota(concurrent_requests=1)))

    with pytest.raises(QuotaExceededError):
        quotas.enter(Identity("web", roles=frozenset({"predict"}), quota=Quota(concurrent_requests=1)))


def test_without_a_quota_there_is_no_bound(quotas):
    for _ in range(1000):
        quotas.enter(Identity("web"))
