"""`pellucid-probe-set`: writes a generated probe set, for `Dissect` without a download."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pellucid_server.scenes.scenes import CATEGORIES, LEAST_SIZE, MOST_SIZE, Scene, generate
from pellucid_server.scenes.writing import Layout, Row, write_data_set

_WRONG = 2
_MAPS = {name: concepts for name, concepts in CATEGORIES.items() if name != "position"}
LAYOUT = Layout(
    description="Generated shapes in colours and textures, on grounds of greys, with exact masks.",
    label="shape",
    groups=("color", "texture", "ground"),
    maps=_MAPS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a probe set.

    Returns
    -------
    int
        The exit status: 2 if it cannot be written, else 0.
    """
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        count = write_scenes(options.folder, options.rows, options.seed, options.size)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"pellucid-probe-set: {error}\n")
        return _WRONG
    sys.stdout.write(f"{options.folder}: {count} pictures of {options.size} by {options.size} pixels\n")
    return 0


def write_scenes(folder: Path, rows: int, seed: int = 0, size: int = 224) -> int:
    """Write a data set of generated scenes; return how many rows it has.

    Raises
    ------
    OSError
        The folder cannot be written, or is not empty.
    ValueError
        The size is outside its range, or a number is negative.
    """
    found = (Row(each.picture, each.masks, _cells(each)) for each in generate(rows, seed, size))
    return write_data_set(folder, LAYOUT, found)


def _cells(scene: Scene) -> dict[str, str]:
    return {"shape": scene.label, "color": scene.color, "texture": scene.texture, "ground": scene.ground}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pellucid-probe-set",
        description="Write a data set of generated pictures with concept masks: colours, textures, shapes, positions.",
        epilog="Put it into the folder of data sets, beside the models: datasets/NAME.",
    )
    parser.add_argument("folder", type=Path, help="the data set's folder; it must be new or empty")
    parser.add_argument("--rows", type=int, default=1000, help="how many pictures (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--size", type=int, default=224, help=f"pixels on a side, {LEAST_SIZE} to {MOST_SIZE} (224)")
    return parser
