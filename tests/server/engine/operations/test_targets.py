import numpy as np
import pytest
from pellucid_server.engine.operations.predict import output_result
from pellucid_server.engine.operations.targets import highest, resolve
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import OutputInfo
from pellucid_server.vocabulary.requests import Outcome, TargetSpec

CLASSES = OutputInfo("classes", "logits", "float32", (3,), ("cat", "dog", "catfish"))
GRID = OutputInfo("grid", "values", "float32", (2, 3))
SHARES = OutputInfo("shares", "probabilities", "float32", (2,))
COUNT = OutputInfo("count", "values", "int64", ())
INFOS = (COUNT, CLASSES, GRID, SHARES)
ROW = {
    "count": np.array(4),
    "classes": np.array([0.0, np.log(3.0), -50.0], np.float32),
    "grid": np.arange(6, dtype=np.float32).reshape(2, 3),
    "shares": np.array([0.25, 0.75], np.float32),
}


def resolved(**spec):
    return resolve(TargetSpec(**spec), INFOS, ROW, field="target")


def test_without_a_word_it_is_the_highest_value_of_the_first_explainable_output():
    found = resolved()

    assert (found.target.output, found.target.elements, found.label) == ("classes", ((1, 1.0),), "dog")
    assert found.value == pytest.approx(np.log(3.0))


def test_a_label_an_index_and_the_highest_name_the_same_element():
    by_label = resolved(outcome=Outcome(label="dog"))

    assert by_label == resolved(outcome=Outcome(index=(1,))) == resolved()


def test_probabilities_are_the_softmax():
    found = resolved(space="probabilities")

    assert found.target.space == "softmax"
    assert found.value == pytest.approx(0.75)


def test_a_contrast_is_a_difference():
    found = resolved(outcome=Outcome(label="cat"), contrast=Outcome(label="dog"))

    assert found.target.elements == ((0, 1.0), (1, -1.0))
    assert found.value == pytest.approx(-np.log(3.0))


def test_an_element_of_a_grid_has_an_index_for_each_axis():
    found = resolved(output="grid", outcome=Outcome(index=(1, 0)))

    assert found.target.elements == ((3, 1.0),)
    assert found.value == 3.0


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"output": "nope"}, "target.output", "classes, grid, shares"),
        ({"output": "count"}, "target.output", "classes, grid, shares"),
        ({"outcome": Outcome(label="ca")}, "target.outcome.label", "cat, catfish"),
        ({"outcome": Outcome(index=(3,))}, "target.outcome.index", "shape [3]"),
        ({"outcome": Outcome(index=(-1,))}, "target.outcome.index", "shape [3]"),
        ({"outcome": Outcome(index=(0, 0))}, "target.outcome.index", "shape [3]"),
        ({"output": "grid", "outcome": Outcome(index=(1,))}, "target.outcome.index", "2 indices"),
        ({"output": "grid", "outcome": Outcome(label="cat")}, "target.outcome.label", "no labels"),
        ({"output": "grid", "space": "probabilities"}, "target.space", "gives values"),
        ({"output": "shares", "space": "logits"}, "target.space", "gives probabilities"),
        ({"contrast": Outcome()}, "target.contrast", "index or its label"),
        ({"contrast": Outcome(label="dog")}, "target.contrast", "outcome itself"),
    ],
)
def test_a_wrong_target_is_refused_with_its_field(spec, field, words):
    with pytest.raises(InvalidRequestError) as caught:
        resolved(**spec)

    assert caught.value.metadata["field"] == field
    assert words in caught.value.message


def test_a_label_that_two_classes_have_is_refused():
    twins = OutputInfo("twins", "logits", "float32", (2,), ("crane", "crane"))

    with pytest.raises(InvalidRequestError, match=r"indices 0, 1"):
        resolve(TargetSpec(outcome=Outcome(label="crane")), (twins,), {"twins": np.zeros(2)}, field="target")


NUMBER = OutputInfo("number", "values", "float32", ())
CHANCE = OutputInfo("chance", "sigmoid-logits", "float32", (), ("ill",))


@pytest.mark.parametrize("outcome", [Outcome(), Outcome(index=(0,))])
def test_the_only_number_of_a_row_is_the_target(outcome):
    found = resolve(TargetSpec(outcome=outcome), (NUMBER,), {"number": np.array(2.5, np.float32)}, field="target")

    assert (found.index, found.label, found.value) == ((), "", 2.5)
    assert found.target.elements == ((0, 1.0),)


def test_the_only_number_of_a_row_has_the_only_label_and_a_probability():
    spec = TargetSpec(outcome=Outcome(label="ill"), space="probabilities")

    found = resolve(spec, (CHANCE,), {"chance": np.array(np.log(3.0), np.float32)}, field="target")

    assert (found.index, found.label, found.value) == ((), "ill", pytest.approx(0.75))


def test_the_only_number_of_a_row_has_nothing_to_be_contrasted_with():
    spec = TargetSpec(contrast=Outcome(index=(0,)))

    with pytest.raises(InvalidRequestError, match="one number per row; leave the contrast out"):
        resolve(spec, (NUMBER,), {"number": np.array(2.5, np.float32)}, field="target")


@pytest.mark.parametrize(
    ("values", "index"),
    [
        ([1000.0, 1000.005], 1),
        ([1.0, 3.0, 3.0000001], 2),
        ([-3.0, -1.0000001, -1.0], 2),
        ([1.0, 3.0, 3.0], 1),
        ([2.0, 2.0, 2.0], 0),
        ([-0.0, 0.0], 0),
        ([0.0, -0.0], 0),
        ([5.0], 0),
        ([1.0, np.inf], 1),
        ([-np.inf, -1e308], 1),
        ([1e308, 1.7e308], 1),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_explained_element_is_the_first_that_a_prediction_names(values, index, dtype):
    with np.errstate(over="ignore"):
        row = np.array(values, dtype)
    expected = index if dtype == np.float64 else int(np.argmax(row))

    place = highest(row)

    top = output_result(OutputInfo("y", "logits", row.dtype.name, row.shape), row[None], 1).top[0][0]
    assert place == top.index == expected


def test_among_nan_none_is_the_highest_and_it_is_said_where_they_are():
    row = ROW | {"classes": np.array([1.0, np.nan, np.nan], np.float32)}

    with pytest.raises(InvalidRequestError) as caught:
        resolve(TargetSpec(), INFOS, row, field="target")

    assert "has NaN in 2 of its 3 values, first at index [1]" in caught.value.message
    assert caught.value.metadata["field"] == "target.outcome"


def test_the_only_number_of_a_row_that_is_nan_is_said_to_be_that():
    info = OutputInfo("y", "values", "float32", ())

    with pytest.raises(InvalidRequestError, match=r"^Output 'y' is NaN; send rows"):
        resolve(TargetSpec(), (info,), {"y": np.float32(np.nan)}, field="target")


def test_an_element_that_is_named_is_explained_beside_nan():
    row = ROW | {"classes": np.array([1.0, np.nan, np.nan], np.float32)}

    found = resolve(TargetSpec(outcome=Outcome(label="cat")), INFOS, row, field="target")

    assert found.value == 1.0


@pytest.mark.parametrize("values", [[np.inf, np.inf], [np.inf, -np.inf], [-np.inf, np.inf]])
def test_the_difference_of_infinities_is_a_score_to_be_refused_and_no_bug(values):
    spec = TargetSpec(outcome=Outcome(index=(0,)), contrast=Outcome(index=(1,)))

    found = resolve(spec, (SHARES,), {"shares": np.array(values, np.float32)}, field="target")

    assert not np.isfinite(found.value)


def test_nan_has_no_rank_among_the_classes_and_no_probability_is_nan():
    logits = np.array([[np.nan, 1.0, 2.0], [0.0, np.inf, -np.inf], [np.nan, np.nan, np.nan]], np.float32)

    tops = output_result(CLASSES, logits, 5).top

    assert [[each.index for each in row] for row in tops] == [[2, 1], [1, 0, 2], []]
    assert all(each.probability is None for row in tops for each in row)
