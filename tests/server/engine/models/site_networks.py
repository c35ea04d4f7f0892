"""Networks with attention and residual blocks, each written in one of the ways in which people write them."""

import math
from functools import cache

import torch
from pellucid_server.engine.models.graph.graph import Graph
from torch import nn
from torch.export import Dim
from torch.nn import functional

HEADS, WIDTH = 4, 2


class Projected(nn.Module):
    """Attention of 4 query heads of width 2 with projections of its own; how it is computed is the subclass's."""

    groups = HEADS

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 8)
        self.key, self.value = (nn.Linear(8, WIDTH * self.groups) for _ in range(2))

    def forward(self, x):
        heads = [
            linear(x).view(*x.shape[:2], -1, WIDTH).transpose(1, 2) for linear in (self.query, self.key, self.value)
        ]
        return self.out(self.attend(*heads).transpose(1, 2).reshape(*x.shape[:2], 8))

    def attend(self, query, key, value):
        return functional.scaled_dot_product_attention(query, key, value)


def weights(query, key):
    return functional.dropout((query @ key.transpose(-1, -2) / math.sqrt(WIDTH)).softmax(-1), 0.1, training=False)


class ByMatmul(Projected):
    def attend(self, query, key, value):
        return weights(query, key) @ value


class ByEinsum(Projected):
    def attend(self, query, key, value):
        return torch.einsum("bhij,bhjd->bhid", weights(query, key), value)


class ByBmm(Projected):
    """Batch and heads on one axis."""

    def attend(self, query, key, value):
        folded = [each.reshape(-1, *each.shape[2:]) for each in (query, key, value)]
        mixed = torch.bmm(weights(folded[0], folded[1]), folded[2])
        return mixed.view(-1, HEADS, *mixed.shape[1:])


class Grouped(Projected):
    groups = 2

    def attend(self, query, key, value):
        return functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)


class Repeated(Projected):
    groups = 2

    def attend(self, query, key, value):
        key, value = (each.repeat_interleave(2, 1) for each in (key, value))
        return weights(query, key) @ value


class InGroups(Projected):
    """Groups of query heads on an axis of their own."""

    groups = 2

    def attend(self, query, key, value):
        query = query.unflatten(1, (2, 2))
        return (weights(query, key.unsqueeze(2)) @ value.unsqueeze(2)).flatten(1, 2)


class LastAxes(Projected):
    """Groups and heads stay apart up to the projection."""

    groups = 2

    def attend(self, query, key, value):
        mixed = weights(query.unflatten(1, (2, 2)), key.unsqueeze(2)) @ value.unsqueeze(2)
        return mixed.permute(0, 3, 1, 2, 4).reshape(mixed.shape[0], mixed.shape[3], 8)

    def forward(self, x):
        heads = [
            linear(x).view(*x.shape[:2], -1, WIDTH).transpose(1, 2) for linear in (self.query, self.key, self.value)
        ]
        return self.out(self.attend(*heads))


class HeadsFirst(Projected):
    """Heads outside the batch on one axis: places of a row do not follow one another."""

    def forward(self, x):
        heads = [torch.cat(linear(x).split(WIDTH, 2), 0) for linear in (self.query, self.key, self.value)]
        mixed = torch.bmm(weights(heads[0], heads[1]), heads[2])
        return self.out(torch.cat(mixed.chunk(HEADS, 0), 2))


class Torch(nn.Module):
    """torch's own attention, of 4 heads of width 2."""

    def __init__(self, *, need_weights: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, HEADS, batch_first=batch_first)
        self.need_weights, self.batch_first = need_weights, batch_first

    @property
    def out(self):
        return self.inner.out_proj

    def forward(self, x):
        if not self.batch_first:
            x = x.transpose(0, 1)
        x = self.inner(x, x, x, need_weights=self.need_weights)[0]
        return x if self.batch_first else x.transpose(0, 1)


class Attending(nn.Module):
    """A stream of 5 places of 8 features, to which an attention is added, and a head."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm, self.attention, self.head = nn.LayerNorm(8), attention, nn.Linear(8, 3)

    def forward(self, x):
        return self.head((x + self.attention(self.norm(x))).mean(1))


ATTENTIONS = {
    "sdpa": (Projected, "attention"),
    "matmul": (ByMatmul, "attention"),
    "einsum": (ByEinsum, "attention"),
    "bmm": (ByBmm, "attention"),
    "grouped": (Grouped, "attention"),
    "repeated": (Repeated, "attention"),
    "in-groups": (InGroups, "attention"),
    "last-axes": (LastAxes, "attention"),
    "torch": (lambda: Torch(need_weights=False), "attention.inner"),
    "torch-weights": (lambda: Torch(need_weights=True), "attention.inner"),
    "torch-length-first": (lambda: Torch(need_weights=False, batch_first=False), "attention.inner"),
    "torch-length-first-weights": (lambda: Torch(need_weights=True, batch_first=False), "attention.inner"),
}
"""Attentions, and the name of the layer whose heads they are."""


@cache
def attending(name: str) -> nn.Module:
    """Return the network with one of `ATTENTIONS`, one for the whole test run."""
    torch.manual_seed(3)
    return Attending(ATTENTIONS[name][0]()).eval()


@cache
def attending_graph(name: str) -> Graph:
    """Return the graph of `attending`."""
    return graph_of(attending(name), torch.randn(2, 5, 8))


def graph_of(module: nn.Module, *rows: torch.Tensor) -> Graph:
    """Export a module and make its graph."""
    shapes = tuple({0: Dim.DYNAMIC} for _ in rows)
    return Graph.from_program(torch.export.export(module.eval(), rows, dynamic_shapes=shapes))


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, taken: int, made: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(taken, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(made, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)
        self.downsample = None
        if taken != made:
            self.downsample = nn.Sequential(nn.Conv2d(taken, made, 1, bias=False), nn.BatchNorm2d(made))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        identity = x if self.downsample is None else self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Two stages of blocks, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.stage1, self.stage2 = nn.Sequential(Block(3, 3), Block(3, 4)), nn.Sequential(Block(4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stage2(self.stage2(self.stage1(self.stem(x))))
        return self.head(x.mean((2, 3)))


@cache
def resnet() -> nn.Module:
    """Return a residual network whose batch norms have statistics, one for the whole test run."""
    torch.manual_seed(4)
    module = ResNet()
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return module.eval()


@cache
def resnet_graph() -> Graph:
    """Return the graph of `resnet`."""
    return graph_of(resnet(), torch.randn(2, 2, 6, 6))
