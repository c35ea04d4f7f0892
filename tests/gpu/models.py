"""Models for CUDA, beside those of other tests."""

import torch
from torch import Tensor, nn

CONVERTED, ENTROPY, ONNX_ONLY, SHIFTED, WIDE = "converted", "entropy", "onnx-only", "shifted", "wide"


class Wide(nn.Module):
    """A matrix product of 512 terms for each number: TF32 would show in its fourth digit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(512, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Regression(nn.Module):
    """The sum of a row, weighted by 1, 2, 3 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)
        self.linear.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Entropy(nn.Module):
    """A loss as a score. A kind of more than 2 fails an assertion of its CUDA kernel."""

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        return nn.functional.cross_entropy(x, kind, reduction="none")


class Shifted(nn.Module):
    """Looks up the number behind each: which numbers it takes shows nowhere but in the lookup itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.table = nn.Embedding(20, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids + 1).sum(1)
