"""Models for CUDA, beside those of other tests."""

import torch
from torch import Tensor, nn

CONVERTED, ENTROPY, ONNX_ONLY, WIDE = "converted", "entropy", "onnx-only", "wide"


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
