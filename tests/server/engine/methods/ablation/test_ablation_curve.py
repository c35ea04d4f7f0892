"""Ablation curves against whole forward passes with hooks, point by point."""

import numpy as np
import pytest
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.sites import Intervention, Site
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.ablation.hooked import LENGTH, first_output, masked, question, site_layers
from server.engine.models.networks import zoo_rows

NAME = "convolutional"


def findings(bench, asked, **parameters):
    method = registry.lookup("ablation-curve", ABLATE)
    (found,) = bench.run(lambda: list(method.function(bench.handle(NAME), asked, method.resolve(parameters))))
    return found


def values(found, table, column):
    return np.asarray(found[-1].tables[table].columns[column].values)


def zeroed(rows, sites):
    """Return the score of each row with sites set to zero by hooks."""
    known = site_layers(NAME, {site.layer for site in sites} or {"conv1"})
    changes = [
        (site.layer, lambda value, mask=mask: np.where(mask, 0, value).astype(value.dtype))
        for site in sites
        for mask in [masked(known[site.layer], site)]
    ]
    return first_output(NAME, rows, changes)[:, 0].astype(float)


@pytest.mark.parametrize("layers", [("conv2",), ("conv1", "conv2")], ids="-".join)
def test_every_point_is_a_forward_pass_with_the_first_sites_of_the_ranking_changed(bench, layers):
    rows = zoo_rows(NAME, 2, LENGTH)
    sites = [Site(layer, (unit,)) for layer in layers for unit in range(4)]
    effects = np.array([(zeroed(rows, []) - zeroed(rows, [site])).mean() for site in sites])
    order = [sites[place] for place in np.argsort(-effects, kind="stable")]

    found = findings(bench, question(NAME, [Intervention(tuple(sites))], rows=rows), points=len(sites) + 1)

    expected = [zeroed(rows, order[:count]).mean() for count in range(len(sites) + 1)]
    backward = [zeroed(rows, order[::-1][:count]).mean() for count in range(len(sites) + 1)]
    np.testing.assert_allclose(values(found, "curve", "score"), [*expected, *backward], rtol=1e-4, atol=1e-5)
    shares = np.linspace(0, 1, len(sites) + 1)
    areas = [
        float(((np.array(each)[1:] + np.array(each)[:-1]) / 2 * np.diff(shares)).sum()) for each in (expected, backward)
    ]
    np.testing.assert_allclose(values(found, "area", "area"), [*areas, areas[1] - areas[0]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        values(found, "curve", "lost"), expected[0] - np.array([*expected, *backward]), atol=2e-5
    )


def test_both_curves_begin_unchanged_and_end_with_everything_changed(bench):
    sites = tuple(Site("conv2", (unit,)) for unit in range(4))
    rows = zoo_rows(NAME, 3, LENGTH)

    found = findings(bench, question(NAME, [Intervention(sites)], rows=rows), points=2)

    scores = values(found, "curve", "score")
    ends = [zeroed(rows, []).mean(), zeroed(rows, [Site("conv2")]).mean()]
    np.testing.assert_allclose(scores, [*ends, *ends], rtol=1e-4, atol=1e-5)


def test_sites_in_the_order_given_are_not_ranked(bench):
    sites = (Site("conv2", (3,)), Site("conv2", (0,)), Site("conv2", (1,)))
    rows = zoo_rows(NAME, 2, LENGTH)

    found = findings(bench, question(NAME, [Intervention(sites)], rows=rows), points=4, ranked=False)

    assert len(found) == 1
    expected = [zeroed(rows, sites[:count]).mean() for count in range(4)]
    np.testing.assert_allclose(values(found, "curve", "score")[:4], expected, rtol=1e-4, atol=1e-5)


def test_the_effects_that_rank_the_sites_are_in_the_first_part(bench):
    sites = tuple(Site("conv2", (unit,)) for unit in range(4))

    found = findings(bench, question(NAME, [Intervention(sites)], rows=zoo_rows(NAME, 1, LENGTH)), points=3)

    assert [sorted(part.tables) for part in found] == [["effects"], ["area", "curve"]]
    assert found[0].tables["effects"].columns["site"].values == tuple(f"conv2[{unit}]" for unit in range(4))


def test_more_points_than_sites_are_as_many_as_there_are(bench):
    sites = tuple(Site("conv2", (unit,)) for unit in range(3))

    found = findings(bench, question(NAME, [Intervention(sites)]), points=100)

    assert values(found, "curve", "changed").tolist() == [0, 1, 2, 3] * 2


def test_one_site_is_no_curve(bench):
    with pytest.raises(InvalidRequestError, match="1 sites; a curve needs two"):
        findings(bench, question(NAME, [Intervention((Site("conv2"),))]))
