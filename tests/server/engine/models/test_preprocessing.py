"""Tensors, pictures and tables become the rows that the model takes."""

import contextlib
import io
import math
import zlib

import numpy as np
import pytest
from pellucid_server.engine.models.files.manifest import ColumnManifest, ImageManifest, InputManifest
from pellucid_server.engine.models.inputs.pictures import (
    MOST_PIXELS,
    MOST_PIXELS_TOGETHER,
    PicturePreprocessor,
    crop_box,
    seen_pixels,
)
from pellucid_server.engine.models.inputs.preprocessing import TensorPreprocessor, UnfitManifestError
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import PicturesInput, TableInput, TensorInput, TextsInput
from pellucid_server.vocabulary.results import Box
from PIL import Image

FLOAT32 = np.dtype(np.float32)
FIELD = 'inputs["x"]'


def tensors(dtype="float32", shape=(2,), ranges=()):
    return TensorPreprocessor(InputManifest("x", ranges=ranges), np.dtype(dtype), shape)


def refusal(preprocessor, given):
    with pytest.raises(InvalidRequestError) as caught:
        preprocessor.prepare(given, FIELD)
    return caught.value


# Tensors


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("float32", "float32"),
        ("float32", "float64"),
        ("float32", "float16"),
        ("float32", "int64"),
        ("float32", "uint8"),
        ("float64", "float32"),
        ("int64", "int64"),
        ("int64", "int8"),
        ("int32", "int64"),
        ("bool", "bool"),
    ],
)
def test_a_tensor_is_converted_where_nothing_is_lost(model, sent):
    array = np.array([[0, 1], [1, 1]], sent)

    prepared = tensors(model).prepare(TensorInput(array), FIELD)

    assert prepared.rows.dtype == model
    assert prepared.rows.tolist() == [[0, 1], [1, 1]]
    assert prepared.boxes == (None, None)


def test_a_tensor_of_the_models_type_is_not_copied():
    array = np.ones((3, 2), np.float32)

    assert np.shares_memory(tensors().prepare(TensorInput(array), FIELD).rows, array)


@pytest.mark.parametrize(
    ("model", "array", "field", "parts"),
    [
        ("int64", np.ones((1, 2), np.float32), "data_type", ["float32", "int64"]),
        ("float32", np.ones((1, 2), bool), "data_type", ["bool", "float32"]),
        ("bool", np.ones((1, 2), np.uint8), "data_type", ["uint8", "bool"]),
        ("float32", np.array([[0, 2**24 + 1]]), "data", ["16777217", "-16777216 to 16777216"]),
        ("int8", np.array([[0, 128]]), "data", ["0 to 128", "-128 to 127"]),
        ("int64", np.array([[0, 2**63]], np.uint64), "data", ["9223372036854775808"]),
        ("float32", np.array([[0, 1e39]]), "data", ["1e+39 at index [0, 1]", "range of float32"]),
        ("float32", np.array([[1, 2], [np.nan, 1]], np.float32), "data", ["nan at index [1, 0]", "finite"]),
        ("float32", np.array([[-np.inf, 2]], np.float32), "data", ["-inf at index [0, 0]", "finite"]),
        ("float32", np.ones((1, 3), np.float32), "shape", ["(1, 3)", "(rows, 2)"]),
        ("float32", np.ones(2, np.float32), "shape", ["(2,)", "(rows, 2)"]),
        ("float32", np.ones((0, 2), np.float32), "shape", ["(0, 2)", "at least one row"]),
    ],
)
def test_a_tensor_that_the_model_cannot_take_is_refused(model, array, field, parts):
    error = refusal(tensors(model), TensorInput(array))

    assert error.metadata["field"] == f"{FIELD}.tensor.{field}"
    assert [part for part in parts if part not in error.message] == [], error.message


def test_an_open_length_takes_any_but_none():
    preprocessor = tensors(shape=(None, 2))

    assert preprocessor.prepare(TensorInput(np.ones((1, 9, 2), np.float32)), FIELD).rows.shape == (1, 9, 2)
    assert "(rows, any, 2)" in refusal(preprocessor, TensorInput(np.ones((1, 0, 2), np.float32))).message


@pytest.mark.parametrize(
    ("given", "word"),
    [(PicturesInput((b"",)), "encoded pictures"), (TextsInput(("a",)), "texts"), (TableInput(({},)), "a table")],
)
def test_a_tensor_input_takes_nothing_else(given, word):
    error = refusal(tensors(), given)

    assert error.message == f"{FIELD} is {word}; it must be a tensor."
    assert error.metadata["field"] == FIELD


def test_ranges_tell_methods_how_far_elements_spread():
    assert tensors(ranges=((-1.0, 3.0),)).feature.ranges == 4.0
    assert tensors(ranges=((0.0, 1.0), (2.0, 7.0))).feature.ranges.tolist() == [1, 5]
    assert tensors().feature.ranges is None


@pytest.mark.parametrize("bound", [1e19, 2.0**63, 1e30])
def test_a_range_beyond_64_bits_is_none_for_whole_numbers(bound):
    numbers = np.array([[0, np.iinfo(np.int64).max]])

    found = tensors("int64", ranges=((0.0, bound),)).prepare(TensorInput(numbers), "x")

    np.testing.assert_array_equal(found.rows, numbers)
    with pytest.raises(InvalidRequestError, match="whole numbers from 0 to"):
        tensors("int64", ranges=((0.0, bound),)).prepare(TensorInput(-numbers), "x")


def test_ranges_must_fit_the_last_axis():
    with pytest.raises(UnfitManifestError, match=r"3 ranges; a row's shape is \(2,\)"):
        tensors(ranges=((0.0, 1.0),) * 3)


# Pictures

MEAN, DEVIATION = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)


def pictures(resize=8, crop=(6, 4), interpolation="bicubic", mean=MEAN, deviation=DEVIATION):
    image = ImageManifest(resize, crop, interpolation, mean, deviation)
    return PicturePreprocessor(InputManifest("x", "image", image=image), FLOAT32, (len(mean), *crop))


def encoded(array, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def noise(height, width, channels=3, seed=5):
    print(f"seed {seed}")
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def standardized(pixels):
    """(height, width, 3) pixels to (3, height, width), by hand."""
    return np.stack([(pixels[..., c].astype(np.float64) - MEAN[c]) / DEVIATION[c] for c in range(3)])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_picture_is_resized_then_cropped_then_standardized(interpolation):
    pixels = noise(16, 24)
    whole = Image.fromarray(pixels).resize((12, 8), Image.Resampling[interpolation.upper()])
    expected = standardized(np.asarray(whole.crop((4, 1, 8, 7))))

    prepared = pictures(interpolation=interpolation).prepare(PicturesInput((encoded(pixels),)), FIELD)

    assert prepared.rows.dtype == np.float32
    assert prepared.rows.shape == (1, 3, 6, 4)
    # One level of 256 for the rounding of the resampling's two passes.
    assert np.abs(prepared.rows[0] - expected).max() <= 1 / min(DEVIATION)
    assert np.abs(prepared.rows[0] - expected).mean() < 0.01


def test_a_photograph_of_odd_size_agrees_with_resizing_and_cropping_to_a_shift_below_half_a_pixel():
    x, y = np.meshgrid(np.arange(333), np.arange(217))
    pixels = np.stack([x * 0.7, y * 1.1, (x + y) * 0.4], axis=-1).astype(np.uint8)
    small = Image.fromarray(pixels).resize((round(333 * 64 / 217), 64), Image.Resampling.BICUBIC)
    left = (small.width - 56) / 2
    expected = np.asarray(small.crop((round(left), 4, round(left) + 56, 60))).astype(np.float32)

    rows = (
        pictures(64, (56, 56), mean=(0.0,) * 3, deviation=(1.0,) * 3)
        .prepare(PicturesInput((encoded(pixels),)), FIELD)
        .rows
    )

    slopes = np.array([0.7, 1.1, 0.4]) * 217 / 64
    assert (np.abs(rows[0].transpose(1, 2, 0) - expected).max(axis=(0, 1)) <= slopes * 0.75 + 1).all()


def test_the_box_is_the_part_of_the_picture_that_the_row_shows():
    # 40 high, 60 wide; 5 picture pixels a model pixel, so that the crop is 30 high and 20 wide.
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:35, 20:40] = 255
    preprocessor = pictures(interpolation="nearest", mean=(0.0,) * 3, deviation=(255.0,) * 3)

    prepared = preprocessor.prepare(PicturesInput((encoded(pixels),)), FIELD)

    assert prepared.boxes == (Box(20, 5, 40, 35, 60, 40),)
    assert (prepared.rows == 1).all()


def test_one_pixel_of_a_row_lies_where_the_box_says():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:15, 35:40] = 255

    prepared = pictures(mean=(0.0,) * 3, deviation=(255.0,) * 3, interpolation="nearest").prepare(
        PicturesInput((encoded(pixels),)), FIELD
    )

    box = prepared.boxes[0]
    row, column = (10 - box.top) / (box.bottom - box.top) * 6, (35 - box.left) / (box.right - box.left) * 4
    assert np.argwhere(prepared.rows[0, 0]).tolist() == [[row, column]]


@pytest.mark.parametrize(
    ("width", "height", "edges"),
    [
        (100, 50, (31.25, 6.25, 68.75, 43.75)),
        (50, 100, (6.25, 31.25, 43.75, 68.75)),
        (1, 1, (1 / 8, 1 / 8, 7 / 8, 7 / 8)),
    ],
)
def test_boxes_are_in_fractions_of_pixels(width, height, edges):
    assert crop_box(width, height, 8, (6, 6)) == Box(*edges, width, height)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_picture_is_turned_upright_before_its_box_is_taken(orientation, turn):
    upright = noise(24, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    sideways = encoded(np.rot90(upright, -turn), exif=exif)

    prepared = pictures().prepare(PicturesInput((sideways,)), FIELD)
    expected = pictures().prepare(PicturesInput((encoded(upright),)), FIELD)

    np.testing.assert_array_equal(prepared.rows, expected.rows)
    assert prepared.boxes == expected.boxes == (Box(4, 6, 12, 18, 16, 24),)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_every_format_is_read(form):
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)

    rows = pictures(mean=(0.0,) * 3, deviation=(1.0,) * 3).prepare(PicturesInput((encoded(pixels, form),)), FIELD).rows

    assert np.abs(rows[0, :, 3, 2] - [200, 100, 50]).max() <= 6


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    rows = pictures(mean=(0.0,) * 3, deviation=(255.0,) * 3).prepare(PicturesInput((file.getvalue(),)), FIELD).rows

    assert rows[0, :, 0, 0].tolist() == [1, 0, 0]


def plain(pixels, **options):
    preprocessor = pictures(mean=(0.0,) * 3, deviation=(1.0,) * 3, **options)
    return preprocessor.prepare(PicturesInput((encoded(pixels),)), FIELD).rows[0, :, 3, 2].tolist()


def test_transparency_lies_on_white():
    assert plain(np.full((16, 16, 4), (255, 0, 0, 0), np.uint8)) == [255, 255, 255]
    assert plain(np.full((16, 16, 4), (255, 0, 0, 255), np.uint8)) == [255, 0, 0]
    assert plain(np.full((16, 16, 4), (0, 0, 0, 51), np.uint8)) == [204, 204, 204]


def test_grey_of_16_bits_keeps_its_upper_8():
    assert plain(np.full((16, 16), 0x80FF, np.uint16)) == [128, 128, 128]


def test_a_model_of_one_channel_gets_grey():
    preprocessor = pictures(mean=(0.0,), deviation=(1.0,))

    rows = preprocessor.prepare(PicturesInput((encoded(np.full((16, 16, 3), (255, 0, 0), np.uint8)),)), FIELD).rows

    assert rows.shape == (1, 1, 6, 4)
    assert (rows == round(255 * 0.299)).all()


@pytest.mark.parametrize("channels", [3, 4, 1])
def test_pixels_are_preprocessed_like_the_same_picture_encoded(channels):
    pixels = np.stack([noise(16, 24, channels), noise(16, 24, channels, seed=6)])
    files = tuple(encoded(picture if channels > 1 else picture[:, :, 0]) for picture in pixels)

    of_pixels = pictures().prepare(TensorInput(pixels), FIELD)
    of_files = pictures().prepare(PicturesInput(files), FIELD)

    np.testing.assert_array_equal(of_pixels.rows, of_files.rows)
    assert of_pixels.boxes == of_files.boxes == (Box(8, 2, 16, 14, 24, 16),) * 2


def test_rows_that_are_ready_pass_as_they_are():
    array = np.random.default_rng(0).standard_normal((2, 3, 6, 4)).astype(np.float32)

    prepared = pictures().prepare(TensorInput(array), FIELD)

    assert prepared.rows is array
    assert prepared.boxes == (None, None)


def vast_png(width, height):
    """A PNG of a kilobyte that claims to be vast."""
    head = bytearray(encoded(noise(4, 4)))
    head[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    return bytes(head)


PHOTO = encoded(noise(64, 64), "JPEG")


@pytest.mark.parametrize(
    ("picture", "part"),
    [
        (b"", "0 bytes, is not a picture"),
        (b"GIF89a", "is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "must be a whole PNG, JPEG, WebP, BMP or GIF"),
        (PHOTO[: len(PHOTO) // 2], "is a damaged JPEG file"),
        (encoded(noise(64, 64))[:-200], "is a damaged PNG file"),
        (vast_png(8000, 8000), f"8000 by 8000 pixels, 64,000,000; a picture may have {MOST_PIXELS:,}"),
        (vast_png(60000, 60000), "too many pixels"),
    ],
    ids=["empty", "head", "svg", "half a JPEG", "half a PNG", "vast", "vaster"],
)
def test_what_is_no_picture_is_refused_by_its_place(picture, part):
    error = refusal(pictures(), PicturesInput((encoded(noise(8, 8)), picture)))

    assert error.metadata["field"] == f"{FIELD}.pictures.encoded[1]"
    assert part in error.message


def test_pictures_that_are_too_many_pixels_together_are_refused_before_one_is_decoded():
    # 4 times 50 million pixels is the bound; none of the files holds any, so that decoding one would fail.
    within, one_more = (vast_png(8000, 6250),) * 4, vast_png(1, 1)

    assert "is a damaged PNG file" in refusal(pictures(), PicturesInput(within)).message
    error = refusal(pictures(), PicturesInput((*within, one_more)))
    assert error.metadata["field"] == f"{FIELD}.pictures.encoded"
    assert f"5 pictures with 200,000,001 pixels in all; the pictures of an input may have {MOST_PIXELS_TOGETHER:,}" in (
        error.message
    )


@pytest.mark.parametrize(
    "given",
    [PicturesInput((encoded(noise(8, 8)),) * 3), TensorInput(np.zeros((3, 8, 8, 3), np.uint8))],
    ids=["encoded", "pixels"],
)
def test_pictures_are_prepared_in_steps_of_one_and_no_more_once_a_step_was_not_run(given):
    filled = []

    class Watched(PicturePreprocessor):
        def _row_of(self, picture, row):
            filled.append(row)
            return super()._row_of(picture, row)

    def run(step):
        if len(filled) == 2:
            raise RuntimeError("enough")
        return step()

    image = ImageManifest(8, (6, 4), "bicubic", MEAN, DEVIATION)
    preprocessor = Watched(InputManifest("x", "image", image=image), FLOAT32, (3, 6, 4))

    with pytest.raises(RuntimeError, match="enough"):
        preprocessor.prepare(given, FIELD, run=run)
    assert len(filled) == 2


@pytest.mark.parametrize("seed", range(20))
def test_a_picture_with_flipped_bytes_is_read_or_refused_but_never_a_bug(seed):
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    damaged = np.frombuffer(PHOTO if seed % 2 else encoded(noise(64, 64)), np.uint8).copy()
    damaged[generator.integers(8, len(damaged), 10)] = generator.integers(0, 256, 10)

    with contextlib.suppress(InvalidRequestError):
        assert pictures().prepare(PicturesInput((damaged.tobytes(),)), FIELD).rows.shape == (1, 3, 6, 4)


@pytest.mark.parametrize(
    ("given", "field", "part"),
    [
        (PicturesInput(()), ".pictures.encoded", "at least one"),
        (TextsInput(("a",)), "", "must be encoded pictures or a tensor"),
        (TensorInput(np.zeros((1, 8, 8), np.uint8)), ".tensor.shape", "(rows, height, width, channels)"),
        (TensorInput(np.zeros((1, 3, 6, 8), np.uint8)), ".tensor.shape", "3 (RGB)"),
        (TensorInput(np.zeros((1, 0, 6, 3), np.uint8)), ".tensor.shape", "nothing of length 0"),
        (TensorInput(np.zeros((1, 6, 4, 3), np.float32)), ".tensor.shape", "(rows, 3, 6, 4)"),
        (TensorInput(np.zeros((1, 3, 6, 4), np.int64)), ".tensor.data_type", "pixels must be uint8"),
        (TensorInput(np.full((1, 3, 6, 4), np.nan, np.float32)), ".tensor.data", "finite"),
    ],
)
def test_other_than_pictures_is_refused(given, field, part):
    error = refusal(pictures(), given)

    assert error.metadata["field"] == FIELD + field
    assert part in error.message


def test_a_pictures_range_is_its_256_levels_standardized():
    assert pictures().feature.ranges.tolist() == [[[127.5]], [[63.75]], [[31.875]]]


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (3, 8, 8)), ("float32", (6, 4, 3)), ("int64", (3, 6, 4))])
def test_a_picture_manifest_must_fit_the_model(dtype, shape):
    image = ImageManifest(8, (6, 4), "bicubic", MEAN, DEVIATION)

    with pytest.raises(UnfitManifestError, match=r"float32 \(3, 6, 4\), channels first"):
        PicturePreprocessor(InputManifest("x", "image", image=image), np.dtype(dtype), shape)


# Tables

COLUMNS = (
    ColumnManifest("colour", categories=("red", "green", "blue")),
    ColumnManifest("age", 40.0, 10.0, 0.0, 100.0, unit="years"),
    ColumnManifest("size", categories=("small", "medium", "large"), encoding="ordinal"),
    ColumnManifest("height", 2.0, 0.5, 1.0, 2.0),
)
ROW = {"age": 55.0, "height": 1.0, "colour": "green", "size": "large"}


def tables(columns=COLUMNS, dtype="float32", width=6):
    return TablePreprocessor(InputManifest("x", "tabular", columns=columns), np.dtype(dtype), (width,))


def table(*changes):
    return TableInput(tuple({**ROW, **change} for change in changes))


def test_a_row_is_standardized_and_encoded_in_the_columns_order():
    prepared = tables().prepare(table({}, {"age": 40, "colour": "blue", "size": "small"}), FIELD)

    assert prepared.rows.dtype == np.float32
    assert prepared.rows.tolist() == [[0, 1, 0, 1.5, 2, -2], [0, 0, 1, 0, 0, -2]]
    assert prepared.boxes == (None, None)


def test_methods_learn_the_column_and_the_range_of_each_element():
    feature = tables().feature

    assert feature.groups.tolist() == [0, 0, 0, 1, 2, 3]
    assert feature.groups.dtype == np.int32
    assert feature.ranges.tolist() == [1, 1, 1, 10, 2, 2]


def test_methods_learn_which_elements_are_codes_of_categories():
    feature = tables().feature

    assert feature.columns == ("colour", "age", "size", "height")
    assert feature.coded.tolist() == [True, True, True, False, True, False]
    assert tables(NUMERIC, width=2).feature.coded is None


@pytest.mark.parametrize(
    ("column", "centred"),
    [
        (ColumnManifest("a"), False),
        (ColumnManifest("a", None, 2.0), False),
        (ColumnManifest("a", 14.0, 3.5), True),
        (ColumnManifest("a", 0.0), True),
        (ColumnManifest("a", 14.0, 3.5, 6.0, 28.0), True),
        (ColumnManifest("a", 14.0, 3.5, 6.0), True),
        (ColumnManifest("a", 14.0, 3.5, None, 28.0), True),
        (ColumnManifest("a", 6.0, 22.0, 6.0, 28.0), False),
        (ColumnManifest("a", 28.0, 22.0, 6.0, 28.0), False),
        (ColumnManifest("a", 0.0, 1.0, 6.0, 28.0), False),
        (ColumnManifest("a", 5.0, 1.0, 5.0, 5.0), True),
        (ColumnManifest("a", categories=("x", "y"), encoding="ordinal"), False),
        (ColumnManifest("a", categories=("x",)), False),
    ],
    ids=str,
)
def test_zero_is_a_columns_mean_only_if_the_manifest_says_so_and_its_range_allows_it(column, centred):
    assert tables((column,), width=1).feature.uncentred == (() if centred else ("a",))


def test_ranges_are_unknown_if_one_column_does_not_state_its_own():
    assert tables((*COLUMNS[:3], ColumnManifest("height", minimum=1.0))).feature.ranges is None


def test_callers_learn_the_columns():
    info = tables().info

    assert [(column.name, column.categories, column.unit) for column in info.columns][:2] == [
        ("colour", ("red", "green", "blue"), ""),
        ("age", (), "years"),
    ]
    assert (info.modality, info.data_type, info.shape) == ("tabular", "float32", (6,))


NUMERIC = (ColumnManifest("a", 1.0, 2.0), ColumnManifest("b", -1.0, 4.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_table_of_numbers_may_come_as_a_tensor(dtype):
    preprocessor = tables(NUMERIC, dtype, 2)
    as_table = TableInput(({"b": 3.0, "a": 5.0}, {"a": 1.0, "b": -1.0}))

    of_tensor = preprocessor.prepare(TensorInput(np.array([[5, 3], [1, -1]])), FIELD).rows
    of_table = preprocessor.prepare(as_table, FIELD).rows

    assert of_tensor.dtype == of_table.dtype == dtype
    assert of_tensor.tolist() == of_table.tolist() == [[2, 1], [0, 0]]


@pytest.mark.parametrize(
    ("change", "cell", "parts"),
    [
        ({"age": math.nan}, "age", ["is nan", "finite"]),
        ({"height": math.inf}, "height", ["is inf", "finite"]),
        ({"age": 1e300}, "age", ["1e+300", "range of float32"]),
        ({"age": "old"}, "age", ["'old'", "must be a number"]),
        ({"age": "55"}, "age", ["'55'", "must be a number"]),
        ({"colour": "mauve"}, "colour", ["'mauve'", "red, green, blue"]),
        ({"size": "tiny"}, "size", ["'tiny'", "small, medium, large"]),
        ({"colour": 1.0}, "colour", ["1.0", "red, green, blue"]),
        ({"weight": 1.0}, "weight", ["'weight'", "colour, age, size, height"]),
    ],
)
def test_a_wrong_cell_is_refused_by_its_row_and_column(change, cell, parts):
    error = refusal(tables(), table({}, change))

    assert error.metadata["field"] == f'{FIELD}.table.rows[1].cells["{cell}"]'
    assert [part for part in parts if part not in error.message] == [], error.message


def test_a_missing_column_is_refused_by_name():
    error = refusal(tables(), TableInput((ROW, {name: cell for name, cell in ROW.items() if name != "size"})))

    assert error.metadata["field"] == f'{FIELD}.table.rows[1].cells["size"]'
    assert "has no column 'size'" in error.message


def test_all_missing_and_all_unknown_columns_are_named():
    row = {"age": 55.0, "colour": "green", "weight": 1.0, "Height": 1.0}

    error = refusal(tables(), TableInput((row,)))

    assert "has no columns 'size', 'height'" in error.message
    assert "has columns 'Height', 'weight', which the model does not know" in error.message
    assert "its columns are: colour, age, size, height" in error.message


CODES = (
    ColumnManifest("sex", categories=("1", "2"), encoding="ordinal"),
    ColumnManifest("ward", categories=("007", "7", "-3", "x")),
    ColumnManifest("grade", categories=("2", "2.0", "3", "9007199254740993", "nan"), encoding="ordinal"),
)


@pytest.mark.parametrize(
    ("column", "number", "category"),
    [("sex", 2.0, "2"), ("sex", 1.0, "1"), ("ward", -3.0, "-3"), ("grade", 3.0, "3")],
)
def test_a_whole_number_stands_for_the_category_that_is_written_as_it(column, number, category):
    row = {"sex": "1", "ward": "x", "grade": "3"}
    preprocessor = tables(CODES, width=6)

    by_number = preprocessor.prepare(TableInput(({**row, column: number},)), FIELD).rows
    by_text = preprocessor.prepare(TableInput(({**row, column: category},)), FIELD).rows

    assert by_number.tolist() == by_text.tolist()


@pytest.mark.parametrize(
    ("column", "number"),
    [("sex", 0.0), ("sex", 1.5), ("sex", 3.0), ("ward", 7.0), ("grade", 2.0), ("grade", 9007199254740992.0)],
    ids=["none", "no whole number", "unknown", "also 007", "also 2.0", "beyond the exact"],
)
def test_a_number_that_leaves_the_category_open_is_refused_with_those_there_are(column, number):
    row = {"sex": "1", "ward": "x", "grade": "3"}

    error = refusal(tables(CODES, width=6), TableInput(({**row, column: number},)))

    assert error.metadata["field"] == f'{FIELD}.table.rows[0].cells["{column}"]'
    assert f"is the number {number!r}; it must be a category, one of: " in error.message


@pytest.mark.parametrize(
    ("columns", "given", "field", "part"),
    [
        (COLUMNS, TableInput(()), ".table.rows", "at least one"),
        (COLUMNS, TextsInput(("a",)), "", "must be a table"),
        (COLUMNS, TensorInput(np.zeros((1, 4))), "", "these columns have categories: colour, size"),
        (NUMERIC, TensorInput(np.zeros((1, 3))), ".tensor.shape", "(rows, 2)"),
        (NUMERIC, TensorInput(np.array([[0, np.nan]])), ".tensor.data", "nan at index [0, 1]"),
        (NUMERIC, TensorInput(np.array([[0, 1e300]])), ".tensor.data", "column 'b'"),
    ],
)
def test_other_than_a_table_is_refused(columns, given, field, part):
    width = {COLUMNS: 6, NUMERIC: 2}[columns]
    error = refusal(tables(columns, width=width), given)

    assert error.metadata["field"] == FIELD + field
    assert part in error.message


@pytest.mark.parametrize(("dtype", "width"), [("float32", 5), ("int64", 6)])
def test_a_table_manifest_must_fit_the_model(dtype, width):
    with pytest.raises(UnfitManifestError, match=r"4 columns make rows of \(6,\)"):
        tables(dtype=dtype, width=width)


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ((127.0,) * 3, (128.0,) * 3),
        ((0.0,), (1.0,)),
        ((1e4,) * 3, (1e-3,) * 3),
        ((127.5,) * 3, (1e6,) * 3),
    ],
)
def test_the_pixels_of_a_row_are_given_back_for_every_level(mean, deviation):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    given = np.stack([levels, 255 - levels, levels.T][: len(mean)], axis=-1)
    image = ImageManifest(16, (16, 16), "nearest", mean, deviation)
    preprocessor = PicturePreprocessor(
        InputManifest("image", "image", image=image), np.dtype(np.float32), (len(mean), 16, 16)
    )

    (row,) = preprocessor.prepare(TensorInput(given[None]), FIELD).rows

    assert np.array_equal(seen_pixels(row, preprocessor.info), np.broadcast_to(given, (16, 16, 3)))
