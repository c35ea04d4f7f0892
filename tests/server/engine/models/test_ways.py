"""Which values lie on the ways from some to others: by listing every way of small random graphs."""

import random
from types import SimpleNamespace

import pytest
import torch
from pellucid_server.engine.models.graph.ways import Ways
from pellucid_server.engine.operations.networks import GraphNetwork
from pellucid_server.errors import InvalidRequestError, NotFoundError
from server.engine.models.networks import zoo_graph
from torch import fx


def random_graph(source, size):
    """Return a graph of sums, each of one or two values before it."""
    graph = fx.Graph()
    nodes = [graph.placeholder("x")]
    for _ in range(size):
        chosen = source.sample(nodes, min(len(nodes), source.choice([1, 2, 2])))
        nodes.append(graph.call_function(torch.add, tuple(chosen)))
    graph.output(nodes[-1])
    for node in nodes:
        node.meta["val"] = torch.zeros(1)
    return graph, nodes[1:]


def listed(start, end):
    """Return every way from a value to another, as the values on it."""
    if start is end:
        return [[end]]
    return [[start, *way] for user in start.users if user.op == "call_function" for way in listed(user, end)]


@pytest.mark.parametrize("seed", range(40))
def test_ways_are_those_that_listing_finds(seed):
    source = random.Random(seed)
    graph, nodes = random_graph(source, 9)
    starts = set(source.sample(nodes[:4], source.choice([1, 2])))
    ends = set(source.sample(nodes[4:], source.choice([1, 2]))) | {nodes[-1]}

    found = Ways(graph, starts, ends)

    ways = {end: [way for start in starts for way in listed(start, end)] for end in ends}
    on_way = {node for each in ways.values() for way in each for node in way} - starts - ends
    needed = {node for node in on_way if any(each and all(node in way for way in each) for each in ways.values())}
    assert found.between == on_way
    assert found.avoidable == on_way - needed
    assert found.reached == all(ways.values())

    held = set(source.sample(sorted(on_way, key=nodes.index), source.randint(0, len(on_way))))
    kept = found.screening(held)
    assert kept <= held
    # Whatever way leads through a value that need not be held leads through one that is.
    for each in ways.values():
        for way in each:
            assert (held & set(way) != set()) == (kept & set(way) != set())


def test_a_size_carries_no_change():
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_function(torch.relu, (x,))
    size = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
    last = graph.call_function(torch.add, (x, size))
    graph.output(last)
    for node, value in ((x, torch.zeros(2)), (first, torch.zeros(2)), (size, 2), (last, torch.zeros(2))):
        node.meta["val"] = value

    assert not Ways(graph, {first}, {last}).reached


@pytest.mark.parametrize(
    ("name", "sender", "receivers", "held"),
    [
        ("residual", "blocks.0", (), ("blocks.1:branch", "blocks.1.norm#1")),
        ("residual", "blocks.0", ("blocks.1.conv",), ()),
        ("encoder", "layers.0.attention.out", ("layers.1.mlp.0",), ("layers.0:branch", "layers.1.attention.out")),
        ("encoder", "layers.0.mlp.2", (), ("layers.1.attention.out", "layers.1:branch")),
        ("convolutional", "conv1", (), ()),
    ],
)
def test_what_is_held_in_networks_of_the_zoo_leaves_the_stream(name, sender, receivers, held):
    graph = zoo_graph(name)

    found = GraphNetwork(graph).beside((sender,), receivers, graph.outputs[0].name)

    assert {graph.value_of(each) for each in found} == {graph.value_of(each) for each in held}


def test_names_patterns_and_parts_are_found_and_a_wrong_one_gets_near_names():
    network = GraphNetwork(zoo_graph("encoder"))

    assert network.find("layers.?.norm1,head", "x") == ("layers.0.norm1", "layers.1.norm1", "head")
    assert network.find("*:branch", "x") == ("layers.0:branch", "layers.1:branch")
    with pytest.raises(NotFoundError, match=r"x has 'layers.0.norm9'.*'layers.0.norm"):
        network.find("layers.0.norm9", "x")
    with pytest.raises(InvalidRequestError, match="names no layer"):
        network.find(",", "x")
    with pytest.raises(InvalidRequestError, match="axis 0"):
        GraphNetwork(zoo_graph("torch-encoder-length-first")).find("encoder", "x")


def test_the_innermost_layers_of_repeated_calls_are_told_by_their_path():
    layers = dict.fromkeys(["a", "a.b", "a#1", "a.b#1", "ab"])
    network = GraphNetwork(SimpleNamespace(layers=layers))

    assert network._innermost() == {"a.b", "a.b#1", "ab"}
