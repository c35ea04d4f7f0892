"""Findings as a caller has them: numpy, pandas, xarray, pictures, and messages that make no sense."""

import base64
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from client.fake_server import RECEIPT
from pellucid.errors import PellucidError
from pellucid.findings import Axis, NamedArray
from pellucid.findings_messages import read_findings
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, findings_pb2, input_pb2

PNG = b"\x89PNG\r\n\x1a\n and so on"


def array(values, *axes, **fields):
    """Write an array's message."""
    return findings_pb2.NamedArray(values=to_tensor(values), axes=axes, **fields)


def axis(name, labels=(), coordinates=None, unit=""):
    """Write an axis's message."""
    written = None if coordinates is None else to_tensor(coordinates)
    return findings_pb2.Axis(name=name, labels=labels, coordinates=written, unit=unit)


def column(name, values, missing=None, unit=""):
    """Write a column's message."""
    gone = None if missing is None else to_tensor(missing)
    if isinstance(values[0], str):
        return findings_pb2.NamedColumn(name=name, texts=input_pb2.Texts(texts=values), missing=gone, unit=unit)
    return findings_pb2.NamedColumn(name=name, numbers=to_tensor(values), missing=gone, unit=unit)


def table(*columns):
    """Write findings of one table, `t`."""
    return findings_pb2.Findings(tables={"t": findings_pb2.NamedTable(columns=columns, text="Units.")})


MAP = array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], axis("unit", ["é", "é"]), axis("depth", (), [0.5, 1.0, 2.0], "m"))
UNITS = table(
    column("unit", ["owl <b>", "", "cat"], [False, True, False]),
    column("score", [0.5, 0.0, 0.25], [False, True, False], unit="nats"),
    column("rows", [3, 0, 5], [False, True, False]),
    column("kept", [True, False, False], [False, True, False]),
)


def of_map(name="map"):
    """Read findings of the one array, and return it."""
    return read_findings(findings_pb2.Findings(arrays={name: MAP})).arrays[name]


def test_an_array_has_numpys_values_and_its_axes():
    found = of_map()

    np.testing.assert_array_equal(found.values, [[1, 2, 3], [4, 5, 6]])
    assert not found.values.flags.writeable
    assert [axis.name for axis in found.axes] == ["unit", "depth"]
    assert found.axes[1].unit == "m"
    assert found.coords["unit"] == ("é", "é")
    np.testing.assert_array_equal(found.coords["depth"], [0.5, 1, 2])
    assert repr(found) == "<NamedArray 'map' of float64: unit 2, depth 3>"


def test_two_axes_make_a_data_frame():
    expected = pd.DataFrame(
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], pd.Index(["é", "é"], name="unit"), pd.Index([0.5, 1.0, 2.0], name="depth")
    )

    pd.testing.assert_frame_equal(of_map().to_pandas(), expected)


@pytest.mark.parametrize(("labels", "index"), [(["a", "b"], ["a", "b"]), ([], [0, 1])])
def test_one_axis_makes_a_series(labels, index):
    message = findings_pb2.Findings(arrays={"s": array([1.5, 2.5], axis("x", labels))})

    found = read_findings(message).arrays["s"].to_pandas()

    pd.testing.assert_series_equal(found, pd.Series([1.5, 2.5], pd.Index(index, name="x"), name="s"))


@pytest.mark.parametrize("axes", [0, 3])
def test_pandas_has_no_room_for_other_numbers_of_axes(axes):
    values = np.zeros((1,) * axes)

    with pytest.raises(ValueError, match=f"'a' has {axes} axes; pandas has room for one or two"):
        NamedArray("a", values, tuple(Axis(str(number)) for number in range(axes))).to_pandas()


@pytest.mark.parametrize("library", ["pandas", "xarray"])
def test_what_is_not_installed_is_named(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(ImportError, match=f"^to_{library} needs {library}: pip install {library}$"):
        getattr(of_map(), f"to_{library}")()


def test_xarray_is_given_axes_coordinates_and_units(monkeypatch):
    xarray = ModuleType("xarray")
    xarray.DataArray = lambda data, coords, dims, **more: SimpleNamespace(data=data, coords=coords, dims=dims, **more)
    monkeypatch.setitem(sys.modules, "xarray", xarray)
    message = findings_pb2.Findings(arrays={"map": MAP})
    message.arrays["map"].unit = "nats"

    found = read_findings(message).arrays["map"].to_xarray()

    assert (found.dims, found.name, found.attrs) == (["unit", "depth"], "map", {"units": "nats"})
    np.testing.assert_array_equal(found.data, [[1, 2, 3], [4, 5, 6]])
    assert found.coords["unit"][0] == "unit"
    assert found.coords["unit"][1].tolist() == ["é", "é"]
    assert found.coords["depth"][1].tolist() == [0.5, 1, 2]
    assert found.coords["depth"][2] == {"units": "m"}


def test_a_table_is_iterated_by_rows_of_plain_values():
    found = read_findings(UNITS).tables["t"]

    assert len(found) == 3
    assert list(found) == [
        {"unit": "owl <b>", "score": 0.5, "rows": 3, "kept": True},
        {"unit": None, "score": None, "rows": None, "kept": None},
        {"unit": "cat", "score": 0.25, "rows": 5, "kept": False},
    ]
    assert [type(value) for value in next(iter(found)).values()] == [str, float, int, bool]
    assert repr(found) == "<Table 't': 3 rows of unit, score, rows, kept>"
    assert repr(found.columns["score"]) == "<Column 'score' of numbers in nats: 3 rows>"
    assert repr(found.columns["rows"]) == "<Column 'rows' of whole numbers: 3 rows>"


def test_a_table_becomes_a_data_frame_with_missing_values():
    frame = read_findings(UNITS).tables["t"].to_pandas()

    expected = pd.DataFrame(
        {
            "unit": ["owl <b>", None, "cat"],
            "score": [0.5, np.nan, 0.25],
            "rows": pd.array([3, None, 5], "Int64"),
            "kept": pd.array([True, None, False], "boolean"),
        }
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_columns_that_lack_nothing_keep_numpys_types():
    frame = read_findings(table(column("rows", [3, 5]), column("kept", [True, False]))).tables["t"].to_pandas()

    assert [str(kind) for kind in frame.dtypes] == ["int64", "bool"]


def test_a_table_shows_in_a_notebook_with_its_texts_escaped():
    shown = read_findings(UNITS).tables["t"]._repr_html_()

    assert "<th>score in nats</th>" in shown
    assert "<td>owl &lt;b&gt;</td><td>0.5</td><td>3</td><td>True</td>" in shown
    assert "<tr><td></td><td></td><td></td><td></td></tr>" in shown


def test_a_long_table_shows_its_first_rows_and_counts_the_rest():
    shown = read_findings(table(column("n", list(range(25))))).tables["t"]._repr_html_()

    assert "<td>19</td>" in shown
    assert "<td>20</td>" not in shown
    assert shown.endswith("<p>5 more rows</p>")


def test_a_picture_is_shown_and_saved_as_it_came(tmp_path):
    picture = findings_pb2.Picture(data=PNG, media_type="image/png", width=3, height=2, text="A unit.")
    found = read_findings(findings_pb2.Findings(pictures={"unit": picture})).pictures["unit"]

    found.save(tmp_path / "unit.png")

    assert (tmp_path / "unit.png").read_bytes() == found._repr_png_() == PNG
    assert repr(found) == "<Picture 'unit', 3 x 2: A unit.>"


def test_a_picture_of_a_newer_type_is_left_to_its_text():
    picture = findings_pb2.Picture(data=b"RIFF", media_type="image/webp", width=3, height=2, text="A unit.")

    found = read_findings(findings_pb2.Findings(pictures={"unit": picture})).pictures["unit"]

    assert (found._repr_png_(), found.data) == (None, b"RIFF")


def test_findings_say_what_they_have():
    message = table(column("n", [1]))
    message.arrays["map"].CopyFrom(MAP)
    message.arrays["area"].CopyFrom(array(2.0))
    message.warnings.extend(["One.", "Two."])
    message.receipt.CopyFrom(RECEIPT)
    message.resolved["edges"].tensor.CopyFrom(to_tensor([0.0, 1.0]))
    message.accuracy.CopyFrom(explanation_pb2.Accuracy(standard_error=0.5))

    found = read_findings(message)

    assert repr(found) == "<Findings: arrays area, map; tables t; 2 warnings>"
    plain = found.to_dict()
    assert plain["arrays"]["area"]["values"] == 2.0
    assert plain["tables"] == {"t": [{"n": 1}]}
    assert plain["resolved"] == {"edges": [0.0, 1.0]}
    assert (plain["accuracy"]["standard_error"], plain["accuracy"]["tolerance"]) == (0.5, None)
    assert plain["receipt"]["model"]["name"] == "photos"
    assert repr(read_findings(findings_pb2.Findings())) == "<Findings: none>"


def test_a_notebook_shows_warnings_arrays_tables_and_pictures_escaped():
    message = table(column("<n>", [1]))
    message.arrays["map"].CopyFrom(MAP)
    message.warnings.append("a < b")
    message.pictures["<u>"].CopyFrom(findings_pb2.Picture(data=PNG, media_type="image/png", text='A "unit".'))
    message.pictures["w"].CopyFrom(findings_pb2.Picture(data=b"RIFF", media_type="image/webp", text="Of a newer type."))

    shown = read_findings(message)._repr_html_()

    assert shown.startswith("<p>a &lt; b</p><p>&lt;NamedArray &#x27;map&#x27; of float64: unit 2, depth 3&gt; </p>")
    assert "<h4>t</h4><p>Units.</p><table><tr><th>&lt;n&gt;</th></tr>" in shown
    assert f'<img src="data:image/png;base64,{base64.b64encode(PNG).decode()}" alt="A &quot;unit&quot;.">' in shown
    assert "<figure><figcaption>w: Of a newer type.</figcaption></figure>" in shown
    assert read_findings(findings_pb2.Findings())._repr_html_() == "&lt;Findings: none&gt;"


MALFORMED = {
    "an array without a type": findings_pb2.NamedArray(),
    "an axis that is not named": array([1.0]),
    "an axis too many": array(1.0, axis("x")),
    "two axes of a name": array([[1.0]], axis("x"), axis("x")),
    "too few labels": array([1.0, 2.0], axis("x", ["a"])),
    "too many coordinates": array([1.0], axis("x", (), [1.0, 2.0])),
    "coordinates in a plane": array([1.0], axis("x", (), [[1.0]])),
    "labels and coordinates": array([1.0], axis("x", ["a"], [1.0])),
}
MALFORMED_TABLES = {
    "a column without values": table(findings_pb2.NamedColumn(name="a")),
    "two columns of a name": table(column("a", [1.0]), column("a", [1.0])),
    "columns of two lengths": table(column("a", [1.0]), column("b", ["x", "y"])),
    "a column of two axes": table(column("a", [[1.0]])),
    "a mask of another length": table(column("a", [1.0], [False, True])),
    "a mask of numbers": table(column("a", ["x"], [0.0])),
}


@pytest.mark.parametrize("name", [*MALFORMED, *MALFORMED_TABLES])
def test_a_malformed_message_is_a_reply_that_cannot_be_read(name):
    message = MALFORMED_TABLES.get(name) or findings_pb2.Findings(arrays={"a": MALFORMED[name]})

    with pytest.raises(PellucidError, match="The reply cannot be read"):
        read_findings(message)
