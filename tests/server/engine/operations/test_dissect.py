"""`Dissect` as an operation: what callers have is the same wherever its worker is lost."""

import dataclasses
import itertools

import numpy as np
import pytest
from e2e.small_models import PICTURES, write_pictures
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import Preview, Saved
from pellucid_server.engine.asking.registry import Cost, method, parameter
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
    """Before which of its last parts the method saves."""

    saves: str = parameter("", "Numbers, in a request that was not lost.")
    saves_again: str = parameter("", "Numbers, in one that goes on.")


def saved(total, done, answered, parts=0):
    return Saved(State({"sum": total}, {"done": done, "answered": answered, "parts": parts}), done, ROWS)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Install a method that sums rows up, saves after each, and answers in parts; the first before its last row."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @method("sums", Params, verb=DISSECT, family="test", source="a test", cost=lambda *_: Cost(1))
    def sums(handle, question, params):
        """Sum rows up."""
        state = question.state or State({"sum": np.zeros(1)}, {"done": 0, "answered": False, "parts": 0})
        total, done, answered = state.arrays["sum"], int(state.values["done"]), bool(state.values["answered"])
        while done < ROWS:
            if done == ROWS // 2 and not answered:
                yield Findings({"half": NamedArray(total, (Axis("sum"),))})
                answered = True
                yield saved(total, done, answered)
            total, done = total + question.probe.rows([done])["image"].sum(), done + 1
            yield saved(total, done, answered)
            yield Preview(Findings({"sum": NamedArray(total, (Axis("sum"),))}))
        for number in range(int(state.values["parts"]), PARTS):
            # Methods save by the clock, and so perhaps where they did not before.
            if str(number) in (params.saves if question.state is None else params.saves_again):
                yield saved(total, done, True, number)
            yield Findings({f"part {number}": NamedArray(total * number, (Axis("sum"),))})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_pictures(folder)
    return Models.of(tuple(load_repository(folder, "cpu", 1)))


def request(shift=0.0, **parameters):
    rows = np.linspace(0, 1, ROWS * 3 * 12 * 12, dtype=np.float32).reshape(ROWS, 3, 12, 12) + np.float32(shift)
    return DissectRequest(ModelKey(PICTURES), "sums", parameters, probe=ProbeSpec(inputs={"image": TensorInput(rows)}))


@pytest.fixture
def steps(bench, models):
    def run(asked, resume=Resume()):  # noqa: B008 - it has no state
        def work():
            context = RequestContext(models, bench.services, RequestState(1, None))
            return list(dissect(context, asked, resume))

        return bench.run(work)[0]

    return run


def visible(found):
    """The parts of the answer: the arrays of each, with their values."""
    shown = [each.body.arrays for each in found if not each.silent and not each.preview]
    return [{name: array.values.tolist() for name, array in sorted(arrays.items())} for arrays in shown]


def test_states_and_previews_are_no_parts_of_the_answer(steps):
    found = steps(request())

    names = [list(arrays) for arrays in visible(found)]
    assert names == [["half"], *([f"part {number}"] for number in range(PARTS)), []]
    assert [each.checkpoint for each in found if each.preview] == [False] * ROWS
    assert found[-1].body.receipt is not None
    assert all(one.share <= other.share for one, other in itertools.pairwise(found))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"saves_again": "0"}, {"saves_again": "1"}, {"saves": "1", "saves_again": "02"}, {"saves_again": "012"}],
)
def test_wherever_the_worker_is_lost_callers_have_each_part_once(steps, parameters):
    whole = steps(request(**parameters))
    answer = visible(whole)[:-1]

    for lost in range(1, len(whole)):
        before = whole[:lost]
        after = going_on(steps, before, parameters)
        assert visible([*before, *after])[:-1] == answer, lost
        for again in range(1, len(after)):
            twice = [*before, *after[:again]]
            assert visible([*twice, *going_on(steps, twice, parameters)])[:-1] == answer, (lost, again)


def going_on(steps, before, parameters):
    last = next((each for each in reversed(before) if each.checkpoint), None)
    return steps(request(**parameters), Resume() if last is None else Resume(len(before), last.state))


def test_work_does_not_go_on_over_other_rows(steps):
    state = next(each.state for each in steps(request()) if each.state is not None)

    with pytest.raises(UnavailableError, match="rows of the probe have changed"):
        steps(request(1.0), Resume(1, state))
