"""CSV files as tables: read by the header's names and the model's columns, or refused with line and column."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from client.test_tables import MODEL, NUMBERS, ROWS, cells, column, model, refusal
from pellucid.catalogue import InputSignature, Model
from pellucid.inputs import read_inputs
from pellucid.receipts import ModelKey

HEADER = "ward,blood pressure,age,sex\n"
TEXT = HEADER + "south,101.5,59,2\nnorth,87,31,1\nnorth,99,72,2\n"


@pytest.fixture
def written(tmp_path):
    """Write a file and return its path."""

    def write(data):
        path = tmp_path / "rows.csv"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        TEXT.rstrip("\n"),
        TEXT + "\n\n",
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.replace("south", '"south"').replace("age", '"age"'),
        TEXT.replace("101.5", " 101.5 ").replace("59", "5.9e+1").replace("87", "+87."),
        TEXT.replace(",2\n", ",2.0\n"),
    ],
    ids=["plain", "no end", "empty lines at the end", "CRLF", "BOM", "quotes", "numbers", "codes as floats"],
)
def test_rows_are_read_by_the_headers_names(written, data):
    path = written(data)

    assert cells(path) == cells(str(path)) == cells([path]) == ROWS
    assert cells({"row": path}) == ROWS
    assert read_inputs(MODEL, path).source(1) == {"row": ROWS[1]}


def test_what_python_and_pandas_write_is_read(written, tmp_path):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["sex", "ward", "age", "blood pressure"])
    writer.writeheader()
    writer.writerows(ROWS)
    pd.DataFrame(ROWS).to_csv(tmp_path / "pandas.CSV", index=False)

    assert cells(written(buffer.getvalue())) == ROWS
    assert cells(tmp_path / "pandas.CSV") == ROWS


def test_names_and_categories_may_hold_what_quotes_are_for(written):
    of = model(column('a "b", c\nd'), column("x", "one, two", "NA", " "))

    found = cells(written('x,"a ""b"", c\nd"\r\n"one, two",1\r\nNA,2\r\n" ",3\r\n'), of)

    assert found == [{'a "b", c\nd': 1, "x": "one, two"}, {'a "b", c\nd': 2, "x": "NA"}, {'a "b", c\nd': 3, "x": " "}]


@pytest.mark.parametrize(
    ("data", "field", "parts"),
    [
        (TEXT.replace("87", ""), "line 3, column 'blood pressure'", ["is empty; the model takes no missing values"]),
        (TEXT.replace("87", "NA"), "line 3, column 'blood pressure'", ["is missing ('NA')"]),
        (TEXT.replace("87", "nan"), "line 3, column 'blood pressure'", ["is missing ('nan')"]),
        (TEXT.replace("south", ""), "line 2, column 'ward'", ["is empty"]),
        (TEXT.replace("87", "high"), "line 3, column 'blood pressure'", ["is 'high'; it must be a number"]),
        (TEXT.replace("87", '"87,5"'), "line 3, column 'blood pressure'", ["is '87,5'; it must be a number, such as"]),
        (TEXT.replace("87", "1_000"), "line 3, column 'blood pressure'", ["is '1_000'; it must be a number"]),
        (TEXT.replace("87", "٣"), "line 3, column 'blood pressure'", ["it must be a number"]),
        (TEXT.replace("87", "inf"), "line 3, column 'blood pressure'", ["is 'inf'; it must be a number"]),
        (TEXT.replace("87", "1e999"), "line 3, column 'blood pressure'", ["beyond the range"]),
        (TEXT.replace("87", "2026-01-02"), "line 3, column 'blood pressure'", ["it must be a number"]),
        (TEXT.replace("south", "West"), "line 2, column 'ward'", ["is 'West', no category", "'north', 'south'"]),
        (TEXT.replace("59,2", "59,3"), "line 2, column 'sex'", ["is '3', no category", "it takes: '1', '2'"]),
        (TEXT.replace("59,2", "59"), "line 2", ["has 3 cells, and the header has 4"]),
        (TEXT.replace("59,2", "59,2,"), "line 2", ["has 5 cells"]),
        (HEADER + "\nsouth,101.5,59,2\n", "line 2", ["is empty; each line must have a cell for each column"]),
        (HEADER, "", ["has a header and no rows"]),
        ("", "", ["which is empty; it must have a header and rows"]),
        ("\n\n", "", ["which is empty"]),
        (TEXT.replace(",", ";"), "line 1", ["separated by semicolons; the cells must be separated by commas"]),
        (TEXT.replace(",", "\t"), "line 1", ["separated by tabs"]),
        (TEXT.replace("age", "Age"), "line 1", ["lacks the column 'age'", "(perhaps 'Age' for 'age')"]),
        (TEXT.replace("age", "sex"), "line 1", ["more than one column of the name 'sex'"]),
        (TEXT.replace("ward,", ",ward,"), "line 1", ["has '', which the model does not take", "index=False"]),
        ("1,101.5,59,2\n1,2,3,4\n", "line 1", ["line 1 must be the header, with the columns' names"]),
        (TEXT.replace("south", '"south'), "line 4", ["has a quoted cell that does not end"]),
        (TEXT.encode("utf-16"), "", ["which is no text in UTF-8; save it as UTF-8"]),
        (TEXT.replace("south", "süd").encode("latin-1"), "", ["which is no text in UTF-8"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line_and_column(written, data, field, parts):
    found, message = refusal(written(data))

    assert found == ("inputs['row']: " + field if field else "inputs['row']")
    assert [part for part in parts if part not in message] == [], message


def test_the_line_of_a_cell_behind_lines_in_quotes_is_the_files_own(written):
    of = model(column("a"), column("x", "one\ntwo"))

    assert refusal(written('a,x\n1,"one\ntwo"\n2,"one\ntwo"\nbad,"one\ntwo"\n'), of)[0].endswith("line 7, column 'a'")


@pytest.mark.parametrize("name", ["nowhere.csv", "a\0b.csv", "folder.csv"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()

    _, message = refusal(str(tmp_path / name))

    assert "give the path of a CSV file" in message


def test_several_files_are_refused(written):
    path = written(TEXT)

    assert "is 2 files; give one file with all rows" in refusal([path, path])[1]


def test_a_file_of_numbers_has_the_same_numbers(written):
    values = np.random.default_rng(3).normal(size=(200, 3)) * 10.0 ** np.arange(-3, 3, 2)
    lines = ["c,a,b", *(f"{c!r},{a!r},{b!r}" for a, b, c in values.tolist())]

    found = cells(written("\n".join(lines)), NUMBERS)

    np.testing.assert_array_equal([[row[name] for name in "abc"] for row in found], values)


def test_a_csv_file_for_another_input_than_a_table_is_no_table(written):
    signature = InputSignature("x", "tensor", "float32", (3,))
    of = Model(ModelKey("m", 1, ""), "", (signature,), (), (), (), "graph", None, 0, False)

    assert "must be an array" in refusal(written(TEXT), of)[1]


def test_a_file_larger_than_any_request_is_refused_unread(tmp_path):
    path: Path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(300 << 20)

    assert "has 314,572,800 bytes; at most 268,435,456 are read" in refusal(path)[1]
