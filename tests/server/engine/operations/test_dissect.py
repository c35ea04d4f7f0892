"""`Dissect` as an operation: what callers have is the same wherever its worker is lost."""

import dataclasses
import itertools

import numpy as np
import pytest
from e2e.small_models import PICTURES, write_pictures
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import Preview, Saved
from pellucid_server.engine.asking.registry import Cost, method
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.engine.operations.context import Models, RequestContext
from pellucid_server.engine.operations.dissect import dissect
from pellucid_server.engine.operations.streams import Resume
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import UnavailableError
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray, State
from pellucid_server.vocabulary.requests import DissectRequest, ModelKey, ProbeSpec, TensorInput

ROWS, PARTS = 6, 3


@dataclasses.dataclass(frozen=True)
class Params:
    """No parameters."""


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Install a method that sums rows up, saves after each, and answers in parts; the first before its last row."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @method("sums", Params, verb=DISSECT, family="test", source="a test", cost=lambda *_: Cost(1))
    def sums(handle, question, params):
        """Sum rows up."""
        state = question.state or State({"sum": np.zeros(1)}, {"done": 0, "answered": False})
        total, done, answered = state.arrays["sum"], int(state.values["done"]), bool(state.values["answered"])
        while done < ROWS:
            if done == ROWS // 2 and not answered:
                yield Findings({"half": NamedArray(total, (Axis("sum"),))})
                answered = True
                yield Saved(State({"sum": total}, {"done": done, "answered": True}), done, ROWS)
            total, done = total + question.probe.rows([done])["image"].sum(), done + 1
            yield Saved(State({"sum": total}, {"done": done, "answered": answered}), done, ROWS)
            yield Preview(Findings({"sum": NamedArray(total, (Axis("sum"),))}))
        for number in range(PARTS):
            yield Findings({f"part {number}": NamedArray(total * number, (Axis("sum"),))})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_pictures(folder)
    return Models.of(tuple(load_repository(folder, "cpu", 1)))


def request(shift=0.0):
    rows = np.linspace(0, 1, ROWS * 3 * 12 * 12, dtype=np.float32).reshape(ROWS, 3, 12, 12) + np.float32(shift)
    return DissectRequest(ModelKey(PICTURES), "sums", probe=ProbeSpec(inputs={"image": TensorInput(rows)}))


@pytest.fixture
def steps(bench, models):
    def run(asked, resume=Resume()):  # noqa: B008 - it has no state
        def work():
            context = RequestContext(models, bench.services, RequestState(1, None))
            return list(dissect(context, asked, resume))

        return bench.run(work)[0]

    return run


def visible(found):
    return [sorted(each.body.arrays) for each in found if not each.silent and not each.preview]


def test_states_and_previews_are_no_parts_of_the_answer(steps):
    found = steps(request())

    assert visible(found) == [["half"], *([f"part {number}"] for number in range(PARTS)), []]
    assert [each.checkpoint for each in found if each.preview] == [False] * ROWS
    assert found[-1].body.receipt is not None
    assert all(one.share <= other.share for one, other in itertools.pairwise(found))


def test_wherever_the_worker_is_lost_callers_have_each_part_once(steps):
    whole = steps(request())
    answer = [each.body for each in whole[:-1] if not each.silent and not each.preview]

    for lost in range(1, len(whole)):
        before = whole[:lost]
        last = next((each for each in reversed(before) if each.checkpoint), None)
        if last is None:
            continue
        after = steps(request(), Resume(lost, last.state))
        bodies = [each.body for each in (*before, *after[:-1]) if not each.silent and not each.preview]
        assert [sorted(each.arrays) for each in bodies] == [sorted(each.arrays) for each in answer], lost
        for one, other in zip(bodies, answer, strict=True):
            assert all(np.array_equal(one.arrays[name].values, other.arrays[name].values) for name in other.arrays)


def test_work_does_not_go_on_over_other_rows(steps):
    state = next(each.state for each in steps(request()) if each.state is not None)

    with pytest.raises(UnavailableError, match="rows of the probe have changed"):
        steps(request(1.0), Resume(1, state))
