"""The demo's last chapter: what units of the photographs' network respond to."""

import subprocess
import sys
import time
from pathlib import Path

from pellucid import Client, Dissection
from rich.table import Table

from demo.showing import DemoError, console, seconds_text, waiting

MODEL, LAYERS = "efficientnet-lite0", ("_blocks.2", "_blocks.10")
"""The network, and a layer of it that is early and one that is late."""
_SCENES, _PICTURES, _SEED = "scenes", 150, 7
_SHOWN = 6
"""Detectors of each layer that are printed."""
_STEPS = 96
_CURVES = "_conv_stem"
_SELECTIVE = 0.2
"""Orientation selectivity from which on a channel counts as selective."""
_TIMEOUT = 900.0


def write_scenes(folder: Path) -> Path:
    """Write the generated data set, unless it is there, and return the folder of data sets."""
    scenes = folder / _SCENES
    if not (scenes / "dataset.toml").exists():
        command = [sys.executable, "-m", "pellucid_server.scenes", str(scenes)]
        with waiting(f"Generating {_PICTURES} pictures of colours, textures and shapes, with exact masks"):
            subprocess.run(
                [*command, "--rows", str(_PICTURES), "--seed", str(_SEED)], check=True, stdout=subprocess.DEVNULL
            )
    return folder


def show_inside(client: Client, out: Path) -> None:
    """Name the units of two layers, draw what two of them respond to, and measure the first layer's tuning curves.

    Raises
    ------
    DemoError
        No unit has a name, or none of the first layer is selective for orientation.
    """
    console.rule(f"[bold]{MODEL}[/]: what do units of {' and '.join(LAYERS)} respond to?")
    began = time.monotonic()
    with waiting(f"Network dissection on {_PICTURES} generated pictures"):
        found = client.dissect(MODEL, *LAYERS, dataset=_SCENES, timeout=_TIMEOUT)
    dictionary = found.dictionary
    for layer in LAYERS:
        part = dictionary.layer(layer)
        counts = ", ".join(f"{count} of {category}" for category, count in part.counts().items())
        console.print(f"  {layer}: {len(part.detectors)} of {len(part)} units detect a concept ({counts})")
        table = Table("unit", "concept", "IoU", "by chance", "runner-up", box=None)
        for each in part.detectors[:_SHOWN]:
            table.add_row(
                str(each.unit),
                each.concept,
                f"{each.iou:.3f} ± {each.iou_error:.3f}",
                f"{each.iou_chance:.4f}",
                each.runner_up,
            )
        console.print(table)
    console.print(f"  time: round trip {seconds_text(time.monotonic() - began)}")
    size = found.to_html(out / "dictionary.html")
    console.print(f"  report: {out / 'dictionary.html'}, {size / 1e6:.1f} MB, to be opened in a browser")
    if not dictionary.detectors:
        raise DemoError("no unit detects a concept")
    _show_pictures(client, found, out)
    _show_curves(client, out)


def _show_pictures(client: Client, found: Dissection, out: Path) -> None:
    """Draw what the two best detectors of the late layer respond to most."""
    layer = LAYERS[-1]
    best = sorted(found.dictionary.layer(layer).detectors, key=lambda each: -(each.iou or 0.0))[:2]
    names = ", ".join(f"{each.unit} ({each.concept})" for each in best)
    units = ",".join(str(unit) for unit in sorted(each.unit for each in best))
    began = time.monotonic()
    with waiting(f"Drawing what channels {names} of {layer} respond to most"):
        drawn = client.dissect(
            MODEL, f"{layer}[{units}]", method="feature-visualization", steps=_STEPS, seed=_SEED, timeout=_TIMEOUT
        )
    path = out / "feature-visualization.png"
    drawn.plot().savefig(path, dpi=120)
    console.print(f"  channels {names}: {_STEPS} steps in {seconds_text(time.monotonic() - began)}; picture: {path}")


def _show_curves(client: Client, out: Path) -> None:
    """Measure which orientations and frequencies the channels of the first layer prefer."""
    began = time.monotonic()
    with waiting(f"Showing gratings to the channels of {_CURVES}"):
        curves = client.dissect(MODEL, _CURVES, method="tuning-curve", timeout=_TIMEOUT)
    preferences = curves.tables["preferences"]
    selective = [each for each in preferences if each["OSI"] is not None and each["OSI"] >= _SELECTIVE]
    path = out / "tuning-curves.png"
    curves.plot().savefig(path, dpi=120)
    console.print(
        f"  {_CURVES}: {len(selective)} of {len(preferences)} channels are selective for orientation; "
        f"{seconds_text(time.monotonic() - began)}; picture: {path}"
    )
    if not selective:
        raise DemoError(f"no channel of {_CURVES} is selective for orientation")
