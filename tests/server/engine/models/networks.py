"""The zoo: small networks with random weights, each with a trap, as a user would write and export them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from pellucid_server.engine.models.graph.graph import Graph
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

DYNAMIC = Dim.DYNAMIC

Rows = dict[str, torch.Tensor]


class Convolutional(nn.Module):
    """In-place, functional and reused activations behind batch norms; a flatten behind an in-place change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(36, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.relu(self.norm1(self.conv1(image)))
        hidden = self.relu(self.norm2(self.conv2(hidden)))
        hidden = F.relu_(self.pool(hidden) - 0.1)
        return self.head(self.drop(self.flatten(hidden)))


class Block(nn.Module):
    """A residual block with an in-place sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        changed = self.norm(self.conv(hidden))
        changed += hidden
        return F.relu(changed)


class Residual(nn.Module):
    """Residual blocks, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(3, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks[0](image)
        hidden = self.blocks[1](self.blocks[1](hidden))
        return self.head(hidden.mean((2, 3)))


class Attention(nn.Module):
    """Multi-head attention by hand around scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        mixed = self.mixed(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


class EncoderLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class Encoder(nn.Module):
    """A transformer encoder written by hand; sizes of batch and length are used as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(8), EncoderLayer(8)])
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = tokens + torch.arange(tokens.shape[1]).unsqueeze(1) * 0.1
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(1))


class TorchEncoder(nn.Module):
    """torch's own encoder: inside, the batch stands on other axes or is folded with the heads."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = tokens if self.batch_first else tokens.transpose(0, 1)
        hidden = self.encoder(hidden)
        return self.head(hidden.mean(1 if self.batch_first else 0))


class Sequence(nn.Module):
    """Makes a picture, (batch, channels, height, width), a sequence, (batch, length, channels)."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.flatten(2).transpose(1, 2)


class PartlyChanged(nn.Module):
    """A part of a value is written to, and the value then seen in two forms by two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.sequence = Sequence()
        self.first = nn.Linear(2, 3)
        self.second = nn.Linear(2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(image)
        hidden[:, 0] *= 2
        sequence = self.sequence(hidden)
        return self.first(sequence.mean(1)) + self.second(sequence.transpose(0, 1)).tanh().mean(0)


class SeveralInputs(nn.Module):
    """A picture and a table row, whose branches meet; a number for each row is added."""

    def __init__(self) -> None:
        super().__init__()
        self.image_branch = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.table_branch = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.head = nn.Linear(7, 2)

    def forward(self, image: torch.Tensor, table: torch.Tensor, *, offset: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.image_branch(image), self.table_branch(table)], 1)
        return self.head(joined) + offset[:, None]


class SeveralOutputs(nn.Module):
    """A tuple with a nested list comes out; the second head does not see the trunk's end."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 5)
        self.end = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid())
        self.first = nn.Linear(5, 3)
        self.second = nn.Linear(5, 2)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        hidden = F.relu(self.trunk(features))
        end = self.end(hidden)
        return self.first(end), [self.second(hidden), hidden.argmax(1)]


class DictOutputs(nn.Module):
    """A dictionary comes out; one of its values is the input of another module, and a reused activation."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 5)
        self.act = nn.SiLU(inplace=True)
        self.more = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        embedding = self.act(self.more(self.act(self.hidden(features))))
        return {"logits": self.head(embedding), "embedding": embedding}


class Recurrent(nn.Module):
    """An LSTM, of which both the outputs and the last state are used."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, dropout=0.2)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        outputs, (state, _) = self.lstm(series)
        return self.head(self.norm(outputs.mean(1) + state[-1]))


class Tokens(nn.Module):
    """Whole-number tokens and a mask of those that count; dynamic length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layer = EncoderLayer(8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(self.embedding(ids))
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        return self.head((hidden * weights).sum(1) / weights.sum(1).clamp(min=1))


@dataclass(frozen=True)
class Network:
    """A network of the zoo, and how to make rows for it."""

    name: str
    make: Callable[[], nn.Module]
    rows: Callable[[int, int], Rows]
    """Random rows from a batch and a length; the length is ignored where it is fixed."""
    dynamic: dict[str, dict[int, Any]]
    """The dynamic axes of each input."""
    cuts: str
    """Every layer at which the network can be cut, in the order in which they are entered."""

    def module(self) -> nn.Module:
        """Make the network with weights of its own seed, in evaluation mode, with lively running statistics."""
        torch.manual_seed(sum(map(ord, self.name)))
        module = self.make().eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean)
                nn.init.uniform_(part.running_var, 0.5, 2.0)
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
        return module

    def export(self, module: nn.Module) -> ExportedProgram:
        """Export as a user would, with a batch of 2."""
        return torch.export.export(module, (), self.rows(2, 4), dynamic_shapes=self.dynamic)


def _floats(name: str, *shape: int) -> Callable[[int, int], Rows]:
    return lambda batch, length: {name: torch.randn(batch, *shape)}


def _sequences(batch: int, length: int) -> Rows:
    return {"tokens": torch.randn(batch, length, 8)}


def _several(batch: int, length: int) -> Rows:
    return {"image": torch.randn(batch, 1, 6, 6), "table": torch.randn(batch, 5), "offset": torch.randn(batch)}


def _ids(batch: int, length: int) -> Rows:
    mask = torch.rand(batch, length) < 0.7
    return {"ids": torch.randint(0, 20, (batch, length)), "mask": mask}


_BATCH = {0: DYNAMIC}
_BATCH_AND_LENGTH = {0: DYNAMIC, 1: DYNAMIC}

_ENCODER_LAYER = (
    "{0} {0}.norm1 {0}.attention {0}.attention.mixed {0}.attention.out {0}.norm2 {0}.mlp {0}.mlp.0 {0}.mlp.1 {0}.mlp.2"
)
_TORCH_LAYER = "{0} {0}.self_attn {0}.dropout1 {0}.norm1 {0}.linear1 {0}.dropout {0}.linear2 {0}.dropout2 {0}.norm2"
_BLOCK = "{0}{1} {0}.conv{1} {0}.norm{1}"

ZOO = {
    network.name: network
    for network in (
        Network(
            "convolutional",
            Convolutional,
            _floats("image", 2, 7, 7),
            {"image": _BATCH},
            "conv1 norm1 relu conv2 norm2 relu#1 pool flatten drop head",
        ),
        Network(
            "residual",
            Residual,
            _floats("image", 3, 5, 5),
            {"image": _BATCH},
            " ".join(_BLOCK.format(*block) for block in [("blocks.0", ""), ("blocks.1", ""), ("blocks.1", "#1")])
            + " head",
        ),
        Network("partly-changed", PartlyChanged, _floats("image", 1, 5, 5), {"image": _BATCH}, "conv sequence first"),
        Network(
            "encoder",
            Encoder,
            _sequences,
            {"tokens": _BATCH_AND_LENGTH},
            " ".join(_ENCODER_LAYER.format(layer) for layer in ("layers.0", "layers.1")) + " head",
        ),
        Network(
            "torch-encoder",
            lambda: TorchEncoder(batch_first=True),
            _sequences,
            {"tokens": _BATCH_AND_LENGTH},
            "encoder "
            + " ".join(_TORCH_LAYER.format(layer) for layer in ("encoder.layers.0", "encoder.layers.1"))
            + " head",
        ),
        Network(
            "torch-encoder-length-first",
            lambda: TorchEncoder(batch_first=False),
            _sequences,
            {"tokens": _BATCH_AND_LENGTH},
            "head",
        ),
        Network(
            "several-inputs",
            SeveralInputs,
            _several,
            {"image": _BATCH, "table": _BATCH, "offset": _BATCH},
            "image_branch image_branch.0 image_branch.1 image_branch.2 image_branch.3 "
            "table_branch table_branch.0 table_branch.1 head",
        ),
        Network(
            "several-outputs",
            SeveralOutputs,
            _floats("features", 6),
            {"features": _BATCH},
            "trunk end end.0 end.1 first second",
        ),
        Network(
            "dict-outputs", DictOutputs, _floats("features", 6), {"features": _BATCH}, "hidden act more act#1 head"
        ),
        Network("recurrent", Recurrent, _floats("series", 5, 4), {"series": _BATCH}, "lstm norm head"),
        Network(
            "tokens",
            Tokens,
            _ids,
            {"ids": _BATCH_AND_LENGTH, "mask": _BATCH_AND_LENGTH},
            "embedding " + _ENCODER_LAYER.format("layer") + " head",
        ),
    )
}

CUTS = [(name, layer) for name, network in ZOO.items() for layer in network.cuts.split()]
"""Every legal cut of the zoo: (network, layer)."""


@cache
def zoo_module(name: str) -> nn.Module:
    """Return the network's eager module, one for the whole test run."""
    return ZOO[name].module()


@cache
def zoo_program_and_text(name: str) -> tuple[ExportedProgram, str]:
    """Return the network's program, one for the whole test run, and how its graph read before any use of it."""
    program = ZOO[name].export(zoo_module(name))
    return program, str(program.graph)


def zoo_program(name: str) -> ExportedProgram:
    """Return the network's program, one for the whole test run."""
    return zoo_program_and_text(name)[0]


@cache
def zoo_graph(name: str) -> Graph:
    """Return the network's graph, one for the whole test run."""
    return Graph.from_program(zoo_program(name))


def zoo_rows(name: str, batch: int, length: int) -> Rows:
    """Return random rows for a network, the same for the same arguments."""
    torch.manual_seed(1000 * batch + length)
    return ZOO[name].rows(batch, length)


def eager(module: nn.Module, rows: Rows) -> list[torch.Tensor]:
    """Run the eager module, with gradients, for torch's fused encoder skips the parts else."""
    with torch.enable_grad():
        return pytree.tree_leaves(module(**rows))


def eager_values(module: nn.Module, rows: Rows) -> dict[str, torch.Tensor]:
    """Return a copy of what each call of each module returned, taken before anything else can write to it."""
    found: dict[str, torch.Tensor] = {}
    calls: dict[str, int] = {}

    def record(path: str, result: Any) -> None:
        call = calls.get(path, 0)
        calls[path] = call + 1
        found[f"{path}#{call}" if call else path] = pytree.tree_leaves(result)[0].detach().clone()

    hooks = [
        part.register_forward_hook(lambda _, __, result, path=path: record(path, result))
        for path, part in module.named_modules()
    ]
    eager(module, rows)
    for hook in hooks:
        hook.remove()
    return found


def eager_with(module: nn.Module, rows: Rows, layer: str, values: torch.Tensor) -> list[torch.Tensor]:
    """Run the eager module, with one call of one layer returning `values`."""
    path, _, call = layer.partition("#")
    waiting = [int(call or 0)]

    def replace(_: nn.Module, __: Any, result: Any) -> Any:
        waiting[0] -= 1
        if waiting[0] != -1:
            return result
        # A copy: the network may write to it.
        copy = values.clone()
        return (copy, *result[1:]) if isinstance(result, tuple) else copy

    hook = module.get_submodule(path).register_forward_hook(replace)
    outputs = eager(module, rows)
    hook.remove()
    return outputs
