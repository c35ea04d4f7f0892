"""Files of masks: of every kind that PNG has, damaged, and too large."""

import io

import numpy as np
import pytest
from pellucid_server.engine.datasets.masks import mask_files
from pellucid_server.engine.datasets.masks.mask_files import read_colour_map, read_map, table_lines
from pellucid_server.engine.datasets.opening import DataFile, DataSetError
from PIL import Image

FLAGS = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)


def written(tmp_path, picture):
    content = io.BytesIO()
    picture.save(content, "PNG")
    (tmp_path / "mask.png").write_bytes(content.getvalue())
    return DataFile(tmp_path, "mask.png")


@pytest.mark.parametrize("array", [FLAGS.astype(np.bool_), FLAGS, 255 * FLAGS, 60_000 * FLAGS.astype(np.uint16)])
def test_flags_and_greys_of_8_and_16_bits_are_read_as_they_are(tmp_path, array):
    found = read_map(written(tmp_path, Image.fromarray(array)))

    assert np.array_equal(found, array)
    assert found.dtype.kind == "u"


def test_a_palette_gives_places_in_it_and_not_its_colours(tmp_path):
    picture = Image.fromarray(FLAGS)
    picture.putpalette(bytes(range(255, -1, -1)) * 3)

    assert np.array_equal(read_map(written(tmp_path, picture)), FLAGS)


def test_the_second_channel_of_a_colour_map_counts_256_times(tmp_path):
    numbers = np.array([[0, 255, 256], [1197, 65535, 513]])
    colours = np.stack([numbers % 256, numbers // 256, np.full_like(numbers, 9)], axis=-1).astype(np.uint8)

    assert np.array_equal(read_colour_map(written(tmp_path, Image.fromarray(colours))), numbers)


@pytest.mark.parametrize(("read", "mode"), [(read_map, "RGB"), (read_map, "LA"), (read_colour_map, "L")])
def test_other_channels_are_refused(tmp_path, read, mode):
    with pytest.raises(DataSetError, match=rf"mask\.png has the channels {mode}; it must have"):
        read(written(tmp_path, Image.new(mode, (3, 2))))


def test_a_file_that_is_cut_or_changed_anywhere_is_refused_or_read_but_nothing_else(tmp_path):
    source = written(tmp_path, Image.fromarray(np.tile(FLAGS, (8, 8))))
    path = tmp_path / "mask.png"
    whole = path.read_bytes()
    changed = [whole[:length] for length in range(len(whole))]
    changed += [bytes([*whole[:at], whole[at] ^ 0xFF, *whole[at + 1 :]]) for at in range(len(whole))]

    messages = []
    for content in changed:
        path.write_bytes(content)
        try:
            assert read_map(source).ndim == 2
        except DataSetError as error:
            messages.append(str(error))

    assert len(messages) > len(whole)
    assert all("mask.png" in each for each in messages)


def test_other_formats_and_vast_masks_are_refused(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "mask.bmp")
    with pytest.raises(DataSetError, match="no PNG file"):
        read_map(DataFile(tmp_path, "mask.bmp"))
    monkeypatch.setattr(mask_files, "MOST_PIXELS", 63)
    with pytest.raises(DataSetError, match="more than 63 pixels"):
        read_map(written(tmp_path, Image.new("L", (8, 8))))


def test_a_table_has_the_wanted_columns_by_line_and_may_have_others(tmp_path):
    (tmp_path / "table.csv").write_text('\ufeffa,b,c\n1,"x, y",2\n3,,4\n', encoding="utf-8")

    found = list(table_lines(DataFile(tmp_path, "table.csv"), ("a", "b")))

    assert found == [("table.csv, line 2", {"a": "1", "b": "x, y"}), ("table.csv, line 3", {"a": "3", "b": ""})]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must have the columns a"),
        (b"b\n1\n", "must have the columns a"),
        (b"a\n\xff\n", "UTF-8"),
        (b'a\n"x', "CSV"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path, content, words):
    (tmp_path / "table.csv").write_bytes(content)

    with pytest.raises(DataSetError, match=words):
        list(table_lines(DataFile(tmp_path, "table.csv"), ("a",)))
