"""What the front has workers do when models change: workers that answer as a test says, and looks as it says."""

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pellucid_server.errors import NotFoundError, UnavailableError, UnsupportedError
from pellucid_server.model_files.listing import ModelError
from pellucid_server.model_files.sight import Sight
from pellucid_server.pool.workers.changes import WorkerLostError
from pellucid_server.reload.manager import Manager
from pellucid_server.vocabulary.changes import Adopt, Prepare, Prepared
from pellucid_server.vocabulary.descriptions import ModelInfo, Verdict
from pellucid_server.vocabulary.messages import Hello, WorkerSettings
from pellucid_server.vocabulary.requests import ModelKey

ONE, TWO = ("m", 1), ("m", 2)


def info(key, digest):
    return ModelInfo(ModelKey(*key, digest), "", (), (), (), (), "graph", None, 0, False)


@dataclass
class Worker:
    """A worker that loads what `disk` has; a file's text is its fingerprint and its digest, and "bad..." is broken."""

    disk: dict
    device: str = "cpu"
    ready: bool = True
    behind: frozenset = frozenset()
    hello: Hello | None = None
    said: list = field(default_factory=list)
    lost_at: str = ""
    held: asyncio.Event | None = None
    killed: str = ""

    def __post_init__(self):
        self.digests, self.staged = dict(self.disk), {}
        self.greet()

    def greet(self, broken=()):
        verdicts = tuple(Verdict(*key, at) for key, at in self.digests.items())
        self.hello = Hello(
            tuple(info(key, at) for key, at in sorted(self.digests.items())), (), self.device, broken, verdicts
        )

    async def prepare(self, message: Prepare) -> Prepared:
        self.said.append(message)
        if self.held is not None:
            await self.held.wait()
        if self.lost_at == "prepare":
            self.ready = False
            raise WorkerLostError
        key = (message.name, message.version)
        at = self.disk[key]
        reason = f"/models/{key[0]}/{key[1]} is {at}" if at.startswith("bad") else ""
        loaded = not reason and self.digests.get(key) != at
        if loaded:
            self.staged[message.change] = (key, at)
        return Prepared(message.change, Verdict(*key, at, reason), "" if reason else at, loaded)

    async def adopt(self, message: Adopt) -> Hello:
        self.said.append(message)
        if self.lost_at == "adopt":
            self.ready = False
            raise WorkerLostError
        key, at = self.staged.pop(message.change, (None, None))
        if message.kept and key is not None:
            self.digests[key] = at
        for gone in message.removed:
            self.digests.pop(gone, None)
        self.greet(message.broken)
        return self.hello

    def give_up(self, seen):
        self.killed, self.ready = seen, False

    def prepared(self):
        return [(each.name, each.version) for each in self.said if isinstance(each, Prepare)]


class Shop:
    def __init__(self, disk, workers=1, *, patience=20.0):
        self.disk = dict(disk)
        self.workers = [Worker(self.disk) for _ in range(workers)]
        self.away = ""
        self.manager = Manager(
            self.workers,
            Path("/models"),
            poll_seconds=0,
            patience_seconds=patience,
            look=self.look_at,
        )
        self.manager.start()

    def look_at(self, _):
        if self.away:
            raise ModelError(self.away)
        return Sight(dict(self.disk))

    async def looks(self, count=2):
        for _ in range(count):
            await self.manager.look()

    def served(self):
        """Return what all workers serve; it is the same."""
        (found,) = {tuple(sorted(worker.digests.items())) for worker in self.workers if worker.ready}
        return dict(found)


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_new_version_is_tried_out_once_and_served_by_all_workers(workers):
    shop = Shop({ONE: "a"}, workers)
    await shop.looks()
    shop.disk[TWO] = "b"
    await shop.looks()

    assert shop.served() == {ONE: "a", TWO: "b"}
    asked = [next(each for each in worker.said if isinstance(each, Prepare)) for worker in shop.workers]
    assert asked[0].tried is None
    assert [each.tried.fingerprint for each in asked[1:]] == ["b"] * (workers - 1)


async def test_what_one_worker_cannot_load_is_served_by_none(caplog):
    shop = Shop({ONE: "a"}, 2)
    await shop.looks()
    shop.disk[TWO] = "b"
    shop.workers[1].disk = {**shop.disk, TWO: "bad here"}
    await shop.looks()

    assert shop.served() == {ONE: "a"}
    assert [each.hello.broken[0].reason for each in shop.workers] == ["m/2 is bad here"] * 2
    assert "/models/m/2 is bad here" in caplog.text


async def test_files_that_two_workers_read_differently_were_changed_meanwhile_and_are_not_served():
    shop = Shop({ONE: "a"}, 2)
    await shop.looks()
    shop.disk[TWO] = "b"
    shop.workers[1].disk = {**shop.disk, TWO: "c"}
    await shop.looks()

    assert shop.served() == {ONE: "a"}
    assert "changed while" in shop.workers[0].hello.broken[0].reason


async def test_a_failed_load_is_not_tried_again_before_the_files_change_and_is_then():
    shop = Shop({ONE: "a"})
    await shop.looks()
    shop.disk[ONE] = "bad"
    await shop.looks(5)
    assert shop.workers[0].prepared() == [ONE]
    shop.disk[ONE] = "c"
    await shop.looks()

    assert shop.served() == {ONE: "c"}
    assert shop.workers[0].hello.broken == ()


@pytest.mark.parametrize("lost_at", ["prepare", "adopt"])
async def test_a_worker_that_is_lost_in_the_middle_leaves_the_change_to_the_others(lost_at):
    shop = Shop({ONE: "a"}, 2)
    await shop.looks()
    shop.workers[0].lost_at = lost_at
    shop.disk[TWO] = "b"
    await shop.looks()

    assert shop.workers[1].digests == {ONE: "a", TWO: "b"}
    # What is started in its place is to load what the others have.
    settings = shop.workers[0].settings_now(WorkerSettings("cpu", "/models", 1, 0.05, 1))
    assert settings.versions == (ONE, TWO)


async def test_without_a_worker_a_change_waits_for_one():
    shop = Shop({ONE: "a"})
    await shop.looks()
    shop.workers[0].ready = False
    shop.disk[TWO] = "b"
    await shop.looks()
    with pytest.raises(UnavailableError):
        await shop.manager.load("m", 2)
    shop.workers[0].ready = True
    await shop.looks(1)

    assert shop.served() == {ONE: "a", TWO: "b"}


async def test_a_worker_that_loads_for_too_long_is_killed():
    shop = Shop({ONE: "a"}, patience=0.01)
    await shop.looks()
    shop.workers[0].held = asyncio.Event()
    shop.disk[TWO] = "b"
    await shop.looks()

    assert "has been loading the model 'm'" in shop.workers[0].killed


async def test_a_worker_that_comes_back_with_other_models_gets_no_requests_for_them_until_it_has_the_same():
    shop = Shop({ONE: "a", ("n", 1): "x"}, 2)
    await shop.looks()
    late = shop.workers[1]
    late.digests = {("n", 1): "x"}
    late.greet()

    late.on_ready()
    behind = late.behind
    for _ in range(20):
        await asyncio.sleep(0)

    assert behind == {"m"}
    assert shop.served() == {ONE: "a", ("n", 1): "x"}
    assert late.behind == frozenset()


async def test_a_worker_that_comes_back_cannot_load_what_was_overwritten_and_stays_behind():
    shop = Shop({ONE: "a", ("n", 1): "x"}, 2)
    await shop.looks()
    late = shop.workers[1]
    shop.disk[ONE] = "bad"
    late.digests = {("n", 1): "x"}
    late.greet()

    late.on_ready()
    for _ in range(20):
        await asyncio.sleep(0)

    assert late.behind == {"m"}
    assert shop.workers[0].digests[ONE] == "a"


async def test_a_repository_that_cannot_be_listed_changes_nothing_and_is_named_once(caplog):
    shop = Shop({ONE: "a"})
    await shop.looks()
    shop.away = "/models is not a folder"
    await shop.looks(3)

    assert shop.served() == {ONE: "a"}
    assert caplog.text.count("what is served stays as it is") == 1
    with pytest.raises(UnavailableError):
        await shop.manager.load("m", 1)


async def test_a_load_whose_caller_leaves_goes_on():
    shop = Shop({ONE: "a"})
    shop.workers[0].held = asyncio.Event()
    shop.disk[TWO] = "b"
    asked = asyncio.create_task(shop.manager.load("m", 2))
    while not any(isinstance(each, Prepare) for each in shop.workers[0].said):
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    shop.workers[0].held.set()
    # It comes behind the one that was left.
    await shop.manager.load("m", 1)

    assert shop.served() == {ONE: "a", TWO: "b"}


async def test_a_version_that_was_unloaded_is_not_taken_by_looks_and_not_by_a_worker_that_is_started():
    shop = Shop({ONE: "a", TWO: "b"})
    await shop.looks()
    (state,) = await shop.manager.unload("m", 2)
    shop.disk[TWO] = "c"
    await shop.looks(3)

    assert (state.state, shop.served()) == ("unloaded", {ONE: "a"})
    settings = shop.workers[0].settings_now(WorkerSettings("cpu", "/models", 1, 0.05, 1))
    assert settings.versions == (ONE,)

    await shop.manager.load("m", 0)

    assert shop.served() == {ONE: "a", TWO: "c"}


async def test_versions_are_listed_with_what_they_are_at():
    shop = Shop({ONE: "a", TWO: "b", ("m", 3): "c"})
    await shop.looks()
    await shop.manager.unload("m", 3)
    shop.disk |= {ONE: "changed", ("m", 4): "new"}
    del shop.disk[TWO]

    found = {each.key[1]: (each.state, each.pending) for each in await shop.manager.versions()}

    assert found == {1: ("serving", True), 2: ("serving", True), 3: ("unloaded", False), 4: ("new", True)}


async def test_a_digest_that_is_not_the_wanted_one_is_not_served():
    shop = Shop({ONE: "a"})
    shop.disk[ONE] = "b"

    with pytest.raises(UnsupportedError, match="m/1 has the digest b, not c"):
        await shop.manager.load("m", 1, "c")

    assert shop.served() == {ONE: "a"}
    assert shop.workers[0].staged == {}
    await shop.manager.load("m", 1, "b")
    assert shop.served() == {ONE: "b"}


async def test_all_versions_of_a_model_are_loaded_as_far_as_they_can_be():
    shop = Shop({ONE: "a"})
    shop.disk |= {TWO: "bad", ("m", 3): "c"}

    with pytest.raises(UnsupportedError, match="m/2 is bad"):
        await shop.manager.load("m", 0)

    assert shop.served() == {ONE: "a", ("m", 3): "c"}


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_what_is_not_there_is_not_found(verb):
    shop = Shop({ONE: "a"})
    for name, version in (("nobody", 0), ("m", 7)):
        with pytest.raises(NotFoundError):
            await getattr(shop.manager, verb)(name, version)


async def test_nothing_that_changes_at_random_leaves_workers_with_different_models():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    source = random.Random(seed)
    shop = Shop({ONE: "a"}, 3)
    keys, texts = [("m", 1), ("m", 2), ("n", 1)], itertools.count()
    for _ in range(200):
        key = source.choice(keys)
        if source.random() < 0.3:
            shop.disk.pop(key, None)
        else:
            shop.disk[key] = source.choice(["bad", "good"]) + str(next(texts))
        await shop.looks(source.randrange(4))
        shop.served()
    for key in keys:
        shop.disk[key] = "last"
    await shop.looks(3)

    assert shop.served() == dict.fromkeys(keys, "last")
