"""What callers and the server wrote down is read back."""

from pathlib import Path

from soak import ledger, records
from soak.records import Begun, Ended


def test_calls_come_back_with_their_ends_and_those_of_a_killed_caller_without(tmp_path: Path) -> None:
    notes = records.Notebook(tmp_path / "callers1.calls")
    first, second = Begun("a-1", 3, "patient", 60.0, at=1.0), Begun("a-2", 4, "leaving", 2.0, at=2.0)
    end = Ended("a-1", "OK", 1.5, answered=True, faults=("one", "two"), partial=True, kept="a-1.partial")

    for note in (first, second, end):
        notes.note(note)

    found = records.read([tmp_path / "callers1.calls"])
    assert found == [records.Call(first, end), records.Call(second, None)]


def test_the_log_is_read_and_other_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text(
        '{"message": "starting"}\n'
        '{"message": "request", "id": "a-1", "rpc": "Predict", "code": "OK", "model": "m"}\n'
        "a worker's line\n"
        "Traceback (most recent call last):\n"
        "  a line of it\n"
        "KeyError: 1\n"
        "17\n"
        '{"message": "request", "id": "a-2", "rpc": "Attribute", "code": "INTERNAL", "traceback": "...\\nOSError: 2"}\n'
    )

    found = ledger.read_log(tmp_path / "server.log")

    assert found.counts() == {("Predict", "OK"): 1, ("Attribute", "INTERNAL"): 1}
    assert found.tracebacks == ("KeyError: 1", "OSError: 2")
    assert found.without("a-1").lines == found.lines[1:]
