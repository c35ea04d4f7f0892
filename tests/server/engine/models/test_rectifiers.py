"""Which values a rectifier makes of which."""

import pytest
import torch
from pellucid_server.engine.models.graph.graph import Graph
from torch import nn
from torch.export import Dim


class Behind(nn.Module):
    """A linear operator, and behind it what the test is about."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 40)
        self.part = part
        self.head = nn.Linear(40, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(self.linear(x)))


class Clamp(nn.Module):
    def __init__(self, *bounds: float, **more: float) -> None:
        super().__init__()
        self.bounds, self.more = bounds, more

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x, *self.bounds, **self.more)


def graph_of(part):
    rows = torch.ones(2, 3)
    return Graph.from_program(torch.export.export(Behind(part).eval(), (rows,), dynamic_shapes={"x": {0: Dim.DYNAMIC}}))


@pytest.mark.parametrize(
    "part",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0.0, 1.0), Clamp(0.0), Clamp(0.0, 2.0), Clamp(min=0)],
    ids=str,
)
def test_the_value_before_a_rectifier_is_what_it_was_given(part):
    graph, rows = graph_of(part), {"x": torch.randn(4, 3)}

    before = graph.up_to("part", rectified=False)(rows)

    torch.testing.assert_close(before, graph.up_to("linear")(rows))
    assert (before < 0).any()
    assert (graph.up_to("part")(rows) >= 0).all()


@pytest.mark.parametrize(
    "part", [nn.SiLU(), nn.Tanh(), nn.Hardtanh(), Clamp(-1.0, 1.0), Clamp(max=0.0), nn.LeakyReLU()], ids=str
)
def test_what_is_no_rectifier_is_left_as_it_is(part):
    graph, rows = graph_of(part), {"x": torch.randn(4, 3)}

    torch.testing.assert_close(graph.up_to("part", rectified=False)(rows), graph.up_to("part")(rows))


def test_the_sum_before_a_rectifier_has_a_gradient_where_all_is_off():
    graph = graph_of(nn.ReLU())
    rows = {"x": torch.randn(2, 3, requires_grad=True)}
    value = graph.up_to("part", rectified=False)(rows)

    (gradient,) = torch.autograd.grad(value.sum(), rows["x"])

    expected = torch.autograd.grad(graph.up_to("linear")(rows).sum(), rows["x"])[0]
    torch.testing.assert_close(gradient, expected)


class Pooled(nn.Module):
    """A rectifier that is pooled, by `pool`, and looked at in another form."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 4, 3)
        self.pool = pool
        self.flat = nn.Flatten()
        self.head = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(self.pool(torch.relu(self.conv(x)))))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)], ids=str)
def test_a_rectifier_that_is_pooled_is_left_out_before_the_pool(pool):
    module, rows = Pooled(pool).eval(), torch.randn(2, 1, 8, 8)
    module(rows)
    graph = Graph.from_program(torch.export.export(module, (rows,), dynamic_shapes={"x": {0: Dim.DYNAMIC}}))

    for layer, form in (("pool", lambda each: each), ("flat", lambda each: each.flatten(1))):
        torch.testing.assert_close(graph.up_to(layer, rectified=False)({"x": rows}), form(pool(module.conv(rows))))
        torch.testing.assert_close(graph.up_to(layer)({"x": rows}), form(pool(torch.relu(module.conv(rows)))))
