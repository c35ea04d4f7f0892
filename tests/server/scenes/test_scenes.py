"""Generated scenes: against what masks say of the pixels, and one digest that holds on every machine."""

import csv
import hashlib

import numpy as np
import pytest
from pellucid_server.scenes.command import main, write_scenes
from pellucid_server.scenes.forms import COLORS, JITTER, SHAPES, TEXTURES, grid
from pellucid_server.scenes.scenes import CATEGORIES, generate, scene
from PIL import Image

SIZE = 64


@pytest.fixture(scope="module")
def scenes():
    return list(generate(120, seed=3, size=SIZE))


def test_the_same_seed_gives_the_same_pixels_on_every_machine(scenes):
    found = hashlib.sha256()
    for each in scenes:
        found.update(each.picture.tobytes())
        for key, mask in each.masks.items():
            found.update("/".join(key).encode() + np.packbits(mask).tobytes())

    assert found.hexdigest() == "f158178706de412c27e8ca91b36d68a20572cd083254776b6586a107036494be"


def test_a_row_depends_on_its_number_and_the_seed_alone(scenes):
    alone, other = scene(7, 3, SIZE), scene(7, 4, SIZE)

    assert np.array_equal(alone.picture, scenes[7].picture)
    assert not np.array_equal(other.picture, scenes[7].picture)


def test_a_colours_mask_is_where_pixels_are_near_it_and_no_others_are(scenes):
    for each in scenes:
        for name, middle in COLORS.items():
            near = (np.abs(each.picture.astype(int) - middle) <= JITTER).all(2)
            # Greys of the ground are near neither black nor white.
            marked = each.masks.get(("color", name), np.zeros_like(near))
            assert np.array_equal(near, marked)


def test_shapes_and_the_ground_share_out_the_picture(scenes):
    for each in scenes:
        shapes = sum(each.masks[key].astype(int) for key in each.masks if key[0] == "shape")
        (ground,) = (each.masks[key] for key in each.masks if key[0] == "ground")
        assert np.array_equal(shapes + ground, np.ones((SIZE, SIZE)))
        colours = sum(each.masks[key].astype(int) for key in each.masks if key[0] == "color")
        assert np.array_equal(colours, shapes)
        grey = each.picture[ground]
        assert (grey == grey[:, :1]).all()


@pytest.mark.parametrize(("name", "axis", "low"), [("left", 1, 1), ("right", 1, 0), ("top", 0, 1), ("bottom", 0, 0)])
def test_the_middle_of_a_shape_is_on_the_side_that_its_position_says(scenes, name, axis, low):
    single = [each for each in scenes if sum(key[0] == "shape" for key in each.masks) == 1]
    places = [np.argwhere(each.masks["position", name])[:, axis] for each in single if ("position", name) in each.masks]

    assert len(places) > 5
    assert {(at.min() + at.max() + 1 < SIZE) == low for at in places} == {True}


def test_every_concept_is_there_and_no_other(scenes):
    found = {key for each in scenes for key in each.masks}

    assert found == {(category, name) for category, names in CATEGORIES.items() for name in names}


@pytest.mark.parametrize(("name", "share"), [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5)])
def test_a_shape_covers_the_share_of_its_square_that_geometry_says(name, share):
    for turn in range(4):
        assert SHAPES[name](201, turn).mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("turn", [0, 1])
def test_a_cross_is_the_same_when_mirrored_or_laid_on_its_side(turn):
    found = SHAPES["cross"](61, turn)

    for other in (found[::-1], found[:, ::-1], found.T):
        assert np.array_equal(found, other)


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_repeats_after_a_period_and_not_before(name):
    found = TEXTURES[name](*grid(48, 48), 8)

    shifts = [(down, across) for down in range(9) for across in range(9)]
    same = {(a, b) for a, b in shifts if np.array_equal(found[a:, b:], found[: 48 - a, : 48 - b])}
    lattice = {(0, 0), (0, 8), (8, 0), (8, 8)}
    along = {
        "horizontal stripes": {(down, across) for down in (0, 8) for across in range(9)},
        "vertical stripes": {(down, across) for down in range(9) for across in (0, 8)},
        "rising stripes": {(down, across) for down, across in shifts if (down + across) % 8 == 0},
        "falling stripes": {(down, across) for down, across in shifts if (down - across) % 8 == 0},
        "dots": lattice,
        "checks": lattice | {(4, 4)},
    }
    assert same == along[name]


def test_the_command_writes_pictures_labels_and_masks(tmp_path, capsys, scenes):
    folder = tmp_path / "set"

    assert main([str(folder), "--rows", "5", "--seed", "3", "--size", str(SIZE)]) == 0

    assert "5 pictures of 64 by 64" in capsys.readouterr().out
    with (folder / "pictures.csv").open() as file:
        lines = list(csv.DictReader(file))
    for each, line in zip(scenes, lines, strict=False):
        assert np.array_equal(np.asarray(Image.open(folder / line["file"])), each.picture)
        assert (line["shape"], line["color"], line["texture"]) == (each.label, each.color, each.texture)
        shapes = np.asarray(Image.open(folder / "masks" / "shape" / line["file"]))
        for key, mask in each.masks.items():
            if key[0] == "shape":
                assert np.array_equal(shapes == 1 + CATEGORIES["shape"].index(key[1]), mask)
            if key[0] == "position":
                assert np.array_equal(np.asarray(Image.open(folder / "masks" / key[0] / key[1] / line["file"])), mask)


def test_a_folder_that_is_not_empty_and_a_size_that_cannot_be_are_refused(tmp_path, capsys):
    (tmp_path / "file").touch()

    assert main([str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), "--size", "8"]) == 2
    assert "the size must be 32 to 1024" in capsys.readouterr().err


def test_no_rows_are_a_data_set_of_none(tmp_path):
    assert write_scenes(tmp_path / "none", 0, size=SIZE) == 0
