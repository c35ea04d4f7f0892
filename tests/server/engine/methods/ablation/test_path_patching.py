"""Path patching against the same runs made by hand with hooks, and against what paths of linear networks add up to."""

import itertools

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.sites import Intervention, Site
from pellucid_server.errors import InvalidRequestError, NotFoundError
from server.engine.methods.ablation.patching import Network, column
from server.engine.methods.ablation.test_activation_patching import Kept
from torch import nn

NAME = "path-patching"


class Branch(nn.Module):
    def __init__(self, width, act):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(width, width), act, nn.Linear(width, width)

    def forward(self, rows):
        return rows + self.second(self.act(self.first(rows)))


class Chain(nn.Module):
    """Three residual blocks and a head."""

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(4)
        self.entry = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([Branch(3, act()) for _ in range(3)])
        self.head = nn.Linear(3, 2)

    def forward(self, rows):
        hidden = self.entry(rows)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


class Plain(nn.Module):
    """Layers behind one another, without a way round."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, rows):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(rows)))))


class Sum(nn.Module):
    """x + f(x), with f(x) = 3x."""

    def __init__(self):
        super().__init__()
        self.x, self.f = Kept(), nn.Linear(1, 1, bias=False)
        self.f.weight.data.fill_(3.0)

    def forward(self, rows):
        hidden = self.x(rows)
        return hidden + self.f(hidden)


@pytest.fixture(scope="module")
def linear():
    return Network(Chain(Kept), torch.zeros(1, 3))


@pytest.fixture(scope="module")
def curved():
    return Network(Chain(nn.Tanh), torch.zeros(1, 3))


def rows_of(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def resolved(parts, name):
    return parts[-1].resolved[name]


def by_hand(network, rows, source, sender, frozen, receivers):
    """Return the outputs with a sender patched that reaches the receivers with some modules held, in three runs."""
    clean = {name: network.value(rows, name) for name in frozen}
    changed = network.value(source, sender)
    changes = {name: lambda _, value=value: value for name, value in {**clean, sender: changed}.items()}
    received = {}
    noting = {name: lambda value, name=name: received.setdefault(name, value.clone()) for name in receivers}
    with network.hooked(changes), network.hooked(noting):
        output = network.run(rows)
    if not receivers:
        return output.numpy()
    with network.hooked({name: lambda _, value=value: value for name, value in received.items()}):
        return network.run(rows).numpy()


CASES = [
    ("entry", "", ["blocks.0.second", "blocks.1.second", "blocks.2.second"]),
    ("blocks.0.second", "", ["blocks.1.second", "blocks.2.second"]),
    ("blocks.0.second", "blocks.2.first", ["blocks.1.second"]),
    ("entry", "blocks.1.first", ["blocks.0.second"]),
    ("blocks.1.second", "blocks.2.second", []),
    ("entry", "blocks.0.second, blocks.2.first", ["blocks.1.second"]),
]


@pytest.mark.parametrize(("sender", "receivers", "frozen"), CASES)
def test_the_direct_effect_is_that_of_three_runs_by_hand(bench, curved, sender, receivers, frozen):
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)
    parts = curved.ask(bench, NAME, curved.question(rows, source, [Site(sender)]), receivers=receivers)

    before = curved.run(rows)[:, 0].numpy()
    direct = by_hand(curved, rows, source, sender, frozen, [each for each in receivers.split(", ") if each])[:, 0]
    other = curved.value(source, sender)
    with curved.hooked({sender: lambda _: other}):
        total = curved.run(rows)[:, 0].numpy()
    np.testing.assert_allclose(column(parts, "effects", "effect"), before - total, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(column(parts, "effects", "direct"), before - direct, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(column(parts, "effects", "indirect"), direct - total, rtol=1e-4, atol=1e-6)
    assert np.abs(before - direct).max() > 1e-3


@pytest.mark.parametrize(("sender", "first"), [("entry", 0), ("blocks.0:branch", 1), ("blocks.1:branch", 2)])
def test_on_a_linear_residual_network_the_effects_of_all_first_steps_add_up_to_the_total(bench, linear, sender, first):
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)
    question = linear.question(rows, source, [Site(sender, (0,)), Site(sender, (1, 2))])
    behind = [f"blocks.{number}.first" for number in range(first, 3)]

    answers = [linear.ask(bench, NAME, question, receivers=receiver) for receiver in ["", *behind]]

    direct = [column(parts, "effects", "direct") for parts in answers]
    total = column(answers[0], "effects", "effect")
    np.testing.assert_allclose(sum(direct), total, rtol=1e-4, atol=1e-5)
    assert all(np.abs(each).max() > 1e-3 for each in direct)
    # Of one path, what goes by it and what goes by the others are the whole.
    for parts in answers:
        sums = column(parts, "effects", "direct") + column(parts, "effects", "indirect")
        np.testing.assert_allclose(sums, total, rtol=1e-4, atol=1e-5)


def test_every_path_of_a_linear_network_is_a_product_of_matrices(bench, linear):
    # From the entry through block 0 alone, held apart from blocks 1 and 2: w2 w1 of it, then what is behind.
    rows, source = rows_of(1, 3, seed=1), rows_of(1, 3, seed=2)
    module = linear.module
    matrices = [each.second.weight @ each.first.weight for each in module.blocks]
    change = (linear.value(source, "entry") - linear.value(rows, "entry"))[0]
    behind = (torch.eye(3) + matrices[2]) @ (torch.eye(3) + matrices[1])
    expected = -(module.head.weight[0] @ behind @ matrices[0] @ change)

    parts = linear.ask(bench, NAME, linear.question(rows, source, [Site("entry")]), receivers="blocks.0:branch")

    assert column(parts, "effects", "direct") == pytest.approx([float(expected.detach())], rel=1e-4)


def test_x_plus_f_of_x(bench):
    # From 2 to 0, x + 3x falls from 8 to 0: 2 of it by the way past f, 6 by f.
    network = Network(Sum(), torch.zeros(1, 1))
    question = network.question([[2.0]], None, [Site("x")], kind="zero")

    parts = network.ask(bench, NAME, question)
    assert column(parts, "effects", "effect").tolist() == [8.0]
    assert column(parts, "effects", "direct").tolist() == [2.0]
    assert column(parts, "effects", "indirect").tolist() == [6.0]
    assert resolved(parts, "frozen") == "f"

    parts = network.ask(bench, NAME, question, receivers="f")
    assert column(parts, "effects", "direct").tolist() == [6.0]
    assert (resolved(parts, "receivers"), resolved(parts, "frozen")) == ("f", "none")


def test_where_every_path_leads_through_a_layer_it_is_not_held(bench):
    network = Network(Plain(), torch.zeros(1, 3))
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)

    parts = network.ask(bench, NAME, network.question(rows, source, [Site("a")]))

    assert resolved(parts, "frozen") == "none"
    np.testing.assert_allclose(column(parts, "effects", "direct"), column(parts, "effects", "effect"), rtol=1e-5)
    held = network.ask(bench, NAME, network.question(rows, source, [Site("a")]), frozen="b")
    np.testing.assert_allclose(column(held, "effects", "direct"), 0, atol=1e-6)


def test_with_nothing_held_the_effect_through_a_receiver_is_that_of_all_paths_to_it(bench, curved):
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)
    question = curved.question(rows, source, [Site("entry")])

    parts = curved.ask(bench, NAME, question, receivers="blocks.2", frozen="none")

    # Every path to the head leads through the last block.
    np.testing.assert_allclose(column(parts, "effects", "direct"), column(parts, "effects", "effect"), rtol=1e-5)


def test_what_the_receipt_says_makes_the_same_answer_again(bench, curved):
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)
    question = curved.question(rows, source, [Site("entry", (0,)), Site("entry", (2,))])
    first = curved.ask(bench, NAME, question, receivers="blocks.?.first")

    again = curved.ask(bench, NAME, question, **first[-1].resolved)

    assert resolved(first, "receivers") == "blocks.0.first, blocks.1.first, blocks.2.first"
    np.testing.assert_array_equal(column(first, "effects", "direct"), column(again, "effects", "direct"))


def test_any_intervention_may_change_the_sender(bench, curved):
    rows = rows_of(2, 3, seed=1)
    for kind, change in (("zero", lambda value: 0 * value), ("scale", lambda value: 2 * value)):
        interventions = (Intervention((Site("blocks.0.second"),), kind, value=2.0 if kind == "scale" else 0.0),)
        asked = curved.question(rows, None, [Site("blocks.0.second")], interventions=interventions)
        parts = curved.ask(bench, NAME, asked)
        clean = {f"blocks.{number}.second": curved.value(rows, f"blocks.{number}.second") for number in (1, 2)}
        changes = {name: lambda _, value=value: value for name, value in clean.items()}
        with curved.hooked({**changes, "blocks.0.second": change}):
            after = curved.run(rows)[:, 0].numpy()
        expected = curved.run(rows)[:, 0].numpy() - after
        np.testing.assert_allclose(column(parts, "effects", "direct"), expected, rtol=1e-4, atol=1e-6)
    noise = (Intervention((Site("blocks.0.second"),), "noise", 1.0, draws=3),)
    noisy = curved.question(rows, None, noise[0].sites, interventions=noise)
    parts = curved.ask(bench, NAME, noisy)
    assert np.abs(column(parts, "effects", "direct")).min() > 0
    assert (column(parts, "effects", "standard error") > 0).all()


def test_a_divergence_is_measured_along_the_path(bench, curved):
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)
    parts = curved.ask(bench, NAME, curved.question(rows, source, [Site("entry")], divergence="softmax"))

    frozen = [f"blocks.{number}.second" for number in range(3)]
    shares = torch.softmax(curved.run(rows).double(), 1)
    others = torch.softmax(torch.from_numpy(by_hand(curved, rows, source, "entry", frozen, [])).double(), 1)
    expected = -(shares * (shares / others).log()).sum(1).numpy()
    np.testing.assert_allclose(column(parts, "effects", "direct"), expected, rtol=1e-3, atol=1e-6)


def test_parts_that_the_caller_has_are_left_out(bench, curved):
    rows, source = rows_of(2, 3, seed=1), rows_of(2, 3, seed=2)
    question = curved.question(rows, source, [Site("entry"), Site("blocks.0.second")])
    whole = curved.ask(bench, NAME, question)

    rest = curved.ask(bench, NAME, curved.question(rows, source, question.interventions[0].sites, parts_done=1))

    assert (len(whole), len(rest)) == (2, 1)
    np.testing.assert_array_equal(
        column(rest, "effects", "direct"), whole[1].tables["effects"].columns["direct"].values
    )
    assert list(whole[0].tables["paths"].columns["sender"].values) == ["entry", "blocks.0.second"]


def test_what_cannot_be_asked_is_refused_with_what_would_be_right(bench, curved):
    rows = rows_of(1, 3, seed=1)
    question = curved.question(rows, rows, [Site("blocks.1.second")])
    cases = [
        ({"receivers": "blocks.2.frist"}, NotFoundError, "has 'blocks.2.frist'.*near ones: 'blocks.2.first'"),
        ({"receivers": "blocks.9.*"}, NotFoundError, "there is no such layer"),
        ({"receivers": "blocks.0.first"}, InvalidRequestError, "does not reach all of these"),
        ({"receivers": "blocks.1.second"}, InvalidRequestError, "a sender and a receiver at once"),
        ({"receivers": " , "}, InvalidRequestError, "names no layer"),
        ({"frozen": "blocks.1:branch"}, InvalidRequestError, "frozen and a sender at once"),
        ({"receivers": "blocks.2.first", "frozen": "blocks.2.first"}, InvalidRequestError, "frozen and a receiver"),
        ({"frozen": "nothing"}, NotFoundError, "frozen"),
    ]
    for parameters, kind, text in cases:
        with pytest.raises(kind, match=text):
            curved.ask(bench, NAME, question, **parameters)


@pytest.mark.parametrize("name", ["receivers", "frozen"])
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("blocks.1?," * 260_000, "has 2600000 characters; at most 8192 are taken"),
        (",".join(f"a{number}" for number in range(1025)), "has 1025 names; at most 1024 are taken"),
        ("*a" * 17, "has a pattern with 17 signs \\*; at most 16 are taken"),
    ],
    ids=["characters", "names", "stars"],
)
def test_texts_that_name_layers_are_bounded(bench, curved, name, text, what):
    rows = rows_of(1, 3, seed=1)
    with pytest.raises(InvalidRequestError, match=what) as caught:
        curved.ask(bench, NAME, curved.question(rows, rows, [Site("entry")]), **{name: text})

    assert caught.value.metadata["field"] == f'parameters["{name}"]'
    assert len(str(caught.value)) < 200


def test_equal_patterns_are_looked_for_once(curved, monkeypatch):
    network = curved.question(rows_of(1, 3, seed=1), None, [Site("entry")]).network
    looked = []
    monkeypatch.setattr(type(network), "_named", lambda _, entry, field: looked.append(entry) or ["entry"])

    network.find("blocks.?," * 900, "frozen")

    assert looked == ["blocks.?"]


def test_several_senders_have_each_their_own_path(bench, curved):
    rows, source = rows_of(1, 3, seed=1), rows_of(1, 3, seed=2)
    names = ["entry", "blocks.0.second", "blocks.1.second"]
    together = curved.ask(bench, NAME, curved.question(rows, source, [Site(name) for name in names]))
    alone = [curved.ask(bench, NAME, curved.question(rows, source, [Site(name)])) for name in names]

    np.testing.assert_array_equal(
        column(together, "effects", "direct"),
        list(itertools.chain(*(column(each, "effects", "direct") for each in alone))),
    )
    assert resolved(together, "frozen") == ""


class WrittenOut(nn.Module):
    """An RMS norm as language models have it."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, rows):
        return self.weight * (rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6))


class Normed(nn.Module):
    """A residual block, and a norm in front of the head."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(9)
        self.entry, self.block, self.norm, self.head = nn.Linear(4, 4), Branch(4, nn.Tanh()), norm, nn.Linear(4, 2)

    def forward(self, rows):
        return self.head(self.norm(self.block(self.entry(rows))))


NORMS = {"layer": lambda: nn.LayerNorm(4), "rms": lambda: nn.RMSNorm(4), "written out": lambda: WrittenOut(4)}


@pytest.mark.parametrize("kind", NORMS)
def test_with_norms_frozen_the_direct_effect_is_linear_in_the_change(bench, kind):
    network = Network(Normed(NORMS[kind]()), torch.zeros(1, 4))
    module = network.module
    rows, source = rows_of(2, 4, seed=1), rows_of(2, 4, seed=2)
    stream = network.value(rows, "block")
    change = network.value(source, "entry") - network.value(rows, "entry")
    if kind == "layer":
        scale = 1 / (stream.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        change = change - change.mean(1, keepdim=True)
    else:
        scale = 1 / (stream.square().mean(1, keepdim=True) + (1e-6 if kind == "written out" else 1.2e-7)).sqrt()
    expected = -((change * scale * module.norm.weight) @ module.head.weight[0]).detach().numpy()
    question = network.question(rows, source, [Site("entry")])

    held = network.ask(bench, NAME, question, freeze_norms=True)
    anew = network.ask(bench, NAME, question)

    np.testing.assert_allclose(column(held, "effects", "direct"), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(column(held, "effects", "effect"), column(anew, "effects", "effect"), rtol=1e-6)
    before, other = network.run(rows)[:, 0], network.value(source, "entry")
    kept = network.value(rows, "block.second")
    with network.hooked({"entry": lambda _: other, "block.second": lambda _: kept}):
        by_hand = (before - network.run(rows)[:, 0]).numpy()
    np.testing.assert_allclose(column(anew, "effects", "direct"), by_hand, rtol=1e-4, atol=1e-5)
    assert np.abs(by_hand - expected).max() > 1e-3


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_inside_a_receivers_way_is_held_and_what_comes_behind_the_receiver_is_computed_anew(bench, kind):
    network = Network(Normed(NORMS[kind]()), torch.zeros(1, 4))
    rows = rows_of(2, 4, seed=1)
    question = network.question(rows, None, [Site("entry")], kind="zero")

    held = network.ask(bench, NAME, question, receivers="block:branch", freeze_norms=True)
    anew = network.ask(bench, NAME, question, receivers="block:branch")

    np.testing.assert_allclose(column(held, "effects", "direct"), column(anew, "effects", "direct"), rtol=1e-6)
