"""The progress of a request of several parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pellucid_server.engine.operations.context import RequestContext, SharedProgress


def test_a_request_of_three_rows_is_done_when_all_three_are():
    told = []
    context = RequestContext(None, None, None, told.append).of_parts(3)

    for share in (0.5, 1.0):
        for number in range(3):
            context(number).on_progress(share)

    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2)), max_size=50))
def test_progress_never_becomes_less_nor_more_than_one(reports):
    told = []
    progress = SharedProgress(4, told.append)

    for number, share in reports:
        progress.part(number)(share)

    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)
