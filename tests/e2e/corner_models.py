"""A repository of small models at the corners: raw columns, categories, masks, and outputs that are no numbers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pellucid_server import export
from torch import nn

RAW, CENTRED, PEOPLE, GRADES, CORNERS = "raw", "centred", "people", "grades", "corners"
ROOTS, SIGNS, MASKED, ATTENDED, DOUBLE = "roots", "signs", "masked", "attended", "double"
COUPLED = "coupled"

STATES = ("married", "single", "widowed")
LEVELS = ("low", "middle", "high", "top")
LEVEL_SCORES = (0.0, 4.0, -2.0, 3.0)

_NUMERIC = """
[[inputs]]
name = "x"
modality = "tabular"
[[inputs.columns]]
name = "radius"
{radius}
[[inputs.columns]]
name = "area"
{area}
"""
_OUTPUT = """
[[outputs]]
name = "output"
kind = "logits"
labels = ["a", "b"]
"""
_PEOPLE = """
background = "background.npz"
[[inputs]]
name = "x"
modality = "tabular"
[[inputs.columns]]
name = "age"
mean = 40.0
standard_deviation = 10.0
[[inputs.columns]]
name = "status"
categories = ["married", "single", "widowed"]
[[outputs]]
name = "output"
kind = "values"
"""
_GRADES = """
background = "background.npz"
[[inputs]]
name = "x"
modality = "tabular"
[[inputs.columns]]
name = "age"
mean = 40.0
standard_deviation = 10.0
minimum = 0.0
maximum = 80.0
[[inputs.columns]]
name = "level"
categories = ["low", "middle", "high", "top"]
encoding = "ordinal"
"""

PEOPLE_BACKGROUND = np.array(
    [
        [0.0, 1, 0, 0],
        [1.0, 1, 0, 0],
        [-1.0, 1, 0, 0],
        [0.5, 0, 1, 0],
        [2.0, 0, 0, 1],
        [-2.0, 0, 1, 0],
        [0.25, 1, 0, 0],
    ],
    np.float32,
)
"""Age, standardized, and the status, one-hot; the medoid is row 0 by hand: of the commonest status, age at the mean."""


class TwoScores(nn.Module):
    """Two logits of two columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0], x[:, 0] * x[:, 1] + 1], 1)


class People(nn.Module):
    """A value that age and status make together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        age, married, widowed = x[:, 0], x[:, 1], x[:, 3]
        return (torch.tanh(age) * (1 + 3 * married) + 2 * widowed * age * age + married)[:, None]


class Grades(nn.Module):
    """A value that looks the level up in a table, and refuses numbers beyond it."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Embedding.from_pretrained(torch.tensor(LEVEL_SCORES)[:, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.levels(x[:, 1].long()) + torch.sin(x[:, :1])


class Corners(nn.Module):
    """One number as it is, and a quotient, which can be infinite or NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0], x[:, 1] / x[:, 2]], 1)


class Roots(nn.Module):
    """The sum of square roots: at 0 its slope is infinite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt().sum(1, keepdim=True)


class Signs(nn.Module):
    """Signs as a quotient: of 0 there is none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / x.abs()).sum(1, keepdim=True)


class MaskedMean(nn.Module):
    """The mean of what the mask has: of nothing there is none."""

    def forward(self, series: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = mask.to(series.dtype)
        return ((series * kept).sum(1) / kept.sum(1))[:, None]


class AttendedMean(nn.Module):
    """The same, of a mask by another name."""

    def forward(self, series: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        kept = attention_mask.to(series.dtype)
        return ((series * kept).sum(1) / kept.sum(1))[:, None]


class Enormous(nn.Module):
    """Numbers that only double precision holds."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * torch.tensor([1e200, -3e200], dtype=torch.float64)).sum(1, keepdim=True)


class Coupled(nn.Module):
    """The product of a row with the mean of all rows that are run together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x.mean(0)).sum(1, keepdim=True)


def people_score(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The model of people in numpy, (rows, 4) to (rows,)."""
    age, married, _, widowed = rows.T
    return np.asarray(np.tanh(age) * (1 + 3 * married) + 2 * widowed * age * age + married)


def write_corners(repository: Path) -> Path:
    """Write every model, and return the repository."""
    floats = torch.ones(2, 3)
    flags = torch.ones(2, 3, dtype=torch.bool)
    _write(repository, RAW, TwoScores(), (floats[:, :2],), _NUMERIC.format(radius="", area="") + _OUTPUT)
    stated = {"radius": "mean = 14.0\nstandard_deviation = 3.5", "area": "mean = 650.0\nminimum = 100\nmaximum = 2500"}
    _write(repository, CENTRED, TwoScores(), (floats[:, :2],), _NUMERIC.format(**stated) + _OUTPUT)
    people = PEOPLE_BACKGROUND
    _write(repository, PEOPLE, People(), (torch.from_numpy(people[:2]),), _PEOPLE, people)
    grades = np.array([[0.0, 0], [1.0, 1], [-1.0, 1], [0.5, 2], [0.1, 3]], np.float32)
    _write(repository, GRADES, Grades(), (torch.from_numpy(grades[:2]),), _GRADES, grades)
    _write(repository, CORNERS, Corners(), (floats,), _OUTPUT)
    _write(repository, ROOTS, Roots(), (floats,), "")
    _write(repository, SIGNS, Signs(), (floats,), "")
    _write(repository, MASKED, MaskedMean(), (floats, flags), "")
    _write(repository, ATTENDED, AttendedMean(), (floats, flags.long()), "")
    _write(repository, DOUBLE, Enormous(), (floats[:, :2].double(),), "")
    _write(repository, COUPLED, Coupled(), (floats,), "")
    return repository


def _write(
    repository: Path,
    name: str,
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    manifest: str,
    background: npt.NDArray[np.float32] | None = None,
) -> None:
    folder = repository / name
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(manifest)
    if background is not None:
        np.savez(folder / "background.npz", x=background)
    export.export(module, example, folder / "1", onnx=False)
