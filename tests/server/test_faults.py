"""Fault points hold whoever reaches them, or end the process."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from pellucid_server.faults import EXIT_STATUS, POINTS, Faults

REACH = "import sys; from pellucid_server.faults import Faults; Faults(sys.argv[1]).reach('chunk', model='cats')"


def test_without_a_folder_every_point_is_passed():
    faults = Faults()

    assert [faults.reach(point, model="m") for point in POINTS] == [None] * len(POINTS)


def test_a_point_that_is_not_armed_is_passed_and_leaves_no_trace(tmp_path):
    Faults(str(tmp_path)).reach("sent")

    assert list(tmp_path.iterdir()) == []


def test_a_held_thread_goes_on_once_the_file_is_gone_and_is_noted_once(tmp_path):
    (tmp_path / "running").write_text("hold\n")
    thread = threading.Thread(target=Faults(str(tmp_path)).reach, args=("running",), daemon=True)
    thread.start()
    # Long enough for several looks; a thread that was not held would have ended.
    thread.join(0.05)
    assert thread.is_alive()

    (tmp_path / "running").unlink()
    thread.join(10)

    assert not thread.is_alive()
    assert (tmp_path / "running.reached").read_text() == f"{os.getpid()}\n"


def test_a_point_that_holds_one_model_lets_others_pass(tmp_path):
    (tmp_path / "chunk").write_text("hold cats")
    faults = Faults(str(tmp_path))
    thread = threading.Thread(target=faults.reach, args=("chunk",), kwargs={"model": "cats"}, daemon=True)
    thread.start()

    faults.reach("chunk", model="dogs")

    thread.join(0.05)
    assert thread.is_alive()
    (tmp_path / "chunk").unlink()
    thread.join(10)
    assert not thread.is_alive()


async def test_a_held_coroutine_lets_others_run(tmp_path):
    (tmp_path / "queued").write_text("hold")
    held = asyncio.ensure_future(Faults(str(tmp_path)).pass_by("queued", model="m"))
    await asyncio.sleep(0.02)
    assert not held.done()

    (tmp_path / "queued").unlink()

    await asyncio.wait_for(held, 10)


@pytest.mark.parametrize(
    ("what", "status"),
    [("crash", EXIT_STATUS), ("kill cats", EXIT_STATUS), ("kill dogs", 0), ("kill", 0), ("", 0)],
    ids=["crash", "kill this model", "kill another", "kill none", "empty"],
)
def test_a_point_ends_the_process_of_whom_it_is_armed_for(tmp_path, what, status):
    (tmp_path / "chunk").write_text(what)

    assert subprocess.run([sys.executable, "-c", REACH, str(tmp_path)], check=False).returncode == status
    assert (tmp_path / "chunk.reached").exists() == (status != 0)
