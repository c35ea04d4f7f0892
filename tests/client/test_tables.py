"""Tables are read by their columns' names, and every value is understood without doubt or refused."""

import datetime
import decimal
import sqlite3
import subprocess
import sys
from array import array
from collections import deque, namedtuple
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pellucid.catalogue import Column, InputSignature, Model
from pellucid.errors import InvalidRequestError
from pellucid.inputs import read_inputs
from pellucid.receipts import ModelKey
from pellucid.tensors import from_tensor


def column(name, *categories):
    return Column(name, categories, None, None, "")


def model(*columns):
    signature = InputSignature("row", "tabular", "float32", (len(columns),), tuple(columns))
    return Model(ModelKey("wards", 1, ""), "", (signature,), (), (), (), "graph", None, 0, False)


MODEL = model(column("age"), column("sex", "1", "2"), column("blood pressure"), column("ward", "north", "south"))
NUMBERS = model(column("a"), column("b"), column("c"))
ROWS = [
    {"age": 59.0, "sex": "2", "blood pressure": 101.5, "ward": "south"},
    {"age": 31.0, "sex": "1", "blood pressure": 87.0, "ward": "north"},
    {"age": 72.0, "sex": "2", "blood pressure": 99.0, "ward": "north"},
]
SHUFFLED = ["ward", "blood pressure", "age", "sex"]
NUMBER_SEX = [{**row, "sex": int(row["sex"])} for row in ROWS]


def cells(given, of=MODEL):
    """Return the rows that are sent, as dicts."""
    table = read_inputs(of, given).messages["row"].table
    return [{name: getattr(cell, cell.WhichOneof("value")) for name, cell in row.cells.items()} for row in table.rows]


def refusal(given, of=MODEL):
    with pytest.raises(InvalidRequestError) as caught:
        read_inputs(of, given)
    (field,) = caught.value.violations
    return field, caught.value.message


def categorical():
    frame = pd.DataFrame(ROWS)[SHUFFLED]
    return frame.astype({"ward": "category", "sex": "category"})


def nullable():
    return pd.DataFrame(NUMBER_SEX)[SHUFFLED].convert_dtypes()


def arrow_backed():
    return pd.DataFrame(NUMBER_SEX)[SHUFFLED].convert_dtypes(dtype_backend="pyarrow")


def indexed():
    frame = pd.DataFrame(ROWS)[SHUFFLED]
    frame.index = pd.Index(["c", "a", "b"], name="patient")
    return frame


def structured():
    types = [("ward", "U5"), ("blood pressure", "f4"), ("age", "i8"), ("sex", "i2")]
    return np.array([tuple(row[name] for name in SHUFFLED) for row in NUMBER_SEX], types)


def sqlite_rows():
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.execute('create table t (ward, "blood pressure", age, sex)')
    connection.executemany(
        "insert into t values (?, ?, ?, ?)", [[row[name] for name in SHUFFLED] for row in NUMBER_SEX]
    )
    return connection.execute("select * from t").fetchall()


ARROW = pa.table({name: [row[name] for row in NUMBER_SEX] for name in SHUFFLED})
TABLES = {
    "dicts": lambda: [{name: row[name] for name in SHUFFLED} for row in ROWS],
    "dicts in other orders": lambda: [dict(reversed(ROWS[0].items())), *ROWS[1:]],
    "pandas": lambda: pd.DataFrame(NUMBER_SEX)[SHUFFLED],
    "pandas sorted": lambda: pd.DataFrame(NUMBER_SEX).sort_index(axis=1),
    "pandas of objects": lambda: pd.DataFrame(NUMBER_SEX, dtype=object)[SHUFFLED],
    "pandas of float codes": lambda: pd.DataFrame(NUMBER_SEX)[SHUFFLED].astype({"sex": float}),
    "pandas categorical": categorical,
    "pandas nullable": nullable,
    "pandas on Arrow": arrow_backed,
    "pandas with an index": indexed,
    "pandas filtered": lambda: pd.concat([pd.DataFrame(ROWS)] * 2).iloc[[3, 1, 5]],
    "pandas subclass": lambda: type("Geo", (pd.DataFrame,), {})(pd.DataFrame(ROWS)[SHUFFLED]),
    "series in a list": lambda: [row for _, row in pd.DataFrame(NUMBER_SEX)[SHUFFLED].iterrows()],
    "polars": lambda: pl.DataFrame(NUMBER_SEX).select(SHUFFLED),
    "polars categorical": lambda: pl.DataFrame(ROWS).select(SHUFFLED).with_columns(pl.col("ward").cast(pl.Categorical)),
    "polars enum": lambda: pl.DataFrame(ROWS).with_columns(pl.col("ward").cast(pl.Enum(["north", "south"]))),
    "polars decimal": lambda: pl.DataFrame(ROWS).with_columns(pl.col("age").cast(pl.Decimal(10, 2))),
    "arrow table": lambda: ARROW,
    "arrow batch": lambda: ARROW.to_batches()[0],
    "arrow in chunks": lambda: pa.concat_tables([ARROW.slice(0, 1), ARROW.slice(1)]),
    "arrow dictionary": lambda: ARROW.set_column(0, "ward", ARROW["ward"].combine_chunks().dictionary_encode()),
    "numpy records": structured,
    "numpy record array": lambda: structured().view(np.recarray),
    "numpy records in a list": lambda: list(structured()),
    "database rows": sqlite_rows,
    "dicts in a deque": lambda: deque(ROWS),
    "an input's name": lambda: {"row": pd.DataFrame(ROWS)[SHUFFLED]},
}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES.keys())
def test_columns_of_any_library_are_matched_by_name_and_rows_keep_their_order(make):
    sent = read_inputs(MODEL, make())

    assert cells(make()) == ROWS
    assert [sent.source(row)["row"] for row in range(3)] == ROWS


ONE_ROW = {
    "series": lambda: pd.Series(NUMBER_SEX[0]).sort_index(),
    "series of a frame": lambda: pd.DataFrame(NUMBER_SEX)[SHUFFLED].iloc[0],
    "numpy record": lambda: structured()[0],
    "numpy record without axes": lambda: np.array(structured()[0]),
    "database row": lambda: sqlite_rows()[0],
    "one row of polars": lambda: pl.DataFrame(NUMBER_SEX).select(SHUFFLED).head(1),
}


@pytest.mark.parametrize("make", ONE_ROW.values(), ids=ONE_ROW.keys())
def test_one_row_may_have_labels(make):
    assert cells(make()) == ROWS[:1]


def test_a_named_tuple_is_a_row_by_its_fields():
    Backwards = namedtuple("Backwards", "c b a")

    assert cells(Backwards(3, 2, 1), NUMBERS) == [{"a": 1, "b": 2, "c": 3}]
    assert cells([Backwards(3, 2, 1), Backwards(6, 5, 4)], NUMBERS)[1] == {"a": 4, "b": 5, "c": 6}
    assert cells(list(pd.DataFrame({"c": [3], "a": [1], "b": [2]}).itertuples(index=False)), NUMBERS)[0]["a"] == 1


@pytest.mark.parametrize(
    "given",
    [np.array([[3, 2, 1]]), [[3.0, 2.0, 1.0]], [3, 2, 1], range(3, 0, -1), array("d", [3, 2, 1]), deque([3, 2, 1])],
)
def test_numbers_without_names_go_by_position(given):
    sent = read_inputs(NUMBERS, given)

    assert from_tensor(sent.messages["row"].tensor).tolist() == [[3, 2, 1]]
    assert sent.source(0) == {"row": {"a": 3, "b": 2, "c": 1}}


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"age": 1}, ["lacks the columns 'sex', 'blood pressure', 'ward'", "its columns are: 'age', 'sex'"]),
        (pd.DataFrame(ROWS).assign(x=1, y=2), ["has 'x', 'y', which the model does not take"]),
        (
            pd.DataFrame(ROWS).rename(columns={"blood pressure": "Blood_Pressure", "sex": "gender"}),
            [
                "lacks the columns 'sex', 'blood pressure'",
                "has 'gender', 'Blood_Pressure'",
                "(perhaps 'Blood_Pressure' for 'blood pressure')",
            ],
        ),
        (pd.DataFrame(ROWS).set_index("age"), ["lacks the column 'age'", "reset_index() makes it the column 'age'"]),
        (pd.concat([pd.DataFrame(ROWS), pd.DataFrame(ROWS)[["age", "sex"]]], axis=1), ["the name 'age', 'sex'"]),
        (pd.DataFrame(np.ones((2, 4))), ["column 0, which is of type int", "'age', 'sex', 'blood pressure', 'ward'"]),
        (pd.DataFrame(ROWS).set_axis(pd.MultiIndex.from_product([["x"], ROWS[0]]), axis=1), ["('x', 'age')", "tuple"]),
        (pd.DataFrame(ROWS).iloc[:0], ["has no rows; give at least one"]),
        (pd.DataFrame(), ["lacks the columns 'age'"]),
        (pd.DataFrame(ROWS)["age"], ["column 0, which is of type int"]),
        (pd.Series([1, 2], ["age", "age"]), ["more than one column of the name 'age'"]),
        ([{**ROWS[0], 7: 1}], ["column 7, which is of type int"]),
        ([ROWS[0], {**dict.fromkeys(["age", "sex", "ward"]), pd.NA: 1}], ["column <NA>, which is of type NAType"]),
        (pl.DataFrame(ROWS).rename({"ward": "wards"}), ["lacks the column 'ward'", "'wards' for 'ward'"]),
        (pl.DataFrame(ROWS).head(0), ["has no rows"]),
        (pl.DataFrame(ROWS).lazy(), ["is a polars LazyFrame", "give frame.collect()"]),
        (pl.DataFrame(ROWS)["age"], ["is a polars Series", "no columns with names"]),
        (ARROW.append_column("age", ARROW["age"]), ["more than one column of the name 'age'"]),
        (ARROW["age"], ["is a pyarrow ChunkedArray", "no columns with names"]),
        (structured()[["age", "sex"]], ["lacks the columns 'blood pressure', 'ward'"]),
        (structured().reshape(1, 3), ["of shape (1, 3); it must have one axis"]),
        ([], ["is empty; give at least one row"]),
        ([ROWS[0], pd.DataFrame(ROWS)], ["is of type DataFrame; each row must be a dict"]),
        ([ROWS[0], {"age": 1}], ["inputs['row'][1] lacks the columns"]),
        (SimpleNamespace(columns=["a"], compute=lambda: None), ["give its .compute()", "pandas or polars DataFrame"]),
        (pd.DataFrame(ROWS).to_dict("list"), ["inputs['row'][0]['age'] is of type list; it must be a number"]),
        ("row", ["is the text 'row'; a table's rows must be a dict", "path of a .csv file"]),
        (object(), ["is of type object; a table's rows must be a dict"]),
        ((row for row in ROWS), ["is of type generator; a table's rows must be"]),
        ([[59, "2", 101.5, "south"]], ["columns have categories: 'sex', 'ward'; give dicts or a DataFrame"]),
    ],
)
def test_columns_that_are_not_the_models_are_refused_with_all_their_names(given, parts):
    _, message = refusal(given)

    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        (np.False_, 0.0),
        (3, 3.0),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.uint64(2**63), 2.0**63),
        (decimal.Decimal("0.1"), 0.1),
        (Fraction(1, 4), 0.25),
        (np.array(2.5), 2.5),
        (-0.0, 0.0),
        (1e-320, 1e-320),
        (10**400, float("inf")),
    ],
)
def test_a_number_of_any_type_is_one(value, number):
    assert cells({"a": value, "b": 0, "c": 0}, NUMBERS)[0]["a"] == number
    assert cells(pd.DataFrame({"a": [value], "b": [0], "c": [0]}, dtype=object), NUMBERS)[0]["a"] == number


MISSING = [
    None, float("nan"), np.float32("nan"), np.float64("nan"), pd.NA, pd.NaT,
    np.datetime64("NaT"), decimal.Decimal("nan"), np.ma.masked,
]  # fmt: skip


@pytest.mark.parametrize("value", MISSING, ids=repr)
@pytest.mark.parametrize("name", ["age", "ward"])
def test_a_missing_value_is_refused_by_its_row_and_column(value, name):
    field, message = refusal([ROWS[0], {**ROWS[1], name: value}])

    assert field == f"inputs['row'][1][{name!r}]"
    assert "is missing" in message
    assert "np." not in message
    assert "the model takes no missing values" in message


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 2], "b": [3, None], "c": [5, 6]}),
        pd.DataFrame({"a": [1, 2], "b": [3, None], "c": [5, 6]}).convert_dtypes(),
        pd.DataFrame({"a": [1, 2], "b": [3, None], "c": [5, 6]}).convert_dtypes(dtype_backend="pyarrow"),
        pl.DataFrame({"a": [1, 2], "b": [3, None], "c": [5, 6]}),
        pl.DataFrame({"a": [1, 2], "b": [3.0, float("nan")], "c": [5, 6]}),
        pa.table({"a": [1, 2], "b": [3, None], "c": [5, 6]}),
        np.ma.array([(1, 3, 5), (2, 4, 6)], mask=[(0, 0, 0), (0, 1, 0)], dtype=[("a", "f8"), ("b", "f8"), ("c", "f8")]),
        np.array([[1, 3, 5], [2, np.nan, 6]]),
        [[1, 3, 5], [2, float("nan"), 6]],
    ],
    ids=["pandas", "nullable", "arrow-backed", "polars", "polars nan", "arrow", "masked records", "array", "lists"],
)
def test_a_gap_in_a_frame_is_refused_by_its_row_and_column(frame):
    field, message = refusal(frame, NUMBERS)

    assert field == "inputs['row'][1]['b']"
    assert "is missing" in message


def test_masked_arrays_are_not_read_below_their_mask():
    _, message = refusal(np.ma.array([[1.0, 2.0, 3.0]], mask=[[0, 1, 0]]), NUMBERS)

    assert "has masked elements" in message
    assert read_inputs(NUMBERS, np.ma.array([[1.0, 2.0, 3.0]])).count == 1


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("14.1", "is the text '14.1', but the column is numeric: give the number 14.1, not a text"),
        (np.str_("14.1"), "give the number 14.1, not a text"),
        ("old", "is the text 'old', but the column is numeric: it takes numbers"),
        (datetime.date(2026, 1, 2), "is a date or a time (2026-01-02)"),
        (pd.Timestamp("2026-01-02"), "is a date or a time"),
        (datetime.timedelta(1), "is a date or a time"),
        (np.datetime64("2026-01-02"), "is a date or a time"),
        (1 + 2j, "is of type complex; it must be a number"),
        (b"1", "is of type bytes; it must be a number"),
        (pd.Interval(0, 1), "is of type Interval; it must be a number"),
        (np.ones(2), "is of type ndarray; it must be a number"),
    ],
)
def test_what_is_no_number_is_refused_for_a_numeric_column(value, part):
    field, message = refusal({"a": 1, "b": value, "c": 3}, NUMBERS)

    assert field == "inputs['row'][0]['b']"
    assert part in message


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1], "b": pd.to_datetime(["2026-01-02"]), "c": [3]}),
        pl.DataFrame({"a": [1], "b": [datetime.datetime(2026, 1, 2)], "c": [3]}),
        pa.table({"a": [1], "b": pa.array([1], pa.timestamp("ns")), "c": [3]}),
        np.array([(1, "2026-01-02", 3)], [("a", "f8"), ("b", "datetime64[ns]"), ("c", "f8")]),
    ],
    ids=["pandas", "polars", "arrow", "records"],
)
def test_dates_are_never_taken_for_counts_of_nanoseconds(frame):
    field, message = refusal(frame, NUMBERS)

    assert field.startswith("inputs['row']")
    assert "date" in message
    assert "such as" in message


CATEGORIES = {
    "codes": ("1", "2"),
    "bits": ("0", "1"),
    "words": ("false", "true"),
    "names": ("False", "True", "unknown"),
    "grades": ("0", "1", "2"),
    "twins": ("2", "2.0", "02"),
    "padded": ("01", "02"),
    "both": ("true", "false", "True", "False"),
}


@pytest.mark.parametrize(
    ("kind", "value", "category"),
    [
        ("codes", "2", "2"),
        ("codes", np.str_("2"), "2"),
        ("codes", 2, "2"),
        ("codes", 2.0, "2"),
        ("codes", np.int64(2), "2"),
        ("codes", np.float32(2), "2"),
        ("codes", decimal.Decimal("2.00"), "2"),
        ("bits", True, "1"),
        ("bits", np.False_, "0"),
        ("bits", 1, "1"),
        ("words", True, "true"),
        ("names", False, "False"),
        ("both", "true", "true"),
        ("twins", "2.0", "2.0"),
    ],
)
def test_a_value_is_the_category_that_it_can_only_mean(kind, value, category):
    of = model(column("x", *CATEGORIES[kind]))

    assert cells({"x": value}, of) == [{"x": category}]
    assert cells(pd.DataFrame({"x": [value, value]}), of) == [{"x": category}] * 2


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("codes", 3),
        ("codes", 1.5),
        ("codes", True),
        ("codes", "2.0"),
        ("codes", " 2"),
        ("codes", ""),
        ("codes", float("inf")),
        ("codes", 10**30),
        ("codes", b"2"),
        ("codes", datetime.date(2026, 1, 2)),
        ("bits", "True"),
        ("words", 1),
        ("words", "True"),
        ("grades", True),
        ("twins", 2),
        ("padded", 1),
        ("both", True),
    ],
)
def test_a_value_that_leaves_the_category_open_is_refused_with_those_there_are(kind, value):
    field, message = refusal({"x": value}, model(column("x", *CATEGORIES[kind])))

    assert field == "inputs['row'][0]['x']"
    assert f"it takes: {', '.join(map(repr, CATEGORIES[kind]))}" in message


def test_a_category_with_a_slip_is_refused_with_the_one_that_was_meant():
    assert "'North', no category of the column (perhaps 'north')" in refusal({**ROWS[0], "ward": "North"})[1]


def test_a_frame_for_an_input_without_columns_is_refused():
    signature = InputSignature("x", "tensor", "float32", (3,))
    of = Model(ModelKey("m", 1, ""), "", (signature,), (), (), (), "graph", None, 0, False)

    for frame in (pd.DataFrame({"a": [1.0]}), pl.DataFrame({"a": [1.0]}), pa.table({"a": [1.0]})):
        assert "this input's have none; give an array" in refusal(frame, of)[1]


def test_many_rows_are_read_in_a_moment_and_right():
    names = [f"column {number}" for number in range(30)]
    of = model(*(column(name) for name in names))
    values = np.random.default_rng(5).normal(size=(1000, 30))
    frame = pd.DataFrame(values, columns=names)[names[::-1]]

    found = cells(frame, of)

    np.testing.assert_array_equal([[row[name] for name in names] for row in found], values)


@pytest.mark.parametrize("name", ["pandas", "polars", "pyarrow"])
def test_no_library_is_imported_to_read_what_it_did_not_make(name):
    code = (
        "import sys\n"
        "from pellucid.catalogue import Column, InputSignature, Model\n"
        "from pellucid.inputs import read_inputs\n"
        "from pellucid.receipts import ModelKey\n"
        "signature = InputSignature('x', 'tabular', 'float32', (1,), (Column('a', (), None, None, ''),))\n"
        "model = Model(ModelKey('m', 1, ''), '', (signature,), (), (), (), 'graph', None, 0, False)\n"
        "read_inputs(model, [{'a': 1}])\n"
        f"print({name!r} in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)

    assert done.stdout == "False\n", done.stderr
