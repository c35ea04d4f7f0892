"""Models of an ONNX file alone on the real server: good ones answer, and each that is refused says why."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import skl2onnx
from e2e.messages import details, failure, predict, rows, violated_fields
from e2e.serving import Server, serve
from onnx import TensorProto, helper, numpy_helper
from pellucid import Client
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

FOREST, GATED, GROWING, OPEN = "forest", "gated", "growing", "open"
REASONS = {
    "random": "node 'noise' is an operator 'RandomNormalLike'",
    "training": "training_mode is not a constant False",
    "custom": "only the standard operators can be served",
    "outside": "points outside the directory",
    "axis": "its axis is 9223372036854775807; it must be in [-64, 64]",
    "empty": "its input 0 is empty; give it elements",
    "endless": "must not be recursive",
    "turning": "node 'turns' (Loop) cannot be served: how often it runs follows what a caller sends",
}
HIDDEN = 2
SEED = 3
node = helper.make_node


def value(name: str, *shape: int | str | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def constant(name: str, numbers: npt.ArrayLike, kind: type[np.generic] = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, kind), name)


def file(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
    shape: tuple[int | str | None, ...] = (4,),
) -> onnx.ModelProto:
    values = [value("x", "rows", *shape)], [value("y", "rows", *shape)]
    graph = helper.make_graph(nodes, "g", *values, tensors or [])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions or [])


def refused() -> dict[str, onnx.ModelProto]:
    outside = constant("w", np.ones(4))
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../secret.bin")
    body = [node("F", ["a"], ["b"], domain="own")]
    recursive = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    training = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["t"], to=TensorProto.BOOL)]
    return {
        "random": file([node("RandomNormalLike", ["x"], ["y"], name="noise")]),
        "training": file([*training, node("Dropout", ["x", "", "t"], ["y"])]),
        "custom": file([node("Anything", ["x"], ["y"], domain="own")]),
        "outside": file([node("Add", ["x", "w"], ["y"])], [outside]),
        "axis": file([node("LayerNormalization", ["x", "w"], ["y"], axis=2**63 - 1)], [constant("w", np.ones(4))]),
        "empty": file(
            [node("LSTM", ["none", "w", "r"], ["y"], hidden_size=1)],
            [
                constant("none", np.ones((0, 1, 1))),
                constant("w", np.ones((1, 4, 1))),
                constant("r", np.ones((1, 4, 1))),
            ],
        ),
        "endless": file([node("F", ["x"], ["y"], domain="own")], functions=[recursive]),
        "turning": file([*LARGEST, node("Loop", ["n", ""], ["made"], body=counting(), name="turns"), *ADDED], GIVEN),
    }


LARGEST = [
    node("Abs", ["x"], ["a"]),
    node("ReduceMax", ["a"], ["m"], keepdims=0),
    node("Reshape", ["m", "vector"], ["v"]),
    node("Cast", ["v"], ["n"], to=TensorProto.INT64),
]
ADDED = [
    node("Cast", ["made"], ["numbers"], to=TensorProto.FLOAT),
    node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
    node("Mul", ["sum", "zero"], ["none"]),
    node("Add", ["x", "none"], ["y"]),
]
GIVEN = [constant("vector", [1], np.int64), constant("zero", 0)]


def counting() -> onnx.GraphProto:
    """A body of a loop that lists its turns."""
    flag, number = value("on", kind=TensorProto.BOOL), value("i", kind=TensorProto.INT64)
    outputs = [value("still", kind=TensorProto.BOOL), value("turn", kind=TensorProto.INT64)]
    nodes = [node("Identity", ["on"], ["still"]), node("Identity", ["i"], ["turn"])]
    return helper.make_graph(nodes, "body", [number, flag], outputs)


def gated() -> onnx.ModelProto:
    """An LSTM over the positive numbers of a row, of which there may be none."""
    generator = np.random.default_rng(SEED)
    tensors = [
        constant("zero", 0),
        constant("series", [-1, 1, 1], np.int64),
        constant("w", generator.standard_normal((1, 4 * HIDDEN, 1))),
        constant("r", generator.standard_normal((1, 4 * HIDDEN, HIDDEN))),
        constant("flat", [1, HIDDEN], np.int64),
    ]
    nodes = [
        node("Greater", ["x", "zero"], ["keep"]),
        node("Reshape", ["keep", "all"], ["flags"]),
        node("Compress", ["x", "flags"], ["found"]),
        node("Reshape", ["found", "series"], ["s"]),
        node("LSTM", ["s", "w", "r"], ["", "last"], hidden_size=HIDDEN, name="memory"),
        node("Reshape", ["last", "flat"], ["h"]),
        node("Mul", ["x", "zero"], ["none"]),
        node("ReduceSum", ["none", "one"], ["column"], keepdims=1),
        node("Add", ["h", "column"], ["y"]),
    ]
    content = file(nodes, [*tensors, constant("all", [-1], np.int64), constant("one", [1], np.int64)])
    content.graph.output[0].CopyFrom(value("y", "rows", HIDDEN))
    return content


def write(repository: Path, name: str, content: onnx.ModelProto) -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "model.toml").write_text("")
    (folder / "1" / "model.onnx").write_bytes(content.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    return RandomForestClassifier(n_estimators=5, random_state=SEED).fit(*load_iris(return_X_y=True))


@pytest.fixture(scope="module")
def server(forest: RandomForestClassifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository, folder = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("server")
    given = [("x", FloatTensorType([None, 4]))]
    write(repository, FOREST, skl2onnx.to_onnx(forest, initial_types=given, options={"zipmap": False}))
    np.savez(write(repository, GATED, gated()) / "background.npz", x=np.ones((2, 4), np.float32))
    (repository / GATED / "model.toml").write_text('background = "background.npz"\n')
    growing = file([*LARGEST, node("ConstantOfShape", ["n"], ["made"], name="zeros"), *ADDED], GIVEN)
    write(repository, GROWING, growing)
    write(repository, OPEN, file([node("Neg", ["x"], ["y"])], shape=(None, 4)))
    for name, content in refused().items():
        write(repository, name, content)
    with serve(repository, folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def test_good_files_are_served_and_each_refused_one_says_why(client: Client) -> None:
    listed = {each.name: each for each in client.models()}

    assert sorted(name for name in listed if listed[name].state == "serving") == [FOREST, GATED, GROWING, OPEN]
    assert {name: REASONS[name] in listed[name].reason for name in REASONS} == dict.fromkeys(REASONS, True)


def test_the_forest_answers_as_scikit_learn_does(client: Client, forest: RandomForestClassifier) -> None:
    flowers = load_iris().data[::10].astype(np.float32)

    answer = client.predict(FOREST, {"x": flowers})

    np.testing.assert_allclose(answer.outputs["probabilities"], forest.predict_proba(flowers), atol=1e-6)


def test_a_row_with_an_empty_axis_is_refused_with_its_field(server: Server) -> None:
    error = failure(lambda: server.explanations.Predict(predict(OPEN, {"x": rows(np.ones((2, 0, 4), np.float32))})))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error) == ['inputs["x"].tensor.shape']
    assert "no axis of a row may be empty" in str(error.details())


def test_a_row_that_leaves_an_operator_nothing_is_refused_and_the_worker_lives(server: Server, client: Client) -> None:
    # ONNX Runtime's LSTM ends the process at an empty series.
    before = server.worker_pid()
    good = client.predict(GATED, {"x": np.array([[1, -1, 2, 0]], np.float32)}).outputs["y"]

    error = failure(lambda: server.explanations.Predict(predict(GATED, {"x": rows([[-1.0, -2.0, 0.0, -3.0]])})))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "node 'memory' (LSTM) takes an array that is empty as its input 0" in str(error.details())
    assert "BadRequest" in details(error)
    again = client.predict(GATED, {"x": np.array([[1, -1, 2, 0]], np.float32)}).outputs["y"]
    np.testing.assert_array_equal(again, good)
    assert server.worker_pid() == before


@pytest.mark.parametrize("number", [1e9, 1e13, 1e30])
def test_a_number_that_a_size_follows_is_refused_where_it_is_too_large(
    server: Server, client: Client, number: float
) -> None:
    before = server.worker_pid()
    np.testing.assert_array_equal(client.predict(GROWING, {"x": np.full((1, 4), 7, np.float32)}).outputs["y"], 7)

    error = failure(lambda: server.explanations.Predict(predict(GROWING, {"x": rows([[1.0, 2.0, number, 3.0]])})))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "The model cannot be run on these rows of x: Its node 'zeros' (ConstantOfShape)" in str(error.details())
    assert violated_fields(error) == ["inputs"]
    assert server.worker_pid() == before
