"""ONNX files that are refused by reading them, each by name, and good ones beside them that are served."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from pellucid_server.engine.models.onnx import operators as onnx_operators
from pellucid_server.engine.models.onnx.file import SessionError, read_onnx
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.errors import InvalidRequestError
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def value(name, shape=("rows", 3), kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def constant(name, numbers, kind=np.float32):
    return numpy_helper.from_array(np.array(numbers, kind), name)


def model(nodes, tensors=(), *, inputs=None, outputs=None, opset=21, functions=(), domains=(), ml=3):
    graph = helper.make_graph(nodes, "g", inputs or [value("x")], outputs or [value("y", ("rows", "n"))], list(tensors))
    versions = {"": opset, "com.microsoft": 1, "ai.onnx.ml": ml} | dict.fromkeys(domains, 1)
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


@pytest.fixture
def load(tmp_path):
    def load(content):
        path = tmp_path / "folder" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return OnnxModel(path, threads=1, device="cpu")

    return load


@pytest.fixture
def refused(load):
    def refused(content):
        with pytest.raises(SessionError) as caught:
            load(content)
        return str(caught.value)

    return refused


def branch(body):
    """A model whose branches are `body`, a node that makes y of x."""
    then = helper.make_graph([body], "then", [], [value("y", None)])
    other = helper.make_graph([node("Identity", ["x"], ["z"])], "else", [], [value("z", None)])
    return model([node("If", ["c"], ["y"], then_branch=then, else_branch=other)], [constant("c", True, bool)])


def looped(body):
    inputs = [value("i", (), INT64), value("on", (), BOOL), value("h", None)]
    nodes = [node("Identity", ["on"], ["still"]), body]
    inner = helper.make_graph(nodes, "body", inputs, [value("still", (), BOOL), value("y", None)])
    return model([node("Loop", ["n", "", "x"], ["y"], body=inner)], [constant("n", 2, np.int64)])


def in_function(body):
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("own", "F", ["x"], ["y"], [body], imports)
    return model([node("F", ["x"], ["y"], domain="own")], functions=[function], domains=["own"])


PLACES = [lambda body: model([body]), branch, looped, in_function]
RANDOM = [
    node("RandomNormalLike", ["x"], ["y"], name="noise"),
    node("RandomUniformLike", ["x"], ["y"], name="noise"),
    node("RandomNormal", [], ["y"], shape=[1, 3], name="noise"),
    node("RandomUniform", [], ["y"], shape=[1, 3], name="noise"),
    node("Bernoulli", ["x"], ["y"], name="noise"),
    node("Multinomial", ["x"], ["y"], name="noise"),
]


@pytest.mark.parametrize("place", PLACES, ids=["graph", "branch", "loop", "function"])
@pytest.mark.parametrize("body", RANDOM, ids=lambda body: body.op_type)
def test_a_random_operator_is_refused_wherever_it_stands(refused, body, place):
    message = refused(place(body))

    assert body.op_type in message
    assert "draws random numbers" in message
    assert "model.eval()" in message


@pytest.mark.parametrize("training", [constant("t", True, bool), None], ids=["constant True", "computed"])
def test_a_dropout_that_may_drop_is_refused(refused, training):
    nodes = [node("Dropout", ["x", "", "t"], ["y"], name="drop")]
    computed = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["t"], to=BOOL)]

    message = refused(model([*([] if training else computed), *nodes], [training] if training else []))

    assert "node 'drop'" in message
    assert "training_mode is not a constant False" in message


@pytest.mark.parametrize("inputs", [["x"], ["x", "", "t"], ["x", "r", "t"]])
def test_a_dropout_that_drops_nothing_is_served(load, inputs):
    content = model([node("Dropout", inputs, ["y"])], [constant("t", False, bool), constant("r", 0.5)])

    assert load(content).run({"x": np.array([[1, 2, 3]], np.float32)})["y"].tolist() == [[1, 2, 3]]


def test_a_dropout_in_a_function_is_judged_by_what_it_is_called_with(load, refused):
    def content(training):
        body = node("Dropout", ["x", "", "t"], ["y"], name="drop")
        function = helper.make_function("own", "F", ["x", "t"], ["y"], [body], [helper.make_opsetid("", 21)])
        call = node("F", ["x", "t"], ["y"], domain="own")
        return model([call], [constant("t", training, bool)], functions=[function], domains=["own"])

    assert load(content(False)).run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[1, 1, 1]]
    assert "training_mode" in refused(content(True))


def normalized(**attributes):
    tensors = [constant(name, [1, 1, 1]) for name in "sbmv"]
    return model([node("BatchNormalization", ["x", *"sbmv"], ["y"], name="bn", **attributes)], tensors)


def test_a_batch_normalization_in_training_is_refused_and_another_served(load, refused):
    assert load(normalized()).run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[1, 1, 1]]
    assert "node 'bn'" in refused(normalized(training_mode=1))


@pytest.mark.parametrize(
    ("operator", "domain", "part"),
    [
        ("BiasDropout", "com.microsoft", "random numbers"),
        ("BitmaskDropout", "com.microsoft", "random numbers"),
        ("Sampling", "com.microsoft", "random numbers"),
        ("BeamSearch", "com.microsoft", "step by step"),
        ("EPContext", "com.microsoft", "reads a file"),
        ("MurmurHash3", "com.microsoft", "not in the list"),
        ("SampleOp", "com.microsoft", "not in the list"),
        ("Tokenizer", "com.microsoft", "text or dictionaries"),
        ("SequenceConstruct", "", "makes or takes a list"),
        ("ImageDecoder", "", "reads a file"),
        ("StringNormalizer", "", "text or dictionaries"),
        ("SoftmaxCrossEntropyLoss", "", "for training"),
        ("DictVectorizer", "ai.onnx.ml", "text or dictionaries"),
        ("Conv", "com.microsoft.nchwc", "only the standard operators"),
        ("Adam", "ai.onnx.preview.training", "only the standard operators"),
    ],
)
def test_an_operator_outside_the_list_has_a_reason_and_a_way_round(operator, domain, part):
    message = onnx_operators.refusal(domain, operator)

    assert part in message
    assert ";" in message


def test_no_operator_of_the_list_is_written_out_by_onnx_in_one_that_is_random():
    schemas = [entry for entry in onnx.defs.get_all_schemas() if entry.name in onnx_operators.STANDARD]
    written = {inner.op_type for entry in schemas if entry.has_function for inner in entry.function_body.node}

    assert len(schemas) == len(onnx_operators.STANDARD)
    assert {"Where", "Exp", "ReduceMean"} <= written
    assert not written & onnx_operators.RANDOM


BAD_ARGUMENTS = {
    "group of 0": (node("ConvTranspose", ["x", "w"], ["y"], group=0), "group is 0"),
    "negative padding": (node("Conv", ["x", "w"], ["y"], pads=[0, 0, 0, -1]), "pads is [0, 0, 0, -1]"),
    "stride of 0": (node("MaxPool", ["x"], ["y"], kernel_shape=[1, 1], strides=[0, 1]), "strides is [0, 1]"),
    "huge kernel": (node("AveragePool", ["x"], ["y"], kernel_shape=[1, 2**40]), "kernel_shape"),
    "flag of 64 bits": (node("Gemm", ["x", "w"], ["y"], transB=2**62), "transB is 4611686018427387904; it must be"),
    "another flag": (node("Cast", ["x"], ["y"], to=FLOAT, saturate=2), "saturate is 2"),
    "negative batch": (node("GatherND", ["x", "i"], ["y"], batch_dims=-1), "batch_dims is -1"),
    "left out": (node("Max", ["x", "", "x"], ["y"]), "input 1 (data_0) is left out"),
    "sampling": (node("RoiAlign", ["x", "x", "i"], ["y"], sampling_ratio=2**62), "sampling_ratio"),
    "probit": (
        node("LinearClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", coefficients=[1.0] * 3, intercepts=[0.0],
             classlabels_ints=[1], post_transform="PROBIT"),
        "post_transform is PROBIT",
    ),
    "coefficients": (
        node("LinearClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", coefficients=[1.0] * 4, intercepts=[0.0],
             classlabels_ints=[1]),
        "4 coefficients",
    ),
    "axis": (node("LayerNormalization", ["x", "w"], ["y"], axis=2**63 - 1), "axis is 9223372036854775807"),
    "axes": (node("Transpose", ["x"], ["y"], perm=[0, 65]), "perm is [0, 65]; it must be in [-64, 64]"),
    "labels": (
        node("TreeEnsembleClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", classlabels_int64s=[1, 2],
             classlabels_strings=["a"]),
        "has both classlabels_int64s and classlabels_strings",
    ),
    "a class too many": (
        node("TreeEnsembleClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", classlabels_int64s=[1, 2],
             class_ids=[0, 2]),
        "a leaf of class 2; it has 2 labels",
    ),
    "probit of trees": (
        node("TreeEnsembleClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", classlabels_int64s=[1],
             post_transform="PROBIT"),
        "post_transform is PROBIT",
    ),
    "another past": (
        node("Attention", ["x", "w", "w", "", "x"], ["y"], domain="com.microsoft"), "keys and values of earlier steps"
    ),
    "left out of a concatenation": (
        node("QLinearConcat", ["w", "w", "x", "", "w"], ["y"], domain="com.microsoft", axis=0), "is left out"
    ),
    "always empty": (
        node("SkipLayerNormalization", ["x", "none", "w"], ["y"], domain="com.microsoft"), "its input 1 is empty"
    ),
    "lowest by -1": (node("Div", ["c", "m"], ["y"]), "divides whole numbers by -1"),
    "unknown axes": (node("STFT", ["x", "i", "", "i"], ["y"]), "frame_step must be a constant of at least 1"),
}  # fmt: skip


def test_keys_and_values_of_earlier_steps_are_refused(refused):
    body = node("Attention", ["x", "x", "x", "", "x", "x"], ["y"], name="this")

    assert "node 'this'" in refused(model([body], opset=23))
    assert "keys and values of earlier steps" in refused(model([body], opset=23))


@pytest.mark.parametrize(("bad", "part"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused_by_name(refused, bad, part):
    inputs = [value("x", ("rows", 3))]
    bad.name = "this"
    outputs = [value("y", ("rows", "n"))]

    message = refused(
        model(
            [bad],
            [
                constant("w", np.ones((1, 1, 1, 1))),
                constant("i", [0], np.int64),
                constant("c", [-(2**63)], np.int64),
                constant("m", [3, -1], np.int64),
                constant("none", []),
            ],
            inputs=inputs,
            outputs=outputs,
        )
    )

    assert "node 'this'" in message
    assert part in message


TREE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "n_targets": 1,
    "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [7.0, 9.0],
}  # fmt: skip


def tree(**changes):
    return model([node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", name="trees", **(TREE | changes))])


def test_a_tree_that_fits_is_served(load):
    answer = load(tree()).run({"x": np.array([[0, 0.5, 0], [0, 0.6, 0]], np.float32)})["y"]

    assert answer.tolist() == [[7], [9]]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"nodes_featureids": [3, 0, 0]}, "compares feature 3"),
        ({"nodes_featureids": [-1, 0, 0]}, "compares feature -1"),
        ({"nodes_truenodeids": [5, 0, 0]}, "leads to a node 5"),
        ({"nodes_truenodeids": [0, 0, 0]}, "lead back to themselves"),
        ({"nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"], "nodes_truenodeids": [1, 0, 0]}, "lead back"),
        ({"nodes_nodeids": [0, 1, 1]}, "one id"),
        ({"nodes_featureids": [1, 0]}, "of one length"),
    ],
)
def test_a_tree_that_leads_out_of_itself_is_refused(refused, changes, part):
    message = refused(tree(**changes))

    assert "node 'trees'" in message
    assert part in message


def joined(*, shape=None):
    """Concatenates x with the first rows of x that a slice takes; none where its end is 0."""
    nodes = [node("Slice", ["x", "zero", "end", "zero"], ["part"]), node("Transpose", ["part"], ["t"], perm=[0, 1])]
    nodes.append(node("Concat", ["x", "t"], ["y"], axis=1, name="join"))
    tensors = [constant("zero", [0], np.int64)]
    return nodes, tensors


def test_an_answer_of_memory_that_was_never_written_is_not_given(load):
    # ONNX Runtime takes an empty array for one that fits, and leaves its columns as they were.
    nodes, tensors = joined()
    end = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Cast", ["m"], ["c"], to=INT64),
        node("Reshape", ["c", "one"], ["end"]),
    ]
    session = load(model([*end, *nodes], [*tensors, constant("one", [1], np.int64)]))

    assert session.run({"x": np.array([[1, 0, 0]], np.float32)})["y"].tolist() == [[1, 0, 0, 1, 0, 0]]
    assert [entry.name for entry in session.outputs] == ["y"]
    empty = {"x": np.array([[0, 0, 0]], np.float32)}
    with pytest.raises(InvalidRequestError, match=r"'join' \(Concat\) takes an array that is empty as its input 1"):
        session.run(empty)
    with pytest.raises(SessionError, match=r"'join' \(Concat\) takes an array that is empty as its input 1"):
        session.run_checked(empty)


def test_a_concat_of_arrays_that_cannot_be_empty_has_no_guard(load):
    session = load(model([node("Concat", ["x", "x"], ["y"], axis=1)]))

    assert session.run({"x": np.array([[1, 2, 3]], np.float32)})["y"].tolist() == [[1, 2, 3, 1, 2, 3]]
    assert not session._guards


def call(name):
    return node(name, ["a"], ["b"], domain="own")


def function(name, nodes):
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, imports)


def calling(functions):
    return model([node("F0", ["x"], ["y"], domain="own")], functions=functions, domains=["own"])


def test_functions_that_call_themselves_are_refused(refused):
    assert "recursive" in refused(calling([function("F0", [call("F0")])]))
    assert "recursive" in refused(calling([function("F0", [call("F1")]), function("F1", [call("F0")])]))


def test_functions_that_grow_with_each_call_are_refused(refused):
    def doubled(name):
        return [node(name, ["a"], ["m"], domain="own"), node(name, ["m"], ["b"], domain="own")]

    chain = [function(f"F{level}", doubled(f"F{level + 1}")) for level in range(30)]
    chain.append(function("F30", [node("Relu", ["a"], ["b"])]))

    assert "more than 100000 nodes" in refused(calling(chain))


def test_functions_that_call_others_a_few_times_are_served(load):
    chain = [function("F0", [node("F1", ["a"], ["m"], domain="own"), node("F1", ["m"], ["b"], domain="own")])]
    chain.append(function("F1", [node("Add", ["a", "a"], ["b"])]))

    assert load(calling(chain)).run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[4, 4, 4]]


def test_branches_that_stand_in_each_other_without_end_are_refused(refused):
    graph = helper.make_graph([node("Identity", ["x"], ["o0"])], "g", [], [value("o0", None)])
    for level in range(1, 20):
        inner = (
            node("If", ["c"], [f"o{level}"], then_branch=graph, else_branch=graph)
            if level < 6
            else node(
                "If",
                ["c"],
                [f"o{level}"],
                then_branch=graph,
                else_branch=helper.make_graph(
                    [node("Identity", ["x"], [f"e{level}"])], "g", [], [value(f"e{level}", None)]
                ),
            )
        )
        graph = helper.make_graph([inner], "g", [], [value(f"o{level}", None)])
    last = graph.node[0]
    last.output[0] = "y"

    assert "more than 8 deep" in refused(model([last], [constant("c", True, bool)]))


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        ([node("ConstantOfShape", ["s"], ["big"])], [constant("s", [1, 1 << 30], np.int64)]),
        ([node("Expand", ["one", "s"], ["big"])], [constant("one", [1.0]), constant("s", [1, 1 << 30], np.int64)]),
        ([node("Tile", ["one", "s"], ["big"])], [constant("one", [[1.0]]), constant("s", [1, 1 << 30], np.int64)]),
        (
            [node("Range", ["a", "b", "c"], ["big"])],
            [constant("a", 0, np.int64), constant("b", 1 << 30, np.int64), constant("c", 1, np.int64)],
        ),
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Range"],
)
def test_a_value_of_gigabytes_is_refused_by_reading(refused, nodes, tensors):
    nodes = [*nodes, node("ReduceMax", ["big"], ["m"], keepdims=0), node("Cast", ["m"], ["f"], to=FLOAT)]

    message = refused(model([*nodes, node("Add", ["x", "f"], ["y"])], tensors))

    assert "value 'big' has 1073741824 elements" in message


@pytest.mark.parametrize("shape", [("rows", 1 << 40), ("rows", 1 << 20, 1 << 20)])
def test_a_row_that_no_memory_holds_is_refused(refused, shape):
    message = refused(model([node("Relu", ["x"], ["y"])], inputs=[value("x", shape)]))

    assert f"input 'x' has {1 << 40} elements per row" in message


def outside(**entries):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return model([node("Add", ["x", "w"], ["y"])], [tensor])


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"location": "w.bin", "offset": "8", "length": "12"}, "takes '12' bytes at '8'"),
        ({"location": "w.bin", "offset": "-4", "length": "12"}, "at '-4'"),
        ({"location": "w.bin", "offset": "0", "length": "99"}, "99"),
        ({"location": "w.bin", "offset": "9" * 30, "length": "12"}, "12"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096", "length": "12"}, ""),
        ({"location": "nothing.bin"}, "nothing.bin"),
    ],
)  # fmt: skip
def test_data_that_is_not_wholly_in_its_file_is_refused(refused, tmp_path, entries, part):
    (tmp_path / "folder" / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (tmp_path / "folder" / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(8192))
    (tmp_path / "folder" / "w.bin").write_bytes(bytes(16))

    assert part in refused(outside(**entries))


def test_data_at_an_offset_is_read(load, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "w.bin").write_bytes(bytes(4) + np.array([1, 2, 3], np.float32).tobytes())

    session = load(outside(location="w.bin", offset="4", length="12"))

    assert session.run({"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[1, 2, 3]]


def test_many_tensors_of_one_range_are_refused(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "w.bin").write_bytes(bytes(12))
    content = outside(location="w.bin")
    for number in range(9):
        copy = content.graph.initializer.add()
        copy.CopyFrom(content.graph.initializer[0])
        copy.name = f"w{number}"

    assert "must have data of its own" in refused(content)


@pytest.mark.parametrize("name", ["y\n", "\x1b[31m", "\u202e", "y" * 2000])
def test_a_name_that_cannot_be_shown_is_refused(refused, name):
    message = refused(model([node("Relu", ["x"], [name])], outputs=[value(name)]))

    assert "cannot be shown" in message
    assert message.isprintable()
    assert len(message) < 400


def test_a_lone_surrogate_in_a_name_is_refused(refused):
    content = model([node("Relu", ["x"], ["output"])], outputs=[value("output")]).SerializeToString()

    message = refused(content.replace(b"output", b"o\xed\xb0\x80ut"))

    assert message.isascii()


def test_metadata_without_end_is_refused(refused):
    content = model([node("Relu", ["x"], ["y"])])
    content.metadata_props.add(key="k", value="v" * (2 << 20))

    assert "metadata" in refused(content)


def test_a_file_that_claims_to_be_onnx_runtimes_own_format_is_read_as_onnx(load, tmp_path, monkeypatch):
    asked = {}
    options = onnxruntime.SessionOptions

    class Noted(options):
        def add_session_config_entry(self, key, entry):
            asked[key] = entry
            super().add_session_config_entry(key, entry)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Noted)

    load(model([node("Relu", ["x"], ["y"])]))

    assert asked["session.load_model_format"] == "ONNX"


ROWS = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
CLASSES = (ROWS[:, 0] * ROWS[:, 1] > 0).astype(int) + (ROWS[:, 2] > 1)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(10, max_depth=4, random_state=0),
        SVC(probability=True, random_state=0),
        KNeighborsClassifier(3),
        MLPClassifier((8,), max_iter=50, random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_classifiers_of_scikit_learn_are_served_and_agree(load, estimator):
    fitted = estimator.fit(ROWS, CLASSES)
    content = skl2onnx.to_onnx(fitted, ROWS[:1], options={"zipmap": False})

    answer = load(content).run({"X": ROWS})

    np.testing.assert_allclose(answer["probabilities"], fitted.predict_proba(ROWS), atol=2e-5)


@pytest.mark.parametrize("estimator", [LinearRegression(), GradientBoostingRegressor(n_estimators=20, random_state=0)])
def test_regressors_of_scikit_learn_are_served_and_agree(load, estimator):
    fitted = estimator.fit(ROWS, ROWS[:, 0] * ROWS[:, 1])

    answer = load(skl2onnx.to_onnx(fitted, ROWS[:1])).run({"X": ROWS})

    np.testing.assert_allclose(answer["variable"][:, 0], fitted.predict(ROWS), rtol=1e-4, atol=1e-5)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolve = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.other = torch.nn.Conv2d(3, 8, 3, padding=1, stride=1)
        self.drop, self.last = torch.nn.Dropout(), torch.nn.Linear(16, 5)

    def forward(self, x):
        both = torch.cat([self.convolve(x), self.other(x)], 1)
        return self.last(self.drop(both.mean((2, 3))))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    torch.manual_seed(0)
    network = Network().eval()
    rows = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(
        network, (rows,), dynamo=True, dynamic_shapes={"x": {0: torch.export.Dim("rows")}}, input_names=["x"],
        output_names=["y"], verbose=False,
    )  # fmt: skip
    program.save(str(path))
    with torch.no_grad():
        return path, rows.numpy(), network(rows).numpy()


def test_a_network_of_torch_is_served_and_agrees(exported):
    path, rows, outputs = exported

    np.testing.assert_allclose(OnnxModel(path, threads=1, device="cpu").run({"x": rows})["y"], outputs, atol=1e-5)


class Reader(CalibrationDataReader):
    def __init__(self, rows):
        self.rows = iter([{"x": rows}])

    def get_next(self):
        return next(self.rows, None)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_quantized_network_is_served_and_is_near(exported, tmp_path, kind):
    path, rows, outputs = exported
    quantized = tmp_path / "model.onnx"
    if kind == "dynamic":
        quantize_dynamic(path, quantized)
    else:
        quantize_static(path, quantized, Reader(rows))

    answer = OnnxModel(quantized, threads=1, device="cpu").run({"x": rows})["y"]

    assert np.abs(answer - outputs).max() < 0.25 * np.abs(outputs).max()


def test_a_network_that_onnx_runtime_optimized_is_served_and_agrees(exported, tmp_path):
    path, rows, outputs = exported
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    answer = OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu").run({"x": rows})["y"]

    np.testing.assert_allclose(answer, outputs, atol=1e-5)


def test_reading_a_file_of_ten_thousand_nodes_is_quick(tmp_path):
    nodes = [node("Relu", ["x" if place == 0 else f"h{place}"], [f"h{place + 1}"]) for place in range(10_000)]
    nodes[-1].output[0] = "y"
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes).SerializeToString())

    assert math.isfinite(read_onnx(path).largest_value_bytes)
