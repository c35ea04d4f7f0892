"""Data sets whose files are large, odd, or changed under way: what is read of them, and what a caller reads."""

import itertools
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from e2e.small_models import write_scores
from pellucid_server.engine.datasets import steps
from pellucid_server.engine.datasets.catalogue import scan
from pellucid_server.engine.datasets.cells import as_number
from pellucid_server.engine.datasets.labels import decision
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.errors import CancelledError, UnavailableError, UnsupportedError

NAMES = ("width", "height", "colour", "size", "sex")
TOML = 'kind = "table"\ndata = "rows.csv"\nlabel = "size"\ngroups = ["sex"]\nignored = ["note"]\n'
LONG = 131_072


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_scores(folder)
    (model,) = load_repository(folder, "cpu", 1)
    return model


def lines(count, width="{number}"):
    return [f"{width.format(number=number)},{number},red,large,f,n{number}" for number in range(count)]


def text(rows):
    return "\n".join([",".join((*NAMES, "note")), *rows]) + "\n"


def make(folder, rows=None, *, toml=TOML, count=20):
    """Write a data set called shapes and scan its folder; `folder` may have others."""
    (folder / "shapes").mkdir(parents=True, exist_ok=True)
    (folder / "shapes" / "dataset.toml").write_text(toml)
    (folder / "shapes" / "rows.csv").write_text(text(lines(count) if rows is None else rows))
    return scan(folder)


def parquet(folder, count=20, **columns):
    (folder / "shapes").mkdir(parents=True, exist_ok=True)
    (folder / "shapes" / "dataset.toml").write_text(TOML.replace("rows.csv", "rows.parquet"))
    table = {
        "width": np.arange(count, dtype=float),
        "height": np.zeros(count),
        "colour": ["red"] * count,
        "size": ["large"] * count,
        "sex": ["f"] * count,
        "note": ["n"] * count,
    }
    pyarrow.parquet.write_table(
        pa.table({**table, **columns}), folder / "shapes" / "rows.parquet", row_group_size=count
    )
    return scan(folder)


def everything(found, model, **options):
    return list(found.batches(model, decision(model.outputs[0], model.name), 7, **options))


def sampled(found, model, **options):
    return found.sample(model, seed=0, **options)


READINGS = pytest.mark.parametrize("reading", [sampled, everything])


class Steps:
    """Runs steps and keeps count; before the step of number `at`, does something."""

    def __init__(self, at=0, act=lambda: None):
        self.count, self._at, self._act = 0, at, act

    def __call__(self, step):
        self.count += 1
        if self.count == self._at:
            self._act()
        return step()


def leave():
    raise CancelledError("The caller left.")


@pytest.mark.parametrize("make_set", [lambda folder: make(folder, count=300), lambda folder: parquet(folder, 300)])
def test_sampling_stops_between_rows_when_the_caller_leaves(tmp_path, scores, monkeypatch, make_set):
    found = make_set(tmp_path).find("shapes")
    whole = sampled(found, scores, most=10)
    monkeypatch.setattr(steps, "STEP_SECONDS", 0.0)
    counted = Steps()

    stepwise = sampled(found, scores, most=10, run=counted)

    assert np.array_equal(whole["features"], stepwise["features"])
    assert counted.count > 300
    with pytest.raises(CancelledError):
        sampled(found, scores, most=10, run=Steps(150, leave))


def test_a_step_of_the_digest_is_a_block_of_a_file_and_the_digest_is_the_same(tmp_path, monkeypatch):
    found = make(tmp_path)
    (tmp_path / "shapes" / "more.bin").write_bytes(bytes(5 << 20))
    whole = scan(tmp_path).find("shapes").info.digest
    monkeypatch.setattr(steps, "STEP_SECONDS", 0.0)
    counted = Steps()

    assert found.digest(found.find("shapes"), counted) == whole
    assert counted.count > 8
    (tmp_path / "shapes" / "more.bin").write_bytes(bytes(6 << 20))
    with pytest.raises(CancelledError):
        found.digest(found.find("shapes"), Steps(counted.count - 2, leave))


def within(seconds, call):
    """Return what a call raises; a call that hangs fails."""
    raised = []

    def run():
        try:
            call()
        except UnsupportedError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive()
    return raised[0].message


@READINGS
@pytest.mark.parametrize("name", ["rows.csv", "dataset.toml"])
def test_a_pipe_in_a_files_place_hangs_nobody(tmp_path, scores, reading, name):
    found = make(tmp_path).find("shapes")
    (tmp_path / "shapes" / name).unlink()
    os.mkfifo(tmp_path / "shapes" / name)

    message = within(20, lambda: reading(found, scores))

    assert f"{name} is not a plain file" in message
    assert str(tmp_path) not in message


def test_a_pipe_that_is_put_there_between_looking_and_opening_hangs_nobody(tmp_path, scores, monkeypatch):
    found = make(tmp_path).find("shapes")
    rows = tmp_path / "shapes" / "rows.csv"
    opened = os.open

    def swap(path, *given, **options):
        if path == "rows.csv":
            rows.unlink()
            os.mkfifo(rows)
        return opened(path, *given, **options)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(UnavailableError, match="changed while they were read"):
        sampled(found, scores)


@READINGS
def test_a_link_that_leads_out_is_not_followed_whenever_it_is_put_there(tmp_path, scores, reading, monkeypatch):
    found = make(tmp_path / "sets").find("shapes")
    rows, outside = tmp_path / "sets" / "shapes" / "rows.csv", tmp_path / "outside.csv"
    outside.write_text(text(lines(5)))
    original = rows.read_text()
    opened = os.open

    def swap(path, *given, **options):
        if path == "rows.csv":
            rows.unlink()
            rows.symlink_to(outside)
        return opened(path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap)
        with pytest.raises(UnavailableError):
            reading(found, scores)
    with pytest.raises(UnsupportedError) as caught:
        reading(found, scores)
    assert "rows.csv leads out of the data set's folder" in caught.value.message
    assert str(tmp_path) not in caught.value.message

    rows.unlink()
    (rows.parent / "inside.csv").write_text(original)
    rows.symlink_to("inside.csv")
    assert reading(found, scores)


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path, scores):
    toml = TOML.replace("rows.csv", "inner/rows.csv")
    inner = tmp_path / "sets" / "shapes" / "inner"
    for folder in (inner, tmp_path / "outside"):
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(text(lines(5)))
    found = make(tmp_path / "sets", toml=toml).find("shapes")
    assert len(sampled(found, scores)["features"]) == 5

    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(tmp_path / "outside")

    with pytest.raises(UnsupportedError, match="inner is a link to a folder"):
        sampled(found, scores)


@READINGS
def test_files_that_change_while_they_are_read_are_unavailable_whatever_came_of_it(tmp_path, scores, reading):
    found = make(tmp_path, count=30).find("shapes")
    rows = tmp_path / "shapes" / "rows.csv"
    counted = Steps()
    reading(found, scores, run=counted)

    for at, act in itertools.product(
        range(2, counted.count + 1),
        [lambda: rows.write_text(text(["1,2"])), rows.unlink, lambda: rows.write_text(text(lines(30)) + " ")],
    ):
        make(tmp_path, count=30)
        with pytest.raises(UnavailableError, match="changed while they were read"):
            reading(found, scores, run=Steps(at, act))


def test_the_digest_of_files_that_change_meanwhile_is_unavailable_and_not_kept(tmp_path, monkeypatch):
    sets = make(tmp_path)
    found = sets.find("shapes")
    more = tmp_path / "shapes" / "more.bin"
    more.write_bytes(bytes(4 << 20))
    monkeypatch.setattr(steps, "STEP_SECONDS", 0.0)

    def change():
        more.write_bytes(b"x" * (4 << 20))

    with pytest.raises(UnavailableError):
        sets.digest(found, Steps(10, change))
    assert sets.digest(found) == scan(tmp_path).find("shapes").info.digest


@READINGS
def test_a_data_set_of_a_header_alone_is_refused_alike(tmp_path, scores, reading):
    found = make(tmp_path, []).find("shapes")

    with pytest.raises(UnsupportedError, match="it has no rows"):
        reading(found, scores)


def age(path):
    """Let a file that is there have been changed an hour ago."""
    if path.is_file():
        os.utime(path, (time.time() - 3600, time.time() - 3600))


@READINGS
def test_a_file_that_is_wrong_just_after_it_changed_may_be_right_in_a_moment(tmp_path, scores, reading):
    found = make(tmp_path).find("shapes")
    rows = tmp_path / "shapes" / "rows.csv"
    rows.write_text("")
    os.utime(rows, ns=(found.described_ns + 1, found.described_ns + 1))

    with pytest.raises(UnavailableError, match="changed while"):
        reading(found, scores)
    age(rows)
    with pytest.raises(UnsupportedError, match=r"rows\.csv is empty"):
        reading(found, scores)
    rows.write_text(text(lines(3)))
    assert reading(found, scores)


VANISHED = {
    "gone": (lambda rows: rows.unlink(), "rows.csv cannot be read: No such file"),
    "latin-1": (lambda rows: rows.write_bytes(text(lines(3)).replace("n0", "é").encode("latin-1")), "must be UTF-8"),
    "a folder": (lambda rows: (rows.unlink(), rows.mkdir()), "rows.csv is not a plain file"),
    "a circle": (lambda rows: (rows.unlink(), rows.symlink_to("rows.csv")), "rows.csv cannot be read"),
    "short": (lambda rows: rows.write_text(text(["1,2"])), "rows.csv, line 2: it has 2 cells"),
}


@READINGS
@pytest.mark.parametrize("case", VANISHED)
def test_messages_name_files_from_the_data_sets_folder_on(tmp_path, scores, reading, case):
    found = make(tmp_path).find("shapes")
    act, words = VANISHED[case]
    act(tmp_path / "shapes" / "rows.csv")
    age(tmp_path / "shapes" / "rows.csv")

    with pytest.raises(UnsupportedError) as caught:
        reading(found, scores)

    assert words in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_damaged_parquet_files_and_vanished_folders_are_named_from_the_folder_on(tmp_path, scores):
    sets = parquet(tmp_path)
    found, path = sets.find("shapes"), tmp_path / "shapes" / "rows.parquet"
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(byte ^ (0xFF if place < 400 else 0) for place, byte in enumerate(content)))
    age(path)
    with pytest.raises(UnsupportedError, match=r"rows\.parquet") as damaged:
        everything(found, scores)
    (tmp_path / "shapes").rename(tmp_path / "gone")
    with pytest.raises(UnsupportedError) as gone:
        sampled(found, scores)
    with pytest.raises(UnsupportedError) as undigested:
        sets.digest(found)

    for caught in (damaged, gone, undigested):
        assert str(tmp_path) not in caught.value.message


def test_at_the_start_too_links_lead_out_of_the_data_sets_folder(tmp_path):
    make(tmp_path / "sets")
    for name in ("rows.csv", "dataset.toml"):
        path = tmp_path / "sets" / "shapes" / name
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)

        (info,) = scan(tmp_path / "sets").infos

        assert "leads out of the data set's folder" in info.reason
        assert str(tmp_path) not in info.reason
        path.unlink()
        (tmp_path / name).rename(path)


@pytest.fixture
def arrow_bytes():
    """Give what tells how many bytes Arrow held at most since the fixture was used."""
    usual, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    yield counted
    pa.set_memory_pool(usual)


def test_ignored_columns_of_a_parquet_file_are_not_read(tmp_path, scores, arrow_bytes):
    found = parquet(tmp_path, note=["x" * 2_000_000] * 20).find("shapes")
    pa.set_memory_pool(arrow_bytes)

    (batch, *_), rows = everything(found, scores), sampled(found, scores)

    assert 0 < arrow_bytes.max_memory() < 4_000_000
    assert batch.groups["sex"] == ("f",) * 7
    assert rows["features"].shape[0] == 20


@pytest.mark.parametrize(
    ("cell", "read"), [("é" * LONG, True), ("é" * (LONG + 1), False), (b"x" * LONG, True), (b"x" * (LONG + 1), False)]
)
@pytest.mark.parametrize("where", ["once", "often"])
def test_a_cell_of_a_parquet_file_has_as_many_characters_as_one_of_csv(tmp_path, scores, cell, read, where):
    count = 600
    cells = [cell[:1]] * count
    cells[300:] = [cell] * (count - 300) if where == "often" else [cell, *[cell[:1]] * (count - 301)]
    found = parquet(tmp_path, count, sex=cells).find("shapes")

    if read:
        groups = sum((batch.groups["sex"] for batch in everything(found, scores)), ())
        assert groups[300] == str(cell)
    else:
        with pytest.raises(UnsupportedError, match=rf"rows\.parquet, row 300: the column 'sex' has {LONG + 1} char"):
            everything(found, scores)


def test_long_cells_are_refused_without_holding_them(tmp_path, scores, arrow_bytes):
    different = parquet(tmp_path / "different", 5, sex=[chr(97 + number) * 4_000_000 for number in range(5)])
    repeated = parquet(tmp_path / "repeated", 40, sex=["a" * 1_000_000] * 40)
    pa.set_memory_pool(arrow_bytes)

    with pytest.raises(UnsupportedError, match="'sex' has cells of more than 131072 characters"):
        everything(different.find("shapes"), scores)
    assert arrow_bytes.max_memory() < 2_000_000
    with pytest.raises(UnsupportedError, match="row 0: the column 'sex' has 1000000 characters"):
        everything(repeated.find("shapes"), scores)
    assert arrow_bytes.max_memory() < 10_000_000


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string()])
def test_texts_of_every_storage_are_the_same_and_nothing_is_an_empty_text(tmp_path, scores, kind):
    cells = pa.array(["a", None, "", "b"] * 5).cast(kind)
    found = parquet(tmp_path, sex=cells).find("shapes")

    assert sum((batch.groups["sex"] for batch in everything(found, scores)), ()) == ("a", "", "", "b") * 5


def test_a_column_of_lists_is_refused_unless_it_is_ignored(tmp_path, scores):
    lists = pa.array([[1.0, 2.0]] * 20)
    assert everything(parquet(tmp_path, note=lists).find("shapes"), scores)

    found = parquet(tmp_path, width=lists).find("shapes")

    with pytest.raises(UnsupportedError, match=r"'width' is of list<.*each cell must be one value"):
        everything(found, scores)


def test_an_ignored_column_that_the_model_takes_is_read(tmp_path, scores):
    toml = TOML.replace('["note"]', '["note", "width"]')
    plain = sampled(make(tmp_path / "plain").find("shapes"), scores)
    found = parquet(tmp_path / "p")
    (tmp_path / "p" / "shapes" / "dataset.toml").write_text(toml.replace("rows.csv", "rows.parquet"))
    found = scan(tmp_path / "p").find("shapes")

    assert np.array_equal(sampled(found, scores)["features"][:, 0], plain["features"][:, 0])


@pytest.mark.parametrize(
    "cell",
    ["1_0", "١٧", "０", "0x10", "1e", "1,5", "1 0", "", " ", "1d3", "true", "\u00a01", "1\n", b"10", None, 10**400],
)
def test_a_cell_that_is_no_plain_decimal_number_is_refused(cell):
    with pytest.raises(ValueError, match="no number"):
        as_number(cell)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("10", 10),
        ("-1.5e3", -1500),
        ("+.5", 0.5),
        ("5.", 5),
        (" 2\t", 2),
        ("1E-2", 0.01),
        (3, 3),
        (2.5, 2.5),
        (True, 1),
    ],
)
def test_plain_decimal_numbers_are_read(cell, number):
    assert as_number(cell) == number


@pytest.mark.parametrize("cell", ["1_0", "١٧"])
@pytest.mark.parametrize("column", ["width", "colour"])
def test_a_row_with_such_a_cell_is_named(tmp_path, scores, cell, column):
    rows = lines(20)
    rows[3] = f"{cell},3,red,large,f,n" if column == "width" else f"3,3,{cell},large,f,n"
    found = make(tmp_path, rows).find("shapes")

    with pytest.raises(UnsupportedError, match=r"rows\.csv, line 5") as caught:
        everything(found, scores)

    assert column == "colour" or "'width': it must be a number" in caught.value.message
