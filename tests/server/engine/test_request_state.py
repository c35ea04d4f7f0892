import math

import pytest
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, TimedOutError


def test_a_part_of_a_request_has_its_share_of_the_device_and_its_own_counts():
    whole = RequestState(7, None, priority="bulk", caller="ann", alone=True, model="iris")

    part = whole.part(reserve_seconds=1.0)
    part.count(3, kind="gradient", backward=True)
    part.count(2, kind="prefix", backward=False)
    part.count(-2, kind="prefix", backward=False)

    assert (part.request_number, part.priority, part.caller, part.alone, part.model) == (7, "bulk", "ann", True, "iris")
    assert (part.rows_backward, whole.rows_backward, whole.rows_forward) == (3, 3, 0)
    assert part.rows_by_kind() == whole.rows_by_kind() == (("gradient", 3),)


@pytest.mark.parametrize(
    ("deadline", "cancelled", "expected"),
    [(None, False, None), (math.inf, False, None), (99.0, False, TimedOutError), (99.0, True, CancelledError)],
)
@pytest.mark.parametrize(("started", "stage"), [(None, "queued"), (1.0, "running")])
def test_why_a_request_must_stop_says_where_it_was(deadline, cancelled, expected, started, stage):
    state = RequestState(1, deadline, started=started, cancelled=cancelled)

    error = state.error(100.0)

    assert type(error) is (expected or type(None))
    assert getattr(error, "metadata", {"stage": stage}) == {"stage": stage}
