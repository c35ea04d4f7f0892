"""Small networks that methods are compared on with captum's own answers, in float64."""

import torch
from torch import nn

PICTURE = (3, 10, 12)


def mlp() -> nn.Module:
    """Six numbers to three classes, smooth and with kinks."""
    torch.manual_seed(3)
    return (
        nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        .double()
        .eval()
        .requires_grad_(False)
    )


def cnn() -> nn.Module:
    """Pictures of shape `PICTURE` to three classes."""
    torch.manual_seed(4)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 3 * 4, 3)).double().eval().requires_grad_(False)


def multi_layer(x: torch.Tensor) -> torch.Tensor:
    """Captum's BasicModel_MultiLayer, class 0: the numbers of its tests can be checked by hand.

    Four units see the sum of three inputs, one of them 10 less and three 1 more; the score is their sum,
    above zero, less 1.
    """
    total = x.sum(dim=1)
    return torch.relu(total - 10) + 3 * torch.relu(total + 1) - 1


def score(module: nn.Module, index: int):
    """Return the score of class `index` of input "x"."""
    return lambda inputs: module(inputs["x"])[:, index]
