"""activations: what units do over a probe set, against two-pass statistics and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion, Saved
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows as Recipe
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Findings
from server.engine.methods.dissection.layers import (
    Layers,
    Rows,
    Tensors,
    column,
    found,
    pixels,
    question,
    resumed,
    together,
    yielded,
)
from server.engine.models.networks import eager_values, zoo_graph, zoo_module, zoo_rows


def maps(count=40, seed=1):
    """Maps of three units, and a dense layer of five, of random numbers of both signs."""
    source = np.random.default_rng(seed)
    return {
        "conv": source.normal(0.5, 2, (count, 3, 4, 5)).astype(np.float32),
        "dense": source.normal(-0.2, 1, (count, 5)).astype(np.float32),
    }


def statistics(table, *names):
    return {name: column(table, name) for name in names}


def test_statistics_are_those_of_all_values_at_once():
    values = maps()

    answer = found("activations", values)

    for name, array in values.items():
        flat = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1).astype(np.float64)
        wanted = {
            "mean": flat.mean(1),
            "deviation": flat.std(1),
            "median": np.median(flat, 1),
            "mad": np.median(np.abs(flat - np.median(flat, 1, keepdims=True)), 1),
            "q05": np.quantile(flat, 0.05, 1),
            "q95": np.quantile(flat, 0.95, 1),
            "minimum": flat.min(1),
            "maximum": flat.max(1),
            "positive": (flat > 0).mean(1),
        }
        for key, numbers in statistics(answer.tables[f"{name}/units"], *wanted).items():
            np.testing.assert_allclose(numbers, wanted[key], rtol=1e-10, atol=1e-12, err_msg=key)


def test_a_large_mean_costs_no_digits_of_the_deviation():
    values = np.array([[1e6 + 1], [1e6 - 1]] * 50)

    table = found("activations", {"dense": values}).tables["dense/units"]

    assert column(table, "deviation") == pytest.approx(1)


def test_medians_of_more_values_than_are_kept_are_near_and_say_how_near():
    values = np.random.default_rng(2).exponential(size=(300, 2, 8, 8)).astype(np.float32)

    table = found("activations", {"conv": values}, samples=1024, positions="all").tables["conv/units"]

    assert "1024 random values" in table.columns["median"].text
    # 5 standard errors of a rank: 5 * sqrt(0.25 / 1024) = 0.078.
    flat = np.sort(np.moveaxis(values, 1, 0).reshape(2, -1), axis=1)
    for unit, median in enumerate(column(table, "median")):
        assert abs(np.searchsorted(flat[unit], median) / flat.shape[1] - 0.5) < 0.078


@pytest.mark.parametrize(("layers", "samples"), [(1, 256), (4, 256), (8, 128)])
def test_many_layers_keep_fewer_values_of_each(layers, samples, monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.dissection.activations._SAMPLE_ELEMENTS", 1024)
    values = {f"layer{number}": np.ones((300, 4)) for number in range(layers)}

    last = [part for part in yielded("activations", values) if isinstance(part, Saved)][-1]

    assert [last.state.arrays[f"{name}/sample/values"].shape for name in values] == [(samples, 4)] * layers


def test_sparseness_is_that_of_vinje_and_gallant():
    one_hot, same = np.zeros(10), np.full(10, 0.3)
    half = np.array([1.0] * 5 + [0.0] * 5)
    values = np.stack([one_hot + 5 * np.eye(10)[3], same, half, -same, half * 1e-30, half * 1e30], 1)

    answer = found("activations", {"dense": values})

    # Of five equal of ten: (1 - 0.25 / 0.5) / (1 - 1/10).
    wanted = [1, 0, 0.5 / 0.9, np.nan, 0.5 / 0.9, 0.5 / 0.9]
    np.testing.assert_allclose(column(answer.tables["dense/units"], "sparseness"), wanted, atol=1e-12)


def test_population_sparseness_is_the_mean_over_rows_of_that_over_units():
    values = np.array([[4.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [2, 2, 0, 0]])

    table = found("activations", {"dense": values}).tables["layers"]

    assert column(table, "population_sparseness") == pytest.approx((1 + 0 + 0.5 / 0.75) / 3)


def test_selectivity_is_by_the_mean_of_each_class_and_names_the_class():
    values = np.array([[4.0, 1, 0, -1], [2, 1, 0, -1], [1, 1, 5, -2], [0, 1, 0, -2], [9, 9, 9, 9]])
    labels = ("cat", "cat", "hen", "ape", "")

    table = found("activations", {"dense": np.tile(values, (3, 1))}, Rows(15, labels * 3)).tables["dense/units"]

    # The first: cat 3, hen 1, ape 0.
    np.testing.assert_allclose(column(table, "selectivity"), [2.5 / 3.5, 0, 1, np.nan], atol=1e-12)
    assert column(table, "class").tolist() == ["cat", "ape", "hen", ""]


@pytest.mark.parametrize("labels", [(), ("cat",) * 6, ("",) * 6])
def test_without_two_classes_there_is_no_selectivity(labels):
    table = found("activations", {"dense": np.ones((6, 2))}, Rows(6, labels)).tables["dense/units"]

    assert "selectivity" not in table.columns


def test_labels_that_are_numbers_are_no_classes():
    labels = tuple(str(number / 7) for number in range(30))

    answer = found("activations", {"dense": np.ones((30, 2))}, Rows(30, labels))

    assert "selectivity" not in answer.tables["dense/units"].columns
    assert answer.warnings == ("dense: 30 rows have 30 labels, which are no classes; selectivity is left out.",)


def test_more_labels_than_means_are_kept_for_have_no_selectivity(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.dissection.activations._CLASS_ELEMENTS", 4)

    answer = found("activations", {"dense": np.ones((30, 2))}, Rows(30, ("ape", "cat", "hen") * 10))

    assert answer.warnings == ("dense: the rows have more than 2 labels; selectivity is left out.",)


def test_dead_units_are_named_with_the_rule():
    values = np.array([[0.0, 2, -1, 1], [0, 2, -3, 0], [0, 2, 0, 0]])

    answer = found("activations", {"dense": values})

    table = answer.tables["dense/units"]
    assert column(table, "dead").tolist() == [True, True, True, False]
    assert column(table, "why").tolist() == ["constant", "constant", "never above 0", ""]
    assert column(answer.tables["layers"], "dead").tolist() == [3]


def test_one_row_of_one_unit_has_an_answer():
    answer = found("activations", {"dense": np.array([[3.0]])})

    table = answer.tables["dense/units"]
    assert statistics(table, "mean", "deviation", "median", "mad", "maximum") == {
        "mean": 3, "deviation": 0, "median": 3, "mad": 0, "maximum": 3,
    }  # fmt: skip
    assert not column(table, "dead")[0]
    assert np.isnan(column(table, "sparseness")[0])
    layers = answer.tables["layers"]
    assert np.isnan(column(layers, "participation_ratio")[0])
    assert np.isnan(column(layers, "population_sparseness")[0])


def test_the_participation_ratio_is_how_many_directions_vary():
    source = np.random.default_rng(3)
    free, line = source.normal(size=(5000, 4)), source.normal(size=(5000, 1)) * [1.0, 2, 3, 4]

    ratios = column(found("activations", {"free": free, "line": line}).tables["layers"], "participation_ratio")

    eigenvalues = np.linalg.eigvalsh(np.cov(free.T))
    assert ratios[0] == pytest.approx(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum(), rel=1e-6)
    assert ratios[1] == pytest.approx(1)


def test_the_participation_ratio_of_more_units_than_covariances_are_kept_for_is_left_out():
    answer = found("activations", {"wide": np.ones((2, 1448)), "dense": np.eye(2)})

    assert np.isnan(column(answer.tables["layers"], "participation_ratio")).tolist() == [True, False]
    assert any("No participation ratio of wide" in text for text in answer.warnings)


def test_the_highest_rows_are_named_with_their_positions_and_ties_go_by_row():
    values = np.zeros((4, 2, 3, 4), np.float32)
    values[2, 0, 1, 3] = 5
    values[3, 0, 2, 0] = 7
    values[:, 1, 0, 2] = 1

    table = found("activations", {"conv": values}, top=3).tables["conv/top"]

    columns = [column(table, name).tolist() for name in ("unit", "rank", "row", "name", "value", "y", "x")]
    lines = list(zip(*columns, strict=True))
    assert lines[:2] == [(0, 1, 3, "row 3", 7, 2, 0), (0, 2, 2, "row 2", 5, 1, 3)]
    assert [line[:3] for line in lines[3:]] == [(1, 1, 0), (1, 2, 1), (1, 3, 2)]
    assert {line[5:] for line in lines[3:]} == {(0, 2)}


def test_fewer_rows_than_are_asked_for_are_all_shown():
    table = found("activations", {"dense": np.array([[1.0], [2.0]])}, top=5).tables["dense/top"]

    assert column(table, "row").tolist() == [1, 0]
    assert "y" not in table.columns


def test_without_rows_at_the_top_there_is_no_table_of_them():
    answer = found("activations", {"dense": np.eye(4)}, Rows(4, images=tuple(pictures(4))), top=0)

    assert list(answer.tables) == ["dense/units", "dense/positions", "layers"]
    assert not answer.pictures


def test_only_the_units_that_were_asked_for_are_looked_at():
    values = maps()

    answer = found("activations", {"conv": values["conv"]}, units=[2])

    assert column(answer.tables["conv/units"], "unit").tolist() == [2]
    assert column(answer.tables["conv/units"], "mean") == pytest.approx(values["conv"][:, 2].mean(dtype=np.float64))


def test_units_may_be_on_the_last_axis():
    values = np.random.default_rng(4).normal(size=(9, 6, 3))

    answer = found("activations", {"tokens": values}, unit_axis=1)

    np.testing.assert_allclose(column(answer.tables["tokens/units"], "mean"), values.mean((0, 1)))
    top = answer.tables["tokens/top"]
    first = column(top, "rank") == 1
    np.testing.assert_array_equal(
        column(top, "position")[first], [values[:, :, unit].max(0).argmax() for unit in range(3)]
    )


def test_border_and_centre_of_maps_have_statistics_of_their_own():
    values = maps()["conv"].astype(np.float64)

    table = found("activations", {"conv": values}).tables["conv/positions"]

    centre = values[:, :, 1:-1, 1:-1]
    ring = np.ones((4, 5), bool)
    ring[1:-1, 1:-1] = False
    assert column(table, "positions").tolist() == ["border"] * 3 + ["centre"] * 3
    assert column(table, "places").tolist() == [14] * 3 + [6] * 3
    np.testing.assert_allclose(column(table, "mean")[3:], centre.mean((0, 2, 3)))
    np.testing.assert_allclose(column(table, "deviation")[:3], values[:, :, ring].std((0, 2)))


def test_a_first_position_a_hundred_times_as_large_is_warned_of_and_can_be_left_out():
    values = np.random.default_rng(5).normal(size=(30, 6, 4))
    values[:, 0] *= 100

    loud = found("activations", {"tokens": values}, unit_axis=1)
    quiet = found("activations", {"tokens": values}, unit_axis=1, without="first")

    assert any("positions 'first' have" in text and "dominate the whole" in text for text in loud.warnings)
    assert any("left out of all else" in text for text in quiet.warnings)
    rest = values[:, 1:].reshape(-1, 4)
    table = quiet.tables["tokens/units"]
    np.testing.assert_allclose(column(table, "deviation"), rest.std(0))
    np.testing.assert_allclose(column(table, "median"), np.median(rest.astype(np.float32), 0))
    assert 0 not in column(quiet.tables["tokens/top"], "position")
    np.testing.assert_allclose(column(quiet.tables["tokens/positions"], "maximum")[:4], values[:, 0].max(0))


@pytest.mark.parametrize(
    ("name", "shape", "axis", "wanted"),
    [
        ("conv", (3, 4, 5), 0, {"border": 14, "centre": 6}),
        ("conv", (3, 2, 5), 0, {"all": 10}),
        ("conv", (3, 1, 1), 0, {"all": 1}),
        ("tokens", (7, 3), 1, {"first": 1, "others": 6}),
        ("tokens", (1, 3), 1, {"all": 1}),
        ("attention:heads", (2, 7, 3), 0, {"first": 3, "others": 18}),
        ("video", (3, 2, 4, 4), 0, {"all": 32}),
        ("dense", (3,), 0, {"all": 1}),
        ("number", (), 0, {"all": 1}),
    ],
)
def test_the_classes_of_positions_are_what_fits_the_layer(name, shape, axis, wanted):
    table = found("activations", {name: np.ones((2, *shape))}, unit_axis=axis).tables[f"{name}/positions"]

    assert dict(zip(column(table, "positions"), column(table, "places"), strict=True)) == wanted


@pytest.mark.parametrize("positions", ["first and others", "border and centre"])
def test_classes_that_do_not_fit_a_layer_leave_it_whole(positions):
    values = {"dense": np.ones((3, 2)), "tokens": np.ones((3, 2, 2, 2, 2))}

    answer = found("activations", values, positions=positions)

    assert set(column(answer.tables["dense/positions"], "positions")) == {"all"}


def test_layers_of_a_real_network_are_what_its_modules_make(bench):
    rows = {key: value.numpy() for key, value in zoo_rows("tokens", 6, 5).items()}
    names = ("layer", "layer.mlp.1", "layer.attention:heads")
    handle = bench.handle("tokens")
    (captured,) = bench.run(lambda: handle.ask(Capture(Recipe(rows), names)).arrays)
    sites = zoo_graph("tokens").sites
    layers = [SiteLayer(name, captured[name].shape[1:], sites[name].unit_axis) for name in names]
    probe = Tensors(6, arrays=rows)
    asked = ProbeQuestion(tuple(ProbeLayer(each, np.arange(each.units)) for each in layers), probe)

    (answer,) = bench.run(lambda: together(yielded("activations", {}, asked=asked, handle=handle)))

    eager = eager_values(zoo_module("tokens"), zoo_rows("tokens", 6, 5))
    for each in layers:
        wanted = np.moveaxis(captured[each.name], 1 + each.unit_axis, 0).reshape(each.units, -1).astype(np.float64)
        np.testing.assert_allclose(column(answer.tables[f"{each.name}/units"], "mean"), wanted.mean(1), atol=1e-6)
    hidden = eager["layer"].numpy().reshape(-1, layers[0].units)
    np.testing.assert_allclose(column(answer.tables["layer/units"], "deviation"), hidden.std(0), rtol=1e-4)
    assert column(answer.tables["layer.attention:heads/top"], "position").max() < 5


def test_even_positions_are_not_warned_of():
    assert found("activations", maps()).warnings == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_a_value_that_is_none_is_an_error_that_names_the_row(value):
    values = {name: array.astype(np.float64) for name, array in maps().items()}
    values["conv"][35, 1, 0, 0] = value

    with pytest.raises(
        InvalidRequestError,
        match=r"conv is not finite, or too large to add up: row 35 \(row 35\) makes unit 1 (nan|inf|1e\+39)",
    ):
        found("activations", values)


@pytest.mark.parametrize("missing", ["probe", "layers"])
def test_without_rows_or_layers_the_request_is_refused_by_its_field(missing):
    asked = replace(question(maps()), **{missing: None if missing == "probe" else ()})

    with pytest.raises(InvalidRequestError) as refused:
        yielded("activations", maps(), asked=asked)

    assert refused.value.metadata["field"] == missing


def test_more_units_than_are_summed_up_are_refused():
    with pytest.raises(InvalidRequestError, match=r"layers\[0\] has 65537 units"):
        found("activations", {"dense": np.ones((1, 65537), np.float32)})


def test_layers_without_the_positions_that_are_left_out_are_named():
    answer = found("activations", maps(), without="border")

    assert answer.warnings == ("No positions 'border' to leave out: dense.",)


@pytest.mark.parametrize("name", ["activations", "projection"])
def test_states_do_not_grow_with_the_rows(name):
    sizes = []
    for count in (300, 1500):
        labels = tuple("ab"[number % 2] for number in range(count))
        settings = {"samples": 64} if name == "activations" else {"most_rows": 100}
        parts = yielded(name, maps(count), Rows(count, labels), **settings)
        sizes.append([part.state.size_bytes for part in parts if isinstance(part, Saved)][-1])

    assert sizes[0] == sizes[1]


def test_leaving_positions_out_needs_classes_of_them():
    with pytest.raises(InvalidRequestError, match="needs classes of position"):
        found("activations", maps(), positions="all", without="border")


def equal(one, other):
    assert list(one.tables) == list(other.tables)
    for name, table in one.tables.items():
        for key, each in table.columns.items():
            np.testing.assert_array_equal(column(other.tables[name], key), column(table, key), err_msg=f"{name} {key}")
            assert each.text == other.tables[name].columns[key].text
    assert {name: each.data for name, each in one.pictures.items()} == {
        name: each.data for name, each in other.pictures.items()
    }
    assert one.warnings == other.warnings


def test_what_goes_on_from_a_state_is_the_same_bit_for_bit(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.shared.save_timer._SECONDS", 0.0)
    values = maps(100)
    probe = Rows(100, tuple("ab"[number % 2] for number in range(100)))

    whole = found("activations", values, probe, samples=256)
    others = resumed("activations", values, probe, samples=256)

    assert len(others) == 4
    for other in others:
        equal(whole, other)


def test_the_progress_ends_with_all_rows():
    saved = [part for part in yielded("activations", maps(70)) if isinstance(part, Saved)]

    assert (saved[-1].rows_done, saved[-1].rows) == (70, 70)


def pictures(count, side=32):
    """Dark pictures, each with a white dot of 4 by 4 pixels in the quarter of its number."""
    made = np.zeros((count, side, side, 3), np.uint8)
    for number in range(count):
        y, x = divmod(number % 4, 2)
        made[number, y * 16 + 6 : y * 16 + 10, x * 16 + 6 : x * 16 + 10] = 255
    return made


def test_sheets_show_what_is_around_the_highest_position():
    made = pictures(4)
    values = np.zeros((4, 2, 2, 2), np.float32)
    for number in range(4):
        values[number, 0, number // 2, number % 2] = 4 - number

    answer = found("activations", {"conv": values}, Rows(4, images=tuple(made)), crop=8, top=3)

    # Unit 1 is never above 0.
    assert list(answer.pictures) == ["conv/unit 0"]
    sheet = answer.pictures["conv/unit 0"]
    assert "row 0, row 1, row 2" in sheet.text
    shown = pixels(sheet)
    assert shown.shape == (8, 3 * 8 + 2 * 2, 3)
    for place in range(3):
        crop = shown[:, place * 10 : place * 10 + 8]
        assert (crop[2:6, 2:6] == 255).all()
        assert crop.sum() == 255 * 16 * 3


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1, 1)])
def test_a_layer_without_positions_shows_whole_pictures(shape):
    answer = found(
        "activations", {"dense": np.eye(4).reshape(shape)}, Rows(4, images=tuple(pictures(4, 48))), crop=24, top=1
    )

    assert [each.height for each in answer.pictures.values()] == [24] * 4


def test_sheets_are_bounded_in_number_and_in_bytes():
    made = tuple(np.random.default_rng(6).integers(0, 255, (9, 64, 64, 3)).astype(np.uint8))

    few = found("activations", {"dense": np.eye(9)}, Rows(9, images=made), sheets=2)
    small = found("activations", {"dense": np.eye(9)}, Rows(9, images=made), picture_bytes=100_000)

    assert list(few.pictures) == ["dense/unit 0", "dense/unit 1"]
    assert 0 < sum(len(each.data) for each in small.pictures.values()) <= 100_000
    assert any("Pictures end after" in text for text in small.warnings)


def test_maps_are_drawn_each_in_its_own_scale():
    values = np.zeros((3, 4, 2, 2), np.float32)
    values[:, 0] = [[0, 1], [2, 3]]
    values[:, 1] = [[0, 100], [200, 300]]
    handle = Layers({"conv": values})

    answer = together(yielded("activations", handle.values, handle=handle, maps=2, colours="grey"))

    assert list(answer.pictures) == ["conv/maps of row 0", "conv/maps of row 1"]
    # Decoding and colouring of many maps takes long: it is done in a helper process.
    assert handle.computed == ["map_grid", "map_grid"]
    shown = pixels(answer.pictures["conv/maps of row 0"])[..., 0]
    assert shown.shape == (66, 66)
    levels = [[shown[8, x], shown[8, x + 16], shown[24, x], shown[24, x + 16]] for x in (8, 42)]
    assert levels == [[0, 85, 170, 255]] * 2
    # The map of a constant unit is drawn in the lowest colour.
    assert (shown[34:, :32] == 0).all()


def test_rows_of_one_name_have_maps_of_their_own():
    class Named(Rows):
        def names(self, numbers):
            return ("twin",) * len(numbers)

    answer = found("activations", {"conv": maps()["conv"]}, Named(2), maps=2)

    assert list(answer.pictures) == ["conv/maps of twin", "conv/maps of twin (row 1)"]


def test_rows_of_several_lengths_are_refused():
    values = {"tokens": np.ones((3, 4, 2))}
    asked = question(values, unit_axis=1)
    layer = replace(asked.layers[0].layer, shape=(9, 2))

    with pytest.raises(InvalidRequestError, match="9 positions for the first row, and 4 for row 0"):
        yielded("activations", values, asked=replace(asked, layers=(replace(asked.layers[0], layer=layer),)))


def test_findings_come_layer_by_layer():
    parts = [part for part in yielded("activations", maps()) if isinstance(part, Findings)]

    assert [next(iter(part.tables)) for part in parts] == ["conv/units", "dense/units", "layers"]


def test_samples_of_many_layers_have_no_more_elements_together_than_those_of_four(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.dissection.activations._SAMPLE_ELEMENTS", 1024)
    source = np.random.default_rng(0)
    values = {f"layer {number}": source.normal(size=(300, 4)).astype(np.float32) for number in range(32)}

    (*_, state) = [each.state for each in yielded("activations", values) if isinstance(each, Saved)]
    kept = {name: array for name, array in state.arrays.items() if name.endswith("sample/values")}

    assert len(kept) == 32
    # 1024 * 4 / 32 / 4, and no less than 64 for each unit.
    assert {len(array) for array in kept.values()} == {64}
