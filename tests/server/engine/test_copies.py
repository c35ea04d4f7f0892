"""Staging ahead, on streams that are played: what was copied on another stream is not there before it is waited for."""

import contextlib
import gc
import threading
from dataclasses import dataclass, field

import pytest
import torch
from pellucid_server.engine.device import accelerator
from pellucid_server.engine.device.copies import Copies, StreamCopies, copies, tensors_of
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.tasks.request_state import RequestState, Tally
from pellucid_server.errors import CancelledError
from server.engine.test_engine import WEIGHTS, Awaited, Doubling, held, lane
from server.engine.test_engine import evaluation as on_cpu
from server.engine.test_recipes import RECIPES

DEVICE = "cuda:0"


class Stream:
    """A stream whose copies are made when somebody waits for them."""

    def __init__(self, name="copying"):
        self.name = name
        self.pending = []

    def wait_event(self, event):
        for copy in event.copies:
            copy()


class Event:
    def record(self, stream):
        self.copies = list(stream.pending)


class Played:
    """What a device would be: the stream of each moment, and a log of what happened."""

    def __init__(self):
        self.computing = self.current = Stream("computing")
        self.log = []
        self.recorded = []
        self.full = False

    @contextlib.contextmanager
    def stream(self, stream):
        self.current = stream
        try:
            yield
        finally:
            self.current = self.computing


@pytest.fixture
def device(monkeypatch):
    played = Played()
    monkeypatch.setattr(torch.cuda, "Stream", lambda name: Stream())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", played.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda name: played.computing)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: played.log.append("empty"))
    monkeypatch.setattr(accelerator, "prepare_thread", lambda name: None)
    return played


@pytest.fixture
def engine(device):
    made = Engine(chunk_seconds=10.0, chunk_bytes=1 << 30, threads=1, class_weights=WEIGHTS, device=DEVICE)
    yield made
    made.close()


class OnDevice(torch.Tensor):
    """A tensor that lies on the device, as far as it says."""

    is_cuda = True
    played = None

    def record_stream(self, stream):
        self.played.recorded.append(stream.name)


@dataclass(frozen=True)
class Staged:
    x: torch.Tensor

    def rows(self, first, count):
        return {"x": self.x[first : first + count].as_subclass(torch.Tensor)}


@dataclass(frozen=True)
class Sent:
    """Rows that are copied to the device on the stream of the moment."""

    name: str
    values: tuple[float, ...]
    played: Played

    @property
    def count(self):
        return len(self.values)

    layout = (("x", "<f4", (1,)),)

    def stage(self, device):
        stream = self.played.current
        self.played.log.append(f"{stream.name} {self.name}")
        if self.played.full:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        tensor = torch.full((len(self.values), 1), torch.nan)

        def copy():
            tensor[:, 0] = torch.tensor(self.values)

        (copy() if stream is self.played.computing else stream.pending.append(copy))
        found = tensor.as_subclass(OnDevice)
        found.played = self.played
        return Staged(found)


@dataclass(frozen=True)
class Asked:
    recipe: Sent
    fold: Keep = field(default_factory=Keep)
    exact: bool = False


class Launching(Doubling):
    """A program on the device. Its gate holds the launch."""

    device = DEVICE

    def __init__(self, played, **settings):
        super().__init__(**settings)
        self.played = played

    def __call__(self, batch, parts):
        self.played.log.append(f"launch {batch['x'][:, 0].tolist()}")
        return super().__call__(batch, parts)


def evaluation(played, name, *values, key="lane", **settings):
    made = Awaited(
        key, Asked(Sent(name, values, played)), RequestState(1, None, **settings), Tally(), threading.Event()
    )
    made.on_rows = lambda share: played.log.append(f"done {name}")
    return made


def begun(engine, program, *entries, first=None, **settings):
    """Run a chunk, while which `entries` come, each on a lane of its own; return its evaluation."""
    program.gate.clear()
    first = first or evaluation(program.played, "first", 1.0)
    engine.submit(first, lane(program, **settings))
    assert program.entered.acquire(timeout=10)
    for entry in entries:
        engine.submit(entry, lane(program, **settings))
    return first


def test_what_is_next_is_copied_while_a_chunk_computes_and_waited_for_before_it_is_read(engine, device):
    program = Launching(device)
    later = evaluation(device, "later", 2.0, 3.0, key="another")
    first = begun(engine, program, later)
    program.gate.set()

    assert first.wait()["y"].tolist() == [[2.0]]
    assert later.wait()["y"].tolist() == [[4.0], [6.0]]
    assert device.log == [
        *("computing first", "launch [1.0]", "copying later", "done first"),
        *("launch [2.0, 3.0]", "done later"),
    ]
    assert device.recorded == ["computing"]


def test_all_that_would_share_the_next_chunk_is_copied(engine, device):
    program = Launching(device)
    others = [evaluation(device, str(number), float(number), key="another") for number in range(3)]
    begun(engine, program, *others)
    program.gate.set()

    assert [entry.wait()["y"].item() for entry in others] == [0.0, 2.0, 4.0]
    assert device.log[2:6] == ["copying 0", "copying 1", "copying 2", "done first"]
    assert device.log[6:] == ["launch [0.0, 1.0, 2.0]", "done 0", "done 1", "done 2"]


def test_what_comes_after_the_copies_and_is_more_urgent_goes_first(engine, device):
    program = Launching(device)
    later = evaluation(device, "later", 2.0, key="another", priority="bulk")
    urgent = evaluation(device, "urgent", 3.0, key="urgent", priority="predictions")
    first = evaluation(device, "first", 1.0)

    def come(share):
        # The results of the chunk are fetched now, and `later` is staged.
        assert later.staged
        engine.submit(urgent, lane(program))

    first.on_rows = come
    begun(engine, program, later, first=first)
    program.gate.set()

    assert (later.wait()["y"].item(), urgent.wait()["y"].item()) == (4.0, 6.0)
    assert program.batches == [[1.0], [3.0], [2.0]]


def test_a_request_that_stops_after_its_copies_is_not_evaluated_and_keeps_no_memory(engine, device):
    program = Launching(device)
    later = evaluation(device, "later", 2.0, key="another")
    first = evaluation(device, "first", 1.0)

    def leave(share):
        assert later.staged
        later.request.cancelled = True

    first.on_rows = leave
    begun(engine, program, later, first=first)
    program.gate.set()

    with pytest.raises(CancelledError):
        later.wait()
    assert not later.staged
    assert program.batches == [[1.0]]
    last = evaluation(device, "last", 5.0)
    engine.submit(last, lane(program))
    assert last.wait()["y"].item() == 10.0
    # Neither engine nor thread know the evaluation any more.
    assert not [
        each for each in gc.get_referrers(later) if isinstance(each, dict) and Event in map(type, each.values())
    ]


def test_a_request_that_has_stopped_already_is_not_copied(engine, device):
    program = Launching(device)
    later = evaluation(device, "later", 2.0, key="another")
    begun(engine, program, later)
    later.request.cancelled = True
    program.gate.set()

    with pytest.raises(CancelledError):
        later.wait()
    assert "copying later" not in device.log


def test_what_does_not_fit_ahead_of_its_turn_is_copied_in_its_turn(engine, device):
    program = Launching(device)
    later = evaluation(device, "later", 2.0, key="another")
    first = evaluation(device, "first", 1.0)
    first.on_rows = lambda share: setattr(device, "full", False)
    begun(engine, program, later, first=first)
    device.full = True
    program.gate.set()

    assert first.wait()["y"].item() == 2.0
    assert later.wait()["y"].item() == 4.0
    assert [entry for entry in device.log if "later" in entry] == ["copying later", "computing later", "done later"]


def test_a_chunk_that_does_not_fit_has_the_room_of_what_was_copied_ahead(device):
    entry = evaluation(device, "later", 2.0)
    staged = StreamCopies(DEVICE)

    staged.ahead(lambda: [entry])
    assert entry.staged
    staged.drop()
    assert not entry.staged

    # It is copied on the stream that computes, and nobody waits for the first copy.
    staged.join([(entry, 1)])
    assert entry.stage(DEVICE).rows(0, 1)["x"].item() == 2.0
    assert device.log == ["copying later", "computing later"]


def test_a_chunk_that_runs_out_of_memory_drops_the_copies_before_it_is_tried_again(engine, device):
    program = Launching(device, rows_in_memory=2)
    big = evaluation(device, "big", 1.0, 2.0, 3.0, 4.0, key="another", priority="interactive")
    small = evaluation(device, "small", 9.0, key="third", priority="bulk")
    staged = []
    first = evaluation(device, "first", 0.0)

    def note(share):
        staged.append((big.staged, small.staged))
        engine._main._copies.ahead(lambda: [small])
        staged.append((big.staged, small.staged))

    first.on_rows = note
    begun(engine, program, big, small, first=first)
    program.gate.set()

    assert big.wait()["y"][:, 0].tolist() == [2.0, 4.0, 6.0, 8.0]
    assert small.wait()["y"].item() == 18.0
    assert staged == [(True, False), (True, True)]
    after = device.log[device.log.index("empty") :]
    # Its first copy is gone: it is made again, ahead or in its turn.
    assert sum(entry in {"copying small", "computing small"} for entry in after) == 1


def test_rows_in_several_chunks_are_copied_once(engine, device):
    program = Launching(device)
    long = evaluation(device, "long", *map(float, range(9)), key="another")
    program.gate.clear()
    first = evaluation(device, "first", 1.0)
    engine.submit(first, lane(program))
    assert program.entered.acquire(timeout=10)
    engine.submit(long, lane(program, chunk_rows=4))
    program.gate.set()

    assert long.wait()["y"][:, 0].tolist() == [2.0 * number for number in range(9)]
    assert [entry for entry in device.log if "long" in entry and "done" not in entry] == ["copying long"]
    assert sum(entry.startswith("launch") for entry in device.log) > 2


def test_a_lane_on_the_cpu_neither_copies_ahead_nor_is_copied_ahead_of(engine, device):
    program, host = Launching(device), Doubling()
    later = on_cpu([5.0], key="host")
    begun(engine, program)
    engine.submit(later, lane(host))
    program.gate.set()
    assert later.wait()["y"].tolist() == [[10.0]]

    held(engine, host, key="host")
    after = evaluation(device, "after", 6.0)
    engine.submit(after, lane(program))
    host.gate.set()

    assert after.wait()["y"].item() == 12.0
    assert not [entry for entry in device.log if entry.startswith("copying")]


def test_on_a_cpu_nothing_is_looked_for_and_cuda_is_not_touched(monkeypatch):
    def touched(*arguments):
        raise AssertionError("CUDA was touched")

    for name in ("Stream", "Event", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, touched)
    staged, entry = copies("cpu"), on_cpu([1.0])

    assert type(staged) is Copies
    staged.ahead(touched)
    staged.join([(entry, 1)])
    staged.drop()
    staged.forget()
    assert not entry.staged


def reachable(stage):
    """Find the tensors that an object keeps alive, by the garbage collector's own eyes."""
    seen, left, found = set(), [stage], set()
    while left:
        entry = left.pop()
        if id(entry) in seen or isinstance(entry, type) or type(entry).__name__ in {"module", "function"}:
            continue
        seen.add(id(entry))
        if isinstance(entry, torch.Tensor):
            found.add(entry.data_ptr())
        else:
            left += gc.get_referents(entry)
    return found


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_tensor_of_a_stage_is_found(recipe):
    stage = recipe.stage("cpu")

    found = {tensor.data_ptr() for tensor in tensors_of(stage)}

    assert found == reachable(stage)
    assert found
