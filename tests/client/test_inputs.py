"""What callers hand over, as bytes on the wire."""

import io

import numpy as np
import pytest
from client.fake_server import MODELS
from pellucid.catalogue import read_model
from pellucid.errors import InvalidRequestError
from pellucid.inputs import read_inputs
from pellucid.tensors import from_tensor
from PIL import Image

PIXELS = np.random.default_rng(7).integers(0, 256, (4, 5, 3), np.uint8)
ROW = {"age": 40, "colour": "red"}


def read(model, given):
    return read_inputs(read_model(MODELS[model]), given)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def damaged():
    """Return an image whose file ends in the middle, which Pillow notices when the pixels are needed."""
    return Image.open(io.BytesIO(png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[:2000]))


class NeedsGradient:
    """Refuses to be an array as a tensor of torch does that needs a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (PIXELS, (1, 4, 5, 3)),
        (PIXELS[:, :, 0], (1, 4, 5, 1)),
        (np.stack([PIXELS, PIXELS]), (2, 4, 5, 3)),
    ],
    ids=["one", "grey", "rows"],
)
def test_uint8_pixels_go_as_rows_of_height_width_channels(given, shape):
    tensor = read("photos", given).messages["image"].tensor

    assert tuple(tensor.shape) == shape
    assert tensor.data == given.tobytes()


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 3, 224, 224)])
def test_float_pictures_go_as_preprocessed_float32_rows(shape):
    sent = read("photos", np.ones(shape, np.float64))

    array = from_tensor(sent.messages["image"].tensor)
    assert array.dtype == np.float32
    assert array.shape == (1, 3, 224, 224)
    assert sent.source(0) == {}


def test_files_and_bytes_go_as_they_are(tmp_path):
    encoded = png(PIXELS)
    (tmp_path / "a.png").write_bytes(encoded)

    sent = read("photos", [tmp_path / "a.png", str(tmp_path / "a.png"), encoded, bytearray(encoded)])

    assert list(sent.messages["image"].pictures.encoded) == [encoded] * 4
    assert sent.count == 4
    assert sent.source(0) == {"image": tmp_path / "a.png"}


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "YCbCr"])
def test_pil_images_arrive_with_the_same_pixels(mode):
    image = Image.fromarray(PIXELS).convert(mode)

    (encoded,) = read("photos", image).messages["image"].pictures.encoded

    arrived = Image.open(io.BytesIO(encoded))
    np.testing.assert_array_equal(
        np.asarray(arrived.convert("RGBA")),
        np.asarray(image.convert("RGB").convert("RGBA"))
        if mode in ("CMYK", "YCbCr")
        else np.asarray(image.convert("RGBA")),
    )


def test_a_pil_image_is_sent_upright_as_its_file_would_be_seen():
    tagged = Image.fromarray(PIXELS)
    tagged.getexif()[0x0112] = 6  # "turn a quarter to the right"

    (encoded,) = read("photos", tagged).messages["image"].pictures.encoded

    arrived = Image.open(io.BytesIO(encoded))
    np.testing.assert_array_equal(np.asarray(arrived), np.rot90(PIXELS, -1))
    assert arrived.getexif().get(0x0112, 1) == 1


def test_pictures_of_different_sizes_go_together_without_loss():
    sent = read("photos", [PIXELS, PIXELS[:2], Image.fromarray(PIXELS)])

    arrived = [np.asarray(Image.open(io.BytesIO(each))) for each in sent.messages["image"].pictures.encoded]
    np.testing.assert_array_equal(arrived[0], PIXELS)
    np.testing.assert_array_equal(arrived[1], PIXELS[:2])
    np.testing.assert_array_equal(arrived[2], PIXELS)


@pytest.mark.parametrize("given", [ROW, [ROW], (ROW,), {"row": ROW}, {"row": [ROW]}])
def test_a_dict_row_goes_as_cells(given):
    (row,) = read("table", given).messages["row"].table.rows

    assert row.cells["age"].number == 40
    assert row.cells["colour"].category == "red"


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(2), True, 3])
def test_numbers_of_any_type_are_numeric_cells(value):
    (row,) = read("table", {"age": value, "colour": "red"}).messages["row"].table.rows

    assert row.cells["age"].number == float(value)


def test_a_number_beyond_all_is_left_to_the_server_to_refuse():
    (row,) = read("table", {"age": -(10**400), "colour": "red"}).messages["row"].table.rows

    assert row.cells["age"].number == -np.inf


@pytest.mark.parametrize(("given", "rows"), [(np.array([40.0, 1.0]), 1), ([[40.0, 1.0], [7.0, 0.0]], 2)])
def test_a_table_of_numbers_goes_as_a_tensor_and_keeps_its_columns_names(given, rows):
    sent = read("table", given)

    assert tuple(sent.messages["row"].tensor.shape) == (rows, 2)
    assert sent.source(0) == {"row": {"age": 40.0, "colour": 1.0}}


@pytest.mark.parametrize("given", [[[[1, 2.5], [3, 4]]], [[1, 2.5], [3, 4]], np.array([[1, 2.5], [3, 4]], np.float32)])
def test_tensors_go_batch_first_and_one_row_may_lack_the_batch(given):
    tensor = read("numbers", given).messages["x"].tensor

    assert tuple(tensor.shape) == (1, 2, 2)
    np.testing.assert_array_equal(from_tensor(tensor), np.array([[[1, 2.5], [3, 4]]], np.float32))
    assert from_tensor(tensor).dtype == np.float32


def test_an_arrays_own_type_is_kept():
    assert from_tensor(read("numbers", np.ones((1, 2, 3), np.float64)).messages["x"].tensor).dtype == np.float64
    assert from_tensor(read("numbers", np.ones((1, 2, 3), np.int32)).messages["x"].tensor).dtype == np.int32


@pytest.mark.parametrize(("given", "texts"), [("hello", ["hello"]), (["a", "b"], ["a", "b"])])
def test_texts_go_as_texts(given, texts):
    assert list(read("texts", given).messages["text"].texts.texts) == texts


def test_several_inputs_are_given_by_name():
    sent = read("both", {"image": PIXELS, "row": ROW})

    assert tuple(sent.messages["image"].tensor.shape) == (1, 4, 5, 3)
    assert sent.messages["row"].table.rows[0].cells["age"].number == 40
    assert set(sent.source(0)) == {"image", "row"}


@pytest.mark.parametrize(
    ("model", "given", "field", "right"),
    [
        ("both", PIXELS, "inputs", "must be a dict, as both has several inputs: 'image', 'row'"),
        ("both", {"picture": PIXELS}, "inputs", "has the keys 'picture'; both takes a dict with its inputs' names"),
        ("photos", {"picture": PIXELS}, "inputs", "its inputs' names: 'image'"),
        ("photos", "nowhere.png", "inputs['image']", "there is no such file"),
        ("photos", [PIXELS, 3], "inputs['image'][1]", "is of type int; a picture must be a file's path"),
        ("photos", PIXELS.astype(int), "inputs['image']", "is an array of int64; pixels must be uint8"),
        ("photos", np.zeros(3, np.uint8), "inputs['image']", "is uint8 of shape (3,); pixels must be"),
        ("photos", np.zeros((2, 2), np.float32), "inputs['image']", "it must be (rows, 3, 224, 224)"),
        ("photos", [], "inputs['image']", "give at least one picture"),
        ("photos", [np.zeros((2, 2), np.float32)], "inputs['image'][0]", "must be uint8"),
        ("photos", Image.new("F", (2, 2)), "inputs['image']", "convert it to RGB or L"),
        ("table", {**ROW, "age": None}, "inputs['row'][0]['age']", "is missing (None); the model takes no missing"),
        ("table", [ROW, 3], "inputs['row'][1]", "each row must be a dict"),
        ("table", "age=3", "inputs['row']", "is the text 'age=3'; a table's rows must be a dict, a pandas"),
        ("numbers", [[1, 2], [3]], "inputs['x']", "nested lists of numbers of equal length"),
        ("numbers", [1.0], "inputs['x']", "it must be (rows, 2, any), or (2, any) for one row"),
        ("numbers", np.ones((2, 2), np.uint16), "inputs['x']", "convert the array to one of"),
        ("numbers", {"y": [1.0]}, "inputs", "has the keys 'y'; numbers takes"),
        ("photos", "a\0b.png", "inputs['image']", "there is no such file"),
        ("photos", "\ud800.png", "inputs['image']", "there is no such file"),
        ("photos", "/", "inputs['image']", "the file cannot be read"),
        ("photos", [np.zeros((2, 2, 5), np.uint8)], "inputs['image'][0]", "must be uint8, (height, width[, channels])"),
        ("photos", [np.zeros((0, 2), np.uint8)], "inputs['image'][0]", "must be uint8, (height, width[, channels])"),
        ("photos", damaged(), "inputs['image']", "its file may be damaged, gone or closed"),
        (
            "table",
            {**ROW, "colour": "\ud800"},
            "inputs['row'][0]['colour']",
            "half of a surrogate pair is no character",
        ),
        ("table", {"\ud800": 1}, "a column of inputs['row'][0]", "half of a surrogate pair is no character"),
        ("table", {**ROW, "age": object()}, "inputs['row'][0]['age']", "is of type object; it must be a number"),
        ("table", {**ROW, "age": [40]}, "inputs['row'][0]['age']", "is of type list; it must be a number"),
        ("table", {**ROW, "colour": [40]}, "inputs['row'][0]['colour']", "is of type list, no category of the column"),
        ("numbers", NeedsGradient(), "inputs['x']", "must be an array, or nested lists of numbers"),
        ("texts", ["a", "\ud800"], "inputs['text'][1]", "half of a surrogate pair is no character"),
        ("texts", 3, "inputs['text']", "must be a text or a list of texts"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_field_and_remedy(model, given, field, right):
    with pytest.raises(InvalidRequestError) as caught:
        read(model, given)

    assert right in str(caught.value)
    assert list(caught.value.violations) == [field]
    assert isinstance(caught.value, ValueError)
