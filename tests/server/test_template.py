"""Templates and what they fork, from the end of the process that asks."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pellucid_server.processes import ForkedProcess
from pellucid_server.template import Template, TemplateError
from server.adoption import adopting_for_a_while

PROGRAM = """
import errno, json, os, signal, subprocess, sys, time
from pellucid_server.template import serve

def fork_and_wait(pipe, go):
    os.read(go, 1)
    if os.fork() == 0:
        time.sleep(600)
    os.write(pipe, b"x")
    time.sleep(600)

def fail(pipe):
    raise RuntimeError("as a worker may")

def unable():
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

def break_forks():
    os.fork = unable

def break_second_forks():
    fork = os.fork
    def between():
        pid = fork()
        if pid == 0:
            os.fork = lambda: os.kill(os.getpid(), signal.SIGKILL)
        return pid
    os.fork = between

{"": lambda: None, "unable": break_forks, "between": break_second_forks}[sys.argv[1]]()
serve(int(sys.argv[2]), "a-template", {
    "end": lambda pipe, status=7: sys.exit(status),
    "tell": lambda pipe: os.write(pipe, json.dumps(sorted(os.listdir("/proc/self/fd"))).encode()),
    "random": lambda pipe: os.write(pipe, str(__import__("random").random()).encode()),
    "wait": lambda *pipes: (os.write(pipes[0], b"x"), time.sleep(600)),
    "fork": fork_and_wait,
    "fail": fail,
})
"""


@pytest.fixture(autouse=True)
def _adopting():
    with adopting_for_a_while():
        yield


@pytest.fixture
def start():
    made = []

    def start(how=""):
        template = Template.start([sys.executable, "-c", PROGRAM, how], os.environ)
        made.append(template)
        template.greet()
        return template

    yield start
    [template.close() for template in made]


@pytest.fixture
def template(start):
    return start()


class Pipe:
    """What a forked process writes."""

    def __init__(self):
        self.ours, self.theirs = os.pipe()

    def read(self):
        """Return what is written, or nothing once nobody can write any more."""
        assert select.select([self.ours], [], [], 20)[0]
        return os.read(self.ours, 1000).decode()

    def close(self):
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.close()


def children():
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for path in lists for pid in path.read_text().split()}


def fork(template, role, pipe, **options):
    return template.fork(role, [pipe.theirs], **options)


def test_a_forked_process_is_a_child_with_its_exit_status(template, pipe):
    process = fork(template, "end", pipe)

    assert process.wait(20) == 7
    assert process.poll() == 7
    process.kill()
    assert process.wait() == 7


def test_a_killed_process_has_the_status_of_its_signal_and_nothing_is_left_of_it(template, pipe):
    process = fork(template, "wait", pipe)
    pipe.read()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)

    process.kill()

    assert process.wait(20) == -signal.SIGKILL
    assert process.pid not in children()


def test_an_error_ends_a_forked_process_with_status_1_and_a_traceback(capfd, start, pipe):
    assert fork(start(), "fail", pipe).wait(20) == 1
    assert "RuntimeError: as a worker may" in capfd.readouterr().err


def test_a_forked_process_has_the_descriptors_that_it_was_given_and_no_others(template, pipe):
    process = fork(template, "tell", pipe)
    descriptors = json.loads(pipe.read())
    # By now the process between has ended; one that has ended and was not waited for keeps its parent.
    parent = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    process.wait(20)

    # The standard streams, the pipe, and the listing of the folder itself.
    assert len(descriptors) == 5
    assert descriptors[:3] == ["0", "1", "2"]
    assert parent == os.getpid()


def test_the_death_of_one_forked_process_is_seen_though_another_lives(template, pipe):
    first, second = socket.socketpair(), socket.socketpair()
    processes = []
    for ours, theirs in (first, second):
        with theirs:
            processes.append(template.fork("wait", [pipe.theirs, theirs.fileno()]))
        ours.settimeout(20)
    pipe.read()

    processes[0].kill()

    assert first[0].recv(1) == b""
    assert select.select([second[0]], [], [], 0)[0] == []
    for process, (ours, _) in zip(processes, (first, second), strict=True):
        process.kill()
        process.wait(20)
        ours.close()


def test_forked_processes_do_not_draw_the_same_random_numbers(template, pipe):
    drawn = []
    for _ in range(2):
        process = fork(template, "random", pipe)
        drawn.append(pipe.read())
        process.wait(20)

    assert drawn[0] != drawn[1]


def test_what_a_leader_has_started_ends_with_it_and_is_waited_for(template, pipe):
    before = children()
    go = Pipe()
    process = template.fork("fork", [pipe.theirs, go.ours], leads=True)
    os.write(go.theirs, b"x")
    pipe.read()
    assert os.getpgid(process.pid) == process.pid

    process.kill()

    assert process.wait(20) == -signal.SIGKILL
    assert children() == before
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    go.close()


def test_what_a_template_has_made_lives_on_without_it_and_its_end_is_seen(template, pipe):
    process = fork(template, "wait", pipe, leads=True)
    pipe.read()

    os.kill(template.process.pid, signal.SIGKILL)

    with pytest.raises(TemplateError, match=r"has ended|cannot be asked|is lost"):
        fork(template, "wait", pipe)
    assert template.close() == -signal.SIGKILL
    assert process.poll() is None
    process.kill()
    assert process.wait(20) == -signal.SIGKILL


def test_closing_ends_the_template_alone(template, pipe):
    process = fork(template, "wait", pipe, leads=True)
    pipe.read()

    template.close()

    assert process.pid in children()
    assert template.process.pid not in children()
    process.kill()
    process.wait(20)


def test_a_template_that_is_stopped_is_given_up_and_leaves_nothing(template, pipe):
    before = children() - {template.process.pid}
    os.kill(template.process.pid, signal.SIGSTOP)

    with pytest.raises(TemplateError, match=r"has not answered within 0\.05 s"):
        fork(template, "wait", pipe, seconds=0.05)
    template.close()

    assert children() == before


@pytest.mark.parametrize(
    ("how", "message"),
    [("unable", "cannot fork: Resource temporarily unavailable"), ("between", "the process between the two has died")],
)
def test_a_template_that_cannot_fork_says_why(start, pipe, how, message):
    before = children()
    template = start(how)

    with pytest.raises(TemplateError, match=message):
        fork(template, "wait", pipe)

    assert children() - before == {template.process.pid}


def test_a_template_that_ends_before_it_is_ready_says_so(monkeypatch):
    template = Template.start([sys.executable, "-c", ""], os.environ)

    with pytest.raises(TemplateError, match="has ended"):
        template.greet()

    assert template.close() == 0


def test_a_template_ends_with_the_process_that_asks_it(start):
    template = start()
    pid = os.pidfd_open(template.process.pid)

    template.connection.shutdown(socket.SHUT_RDWR)

    assert select.select([pid], [], [], 20)[0] == [pid]
    os.close(pid)


def test_fifty_forks_leave_no_descriptor_on_either_side(template, pipe):
    fork(template, "end", pipe).wait(20)

    def held():
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{template.process.pid}/fd"))

    before = held()
    for _ in range(50):
        assert fork(template, "end", pipe, leads=True).wait(20) == 7

    assert held() == before


def test_a_process_that_is_no_child_is_not_taken_over():
    with pytest.raises(ChildProcessError):
        ForkedProcess(1)


HERE = """
import os, sys, time
from pellucid_server.template import Template

template = Template.fork_here("a-template", {"wait": lambda pipe: time.sleep(600)})
template.greet()
process = template.fork("wait", [1])
print(os.getpid(), template.process.pid, process.pid, flush=True)
time.sleep(600)
"""


def test_a_template_that_was_forked_ends_with_its_process_however_that_ends():
    with subprocess.Popen([sys.executable, "-c", HERE], stdout=subprocess.PIPE, text=True) as process:
        _, template, forked = (int(pid) for pid in process.stdout.readline().split())
        ended = os.pidfd_open(template)

        process.kill()

        assert select.select([ended], [], [], 20)[0] == [ended]
        os.close(ended)
        # The process made is on its own, as its role sees to its end by its connection.
        os.kill(forked, signal.SIGKILL)


def test_waiting_takes_no_longer_than_it_may(template, pipe):
    process = fork(template, "wait", pipe)
    began = time.monotonic()

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)

    assert time.monotonic() - began >= 0.2
    process.kill()
    process.wait(20)
