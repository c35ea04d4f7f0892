"""Activation patching against networks that are changed by hand."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.sites import Intervention, Site
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.ablation.patching import Network, column, patched_by_hand, sites_of
from server.engine.models.networks import Residual
from torch import nn

NAME = "activation-patching"


class Words(nn.Module):
    """Two residual layers over a sequence, that mix places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.mixed = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.widths = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.head = nn.Linear(3, 3)

    def forward(self, words):
        hidden = words
        for mixed, width in zip(self.mixed, self.widths, strict=True):
            hidden = hidden + width(torch.tanh(mixed(hidden.transpose(1, 2)).transpose(1, 2)))
        return self.head(torch.tanh(hidden).mean(1))


class Kept(nn.Module):
    """A layer whose value is what it is given."""

    def forward(self, value):
        return value * 1


class Pair(nn.Module):
    """The product of what two layers make."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Kept(), Kept()

    def forward(self, rows):
        return self.a(rows[:, :1]) * self.b(rows[:, 1:])


@pytest.fixture(scope="module")
def words():
    return Network(Words(), torch.zeros(1, 4, 3))


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(5)
    return Network(Residual(), torch.zeros(1, 3, 4, 4))


def rows_of(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("each", ["unit", "position"])
def test_every_site_is_patched_as_by_hand_in_both_directions(bench, words, direction, each):
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    sites = [site for name in ("widths.0", "widths.1") for site in sites_of(words, name, each)]
    parts = words.ask(bench, NAME, words.question(clean, corrupted, sites), direction=direction)

    run, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    start, end = words.run(run)[:, :1].numpy(), words.run(other)[:, :1].numpy()
    after = np.stack([patched_by_hand(words, run, other, site)[:, 0] for site in sites], axis=1)
    found = {
        name: np.concatenate([part.tables["effects"].columns[name].values.reshape(2, -1) for part in parts[:-1]], 1)
        for name in ("before", "after", "score")
    }
    np.testing.assert_allclose(found["before"], np.broadcast_to(start, after.shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["after"], after, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["score"], (after - start) / (end - start), rtol=1e-4, atol=1e-5)
    assert np.abs(found["after"] - found["before"]).max() > 0.01
    assert column(parts, "effects", "defined").all()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patching_everything_scores_1_and_patching_what_does_not_differ_scores_0(bench, residual, direction):
    clean, corrupted = rows_of(3, 3, 4, 4, seed=1), rows_of(3, 3, 4, 4, seed=2)
    corrupted[:, 0] = clean[:, 0]

    class_ = Network(_Split(), torch.zeros(1, 3, 4, 4))
    sites = [Site("all"), Site("all", (0,)), Site("all", (1, 2))]
    parts = class_.ask(bench, NAME, class_.question(clean, corrupted, sites), direction=direction)
    scores = column(parts, "effects", "score").reshape(3, 3)
    np.testing.assert_allclose(scores, np.broadcast_to([1, 0, 1], (3, 3)), atol=1e-5)

    parts = residual.ask(bench, NAME, residual.question(clean, corrupted, [Site("blocks.1#1")]), direction=direction)
    np.testing.assert_allclose(column(parts, "effects", "score"), 1, atol=1e-5)


class _Split(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.all, self.conv, self.head = Kept(), nn.Conv2d(3, 2, 3), nn.Linear(8, 2)

    def forward(self, image):
        return self.head(torch.tanh(self.conv(self.all(image))).flatten(1))


def test_what_one_layer_needs_of_another_shows_in_the_two_directions(bench):
    # a * b: from (0, 0) to (1, 1) no single patch restores anything, and from (1, 1) to (0, 0) each breaks all.
    network = Network(Pair(), torch.zeros(1, 2))
    question = network.question([[1.0, 1.0]], [[0.0, 0.0]], [Site("a"), Site("b")])

    assert column(network.ask(bench, NAME, question), "effects", "score").tolist() == [0.0, 0.0]
    assert column(network.ask(bench, NAME, question, direction="noise"), "effects", "score").tolist() == [1.0, 1.0]


def test_where_both_runs_score_the_same_the_score_is_missing_and_a_warning_says_so(bench, words):
    clean, corrupted = rows_of(3, 4, 3, seed=1), rows_of(3, 4, 3, seed=2)
    corrupted[1] = clean[1]
    parts = words.ask(bench, NAME, words.question(clean, corrupted, sites_of(words, "widths.0", "position")))

    table = parts[0].tables["effects"].columns
    assert table["defined"].values.reshape(3, 4).tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert table["score"].missing.tolist() == (~table["defined"].values).tolist()
    assert (table["score"].values.reshape(3, 4)[1] == 0).all()
    assert len(parts[0].warnings) == 1
    assert "1 of 3 rows (1)" in parts[0].warnings[0]
    assert parts[0].tables["summary"].columns["rows with a score"].values.tolist() == [2] * 4


def test_with_one_undefined_row_there_is_no_mean_score_and_the_map_is_missing(bench, words):
    row = rows_of(1, 4, 3, seed=1)
    parts = words.ask(bench, NAME, words.question(row, row, sites_of(words, "widths.0", "position")))

    assert np.isnan(parts[-1].arrays["scores"].values).all()
    assert parts[0].tables["runs"].columns["defined"].values.tolist() == [False]
    assert np.isfinite(parts[0].tables["effects"].columns["effect"].values).all()


def test_a_difference_of_rounding_alone_counts_as_none_though_the_terms_of_the_metric_are_large(bench):
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Kept()

        def forward(self, rows):
            return self.a(rows)

    network = Network(Large(), torch.zeros(1, 2))
    question = network.question([[1e6, 1e6 + 0.5]], [[1e6, 1e6 + 0.75]], [Site("a")], elements=((0, 1.0), (1, -1.0)))

    parts = network.ask(bench, NAME, question)

    assert column(parts, "runs", "clean") - column(parts, "runs", "corrupted") == pytest.approx(0.25)
    assert not column(parts, "effects", "defined").any()


def test_one_corrupted_row_serves_all_clean_ones(bench, words):
    clean, corrupted = rows_of(3, 4, 3, seed=1), rows_of(1, 4, 3, seed=2)
    sites = sites_of(words, "widths.1", "position")

    one = words.ask(bench, NAME, words.question(clean, corrupted, sites))
    each = words.ask(bench, NAME, words.question(clean, np.repeat(corrupted, 3, axis=0), sites))

    np.testing.assert_array_equal(column(one, "effects", "score"), column(each, "effects", "score"))
    assert len(set(column(one, "runs", "corrupted").tolist())) == 1


def test_sites_by_position_of_several_layers_make_a_map_of_layers_and_positions(bench, words):
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    sites = [site for name in ("widths.0", "widths.1") for site in sites_of(words, name, "position")]

    parts = words.ask(bench, NAME, words.question(clean, corrupted, sites))

    array = parts[-1].arrays["scores"]
    assert [axis.name for axis in array.axes] == ["layer", "position"]
    assert array.axes[0].labels == ("widths.0", "widths.1")
    expected = [part.tables["effects"].columns["score"].values.reshape(2, 4).mean(0) for part in parts[:-1]]
    np.testing.assert_allclose(array.values, expected)


def test_sites_that_are_divided_differently_make_no_map(bench, words):
    clean, corrupted = rows_of(1, 4, 3, seed=1), rows_of(1, 4, 3, seed=2)
    sites = [*sites_of(words, "widths.0", "position"), Site("widths.1")]

    parts = words.ask(bench, NAME, words.question(clean, corrupted, sites))

    assert not any(part.arrays for part in parts)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_what_comes_behind_the_parts_that_the_caller_has_is_the_rest_of_the_answer(bench, words, done):
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    sites = [site for name in ("widths.0", "widths.1") for site in sites_of(words, name, "position")]
    whole = words.ask(bench, NAME, words.question(clean, corrupted, sites))

    rest = words.ask(bench, NAME, words.question(clean, corrupted, sites, parts_done=done))

    assert len(whole) == 3
    assert len(rest) == 3 - done
    for one, other in zip(rest, whole[done:], strict=True):
        assert one.tables.keys() == other.tables.keys()
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(array.values, other.arrays[name].values)
        for name, table in one.tables.items():
            for key, each in table.columns.items():
                np.testing.assert_array_equal(each.values, other.tables[name].columns[key].values)


def test_a_divergence_is_from_the_clean_prediction_and_its_score_is_1_where_that_is_restored(bench, words):
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    sites = [Site("head"), *sites_of(words, "widths.0", "position")]
    parts = words.ask(bench, NAME, words.question(clean, corrupted, sites, divergence="softmax"))

    shares = torch.softmax(words.run(clean).double(), 1)
    others = torch.softmax(words.run(corrupted).double(), 1)
    expected = (shares * (shares / others).log()).sum(1).numpy()
    np.testing.assert_allclose(column(parts, "runs", "clean"), 0, atol=1e-6)
    np.testing.assert_allclose(column(parts, "runs", "corrupted"), expected, rtol=1e-4, atol=1e-6)
    assert column(parts, "effects", "score")[:2] == pytest.approx(1, abs=1e-5)


def test_what_is_no_patch_and_a_request_without_source_or_sites_is_refused(bench, words):
    rows = rows_of(1, 4, 3, seed=1)
    with pytest.raises(InvalidRequestError, match=r"interventions\[0\].kind is ZERO; activation-patching takes PATCH"):
        words.ask(bench, NAME, words.question(rows, rows, [Site("head")], kind="zero"))
    with pytest.raises(InvalidRequestError, match="source is empty"):
        words.ask(bench, NAME, words.question(rows, None, [Site("head")]))
    with pytest.raises(InvalidRequestError, match="interventions is empty"):
        words.ask(bench, NAME, words.question(rows, rows, [], interventions=()))
    with pytest.raises(InvalidRequestError, match="interventions is empty"):
        words.ask(bench, NAME, words.question(rows, rows, [], interventions=(Intervention(()),)))
