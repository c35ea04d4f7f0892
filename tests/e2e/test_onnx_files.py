"""Models of an ONNX file alone on the real server: good ones answer, and each that is refused says why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import skl2onnx
from e2e.messages import attribute, details, failure, param, predict, rows, spec, violated_fields
from e2e.serving import Server, serve
from onnx import TensorProto, helper, numpy_helper
from pellucid import Client
from pellucid.tensors import from_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2
from server.engine.models.onnx_networks import FILES, run_with
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

FOREST, GATED, GROWING, OPEN, RESIDUAL = "forest", "gated", "growing", "open", "residual"
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
    write(repository, RESIDUAL, FILES[RESIDUAL].model)
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

    assert sorted(name for name in listed if listed[name].state == "serving") == [
        FOREST,
        GATED,
        GROWING,
        OPEN,
        RESIDUAL,
    ]
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


TARGET = explanation_pb2.Target(output="y", outcome=explanation_pb2.Outcome(index=[2]))


def ablated(server: Server, table: str = "effects", **fields: Any) -> dict[str, npt.NDArray[np.generic]]:
    """Return the numbers of a table, all parts together."""
    model = explanation_pb2.ModelSpec(name=RESIDUAL)
    request = explanation_service_pb2.AblateRequest(model=model, method="ablation", target=TARGET, **fields)
    found: dict[str, list[npt.NDArray[np.generic]]] = {}
    for response in server.explanations.Ablate(request):
        for column in response.findings.tables[table].columns if table in response.findings.tables else ():
            if column.WhichOneof("values") == "numbers":
                found.setdefault(column.name, []).append(from_tensor(column.numbers))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def residual(x: npt.NDArray[np.generic], **values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return what the file says with values put in by hand, (rows, 4)."""
    made: npt.NDArray[np.generic] = run_with(FILES[RESIDUAL].model, {"x": x}, values, ["y"])[0]
    return made


def test_a_model_of_an_onnx_file_alone_is_ablated_at_the_layers_that_it_shows(server: Server, client: Client) -> None:
    layers = [layer.name for layer in client.model(RESIDUAL).layers]
    x, other = (FILES[RESIDUAL].rows(1, seed=seed)["x"] for seed in (1, 2))
    (before,) = residual(x)
    site = ablation_pb2.Site(layer="normal", each=ablation_pb2.EACH_UNIT)
    kinds = {
        "zero": (ablation_pb2.INTERVENTION_KIND_ZERO, lambda own, patch: 0 * own, None),
        "constant": (ablation_pb2.INTERVENTION_KIND_CONSTANT, lambda own, patch: 0 * own + 0.75, 0.75),
        "scale": (ablation_pb2.INTERVENTION_KIND_SCALE, lambda own, patch: 2 * own, 2.0),
        "patch": (ablation_pb2.INTERVENTION_KIND_PATCH, lambda own, patch: patch, None),
    }
    own, patch = (run_with(FILES[RESIDUAL].model, {"x": each}, {}, ["normal"])[0] for each in (x, other))
    assert layers == FILES[RESIDUAL].cuts.split()

    for name, (kind, change, number) in kinds.items():
        found = ablated(
            server,
            inputs={"x": rows(x)},
            source={"x": rows(other)} if name == "patch" else {},
            interventions=[ablation_pb2.Intervention(sites=[site], kind=kind, value=number)],
        )
        for unit in range(3):
            value = own.copy()
            value[:, unit] = change(own, patch)[:, unit]
            np.testing.assert_allclose(found["after"][unit], residual(x, normal=value)[0, 2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["before"], before[2], rtol=1e-4, atol=1e-5)


def test_layers_of_an_onnx_file_are_ablated_at_once_and_by_their_mean(server: Server) -> None:
    x = FILES[RESIDUAL].rows(3, seed=4)["x"]
    mean, zero = ablation_pb2.INTERVENTION_KIND_MEAN, ablation_pb2.INTERVENTION_KIND_ZERO
    interventions = [
        ablation_pb2.Intervention(sites=[ablation_pb2.Site(layer="a", units=[1])], kind=zero),
        ablation_pb2.Intervention(
            sites=[ablation_pb2.Site(layer="squared")],
            kind=mean,
            reference=ablation_pb2.REFERENCE_BATCH,
            per_position=True,
        ),
    ]

    single = ablated(server, inputs={"x": rows(x)}, interventions=interventions[1:])
    joint = ablated(
        server, "joint", inputs={"x": rows(x)}, interventions=interventions, parameters={"joint": param(True)}
    )

    (own,) = run_with(FILES[RESIDUAL].model, {"x": x}, {}, ["squared"])
    expected = residual(x, squared=np.broadcast_to(own.mean(axis=0), own.shape).copy())[:, 2]
    np.testing.assert_allclose(single["after"], expected, rtol=1e-4, atol=1e-5)
    # The mean is over unchanged rows, and takes the place of all that the other change brings about.
    np.testing.assert_allclose(joint["after"], expected, rtol=1e-4, atol=1e-5)


def test_what_needs_gradients_is_refused_on_an_onnx_file_with_the_reason(client: Client, server: Server) -> None:
    request = attribute(RESIDUAL, {"x": rows(FILES[RESIDUAL].rows(1)["x"])}, spec("integrated-gradients"))

    error = failure(lambda: server.explanations.Attribute(request))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "the model has only an ONNX file; gradients need model.pt2 beside it" in str(error.details())
    reasons = {each.method: each for each in client.model(RESIDUAL).capabilities}
    assert not reasons["integrated-gradients"].allowed
