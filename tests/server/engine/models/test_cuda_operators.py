"""Care on CUDA, tried on the CPU: which places are compared with which lengths, and that a graph's operators do it."""

import pytest
import torch
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.operators import cuda_operators
from pellucid_server.engine.models.operators.cuda_operators import indices, require_within
from server.engine.models.networks import zoo_program, zoo_rows

aten = torch.ops.aten
PLACES = torch.tensor([0, 1])
MASK = torch.ones(3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("operator", "args", "bounds"),
    [
        (aten.embedding, (torch.zeros(7, 2), PLACES), [(0, 6)]),
        (aten.index_select, (torch.zeros(3, 5), 1, PLACES), [(0, 4)]),
        (aten.gather, (torch.zeros(3, 5), -1, PLACES), [(0, 4)]),
        (aten.scatter_add, (torch.zeros(3, 5), 0, PLACES, PLACES), [(0, 2)]),
        (aten.index, (torch.zeros(3, 5, 4), [None, PLACES, PLACES]), [(-5, 4), (-4, 3)]),
        (aten.index, (torch.zeros(3, 5, 4), [MASK, PLACES]), [(-5, 4)]),
        (aten.take, (torch.zeros(3, 5), PLACES), [(-15, 14)]),
        (aten.one_hot, (PLACES, 4), [(0, 3)]),
        (aten.one_hot, (PLACES, -1), []),
    ],
)
def test_places_are_compared_with_the_length_of_what_they_are_on(operator, args, bounds):
    assert [(least, most) for _, least, most in indices(operator, args)] == bounds


@pytest.mark.parametrize(("least", "most"), [(1, 5), (0, 3), (-1, 3)])
def test_a_place_beyond_is_refused_in_the_words_of_the_cpu(least, most):
    places = torch.tensor([[0, 4], [2, 3]])
    require_within(places, 0, 4)

    with pytest.raises(IndexError, match="index out of range in self"):
        require_within(places, least, most)


def test_no_places_are_nowhere():
    require_within(torch.zeros(0, dtype=torch.int64), 0, -1)


def test_the_lookups_of_a_served_graph_are_compared_on_cuda_alone(monkeypatch):
    compared = []
    monkeypatch.setattr(cuda_operators, "require_within", lambda *bounds: compared.append(bounds[1:]))
    graph = Graph.from_program(zoo_program("tokens"))
    rows = zoo_rows("tokens", 2, 5)
    with torch.no_grad():
        expected = graph(rows)["output"]
        assert not compared

        monkeypatch.setattr(cuda_operators, "on_cuda", lambda tensor: True)

        assert torch.equal(graph(rows)["output"], expected)
    assert (0, 19) in compared


def test_a_recurrent_network_has_no_cudnn_where_gradients_are_taken_on_cuda(monkeypatch):
    seen = []
    flags = torch.backends.cudnn.flags

    def noted(*args, **kwargs):
        seen.append(kwargs["enabled"])
        return flags(*args, **kwargs)

    monkeypatch.setattr(torch.backends.cudnn, "flags", noted)
    monkeypatch.setattr(cuda_operators, "on_cuda", lambda tensor: True)
    graph = Graph.from_program(zoo_program("recurrent"))
    rows = zoo_rows("recurrent", 2, 5)
    with torch.no_grad():
        graph(rows)
    assert seen == []

    leaf = rows["series"].requires_grad_()
    torch.autograd.grad(graph({"series": leaf})["output"].sum(), leaf)

    assert seen == [False]
