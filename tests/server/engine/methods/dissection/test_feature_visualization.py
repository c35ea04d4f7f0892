"""feature-visualization: matched filters, invariants of parameterisations, dead units, and going on from a state."""

import copy
import io

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.probes import Preview, Saved
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.methods.shared.arrays import generator
from pellucid_server.engine.methods.shared.painting.parameterisations import (
    Colours,
    FourierParameters,
    MagnitudeParameters,
    frequency_scale,
)
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.findings import Findings
from PIL import Image
from server.engine.methods.dissection.looked_into import (
    LookedInto,
    Probe,
    column,
    graph_of,
    parts_across_a_loss,
    together,
)
from torch import nn

METHOD = "feature-visualization"
MEAN, DEVIATION = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
PLAIN = {"jitter": 0, "scale": 0.0, "rotate": 0}


class Filters(nn.Module):
    """Planted filters: unit 0 looks for a vertical edge between colours, unit 1 for noise; then more behind it."""

    def __init__(self, channels=3, size=7):
        super().__init__()
        torch.manual_seed(11)
        self.conv = nn.Conv2d(channels, 2, size, bias=False)
        weight = torch.randn(2, channels, size, size) * 0.05
        weight[0] = 0
        weight[0, :, :, : size // 2] = -0.1
        weight[0, :, :, size // 2 + 1 :] = 0.1
        self.conv.weight.data[:] = weight
        self.act = nn.ReLU()
        self.head = nn.Linear(2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(image)).mean((2, 3)))


class Never(nn.Module):
    """Unit 0 is off for every picture, unit 1 for all but bright ones, unit 2 never."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean((1, 2, 3))
        return self.act(torch.stack([-5 - mean, mean - 0.5, mean + 5], 1)) * 1.0


def looked_into(bench, module, shape, mean=MEAN, deviation=DEVIATION, **options):
    graph = graph_of(module, image=torch.zeros(shape))
    return LookedInto(bench, graph, pictures={"image": (mean[: shape[0]], deviation[: shape[0]])}, **options)


@pytest.fixture(scope="module")
def filters(bench):
    module = Filters()
    return module, looked_into(bench, module, (3, 14, 17))


def levels_of(picture):
    pixels = np.asarray(Image.open(io.BytesIO(picture.data)))
    return pixels[None].astype(float) if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0).astype(float)


def row_of(picture, mean=MEAN, deviation=DEVIATION):
    levels = levels_of(picture)
    count = len(levels)
    return (levels - np.array(mean[:count])[:, None, None]) / np.array(deviation[:count])[:, None, None]


def natural(count, shape, seed=5):
    return Probe(image=np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32))


@pytest.mark.parametrize("parameterization", ["fourier", "pixel"])
def test_the_picture_of_a_neuron_is_its_matched_filter_where_it_looks(bench, parameterization):
    module = Filters(size=9)
    network = looked_into(bench, module, (3, 9, 9))

    found = network.found(
        METHOD,
        network.question(network.layer("conv")),
        objective="neuron",
        parameterization=parameterization,
        decorrelated=False,
        steps=200,
        learning_rate=0.2,
        **PLAIN,
    )

    for unit in (0, 1):
        weight = module.conv.weight[unit].detach().numpy().ravel()
        shown = levels_of(found.pictures[f"conv[{unit}]@0/0"]).ravel() - 127.5
        # At the optimum every pixel that the filter looks at is black or white, by the sign of its weight.
        looked_at = np.abs(weight) > 0.01
        assert (np.sign(shown) == np.sign(weight))[looked_at].mean() > 0.95
        best = (np.abs(weight) * np.repeat(1 / np.array(DEVIATION), 81) * 127.5).sum()
        middle = (weight * np.repeat((127.5 - np.array(MEAN)) / np.array(DEVIATION), 81)).sum()
        assert column(found, "objectives", "activation")[unit] > middle + 0.8 * best


@pytest.mark.parametrize("parameterization", ["fourier", "pixel"])
def test_what_is_painted_beats_random_pictures_and_those_of_the_probe(filters, parameterization):
    module, network = filters
    probe = natural(50, (3, 14, 17))

    found = network.found(
        METHOD,
        network.question(network.layer("act"), probe=probe, seed=3),
        parameterization=parameterization,
        steps=120,
        jitter=1,
    )

    with torch.no_grad():
        values = module.act(module.conv(torch.from_numpy(probe.arrays["image"]))).mean((2, 3)).numpy()
        for unit in (0, 1):
            shown = row_of(found.pictures[f"act[{unit}]/0"]).astype(np.float32)
            reached = float(module.act(module.conv(torch.from_numpy(shown)[None]))[0, unit].mean())
            assert column(found, "objectives", "activation")[unit] == pytest.approx(reached, rel=1e-4)
    best = values.max(0)
    activation = column(found, "objectives", "activation")
    np.testing.assert_allclose(column(found, "objectives", "best natural"), best, rtol=1e-5)
    assert (activation > best).all()
    assert found.pictures["act[0]/0"].text.endswith(f"is {activation[0]:.4g}: above 100 % of 50 rows of the probe.")
    assert (column(found, "objectives", "percentile") == 100).all()
    np.testing.assert_allclose(column(found, "objectives", "ratio"), activation / best, rtol=1e-5)


def test_phases_that_were_sought_beat_random_ones_of_the_same_magnitudes(filters):
    module, network = filters

    found = network.found(
        METHOD,
        network.question(network.layer("conv")),
        parameterization="magnitude",
        objective="neuron",
        steps=150,
        **PLAIN,
    )

    random = MagnitudeParameters(np.repeat(frequency_scale(14, 17, 1.0)[None], 3, axis=0), 17)
    phases = np.stack([random.start(np.random.default_rng(number)) for number in range(100)])
    with torch.no_grad():
        levels = Colours(True).levels(random.pictures(torch.from_numpy(phases)))
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        values = module.conv((255 * levels - mean) / deviation)[:, :, 4, 5].numpy()
    position = column(found, "objectives", "position")
    assert position.tolist() == [4 * 11 + 5] * 2
    assert (column(found, "objectives", "activation") > values.max(0)).all()


def test_pictures_are_as_large_as_the_model_takes_them_and_the_network_is_left_as_it_was(filters):
    module, network = filters
    before = {name: each.clone() for name, each in module.state_dict().items()}

    found = network.found(METHOD, network.question(network.layer("conv", 1)), steps=5)

    assert (found.pictures["conv[1]/0"].width, found.pictures["conv[1]/0"].height) == (17, 14)
    assert found.arrays["trajectory"].values.shape == (1, 5)
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


def test_a_picture_of_one_channel_is_grey(bench):
    network = looked_into(bench, Filters(channels=1), (1, 12, 9))

    found = network.found(METHOD, network.question(network.layer("conv", 0)), steps=60, jitter=1)

    assert np.asarray(Image.open(io.BytesIO(found.pictures["conv[0]/0"].data))).shape == (12, 9)
    assert column(found, "objectives", "activation")[0] > 0


def test_where_there_is_no_gradient_there_is_no_picture_and_the_value_before_a_rectifier_is_climbed(bench):
    network = looked_into(bench, Never(), (3, 6, 6), mean=(127.5,) * 3, deviation=(127.5,) * 3)

    found = network.found(METHOD, network.question(network.layer("act")), steps=300, **PLAIN)

    assert column(found, "objectives", "status") == ["dead", "reached", "reached"]
    assert set(found.pictures) == {"act[1]/0", "act[2]/0"}
    assert found.tables["objectives"].columns["activation"].missing.tolist() == [True, False, False]
    assert column(found, "objectives", "start")[1] == 0
    assert column(found, "objectives", "activation")[1] > 0.1
    assert column(found, "objectives", "begun anew").tolist() == [4, 4, 0]
    assert "act[0]" in found.warnings[-1]


def test_a_class_is_painted_by_its_score(filters):
    module, network = filters
    target = Target(network.graph.outputs[0].name, ((2, 1.0),))

    found = network.found(METHOD, network.question(target=target), steps=60, jitter=1)

    with torch.no_grad():
        shown = torch.from_numpy(row_of(found.pictures["output[2]/0"]).astype(np.float32))[None]
        grey = torch.from_numpy(np.broadcast_to((127.5 - np.array(MEAN)[:, None, None]) / 55, (3, 14, 17)).copy())
        assert column(found, "objectives", "activation")[0] == pytest.approx(float(module(shown)[0, 2]), rel=1e-4)
        assert module(shown)[0, 2] > module(grey[None].float())[0, 2]


def test_pictures_of_one_objective_differ_more_where_likeness_is_charged(filters):
    _, network = filters
    question = network.question(network.layer("conv", 1))
    parameters = {"pictures": 3, "steps": 80, "objective": "channel", **PLAIN}

    alone = network.found(METHOD, question, **parameters)
    apart = network.found(METHOD, question, diversity=20.0, **parameters)

    def spread(found):
        shown = np.stack([levels_of(found.pictures[f"conv[1]/{number}"]) for number in range(3)])
        return shown.std(0).mean()

    assert spread(apart) > 1.2 * spread(alone)
    assert column(apart, "objectives", "picture").tolist() == [0, 1, 2]


def test_charges_make_smoother_greyer_pictures(filters):
    _, network = filters
    question = network.question(network.layer("conv", 1))

    def shown(**charges):
        found = network.found(METHOD, question, steps=80, parameterization="pixel", **PLAIN, **charges)
        return levels_of(found.pictures["conv[1]/0"]) / 255

    plain = shown()
    roughness = np.abs(np.diff(plain, axis=2)).mean()
    assert np.abs(np.diff(shown(total_variation=30.0), axis=2)).mean() < 0.7 * roughness
    assert np.abs(np.diff(shown(blur=30.0), axis=2)).mean() < 0.7 * roughness
    assert ((shown(l2=30.0) - 0.5) ** 2).mean() < 0.7 * ((plain - 0.5) ** 2).mean()


def test_the_magnitudes_of_a_picture_are_the_probes_and_its_opacity_says_where_gradients_came(bench):
    module = Filters()
    network = looked_into(bench, module, (3, 14, 17))

    found = network.found(
        METHOD,
        network.question(network.layer("conv", 0), probe=natural(20, (3, 14, 17))),
        objective="neuron",
        position=0,
        parameterization="magnitude",
        steps=30,
        **PLAIN,
    )

    opacity = found.arrays["conv[0]@0/0/transparency"].values
    assert opacity.shape == (14, 17)
    assert opacity.max() == 1
    # The neuron at position 0 sees the top left 7 by 7 pixels alone.
    assert (opacity[7:] == 0).all()
    assert (opacity[:, 7:] == 0).all()
    assert opacity[:7, :7].mean() > 0


def test_a_picture_depends_on_no_other_of_the_request_and_on_the_seed(filters):
    _, network = filters
    parameters = {"steps": 8, "jitter": 2}

    alone = network.found(METHOD, network.question(network.layer("conv", 1), seed=4), **parameters)
    beside = network.found(METHOD, network.question(network.layer("conv"), seed=4), **parameters)
    other = network.found(METHOD, network.question(network.layer("conv", 1), seed=5), **parameters)

    difference = levels_of(alone.pictures["conv[1]/0"]) - levels_of(beside.pictures["conv[1]/0"])
    assert np.abs(difference).max() <= 1
    assert (levels_of(alone.pictures["conv[1]/0"]) != levels_of(other.pictures["conv[1]/0"])).any()


def test_a_picture_that_gains_no_more_is_done(filters):
    _, network = filters

    found = network.found(
        METHOD,
        network.question(network.layer("conv", 0)),
        steps=1000,
        learning_rate=1.0,
        parameterization="pixel",
        **PLAIN,
    )

    steps = int(column(found, "objectives", "steps")[0])
    assert 100 <= steps < 1000
    trajectory = found.arrays["trajectory"].values[0]
    assert len(trajectory) == steps
    assert trajectory[-50:].mean() - trajectory[-100:-50].mean() < 1e-3 * abs(trajectory[-100:-50].mean())


@pytest.mark.parametrize("parameterization", ["fourier", "magnitude"])
def test_what_goes_on_from_any_state_equals_what_was_never_interrupted(filters, parameterization):
    _, network = filters
    layers = network.layer("conv"), network.layer("act", 0)
    parameters = {"steps": 110, "parameterization": parameterization, "jitter": 2}
    probe = natural(8, (3, 14, 17))

    whole = network.yielded(METHOD, network.question(*layers, probe=probe, exact=True), **parameters)

    states = [each.state for each in whole if isinstance(each, Saved)]
    expected = together(whole)
    assert len(states) == 1 + 2 * 3 + 1
    previews = [set(each.findings.pictures) for each in whole if isinstance(each, Preview)]
    assert {"conv[0]/0", "conv[1]/0"} in previews
    for state in states[1::2]:
        question = network.question(*layers, probe=probe, state=state, exact=True)
        found = together(network.yielded(METHOD, question, **parameters))
        for name, each in expected.pictures.items():
            if name in found.pictures:
                assert found.pictures[name].data == each.data
        assert ("act[0]/0" in found.pictures) == (state is not states[-1])
        for name, each in expected.tables["objectives"].columns.items():
            np.testing.assert_array_equal(found.tables["objectives"].columns[name].values, each.values)
        np.testing.assert_array_equal(found.arrays["trajectory"].values, expected.arrays["trajectory"].values)


def test_a_picture_is_what_torchs_adam_paints_of_the_module_itself(filters):
    module, network = filters

    found = network.found(METHOD, network.question(network.layer("conv", 1), seed=9), steps=40, **PLAIN)

    start = FourierParameters(3, 14, 17).start(generator(9, "start/0/conv[1]/0"))
    leaf = torch.from_numpy(start)[None].double().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.05, maximize=True)
    scale = np.sqrt(14 * 17) / np.maximum(np.hypot(np.fft.fftfreq(14)[:, None], np.fft.rfftfreq(17)[None]), 1 / 17)
    colours = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]).double()
    colours = colours / torch.linalg.vector_norm(colours, dim=0).max()
    mean, deviation = (torch.tensor(each).double()[:, None, None] for each in (MEAN, DEVIATION))
    twin = copy.deepcopy(module).double()

    def levels():
        picture = torch.fft.irfft2(torch.complex(*leaf.unbind(-1)) * torch.from_numpy(scale), s=(14, 17)) / 4
        return torch.sigmoid(torch.einsum("ij,njhw->nihw", colours, picture))

    for step in range(40):
        optimizer.zero_grad()
        objective = twin.conv((255 * levels() - mean) / deviation)[:, 1].mean()
        assert found.arrays["trajectory"].values[0, step] == pytest.approx(
            float(objective.detach()), rel=1e-3, abs=1e-3
        )
        objective.backward()
        optimizer.step()
    painted = 255 * levels().detach().numpy()[0]
    assert np.abs(levels_of(found.pictures["conv[1]/0"]) - painted).max() < 1


def test_a_cancelled_request_ends_in_the_middle(filters):
    _, network = filters
    request, seen = RequestState(1, None), []

    def cancel(part):
        seen.append(part)
        request.cancelled = len(seen) >= 2

    with pytest.raises(CancelledError):
        network.yielded(
            METHOD, network.question(network.layer("conv")), each=cancel, request=request, steps=4000, jitter=2
        )
    assert not any(isinstance(each, Findings) for each in seen)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"diversity": 1.0}, "diversity"),
        ({"position": 3}, "position"),
        ({"objective": "neuron", "position": 88}, "position"),
        ({"objective": "direction", "direction": np.ones((1, 3))}, "direction"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_are_refused(filters, parameters, field):
    _, network = filters

    with pytest.raises(InvalidRequestError) as refused:
        network.found(METHOD, network.question(network.layer("conv")), **parameters)

    assert refused.value.metadata["field"] == f'parameters["{field}"]'


def test_a_model_without_pictures_is_refused_and_pointed_to_the_method_that_takes_it(bench):
    network = LookedInto(bench, graph_of(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), input=torch.ones(3)))

    with pytest.raises(UnsupportedError, match="activation-maximization"):
        network.found(METHOD, network.question(network.layer("0")))


@pytest.mark.parametrize("method", [METHOD, "activation-maximization"])
def test_wherever_the_worker_is_lost_each_part_comes_once(filters, method):
    _, network = filters
    layers = network.layer("conv", 0), network.layer("act", 1)
    question = network.question(*layers, probe=natural(40, (3, 14, 17)), exact=True)
    whole = network.yielded(method, question, steps=60)
    expected = [each for each in whole if isinstance(each, Findings)]
    assert len(expected) == 3

    for lost_at in range(len(whole) + 1):
        found = parts_across_a_loss(network, method, question, lost_at, steps=60)

        assert [set(each.pictures) for each in found] == [set(each.pictures) for each in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert {name: each.data for name, each in mine.pictures.items()} == {
                name: each.data for name, each in theirs.pictures.items()
            }
