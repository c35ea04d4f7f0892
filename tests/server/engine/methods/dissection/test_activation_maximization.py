"""activation-maximization: closed forms of what maximises a unit, under each constraint."""

import io
import itertools

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.counterfactuals import CellColumn
from pellucid_server.engine.asking.question import Feature, Target
from pellucid_server.engine.methods.shared.searching.objectives import Goals, Objective
from pellucid_server.engine.methods.shared.searching.searches import natural_limit
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, InvalidRequestError
from pellucid_server.vocabulary.findings import Findings
from PIL import Image
from server.engine.methods.dissection.looked_into import LookedInto, Probe, column, graph_of, together
from torch import nn

METHOD = "activation-maximization"
SIZE = 6


class Linear(nn.Module):
    def __init__(self, units=2):
        super().__init__()
        torch.manual_seed(3)
        self.hidden = nn.Linear(SIZE, units)
        self.head = nn.Linear(units, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(x)))


class Hill(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("top", torch.tensor([0.3, -0.2, 0.5]))
        self.register_buffer("weight", torch.tensor([1.0, 4.0, 0.25]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 - (self.weight * (x - self.top) ** 2).sum(1, keepdim=True)


class Quadratic(nn.Module):
    """A unit that is highest at (0.3, -0.2, 0.5), and falls off with the weighted squared distance."""

    def __init__(self):
        super().__init__()
        self.unit = Hill()
        self.head = nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.unit(x))


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(torch.stack([-5 - x.mean(1), x.sum(1)], 1))


@pytest.fixture(scope="module")
def linear(bench):
    module = Linear()
    return module, LookedInto(bench, graph_of(module, x=torch.ones(SIZE)))


def weights(module):
    return module.hidden.weight.detach().numpy().astype(np.float64), module.hidden.bias.detach().numpy()


@pytest.mark.parametrize("optimizer", ["ascent", "adam"])
def test_a_linear_unit_is_highest_at_its_weights_in_a_euclidean_ball(linear, optimizer):
    module, network = linear
    w, b = weights(module)
    centre = np.linspace(-1, 1, SIZE)

    found = network.found(
        METHOD,
        network.question(network.layer("hidden")),
        constraint="l2",
        radius=2.5,
        centre=centre,
        optimizer=optimizer,
    )

    for unit in (0, 1):
        best = centre + 2.5 * w[unit] / np.linalg.norm(w[unit])
        np.testing.assert_allclose(found.arrays[f"hidden[{unit}]/x"].values, best, atol=1e-3)
        value = column(found, "objectives", "activation")[unit]
        assert value == pytest.approx(w[unit] @ best + b[unit], rel=1e-6)


@pytest.mark.parametrize("optimizer", ["ascent", "adam"])
@pytest.mark.parametrize("constraint", ["box", "linf"])
def test_a_linear_unit_is_highest_in_a_corner_of_the_box(linear, optimizer, constraint):
    module, network = linear
    w, b = weights(module)
    bounds = {"lowest": -0.5, "highest": 2.0} if constraint == "box" else {"radius": 0.75}
    low, high = (-0.5, 2.0) if constraint == "box" else (-0.75, 0.75)

    found = network.found(
        METHOD, network.question(network.layer("hidden")), constraint=constraint, optimizer=optimizer, **bounds
    )

    for unit in (0, 1):
        corner = np.where(w[unit] > 0, high, low)
        np.testing.assert_array_equal(found.arrays[f"hidden[{unit}]/x"].values, corner.astype(np.float32))
        assert column(found, "objectives", "activation")[unit] == pytest.approx(w[unit] @ corner + b[unit], rel=1e-6)


def test_a_ball_that_reaches_beyond_the_box_is_cut_off_by_it(linear):
    module, network = linear
    w, _ = weights(module)

    found = network.found(
        METHOD,
        network.question(network.layer("hidden", 0)),
        constraint="l2",
        radius=1.5,
        lowest=-0.5,
        highest=0.5,
    )

    x = found.arrays["hidden[0]/x"].values.astype(np.float64)
    # The maximum is clip(w / (2 m)) for the m at which its length is the radius, or the corner if that is nearer.
    corner = 0.5 * np.sign(w[0])
    assert np.linalg.norm(corner) < 1.5
    np.testing.assert_allclose(x, corner, atol=1e-6)


def test_a_ball_and_a_box_that_both_hold_are_both_met(linear):
    module, network = linear
    w, _ = weights(module)

    found = network.found(
        METHOD,
        network.question(network.layer("hidden", 0)),
        constraint="l2",
        radius=1.0,
        lowest=-0.5,
        highest=0.5,
        steps=1024,
    )

    multipliers = np.geomspace(1e-3, 1e3, 200001)
    lengths = np.linalg.norm(np.clip(w[0] * multipliers[:, None], -0.5, 0.5), axis=1)
    best = np.clip(w[0] * multipliers[np.searchsorted(lengths, 1.0)], -0.5, 0.5)
    np.testing.assert_allclose(found.arrays["hidden[0]/x"].values, best, atol=2e-3)


@pytest.mark.parametrize("optimizer", ["ascent", "adam"])
def test_a_quadratic_unit_is_highest_at_its_top_or_at_the_nearest_bound(bench, optimizer):
    network = LookedInto(bench, graph_of(Quadratic(), x=torch.ones(3)))
    question = network.question(network.layer("unit"))

    inside = network.found(METHOD, question, lowest=-1.0, highest=1.0, optimizer=optimizer)
    beyond = network.found(METHOD, question, lowest=-0.1, highest=1.0, optimizer=optimizer)

    np.testing.assert_allclose(inside.arrays["unit[0]/x"].values, [0.3, -0.2, 0.5], atol=2e-3)
    np.testing.assert_allclose(beyond.arrays["unit[0]/x"].values, [0.3, -0.1, 0.5], atol=2e-3)
    assert column(inside, "objectives", "activation")[0] == pytest.approx(2, abs=1e-4)


def test_what_the_distance_costs_moves_a_linear_units_best_input_to_its_closed_form(linear):
    module, network = linear
    w, _ = weights(module)

    found = network.found(METHOD, network.question(network.layer("hidden", 1)), lowest=-3.0, highest=3.0, l2=5.0)

    # w x - 5 mean((x / 3)^2) is highest at 9 n w / (2 * 5).
    np.testing.assert_allclose(found.arrays["hidden[1]/x"].values, np.clip(9 * SIZE * w[1] / 10, -3, 3), atol=2e-2)


def test_a_direction_is_climbed_along_the_sum_of_its_units_weights(linear):
    module, network = linear
    w, _ = weights(module)
    directions = np.array([[1.0, -2.0], [0.5, 0.5]])

    found = network.found(
        METHOD,
        network.question(network.layer("hidden")),
        objective="direction",
        direction=directions,
        constraint="l2",
        radius=1.0,
    )

    for number in (0, 1):
        along = directions[number] @ w
        best = found.arrays[f"hidden[direction {number}]/x"].values
        np.testing.assert_allclose(best, along / np.linalg.norm(along), atol=1e-3)


def test_nothing_that_was_drawn_or_is_in_the_probe_is_higher(bench):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3), nn.Sigmoid())

    class Curved(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts(3 * x)

    network = LookedInto(bench, graph_of(Curved(), x=torch.ones(8)))
    probe = Probe(x=np.random.default_rng(2).uniform(-1, 1, (70, 8)).astype(np.float32))

    found = network.found(
        METHOD, network.question(network.layer("parts.3"), probe=probe), lowest=-1.0, highest=1.0, steps=40
    )

    with torch.no_grad():
        values = module(3 * torch.from_numpy(probe.arrays["x"])).numpy()
    activation = column(found, "objectives", "activation")
    np.testing.assert_allclose(column(found, "objectives", "best natural"), values.max(0), rtol=1e-5)
    assert (activation >= values.max(0)).all()
    assert (activation >= column(found, "objectives", "best random")).all()
    assert (column(found, "objectives", "percentile") == 100).all()
    trajectory = found.arrays["trajectory"].values
    assert trajectory.shape == (3, 41)
    assert (trajectory.max(1) <= activation + 1e-6).all()


def test_a_unit_that_nothing_switches_on_is_dead_and_has_no_input(bench):
    network = LookedInto(bench, graph_of(Dead(), x=torch.ones(4)))

    found = network.found(METHOD, network.question(network.layer("act")), lowest=0.0, highest=1.0, steps=20)

    assert column(found, "objectives", "status") == ["dead", "reached"]
    assert found.tables["objectives"].columns["activation"].missing.tolist() == [True, False]
    assert set(found.arrays) == {"act[1]/x", "trajectory"}
    assert "act[0]" in found.warnings[-1]


def test_a_unit_that_is_off_at_every_start_is_found_by_the_value_before_its_rectifier(bench):
    class Rare(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x.mean(1, keepdim=True) - 0.9)

    network = LookedInto(bench, graph_of(Rare(), x=torch.ones(50)))

    found = network.found(METHOD, network.question(network.layer("act")), lowest=-1.0, highest=1.0)

    assert column(found, "objectives", "best random") == [0]
    assert column(found, "objectives", "start") == [0]
    assert column(found, "objectives", "activation")[0] == pytest.approx(0.1, rel=1e-5)
    assert column(found, "objectives", "status") == ["reached"]


def test_a_picture_is_measured_as_its_levels_are_served(bench):
    class Filter(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.conv = nn.Conv2d(3, 2, 4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.conv(image)

    module, mean, deviation = Filter(), (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    graph = graph_of(module, image=torch.ones(3, 4, 5))
    network = LookedInto(bench, graph, pictures={"image": (mean, deviation)}, resize=6)

    found = network.found(METHOD, network.question(network.layer("conv")), objective="neuron", position=1)

    w = module.conv.weight.detach().numpy()
    for unit in (0, 1):
        shown = found.pictures[f"conv[{unit}]@1/image"]
        pixels = np.asarray(Image.open(io.BytesIO(shown.data)))
        assert (shown.width, shown.height) == (7, 6) or (shown.width, shown.height) == (5, 4)
        top, left = (pixels.shape[0] - 4) // 2, (pixels.shape[1] - 5) // 2
        levels = np.moveaxis(pixels[top : top + 4, left : left + 5], -1, 0)
        # The neuron at position 1 sees columns 1 to 4.
        np.testing.assert_array_equal(levels[:, :, 1:], np.where(w[unit] > 0, 255, 0))
        row = (levels - np.array(mean)[:, None, None]) / np.array(deviation)[:, None, None]
        value = (w[unit] * row[:, :, 1:]).sum() + float(module.conv.bias.detach()[unit])
        assert column(found, "objectives", "activation")[unit] == pytest.approx(value, rel=1e-5)


def states(yielded):
    return [each.state for each in yielded if hasattr(each, "state")]


@pytest.mark.parametrize("optimizer", ["ascent", "adam"])
def test_what_goes_on_from_any_state_equals_what_was_never_interrupted(linear, optimizer):
    _, network = linear
    probe = Probe(x=np.random.default_rng(2).uniform(-1, 1, (40, SIZE)).astype(np.float32))
    layers = network.layer("hidden"), network.layer("head")
    parameters = {"constraint": "l2", "radius": 1.0, "steps": 120, "optimizer": optimizer}

    whole = network.yielded(METHOD, network.question(*layers, probe=probe, exact=True), **parameters)

    expected = together(whole)
    assert len(states(whole)) == 8
    for number, state in enumerate(states(whole)):
        resumed = network.yielded(METHOD, network.question(*layers, probe=probe, state=state, exact=True), **parameters)
        found = together(resumed)
        assert len(states(resumed)) == max(len(states(whole)) - 1 - number, 0)
        assert found.tables["objectives"].columns.keys() == expected.tables["objectives"].columns.keys()
        for name, each in found.tables["objectives"].columns.items():
            np.testing.assert_array_equal(each.values, column(expected, "objectives", name))
        for name, array in found.arrays.items():
            np.testing.assert_array_equal(array.values, expected.arrays[name].values)


def test_the_same_seed_finds_the_same_input_and_another_starts_elsewhere(linear):
    _, network = linear
    layer = network.layer("hidden")

    first, again, other = (
        network.found(METHOD, network.question(layer, seed=seed), lowest=-1.0, highest=1.0, steps=3)
        for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first.arrays["trajectory"].values, again.arrays["trajectory"].values)
    assert (first.arrays["trajectory"].values != other.arrays["trajectory"].values).any()


class Cells:
    """A table of a number, in centimetres, and a colour, as `Cells` of a model has it."""

    columns = (
        CellColumn("height", "cm", 120.0, 200.0),
        CellColumn("colour", categories=("red", "green", "blue"), allowed=(0, 1, 2)),
        CellColumn("grade", categories=("low", "middle", "high"), allowed=(0, 1, 2)),
    )
    elements = np.array([0, -1, -1])
    slopes = np.array([0.1, 0.0, 0.0])
    background = np.zeros((0, 3))

    def encode(self, values):
        hot = np.eye(3)[values[:, 1].astype(int)]
        return np.concatenate([(values[:, :1] - 170) / 10, hot, values[:, 2:]], axis=1).astype(np.float32)


def table(bench, weight):
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(5, 1)
            self.head = nn.Linear(1, 1)
            self.score.weight.data[:] = torch.tensor([weight])

        def forward(self, row: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.score(row)))

    feature = Feature(
        "tabular",
        True,
        groups=np.array([0, 1, 1, 1, 2], np.int32),
        columns=("height", "colour", "grade"),
        coded=np.array([False, True, True, True, True]),
    )
    module = Scores()
    return module, LookedInto(bench, graph_of(module, row=torch.ones(5)), features={"row": feature})


@pytest.mark.parametrize("weight", [[1.0, -3.0, 0.5, 0.4, 2.0], [-0.1, 0.3, -5.0, 0.1, -0.7]])
def test_a_tables_best_row_is_the_best_of_all_its_rows_and_in_the_callers_units(bench, weight):
    module, network = table(bench, weight)
    question = network.question(network.layer("score"), cells={"row": Cells()})

    found = network.found(METHOD, question)

    rows = np.array(list(itertools.product((120, 200), range(3), range(3))), float)
    with torch.no_grad():
        values = module.score(torch.from_numpy(Cells().encode(rows))).numpy()[:, 0]
    best = rows[values.argmax()]
    shown = found.tables["score[0]/row"]
    assert list(shown.columns["column"].values) == ["height", "colour", "grade"]
    assert shown.columns["value"].values[0] == best[0]
    assert shown.columns["category"].values == (
        "",
        ("red", "green", "blue")[int(best[1])],
        ("low", "middle", "high")[int(best[2])],
    )
    assert column(found, "objectives", "activation")[0] == pytest.approx(values.max(), rel=1e-6)


def test_a_class_is_maximised_by_its_score(linear):
    module, network = linear
    target = Target(network.graph.outputs[0].name, ((1, 1.0), (0, -1.0)))

    found = network.found(METHOD, network.question(target=target), lowest=-1.0, highest=1.0)

    corners = np.array(np.meshgrid(*[[-1, 1]] * SIZE)).reshape(SIZE, -1).T.astype(np.float32)
    with torch.no_grad():
        scores = module(torch.from_numpy(corners)).numpy()
    # Behind a rectifier the margin is convex along a ray, and highest in a corner or where a unit is off.
    assert column(found, "objectives", "activation")[0] >= (scores[:, 1] - scores[:, 0]).max() - 1e-5
    name = column(found, "objectives", "objective")[0]
    assert name == "output[1 - 0]"
    assert found.arrays[f"{name}/x"].values.shape == (SIZE,)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "lowest"),
        ({"lowest": -1.0}, "highest"),
        ({"lowest": 1.0, "highest": 0.0}, "highest"),
        ({"constraint": "l2"}, "radius"),
        ({"radius": 1.0, "lowest": 0.0, "highest": 1.0}, "radius"),
        ({"constraint": "l2", "radius": 1.0, "centre": np.zeros(5)}, "centre"),
        ({"objective": "direction"}, "direction"),
        ({"objective": "direction", "direction": np.ones(3)}, "direction"),
        ({"objective": "direction", "direction": np.zeros(2)}, "direction"),
        ({"direction": np.ones(2)}, "objective"),
        ({"position": 0}, "position"),
        ({"objective": "neuron", "position": 1}, "position"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_are_refused_before_any_work(linear, parameters, field):
    _, network = linear

    with pytest.raises(InvalidRequestError) as refused:
        network.found(METHOD, network.question(network.layer("hidden")), **parameters)

    assert refused.value.metadata["field"] == f'parameters["{field}"]'


def test_a_request_names_layers_or_a_target_and_not_both(linear):
    _, network = linear
    target = Target(network.graph.outputs[0].name, ((1, 1.0),))

    for question, field in (
        (network.question(), "layers"),
        (network.question(network.layer("hidden"), target=target), "target"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            network.found(METHOD, question, lowest=0.0, highest=1.0)
        assert refused.value.metadata["field"] == field


def test_a_cancelled_request_ends_in_the_middle(linear):
    _, network = linear
    request = RequestState(1, None)
    seen = []

    def cancel(part):
        seen.append(part)
        if len(seen) == 2:
            request.cancelled = True

    with pytest.raises(CancelledError):
        network.yielded(
            METHOD, network.question(network.layer("hidden")), each=cancel, request=request, lowest=0.0, highest=1.0
        )
    assert len(seen) < 5
    assert not any(isinstance(each, Findings) for each in seen)


class Logarithm(nn.Module):
    """NaN where the sum of a row is below 0, in unit 0; always, in unit 1."""

    def __init__(self):
        super().__init__()
        self.unit = Logs()
        self.head = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.unit(x))


class Logs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.stack([x.sum(1), -1 - x.abs().sum(1)], 1))


def test_values_that_are_no_numbers_are_never_an_answer(bench):
    network = LookedInto(bench, graph_of(Logarithm(), x=torch.ones(3)))
    probe = Probe(x=np.array([[1, 1, 0], [-1, 0, 0], [0.5, 0, 0]], np.float32))

    found = network.found(METHOD, network.question(network.layer("unit"), probe=probe), lowest=-1.0, highest=1.0)

    assert column(found, "objectives", "status") == ["reached", "not finite"]
    np.testing.assert_array_equal(found.arrays["unit[0]/x"].values, [1, 1, 1])
    assert column(found, "objectives", "activation")[0] == pytest.approx(np.log(3), rel=1e-6)
    assert column(found, "objectives", "best natural")[0] == pytest.approx(np.log(2), rel=1e-6)
    assert "unit[1]/x" not in found.arrays
    for name in ("activation", "start", "best random", "best natural", "percentile"):
        assert found.tables["objectives"].columns[name].missing.tolist() == [False, True]


def test_one_row_and_ties_have_a_percentile(linear):
    _, network = linear
    best = network.found(METHOD, network.question(network.layer("hidden", 0)), lowest=-1.0, highest=1.0)
    row = best.arrays["hidden[0]/x"].values[None]

    found = network.found(
        METHOD, network.question(network.layer("hidden", 0), probe=Probe(x=row)), lowest=-1.0, highest=1.0
    )

    assert column(found, "objectives", "percentile").tolist() == [50]
    assert column(found, "objectives", "ratio").tolist() == [pytest.approx(1)]


def test_very_many_objectives_are_compared_with_fewer_rows_so_that_states_stay_small():
    few, many = (Goals(tuple(Objective(str(number)) for number in range(count))) for count in (3, 256))

    assert natural_limit(10000, [few]) == 10000
    assert natural_limit(10000, [many]) == 4096
    assert natural_limit(10000, [many, many]) == 2048
