"""The elements of sites, found by arithmetic on indices, against masks of the whole layer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pellucid_server.engine.asking.sites import Site, SiteLayer
from pellucid_server.engine.methods.shared.sites.places import Places, by_units, from_units, require_apart
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.ablation.hooked import masked


@st.composite
def layers_and_sites(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
    axis = draw(st.integers(0, len(shape) - 1)) if shape else 0
    layer = SiteLayer("layer", shape, axis)

    def numbers(count):
        return st.none() | st.sets(st.integers(0, count - 1), min_size=1).map(lambda found: tuple(sorted(found)))

    site = st.builds(Site, st.just("layer"), numbers(layer.units), numbers(layer.positions))
    return layer, draw(st.lists(site, min_size=1, max_size=4))


@given(layers_and_sites())
def test_places_are_the_union_of_the_sites_and_apart_if_no_element_is_in_two(given_):
    layer, sites = given_
    masks = np.stack([masked(layer, site) for site in sites])

    places = Places.of(sites, layer)

    found = np.zeros((layer.units, layer.positions), bool)
    places.write(found, np.ones_like(found))
    np.testing.assert_array_equal(from_units(found, layer), masks.any(axis=0))
    assert places.apart == bool((masks.sum(axis=0) <= 1).all())
    terms = np.arange(1.0, layer.units * layer.positions + 1).reshape(layer.units, layer.positions)
    assert places.total(terms) == pytest.approx(float(terms[found].sum()))


@given(layers_and_sites())
def test_the_first_site_that_overlaps_those_before_it_is_named(given_):
    layer, sites = given_
    seen = np.zeros(layer.shape or (), bool)
    expected = None
    for site in sites:
        if expected is None and (seen & masked(layer, site)).any():
            expected = site.name
        seen = seen | masked(layer, site)

    if expected is None:
        require_apart({"layer": layer}, sites)
        return
    with pytest.raises(InvalidRequestError) as caught:
        require_apart({"layer": layer}, sites)
    assert caught.value.message.startswith(f"{expected} is changed twice;")


@given(layers_and_sites())
def test_a_value_by_units_and_back_is_the_value(given_):
    layer, _ = given_
    value = np.arange(float(np.prod(layer.shape))).reshape(layer.shape)

    np.testing.assert_array_equal(from_units(by_units(value, layer), layer), value)
