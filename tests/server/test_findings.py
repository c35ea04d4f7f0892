"""What the constructors of findings refuse, and the way of findings from a method to the caller."""

import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.findings_messages import read_findings
from pellucid.v1 import findings_pb2
from pellucid_server import wire
from pellucid_server.rpc.findings import findings_message
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, Picture, Table
from pellucid_server.vocabulary.results import Accuracy
from PIL import Image
from server.findings_cases import FINDINGS, RECEIPT, png

FLOATS = np.array([1.0, 2.0])
NAN = np.array([1.0, math.nan])
X = (Axis("x"),)


def carried(found):
    """Take findings all the way: worker to front, front to caller."""
    message = findings_message(wire.decode(wire.encode(found)))
    return read_findings(findings_pb2.Findings.FromString(message.SerializeToString()))


def same(sent, read):
    """Tell whether two arrays have the same type, shape and bits."""
    return (sent.dtype, sent.shape) == (read.dtype, read.shape) and sent.tobytes() == read.tobytes()


def cells(column):
    """Return a column's values as plain ones, None for what is missing."""
    values = list(column.values) if isinstance(column.values, tuple) else column.values.tolist()
    missing = itertools.repeat(False, len(values)) if column.missing is None else column.missing.tolist()
    return [None if none else value for value, none in zip(values, missing, strict=True)]


@settings(max_examples=150, deadline=None)
@given(FINDINGS)
def test_findings_reach_the_caller_as_they_were_made(sent):
    read = carried(sent)

    assert (sorted(sent.arrays), sorted(sent.tables)) == (list(read.arrays), list(read.tables))
    for name, array in sent.arrays.items():
        found = read.arrays[name]
        assert same(array.values, found.values)
        assert (array.unit, array.text, array.missing) == (found.unit, found.text, found.missing)
        for axis, other in zip(array.axes, found.axes, strict=True):
            assert (axis.name, axis.labels, axis.unit) == (other.name, other.labels, other.unit)
            assert (axis.coordinates is None) == (other.coordinates is None)
            assert axis.coordinates is None or same(axis.coordinates, other.coordinates)
    for name, table in sent.tables.items():
        columns = read.tables[name].columns
        assert list(table.columns) == list(columns)
        rows = zip(*map(cells, table.columns.values()), strict=True)
        assert [dict(zip(table.columns, row, strict=True)) for row in rows] == list(read.tables[name])
        assert [(each.unit, each.text) for each in table.columns.values()] == [
            (each.unit, each.text) for each in columns.values()
        ]
    assert {name: (each.data, each.width, each.height, each.text) for name, each in sent.pictures.items()} == {
        name: (each.data, each.width, each.height, each.text) for name, each in read.pictures.items()
    }
    assert (sent.warnings, dict(sent.resolved)) == (read.warnings, dict(read.resolved))
    assert (sent.receipt is None) == (read.receipt is None)
    measured = ("signed_gap", "tolerance", "absolute_tolerance", "tolerance_met", "standard_error", "partial")
    assert (sent.accuracy is None) == (read.accuracy is None)
    assert sent.accuracy is None or all(
        getattr(sent.accuracy, name) == getattr(read.accuracy, name) for name in measured
    )


def test_a_missing_value_is_missing_in_each_type_of_column():
    gone = np.array([False, True])
    table = Table(
        {
            "mass": Column(np.array([1.5, 0.0]), gone, "kg"),
            "count": Column(np.array([3, 0]), gone),
            "alive": Column(np.array([True, False]), gone),
            "name": Column(("ü", ""), gone),
        }
    )

    read = carried(Findings(tables={"animals": table})).tables["animals"]

    assert list(read) == [
        {"mass": 1.5, "count": 3, "alive": True, "name": "ü"},
        {"mass": None, "count": None, "alive": None, "name": None},
    ]
    np.testing.assert_array_equal(read["mass"], [1.5, math.nan])
    assert read["count"].mask.tolist() == read["alive"].mask.tolist() == [False, True]
    assert read["name"].tolist() == ["ü", None]


def test_the_receipt_and_the_accuracy_come_along():
    read = carried(Findings(accuracy=Accuracy(tolerance=0.1, tolerance_met=False), receipt=RECEIPT))

    assert (read.accuracy.tolerance, read.accuracy.tolerance_met, read.accuracy.signed_gap) == (0.1, False, None)
    assert (read.receipt.model.name, read.receipt.work.rows_backward) == ("m", 2)


def test_the_picture_that_the_cases_write_is_one():
    assert Image.open(io.BytesIO(png(3, 2))).size == (3, 2)


REFUSED = {
    "an axis that is not named": (lambda: NamedArray(FLOATS), r"0 axes are named \[\]; there are 1"),
    "an axis too many": (lambda: NamedArray(np.float64(1.0).reshape(()), X), r"1 axes are named"),
    "two axes of a name": (lambda: NamedArray(np.ones((2, 2)), X * 2), "two axes have one name"),
    "too few labels": (lambda: NamedArray(FLOATS, (Axis("x", ("a",)),)), "'x' of length 2 has 1 labels"),
    "too many coordinates": (lambda: NamedArray(FLOATS, (Axis("x", (), np.ones(3)),)), "length 2 has 3 coordinates"),
    "coordinates in a plane": (lambda: Axis("x", (), np.ones((2, 2))), "more axes than one"),
    "coordinates that are NaN": (lambda: Axis("x", (), NAN), "coordinates of axis 'x' are not finite in 1 of 2"),
    "labels and coordinates": (lambda: Axis("x", ("a", "b"), FLOATS), "labels and coordinates"),
    "a unit of nothing": (lambda: Axis("x", ("a", "b"), None, "m"), "a unit and no coordinates"),
    "an axis without a name": (lambda: Axis(""), "no name"),
    "NaN": (lambda: NamedArray(NAN, X), "not finite in 1 of 2 places"),
    "infinity, though some may be missing": (lambda: NamedArray(1 / np.zeros(2), X, missing=True), "not finite in 2"),
    "a type that the schema does not have": (lambda: NamedArray(np.ones(2, np.uint16), X), "uint16"),
    "complex numbers": (lambda: NamedArray(np.ones(2, complex), X), "complex128"),
    "a column of float32": (lambda: Column(np.ones(2, np.float32)), "a column is of float32"),
    "a column of two axes": (lambda: Column(np.ones((2, 1))), "has 2 axes"),
    "a column with NaN": (lambda: Column(NAN), "not finite in 1 of 2 places"),
    "a column with NaN for what is missing": (lambda: Column(NAN, np.array([False, True])), "not finite"),
    "a value where none is": (lambda: Column(FLOATS, np.array([False, True])), "missing row has a value"),
    "a text where none is": (lambda: Column(("a", "b"), np.array([False, True])), "missing row has a value"),
    "a mask of another length": (lambda: Column(FLOATS, np.array([False])), "a column of 2 rows says of"),
    "a mask of numbers": (lambda: Column(FLOATS, np.zeros(2)), "is of float64, not bool"),
    "columns of two lengths": (lambda: Table({"a": Column(FLOATS), "b": Column(())}), "differ in length"),
    "a column without a name": (lambda: Table({"": Column(FLOATS)}), "no name"),
    "bytes that are no picture": (lambda: Picture(b"GIF89a", 1, 1, "a dot"), "no PNG"),
    "a PNG cut short": (lambda: Picture(png(1, 1)[:20], 1, 1, "a dot"), "no PNG"),
    "a picture of another size": (lambda: Picture(png(3, 2), 2, 3, "a dot"), r"\(3, 2\) pixels says \(2, 3\)"),
    "a picture of nothing": (lambda: Picture(png(0, 1), 0, 1, "a dot"), r"has \(0, 1\) pixels"),
    "a picture that does not say what it shows": (lambda: Picture(png(1, 1), 1, 1, ""), "what it shows"),
    "a picture of another type": (lambda: Picture(png(1, 1), 1, 1, "a dot", "image/gif"), "image/gif"),
    "an array without a name": (lambda: Findings({"": NamedArray(FLOATS, X)}), "a name is empty"),
    "warnings in two places": (lambda: Findings(accuracy=Accuracy(warnings=("!",))), "belong in the findings' own"),
    "an accuracy that is NaN": (lambda: Findings(accuracy=Accuracy(signed_gap=math.nan)), "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_constructors_refuse(name):
    make, what = REFUSED[name]

    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=what):
        make()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_nan_is_taken_where_values_may_be_missing(kind):
    read = carried(Findings({"a": NamedArray(NAN.astype(kind), X, missing=True)})).arrays["a"]

    np.testing.assert_array_equal(read.values, NAN.astype(kind), strict=True)
    assert read.missing


@given(st.integers(0, 3))
def test_a_table_without_columns_or_rows_has_no_rows(count):
    read = carried(Findings(tables={"t": Table({str(number): Column(np.zeros(0)) for number in range(count)})}))

    assert (len(read.tables["t"]), list(read.tables["t"])) == (0, [])


def test_the_size_counts_elements_labels_and_pictures():
    gone = np.array([False, True])
    found = Findings(
        arrays={"a": NamedArray(np.zeros((2, 3), np.float32), (Axis("x", ("é", "b")), Axis("y", (), np.zeros(3))))},
        tables={"t": Table({"n": Column(np.zeros(2), gone), "s": Column(("abc", ""))})},
        pictures={"p": Picture(png(1, 1), 1, 1, "A dot.")},
    )

    # 24 and 3 and 24 of the array, 16 and 2 and 3 of the table.
    assert found.size_bytes == 51 + 21 + len(png(1, 1))
    assert Findings().size_bytes == 0
