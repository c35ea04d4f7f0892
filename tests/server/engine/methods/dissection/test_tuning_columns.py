"""Tuning curves over the columns of a table: lines for linear units, categories by name, ranges and references."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion, Saved
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.models.files.manifest import ColumnManifest, InputManifest
from pellucid_server.engine.models.inputs.tables import TablePreprocessor
from pellucid_server.engine.operations.terms import cells
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Findings
from server.engine.methods.dissection.units_of_rows import Units

TABLE = TablePreprocessor(
    InputManifest(
        name="x",
        modality="tabular",
        columns=(
            ColumnManifest(name="width", mean=10.0, standard_deviation=2.0, unit="mm"),
            ColumnManifest(name="colour", categories=("red", "green", "blue"), encoding="one-hot"),
            ColumnManifest(name="height", mean=1.0, standard_deviation=0.5, minimum=0.0, maximum=4.0),
        ),
    ),
    np.dtype(np.float32),
    (5,),
)
WEIGHT = np.array([[1.0, 0, 2, 0, 0], [0, 0, 0, 3, -2], [0, 0, 0, 0, 0]])
BACKGROUND = TABLE.encode(np.array([[8.0, 0, 1.0], [11.0, 1, 2.0], [16.0, 1, 3.0]]))


def linear(rows):
    return rows["x"].astype(np.float64) @ WEIGHT.T


def question(*, background=True, disclosable=True, **more):
    rows = {"x": BACKGROUND} if background else {}
    return ProbeQuestion(
        layers=(ProbeLayer(SiteLayer("hidden", (3,)), np.arange(3)),),
        features={"x": TABLE.feature},
        inputs={"x": TABLE.info},
        background=rows,
        disclosable=disclosable,
        cells=cells(SimpleNamespace(inputs={"x": TABLE}, background=rows)),
        **more,
    )


def ran(asked, function=linear, **parameters):
    method = registry.lookup("tuning-curve", DISSECT)
    return list(method.function(Units(hidden=function), asked, method.resolve(parameters)))


def answer(asked, function=linear, **parameters):
    (found,) = [each for each in ran(asked, function, **parameters) if isinstance(each, Findings)]
    return found


def lines(found, **wanted):
    """Return the lines of the table with these cells, as dicts; None for what is missing."""
    columns = found.tables["preferences"].columns
    rows = [
        {
            name: None if each.missing is not None and each.missing[place] else each.values[place]
            for name, each in columns.items()
        }
        for place in range(len(columns["unit"].values))
    ]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_a_linear_unit_answers_with_a_line_whose_slope_is_its_weight():
    found = answer(question(), column="width")

    curves = found.arrays["hidden/column/width"]
    widths = curves.axes[1].coordinates
    assert curves.axes[1].unit == "mm"
    assert (widths[0], widths[-1], len(widths)) == (8, 16, 33)
    (line,) = lines(found, unit=0)
    # The medoid of the background is its middle row: 11 wide, green, 2 high.
    np.testing.assert_allclose(curves.values[0], (widths - 10) / 2 + 2, rtol=1e-6)
    assert line["reference"] == pytest.approx((11 - 10) / 2 + 2)
    assert line["slope"] == pytest.approx(0.5)
    assert line["linearity"] == pytest.approx(1)
    assert line["preferred value"] == 16
    assert (line["highest"], line["lowest"]) == (pytest.approx(5), pytest.approx(1))


def test_a_unit_that_a_column_does_not_reach_has_no_preference():
    found = answer(question(), column="width")

    for unit in (1, 2):
        (line,) = lines(found, unit=unit)
        assert not line["responsive"]
        assert line["preferred value"] is line["slope"] is line["linearity"] is None


def test_categories_are_swept_by_name():
    found = answer(question(), column="colour")

    curves = found.arrays["hidden/column/colour"]
    assert curves.axes[1].labels == ("red", "green", "blue")
    np.testing.assert_allclose(curves.values[0] - curves.values[0][0], [0, 2, 0])
    (green,), (blue,) = lines(found, unit=0), lines(found, unit=1)
    assert (green["preferred category"], blue["preferred category"]) == ("green", "blue")
    assert green["preferred value"] is green["slope"] is None


def test_each_column_is_swept_by_itself_unless_one_is_named():
    found = answer(question())

    assert [*found.arrays] == [f"hidden/column/{name}" for name in ("width", "colour", "height")]
    assert len(lines(found)) == 9
    (line,) = lines(found, unit=1, column="height")
    assert line["slope"] == pytest.approx(-2 / 0.5)
    assert line["preferred value"] == 0


def test_a_range_is_the_stated_one_else_that_of_a_background_to_show_else_the_standardisations():
    def ends(asked, column, **parameters):
        places = answer(asked, column=column, **parameters).arrays[f"hidden/column/{column}"].axes[1].coordinates
        return places[0], places[-1]

    assert ends(question(), "height") == (0, 4)
    assert ends(question(), "width") == (8, 16)
    # The extremes of a background are some rows' values: of one that is not to be shown they stay unknown.
    assert ends(question(disclosable=False), "width") == pytest.approx((6, 14))
    assert ends(question(background=False), "width") == pytest.approx((6, 14))
    assert ends(question(), "width", low=-1.0, high=0.5) == (-1, 0.5)
    with pytest.raises(InvalidRequestError, match="low < high"):
        ran(question(), column="width", low=20.0)


def test_the_reference_is_the_row_that_was_asked_for():
    class Probe:
        def rows(self, numbers):
            return {"x": BACKGROUND[2:][numbers]}

    def reference(asked, **parameters):
        return lines(answer(asked, column="width", **parameters), unit=0)[0]["reference"]

    assert reference(question(probe=Probe())) == pytest.approx((16 - 10) / 2 + 2)
    assert reference(question(probe=Probe()), reference="medoid") == pytest.approx((11 - 10) / 2 + 2)
    # The mean width is 35 / 3, and two of three rows are green.
    assert reference(question(), reference="mean") == pytest.approx((35 / 3 - 10) / 2 + 2)
    assert reference(question(background=False)) == 0
    for kind in ("probe", "medoid"):
        with pytest.raises(InvalidRequestError, match="reference"):
            ran(question(background=False), reference=kind)


def test_a_column_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidRequestError, match="width, colour, height"):
        ran(question(), column="depth")


def test_a_curved_unit_prefers_the_value_at_its_peak():
    def bell(rows):
        width = rows["x"][:, 0] * 2.0 + 10
        return np.stack([1e3 + np.exp(-((width - 12) ** 2)), 0 * width, 0 * width], axis=1)

    found = answer(question(), bell, column="width")

    # Beside the offset the bell is small, and its peak is still found.
    (line,) = lines(found, unit=0)
    assert line["preferred value"] == 12
    assert line["linearity"] < 0.3


def test_an_answer_goes_on_from_any_state():
    whole = ran(question())

    states = [each.state for each in whole if isinstance(each, Saved)]
    assert len(states) > 2
    for state in states:
        rest = ran(dataclasses.replace(question(), state=state))
        for name, array in whole[-1].arrays.items():
            assert rest[-1].arrays[name].values.tobytes() == array.values.tobytes()
