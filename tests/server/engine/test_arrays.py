"""Small things that methods do with arrays."""

import numpy as np
from pellucid_server.engine.methods.shared.arrays import as_scores


def test_scores_of_an_input_of_one_number_a_row_are_an_array_too():
    offset = np.array(3.0, np.float32)

    found = as_scores({"offset": offset * offset}, {"offset": offset})

    assert isinstance(found["offset"], np.ndarray)
    assert found["offset"].dtype == np.float32
    assert found["offset"].tolist() == 9.0


def test_an_input_without_a_value_scores_zero_in_its_own_shape():
    found = as_scores({}, {"ids": np.array([[1, 2, 3]])})

    assert found["ids"].tolist() == [[0.0, 0.0, 0.0]]
    assert found["ids"].dtype == np.float32
