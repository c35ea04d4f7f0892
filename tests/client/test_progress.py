"""How far a call is: the time left, and the bar on a terminal."""

import io
import sys

import pytest
from pellucid.errors import InvalidRequestError
from pellucid.progress import Progress, read_progress


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self):
        return True


def on_a_terminal(monkeypatch):
    """Put a terminal in the place of standard error, for the test that runs."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    return sys.stderr


def test_the_time_left_goes_by_the_pace_since_the_first_report():
    seen, times = [], iter([100.0, 102.0, 106.0, 107.0])
    progress = Progress(lambda share, left: seen.append((share, left)), clock=lambda: next(times))

    for share in (0.2, 0.4, 0.4, 1.0):
        progress.report(share)

    # A fifth in 2 s: three fifths in 6 s; a fifth in 6 s: three fifths in 18 s.
    assert seen == [(0.2, None), (0.4, pytest.approx(6)), (0.4, pytest.approx(18)), (1.0, 0)]


def test_the_pace_begins_again_with_another_try():
    seen, times = [], iter([0.0, 100.0, 100.0, 101.0])
    progress = Progress(lambda share, left: seen.append(left), clock=lambda: next(times))

    progress.report(0.1)
    progress.report(0.5)
    progress.restart()
    progress.report(0.0)
    progress.report(0.5)

    assert seen == [None, pytest.approx(125), None, pytest.approx(1)]


@pytest.mark.parametrize("module", ["rich", None], ids=["rich", "plain"])
def test_a_terminal_has_a_bar_that_goes_away_at_the_end(monkeypatch, module):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setattr("pellucid.progress.find_spec", lambda name: module)
    progress = read_progress(True, "ablation")

    progress.report(0.0)
    progress.report(0.25)
    progress.close()

    written = terminal.getvalue()
    assert "ablation" in written
    assert module is not None or "25%" in written
    assert written.rstrip("\n").endswith(("\r", "\x1b[2K", "\x1b[?25h"))


def test_without_a_terminal_nothing_is_written(capsys):
    progress = read_progress(True, "ablation")

    progress.report(0.5)
    progress.close()

    assert capsys.readouterr() == ("", "")


def test_a_call_that_never_reports_draws_nothing(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    read_progress(True, "ablation").close()

    assert terminal.getvalue() == ""


def test_without_standard_error_nothing_fails(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)

    read_progress(True, "ablation").report(0.5)


@pytest.mark.parametrize("given", ["bar", 1, None])
def test_what_is_neither_a_flag_nor_a_function_is_refused(given):
    with pytest.raises(InvalidRequestError, match="progress is"):
        read_progress(given, "ablation")


def test_the_whole_is_reported_once():
    seen = []
    progress = Progress(lambda share, left: seen.append(share))

    for share in (0.5, 1.0, 1.0):
        progress.report(share)
    progress.restart()
    progress.report(1.0)

    assert seen == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("module", ["rich", None], ids=["rich", "plain"])
def test_a_bar_says_what_was_counted_and_takes_the_seconds_left_from_the_server(monkeypatch, module):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("pellucid.progress.find_spec", lambda name: module)
    progress = read_progress(True, "network-dissection")

    progress.report(0.25, seconds_left=90.0, counted="50 of 200, 10 a second")
    progress.close()

    assert "50 of 200, 10 a second" in terminal.getvalue()
    assert "1 min 30 s left" in terminal.getvalue()


def test_a_shorter_line_covers_the_longer_one_before_it(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setattr("pellucid.progress.find_spec", lambda name: None)
    progress = read_progress(True, "ablation")

    progress.report(0.25, seconds_left=3.0, counted="a long text that is gone afterwards")
    progress.report(0.5, seconds_left=2.0)
    progress.close()

    first, second, _, _ = terminal.getvalue().split("\r")[1:]
    assert len(first) == len(second)
