"""Statistics of rows as they come are those of all rows at once."""

import numpy as np
import pytest
from pellucid_server.engine.statistics.class_means import ClassMeans
from pellucid_server.engine.statistics.covariance import Covariance, participation_ratio
from pellucid_server.engine.statistics.ranges import Ranges

ROWS = np.random.default_rng(1).normal(1e6, 3, (200, 4))


def test_covariances_are_numpys():
    found = Covariance(4)
    for part in np.split(ROWS, [3, 4, 90]):
        found.update(part)

    np.testing.assert_allclose(found.matrix, np.cov(ROWS.T, bias=True), rtol=1e-9)
    np.testing.assert_array_equal(found.matrix, found.matrix.T)
    assert found.count == 200


def test_before_the_first_row_covariances_are_no_numbers():
    assert np.isnan(Covariance(2).matrix).all()


@pytest.mark.parametrize("scale", [1, 1e-170, 1e150])
@pytest.mark.parametrize(("values", "ratio"), [([1, 1, 1], 3), ([5, 0, 0], 1), ([2, 1, 0], 9 / 5)])
def test_the_participation_ratio_counts_directions(values, ratio, scale):
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]

    assert participation_ratio(scale * turn @ np.diag(values) @ turn.T) == pytest.approx(ratio)


def test_without_variance_there_is_no_participation_ratio():
    assert participation_ratio(np.zeros((3, 3))) is None


def test_ranges_are_of_all_values():
    found = Ranges(4)
    values = (ROWS - 1e6).T
    for part in np.split(values, [0, 7, 8], axis=1):
        found.update(part)

    np.testing.assert_array_equal(found.minimum, values.min(1))
    np.testing.assert_array_equal(found.maximum, values.max(1))
    np.testing.assert_array_equal(found.positive, (values > 0).sum(1))


def test_means_of_classes_are_of_their_rows():
    labels = ["cat", "hen", "", "cat"] * 50
    found = ClassMeans(4, 5)
    for first in range(0, 200, 30):
        found.update(labels[first : first + 30], ROWS[first : first + 30])

    assert found.classes == ("cat", "hen")
    assert found.counts.tolist() == [100, 50]
    which = np.array(labels)
    np.testing.assert_allclose(found.means, [ROWS[which == name].mean(0) for name in found.classes], rtol=1e-12)
    assert not found.overfull


def test_a_class_too_many_is_left_out_and_noted():
    found = ClassMeans(1, 1)
    found.update(["cat", "hen", "cat"], np.array([[1.0], [9.0], [3.0]]))

    assert (found.classes, found.means.tolist(), found.overfull) == (("cat",), [[2.0]], True)


def test_labels_of_any_text_survive_a_state():
    found = ClassMeans(1, 9)
    found.update(["ß\n", "猫", "a\0b"], np.ones((3, 1)))

    assert ClassMeans.from_state(found.state()).classes == ("ß\n", "猫", "a\ufffdb")
