"""Values whose size follows what a caller sends are bounded before they are made, or their file is refused."""

import resource

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pellucid_server.engine.models.onnx.file import SessionError, checked_model
from pellucid_server.engine.models.onnx.guards import PREFIX
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.engine.models.onnx.sizes import MOST_ELEMENTS
from pellucid_server.errors import InvalidRequestError

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def value(name, shape=None, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(bodies, *, opset=18, **constants):
    """A model that adds 0 times the sum of `made`, for which the largest number `n`, (1,), of x is at hand, to x."""
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Reshape", ["most", "vector"], ["m"]),
        node("Cast", ["m"], ["n"], to=INT64),
        node("Squeeze", ["n"], ["scalar"]),
        *bodies,
        node("Cast", ["made"], ["numbers"], to=FLOAT),
        node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        node("Mul", ["sum", "nothing"], ["none"]),
        node("Add", ["x", "none"], ["y"]),
    ]
    constants = {"vector": np.array([1]), "nothing": np.float32(0), "zero": np.array(0), "one": np.array(1)} | constants
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("x", ["rows", 3])], [value("y", ["rows", 3])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def load(tmp_path):
    def load(content):
        onnx.save(content, tmp_path / "model.onnx")
        return OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu")

    return load


def rows(number):
    x = np.full((2, 3), -1, np.float32)
    x[1, 2] = number
    return {"x": x}


def ranged(name="r", limit="scalar"):
    return node("Range", ["zero", limit, "one"], [name])


PICTURE = np.zeros((1, 1, 2, 2), np.float32)
TABLE = np.zeros((5, 7), np.float32)
MADE = {
    "ConstantOfShape": ([node("ConstantOfShape", ["n"], ["made"], name="it")], {}),
    "ConstantOfShape of three axes": (
        [node("Concat", ["n", "n", "n"], ["s"], axis=0), node("ConstantOfShape", ["s"], ["made"], name="it")],
        {},
    ),
    "Expand": ([node("Expand", ["m", "n"], ["made"], name="it")], {}),
    "Tile": ([node("Tile", ["m", "n"], ["made"], name="it")], {}),
    "Expand to three axes": (
        [
            node("Concat", ["n", "vector", "n"], ["s"], axis=0),
            node("Expand", ["m", "s"], ["made"], name="it"),
        ],
        {},
    ),
    "Tile on two axes": (
        [
            node("Concat", ["n", "n"], ["s"], axis=0),
            node("Tile", ["table", "s"], ["made"], name="it"),
        ],
        {"table": TABLE},
    ),
    "Range": ([node("Range", ["zero", "scalar", "one"], ["made"], name="it")], {}),
    "Range of a small step": (
        [
            node("Squeeze", ["m"], ["limit"]),
            node("Reciprocal", ["limit"], ["step"]),
            node("Range", ["start", "limit", "step"], ["made"], name="it"),
        ],
        {"start": np.float32(0)},
    ),
    "OneHot": ([node("OneHot", ["vector", "n", "pair"], ["made"], name="it")], {"pair": np.float32([0, 1])}),
    "Pad": (
        [node("Concat", ["n", "n"], ["pads"], axis=0), node("Pad", ["m", "pads"], ["made"], name="it")],
        {},
    ),
    "Resize to sizes": (
        [
            node("Concat", ["vector", "vector", "n", "n"], ["sizes"], axis=0),
            node("Resize", ["picture", "", "", "sizes"], ["made"], name="it", mode="nearest"),
        ],
        {"picture": PICTURE},
    ),
    "Resize by scales": (
        [
            node("Concat", ["ones", "m", "m"], ["scales"], axis=0),
            node("Resize", ["picture", "", "scales"], ["made"], name="it", mode="nearest"),
        ],
        {"picture": PICTURE, "ones": np.float32([1, 1])},
    ),
    "HannWindow": ([node("HannWindow", ["scalar"], ["made"], name="it")], {}),
    "two ranges, multiplied": (
        [
            ranged(),
            node("Unsqueeze", ["r", "vector"], ["column"]),
            node("Mul", ["r", "column"], ["made"], name="it"),
        ],
        {},
    ),
    "two ranges, as matrices": (
        [
            ranged(),
            node("Unsqueeze", ["r", "vector"], ["column"]),
            node("Unsqueeze", ["r", "first"], ["row"]),
            node("MatMul", ["column", "row"], ["made"], name="it"),
        ],
        {"first": np.array([0])},
    ),
    "two ranges, by Gemm": (
        [
            ranged(),
            node("Unsqueeze", ["r", "vector"], ["column"]),
            node("Cast", ["column"], ["real"], to=FLOAT),
            node("Gemm", ["real", "real"], ["made"], name="it", transB=1),
        ],
        {},
    ),
    "slices of a table": (
        [
            ranged(),
            node("Sub", ["r", "r"], ["places"]),
            node("Gather", ["table", "places"], ["made"], name="it"),
        ],
        {"table": TABLE},
    ),
    "the shape of a range": (
        [ranged(), node("Shape", ["r"], ["s"]), node("Tile", ["r", "s"], ["made"], name="it")],
        {},
    ),
}  # fmt: skip
SQUARE = {
    "ConstantOfShape of three axes", "Expand to three axes", "Tile on two axes", "Range of a small step",
    "Resize to sizes", "Resize by scales", "the shape of a range",
    *(name for name in MADE if name.startswith("two ranges")),
}  # fmt: skip
"""Those that make n * n elements or more of the number n."""


@pytest.mark.parametrize(("bodies", "constants"), MADE.values(), ids=MADE)
def test_a_value_is_made_up_to_the_bound_and_refused_beyond_it(load, bodies, constants):
    session = load(model(bodies, **constants))

    np.testing.assert_array_equal(session.run(rows(3))["y"], rows(3)["x"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in (2.0 * MOST_ELEMENTS, 1e13, 2.0**62):
        with pytest.raises(InvalidRequestError, match=r"run on these rows of x: Its node '(it|)' \(\w+\)") as caught:
            session.run(rows(number))
        assert caught.value.metadata["field"] == "inputs"
        with pytest.raises(SessionError, match=r"its node '(it|)' |ONNX Runtime cannot run it"):
            session.run_checked(rows(number))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("name", [name for name in MADE if name not in SQUARE])
@pytest.mark.parametrize("number", [-5, 0])
def test_a_number_that_is_no_size_is_the_fault_of_the_rows(load, name, number):
    # Of zero elements most operators make an empty value, and of fewer some do.
    session = load(model(MADE[name][0], **MADE[name][1]))
    x = np.full((2, 3), number, np.float32)
    try:
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)
    except InvalidRequestError as error:
        assert "cannot be run on these rows of x: Its node 'it'" in error.message  # noqa: PT017 - either is right


@pytest.mark.parametrize("name", ["Range", "Tile", "two ranges, as matrices"])
def test_a_size_is_bounded_in_a_branch_too(load, name):
    bodies, constants = MADE[name]
    kind, other = (FLOAT, "few") if name == "Tile" else (INT64, "zero")
    then = helper.make_graph(bodies, "then", [], [value("made", None, kind)])
    other = helper.make_graph([node("Identity", [other], ["z"])], "else", [], [value("z", None, kind)])
    branch = node("If", ["yes"], ["made"], then_branch=then, else_branch=other)
    session = load(model([node("Greater", ["most", "few"], ["yes"]), branch], few=np.float32(1), **constants))

    np.testing.assert_array_equal(session.run(rows(3))["y"], rows(3)["x"])
    with pytest.raises(InvalidRequestError, match="cannot be run on these rows of x: Its node"):
        session.run(rows(1e13))


def scan():
    """A list of as many copies of a range as it has numbers."""
    copies = helper.make_graph(
        [node("Identity", ["r"], ["o"])], "b", [value("e", (), INT64)], [value("o", None, INT64)]
    )
    return node("Scan", ["r"], ["made"], name="it", num_scan_inputs=1, body=copies)


def loop(turns, condition="", body=(), last="i"):
    inputs = [value("i", (), INT64), value("on", (), BOOL)]
    body = [*body, node("Identity", [last], ["turn"])]
    outputs = [value("still", (), BOOL), value("turn", None if last != "i" else (), INT64)]
    return node("Loop", [turns, condition], ["made"], name="it", body=helper.make_graph(body, "b", inputs, outputs))


SAME = [node("Identity", ["on"], ["still"])]
UNTIL = [node("Less", ["i", "scalar"], ["still"])]
REFUSED = {
    "turns": ([loop("scalar", body=SAME)], "how often it runs follows what a caller sends"),
    "a condition": ([loop("", "true", UNTIL)], "how often it runs follows what a caller sends"),
    "a condition and any number": ([loop("many", "true", UNTIL)], "how often it runs follows"),
    "a condition and a number that is made of others": (
        [
            node("Constant", [], ["half"], value_int=1 << 60),
            node("Add", ["half", "half"], ["more"]),
            loop("more", "true", UNTIL),
        ],
        "how often it runs follows",
    ),
    "turns that each make a range": ([loop("five", "true", [*SAME, ranged()], "r")], "cannot be bounded beforehand"),
    "a scan of a range": ([ranged(), scan()], "cannot be bounded beforehand"),
    "an equation": (
        [ranged(), node("Einsum", ["r", "r"], ["made"], name="it", equation="i,j->ij")],
        "cannot be bounded beforehand",
    ),
    "a window of its own": (
        [
            node("Cast", ["m"], ["f"], to=INT64),
            node("Squeeze", ["f"], ["bins"]),
            node("MelWeightMatrix", ["bins", "eight", "rate", "low", "high"], ["made"], name="it"),
        ],
        "cannot be bounded beforehand",
    ),
}
NUMBERS = {
    "many": np.array(2**63 - 1), "five": np.array(5), "true": np.array(True), "eight": np.array(8),
    "rate": np.array(100), "low": np.float32(1), "high": np.float32(40),
}  # fmt: skip


@pytest.mark.parametrize(("bodies", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_file_is_refused_where_a_size_cannot_be_bounded(load, bodies, reason):
    with pytest.raises(SessionError, match=rf"node 'it' \(\w+\) cannot be served: .*{reason}"):
        load(model(bodies, **NUMBERS))


def test_an_old_file_is_refused_with_the_version_that_would_do(load):
    bodies = [node("ConstantOfShape", ["n"], ["made"], name="it")]
    with pytest.raises(SessionError, match=r"node 'it' .* from opset 13 on; export the model with that or a newer one"):
        load(model(bodies, opset=12))


def test_a_loop_may_run_as_often_as_the_file_or_a_shape_says(load):
    for turns, body in (("five", UNTIL), ("length", SAME)):
        bodies = [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "one"], ["length"]),
            loop(turns, "true", body),
        ]
        session = load(model(bodies, **NUMBERS))
        np.testing.assert_array_equal(session.run(rows(1e13))["y"], rows(1e13)["x"])


@pytest.mark.parametrize("operator", ["Reshape", "TopK", "Split", "Slice"])
def test_a_shape_that_an_operator_does_not_take_is_the_fault_of_the_rows(load, operator):
    outputs = ["made", "i"] if operator == "TopK" else ["made"]
    starts = ["n", "n"] if operator == "Slice" else ["n"]
    session = load(model([node(operator, ["three", *starts], outputs, name="it")], three=np.arange(3.0)))

    assert session.run(rows(3))["y"].shape == (2, 3)
    if operator != "Slice":
        with pytest.raises(InvalidRequestError, match=rf"node 'it' \({operator}\) does not take a shape"):
            session.run(rows(4))


def test_sizes_that_follow_shapes_have_no_guard():
    bodies = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Expand", ["zeros", "s"], ["wide"]),
        node("Cast", ["wide"], ["made"], to=FLOAT),
    ]
    file = checked_model(model(bodies))

    assert not [entry for entry in file.model.graph.node if entry.name.startswith(PREFIX)]
    assert file.guards == ()
