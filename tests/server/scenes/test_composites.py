"""Composites of stamps and patterns: with ones that the test draws, and with the packages' own where they are."""

import csv
import struct

import numpy as np
import pytest
from PIL import Image

from scripts import composites
from scripts.composites import PATTERNS, STAMPS, Pattern, Sources, Stamp, read_pattern

NAMES = {1: "goldfish, Carassius auratus", 5: "zebra", 134: "crane", 517: "crane", 673: "mouse, computer mouse"}


@pytest.fixture
def sources(tmp_path):
    """A yellow disc that is a fruit and a class, a blue square that is a tool, and a grey pattern."""
    rows, columns = np.mgrid[:100, :100]
    disc = np.zeros((100, 100, 4), np.uint8)
    disc[(rows - 50) ** 2 + (columns - 50) ** 2 < 40**2] = (250, 220, 20, 255)
    Image.fromarray(disc).save(tmp_path / "disc.png")
    Image.new("RGBA", (100, 100), (20, 40, 220, 255)).save(tmp_path / "square.png")
    stamps = (
        Stamp(tmp_path / "disc.png", "A lemon.", "fruit", 5),
        Stamp(tmp_path / "square.png", "A box.", "tool", None),
    )
    pattern = Pattern("slate", "stone", np.full((64, 64, 3), 128, np.uint8))
    return Sources(stamps, (pattern,), {5: "zebra"})


def test_masks_are_of_the_objects_the_ground_and_the_colours_of_pixels(sources):
    for row in composites.composites(sources, 12, 3, 96, 1):
        (kind,) = {"fruit", "tool"} & {name for _, name in row.masks}
        mask = row.masks["object", kind]
        fruit = kind == "fruit"
        inner = row.picture[mask]
        assert (np.abs(inner.astype(int) - ((250, 220, 20) if fruit else (20, 40, 220))) < 130).all()
        assert row.cells["object"] == kind
        assert row.cells["class"] == ("zebra" if fruit else "")
        assert (("class", "zebra") in row.masks) == fruit
        for key in (("material", "stone"), ("texture", "slate")):
            assert np.array_equal(row.masks[key], ~mask)
        colour = row.masks["color", "yellow" if fruit else "blue"]
        # But for pixels on the edge, which are mixed with the ground.
        assert (colour & mask).sum() > 0.9 * mask.sum()
        assert sum(found.astype(int) for key, found in row.masks.items() if key[0] == "color").min() == 1


def test_the_discs_mask_has_the_area_of_a_disc(sources):
    rows = composites.composites(sources, 20, 0, 224, 1)
    masks = [row.masks["object", "fruit"] for row in rows if row.cells["object"] == "fruit"]

    for mask in masks:
        down, across = np.ptp(np.argwhere(mask), axis=0) + 1
        assert mask.sum() == pytest.approx(np.pi / 4 * down * across, rel=0.03)


def test_two_objects_are_of_different_kinds_side_by_side(sources):
    for row in composites.composites(sources, 8, 1, 96, 2):
        fruit, tool = row.masks["object", "fruit"], row.masks["object", "tool"]
        first, second = (fruit, tool) if row.cells["object"] == "fruit" else (tool, fruit)
        assert not first[:, 48:].any()
        assert not second[:, :48].any()
        assert {row.cells["object"], row.cells["second"]} == {"fruit", "tool"}
        assert sorted([row.cells["class"], row.cells["second_class"]]) == ["", "zebra"]


def test_a_seed_gives_the_same_composites_and_another_others(sources):
    first, again, other = (
        [row.picture for row in composites.composites(sources, 3, seed, 64, 1)] for seed in (1, 1, 2)
    )

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("A zebra.", 5),
        ("A goldfish.", 1),
        ("A zebra (a young one).", 5),
        ("A zebra crossing.", None),
        ("A mouse.", None),
        ("A mug.", 504),
    ],
)
def test_a_label_stands_for_the_class_that_it_names(label, index):
    assert composites._index(label, NAMES) == index


def test_classes_that_share_a_name_have_their_index_behind_it():
    assert composites._short(NAMES)[134] == "crane (134)"
    assert composites._short(NAMES)[1] == "goldfish"


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_patterns_are_read_with_any_number_of_channels(tmp_path, depth):
    pixels = np.arange(2 * 3 * depth, dtype=np.uint8).reshape(2, 3, depth)
    head = struct.pack(">5I4s", 24 + 5, 1, 3, 2, depth, b"GPAT") + b"bark\0"
    (tmp_path / "Wood").mkdir()
    (tmp_path / "Wood" / "bark.pat").write_bytes(head + pixels.tobytes())

    found = read_pattern(tmp_path / "Wood" / "bark.pat")

    assert (found.name, found.material) == ("bark", "wood")
    assert np.array_equal(found.pixels, pixels[:, :, :3] if depth > 1 else pixels.repeat(3, 2))


def test_without_the_packages_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(composites, "STAMPS", tmp_path / "none")

    assert composites.main([str(tmp_path / "set")]) == 1
    assert "apt-get install --no-install-recommends tuxpaint-stamps-default" in capsys.readouterr().err


@pytest.mark.skipif(
    not (STAMPS.is_dir() and PATTERNS.is_dir()), reason="tuxpaint-stamps-default or gimp-data is missing"
)
def test_the_packages_have_some_thirty_kinds_of_things_and_sixty_classes(tmp_path):
    assert composites.main([str(tmp_path / "set"), "--rows", "3", "--size", "64", "--classes"]) == 0
    with (tmp_path / "set" / "classes.csv").open() as file:
        classes = {line["class"] for line in csv.DictReader(file)}
    with (tmp_path / "set" / "pictures.csv").open() as file:
        assert {line["class"] for line in csv.DictReader(file)} <= classes
    found = composites.read_sources()

    assert {"zebra", "broccoli", "basketball", "hammer"} <= classes
    assert len(classes) >= 60
    assert 20 <= len({each.kind for each in found.stamps}) <= 40
    assert len(found.patterns) >= 40
