"""Runs the demo: `python -m demo.run --models DIR --out DIR`.

Starts the server on the demo models, has three photographs and a row of a table predicted and explained through
the Python client, asks which channels of the network a photograph's class needs and what would change the row's class,
looks at what units of the network respond to, prints what came back, writes pictures and a report, and stops the
server. Exit code 0 means that every photograph's own name was among the five highest, every tolerance was met, the
channels were needed, the changed row had the other class, units were named, and the server ended cleanly.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skimage.data
from pellucid import Attribution, Client, Prediction, Receipt, Site, Zero
from pellucid.plots import attribution_figure
from pellucid.results import Timing
from PIL import Image
from rich.markup import escape
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_sample_image

from demo.dissection import show_inside, write_scenes
from demo.showing import DemoError, console, seconds_text, waiting

TOLERANCE = 0.01
_START_SECONDS, _STOP_SECONDS = 180.0, 60.0
_SMOOTH_PIXELS = 3.0
_TABLE_ROW = 19
"""A row of the breast-cancer set that is not clear-cut."""

_LAYER, _CHANNELS = "_blocks.15", 10
"""The last block of the photographs' network, and how many of its channels are shown."""


@dataclass(frozen=True)
class Photograph:
    """A photograph that comes with a package, and what is on it."""

    name: str
    label: str
    source: str
    load: Callable[[], Any]


PHOTOGRAPHS = (
    Photograph("chelsea", "tiger cat", "scikit-image", skimage.data.chelsea),
    Photograph("coffee", "espresso", "scikit-image", skimage.data.coffee),
    Photograph("china", "palace", "scikit-learn", lambda: load_sample_image("china.jpg")),
)


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Serve the demo models and have predictions explained.")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="where the pictures go")
    parser.add_argument(
        "--photographs",
        nargs="+",
        choices=[photograph.name for photograph in PHOTOGRAPHS],
        default=[photograph.name for photograph in PHOTOGRAPHS],
        metavar="NAME",
        help="the photographs to explain (default: %(default)s)",
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        datasets = write_scenes(arguments.out / "datasets")
        log = arguments.out / "server.log"
        with serving(arguments.models, datasets, log) as address, Client(address) as client:
            chosen = [each for each in PHOTOGRAPHS if each.name in arguments.photographs]
            for photograph in chosen:
                show_photograph(client, photograph, arguments.out)
            show_channels(client, chosen[0], arguments.out)
            show_table_row(client, arguments.out)
            show_counterfactual(client, arguments.out)
            show_inside(client, arguments.out)
    except DemoError as error:
        console.print(f"\n[bold red]The demo failed:[/] {escape(str(error))}")
        return 1
    console.print(f"\n[bold green]All as it should be[/], in {time.monotonic() - started:.0f} s. The pictures:")
    for path in sorted([*arguments.out.glob("*.png"), *arguments.out.glob("*.html")]):
        console.print(f"  {path}")
    return 0


@contextlib.contextmanager
def serving(models: Path, datasets: Path, log: Path) -> Iterator[str]:
    """Run the server on a free port, yield its address, and end it as an operator would.

    Raises
    ------
    DemoError
        It did not start, or did not end cleanly.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, settings = Path(folder) / "ready.json", Path(folder) / "pellucid.toml"
        settings.write_text(f"[models]\ndatasets = {json.dumps(str(datasets.absolute()))}\n", "utf-8")
        command = [sys.executable, "-m", "pellucid_server", "--config", str(settings), "--models", str(models)]
        command += ["--port", "0"]
        command += ["--metrics-port", "0", "--health-port", "-1", "--ready-file", str(ready)]
        console.print(f"[bold]Starting the server[/] on {models}/ (its log: {log})")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            with waiting("It loads and tries out the models"):
                address = _address(process, ready, log)
            console.print(f"  ready at {address}")
            yield address
            _stop(process, log)
        finally:
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"the server did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)
    return f"127.0.0.1:{json.loads(ready.read_text())['port']}"


def _stop(process: "subprocess.Popen[bytes]", log: Path) -> None:
    console.print("\n[bold]Stopping the server[/] with SIGTERM")
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"the server was still there {_STOP_SECONDS:g} s later; see {log}") from error
    if code != 0:
        raise DemoError(f"the server ended with exit code {code}; see {log}")
    console.print("  it ended with exit code 0")


def show_photograph(client: Client, photograph: Photograph, out: Path) -> None:
    """Have a photograph predicted and explained, and print and draw what comes back.

    Raises
    ------
    DemoError
        Its label is not among the five highest, or the tolerance was not met.
    """
    picture = Image.fromarray(photograph.load())
    size = f"{picture.width} x {picture.height} pixels"
    console.rule(f"[bold]{photograph.name}[/]: a photograph from {photograph.source}, {size}")
    began = time.monotonic()
    prediction = client.predict("efficientnet-lite0", picture)
    _print_prediction(prediction, time.monotonic() - began)
    if photograph.label not in [each.label for each in prediction.top[0]]:
        raise DemoError(f"{photograph.label!r} is not among the five highest of {photograph.name}")

    began = time.monotonic()
    with waiting(f"Integrated gradients for {prediction.top[0][0].name!r}, to a tolerance of {TOLERANCE:g}"):
        explanation = client.attribute(
            "efficientnet-lite0", picture, "integrated-gradients", tolerance=TOLERANCE, timeout=600
        )
    _print_gaps(explanation)
    _print_receipt(explanation.receipt)
    _print_timing(explanation.timing, time.monotonic() - began)
    _save(explanation, out / f"{photograph.name}.png")
    if not explanation.accuracy.tolerance_met:
        raise DemoError(f"the tolerance was not met for {photograph.name}")


def show_channels(client: Client, photograph: Photograph, out: Path) -> None:
    """Switch every channel of the last block off, one by one, and print the ten that the highest class needs most.

    Raises
    ------
    DemoError
        Without those ten channels the score is no lower than without ten others.
    """
    picture = Image.fromarray(photograph.load())
    console.rule(f"[bold]{photograph.name}[/]: which channels of {_LAYER} carry the highest class?")
    began = time.monotonic()
    found = client.ablate("efficientnet-lite0", picture, Zero(f"{_LAYER}[*]"), timeout=600)
    elapsed = time.monotonic() - began
    effects = list(found.effects)
    # The largest losses first: a channel can also stand in the way of the class.
    needed = sorted(effects, key=lambda each: -each["effect"])
    table = Table("channel", "score without it", "lost", box=None)
    for each in needed[:_CHANNELS]:
        table.add_row(each["site"], f"{each['after']:.3f}", f"{each['effect']:+.3f}")
    console.print(table)
    (explained,) = found.tables["rows"]
    console.print(
        f"  score of {explained['label']!r}: {effects[0]['before']:.3f}; {len(effects)} channels in "
        f"{seconds_text(elapsed)}"
    )
    lost = {
        name: _lost_jointly(client, picture, [each["unit"] for each in chosen])
        for name, chosen in (("these ten", needed[:_CHANNELS]), ("the ten least needed", needed[-_CHANNELS:]))
    }
    console.print("  lost at once: " + ", ".join(f"{value:+.3f} without {name}" for name, value in lost.items()))
    path = out / "channels.png"
    found.plot().savefig(path, dpi=120)
    console.print(f"  picture: {path}")
    if lost["these ten"] <= lost["the ten least needed"]:
        raise DemoError(f"the ten channels that carry {explained['label']!r} are not needed more than ten others")


def _lost_jointly(client: Client, picture: Any, channels: list[int]) -> float:
    """Return what the score loses without some channels at once."""
    found = client.ablate("efficientnet-lite0", picture, Zero(Site(_LAYER, units=tuple(sorted(channels)))), joint=True)
    (row,) = found.tables["joint"]
    lost: float = row["effect"]
    return lost


def _table_row() -> tuple[dict[str, float], str]:
    """Return a row of the breast-cancer set, by column, and what it truly is."""
    data = load_breast_cancer()
    row = {str(name): float(value) for name, value in zip(data.feature_names, data.data[_TABLE_ROW], strict=True)}
    return row, str(data.target_names[data.target[_TABLE_ROW]])


def show_counterfactual(client: Client, out: Path) -> None:
    """Ask what would have had to be different in the row for the other class, and print and draw it.

    Raises
    ------
    DemoError
        None was found, or the model does not give the other class to it.
    """
    row, _ = _table_row()
    top = client.predict("breast-cancer", row).top[0]
    wanted = top[1].name
    console.rule(f"[bold]breast-cancer[/]: what would make row {_TABLE_ROW} {wanted}?")
    began = time.monotonic()
    found = client.counterfactual("breast-cancer", row, wanted=wanted, seed=7, timeout=600)
    for each in found:
        console.print(f"  {each.sentence}")
        minimal = ", and each change is needed" if each.minimal else ""
        console.print(f"  distance {each.distance:.3g}, {each.changed} of {len(row)} columns changed{minimal}")
    console.print(f"  time: round trip {seconds_text(time.monotonic() - began)}")
    best = found[0]
    if not best.found or best.values is None:
        raise DemoError(f"no row was found that is {wanted}")
    again = client.predict("breast-cancer", dict(best.values)).top[0][0].name
    console.print(f"  predicted again, that row is {again!r}")
    path = out / "counterfactual.png"
    found.plot().savefig(path, dpi=120)
    console.print(f"  picture: {path}")
    if again != wanted:
        raise DemoError(f"the row that was to be {wanted} is predicted {again}")


def show_table_row(client: Client, out: Path) -> None:
    """Have a row of the breast-cancer set predicted and explained, and print and draw what comes back."""
    row, truth = _table_row()
    console.rule(f"[bold]breast-cancer[/]: row {_TABLE_ROW} of the set, {len(row)} columns, truly {truth}")
    began = time.monotonic()
    prediction = client.predict("breast-cancer", row)
    _print_prediction(prediction, time.monotonic() - began)

    began = time.monotonic()
    explanation = client.attribute("breast-cancer", row, "kernel-shap", baseline="background", seed=7)
    elapsed = time.monotonic() - began
    _print_columns(explanation, row)
    _print_gaps(explanation)
    _print_receipt(explanation.receipt)
    _print_timing(explanation.timing, elapsed)
    _save(explanation, out / "breast-cancer.png")


def _print_prediction(prediction: Prediction, elapsed: float) -> None:
    table = Table("class", "probability", "logit", box=None, pad_edge=True)
    for each in prediction.top[0]:
        probability = "" if each.probability is None else f"{each.probability:.2%}"
        table.add_row(each.name, probability, f"{each.value:.3f}")
    console.print(table)
    _print_timing(prediction.timing, elapsed)


def _print_columns(explanation: Attribution, row: dict[str, float]) -> None:
    errors = explanation.group_standard_errors
    columns = list(explanation.by_column.items())
    largest = sorted(range(len(columns)), key=lambda index: -abs(columns[index][1]))[:8]
    table = Table("column", "value", f"share of the score of {explanation.target_name!r}", "± standard error", box=None)
    for index in largest:
        name, score = columns[index]
        error = "exact" if errors is None else f"{errors[index]:.3f}"
        table.add_row(name, f"{row[name]:.4g}", f"{score:+.3f}", error)
    console.print(table)


def _print_gaps(explanation: Attribution) -> None:
    accuracy = explanation.accuracy
    baseline = explanation.baseline_output_value or 0.0
    change = explanation.instance_output_value - baseline
    console.print(
        f"  {explanation.method}: the score of {explanation.target_name!r} goes from {baseline:.3f} at the baseline "
        f"({explanation.receipt.baseline}) to {explanation.instance_output_value:.3f}, by {change:+.3f}"
    )
    if accuracy.signed_gap is not None and accuracy.absolute_gap is not None:
        signed, absolute = accuracy.signed_gap, accuracy.absolute_gap
        met = f"; {accuracy.tolerance_text}" if accuracy.tolerance_text else ""
        console.print(
            f"  completeness gap: signed {signed:+.2g} ({signed / change:+.2%} of the change), summed absolute "
            f"{absolute:.2g} ({absolute / abs(change):.2%}){met}"
        )
    for warning in accuracy.warnings:
        console.print(f"  note: {warning}")


def _print_receipt(receipt: Receipt) -> None:
    parameters = ", ".join(f"{name} {value}" for name, value in receipt.parameters.items()) or "none"
    runtime, work = receipt.runtime, receipt.work
    largest = max((shape.rows for shape in work.batch_shapes), default=0)
    libraries = ", ".join(f"{name} {version}" for name, version in runtime.libraries.items())
    console.print("  receipt:")
    for name, text in {
        "model": f"{receipt.model.name} version {receipt.model.version}, digest {receipt.model.digest[:16]}…",
        "input": f"digest {receipt.input_digest[:16]}…",
        "asked": f"{receipt.method}, seed {receipt.seed}, parameters: {parameters}",
        "runtime": f"forward {runtime.forward}, gradient {runtime.gradient or 'none'}, {runtime.device}, "
        f"{runtime.precision}; {libraries}",
        "rows": f"{work.rows_backward} forward and backward, {work.rows_forward} forward only, in batches of up to "
        f"{largest}",
    }.items():
        console.print(f"    {name:<8}{text}")


def _print_timing(timing: Timing, elapsed: float) -> None:
    console.print(
        f"  time: queue {seconds_text(timing.queue_seconds)}, compute {seconds_text(timing.compute_seconds)}, "
        f"server total {seconds_text(timing.total_seconds)}, round trip {seconds_text(elapsed)}"
    )


def _save(explanation: Attribution, path: Path) -> None:
    attribution_figure(explanation, smooth=_SMOOTH_PIXELS).savefig(path, dpi=120)
    console.print(f"  picture: {path}")


if __name__ == "__main__":
    sys.exit(main())
