"""Data sets as models take them: against rows that are prepared by hand."""

import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from e2e.small_models import (
    BIAS,
    PICTURES,
    SCORES,
    SERIES,
    WEIGHT,
    linear_scores,
    write_pictures,
    write_scores,
    write_series,
)
from pellucid_server.engine.asking.studies import Decision
from pellucid_server.engine.datasets.catalogue import scan
from pellucid_server.engine.datasets.labels import Labels, decision
from pellucid_server.engine.datasets.records import DataSetError, records
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.errors import NotFoundError, UnsupportedError
from pellucid_server.vocabulary.requests import PicturesInput
from PIL import Image

ROWS = [
    (12.0, 1.5, "red", "large", "f"),
    (8.0, -1.0, "green", "small", "m"),
    (10.0, 0.0, "blue", "small", "f"),
    (9.5, 2.25, "red", "large", ""),
    (1e-3, 1e3, "blue", "small", "m"),
]
NAMES = ("width", "height", "colour", "size", "sex")
TOML = 'kind = "table"\ndata = "rows.csv"\nlabel = "size"\ngroups = ["sex", "colour"]\n'


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_scores(folder)
    write_pictures(folder)
    write_series(folder)
    return {model.name: model for model in load_repository(folder, "cpu", 1)}


@pytest.fixture
def scores(models):
    return models[SCORES]


def csv_text(rows=ROWS, names=NAMES):
    return "\n".join(",".join(map(str, row)) for row in (names, *rows)) + "\n"


def write(folder, toml=TOML, name="shapes", **files):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "dataset.toml").write_text(toml)
    for file, content in files.items():
        path = folder / name / file.replace("_csv", ".csv")
        path.write_text(content, encoding="utf-8")
    return folder


def read(folder, model, size=2, name="shapes", **options):
    found = scan(folder).find(name)
    return list(found.batches(model, decision(model.outputs[0], model.name), size, **options))


def refused(folder, model, name="shapes"):
    with pytest.raises(UnsupportedError) as caught:
        read(folder, model, name=name)
    return caught.value.message


def test_rows_labels_and_groups_are_those_of_the_table(tmp_path, scores):
    found = read(write(tmp_path, rows_csv=csv_text()), scores)

    assert [batch.count for batch in found] == [2, 2, 1]
    rows = np.concatenate([batch.rows["features"] for batch in found])
    given = [linear_scores(*row[:3]) for row in ROWS]
    np.testing.assert_allclose(rows @ WEIGHT.T + BIAS, given, rtol=1e-6)
    assert np.concatenate([batch.labels for batch in found]).tolist() == [1, 0, 0, 1, 0]
    assert sum((batch.groups["sex"] for batch in found), ()) == ("f", "m", "f", "", "m")
    assert sum((batch.groups["colour"] for batch in found), ()) == ("red", "green", "blue", "red", "blue")
    assert np.concatenate([batch.numbers for batch in found]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("first", [0, 1, 4, 5, 9])
def test_reading_from_a_row_on_gives_what_a_whole_reading_gives_there(tmp_path, scores, first):
    folder = write(tmp_path, rows_csv=csv_text())
    (whole,) = read(folder, scores, 100)

    found = read(folder, scores, 100, first=first)

    labels = np.concatenate([batch.labels for batch in found]) if found else np.array([])
    assert labels.tolist() == whole.labels.tolist()[first:]
    assert [number for batch in found for number in batch.numbers] == list(range(first, len(ROWS)))


def test_a_parquet_file_is_read_as_the_csv_file_of_its_rows_by_row_groups(tmp_path, scores):
    csv_rows = read(write(tmp_path, rows_csv=csv_text()), scores, 100)[0]
    write(tmp_path, TOML.replace("rows.csv", "rows.parquet"), name="parquet")
    columns = dict(zip(NAMES, map(list, zip(*ROWS, strict=True)), strict=True))
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "parquet" / "rows.parquet", row_group_size=2)

    (found,) = read(tmp_path, scores, 100, name="parquet")

    assert np.array_equal(found.rows["features"], csv_rows.rows["features"])
    assert found.labels.tolist() == csv_rows.labels.tolist()
    assert found.groups == csv_rows.groups
    assert scan(tmp_path).find("parquet").info.rows == len(ROWS)


def test_without_pyarrow_a_parquet_file_is_refused_with_what_to_install(tmp_path, monkeypatch):
    write(tmp_path, TOML.replace("rows.csv", "rows.parquet"))
    (tmp_path / "shapes" / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    (info,) = scan(tmp_path).infos

    assert "install pellucid[parquet]" in info.reason


def test_names_of_classes_that_differ_from_the_models_are_mapped(tmp_path, scores):
    toml = TOML + '[classes]\nL = "large"\nS = 0\n'
    rows = [(*row[:3], row[3][0].upper(), row[4]) for row in ROWS]

    (found,) = read(write(tmp_path, toml, rows_csv=csv_text(rows)), scores, 100)

    assert found.labels.tolist() == [1, 0, 0, 1, 0]
    assert scan(tmp_path).find("shapes").info.classes == ("L", "S")


def test_whole_numbers_that_are_no_labels_are_indices(tmp_path, scores):
    rows = [(*row[:3], int(row[3] == "large"), row[4]) for row in ROWS]

    (found,) = read(write(tmp_path, rows_csv=csv_text(rows)), scores, 100)

    assert found.labels.tolist() == [1, 0, 0, 1, 0]


SECRET = "Zebedee"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((2, "size", SECRET), ["rows.csv, line 4, column 'size'", "none of the model's ('small', 'large')"]),
        ((2, "size", "smal"), ["rows.csv, line 4, column 'size'", "none of the model's ('small', 'large')"]),
        ((2, "size", "86420"), ["rows.csv, line 4, column 'size'", "0 to 1"]),
        ((3, "width", SECRET), ["rows.csv, line 5, column 'width'", "must be a number"]),
        ((3, "width", "nan"), ["rows.csv, line 5, column 'width'", "finite"]),
        ((3, "width", "8.642e300"), ["rows.csv, line 5, column 'width'", "float32 once standardized"]),
        ((1, "width", ""), ["rows.csv, line 3, column 'width'", "number"]),
        ((4, "colour", SECRET), ["rows.csv, line 6, column 'colour'", "red, green, blue"]),
        ((4, "colour", "2.0"), ["rows.csv, line 6, column 'colour'", "red, green, blue"]),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_place_and_its_values_are_not_shown(
    tmp_path, scores, change, words, caplog
):
    number, name, value = change
    rows = [list(row) for row in ROWS]
    rows[number][NAMES.index(name)] = value
    toml = TOML.replace(', "colour"', "")

    message = refused(write(tmp_path, toml, rows_csv=csv_text(rows)), scores)

    assert all(word in message for word in words), message
    assert not value or repr(value) not in message
    assert value in ("", "smal", "nan") or value not in message + caplog.text


def test_labels_of_numbers_are_not_shown_either():
    labels = Labels(Decision("y", "number"), None)
    for value in (SECRET, "inf", None):
        with pytest.raises(DataSetError, match=r"the label must be (a number|finite)") as caught:
            labels.read(value)
        assert value is None or value not in str(caught.value).split()

    twice = Labels(Decision("y", "highest", (SECRET, SECRET, "x")), None)
    with pytest.raises(DataSetError, match=r"two classes; give its index") as caught:
        twice.read(SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("first", [f"{SECRET},1.5,red,large,f", f"{SECRET},1.5,{SECRET},large,f"], ids=["one", "twice"])
def test_a_file_without_a_header_is_broken_and_its_first_row_is_not_listed(tmp_path, first, caplog):
    (info,) = scan(write(tmp_path, rows_csv=f"{first}\n" + csv_text().partition("\n")[2])).infos

    assert "first line" in info.reason
    assert not any(cell in info.reason + caplog.text for cell in (SECRET, "1.5", "large"))


def test_a_short_line_and_a_column_that_nobody_expects_are_refused(tmp_path, scores):
    short = csv_text().replace("8.0,-1.0,", "8.0,")
    # The rows are counted, so the file is read when the server starts.
    assert "line 3: it has 4 cells" in scan(write(tmp_path, rows_csv=short)).infos[0].reason

    rows = [(*row, 7) for row in ROWS]
    more = write(tmp_path / "more", rows_csv=csv_text(rows, (*NAMES, "weight")))
    assert "'weight'" in refused(more, scores)

    listed = write(tmp_path / "listed", TOML + 'ignored = ["weight"]\n', rows_csv=csv_text(rows, (*NAMES, "weight")))
    assert sum(batch.count for batch in read(listed, scores)) == len(ROWS)


def test_quoted_cells_with_commas_and_ends_of_lines_and_a_byte_order_mark_are_read(tmp_path, scores):
    text = "\ufeff" + csv_text().replace("8.0,-1.0,green,small,m", '8.0,-1.0,green,small,"m,\n""x"""')

    found = read(write(tmp_path, rows_csv=text), scores, 100)[0]

    assert found.groups["sex"] == ("f", 'm,\n"x"', "f", "", "m")


def test_pictures_in_folders_by_class_are_those_that_the_model_prepares(tmp_path, models):
    source, encoded = np.random.default_rng(3), {}
    for number, name in enumerate(["cat", "dog", "cat", "bird"]):
        picture = io.BytesIO()
        Image.fromarray(source.integers(0, 256, (20, 15 + number, 3), dtype=np.uint8)).save(picture, "PNG")
        path = tmp_path / "zoo" / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.getvalue())
        encoded[f"{name}/{number}"] = picture.getvalue()
    write(tmp_path, 'kind = "pictures"\ndata = "pictures"\n', name="zoo")
    steps = []

    def run(step):
        steps.append(step)
        return step()

    found = read(tmp_path, models[PICTURES], 3, name="zoo", run=run)

    order = ["bird/3", "cat/0", "cat/2", "dog/1"]
    expected = models[PICTURES].inputs["image"].prepare(PicturesInput(tuple(encoded[name] for name in order)), "x")
    assert np.array_equal(np.concatenate([batch.rows["image"] for batch in found]), expected.rows)
    assert np.concatenate([batch.labels for batch in found]).tolist() == [2, 0, 0, 1]
    assert len(steps) >= 4
    info = scan(tmp_path).find("zoo").info
    assert (info.rows, info.classes) == (4, ("bird", "cat", "dog"))

    (tmp_path / "zoo" / "pictures" / "cat" / "2.png").write_bytes(b"\x89PNG no picture")
    assert "pictures/cat/2.png" in refused(tmp_path, models[PICTURES], "zoo")


def test_pictures_listed_in_a_csv_file_have_groups_and_stay_within_the_folder(tmp_path, models):
    picture = io.BytesIO()
    Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(picture, "PNG")
    (tmp_path / "outside.png").write_bytes(picture.getvalue())
    toml = 'kind = "pictures"\ndata = "list.csv"\ngroups = ["place"]\n'
    write(tmp_path / "sets", toml, name="listed", list_csv="file,label,place,note\na.png,dog,indoors,x\n")
    (tmp_path / "sets" / "listed" / "a.png").write_bytes(picture.getvalue())

    (found,) = read(tmp_path / "sets", models[PICTURES], name="listed")
    assert found.groups == {"place": ("indoors",)}
    assert found.labels.tolist() == [1]

    for name in ("../../outside.png", str(tmp_path / "outside.png"), "gone.png"):
        (tmp_path / "sets" / "listed" / "list.csv").write_text(f"file,label,place\n{name},dog,x\n")
        message = refused(tmp_path / "sets", models[PICTURES], "listed")
        assert "list.csv, line 2: the picture must be a plain file in the data set's folder" in message
        assert name not in message
        assert str(tmp_path) not in message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_streamed_row_by_row(tmp_path, scores, save):
    write(tmp_path, 'kind = "tensor"\ndata = "a.npz"\nlabel = "y"\ngroups = ["place"]\n', name="arrays")
    rows = np.random.default_rng(5).normal(size=(7, 5)).astype(np.float32)
    path = tmp_path / "arrays" / "a.npz"
    save(path, features=rows, y=np.arange(7) % 2, place=np.array(list("aabbaba")))

    info = scan(tmp_path).find("arrays").info
    assert info.rows == 7
    # The small model's table has categories, so that it takes no plain rows; the raw records show them.
    found = list(records(tmp_path / "arrays", scan(tmp_path).find("arrays").description))
    assert np.array_equal([record.cells["features"] for record in found], rows)
    assert [record.cells["place"] for record in found] == list("aabbaba")
    assert [record.cells["y"] for record in found] == (np.arange(7) % 2).tolist()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": np.zeros((3, 2)), "label": np.zeros(4)}, "one row for each row"),
        ({"features": np.array([{}, {}]), "label": np.zeros(2)}, "numbers, flags or texts"),
        ({"features": np.asfortranarray(np.ones((3, 2))), "label": np.zeros(3)}, "by columns"),
        ({"features": np.zeros((3, 2))}, "no column 'label'"),
    ],
)
def test_arrays_that_are_not_rows_of_plain_values_break_the_data_set(tmp_path, arrays, words):
    write(tmp_path, 'kind = "tensor"\ndata = "a.npz"\n', name="arrays")
    np.savez(tmp_path / "arrays" / "a.npz", **arrays)

    (info,) = scan(tmp_path).infos

    assert words in info.reason


@pytest.mark.parametrize("value", [8.642e300, np.nan, np.inf])
def test_an_element_that_the_model_does_not_take_is_named_by_its_row_alone(tmp_path, models, value):
    write(tmp_path, 'kind = "tensor"\ndata = "a.npz"\n', name="arrays")
    series = np.ones((3, 4))
    series[1, 2] = value
    np.savez(tmp_path / "arrays" / "a.npz", series=series, mask=np.ones((3, 4), bool), label=np.zeros(3))

    message = refused(tmp_path, models[SERIES], "arrays")

    assert (
        "a.npz, row 1, array 'series': an element is not finite, or not one that the model takes as float32" in message
    )
    assert str(value) not in message


def test_texts_are_described_and_refused_by_models_that_take_none(tmp_path, scores):
    toml = 'kind = "texts"\ndata = "t.jsonl"\n'
    write(tmp_path, toml, name="words")
    (tmp_path / "words" / "t.jsonl").write_text(
        '{"text": "good", "label": "large"}\n\n{"text": "bad", "label": "small"}\n'
    )

    assert scan(tmp_path).find("words").info.rows == 2
    assert "it must be text" in refused(tmp_path, scores, "words")
    (tmp_path / "words" / "t.jsonl").write_text('{"text": "good"}\n[1]\n')
    assert "t.jsonl, line 2" in scan(tmp_path).infos[0].reason


BROKEN = {
    "no-kind": ('data = "rows.csv"\n', "kind is missing"),
    "unknown-key": (TOML + 'grops = ["sex"]\n', "perhaps groups was meant"),
    "outside": (TOML.replace("rows.csv", "../rows.csv"), "must be the name of a file"),
    "no-file": (TOML.replace("rows.csv", "row.csv"), "there is none of that name"),
    "wrong-ending": (TOML.replace("rows.csv", "rows.pkl"), "ends in .csv or .parquet"),
    "no-column": (TOML.replace('"sex"', '"gender"'), "no column 'gender'"),
    "twice": (TOML.replace('"colour"', '"sex"'), "'sex' twice"),
    "label-is-group": (TOML.replace('"colour"', '"size"'), "which is the label"),
    "not-toml": ("kind = ", "is not TOML"),
}


def test_broken_data_sets_are_listed_with_their_reasons_beside_good_ones(tmp_path):
    for name, (toml, _) in BROKEN.items():
        write(tmp_path, toml, name=name, rows_csv=csv_text())
    write(tmp_path, name="good", rows_csv=csv_text())
    (tmp_path / "no-set").mkdir()

    found = scan(tmp_path)

    reasons = {info.name: info.reason for info in found.infos}
    assert set(reasons) == {*BROKEN, "good"}
    assert all(words in reasons[name] for name, (_, words) in BROKEN.items()), reasons
    assert reasons["good"] == ""
    assert str(tmp_path) not in "".join(reasons.values())
    with pytest.raises(UnsupportedError, match="no column 'gender'"):
        found.find("no-column")
    with pytest.raises(NotFoundError, match="Did you mean 'good'"):
        found.find("goood")


def test_a_folder_that_is_not_there_has_no_data_sets(tmp_path):
    assert scan(tmp_path / "nowhere").infos == ()


def test_links_that_lead_out_break_the_data_set(tmp_path):
    (tmp_path / "secret.csv").write_text(csv_text())
    write(tmp_path / "sets")
    (tmp_path / "sets" / "shapes" / "rows.csv").symlink_to(tmp_path / "secret.csv")

    assert "leads out" in scan(tmp_path / "sets").infos[0].reason


def test_the_digest_is_what_sha256sum_prints_and_changes_with_any_byte_or_name(tmp_path):
    write(tmp_path, rows_csv=csv_text(), note_csv="x\n")
    found = scan(tmp_path)
    command = r"find * -type f -not -path '*/.*' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"
    printed = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path / "shapes", capture_output=True, text=True, check=True
    )

    before = found.find("shapes").info.digest
    assert printed.stdout.split()[0] == before
    assert found.digest(found.find("shapes")) == before
    (tmp_path / "shapes" / "note.csv").write_text("y\n")
    assert found.digest(found.find("shapes")) != before


def test_the_digests_of_large_sets_are_taken_later_and_are_the_same(tmp_path):
    write(tmp_path, rows_csv=csv_text())
    write(tmp_path, "kind = 1", name="broken", rows_csv=csv_text())

    now, later = scan(tmp_path), scan(tmp_path, most_bytes=100)

    assert (now.complete, later.complete) == (True, False)
    assert [info.digest for info in later.infos] == ["", ""]
    assert later.completed() == now.infos
    (tmp_path / "shapes" / "rows.csv").unlink()
    (tmp_path / "shapes" / "rows.csv").symlink_to("/dev/null")
    assert [info.digest for info in scan(tmp_path, most_bytes=0).completed()] == ["", ""]


def test_a_large_table_is_never_in_memory_as_a_whole(tmp_path, scores):
    count = 30_000
    lines = [",".join(map(str, ROWS[number % len(ROWS)])) for number in range(count)]
    folder = write(tmp_path, rows_csv="\n".join([",".join(NAMES), *lines]) + "\n")
    found = scan(folder).find("shapes")
    tracemalloc.start()

    rows = sum(batch.count for batch in found.batches(scores, decision(scores.outputs[0], SCORES), 256))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == count
    assert peak < (folder / "shapes" / "rows.csv").stat().st_size


def test_a_sample_is_of_distinct_rows_seeded_and_of_all_parts_of_the_file(tmp_path, scores):
    rows = [(number, number, "red", "large", "f") for number in range(1000)]
    found = scan(write(tmp_path, rows_csv=csv_text(rows))).find("shapes")

    first, again, other = (found.sample(scores, seed=seed, most=256)["features"][:, 1] for seed in (1, 1, 2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first.tolist())) == 256
    assert abs(first.mean() - 499.5) < 5 * 288.7 / 16
    assert len(found.sample(scores, seed=0, most=5000)["features"]) == 1000


def test_a_sample_of_large_rows_has_fewer(tmp_path, scores, monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.datasets.dataset.SAMPLE_BYTES", 100 * scores.input_row_bytes)
    rows = [(number, number, "red", "large", "f") for number in range(1000)]
    found = scan(write(tmp_path, rows_csv=csv_text(rows))).find("shapes")

    assert len(found.sample(scores, seed=0)["features"]) == 100


def test_a_data_set_of_another_kind_than_the_models_input_is_refused(tmp_path, models):
    assert "it must be tabular" in refused(write(tmp_path, rows_csv=csv_text()), models[PICTURES])
    named = write(tmp_path / "named", TOML.replace("label =", 'input = "featurs"\nlabel ='), rows_csv=csv_text())
    assert "'featurs'" in refused(named, models[SCORES])
