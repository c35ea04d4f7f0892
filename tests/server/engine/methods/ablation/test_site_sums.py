"""Sums of elements over sites against sums over the masks that they are, one by one."""

import itertools
import time

import numpy as np
import pytest
from pellucid_server.engine.asking.sites import Site, SiteLayer
from pellucid_server.engine.methods.shared.sites.score_maps import score_map
from pellucid_server.engine.methods.shared.sites.site_sums import SiteSums
from server.engine.methods.ablation.hooked import masked

LAYERS = [
    SiteLayer("number", ()),
    SiteLayer("features", (5,)),
    SiteLayer("words", (4, 6), unit_axis=1),
    SiteLayer("channels", (3, 4, 5)),
    SiteLayer("last", (4, 5, 3), unit_axis=2),
    SiteLayer("middle", (2, 5, 3), unit_axis=1),
]


def some(draw, count):
    """Return None, one index, several, or all of them, increasing."""
    if draw.random() < 0.3:
        return None
    size = int(draw.integers(1, count + 1))
    return tuple(sorted(draw.choice(count, size, replace=False).tolist()))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_sums_are_those_over_each_sites_mask(layer):
    draw = np.random.default_rng(3)
    units, positions = tuple(range(0, layer.units, 2)), tuple(range(0, layer.positions, 2))
    sites = [Site(layer.name, some(draw, layer.units), some(draw, layer.positions)) for _ in range(60)]
    # As sites are divided by unit, by position and by element.
    sites += [Site(layer.name, (unit,), shared) for shared in (None, positions) for unit in range(layer.units)]
    sites += [Site(layer.name, shared, (place,)) for shared in (None, units) for place in range(layer.positions)]
    sites += [Site(layer.name, (unit,), (place,)) for unit in range(layer.units) for place in positions]
    draw.shuffle(sites)
    elements = np.asarray(draw.standard_normal(layer.shape))

    found = SiteSums(layer, sites).of(elements)

    expected = [elements[masked(layer, site)].sum() for site in sites]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("each", ["element", "unit", "two units", "unit at some positions"])
def test_as_many_sites_as_a_request_may_have_are_summed_in_moments(each):
    layer = SiteLayer("wide", (2048, 64))
    some_positions = tuple(range(32))
    sites = {
        "element": lambda: [Site("wide", (unit,), (place,)) for unit in range(2048) for place in range(64)],
        "unit": lambda: [Site("wide", (unit,)) for unit in range(2048)] * 64,
        "two units": lambda: [Site("wide", (unit, 2047)) for unit in range(2047)] * 32,
        "unit at some positions": lambda: [Site("wide", (unit,), some_positions) for unit in range(2048)] * 64,
    }[each]()
    elements = np.random.default_rng(1).standard_normal(layer.shape)

    started = time.process_time()
    found = SiteSums(layer, sites).of(elements)

    # A mask for each takes some 20 s.
    assert time.process_time() - started < 3
    assert len(found) == len(sites)


def test_many_sites_of_many_layers_make_a_map_in_moments():
    names = [f"layer{number}" for number in range(1000)]
    sites = [Site(name, (unit,)) for unit in range(100) for name in names]

    started = time.process_time()
    found = score_map(sites, {name: SiteLayer(name, (100,)) for name in names}, np.arange(len(sites), dtype=np.float64))

    assert time.process_time() - started < 3
    np.testing.assert_array_equal(found.values, np.arange(len(sites)).reshape(100, 1000).T)


def test_sites_along_a_diagonal_make_no_map():
    sites = [Site("wide", (number,), (number,)) for number in range(50_000)]

    # The map would have 2.5 billion places.
    assert score_map(sites, {"wide": SiteLayer("wide", (50_000, 50_000))}, None) is None


def test_sites_by_element_make_a_map():
    sites = [Site("wide", (unit,), (place,)) for unit, place in itertools.product(range(3), range(4))]

    found = score_map(sites, {"wide": SiteLayer("wide", (3, 4))}, np.arange(12.0))

    np.testing.assert_array_equal(found.values, np.arange(12.0).reshape(1, 3, 4))
