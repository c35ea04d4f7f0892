import pytest
from pellucid_server.engine.row_times import RowTimes


def test_the_fastest_of_the_last_32_chunks_counts():
    times = RowTimes()
    times.add("iris", 0.001, backward=False)
    for number in range(31):
        times.add("iris", 1.0 + number, backward=False)
    before = times.least("iris", backward=False)

    times.add("iris", 5.0, backward=False)

    assert (before, times.least("iris", backward=False)) == (0.001, 1.0)


@pytest.mark.parametrize(("model", "backward"), [("iris", False), ("wine", True)])
def test_models_and_directions_are_told_apart_and_what_was_not_measured_is_zero(model, backward):
    times = RowTimes()

    times.add("iris", 2.0, backward=True)

    assert times.least("iris", backward=True) == 2.0
    assert times.least(model, backward=backward) == 0.0
