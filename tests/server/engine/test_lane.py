import pytest
from pellucid_server.engine.device.lane import Lane, Packing

BYTES = 1 << 20


def lane(**settings):
    return Lane(kernel=None, row_bytes=1 << 10, **settings)


def adapted(made, rows, seconds):
    return made.adapt(rows, seconds, chunk_seconds=0.05, chunk_bytes=BYTES)


@pytest.mark.parametrize(("chunk_rows", "long", "room"), [(16, True, 16), (16, False, 4), (3, True, 3), (3, False, 1)])
def test_a_short_chunk_has_a_quarter_of_the_rows_and_at_least_one(chunk_rows, long, room):
    assert lane(chunk_rows=chunk_rows).open(long=long) == room


@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("first_seconds", [0.02, 0.3, 3.0])
def test_chunks_soon_grow_on_a_device_on_which_rows_cost_nothing_beside_the_call(first_seconds, long):
    made, sizes = lane(), []
    for number in range(8):
        rows = made.open(long=long)
        sizes.append(rows)
        # The first one loads the kernels.
        made.adapt(rows, first_seconds if number == 0 else 0.02, chunk_seconds=0.05, chunk_bytes=1 << 30)

    assert max(sizes) >= 50
    assert all(0.02 / sizes[-1] * size <= 0.05 for size in sizes)


def test_chunks_grow_where_rows_are_divided_evenly_among_them():
    made = lane(chunk_rows=10)
    made.fresh = False
    for _ in range(20):
        room = made.open(long=True)
        chunks = -(-50 // room)
        made.adapt(-(-50 // chunks), 0.03, chunk_seconds=0.05, chunk_bytes=1 << 30)

    assert made.open(long=True) >= 50


def test_a_short_chunk_of_heavy_rows_takes_the_time_that_is_aimed_at():
    made = lane()
    for _ in range(40):
        rows = made.open(long=False)
        made.adapt(rows, 0.01 * rows, chunk_seconds=0.05, chunk_bytes=1 << 30)

    assert made.open(long=False) in {4, 5}


def test_a_lane_of_single_rows_has_room_for_one():
    assert lane(packing=Packing.SINGLE, chunk_rows=16).open(long=True) == 1


@pytest.mark.parametrize(
    ("rows", "seconds", "expected"),
    [
        (16, 0.2, 16),
        (16, 0.1, 16),
        (16, 0.001, 64),
        (16, 0.4, 10),
        (1, 60.0, 1),
        (2, 0.001, 16),
        (2, 0.4, 5),
    ],
    ids=["as aimed", "told by one chunk alone", "in steps", "too slow", "one row", "too few to tell", "few and slow"],
)
def test_the_next_chunk_follows_from_the_time_of_this_one(rows, seconds, expected):
    made = lane(chunk_rows=16, room=16)

    adapted(made, rows, seconds)

    assert made.chunk_rows == expected


def settled(row_seconds, *, chunks=100):
    """Run full chunks whose rows take `row_seconds(rows)`; return the size of the last ones."""
    made = lane()
    sizes = []
    for _ in range(chunks):
        sizes.append(made.open(long=True))
        adapted(made, sizes[-1], sizes[-1] * row_seconds(sizes[-1]))
    return sizes


@pytest.mark.parametrize(
    ("row_seconds", "expected"),
    [
        (lambda rows: 0.02 if rows <= 6 else 0.025, 6),
        (lambda rows: 0.04 + 0.01 * rows, 1),
        (lambda rows: 0.01 + 0.02 / rows, 16),
        (lambda rows: 0.012, 16),
        (lambda rows: 0.0005, 400),
    ],
    ids=["caches end", "one by one", "as large as time allows", "all alike", "light rows"],
)
def test_a_lane_settles_at_the_size_with_the_most_rows_a_second(row_seconds, expected):
    sizes = settled(row_seconds)

    assert set(sizes[-60:]) == {expected}


def test_a_size_that_has_become_faster_is_found_again():
    made, sizes = lane(), []
    for number in range(2000):
        sizes.append(made.open(long=True))
        row_seconds = 0.01 if sizes[-1] <= 4 or number > 700 else 0.014
        adapted(made, sizes[-1], sizes[-1] * row_seconds + (number > 700) * 0.01)

    assert set(sizes[400:500]) == {4}
    assert set(sizes[-100:]) == {16}


def test_no_chunk_grows_beyond_the_memory_for_it():
    made = lane(chunk_rows=1024, room=1024)

    adapted(made, 1024, 0.001)

    assert made.chunk_rows == BYTES >> 10


def full_chunks(made, count):
    """Run chunks that fill the lane and take no time to speak of; return how large each was."""
    sizes = []
    for _ in range(count):
        sizes.append(made.open(long=True))
        adapted(made, sizes[-1], 0.001)
    return sizes


def test_rows_that_did_not_fit_into_memory_are_tried_again_after_64_chunks_and_up_to_the_former_bound():
    made = lane(chunk_rows=64, room=64)
    made.shrink(1024)

    sizes = full_chunks(made, 3 * 64)

    # The 64th chunk allows more to the next. The bytes allow 1024 rows.
    assert sizes == [512] * 64 + [1024] * 128


def test_another_failure_starts_the_count_anew():
    made = lane()
    made.shrink(128)
    full_chunks(made, 63)

    made.shrink(64)

    assert full_chunks(made, 65) == [32] * 64 + [64]


def test_chunks_smaller_than_allowed_do_not_show_that_more_would_fit():
    made = lane()
    made.shrink(128)

    for _ in range(200):
        made.open(long=True)
        adapted(made, 31, 0.001)

    assert made.most_rows(BYTES) == 64


def test_chunks_far_shorter_than_what_did_not_fit_do_not_tell_that_it_would():
    made = lane()
    made.shrink(128)

    for _ in range(640):
        made.open(long=False)
        adapted(made, 16, 0.001)

    assert made.open(long=True) == 64


@pytest.mark.parametrize(
    ("rows", "seconds", "settings", "telling"),
    [
        (16, 0.025, {}, True),
        (8, 0.2, {}, True),
        (7, 0.2, {}, False),
        (16, 0.02, {}, False),
        (16, 0.001, {"row_limit": 32}, True),
        (16, 0.001, {"row_limit": 33}, False),
        (1, 0.001, {"packing": Packing.SINGLE, "room": 1}, True),
    ],
    ids=["long", "half full", "not full", "still growing", "memory is full", "memory is not full", "single rows"],
)
def test_a_chunk_tells_of_the_rows_pace_if_no_larger_one_would_be_faster(rows, seconds, settings, telling):
    made = lane(**{"chunk_rows": 16, "room": 16, **settings})

    assert adapted(made, rows, seconds) == telling
