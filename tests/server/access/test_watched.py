"""Files that are looked at while the server runs, and what must not come of what is put in their place."""

import asyncio
import os
import threading

import pytest
from pellucid_server.access.watched import UnusableFileError, Watched, contents_of


def word(contents):
    (data,) = contents.values()
    if data == b"bug":
        raise KeyError("no fault of the file's")
    if data == b"bad":
        raise UnusableFileError("it is bad")
    return data.decode()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "word"
    path.write_bytes(b"good")
    return path


async def test_requests_go_on_while_a_large_file_is_read(path):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(contents):
        if contents[path] == b"large":
            begun.set()
            assert go_on.wait(60)
        return word(contents)

    watched = Watched("the word", (path,), slowly)
    path.write_bytes(b"large")
    look = asyncio.create_task(watched.look())
    await asyncio.to_thread(begun.wait, 60)

    # The event loop is here, and not in the read.
    assert watched.value == "good"
    go_on.set()
    await look
    assert watched.value == "large"


def test_a_pipe_in_a_files_place_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(UnusableFileError, match="pipe is not a plain file"):
        contents_of((tmp_path / "pipe",))


def test_a_link_to_a_file_is_read_as_kubernetes_makes_them(path):
    (path.parent / "link").symlink_to(path.name)

    assert contents_of((path.parent / "link",)) == {path.parent / "link": b"good"}


@pytest.mark.parametrize("data", [b"bad", b"bug"])
async def test_what_cannot_be_read_for_whatever_reason_is_stale_until_it_can(path, data):
    watched = Watched("the word", (path,), word)
    path.write_bytes(data)
    for _ in range(2):
        try:
            await watched.look()
        except KeyError:
            assert data == b"bug"

    assert (watched.value, watched.stale) == ("good", True)
    path.write_bytes(b"better")
    await watched.look()
    assert (watched.value, watched.stale) == ("better", False)
