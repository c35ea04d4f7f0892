"""The lowest whole number divided by -1 does not end the process, whatever rows come to it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from pellucid_server.engine.models.onnx.division import PREFIX
from pellucid_server.engine.models.onnx.file import SessionError, checked_model

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT
LOWEST = -(2**63)
node = helper.make_node


def model(kind, nodes, *, opset=17):
    values = [helper.make_tensor_value_info(name, kind, ["rows"]) for name in ("a", "b")]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", kind, ["rows"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def in_a_branch(kind, nodes):
    """The same nodes inside both branches of an If."""
    made = {
        name: helper.make_graph(
            [node("Div", ["a", "b"], [f"{name}.y"])], name, [], [helper.make_tensor_value_info(f"{name}.y", kind, None)]
        )
        for name in ("then_branch", "else_branch")
    }
    return [
        node("Shape", ["a"], ["shape"]),
        node("ReduceMax", ["shape"], ["rows"], keepdims=0),
        node("Cast", ["rows"], ["any"], to=TensorProto.BOOL),
        node("If", ["any"], ["y"], **made),
    ]


def run(checked, **rows):
    session = onnxruntime.InferenceSession(checked.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], rows)[0]


@pytest.mark.parametrize("branch", [False, True], ids=["outside", "in a branch"])
def test_whole_numbers_are_divided_as_processors_wrap_them(branch):
    nodes = in_a_branch(INT64, []) if branch else [node("Div", ["a", "b"], ["y"])]
    checked = checked_model(model(INT64, nodes)).model
    a, b = np.array([7, 7, -7, LOWEST, LOWEST, 0]), np.array([2, -1, -1, -1, 2, -1])

    quotients = run(checked, a=a, b=b)

    assert quotients.tolist() == [3, -7, 7, LOWEST, LOWEST // 2, 0]


def test_a_division_of_other_numbers_is_left_as_it_is():
    checked = checked_model(model(FLOAT, [node("Div", ["a", "b"], ["y"])])).model

    assert [each.op_type for each in checked.graph.node] == ["Div"]
    assert run(checked, a=np.array([1, -1], np.float32), b=np.array([-1, 0], np.float32)).tolist() == [-1, -np.inf]


def test_where_the_type_is_not_known_numbers_of_any_type_are_divided_as_before():
    # The onnx package does not know what this operator gives.
    nodes = [
        node("Gelu", ["a"], ["hidden"], domain="com.microsoft"),
        node("Gelu", ["b"], ["under"], domain="com.microsoft"),
        node("Div", ["hidden", "under"], ["y"]),
    ]
    given = model(FLOAT, nodes)
    given.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    plain = onnx.ModelProto()
    plain.CopyFrom(given)
    rows = {"a": np.array([1, 2, -3], np.float32), "b": np.array([2, -1, 1], np.float32)}

    checked = checked_model(given).model

    assert any(each.name.startswith(PREFIX) for each in checked.graph.node)
    np.testing.assert_array_equal(run(checked, **rows), run(plain, **rows))


def test_an_opset_without_a_choice_is_refused_by_name():
    with pytest.raises(SessionError, match=r"node 'half' \(Div\) may divide whole numbers by -1.*opset 15 or newer"):
        checked_model(model(INT64, [node("Div", ["a", "b"], ["y"], name="half")], opset=7))
