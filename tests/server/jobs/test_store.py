"""The folder of the jobs: what is there after a stop at any moment, and who may open it."""

import contextlib
import errno
import itertools
import sqlite3

import pytest
from pellucid_server import wire
from pellucid_server.errors import UnsupportedError
from pellucid_server.jobs.disk import Disk
from pellucid_server.jobs.index import MIGRATIONS, StoreError
from pellucid_server.jobs.records import CANCELLED, DONE, FAILED, QUEUED, RUNNING
from pellucid_server.jobs.store import Store
from pellucid_server.vocabulary.results import Failure
from server.jobs.conftest import checkpoint, record, request


class Stopped(Exception):
    """The machine stops here."""


def stopping_at(place):
    """A disk on which the machine stops before a step, counted from 0."""
    steps = itertools.count()

    def step(what, size):
        if next(steps) == place:
            raise Stopped(what)

    return Disk(step)


def part(number):
    return f"part {number} of the answer".encode() * 10


def whole_life(store):
    """Everything that is written of a job from its beginning to its end: two parts, and a state before each."""
    store.create(record(), request())
    store.put(record(state=RUNNING, started=1.0))
    store.save_checkpoint("job-0", checkpoint(0, rows=3))
    store.save_part("job-0", 0, part(0))
    store.save_checkpoint("job-0", checkpoint(1, rows=3))
    store.save_checkpoint("job-0", checkpoint(1, rows=6))
    store.save_part("job-0", 1, part(1))
    store.save_part("job-0", 2, part(2))
    store.save_checkpoint("job-0", checkpoint(2, rows=9))
    store.put(record(state=DONE, started=1.0, ended=2.0, parts=3))


def steps_of(life, folder):
    count = itertools.count()
    store = Store(folder, Disk(lambda what, size: next(count)))
    life(store)
    store.close()
    return next(count)


def parts_in(folder, job="job-0"):
    return sorted(path.name for path in (folder / "answers" / job).iterdir() if path.name.startswith("part-"))


def test_after_a_stop_at_any_step_the_parts_are_those_that_the_checkpoint_counts(tmp_path):
    steps = steps_of(whole_life, tmp_path / "counted")
    outcomes = []
    for place in range(steps + 1):
        folder = tmp_path / f"{place}"
        store = Store(folder, stopping_at(place))
        with contextlib.suppress(Stopped):
            whole_life(store)
        store.close()
        outcomes.append(outcome_after_a_stop(folder))

    assert outcomes[0] is None
    # All that was written was seen to be there: no part, one part, two of which one counts, and the whole.
    assert list(dict.fromkeys(outcomes)) == [None, (QUEUED, 0), (RUNNING, 0), (RUNNING, 1), (RUNNING, 2), (DONE, 3)]


def outcome_after_a_stop(folder):
    """Open a store again, see that the law holds, and return the state of its job and how many parts it has."""
    store = Store(folder)
    try:
        assert not list(folder.rglob("*.part"))
        if not store.records:
            assert list((folder / "answers").iterdir()) == []
            return None
        (found,) = store.records
        standing = store.checkpoint("job-0")
        counted = 3 if found.state == DONE else 0 if standing is None else standing.number
        assert found.parts == counted
        assert parts_in(folder) == [f"part-{number:06d}" for number in range(counted)]
        assert [store.part("job-0", number) for number in range(counted)] == [part(number) for number in range(counted)]
        if found.state != DONE:
            assert found.rows_done == (0 if standing is None else standing.state.values["rows"])
        assert wire.encode(store.request("job-0")) == wire.encode(request())
        return found.state, found.parts
    finally:
        store.close()


def test_a_stop_before_the_row_of_a_new_job_leaves_nothing_of_it(folder, open_store):
    store = open_store()
    store.create(record(), request())
    open_store.close()
    with sqlite3.connect(folder / "jobs.sqlite") as rows:
        rows.execute("DELETE FROM jobs")
    rows.close()

    assert open_store().records == []
    assert list((folder / "answers").iterdir()) == []


def test_what_is_removed_is_gone_with_all_that_belongs_to_it(folder, open_store):
    store = open_store()
    whole_life(store)
    store.create(record(1), request(1))

    store.remove(["job-0"])

    assert [each.id for each in open_store().records] == ["job-1"]
    assert [path.name for path in (folder / "answers").iterdir()] == ["job-1"]


def test_a_record_comes_back_with_everything_that_is_known_of_it(open_store):
    failure = Failure("UNSUPPORTED", "It cannot.", {"subject": "models/echo"})
    known = record(
        shared=True,
        pinned=False,
        dataset="tumours",
        dataset_digest="cd" * 32,
        state=FAILED,
        started=1.5,
        ended=2.5,
        share=0.25,
        rows_done=3,
        rows=12,
        resumed=2,
        failure=failure,
    )
    store = open_store()
    store.put(known)

    assert open_store().records == [known]


def test_files_of_jobs_that_failed_or_were_cancelled_are_not_kept(folder, open_store):
    store = open_store()
    for number, state in enumerate((FAILED, CANCELLED)):
        store.create(record(number), request(number))
        store.put(record(number, state=state, ended=1.0))

    open_store()

    assert list((folder / "answers").iterdir()) == []


@pytest.mark.parametrize("name", ["request", "part-000001"])
def test_a_job_whose_files_somebody_removed_has_failed_and_says_so(name, folder, open_store):
    whole_life(open_store())
    (folder / "answers" / "job-0" / name).unlink()

    (found,) = open_store().records

    assert (found.state, found.parts) == (FAILED, 0)
    assert "in the server's folder are gone or damaged" in found.failure.message


def test_a_checkpoint_of_another_version_is_not_gone_on_from(folder, open_store, monkeypatch):
    store = open_store()
    store.create(record(state=RUNNING), request())
    store.save_part("job-0", 0, part(0))
    store.save_checkpoint("job-0", checkpoint(1, rows=5))
    monkeypatch.setattr(wire, "fingerprint", lambda: "f" * 32)

    store = open_store()

    (found,) = store.records
    assert (found.state, found.parts, found.rows_done) == (RUNNING, 0, 0)
    assert store.checkpoint("job-0") is None
    assert parts_in(folder) == []
    with pytest.raises(UnsupportedError, match="another version of the service"):
        store.request("job-0")


def test_a_damaged_checkpoint_only_costs_the_work_so_far(folder, open_store):
    store = open_store()
    store.create(record(state=RUNNING), request())
    store.save_part("job-0", 0, part(0))
    store.save_checkpoint("job-0", checkpoint(1, rows=5))
    path = folder / "answers" / "job-0" / "checkpoint"
    path.write_bytes(path.read_bytes()[:100])

    store = open_store()

    assert [(each.state, each.parts) for each in store.records] == [(RUNNING, 0)]
    assert store.checkpoint("job-0") is None


def test_an_answer_of_another_version_is_still_there(folder, open_store, monkeypatch):
    whole_life(open_store())
    monkeypatch.setattr(wire, "fingerprint", lambda: "f" * 32)

    store = open_store()

    assert store.records[0].state == DONE
    assert store.part("job-0", 2) == part(2)


def test_a_full_disk_leaves_what_was_there(open_store):
    left = [10_000]

    def step(what, size):
        left[0] -= size
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    store = open_store(Disk(step))
    store.create(record(), request())
    store.save_part("job-0", 0, b"a" * 5000)
    with pytest.raises(OSError, match="No space"):
        store.save_part("job-0", 0, b"b" * 6000)

    assert store.part("job-0", 0) == b"a" * 5000
    assert store.size("job-0") < 10_000


def test_jobs_can_be_removed_from_a_full_disk(folder, open_store):
    def step(what, size):
        # There is no room for a row's end while the files are there.
        if full and what == "commit" and (folder / "answers" / "job-0").exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    full = False
    store = open_store(Disk(step))
    whole_life(store)
    full = True

    store.remove(["job-0"])

    assert open_store().records == []
    assert list((folder / "answers").iterdir()) == []


def test_two_servers_do_not_share_a_folder(folder, open_store):
    open_store()

    with pytest.raises(StoreError, match="in use by another server"):
        Store(folder)


def test_a_store_that_could_not_be_opened_leaves_the_folder_to_others(folder, open_store):
    folder.mkdir()
    (folder / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(folder)
    (folder / "jobs.sqlite").unlink()

    assert open_store().records == []


def test_a_folder_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot be used: Not a directory"):
        Store(tmp_path / "file" / "jobs")


def test_a_store_of_the_first_version_is_migrated_with_its_jobs(folder, open_store):
    folder.mkdir()
    with sqlite3.connect(folder / "jobs.sqlite") as rows:
        rows.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
        rows.execute(
            "INSERT INTO jobs VALUES ('job-0', 'key 0', 'ann', 'Dissect', 'activations', 'echo', 1, ?, '', '', "
            "'failed', 0.0, NULL, 3.0, 0.5, 1, 2, 0, 0, 0, NULL)",
            ("ab" * 32,),
        )
    rows.close()

    (found,) = open_store().records

    assert found == record(state=FAILED, ended=3.0, share=0.5, rows_done=1, rows=2)
    open_store.close()
    rows = sqlite3.connect(folder / "jobs.sqlite")
    assert rows.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    rows.close()


def test_every_version_is_reached_from_every_earlier_one(tmp_path):
    tables = set()
    for version in range(len(MIGRATIONS) + 1):
        folder = tmp_path / f"{version}"
        folder.mkdir()
        rows = sqlite3.connect(folder / "jobs.sqlite")
        rows.executescript("".join(MIGRATIONS[:version]) + f"PRAGMA user_version = {version};")
        rows.close()
        Store(folder).close()
        rows = sqlite3.connect(folder / "jobs.sqlite")
        tables.add(tuple(rows.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()))
        rows.close()
    assert len(tables) == 1


def test_a_store_of_a_later_version_is_refused_and_stays_as_it_is(folder):
    folder.mkdir()
    rows = sqlite3.connect(folder / "jobs.sqlite")
    rows.executescript("CREATE TABLE jobs (id TEXT); PRAGMA user_version = 99;")
    rows.close()
    before = (folder / "jobs.sqlite").read_bytes()

    with pytest.raises(StoreError, match="later version of the service"):
        Store(folder)

    rows = sqlite3.connect(folder / "jobs.sqlite")
    assert rows.execute("PRAGMA user_version").fetchone() == (99,)
    rows.close()
    assert len(before) == (folder / "jobs.sqlite").stat().st_size
