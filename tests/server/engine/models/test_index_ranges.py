"""Which whole numbers a model takes: what is found on its graph, against what running it shows."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.models.files.manifest import InputManifest
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.graph.index_ranges import UNBOUNDED, IndexRange, index_error, names_an_index
from pellucid_server.engine.models.inputs.preprocessing import TensorPreprocessor
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import TensorInput
from torch import nn
from torch.export import Dim

LARGEST = np.iinfo(np.int64).max


class Lookups(nn.Module):
    """Every kind of lookup, each of an element of its own, behind operators that move elements."""

    def __init__(self):
        super().__init__()
        self.five, self.nine = nn.Embedding(5, 3), nn.Embedding(9, 3)
        self.register_buffer("seven", torch.arange(14.0).reshape(7, 2))

    def forward(self, x):
        table = self.seven.expand(x.shape[0], 7, 2)
        picked = torch.gather(table, 1, x[:, 4, None, None].expand(-1, 1, 2))
        return (
            self.five(x[:, 0].int()).sum(1)
            + self.nine(x.t()[1]).sum(1)
            + self.seven[x[:, 2:4].reshape(-1, 2)[:, 0]].sum(1)
            + nn.functional.one_hot(x[:, 3], 4).sum(1)
            + picked.sum((1, 2))
            + self.seven.index_select(0, x[:, 5]).sum(1)
            + x[:, 6]
        )


class Sequence(nn.Module):
    """Tokens of any length, with the places of the sequence looked up beside them."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 4), nn.Embedding(64, 4)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1]).expand(tokens.shape[0], -1)
        return (self.words(tokens) + self.places(places)).sum((1, 2))


class Twice(Sequence):
    """The same tokens in two tables: the smaller decides."""

    def __init__(self):
        super().__init__()
        self.fewer = nn.Embedding(6, 4)

    def forward(self, tokens):
        return super().forward(tokens) + self.fewer(tokens.flip(1)).sum((1, 2)) + self.fewer(tokens).sum((1, 2))


class First(Sequence):
    """Only the first of any number of tokens is looked up."""

    def forward(self, tokens):
        return self.words(tokens[:, 0]).sum(1) + tokens.sum(1)


class Clamped(Sequence):
    """Numbers of any size are brought into the table's range."""

    def forward(self, tokens):
        return self.words(tokens.clamp(0, 10)).sum((1, 2))


class Measured(nn.Module):
    """Numbers of any length, each with its place in the sequence and a table's row for its whole part."""

    def __init__(self):
        super().__init__()
        self.places, self.words = nn.Embedding(64, 1), nn.Embedding(11, 1)

    def forward(self, numbers):
        places = torch.arange(numbers.shape[1]).expand(numbers.shape[0], -1)
        return (self.places(places) + self.words(numbers.long())).sum((1, 2)) + numbers.sum(1)


def graph(module, *rows, open_lengths=False):
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} if open_lengths else {0: Dim.DYNAMIC}
    program = torch.export.export(module.eval(), rows, dynamic_shapes=[axes] * len(rows))
    return Graph.from_program(program)


def lookups():
    return graph(Lookups(), torch.zeros(2, 7, dtype=torch.int64))


def tokens(module):
    return graph(module, torch.zeros(2, 4, dtype=torch.int64), open_lengths=True)


def test_each_element_has_the_range_of_the_table_that_it_indexes():
    found = lookups().index_ranges["x"]

    # Only indexing by brackets counts from the end, too.
    assert found.lowest[:6].tolist() == [0, 0, -7, 0, 0, 0]
    assert found.highest.tolist() == [4, 8, 6, 3, 6, 6, LARGEST]


@pytest.mark.parametrize("element", range(6))
@pytest.mark.parametrize("end", ["lowest", "highest"])
def test_the_ends_of_a_range_run_and_what_is_beyond_them_does_not(element, end):
    model = lookups()
    row = torch.zeros(1, 7, dtype=torch.int64)
    row[0, element] = int(getattr(model.index_ranges["x"], end)[element])

    model({"x": row})
    row[0, element] += 1 if end == "highest" else -1

    with pytest.raises(InvalidRequestError, match=r"A whole number in the inputs \(x\)"):
        model({"x": row})


def test_an_open_length_has_one_range_for_all_its_places():
    found = tokens(Sequence()).index_ranges["tokens"]

    assert (found.lowest.tolist(), found.highest.tolist()) == ([0], [10])


def test_of_two_tables_the_smaller_decides():
    assert tokens(Twice()).index_ranges["tokens"].highest.tolist() == [5]


@pytest.mark.parametrize("module", [First(), Clamped()], ids=lambda module: type(module).__name__)
def test_what_cannot_be_told_is_not_told(module):
    assert tokens(module).index_ranges == {}


def test_a_sequence_longer_than_its_table_is_the_callers_mistake():
    with pytest.raises(InvalidRequestError, match="or the length of an axis"):
        tokens(Sequence())({"tokens": torch.zeros(2, 65, dtype=torch.int64)})


@pytest.mark.parametrize("rows", [torch.zeros(2, 65), torch.full((2, 5), 11.5)], ids=["longer", "larger"])
def test_so_is_what_a_model_of_other_numbers_looks_up(rows):
    model = graph(Measured(), torch.zeros(2, 4), open_lengths=True)

    model({"numbers": torch.zeros(2, 64)})

    with pytest.raises(InvalidRequestError, match="beyond a table of the model"):
        model({"numbers": rows})


def test_other_failures_of_a_model_stay_what_they_are():
    with pytest.raises(RuntimeError, match="scalar type"):
        tokens(Sequence())({"tokens": torch.zeros(2, 4)})


def prepared(rows, dtype=np.int64, *, taken=UNBOUNDED, ranges=()):
    manifest = InputManifest("x", ranges=ranges)
    preprocessor = TensorPreprocessor(manifest, np.dtype(dtype), (3,), taken=taken)
    return preprocessor.prepare(TensorInput(np.array(rows)), 'inputs["x"]').rows


TAKEN = IndexRange(np.array([0, -2, 0]), np.array([4, 1, LARGEST]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([5, 0, 0], 'inputs["x"].tensor is 5 at index [1, 0]; the model takes whole numbers from 0 to 4 there.'),
        ([0, -3, 0], 'inputs["x"].tensor is -3 at index [1, 1]; the model takes whole numbers from -2 to 1 there.'),
        ([0, 0, -1], 'inputs["x"].tensor is -1 at index [1, 2]; the model takes whole numbers from 0 to'),
    ],
)
def test_a_number_outside_is_refused_with_its_place_and_the_range(row, message):
    with pytest.raises(InvalidRequestError) as caught:
        prepared([[4, 1, 9], row], taken=TAKEN)

    assert caught.value.message.startswith(message)
    assert caught.value.metadata == {"field": 'inputs["x"].tensor.data'}


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_numbers_within_are_taken_as_they_are(dtype):
    rows = np.array([[4, 1, 200], [0, 0, 0]])

    np.testing.assert_array_equal(prepared(rows, dtype, taken=TAKEN), rows)


def test_the_manifests_ranges_narrow_what_the_model_takes():
    ranges = ((0, 100), (0.5, 1), (0, 7))

    prepared([[4, 1, 7]], taken=TAKEN, ranges=ranges)

    with pytest.raises(InvalidRequestError, match=r"is 0 at index \[0, 1\]; the model takes whole numbers from 1 to 1"):
        prepared([[0, 0, 0]], taken=TAKEN, ranges=ranges)
    with pytest.raises(InvalidRequestError, match=r"is 5 at index \[0, 0\]; the model takes whole numbers from 0 to 4"):
        prepared([[5, 1, 0]], taken=TAKEN, ranges=ranges)


def test_one_range_in_the_manifest_holds_for_every_element():
    with pytest.raises(
        InvalidRequestError, match=r"is 12 at index \[0, 2\]; the model takes whole numbers from -3 to 11"
    ):
        prepared([[11, -3, 12]], ranges=((-3, 11),))


def test_numbers_that_are_not_whole_may_leave_the_manifests_ranges():
    assert prepared([[0.5, 7.0, -2.0]], np.float32, ranges=((0, 1),)).tolist() == [[0.5, 7.0, -2.0]]


def test_a_token_that_the_model_does_not_know_is_refused_as_the_caller_sent_it():
    model = lookups()
    preprocessor = TensorPreprocessor(InputManifest("x"), np.dtype(np.int64), (7,), taken=model.index_ranges["x"])

    with pytest.raises(InvalidRequestError, match=r"is 9 at index \[0, 1\]; the model takes whole numbers from 0 to 8"):
        preprocessor.prepare(TensorInput(np.array([[4, 9, 0, 0, 0, 0, 10**12]])), "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("index out of range in self", True),
        ("out of range: tried to access index -9 on a tensor of 7 elements.", True),
        ("index 7 is out of bounds for dimension 0 with size 5", True),
        ("indices element out of data bounds, idx=7 must be within the inclusive range [-5,4]", True),
        ("Class values must be smaller than num_classes.", True),
        ("mat1 and mat2 shapes cannot be multiplied (2x4 and 3x2)", False),
        ("CUDA error: out of memory", False),
    ],
)
def test_errors_of_an_index_are_told_from_others(text, expected):
    assert names_an_index(RuntimeError(text)) is expected


def test_the_error_names_the_inputs():
    error = index_error(["words", "places"])

    assert "the inputs (words, places)" in error.message
    assert error.metadata == {"field": "inputs"}
