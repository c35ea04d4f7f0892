"""Tuning curves of a network with planted Gabors, exported and run as a served one is."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.requests import ModelKey
from server.engine.conftest import ZooModel
from server.engine.methods.dissection.units_of_rows import DEVIATION, MEAN, gabor, picture_question
from torch import nn

ORIENTATIONS = (30, 90, 135)
SETTINGS = {"frequencies": 5, "lowest_frequency": 0.03125, "highest_frequency": 0.5, "vary": "contrast, size, position"}


class Energy(nn.Module):
    """Sums of squares of the first half of the channels and the second."""

    def forward(self, found):
        even, odd = found.chunk(2, dim=1)
        return even**2 + odd**2


class Planted(nn.Module):
    """Gabors of 0.125 cycles per pixel in even and odd phase, rectified, and the energies of the pairs."""

    def __init__(self):
        super().__init__()
        self.gabors = nn.Conv2d(3, 2 * len(ORIENTATIONS), 15, stride=2, padding=7, bias=False)
        self.simple = nn.ReLU()
        self.energy = Energy()
        kernels = [gabor(each, 0.125, side=15, phase=phase, sigma=3.5) for phase in (0, 90) for each in ORIENTATIONS]
        self.gabors.weight.data = torch.from_numpy(np.stack([np.stack([each] * 3) for each in kernels])).float()

    def forward(self, image):
        found = self.gabors(image * (DEVIATION / 255) + MEAN / 255)
        return self.simple(found).mean((2, 3)), self.energy(found).mean((2, 3))


@pytest.fixture(scope="module")
def found(bench):
    """What is found of both layers, by name."""
    rows = torch.zeros(3, 3, 64, 64)
    program = torch.export.export(Planted().eval(), (rows,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    handle = ModelHandle(
        ZooModel(ModelKey("planted", 1), Graph.from_program(program)), bench.services, RequestState(1, None)
    )
    method = registry.lookup("tuning-curve", DISSECT)
    question = picture_question({"simple": (6, 32, 32), "energy": (3, 32, 32)}, side=64)
    (parts,) = bench.run(lambda: list(method.function(handle, question, method.resolve(SETTINGS))))
    kept = [each for each in parts if isinstance(each, Findings)]
    return {name: each for each in kept for name in ("simple", "energy") if f"{name}/orientation" in each.arrays}


def column(found, layer, name):
    each = found[layer].tables["preferences"].columns[name]
    assert each.missing is None or not each.missing.any()
    return np.asarray(each.values)


def test_units_peak_at_the_orientation_and_frequency_of_their_kernels(found):
    for layer in ("simple", "energy"):
        times = 2 if layer == "simple" else 1
        np.testing.assert_array_equal(column(found, layer, "peak orientation"), ORIENTATIONS * times)
        np.testing.assert_allclose(column(found, layer, "orientation"), ORIENTATIONS * times, atol=1)
        np.testing.assert_array_equal(column(found, layer, "spatial frequency"), 0.125)
        assert (column(found, layer, "OSI") > 0.7).all()


def test_rectified_units_are_simple_and_energies_complex(found):
    assert (column(found, "simple", "F1/F0") > 1.5).all()
    assert (column(found, "energy", "F1/F0") < 0.1).all()


def test_contrast_drives_one_by_its_amount_and_the_other_by_its_square(found):
    np.testing.assert_allclose(column(found, "simple", "c50"), 0.5, atol=1e-3)
    np.testing.assert_allclose(column(found, "energy", "c50"), np.sqrt(0.5), atol=0.01)


def test_a_unit_at_the_middle_looks_at_the_middle(found):
    maps = found["simple"].arrays["simple/position"]

    for each in maps.values:
        assert np.unravel_index(each.argmax(), each.shape) == (3, 3)
    # Beyond the kernel, 15 pixels wide, there is nothing to see.
    corners = maps.values[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, 0, atol=1e-3 * maps.values.max())


def test_a_grating_that_covers_the_kernel_drives_as_much_as_a_larger_one(found):
    curves = found["energy"].arrays["energy/size"]

    covering = curves.axes[1].coordinates * 64 > 26
    assert covering.sum() >= 2
    np.testing.assert_allclose(curves.values[:, covering], curves.values[:, -1:].repeat(covering.sum(), 1), rtol=1e-3)
