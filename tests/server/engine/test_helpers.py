"""Short calls and long ones run in processes of their own; the short one stands ready, the long one comes and goes."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pellucid_server.engine.asking.duration import likely_seconds
from pellucid_server.engine.methods.shared.coalitions import coalition_count, drawn, estimates
from pellucid_server.engine.methods.shared.groups import grid, superpixels
from pellucid_server.engine.tasks.helper import HelperError
from pellucid_server.engine.tasks.helpers import SHORT_SECONDS, Helpers
from pellucid_server.errors import CancelledError
from pellucid_server.template import TemplateError
from pellucid_server.wire import encode
from standstill import stop

SHORT, LONG, QUICK = (20, 512, 3), (512, 16384, 3), (4, 6)
"""Arguments of `drawn`, whose process starts quickly, for a short call and a long one, and of `coalition_count`."""


def nothing():
    """Stand in for a check: the caller stays."""


@pytest.fixture
def helpers():
    made = Helpers()
    yield made
    made.close()


class LostTemplate:
    """A template that has died."""

    def __init__(self):
        self.asked = self.closed = 0

    def fork(self, role, descriptors):
        self.asked += 1
        raise TemplateError("is lost")

    def close(self):
        self.closed += 1


def test_without_their_template_processes_are_started_by_their_command(helpers, caplog):
    helpers._template = lost = LostTemplate()

    in_the_long_one = helpers.call(coalition_count, QUICK, nothing)
    in_the_short_one = helpers.call(drawn, SHORT, nothing)

    assert in_the_long_one == coalition_count(*QUICK)
    assert encode(in_the_short_one) == encode(drawn(*SHORT))
    assert (lost.asked, lost.closed) == (1, 1)
    assert "the template of the helpers is lost" in caplog.text


class Long:
    """A long call in progress, in a process that is stopped until `go`."""

    def __init__(self, helpers, check=nothing):
        # It declares no duration, so that it counts as long and starts the process.
        helpers.call(coalition_count, QUICK, nothing)
        self.process = helpers.long._process
        stop(self.process.pid)
        sent, self.found = threading.Event(), []
        checks = iter(range(1 << 30))

        def looked():
            if next(checks) == 1:
                # The second check is just before the call is sent.
                sent.set()
            check()

        self._thread = threading.Thread(target=self._call, args=(helpers, looked))
        self._thread.start()
        assert sent.wait(10)

    def _call(self, helpers, check):
        try:
            self.found.append(helpers.call(drawn, LONG, check, caller="long"))
        except Exception as error:
            self.found.append(error)

    def go(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def result(self):
        self._thread.join(30)
        (found,) = self.found
        return found


def test_a_short_call_does_not_wait_for_a_long_one(helpers):
    long = Long(helpers)

    found = helpers.call(drawn, SHORT, nothing)

    assert not long.found
    np.testing.assert_array_equal(found[0], drawn(*SHORT)[0])
    long.go()
    np.testing.assert_array_equal(long.result()[0], drawn(*LONG)[0])


def test_a_long_call_that_is_given_up_takes_only_the_long_process_with_it(helpers):
    helpers.call(drawn, SHORT, nothing)
    short, left = helpers.short._process, threading.Event()

    def check():
        if left.is_set():
            raise CancelledError("The caller left.")

    long = Long(helpers, check)
    left.set()

    assert isinstance(long.result(), CancelledError)
    assert long.process.poll() == -signal.SIGKILL
    assert helpers.short._process is short
    assert short.poll() is None
    assert helpers.call(coalition_count, QUICK, nothing) == coalition_count(*QUICK)


def test_the_long_process_starts_with_its_first_call_and_ends_when_idle():
    helpers = Helpers(idle_seconds=0.01)
    try:
        helpers.start()
        helpers.call(drawn, SHORT, nothing)
        assert helpers.long._process is None

        for _ in range(2):
            assert helpers.call(coalition_count, QUICK, nothing) == 8
            wait_for(lambda: helpers.long._process is None)

        assert helpers.short._process.poll() is None
    finally:
        helpers.close()


def test_both_processes_import_what_they_stand_ready_with():
    helpers = Helpers(load=["pellucid_server.engine.methods.shared.groups"])
    try:
        helpers.start()
        wait_for(lambda: "_slic" in maps(helpers.short))
        helpers.call(coalition_count, QUICK, nothing)
        assert "_slic" in maps(helpers.long)
    finally:
        helpers.close()


def test_closing_fails_calls_of_both_kinds(helpers):
    long = Long(helpers)

    helpers.close()

    assert isinstance(long.result(), HelperError)
    for arguments in (SHORT, LONG):
        with pytest.raises(HelperError):
            helpers.call(drawn, arguments, nothing)


@pytest.mark.parametrize(
    ("function", "arguments", "short"),
    [
        (superpixels, (np.zeros((1, 1, 1)), 2), True),
        (superpixels, (np.zeros((3, 224, 224)), 512), True),
        (superpixels, (np.zeros((1, 256, 256)), 512), True),
        (superpixels, (np.zeros((3, 384, 384)), 2), False),
        (superpixels, (np.zeros((100, 128, 128)), 2), False),
        (drawn, (100, 8192, 1), True),
        (drawn, (512, 16384, 1), False),
        (estimates, (np.ones((2048, 200), np.bool_), 0, None, 1.0), True),
        (estimates, (np.ones((8192, 512), np.bool_), 0, None, 1.0), False),
        (grid, (2, 2, 2), False),
    ],
)
def test_what_is_known_to_be_quick_is_short_and_all_else_is_long(function, arguments, short):
    assert (likely_seconds(function, arguments) <= SHORT_SECONDS) is short


def maps(helper):
    """Return what a helper's process has mapped, empty if there is none."""
    process = helper._process
    return "" if process is None else Path(f"/proc/{process.pid}/maps").read_text()


def wait_for(condition, seconds=20.0):
    """Look at `condition` until it holds; another process offers nothing to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
