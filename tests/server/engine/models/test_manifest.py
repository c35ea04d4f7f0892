"""What a model.toml may say, and how it is refused."""

import pytest
from pellucid_server.engine.models.files.manifest import (
    ColumnManifest,
    ImageManifest,
    InputManifest,
    Manifest,
    OutputManifest,
    read_manifest,
)
from pellucid_server.engine.models.files.strict_toml import ManifestError

IMAGE = """
[[inputs]]
name = "image"
modality = "image"
resize = 256
crop = [224, 192]
mean = [1, 2.5, 3]
standard_deviation = [4, 5, 6]
"""

TABLE = """
[[inputs]]
name = "table"
modality = "tabular"
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "model.toml"
        path.write_text(text, encoding="utf-8")
        return read_manifest(path)

    return read


def test_an_empty_manifest_has_the_defaults(read):
    assert read("") == Manifest(
        description="", runtime="auto", background="", solo=False, max_rows=1024, inputs=(), outputs=(), files=()
    )


def test_every_key_of_the_model_is_read(read, tmp_path):
    (tmp_path / "rows.npz").touch()

    manifest = read("""
        description = "Counts."
        runtime = "graph"
        background = "rows.npz"
        solo = true
        [limits]
        max_rows = 7
    """)

    assert manifest == Manifest("Counts.", "graph", "rows.npz", True, 7, (), (), ("rows.npz",))


def test_a_background_is_disclosable_only_where_its_table_says_so(read, tmp_path):
    (tmp_path / "rows.npz").touch()

    plain = read("background = 'rows.npz'")
    silent = read("[background]\nfile = 'rows.npz'")
    open_to_all = read("[background]\nfile = 'rows.npz'\ndisclosable = true")

    assert [each.disclosable for each in (plain, silent, open_to_all)] == [False, False, True]
    assert {each.background for each in (plain, silent, open_to_all)} == {"rows.npz"}
    assert open_to_all.files == ("rows.npz",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[background]\ndisclosable = true", ["background.file is missing"]),
        ("[background]\nfile = 'gone.npz'", ["background.file is 'gone.npz'", "none of that name"]),
        ("[background]\nfile = 'rows.npz'\ndisclosable = 1", ["background.disclosable is 1", "true or false"]),
        ("[background]\nfile = 'rows.npz'\ndisclosed = true", ["background.disclosed", "disclosable was meant"]),
    ],
)
def test_a_table_of_the_background_that_is_wrong_is_refused(read, tmp_path, text, words):
    (tmp_path / "rows.npz").touch()

    with pytest.raises(ManifestError) as refused:
        read(text)

    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_pictures_are_read(read):
    manifest = read(IMAGE + 'interpolation = "lanczos"')

    image = ImageManifest(256, (224, 192), "lanczos", (1.0, 2.5, 3.0), (4.0, 5.0, 6.0))
    assert manifest.inputs == (InputManifest("image", "image", image=image),)


def test_columns_are_read_in_order(read):
    manifest = read(
        TABLE
        + """
        [[inputs.columns]]
        name = "age"
        mean = 40
        standard_deviation = 12.5
        minimum = 0
        maximum = 120
        unit = "years"
        [[inputs.columns]]
        name = "size"
        categories = ["small", "large"]
        encoding = "ordinal"
        [[inputs.columns]]
        name = "colour"
        categories = ["red"]
        """
    )

    assert manifest.inputs[0].columns == (
        ColumnManifest("age", 40.0, 12.5, 0.0, 120.0, unit="years"),
        ColumnManifest("size", categories=("small", "large"), encoding="ordinal"),
        ColumnManifest("colour", categories=("red",), encoding="one-hot"),
    )


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("[0, 1]", ((0.0, 1.0),)), ("[[-1, 1.5]]", ((-1.0, 1.5),)), ("[[0, 1], [2, 2]]", ((0.0, 1.0), (2.0, 2.0)))],
)
def test_ranges_are_one_pair_or_several(read, text, ranges):
    assert read(f'[[inputs]]\nname = "x"\nranges = {text}').inputs == (InputManifest("x", ranges=ranges),)


@pytest.mark.parametrize("role", ["mask", "values"])
def test_an_input_may_have_a_role(read, role):
    assert read(f'[[inputs]]\nname = "x"\nrole = "{role}"').inputs == (InputManifest("x", role=role),)


@pytest.mark.parametrize(("text", "mean"), [("", None), ("mean = 0", 0.0), ("mean = 0.0", 0.0), ("mean = 2.5", 2.5)])
def test_a_mean_that_is_stated_is_told_from_one_that_is_not(read, text, mean):
    lines = f'[[inputs]]\nname = "x"\nmodality = "tabular"\n[[inputs.columns]]\nname = "a"\n{text}'

    (column,) = read(lines).inputs[0].columns

    assert column == ColumnManifest("a", mean)


def test_labels_stand_in_the_manifest_or_in_a_file(read, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n dog \ncat\n", encoding="utf-8")

    manifest = read("""
        [[outputs]]
        name = "animal"
        kind = "logits"
        labels_file = "labels.txt"
        [[outputs]]
        name = "age"
        labels = ["young", "old"]
        unit = "years"
    """)

    assert manifest.outputs == (
        OutputManifest("animal", "logits", ("cat", "dog", "cat")),
        OutputManifest("age", "values", ("young", "old"), "years"),
    )
    assert manifest.files == ("labels.txt",)


COLUMN = TABLE + '[[inputs.columns]]\nname = "a"\n'

REFUSED = {
    "not TOML": ("solo = maybe", ["is not TOML"]),
    "unknown key": ("runtme = 'auto'", ["runtme", "perhaps runtime was meant"]),
    "unknown limit": ("[limits]\nrows = 3", ["limits.rows", "max_rows"]),
    "unknown key of an input": (IMAGE + "widht = 3", ["inputs[0].widht", "resize"]),
    "wrong type": ("description = 3", ["description is 3", "a text"]),
    "flag for a number": ("[limits]\nmax_rows = true", ["limits.max_rows is True", "at least 1"]),
    "zero rows": ("[limits]\nmax_rows = 0", ["limits.max_rows is 0", "at least 1"]),
    "number for a flag": ("solo = 1", ["solo is 1", "true or false"]),
    "unknown runtime": ("runtime = 'tensorrt'", ["runtime is 'tensorrt'", "auto, graph, onnxruntime"]),
    "inputs as a table": ("[inputs]\nname = 'x'", ["inputs is", "[[...inputs]]"]),
    "input without a name": ("[[inputs]]\nmodality = 'tensor'", ["inputs[0].name is missing", "a text"]),
    "empty name": ("[[inputs]]\nname = ''", ["inputs[0].name is ''", "not empty"]),
    "one name twice": ("[[inputs]]\nname = 'x'\n[[inputs]]\nname = 'x'", ["inputs has 'x' twice"]),
    "unknown role": ("[[inputs]]\nname = 'x'\nrole = 'flag'", ["inputs[0].role is 'flag'", "values, mask"]),
    "unknown modality": ("[[inputs]]\nname = 'x'\nmodality = 'sound'", ["'sound'", "tensor, image, tabular"]),
    "texts": ("[[inputs]]\nname = 'x'\nmodality = 'text'", ["inputs[0].modality is 'text'", "not supported yet"]),
    "picture without sizes": ("[[inputs]]\nname = 'x'\nmodality = 'image'", ["inputs[0].resize is missing"]),
    "crop above resize": (IMAGE.replace("256", "200"), ["inputs[0].crop is [224, 192]", "resize, 200"]),
    "crop of one side": (IMAGE.replace("[224, 192]", "[224]"), ["inputs[0].crop is [224]", "height and width"]),
    "two channels": (IMAGE.replace("[1, 2.5, 3]", "[1, 2]"), ["inputs[0].mean is [1, 2]", "three for RGB"]),
    "infinite mean": (IMAGE.replace("2.5", "inf"), ["inputs[0].mean is [1, inf, 3]"]),
    "no deviation": (IMAGE.replace("[4, 5, 6]", "[4, 0, 6]"), ["standard_deviation is [4, 0, 6]", "above 0"]),
    "fewer deviations": (
        IMAGE.replace("[4, 5, 6]", "[4]"),
        ["standard_deviation is [4]", "as many numbers as mean, 3"],
    ),
    "unknown interpolation": (IMAGE + "interpolation = 'box'", ["interpolation is 'box'", "bicubic"]),
    "table without columns": (TABLE, ["inputs[0].columns is missing"]),
    "column twice": (COLUMN + '[[inputs.columns]]\nname = "a"', ["inputs[0].columns has 'a' twice"]),
    "no spread": (COLUMN + "standard_deviation = 0", ["inputs[0].columns[0].standard_deviation is 0", "above 0"]),
    "range upside down": (COLUMN + "minimum = 2\nmaximum = 1", ["minimum is 2", "maximum, 1"]),
    "no categories": (COLUMN + "categories = []", ["inputs[0].columns[0].categories is []"]),
    "category twice": (COLUMN + "categories = ['u', 'u']", ["categories has 'u' twice"]),
    "both kinds of column": (COLUMN + "categories = ['u']\nmean = 3", ["inputs[0].columns[0].mean is not a key"]),
    "encoding of numbers": (COLUMN + "encoding = 'ordinal'", ["inputs[0].columns[0].encoding is not a key"]),
    "range of one number": ("[[inputs]]\nname = 'x'\nranges = [1]", ["inputs[0].ranges is [1]", "pairs"]),
    "falling range": ("[[inputs]]\nname = 'x'\nranges = [[1, 0]]", ["inputs[0].ranges is [[1, 0]]"]),
    "unknown kind": ("[[outputs]]\nname = 'y'\nkind = 'softmax'", ["outputs[0].kind is 'softmax'", "probabilities"]),
    "missing file": ("background = 'gone.npz'", ["background is 'gone.npz'", "there is none of that name"]),
    "file outside": ("background = '../model.toml'", ["background is '../model.toml'", "in the folder of model.toml"]),
    "absolute file": ("background = '/etc/passwd'", ["background is '/etc/passwd'", "in the folder of model.toml"]),
    "labels twice": ("[[outputs]]\nname='y'\nlabels=['a']\nlabels_file='model.toml'", ["labels_file is 'model.toml'"]),
}


@pytest.mark.parametrize(("text", "parts"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_manifest_is_refused_with_file_key_value_and_remedy(read, tmp_path, text, parts):
    with pytest.raises(ManifestError) as caught:
        read(text)

    message = str(caught.value)
    assert [part for part in [str(tmp_path / "model.toml"), *parts] if part not in message] == [], message


def test_a_label_file_with_an_empty_line_is_refused_by_its_number(read, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n", encoding="utf-8")

    with pytest.raises(ManifestError, match="none on line 2"):
        read("[[outputs]]\nname = 'y'\nlabels_file = 'labels.txt'")


def test_a_label_file_that_is_no_text_is_refused(read, tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"cat\n\xff")

    with pytest.raises(ManifestError, match="not from byte 4 on"):
        read("[[outputs]]\nname = 'y'\nlabels_file = 'labels.txt'")


def test_a_manifest_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "model.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ManifestError, match="must be UTF-8 text"):
        read_manifest(tmp_path / "model.toml")


@pytest.mark.parametrize("control", ["\x00", "\x1b[31m", "\t", "\x0b", "\x85", "\u2028", "\u202e"], ids=ascii)
def test_a_control_character_in_a_label_is_refused_with_its_place(read, tmp_path, control):
    (tmp_path / "labels.txt").write_text(f"cat\nd{control}og\n", encoding="utf-8", newline="")
    shown = ascii(control).replace("'", "").replace("\\", "\\\\").replace("[", "\\[")
    escaped = "".join(f"\\u{ord(each):04x}" for each in control)

    with pytest.raises(ManifestError, match=f"labels_file is 'labels.txt'; it must be .*'d{shown}og' on line 2"):
        read("[[outputs]]\nname = 'y'\nlabels_file = 'labels.txt'")
    with pytest.raises(ManifestError, match=rf"outputs\[0\]\.labels\[1\] is 'd{shown}og'; it must be without control"):
        read(f"[[outputs]]\nname = 'y'\nlabels = ['cat', \"d{escaped}og\"]")
    with pytest.raises(ManifestError, match=r"outputs\[0\]\.name is .*; it must be without control"):
        read(f'[[outputs]]\nname = "d{escaped}og"')


@pytest.mark.parametrize("label", ["naïve café", "می\u200cخواهم", "全角\u3000空白", "👩\u200d🔬", "a\xa0b"])
def test_labels_of_any_language_are_read(read, tmp_path, label):
    (tmp_path / "labels.txt").write_text(f"cat\r\n {label} \r\n", encoding="utf-8", newline="")

    manifest = read("[[outputs]]\nname = 'y'\nlabels_file = 'labels.txt'")

    assert manifest.outputs[0].labels == ("cat", label)


def test_a_byte_order_mark_is_no_part_of_a_key_or_a_label(read, tmp_path):
    (tmp_path / "labels.txt").write_text("\ufeffcat\ndog\n", encoding="utf-8")

    manifest = read("\ufeffdescription = 'Animals.'\n[[outputs]]\nname = 'y'\nlabels_file = 'labels.txt'")

    assert manifest.description == "Animals."
    assert manifest.outputs[0].labels == ("cat", "dog")


def test_the_key_that_was_probably_meant_is_named_in_a_sentence(read):
    with pytest.raises(ManifestError, match=r"sollo is not a key that belongs here; perhaps solo was meant\.$"):
        read("sollo = true")
