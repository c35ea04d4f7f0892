"""Attribution patching against what patching does, where that is known, and where the two must differ."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.sites import Site
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.errors import InvalidRequestError, TimedOutError
from server.engine.methods.ablation.patching import Network, column, sites_of
from server.engine.methods.ablation.test_activation_patching import Kept, Words
from server.engine.models.networks import Residual
from torch import nn

NAME = "attribution-patching"
EXACT = "activation-patching"


class Curved(nn.Module):
    """The score is 4a - 6a^2: its slope is 4 at 0, and -2 on average from 0 to 1."""

    def __init__(self):
        super().__init__()
        self.a = Kept()

    def forward(self, rows):
        a = self.a(rows)
        return 4 * a - 6 * a**2


class Straight(nn.Module):
    """Residual layers without anything that bends."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.head = nn.Linear(5, 2)

    def forward(self, rows):
        for layer in self.layers:
            rows = rows + layer(rows)
        return self.head(rows)


@pytest.fixture(scope="module")
def words():
    return Network(Words(), torch.zeros(1, 4, 3))


def rows_of(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_where_the_metric_bends_the_estimate_has_the_wrong_sign_and_the_path_the_right_value(bench):
    # From 0 to 1 the score 4a - 6a^2 falls to -2; its slope at 0 says that it rises to 4.
    network = Network(Curved(), torch.zeros(1, 1))
    question = network.question([[1.0]], [[0.0]], [Site("a")])

    at_start = network.ask(bench, NAME, question)
    on_path = network.ask(bench, NAME, question, points=2)
    patched = network.ask(bench, EXACT, question)

    assert column(at_start, "effects", "after") == pytest.approx([4.0])
    assert column(on_path, "effects", "after") == pytest.approx([-2.0])
    assert column(patched, "effects", "after") == pytest.approx([-2.0])
    for parts, estimate in ((at_start, -4.0), (on_path, 2.0)):
        check = parts[-1].tables["check"].columns
        assert check["estimate"].values == pytest.approx([estimate])
        assert check["exact"].values == pytest.approx([2.0])
        assert check["gap"].values == pytest.approx([estimate - 2.0], abs=1e-5)
    assert "wrong sign" in at_start[-1].warnings[0]
    assert not on_path[-1].warnings


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("points", [1, 3])
def test_on_a_linear_network_every_estimate_is_exact(bench, direction, points):
    network = Network(Straight(), torch.zeros(1, 5))
    clean, corrupted = rows_of(3, 5, seed=1), rows_of(3, 5, seed=2)
    sites = [site for name in ("layers.0", "layers.1") for site in sites_of(network, name, "unit")]
    question = network.question(clean, corrupted, sites, elements=((1, 1.0), (0, -1.0)))

    estimated = network.ask(bench, NAME, question, direction=direction, points=points)
    exact = network.ask(bench, EXACT, question, direction=direction)

    for name in ("before", "after", "effect", "score"):
        np.testing.assert_allclose(
            column(estimated, "effects", name), column(exact, "effects", name), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(column(estimated, "check", "gap"), 0, atol=1e-5)
    assert len(column(estimated, "check", "gap")) == 5 * 3


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_estimates_are_the_change_times_the_gradient_by_autograd(bench, words, direction):
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    run, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    names = ("widths.0", "widths.1")
    sites = [site for name in names for site in sites_of(words, name, "position")]

    parts = words.ask(bench, NAME, words.question(clean, corrupted, sites), direction=direction)

    for part, name in zip(parts, names, strict=False):
        kept = []
        with words.hooked({name: lambda value, kept=kept: kept.append(value)}):
            words.module(torch.from_numpy(run).requires_grad_())[:, 0].sum()
        (slope,) = torch.autograd.grad(_score(words, run, name, kept), kept)
        change = words.value(other, name) - kept[0]
        expected = -(slope * change).sum(2).detach().numpy()
        effects = part.tables["effects"].columns["effect"].values.reshape(2, 4)
        np.testing.assert_allclose(effects, expected, rtol=1e-4, atol=1e-6)


def _score(network, rows, name, kept):
    """Return the summed score, with the layer's value kept in the graph."""
    kept.clear()
    with network.hooked({name: kept.append}):
        return network.module(torch.from_numpy(rows))[:, 0].sum()


def test_on_a_path_the_estimate_of_a_whole_layer_is_what_patching_it_does(bench):
    torch.manual_seed(5)
    network = Network(Residual(), torch.zeros(1, 3, 4, 4))
    clean, corrupted = rows_of(2, 3, 4, 4, seed=1), rows_of(2, 3, 4, 4, seed=2)
    question = network.question(clean, corrupted, [Site("blocks.0"), Site("blocks.1"), Site("blocks.1#1")])

    found = network.ask(bench, NAME, question, points=256, check=3)

    span = np.abs(column(found, "runs", "clean") - column(found, "runs", "corrupted")).max()
    np.testing.assert_allclose(column(found, "check", "gap"), 0, atol=0.02 * span)


def test_one_pass_back_is_made_for_all_layers_of_a_row(bench, words):
    clean, corrupted = rows_of(1, 4, 3, seed=1), rows_of(1, 4, 3, seed=2)
    question = words.question(clean, corrupted, [Site("widths.0"), Site("widths.1"), Site("head")])
    handle = words.handle(bench)
    found = registry.lookup(NAME, ABLATE)

    bench.run(lambda: list(found.function(handle, question, found.resolve({"check": 0}))))

    assert handle.tally.work().rows_backward == 1


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_what_comes_behind_the_parts_that_the_caller_has_is_the_rest_of_the_answer(bench, words, done):
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    sites = [site for name in ("widths.0", "widths.1") for site in sites_of(words, name, "position")]
    whole = words.ask(bench, NAME, words.question(clean, corrupted, sites))

    rest = words.ask(bench, NAME, words.question(clean, corrupted, sites, parts_done=done))

    assert (len(whole), len(rest)) == (3, 3 - done)
    for one, other in zip(rest, whole[done:], strict=True):
        assert one.tables.keys() == other.tables.keys()
        for name, table in one.tables.items():
            for key, each in table.columns.items():
                np.testing.assert_array_equal(each.values, other.tables[name].columns[key].values)


def test_a_site_that_does_not_differ_is_estimated_at_0_though_the_slope_is_infinite(bench):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Kept()

        def forward(self, rows):
            return self.a(rows).sqrt().sum(1, keepdim=True)

    network = Network(Root(), torch.ones(1, 2))
    sites = [Site("a", (0,)), Site("a", (1,))]
    parts = network.ask(bench, NAME, network.question([[0.0, 9.0]], [[0.0, 4.0]], sites))

    assert column(parts, "effects", "effect") == pytest.approx([0.0, -1.25])
    with pytest.raises(InvalidRequestError, match="gradient at a is not finite for row 0"):
        network.ask(bench, NAME, network.question([[1.0, 9.0]], [[0.0, 4.0]], sites))


class Late:
    """A handle whose deadline is past once it was asked so often for the time that is left."""

    def __init__(self, handle, after):
        self._handle, self._looks = handle, after

    def __getattr__(self, name):
        return getattr(self._handle, name)

    def seconds_left(self):
        self._looks -= 1
        return 1.0 if self._looks >= 0 else 0.0


def test_at_the_deadline_the_parts_end_though_nothing_is_left_to_evaluate(bench, words):
    # All sites are estimated at once, so that no evaluation finds the deadline passed between the parts.
    clean, corrupted = rows_of(2, 4, 3, seed=1), rows_of(2, 4, 3, seed=2)
    sites = [site for name in ("widths.0", "widths.1") for site in sites_of(words, name, "position")]
    question = words.question(clean, corrupted, sites)
    found = registry.lookup(NAME, ABLATE)
    handle, parts = Late(words.handle(bench), after=1), []

    def ask():
        for part in found.function(handle, question, found.resolve({"check": 0})):
            parts.append(part)

    with pytest.raises(TimedOutError):
        bench.run(ask)

    assert len(parts) == 1
    whole = words.ask(bench, NAME, question, check=0)
    np.testing.assert_array_equal(column(parts, "effects", "effect"), column(whole[:1], "effects", "effect"))


def test_a_divergence_is_refused_with_the_reason(bench, words):
    rows = rows_of(1, 4, 3, seed=1)
    with pytest.raises(InvalidRequestError, match="metric is KL_DIVERGENCE"):
        words.ask(bench, NAME, words.question(rows, rows, [Site("head")], divergence="softmax"))
