"""A repository of small models that load in no time: every modality, several inputs and outputs, dynamic lengths."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pellucid_server import export
from server.engine.models.networks import ZOO, zoo_module
from torch import nn

SCORES, PICTURES, TOKENS, SEVERAL, OUTPUTS = "scores", "pictures", "tokens", "several-inputs", "several-outputs"
SERIES = "series"
LONGEST = 16
"""Longest row of the model of series."""

COLUMNS = ("width", "height", "colour")
COLOURS = ("red", "green", "blue")
WEIGHT = np.array([[1.0, -2.0, 0.5, 0.0, -0.5], [-1.0, 3.0, 0.0, 0.25, 1.0]], np.float32)
BIAS = np.array([0.5, -0.25], np.float32)

_SCORES = """
background = "background.npz"
[[inputs]]
name = "features"
modality = "tabular"
[[inputs.columns]]
name = "width"
mean = 10.0
standard_deviation = 2.0
minimum = 0.0
maximum = 20.0
[[inputs.columns]]
name = "height"
[[inputs.columns]]
name = "colour"
categories = ["red", "green", "blue"]
[[outputs]]
name = "output"
kind = "logits"
labels = ["small", "large"]
"""

_PICTURES = """
[[inputs]]
name = "image"
modality = "image"
resize = 12
crop = [12, 12]
mean = [127.5, 127.5, 127.5]
standard_deviation = [127.5, 127.5, 127.5]
[[outputs]]
name = "output"
kind = "sigmoid-logits"
labels = ["cat", "dog", "bird"]
"""


class Linear(nn.Module):
    """The scores are a linear map of the columns, so that anyone can work them out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)
        self.linear.weight.data = torch.from_numpy(WEIGHT)
        self.linear.bias.data = torch.from_numpy(BIAS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)


class Convolution(nn.Module):
    """A small network for pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


class Places(nn.Module):
    """Weighs each number of a series by its place, of those that the mask has."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-1.0, 1.0, LONGEST))

    def forward(self, series: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ((series * self.weights[: series.shape[1]]) * mask).sum(1, keepdim=True)


def linear_scores(width: float, height: float, colour: str) -> npt.NDArray[np.float32]:
    """Return the scores of a row of the model of scores, (2,), as worked out by hand."""
    row = np.array([(width - 10) / 2, height, *(colour == known for known in COLOURS)], np.float32)
    scores: npt.NDArray[np.float32] = WEIGHT @ row + BIAS
    return scores


def write_scores(repository: Path, name: str = SCORES) -> Path:
    """Write the linear model under a name of choice, and return the model's folder."""
    folder = repository / name
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(_SCORES)
    np.savez(folder / "background.npz", features=np.eye(5, dtype=np.float32))
    export.export(Linear(), (torch.zeros(2, 5),), folder / "1", onnx=False)
    return folder


def write_pictures(repository: Path) -> Path:
    """Write the model for pictures, and return its folder."""
    folder = repository / PICTURES
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(_PICTURES)
    export.export(Convolution(), (torch.zeros(2, 3, 12, 12),), folder / "1", onnx=False)
    return folder


def write_series(repository: Path) -> Path:
    """Write the model of series, and return its folder."""
    folder = repository / SERIES
    (folder / "1").mkdir(parents=True)
    (folder / "model.toml").write_text("")
    example = {"series": torch.zeros(2, 4), "mask": torch.ones(2, 4, dtype=torch.bool)}
    axes = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example}
    torch.export.save(torch.export.export(Places(), (), example, dynamic_shapes=axes), folder / "1" / "model.pt2")
    return folder


def write_repository(repository: Path) -> Path:
    """Write every small model, and return the repository."""
    write_scores(repository)
    write_pictures(repository)
    write_series(repository)
    for name in (TOKENS, SEVERAL, OUTPUTS):
        dynamic = {1: "length"} if name == TOKENS else {}
        example = ZOO[name].rows(2, 4)
        export.export(
            zoo_module(name),
            example,
            repository / name / "1",
            onnx=False,
            dynamic=dict.fromkeys(example, dynamic) if dynamic else None,
        )
    return repository
