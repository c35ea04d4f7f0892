"""Networks of usual shapes with random weights, where real ones would be too much to carry."""

import sys
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from pellucid_server.export import export
from torch import Tensor, nn

RESNET, LITE, MEANS, PICTURE_MEANS = "resnet18", "efficientnet-lite0", "means", "picture-means"
CLASSES = 1000

_PICTURE = f"""
[[inputs]]
name = "image"
modality = "tensor"
[[outputs]]
name = "output"
kind = "logits"
labels = {[f"class {number}" for number in range(CLASSES)]}
"""

_MEANS = """
[[inputs]]
name = "image"
modality = "tensor"
[[outputs]]
name = "output"
kind = "values"
"""

_PICTURE_MEANS = _MEANS.replace(
    '"tensor"', '"image"\nresize = 256\ncrop = [224, 224]\nmean = [127, 127, 127]\nstandard_deviation = [128, 128, 128]'
)
_MANIFESTS = {MEANS: _MEANS, PICTURE_MEANS: _PICTURE_MEANS}


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, value: Tensor) -> Tensor:
        changed = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(value)))))
        return self.relu(changed + self.shortcut(value))


class ResNet18(nn.Module):
    """The network of He et al., "Deep Residual Learning for Image Recognition", with 18 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        self.stages = nn.Sequential(*(nn.Sequential(Block(*stage), Block(stage[1], stage[1], 1)) for stage in widths))
        self.head = nn.Linear(512, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(image)).mean((2, 3)))


class Lite0(EfficientNet):
    """The demo's network, its input called what it is."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


class Means(nn.Module):
    """The mean of each channel: next to no work for many bytes."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def network(name: str) -> nn.Module:
    """Return a network in evaluation mode, with the same weights each time."""
    torch.manual_seed(0)
    if name in {MEANS, PICTURE_MEANS}:
        return Means().eval()
    made: nn.Module = ResNet18() if name == RESNET else Lite0.from_name(LITE)
    return made.eval()


def write(repository: Path, name: str, *, onnx: bool = False) -> None:
    """Write a network into a model repository, with an ONNX file if wanted."""
    folder = repository / name
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(_MANIFESTS.get(name, _PICTURE))
    export(network(name), (torch.randn(2, 3, 224, 224),), folder / "1", onnx=onnx)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
