"""How long open axes may be: what an export says of them, against what running the model shows."""

import re

import numpy as np
import pytest
import torch
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.graph.lengths import FIXED, Lengths, Range, Size, names_a_length
from pellucid_server.engine.models.loading.trial import TrialError, graph_run, narrowed_lengths, run_batches, trial_rows
from pellucid_server.engine.models.onnx.onnx_model import Value
from pellucid_server.errors import InvalidRequestError
from torch import nn
from torch.export import Dim


class Positions(nn.Module):
    """A sequence of at most 16, each with the values of its place, and a mask as long."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.arange(16.0))

    def forward(self, series, mask):
        return ((series + self.places[: series.shape[1]]) * mask).sum(1)


class Convolved(nn.Module):
    """Needs at least as many on its axis as the kernel has."""

    def __init__(self, kernel=5):
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, kernel)

    def forward(self, series):
        return self.convolution(series.unsqueeze(1)).mean((1, 2))


class Differences(nn.Module):
    """Takes one more of the first than of the second."""

    def forward(self, edges, widths):
        return (edges.diff(dim=1) * widths).sum(1)


class Pairs(nn.Module):
    """Takes a beginning and an end for each of what it takes."""

    def forward(self, ends, weights):
        return (ends[:, : weights.shape[1]] * weights + ends[:, weights.shape[1] :]).sum(1)


class Windows(nn.Module):
    """Takes multiples of 4, of which an export knows nothing."""

    def forward(self, series):
        return series.reshape(series.shape[0], -1, 4).amax(2).sum(1)


class Spaced(nn.Module):
    """Computes with its length, which `least` is too short for: an export knows nothing of that."""

    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, series):
        return (series * (1.0 / (series.shape[1] - self.least))).sum(1)


def graph(module, *lengths, shapes=None):
    rows = tuple(torch.randn(2, length) for length in lengths)
    shapes = shapes or [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}] * len(rows)
    return Graph.from_program(torch.export.export(module.eval(), rows, dynamic_shapes=shapes))


def positions():
    return graph(Positions(), 4, 4)


def pairs():
    count = Dim("count", max=6)
    return graph(Pairs(), 8, 4, shapes=[{0: Dim("rows"), 1: 2 * count}, {0: Dim("rows"), 1: count}])


def shapes_of(model, *lengths):
    return {value.name: (length,) for value, length in zip(model.inputs, lengths, strict=True)}


def run(model, *lengths):
    return model({name: torch.randn(3, *shape) for name, shape in shapes_of(model, *lengths).items()})


FITTING = [
    (positions, (16, 16)),
    (positions, (2, 2)),
    (lambda: graph(Convolved(), 9), (5,)),
    (lambda: graph(Convolved(), 9), (200,)),
    (lambda: graph(Differences(), 5, 4), (9, 8)),
    (pairs, (12, 6)),
]
UNFIT = [
    (positions, (17, 17), 'inputs["series"] has the length 17 on axis 1; the model takes 2 to 16 there.'),
    (
        positions,
        (4, 5),
        'inputs["mask"] has the length 5 on axis 1; it must be 4 there, to go with inputs["series"] on axis 1.',
    ),
    (
        lambda: graph(Convolved(), 9),
        (4,),
        'inputs["series"] has the length 4 on axis 1; the model takes 5 or more there.',
    ),
    (
        lambda: graph(Differences(), 5, 4),
        (9, 9),
        'inputs["widths"] has the length 9 on axis 1; it must be 8 there, to go with inputs["edges"] on axis 1.',
    ),
    (pairs, (5, 2), 'inputs["ends"] has the length 5 on axis 1; the model takes 2 to 12, in steps of 2, there.'),
    (
        pairs,
        (8, 5),
        'inputs["weights"] has the length 5 on axis 1; it must be 4 there, to go with inputs["ends"] on axis 1.',
    ),
]


@pytest.mark.parametrize(("make", "lengths"), FITTING)
def test_lengths_that_run_are_taken(make, lengths):
    model = make()

    model.lengths.require(shapes_of(model, *lengths), "inputs")
    run(model, *lengths)


@pytest.mark.parametrize(("make", "lengths", "message"), UNFIT)
def test_lengths_that_do_not_run_are_refused_with_what_would_be_right(make, lengths, message):
    model = make()

    with pytest.raises(InvalidRequestError) as caught:
        model.lengths.require(shapes_of(model, *lengths), "inputs")

    assert caught.value.message == message
    assert caught.value.metadata == {"field": message.partition(" ")[0]}
    with pytest.raises(InvalidRequestError, match="The model cannot be run on rows of these shapes"):
        run(model, *lengths)


@pytest.mark.parametrize(
    ("module", "length"), [(Windows(), 6), (Spaced(least=6), 6)], ids=["shapes", "numbers made of them"]
)
def test_a_length_of_which_the_export_knows_nothing_is_the_callers_mistake_when_it_runs(module, length):
    model = graph(module, 8)
    model.lengths.require({"series": (length,)}, "inputs")
    run(model, 12)

    with pytest.raises(
        InvalidRequestError, match=re.escape(f"series ({length}); send rows of lengths that it takes")
    ) as caught:
        run(model, length)

    assert caught.value.metadata == {"field": "inputs"}


def test_why_the_rows_that_a_model_is_tried_with_do_not_go_is_told():
    model = graph(Windows(), 8)
    rows = trial_rows(values(model), {}, model.lengths)

    with pytest.raises(TrialError, match=re.escape("'[1, -1, 4]' is invalid for input of size 5); if these are")):
        run_batches(graph_run(model), rows, ())


def test_a_model_without_open_lengths_fails_as_it_fails():
    model = graph(Windows(), 8, shapes=[{0: Dim.DYNAMIC}])

    with pytest.raises(RuntimeError, match="invalid for input of size"):
        run(model, 6)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate a size of 8 bytes"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_what_is_not_of_shapes_is_no_mistake_of_the_callers(error):
    assert not names_a_length(error)


def values(model):
    return tuple(Value(value.name, np.dtype(np.float32), value.shape) for value in model.inputs)


@pytest.mark.parametrize(
    ("make", "lengths"),
    [
        (positions, (5, 5)),
        (lambda: graph(Convolved(), 9), (5,)),
        (lambda: graph(Differences(), 5, 4), (6, 5)),
        (pairs, (10, 5)),
        (lambda: graph(Convolved(), 48, shapes=[{0: Dim("rows"), 1: Dim("length", min=40)}]), (40,)),
    ],
)
def test_rows_to_try_a_model_with_are_of_lengths_that_it_takes(make, lengths):
    model = make()

    rows = trial_rows(values(model), {}, model.lengths)

    assert {name: array.shape for name, array in rows.items()} == {
        name: (3, *shape) for name, shape in shapes_of(model, *lengths).items()
    }
    graph_run(model)(rows)


@pytest.mark.parametrize(
    ("make", "lowest"), [(positions, 1), (lambda: graph(Differences(), 5, 4), 1), (lambda: graph(Convolved(), 9), 5)]
)
def test_a_length_of_one_is_taken_where_the_model_runs_with_it(make, lowest):
    model = make()
    rows = trial_rows(values(model), {}, model.lengths)

    found = narrowed_lengths([graph_run(model)], rows, model.lengths)

    assert [known.lowest for known in found.ranges.values()] == [lowest]
    assert [known.highest for known in found.ranges.values()] == [
        known.highest for known in model.lengths.ranges.values()
    ]


@pytest.mark.parametrize("module", [Convolved(kernel=2), Spaced(least=1)], ids=["shapes", "numbers made of them"])
def test_a_length_of_one_is_refused_where_the_model_does_not_run_with_it(module):
    model = graph(module, 8)
    rows = trial_rows(values(model), {}, model.lengths)

    found = narrowed_lengths([graph_run(model)], rows, model.lengths)

    assert [known.lowest for known in found.ranges.values()] == [2]


def test_a_size_at_which_an_axis_has_no_length_is_not_tried():
    known, tried = Lengths({"x": (Size("length", more=-1),)}, {"length": Range(2)}), []

    found = narrowed_lengths([tried.append], {"x": np.zeros((3, 4))}, known)

    assert (found, tried) == (known, [])


def test_axes_of_one_name_are_one_length_without_a_range():
    known = Lengths({"x": (Size("length"), None), "y": (Size("length"),)}, {})

    known.require({"x": (7, 3), "y": (7,)}, "inputs")
    with pytest.raises(InvalidRequestError, match=r'inputs\["y"\] has the length 6 on axis 1; it must be 7 there'):
        known.require({"x": (7, 3), "y": (6,)}, "inputs")


def test_where_nothing_is_known_nothing_is_refused():
    FIXED.require({"x": (1, 2, 3)}, "inputs")

    assert FIXED.usual("x", (None, 3)) == (5, 3)


@pytest.mark.parametrize(("known", "inside", "outside"), [(Range(2, 4), (2, 4), (1, 5)), (Range(3), (3, 10**9), (2,))])
def test_a_range_holds_its_ends(known, inside, outside):
    assert all(size in known for size in inside)
    assert not any(size in known for size in outside)
