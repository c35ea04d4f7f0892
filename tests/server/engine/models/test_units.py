"""Suffixes by unit, held to networks run whole with that unit changed, in float64 where rounding counts."""

from functools import cache

import numpy as np
import pytest
import torch
from pellucid_server.engine.models.graph.graph import Graph
from server.engine.models.networks import CUTS, zoo_graph, zoo_rows
from torch import nn
from torch.export import Dim

CHANNELS, LENGTH = 6, 9


class Picture(nn.Module):
    """A value, and one operator that reads it."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.site = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.reader = reader

    def forward(self, x):
        return torch.relu(self.reader(self.site(x))).mean((2, 3))


class Sequence(Picture):
    def __init__(self, reader: nn.Module) -> None:
        super().__init__(reader)
        self.site = nn.Conv1d(3, CHANNELS, 1)

    def forward(self, x):
        return torch.relu(self.reader(self.site(x[:, :, 0]))).mean(2)


class Features(Picture):
    """A value whose units are on its last axis."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__(reader)
        self.site = nn.Linear(LENGTH, CHANNELS)

    def forward(self, x):
        return torch.relu(self.reader(self.site(x))).mean((1, 2))


class Residual(Picture):
    """A value that a sum reads, too, and a mean."""

    def forward(self, x):
        value = self.site(x)
        return (value + torch.relu(self.reader(value))).mean((2, 3)) * value.mean((1, 2, 3))[:, None]


class Returned(Picture):
    """A value that is an output itself."""

    def forward(self, x):
        value = self.site(x)
        return value, torch.relu(self.reader(value)).mean((2, 3))


class Attention(nn.Module):
    """A value that three operators read."""

    def __init__(self) -> None:
        super().__init__()
        self.site = nn.Linear(LENGTH, CHANNELS)
        self.readers = nn.ModuleList(nn.Linear(CHANNELS, CHANNELS, bias=number > 0) for number in range(3))

    def forward(self, x):
        value = self.site(x[:, 0])
        query, key, values = (reader(value) for reader in self.readers)
        return (torch.softmax(query @ key.transpose(1, 2), -1) @ values).mean(1)


READERS = {
    "pointwise": lambda: Picture(nn.Conv2d(CHANNELS, 8, 1)),
    "pointwise-without-bias": lambda: Picture(nn.Conv2d(CHANNELS, 8, 1, bias=False)),
    "window": lambda: Picture(nn.Conv2d(CHANNELS, 8, 3, padding=1)),
    "stride": lambda: Picture(nn.Conv2d(CHANNELS, 8, 3, stride=2, padding=1)),
    "pointwise-stride": lambda: Picture(nn.Conv2d(CHANNELS, 8, 1, stride=2)),
    "pointwise-padding": lambda: Picture(nn.Conv2d(CHANNELS, 8, 1, padding=1)),
    "dilation": lambda: Picture(nn.Conv2d(CHANNELS, 8, 3, padding=2, dilation=2)),
    "oblong": lambda: Picture(nn.Conv2d(CHANNELS, 8, (1, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2))),
    "one-channel-out": lambda: Picture(nn.Conv2d(CHANNELS, 1, 3)),
    "sequence": lambda: Sequence(nn.Conv1d(CHANNELS, 8, 3, stride=2, padding=1)),
    "sequence-pointwise": lambda: Sequence(nn.Conv1d(CHANNELS, 8, 1)),
    "features": lambda: Features(nn.Linear(CHANNELS, 8)),
    "residual": lambda: Residual(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)),
    "returned": lambda: Returned(nn.Conv2d(CHANNELS, 8, 1)),
    "attention": Attention,
}
NO_READERS = {
    "grouped": lambda: Picture(nn.Conv2d(CHANNELS, 8, 3, groups=2)),
    "depthwise": lambda: Picture(nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS)),
    "transposed": lambda: Picture(nn.ConvTranspose2d(CHANNELS, 8, 3)),
    "other-axis": lambda: Picture(nn.Linear(LENGTH, LENGTH)),
    "activation": lambda: Picture(nn.ReLU()),
    "same-padding": lambda: Picture(nn.Conv2d(CHANNELS, 8, 3, padding="same")),
}


@cache
def made(name):
    torch.manual_seed(7)
    module = (READERS | NO_READERS)[name]().eval()
    rows = torch.randn(2, 3, LENGTH, LENGTH)
    return module, torch.export.export(module, (rows,), dynamic_shapes=({0: Dim.DYNAMIC},))


def graphs(name):
    graph = Graph.from_program(made(name)[1])
    return [each for each in (graph, graph.faster()) if each is not None and "site" in each.sites]


def rows_of(name, count=3):
    return {"x": torch.from_numpy(np.random.default_rng(3).normal(size=(count, 3, LENGTH, LENGTH)).astype(np.float32))}


def by_hand(name, rows, unit, values):
    """Run the eager network in float64 with one unit of the site set, for one row; return its outputs."""
    module, last = made(name)[0].double(), isinstance(made(name)[0].site, nn.Linear)

    def change(_, __, value):
        value = value.clone()
        value.movedim(-1 if last else 1, 1)[:, unit] = values.double()
        return value

    hook = module.site.register_forward_hook(change)
    with torch.no_grad():
        found = module(rows["x"].double())
    hook.remove()
    module.float()
    return found if isinstance(found, tuple) else (found,)


def unit_axis(graph, layer="site"):
    return graph.sites[layer].unit_axis + 1


@pytest.mark.parametrize("name", READERS)
def test_a_unit_changed_behind_its_reader_is_the_network_with_that_unit_changed(name):
    rows = rows_of(name)
    for graph in graphs(name):
        assert graph.by_unit("site")
        context = graph.prefixes(("site",), frozenset({"site"}))(rows)["site"]
        own = context.value.movedim(unit_axis(graph), 1)
        index = torch.tensor([2, 0, 1, 1, 0, 2])
        units = torch.tensor([0, 1, 2, 3, 4, 5])
        values = torch.randn(own[index, units].shape, generator=torch.Generator().manual_seed(5))
        values[0] = 0

        found = graph.unit_suffix("site")(units, values, context, index)

        for number in range(6):
            picked = {"x": rows["x"][index[number]][None]}
            expected = by_hand(name, picked, int(units[number]), values[number][None])
            for each, truth in zip(found.values(), expected, strict=True):
                torch.testing.assert_close(each[number].double(), truth[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", READERS)
def test_one_held_row_serves_any_number_of_changed_ones(name):
    rows = rows_of(name, 1)
    for graph in graphs(name):
        context = graph.prefixes(("site",), frozenset({"site"}))(rows)["site"]
        units = torch.arange(5)
        values = torch.zeros(context.value.movedim(unit_axis(graph), 1)[0, units].shape)

        found = graph.unit_suffix("site")(units, values, context)

        for number in range(5):
            expected = by_hand(name, rows, number, values[number][None])
            for each, truth in zip(found.values(), expected, strict=True):
                torch.testing.assert_close(each[number].double(), truth[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NO_READERS)
def test_where_no_linear_operator_adds_up_over_the_units_there_is_no_suffix_by_unit(name):
    for graph in graphs(name):
        assert not graph.by_unit("site")
        with pytest.raises(ValueError, match="no linear operator reads"):
            graph.unit_suffix("site")


@pytest.mark.parametrize(("network", "layer"), CUTS)
def test_at_every_cut_a_suffix_by_unit_is_the_suffix_of_the_whole_value(network, layer):
    graph, rows = zoo_graph(network), zoo_rows(network, 2, 5)
    if not graph.by_unit(layer):
        return
    context = graph.prefixes((layer,), frozenset({layer}))(rows)[layer]
    axis = unit_axis(graph, layer)
    count = context.value.shape[axis]
    units, index = torch.arange(count).repeat(2), torch.arange(2).repeat_interleave(count)
    own = context.value.movedim(axis, 1)[index, units]
    values = own + torch.randn(own.shape, generator=torch.Generator().manual_seed(11))
    whole = context.value.index_select(0, index)
    whole.movedim(axis, 1)[torch.arange(2 * count), units] = values

    found = graph.unit_suffix(layer)(units, values, context, index)

    expected = graph.suffix(layer)(whole, context, index)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_enough_cuts_of_the_zoo_have_a_suffix_by_unit():
    assert sum(zoo_graph(network).by_unit(layer) for network, layer in CUTS) >= 20


@pytest.mark.parametrize("name", ["pointwise", "stride", "features", "residual", "attention"])
@pytest.mark.parametrize("size", [1e6, 1e30, float("inf"), float("nan")])
def test_switching_off_a_unit_that_outweighs_all_others_keeps_every_digit(name, size):
    rows = rows_of(name, 1)
    for graph in graphs(name):
        before = graph.prefixes(("site",), frozenset({"site"}))
        context = before(rows)["site"]
        axis = unit_axis(graph)
        # The unit is made huge where the operators read it: as if the part before had given it.
        context.value.movedim(axis, 1)[:, 2] = size
        operators = [tap.whole(context.value) for tap in graph.unit_suffix("site")._taps]
        huge = type(context)(context.value, context.rows, context.shared, tuple(operators))
        units = torch.tensor([2, 1])
        values = torch.zeros(context.value.movedim(axis, 1)[0, units].shape)

        found = graph.unit_suffix("site")(units, values, huge)

        expected = by_hand(name, rows, 2, values[:1])
        for each, truth in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(each[0].double(), truth[0], rtol=1e-5, atol=1e-5)


def test_an_unchanged_unit_changes_no_bit():
    for graph in graphs("stride"):
        rows = rows_of("stride", 1)
        context = graph.prefixes(("site",), frozenset({"site"}))(rows)["site"]
        units = torch.arange(CHANNELS)
        suffix = graph.unit_suffix("site")

        entering = suffix._entering(units, context.value[0, units], context, None)

        assert all(torch.equal(each, context.tapped[0][0]) for each in entering[0])


def test_rows_do_not_depend_on_their_neighbours():
    for name in ("pointwise", "stride", "residual"):
        for graph in graphs(name):
            rows = rows_of(name)
            context = graph.prefixes(("site",), frozenset({"site"}))(rows)["site"]
            units, index = torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2])
            values = torch.randn(context.value[index, units].shape, generator=torch.Generator().manual_seed(2))
            suffix = graph.unit_suffix("site")
            alone = suffix._entering(units[:2], values[:2], context, index[:2])
            values[4] = float("nan")

            together = suffix._entering(units, values, context, index)

            for each, other in zip(alone, together, strict=True):
                torch.testing.assert_close(each, other[:2], rtol=1e-6, atol=1e-6)
                assert torch.isnan(other[4]).any()
                assert not torch.isnan(other[5]).any()
