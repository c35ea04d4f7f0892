import pytest
from pellucid_server.pool.workers.watchdog import Watchdog
from pellucid_server.vocabulary.messages import Heartbeat

HANG_SECONDS = 3600.0
LOOKS = 8
"""Looks of the watchdog within that time."""


@pytest.fixture
def seen():
    return []


@pytest.fixture
async def watchdog(seen):
    made = Watchdog(HANG_SECONDS, seen.append)
    made.start()
    yield made
    made.stop()


def look(watchdog, count):
    [watchdog.tick() for _ in range(count)]


async def test_a_worker_that_says_nothing_hangs_after_the_time_that_it_has(watchdog, seen):
    look(watchdog, LOOKS)
    assert seen == []

    look(watchdog, 1)

    assert seen == ["was silent for 3600 s"]


async def test_each_look_is_told_but_the_one_that_sees_a_hang(seen):
    watchdog, looks = Watchdog(HANG_SECONDS, seen.append, lambda: looks.append(len(seen))), []

    watchdog.start()
    look(watchdog, LOOKS + 1)

    assert (len(seen), looks) == (1, [0] * LOOKS)


async def test_whatever_a_worker_says_it_has_the_whole_time_again(watchdog, seen):
    look(watchdog, LOOKS)

    watchdog.heard()
    look(watchdog, LOOKS)

    assert seen == []


@pytest.mark.parametrize(
    ("beat", "what"),
    [
        (Heartbeat(HANG_SECONDS + 1, 0.0, 0.0), "was at one device batch for 3601.0 s"),
        (Heartbeat(0.0, HANG_SECONDS + 1, 0.0), "was at one turn of Python for 3601.0 s"),
        (Heartbeat(0.0, 0.0, HANG_SECONDS + 1), "was at decoding one picture for 3601.0 s"),
    ],
)
async def test_a_worker_that_is_at_one_thing_for_too_long_hangs(watchdog, seen, beat, what):
    watchdog.beat(beat)

    assert seen == [what]


async def test_a_worker_may_be_at_one_thing_for_as_long_as_it_has(watchdog, seen):
    watchdog.beat(Heartbeat(HANG_SECONDS, HANG_SECONDS, HANG_SECONDS))

    assert seen == []


async def test_a_hang_is_told_once(watchdog, seen):
    watchdog.beat(Heartbeat(HANG_SECONDS + 1, 0.0, 0.0))
    watchdog.beat(Heartbeat(HANG_SECONDS + 2, 0.0, 0.0))

    assert len(seen) == 1


async def test_who_is_not_watched_does_not_hang(watchdog, seen):
    watchdog.stop()

    watchdog.beat(Heartbeat(HANG_SECONDS + 1, 0.0, 0.0))

    assert seen == []


async def test_a_new_watch_forgets_the_silence_before(watchdog, seen):
    look(watchdog, LOOKS)

    watchdog.start()
    look(watchdog, LOOKS)

    assert seen == []
