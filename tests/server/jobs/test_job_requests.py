"""Which jobs a call wants, may know of, and may read."""

from dataclasses import replace

import pytest
from pellucid_server.access.policy import Identity
from pellucid_server.errors import NotFoundError, PermissionDeniedError, UnavailableError, UnsupportedError
from pellucid_server.jobs.records import DONE
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.job_requests import check_known, check_readable, is_owner, may_know, wish_of
from pellucid_server.settings.sections import DEFAULT_CLASSES
from pellucid_server.vocabulary.descriptions import BrokenModel, DatasetInfo
from pellucid_server.vocabulary.requests import ModelKey
from server.jobs.conftest import KEY, record, request

LOOKS = frozenset(("dissect", "explain"))


def call(name="", roles=LOOKS, **facts):
    identity = Identity(name, frozenset(roles), **facts) if name else None
    return Call("GetJob", "1", 0.0, None, identity)


@pytest.mark.parametrize(
    ("who", "known", "owner"),
    [
        (call("ann"), True, True),
        (call("bob"), False, False),
        (call("root", ["admin"]), True, True),
        # Who may look into models alone is no administrator.
        (call("eve", ["predict"]), False, False),
        # The server has no identities: all callers are one owner.
        (call(), True, True),
    ],
    ids=["owner", "other", "admin", "predicts", "no access file"],
)
def test_a_job_is_its_owners_and_the_administrators(who, known, owner):
    job = record()

    assert (may_know(job, who), is_owner(job, who)) == (known, owner)
    if not known:
        with pytest.raises(NotFoundError, match="No job 'job-0'"):
            check_known(job, who)


@pytest.mark.parametrize(
    ("who", "known"),
    [
        (call("bob"), True),
        (call("bob", ["explain"]), False),
        (call("bob", models=(("echo", frozenset()),)), False),
        (call("bob", models=(("other", frozenset()),)), True),
        (call("bob", datasets=("other-*",)), False),
        (call("bob", datasets=("tum*",)), True),
    ],
    ids=["all roles", "another role", "hidden model", "other model hidden", "other data", "the data"],
)
def test_a_shared_job_is_known_to_those_who_may_ask_the_same_and_ended_by_its_owner(who, known):
    job = record(shared=True, dataset="tumours")

    assert may_know(job, who) is known
    assert not is_owner(job, who)


def test_an_ablation_needs_the_role_of_ablations():
    job = record(shared=True, verb="Ablate")

    assert may_know(job, call("bob", ["explain"]))
    assert not may_know(job, call("bob", ["dissect"]))
    assert not may_know(replace(job, dataset="tumours"), call("bob", ["explain"]))


def test_an_owner_who_lost_the_role_reads_nothing_and_an_administrator_needs_none():
    job = record(state=DONE)
    lost = call("ann", ["predict"])

    check_known(job, lost)
    with pytest.raises(PermissionDeniedError, match="'dissect' for the model 'echo'"):
        check_readable(job, lost)
    check_readable(job, call("root", ["admin"]))
    check_readable(job, call("ann"))
    check_readable(job, call())


async def test_a_wish_is_for_the_version_that_answers_now(make_world):
    world = await make_world()
    asked = replace(request(), model=ModelKey("echo"))

    wish = wish_of(world.jobs, asked, call("ann"), world.workers.hello, DEFAULT_CLASSES)

    assert wish.request.model == KEY
    assert (wish.owner, wish.dataset_digest, wish.priority) == ("ann", "", "")
    assert wish.key == world.jobs.wish(request(), owner="ann").key


async def test_there_is_no_wish_for_what_is_not_served(make_world):
    world = await make_world()
    hello = replace(world.workers.hello, broken=(BrokenModel("torn", 1, "its file is torn"),))

    def wish(**model):
        asked = replace(request(), model=replace(KEY, **model))
        return wish_of(world.jobs, asked, call("ann"), hello, DEFAULT_CLASSES)

    with pytest.raises(NotFoundError, match="No model 'x'"):
        wish(name="x")
    with pytest.raises(UnsupportedError, match="its file is torn"):
        wish(name="torn", digest="")
    with pytest.raises(UnsupportedError, match="has the digest"):
        wish(digest="00" * 32)
    with pytest.raises(UnavailableError, match="are being loaded"):
        wish_of(world.jobs, request(), call("ann"), None, DEFAULT_CLASSES)


async def test_a_data_set_counts_by_its_files(make_world):
    world = await make_world()
    probe = replace(request().probe, inputs={}, dataset="set")
    asked = replace(request(), probe=probe)

    def wish(*datasets):
        return wish_of(world.jobs, asked, call(), replace(world.workers.hello, datasets=datasets), DEFAULT_CLASSES)

    first, second = (wish(DatasetInfo("set", digest=each * 32)) for each in ("11", "22"))
    assert first.key != second.key
    assert first.dataset_digest == "11" * 32
    # The engine has the words for what is not there or cannot be read.
    assert wish().dataset_digest == wish(DatasetInfo("set", reason="torn")).dataset_digest == ""
    with pytest.raises(UnavailableError, match="still being read") as early:
        wish(DatasetInfo("set"))
    assert early.value.metadata["retry_after_seconds"] == "1.000"
