"""Whether rows change one another is found out at load."""

import pytest
import torch
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.graph.independence import rows_independent
from server.engine.models.networks import ZOO, zoo_graph
from torch import nn
from torch.export import Dim


def graph_of(module: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> Graph:
    example = torch.ones(2, *shape, dtype=dtype)
    return Graph.from_program(torch.export.export(module.eval(), (example,), dynamic_shapes=({0: Dim.DYNAMIC},)))


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Leaking(nn.Module):
    """The other rows have a share that rounding hides in the outputs, but not in the gradient."""

    def forward(self, x):
        return x * 1000 + (x.sum(0) - x) * 1e-3


class Ranked(nn.Module):
    """Tells the rank of each row: no gradient shows it."""

    def forward(self, x):
        return (x[:, None] > x[None, :]).to(torch.float32).sum((1, 2))


class CountedWords(nn.Module):
    def forward(self, ids):
        return ids.to(torch.float32) / ids.sum()


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize("network", ZOO)
def test_the_rows_of_every_network_of_the_zoo_are_independent(network):
    assert rows_independent(zoo_graph(network))


@pytest.mark.parametrize("module", [Centred(), Leaking(), Ranked(), BatchStatistics()])
def test_rows_that_change_one_another_are_found(module):
    assert not rows_independent(graph_of(module, 4))


def test_whole_numbers_that_change_one_another_are_found():
    assert not rows_independent(graph_of(CountedWords(), 6, dtype=torch.int64))


def test_instance_norm_is_not_taken_for_batch_norm():
    assert rows_independent(graph_of(nn.InstanceNorm2d(3), 3, 4, 4))


def test_the_same_seed_gives_the_same_verdict_and_nothing_global_is_drawn_from():
    graph = graph_of(Centred(), 4)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    verdicts = {rows_independent(graph, seed=5) for _ in range(3)}

    assert verdicts == {False}
    assert torch.equal(torch.rand(1), expected)


def test_not_a_number_alone_and_together_is_the_same_answer():
    class Guarded(nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, torch.nan)

    assert rows_independent(graph_of(Guarded(), 4))


def test_a_model_that_cannot_run_on_random_rows_counts_as_dependent():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def forward(self, ids):
            return self.table(ids - 100)

    module = Shifted()
    example = torch.full((2, 3), 101)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},))

    assert not rows_independent(Graph.from_program(program))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_want_of_memory_says_nothing_of_the_rows(monkeypatch, error):
    graph = graph_of(Centred(), 4)

    def lacking(*rows):
        raise error

    monkeypatch.setattr(graph, "_run", lacking)

    with pytest.raises(type(error)) as caught:
        rows_independent(graph)
    assert caught.value is error


def test_a_graph_that_fails_on_random_rows_is_taken_to_be_dependent(monkeypatch):
    graph = graph_of(Centred(), 4)

    def failing(*rows):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(graph, "_run", failing)

    assert not rows_independent(graph)
