"""Network dissection: planted units get their names, and a plain dissection in two passes finds the same numbers."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.probes import Concept, Preview, ProbeLayer, Saved
from pellucid_server.engine.asking.registry import lookup
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.methods.dissection import network_dissection
from pellucid_server.engine.methods.shared.units.chance import iou_by_chance
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.findings import Findings
from PIL import Image
from server.engine.methods.ablation.patching import Network
from server.engine.methods.dissection.planted import (
    CONCEPTS,
    SIDE,
    Eager,
    Pictures,
    Planted,
    Small,
    answer,
    dissected,
    drawn,
    lines,
    plainly,
    question,
)


@pytest.fixture(scope="module")
def planted():
    return Eager(Planted())


def test_planted_units_get_their_names(planted):
    found = answer(dissected(planted, question(planted, drawn(60), "conv"), quantile=0.03, grid=0))

    names = [(each["concept"], each["detector"], each["dead"]) for each in lines(found.tables["dictionary"])]
    assert names == [
        ("red", True, False),
        ("vertical edge", True, False),
        ("circle", True, False),
        (None, False, True),
        (None, False, True),
    ]


@pytest.mark.parametrize("layer", ["conv", "small"])
@pytest.mark.parametrize("space", ["raw", "upsampled"])
@pytest.mark.parametrize("rule", ["bilinear", "nearest"])
@pytest.mark.parametrize("grid", [0, 12, 17])
def test_numbers_are_those_of_a_plain_dissection_in_two_passes(planted, layer, space, rule, grid):
    probe = drawn(36, noise=0.02)
    asked = question(planted, probe, layer)
    found = answer(dissected(planted, asked, quantile=0.013, grid=grid, threshold_space=space, upsampling=rule))

    values = planted._module(torch.from_numpy(probe.pixels))[layer].numpy()
    side = grid or SIDE
    thresholds, iou = plainly(values, probe.marks, 0.013, (side, side), space=space, rule=rule)
    np.testing.assert_allclose(found.tables["dictionary"].columns["threshold"].values, thresholds, rtol=1e-6)
    np.testing.assert_allclose(found.arrays[f"{layer}/iou"].values, iou, rtol=1e-6)


def column(found, name, table="dictionary"):
    return found.tables[table].columns[name].values


def parts(yielded):
    return [each for each in yielded if isinstance(each, Findings)]


@dataclasses.dataclass
class Renamed(Pictures):
    """Pictures for an input of another name."""

    input_name: str = "image"

    def rows(self, numbers):
        return {self.input_name: self.pixels[list(numbers)]}


class Layers:
    """A module that gives values by row: what `value` has for each of the pictures, whose first pixel is its number."""

    def __init__(self, value):
        self._value = torch.from_numpy(np.asarray(value, np.float32))

    def __call__(self, image):
        return {"layer": self._value[image[:, 0, 0, 0].long()]}


def given(values, marks, names=None):
    """A handle and a probe whose values, (rows, units, ...), and marks, (rows, concepts, height, width), are given."""
    marks = np.asarray(marks, bool)
    pixels = np.zeros((len(marks), 3, *marks.shape[2:]), np.float32)
    pixels[:, 0, 0, 0] = np.arange(len(marks))
    concepts = names or tuple(Concept(f"concept {number}", "any") for number in range(marks.shape[1]))
    return Eager(Layers(values)), Pictures(pixels, marks, concepts)


def asked_for(values, marks, names=None, **parameters):
    handle, probe = given(values, marks, names)
    return answer(dissected(handle, question(handle, probe, "layer"), grid=0, **parameters))


def test_of_ten_values_at_quantile_a_fifth_two_are_on_and_chance_is_a_tenth():
    values = np.arange(10.0).reshape(1, 1, 2, 5)

    found = asked_for(values, values == 8, quantile=0.2)

    (line,) = lines(found.tables["dictionary"])
    assert line["threshold"] == 7
    assert line["iou"] == 0.5
    assert line["iou_chance"] == pytest.approx(0.1)
    assert (line["precision"], line["recall"], line["share_on"]) == (0.5, 1, 0.2)
    assert line["concept"] == "concept 0"
    assert line["runner_up"] is None


def test_chance_is_the_mean_over_all_masks_of_these_sizes():
    def mean(few, many, pixels):
        other = set(range(many))
        found = [len(other & set(each)) for each in itertools.combinations(range(pixels), few)]
        return np.mean([both / (few + many - both) for both in found])

    for few, many, pixels in [(2, 1, 10), (3, 4, 9), (5, 5, 8), (1, 10, 10), (7, 8, 12)]:
        for sizes in ((few, many), (many, few)):
            found = iou_by_chance(*(np.array([size]) for size in (*sizes, pixels)))
            assert found == pytest.approx(mean(few, many, pixels), rel=1e-9)


def test_chance_of_large_masks_is_that_of_random_ones():
    pixels, few, many = 400_000, 2000, 90_000
    source = np.random.default_rng(0)
    both = source.hypergeometric(many, pixels - many, few, 200_000)

    found = iou_by_chance(np.array([few]), np.array([many]), np.array([pixels]))

    assert found == pytest.approx(np.mean(both / (few + many - both)), rel=1e-4)


def test_a_unit_that_is_seldom_on_has_threshold_zero_and_its_mask_is_where_it_is_on():
    values = np.zeros((4, 1, 5, 5))
    values[1, 0, 2, 3] = 7

    found = asked_for(values, values > 0, quantile=0.1)

    (line,) = lines(found.tables["dictionary"])
    assert (line["threshold"], line["iou"], line["plateau"], line["dead"]) == (0, 1, True, False)


def test_values_equal_to_the_threshold_are_off():
    values = np.array([3.0, 3, 3, 1, 0, 0, 0, 0]).reshape(1, 1, 2, 4)

    found = asked_for(values, values == 3, quantile=0.25)

    (line,) = lines(found.tables["dictionary"])
    assert (line["threshold"], line["share_on"], line["plateau"], line["concept"]) == (3, 0, True, None)


def test_a_unit_that_is_never_above_zero_or_never_changes_is_dead():
    values = np.random.default_rng(0).normal(size=(3, 3, 4, 4))
    values[:, 1] = -np.abs(values[:, 1])
    values[:, 2] = 2.5

    found = asked_for(values, np.ones((3, 1, 4, 4)))

    np.testing.assert_array_equal(column(found, "dead"), [False, True, True])
    assert column(found, "dead", "layers") == [2]


def test_scaling_a_unit_changes_its_threshold_and_nothing_else(planted):
    probe = drawn(30, noise=0.02)
    values = planted._module(torch.from_numpy(probe.pixels))["small"].numpy()

    found = [asked_for(values * factor, probe.marks, CONCEPTS, quantile=0.02) for factor in (1, 64)]

    np.testing.assert_array_equal(found[0].arrays["layer/iou"].values, found[1].arrays["layer/iou"].values)
    np.testing.assert_array_equal(column(found[0], "threshold") * 64, column(found[1], "threshold"))


def test_the_order_of_pictures_changes_nothing(planted):
    probe = drawn(40, noise=0.02)
    order = np.random.default_rng(1).permutation(40)
    mixed = Pictures(probe.pixels[order], probe.marks[order])

    one, other = (answer(dissected(planted, question(planted, each, "small"), top=0)) for each in (probe, mixed))

    np.testing.assert_array_equal(one.arrays["small/iou"].values, other.arrays["small/iou"].values)
    assert [lines(one.tables[name]) for name in one.tables] == [lines(other.tables[name]) for name in other.tables]


def test_only_pictures_annotated_in_the_category_count_if_asked(planted):
    probe = drawn(36, noise=0.02)
    asked = question(planted, probe, "conv")

    found = answer(dissected(planted, asked, quantile=0.02, grid=0, restrict_to_annotated=True))

    values = planted._module(torch.from_numpy(probe.pixels))["conv"].numpy()
    groups = [each.category for each in CONCEPTS]
    _, iou = plainly(values, probe.marks, 0.02, (SIDE, SIDE), groups=groups)
    np.testing.assert_allclose(found.arrays["conv/iou"].values, iou, rtol=1e-6)


def test_with_one_category_pictures_without_any_concept_do_not_count_if_asked():
    values = np.zeros((2, 1, 2, 2))
    values[:, 0, 0, 0] = [1, 2]
    marks = np.zeros((2, 1, 2, 2))
    marks[0, 0, 0, 0] = 1

    plain = asked_for(values, marks, quantile=0.25)
    restricted = asked_for(values, marks, quantile=0.25, restrict_to_annotated=True)

    assert (column(plain, "iou"), column(restricted, "iou")) == (0.5, 1)


def test_units_without_positions_are_compared_picture_by_picture():
    values = np.array([[0.0, 1], [5, 0], [6, 0], [0, 2]])
    marks = np.zeros((4, 2, 6, 6))
    marks[1:3, 0, 2, 2] = marks[:, 1] = 1

    found = asked_for(values, marks, quantile=0.5)

    np.testing.assert_allclose(found.arrays["layer/iou"].values, [[1, 0.5], [0, 0.5]])
    assert column(found, "upsampling", "layers") == ("none: units without positions are compared picture by picture",)


def test_one_picture_of_which_less_than_one_value_may_be_on_is_warned_of():
    found = asked_for(np.arange(4.0).reshape(1, 1, 2, 2), np.ones((1, 1, 2, 2)))

    assert column(found, "iou") == 0
    assert "no unit is on anywhere" in found.warnings[0]


def test_some_units_alone_are_as_among_all(planted):
    probe = drawn(30, noise=0.02)
    every = answer(dissected(planted, question(planted, probe, "small"), quantile=0.02))

    some = answer(dissected(planted, question(planted, probe, "small", units=[1, 2]), quantile=0.02))

    assert lines(some.tables["dictionary"]) == lines(every.tables["dictionary"])[1:3]
    assert set(some.pictures) == {"small/unit 1", "small/unit 2"}


def test_both_ways_agree(planted):
    found = answer(dissected(planted, question(planted, drawn(60), "conv", "small"), quantile=0.03, grid=0))

    units = {(each["layer"], each["unit"]): each for each in lines(found.tables["dictionary"])}
    for concept in lines(found.tables["concepts"]):
        best = max(
            found.arrays[f"{layer}/iou"]
            .values[:, CONCEPTS.index(Concept(concept["concept"], concept["category"]))]
            .max()
            for layer in ("conv", "small")
        )
        assert concept["iou"] == pytest.approx(best)
        if concept["unit"] is not None:
            assert units[concept["layer"], concept["unit"]]["iou"] >= concept["iou"]
        detected = [each for each in units.values() if each["detector"] and each["concept"] == concept["concept"]]
        assert concept["detectors"] == len(detected)
        assert concept["pictures"] == 10
    for each in lines(found.tables["categories"]):
        of = [
            unit
            for (layer, _), unit in units.items()
            if layer == each["layer"] and unit["detector"] and unit["category"] == each["category"]
        ]
        assert (each["units"], each["concepts"]) == (len(of), len({unit["concept"] for unit in of}))


def test_the_top_rows_are_those_of_the_largest_values(planted):
    probe = drawn(30, noise=0.02)
    values = planted._module(torch.from_numpy(probe.pixels))["small"].numpy()

    found = answer(dissected(planted, question(planted, probe, "small"), top=3))

    flat = values[:, 1].reshape(30, -1)
    rows = np.argsort(-flat.max(1))[:3]
    of_unit = [each for each in lines(found.tables["top"]) if each["unit"] == 1]
    assert [each["row"] for each in of_unit] == rows.tolist()
    assert [each["name"] for each in of_unit] == [f"{row}.png" for row in rows]
    np.testing.assert_allclose([each["activation"] for each in of_unit], flat.max(1)[rows])
    at = flat.argmax(1)[rows]
    np.testing.assert_allclose([each["y"] for each in of_unit], (at // 12 + 0.5) / 12)
    np.testing.assert_allclose([each["x"] for each in of_unit], (at % 12 + 0.5) / 12)


def test_sheets_are_of_detectors_first_and_as_many_as_asked_for(planted):
    asked = question(planted, drawn(60), "conv")
    found = answer(dissected(planted, asked, quantile=0.03, pictures=3, top=4))

    assert set(found.pictures) == {"conv/unit 0", "conv/unit 1", "conv/unit 2"}
    sheet = np.asarray(Image.open(io.BytesIO(found.pictures["conv/unit 0"].data)).convert("RGB"), int)
    first = sheet[:112, :112]
    red = (first[..., 0] > 150) & (first[..., 1] < 60)
    assert 0.1 < red.mean() < 0.2, "the red square as it is, of 9 by 9 of 24 by 24 pixels"
    assert "red" in found.pictures["conv/unit 0"].text


def test_without_room_for_maps_the_model_runs_twice_and_finds_the_same():
    probe = drawn(70, noise=0.02)
    kept, not_kept = Eager(Planted()), Eager(Planted())

    one = answer(dissected(kept, question(kept, probe, "conv", "small"), pictures=0))
    other = answer(dissected(not_kept, question(not_kept, probe, "conv", "small"), cache_mb=0, pictures=0))

    assert (kept.rows, not_kept.rows) == (70, 140)
    assert [lines(one.tables[name]) for name in one.tables] == [lines(other.tables[name]) for name in other.tables]


@pytest.mark.parametrize("space", ["raw", "upsampled"])
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_a_run_goes_on_from_any_state_to_the_same_bits(monkeypatch, space, cache_mb):
    monkeypatch.setattr("pellucid_server.engine.methods.shared.save_timer._SECONDS", 0.0)
    monkeypatch.setattr(network_dissection, "_MOST_ROWS", 8)
    handle, probe = Eager(Planted()), drawn(30, noise=0.02)
    settings = {"threshold_space": space, "cache_mb": cache_mb, "quantile": 0.02, "grid": 17}
    whole = dissected(handle, question(handle, probe, "small", "dense"), **settings)

    places = [place for place, each in enumerate(whole) if isinstance(each, Saved)]
    assert len(places) >= 8
    for place in places:
        again = dissected(handle, question(handle, probe, "small", "dense", state=whole[place].state), **settings)
        for mine, theirs in zip(parts(again), parts(whole[place:]), strict=True):
            assert [lines(mine.tables[name]) for name in mine.tables] == [
                lines(theirs.tables[name]) for name in theirs.tables
            ]
            assert mine.pictures == theirs.pictures


def test_progress_only_rises_and_is_whole_only_when_all_pictures_are_drawn(monkeypatch, planted):
    monkeypatch.setattr("pellucid_server.engine.methods.shared.save_timer._SECONDS", 0.0)
    monkeypatch.setattr(network_dissection, "_MOST_ROWS", 8)
    yielded = dissected(planted, question(planted, drawn(70), "conv"), cache_mb=0)
    saved = [each for each in yielded if isinstance(each, Saved)]
    shown = {row for part in parts(yielded) if "top" in part.tables for row in column(part, "row", "top").tolist()}

    shares = [each.rows_done / each.rows for each in saved]
    assert shares == sorted(shares)
    assert [share == 1 for share in shares] == [False] * (len(shares) - 1) + [True]
    # Each row is looked at, looked at again, and shown once at most.
    assert saved[-1].rows_done == 140 + len(shown)


def test_previews_have_the_dictionary_so_far(monkeypatch, planted):
    monkeypatch.setattr(network_dissection, "_PREVIEW_SECONDS", 0)
    monkeypatch.setattr(network_dissection, "_PREVIEW_SHARE", 0)
    yielded = dissected(planted, question(planted, drawn(90), "conv"), quantile=0.03, grid=0)

    previews = [each.findings for each in yielded if isinstance(each, Preview)]
    final = answer(yielded)
    assert len(previews) >= 4
    assert column(previews[0], "concept")[:3] == ("red", "vertical edge", "circle")
    assert previews[-1].tables["dictionary"].columns.keys() == final.tables["dictionary"].columns.keys()
    assert lines(previews[-1].tables["dictionary"]) == lines(final.tables["dictionary"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_an_error_that_says_where(bad):
    values = np.zeros((3, 2, 4, 4))
    values[2, 1, 3, 0] = bad

    with pytest.raises(InvalidRequestError, match="Unit 1 of layer is NaN or infinite in row 2"):
        asked_for(values, np.ones((3, 1, 4, 4)))


def test_units_with_positions_that_are_not_a_pictures_are_refused():
    with pytest.raises(UnsupportedError, match="no positions in a picture"):
        asked_for(np.zeros((3, 2, 5)), np.ones((3, 1, 4, 4)))


def test_what_is_missing_is_said(planted):
    probe = drawn(3)
    asked = question(planted, probe, "conv")

    for wrong, field in (
        ({"layers": ()}, "layers"),
        ({"probe": None}, "probe"),
        ({"probe": Pictures(probe.pixels, probe.marks[:, :0], ())}, "probe"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            dissected(planted, dataclasses.replace(asked, **wrong))
        assert refused.value.metadata["field"] == field


def test_a_real_handle_finds_the_same(bench):
    probe = drawn(40, noise=0.02)
    network = Network(Small(), torch.from_numpy(probe.pixels[:1]))
    layer = ProbeLayer(network.layer("conv"), np.arange(5))
    handle, entry = network.handle(bench), lookup("network-dissection", DISSECT)
    named = dataclasses.replace(question(Eager(Planted()), probe, "conv"), layers=(layer,))
    renamed = Renamed(probe.pixels, probe.marks, input_name=network.input)
    asked = dataclasses.replace(named, probe=renamed)

    (yielded,) = bench.run(lambda: list(entry.function(handle, asked, entry.resolve({"quantile": 0.02, "grid": 0}))))

    values = network.value(probe.pixels, "conv").numpy()
    _, iou = plainly(values, probe.marks, 0.02, (SIDE, SIDE))
    np.testing.assert_allclose(answer(yielded).arrays["conv/iou"].values, iou, rtol=1e-5)


def test_a_detector_by_few_pictures_is_not_sure():
    values, marks = np.zeros((100, 2, 3, 3)), np.zeros((100, 1, 3, 3))
    marks[:20] = 1
    values[:20, 0] = 1
    values[[0, 1, *range(40, 48)], 1] = 1

    found = asked_for(values, marks, quantile=0.3)

    np.testing.assert_allclose(column(found, "iou"), [1, 2 / 28])
    np.testing.assert_array_equal(column(found, "detector"), [True, True])
    np.testing.assert_array_equal(column(found, "sure"), [True, False])
    assert (column(found, "sure_detectors", "layers"), column(found, "sure_concepts", "layers")) == (1, 1)


def test_units_that_are_nowhere_above_their_highest_value_are_warned_of():
    values = np.full((2, 1, 2, 2), 6.0)
    values[0, 0, 0] = 0

    found = asked_for(values, np.ones((2, 1, 2, 2)), quantile=0.5)

    assert "1 units of layer are at their highest value" in found.warnings[0]


def test_more_pairs_of_units_and_concepts_than_sums_are_kept_of_are_refused_first(planted, monkeypatch):
    monkeypatch.setattr(network_dissection, "_MOST_PAIRS", 5 * len(CONCEPTS) - 1)
    probe = drawn(6)

    with pytest.raises(InvalidRequestError, match=f"5 units and the probe {len(CONCEPTS)} concepts") as refused:
        dissected(planted, question(planted, probe, "conv"))

    assert (refused.value.metadata["field"], probe.asked) == ("layers", [])
