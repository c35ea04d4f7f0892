"""Operators that must not get an empty array do not get one, whatever the file says and wherever they stand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from pellucid_server.engine.models.loading.handover import Handover
from pellucid_server.engine.models.onnx.file import SessionError, checked_model
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.errors import InvalidRequestError
from server.engine.models.onnx_sweep import Call, Start, sweep

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SEED = 11
HIDDEN, FEATURES = 3, 4
node = helper.make_node


def value(name, shape=None, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, numbers, kind=np.float32):
    return numpy_helper.from_array(np.array(numbers, kind), name)


def weights(name, *shape):
    return constant(name, np.random.default_rng(SEED).standard_normal(shape))


def recurrent(operator, gates):
    tensors = [weights("w", 1, gates * HIDDEN, FEATURES), weights("r", 1, gates * HIDDEN, HIDDEN)]
    return node(operator, ["taken", "w", "r"], ["y"], hidden_size=HIDDEN, name="this"), tensors


def microsoft(operator, inputs, tensors=(), **attributes):
    return node(operator, inputs, ["y"], domain="com.microsoft", name="this", **attributes), list(tensors)


SCALE = [constant("g", np.ones(FEATURES))]
ENDING = {
    "GRU": recurrent("GRU", 3),
    "LSTM": recurrent("LSTM", 4),
    "RNN": recurrent("RNN", 1),
    "query": microsoft("MultiHeadAttention", ["taken", "x", "x"], num_heads=2),
    "key": microsoft("MultiHeadAttention", ["x", "taken", "taken"], num_heads=2),
    "skip": microsoft("SkipLayerNormalization", ["x", "taken", "g"], SCALE),
    "simplified": microsoft("SkipSimplifiedLayerNormalization", ["x", "taken", "g"], SCALE),
    "Unique": (node("Unique", ["taken"], ["y"], axis=0, name="this"), []),
    "ConvTranspose": (node("ConvTranspose", ["taken", "kernel"], ["y"], name="this"), [weights("kernel", 2, 1, 3)]),
    "Concat": (node("Concat", ["x", "taken"], ["y"], axis=2, name="this"), []),
}


def model(bodies, tensors, *, opset=17, claims=(), outputs=("y",)):
    """A model of `taken`, the rows of x for which c is true, and a node that takes it."""
    nodes = [node("Greater", ["c", "zero"], ["keep"]), node("Compress", ["x", "keep"], ["taken"], axis=0), *bodies]
    inputs = [value("x", ["rows", 2, FEATURES]), value("c", ["rows"])]
    graph = helper.make_graph(nodes, "g", inputs, [value(name) for name in outputs], [*tensors, constant("zero", 0)])
    graph.value_info.extend(claims)
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def shaped(content, rank=3):
    content.graph.output[0].CopyFrom(value("y", [None] * rank))
    return content


@pytest.fixture
def load(tmp_path):
    def load(content):
        onnx.save(content, tmp_path / "model.onnx")
        return OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu")

    return load


def rows(taken):
    x = np.random.default_rng(SEED).standard_normal((2, 2, FEATURES)).astype(np.float32)
    return {"x": x, "c": np.full(2, taken, np.float32)}


@pytest.mark.parametrize(("body", "tensors"), ENDING.values(), ids=ENDING)
def test_a_run_ends_before_an_operator_that_must_not_get_an_empty_array(load, body, tensors):
    content = shaped(model([body], tensors), rank=4 if body.op_type in ("GRU", "LSTM", "RNN") else 3)
    plain = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    session = load(content)

    np.testing.assert_array_equal(session.run(rows(1))["y"], plain.run(["y"], rows(1))[0])
    with pytest.raises(InvalidRequestError, match=rf"node 'this' \({body.op_type}\) takes an array that is empty") as e:
        session.run(rows(-1))
    with pytest.raises(SessionError, match=r"node 'this' .* on which ONNX Runtime must not be run"):
        session.run_checked(rows(-1))
    assert e.value.metadata["field"] == "inputs"


def in_branch(body):
    then = helper.make_graph([body], "then", [], [value("y")])
    other = helper.make_graph([node("Identity", ["x"], ["z"])], "else", [], [value("z")])
    return [
        node("ReduceMax", ["c"], ["most"], keepdims=0),
        node("Less", ["most", "many"], ["yes"]),
        node("If", ["yes"], ["out"], then_branch=then, else_branch=other),
    ], constant("many", 5)


def in_branch_that_is_always_taken(body):
    nodes, _ = in_branch(body)
    return [nodes[2]], constant("yes", True, bool)


def in_loop(body):
    inputs = [value("i", (), INT64), value("on", (), BOOL)]
    inner = helper.make_graph(
        [node("Identity", ["on"], ["still"]), body], "body", inputs, [value("still", (), BOOL), value("y")]
    )
    return [node("Loop", ["turns", ""], ["out"], body=inner)], constant("turns", 1, np.int64)


def test_a_guard_of_a_file_that_another_process_read_says_what_it_found(load, tmp_path):
    body, tensors = ENDING["LSTM"]
    session = load(shaped(model([body], tensors), rank=4))
    with Handover() as place:
        session.ready.write(place.descriptor, "")
        ready, _ = place.take()
    other = OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu", ready=ready)

    np.testing.assert_array_equal(other.run(rows(1))["y"], session.run(rows(1))["y"])
    with pytest.raises(InvalidRequestError, match=r"node 'this' \(LSTM\) takes an array that is empty"):
        other.run(rows(-1))


@pytest.mark.parametrize("place", [in_branch, in_branch_that_is_always_taken, in_loop])
@pytest.mark.parametrize("name", ["LSTM", "skip", "Concat"])
def test_a_guard_stands_in_branches_and_loops_too(load, name, place):
    body, tensors = ENDING[name]
    outer, tensor = place(body)
    content = model(outer, [*tensors, tensor], outputs=["out"])
    content.graph.output[0].CopyFrom(value("out", [None] * (3 + (name == "LSTM") + (place is in_loop))))
    session = load(content)

    assert np.isfinite(session.run(rows(1))["out"]).all()
    found = "nodes take" if place is in_branch_that_is_always_taken else "node 'this'"
    with pytest.raises(InvalidRequestError, match=found):
        session.run(rows(-1))


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_an_array_of_one_axis_may_be_empty_in_a_concatenation(load, opset):
    # The number of axes shows only when it runs: 0 in a shape is the length of the array that is reshaped.
    nodes = [
        node("Greater", ["x", "zero"], ["keep"]),
        node("Compress", ["x", "keep"], ["found"], axis=0),
        node("Cast", ["c"], ["shape"], to=INT64),
        node("Reshape", ["found", "shape"], ["taken"]),
        node("Concat", ["taken", "taken"], ["y"], axis=0, name="this"),
    ]
    inputs, outputs = [value("x", ["rows"]), value("c", ["axes"])], [value("y", [None])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [constant("zero", 0)])
    session = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))

    def run(x, shape):
        return session.run({"x": np.array(x, np.float32), "c": np.array(shape, np.float32)})["y"].tolist()

    assert run([1, -1, 2], [0]) == [1, 2, 1, 2]
    assert run([-1, -1, -2], [0]) == []
    assert run([1, -1, 2], [0, 1]) == [[1], [2], [1], [2]]
    with pytest.raises(InvalidRequestError, match="node 'this'"):
        run([-1, -1, -2], [0, 1])


def lying(start_nodes, claims, feeds, tensors=(), outputs=()):
    """A call of a file that claims what is not so."""
    graph = helper.make_graph(start_nodes, "g", [], [value("y"), *outputs], [])
    graph.value_info.extend(claims)
    graph.input.extend(
        value(name, [None] * array.ndim, helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in feeds.items()
    )
    graph.initializer.extend(tensors)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    content = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return Call(Start("lie", content, feeds), "a claim", content, feeds, "ranked")


CLAIMED = [value("taken", [2, 4, 8]), value("given", [2, 4, 8])]


@pytest.mark.parametrize("role", ["claims", "outputs"])
def test_operators_are_not_fused_by_what_a_file_claims_of_shapes(role):
    # Add and LayerNormalization make one SkipLayerNormalization, which ends the process at an empty array.
    nodes = [
        node("Compress", ["x", "c"], ["taken"], axis=0),
        node("Compress", ["x", "d"], ["given"], axis=0),
        node("Add", ["given", "taken"], ["sum"]),
        node("LayerNormalization", ["sum", "g", "b"], ["y"]),
    ]
    feeds = {"x": np.ones((2, 4, 8), np.float32), "c": np.zeros(2, bool), "d": np.ones(2, bool)}

    def calls():
        claims = {"claims": (), "outputs": ()} | {role: CLAIMED}
        yield lying(nodes, feeds=feeds, tensors=[constant("g", np.ones(8)), constant("b", np.ones(8))], **claims)

    _, unchecked = sweep(calls, checks=False)
    _, checked = sweep(calls)

    assert [finding.kind for finding in unchecked] == ["dies of SIGFPE"]
    assert checked == []


@pytest.mark.parametrize("role", ["claims", "outputs"])
def test_a_guard_does_not_believe_what_a_file_claims_of_shapes(load, role):
    body, tensors = ENDING["Concat"]
    claim = value("taken", [2, 2, FEATURES])
    content = shaped(model([body], tensors, claims=[claim] if role == "claims" else []))
    if role == "outputs":
        content.graph.output.append(claim)
        content.graph.output[1].type.tensor_type.shape.dim[0].dim_param = "rows"
    session = load(content)

    assert session.run(rows(1))["y"].shape == (2, 2, 2 * FEATURES)
    with pytest.raises(InvalidRequestError, match="node 'this'"):
        session.run(rows(-1))


def test_what_a_file_says_of_its_inputs_and_outputs_is_kept(load):
    graph = helper.make_graph(
        [node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["y"])],
        "g",
        [value("x", ["rows", 3])],
        [value("y", ["rows", 3]), value("h", ["rows", 3])],
    )
    session = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    assert [entry.shape for entry in (*session.inputs, *session.outputs)] == [(3,)] * 3


def test_a_file_of_one_domain_gets_guards_of_the_standard_one():
    graph = helper.make_graph(
        [microsoft("SkipLayerNormalization", ["x", "z", "g"])[0]], "g",
        [value("x", ["rows", 2, 4]), value("z"), value("g", [4])], [value("y")],
    )  # fmt: skip
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)], ir_version=8)

    file = checked_model(content)
    session = onnxruntime.InferenceSession(file.model.SerializeToString(), providers=["CPUExecutionProvider"])
    ones = np.ones((1, 2, 4), np.float32)

    assert [guard.input for guard in file.guards] == [1]
    assert session.run(["y"], {"x": ones, "z": ones, "g": np.ones(4, np.float32)})[0].shape == (1, 2, 4)


@pytest.mark.parametrize("axis", [1, 2])
def test_rows_with_an_empty_axis_are_refused_before_onnx_runtime_runs(load, axis):
    graph = helper.make_graph([node("Neg", ["x"], ["y"])], "g", [value("x", ["rows", None, None])], [value("y")])
    graph.output[0].CopyFrom(value("y", ["rows", None, None]))
    session = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    shape = [2, 3, 3]
    shape[axis] = 0

    with pytest.raises(InvalidRequestError, match=rf"has the length 0 on axis {axis}; it must be at least 1") as caught:
        session.run({"x": np.ones(shape, np.float32)})

    assert caught.value.metadata["field"] == 'inputs["x"]'


def test_an_input_of_no_elements_is_refused(load):
    graph = helper.make_graph([node("Neg", ["x"], ["y"])], "g", [value("x", ["rows", 0])], [value("y", ["rows", 0])])

    with pytest.raises(
        SessionError, match=r"input 'x' has the shape .*; each axis of a row must be open or at least 1"
    ):
        load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
