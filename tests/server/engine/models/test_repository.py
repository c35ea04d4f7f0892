"""A folder of models is loaded, tried out and described, or refused with the remedy."""

import dataclasses
import shutil
import subprocess

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.asking.registry import Axiom, Background, Cost, Method, Need
from pellucid_server.engine.asking.verbs import ATTRIBUTE, DISSECT
from pellucid_server.engine.models.graph.lengths import Range
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.errors import InvalidRequestError
from pellucid_server.model_files.listing import ModelError
from pellucid_server.vocabulary.descriptions import CapabilityInfo, OutputInfo
from pellucid_server.vocabulary.requests import ModelKey, TensorInput
from torch import nn
from torch.export import Dim

WEIGHT = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
BIAS = np.array([0.5, -0.5], np.float32)
ROWS = "rows"


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.linear.weight.data = torch.from_numpy(WEIGHT)
        self.linear.bias.data = torch.from_numpy(BIAS)

    def forward(self, x):
        return self.linear(x)


class Centred(nn.Module):
    """Rows depend on one another."""

    def forward(self, x):
        return x - x.mean(0)


class Embedded(nn.Module):
    """Takes whole numbers."""

    def __init__(self, count=5):
        super().__init__()
        self.table = nn.Embedding(count, 2)

    def forward(self, x):
        return self.table(x).sum(1)


def put_graph(folder, module=None, example=None, dynamic=True, shapes=None):
    """Write model.pt2."""
    folder.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(2, 3) if example is None else example
    shapes = shapes or ({"x": {0: Dim.DYNAMIC}} if dynamic else None)
    program = torch.export.export((module or Affine()).eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")


def put_onnx(folder, nodes=None, *, weight=WEIGHT, inputs=None, outputs=None, tensors=()):
    """Write model.onnx."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = nodes or [helper.make_node("Gemm", ["x", "w", "b"], ["output"], transB=1)]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs or [value("x", [ROWS, 3])],
        outputs or [value("output", [ROWS, 2])],
        [*tensors, onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(BIAS, "b")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def put_manifest(model, text=""):
    model.mkdir(parents=True, exist_ok=True)
    (model / "model.toml").write_text(text)


@pytest.fixture
def model(tmp_path):
    """The folder of a model with an empty manifest and no version yet."""
    folder = tmp_path / "repository" / "affine"
    put_manifest(folder)
    return folder


def load(model):
    return load_repository(model.parent, "cpu", 1)


def load_one(model):
    (loaded,) = load(model)
    return loaded


def refusal(model):
    with pytest.raises(ModelError) as caught:
        load(model)
    return str(caught.value)


def method(*needs):
    return Method(
        name="-".join(needs),
        verb=ATTRIBUTE,
        family="test",
        source="",
        summary="",
        function=lambda *arguments: None,
        params=dict,
        needs=frozenset(needs),
        axioms=frozenset[Axiom](),
        baselines=Background.NONE,
        takes_tolerance=False,
        answers_early=False,
        parameters={},
        cost=lambda params, question: Cost(forward=1),
        rows_parameter="",
    )


# What serves


def test_a_graph_alone_serves_everything(model):
    put_graph(model / "1")

    loaded = load_one(model)

    assert (loaded.runtime, loaded.session, loaded.parity) == ("graph", None, None)
    assert loaded.capabilities == {Need.FORWARD, Need.GRADIENTS, Need.LAYERS}
    assert (loaded.solo, loaded.precision, loaded.max_rows, loaded.background) == (False, "float32", 1024, {})


def test_onnx_runtime_serves_where_it_agrees_with_the_graph(model):
    put_graph(model / "1")
    put_onnx(model / "1")

    loaded = load_one(model)

    assert loaded.runtime == "onnxruntime"
    assert loaded.parity.holds
    assert loaded.parity.largest_difference < loaded.parity.tolerance == 1e-4
    assert loaded.capabilities == {Need.FORWARD, Need.GRADIENTS, Need.LAYERS}
    x = np.array([[1, 0, -1], [2, 2, 2]], np.float32)
    np.testing.assert_allclose(loaded.session.run({"x": x})["output"], x @ WEIGHT.T + BIAS, rtol=1e-6)


def test_the_graph_serves_where_onnx_runtime_differs_and_the_difference_is_told(model):
    np.savez(model / "rows.npz", x=np.array([[1, 1, 1]], np.float32))
    put_manifest(model, 'background = "rows.npz"')
    put_graph(model / "1")
    put_onnx(model / "1", weight=WEIGHT + np.array([[0, 0, 0], [0, 0, 0.029]], np.float32))

    loaded = load_one(model)

    # At x = (1, 1, 1) the outputs are 6.5 and 14.5, and the second differs by 0.029.
    assert loaded.parity.largest_difference == pytest.approx(0.029 / 14.5, rel=1e-3)
    assert (loaded.runtime, loaded.session, loaded.parity.holds) == ("graph", None, False)


def test_an_onnx_file_that_differs_is_reported_in_the_log_by_name(model, caplog):
    put_graph(model / "1")
    put_onnx(model / "1", weight=-WEIGHT)

    load_one(model)

    (record,) = [entry for entry in caplog.records if "model.onnx is not used" in entry.getMessage()]
    assert f"model {model.name}, version 1" in record.getMessage()
    assert record.levelname == "WARNING"


def test_a_difference_in_the_fifth_digit_is_no_disagreement(model):
    put_graph(model / "1")
    put_onnx(model / "1", weight=WEIGHT * np.float32(1 + 2e-5))

    assert load_one(model).runtime == "onnxruntime"


def test_the_manifest_can_keep_onnx_runtime_out(model):
    put_manifest(model, 'runtime = "graph"')
    put_graph(model / "1")
    (model / "1" / "model.onnx").write_bytes(b"never opened")

    loaded = load_one(model)

    assert (loaded.runtime, loaded.session, loaded.parity) == ("graph", None, None)


def test_a_model_that_differs_cannot_be_forced_onto_onnx_runtime(model):
    put_manifest(model, 'runtime = "onnxruntime"')
    put_graph(model / "1")
    put_onnx(model / "1", weight=-WEIGHT)

    assert "runtime must not be 'onnxruntime'" in refusal(model)


def test_an_onnx_file_alone_serves_forward_passes_and_layers_and_says_why_not_more(model):
    put_onnx(model / "1")

    loaded = load_one(model)

    assert (loaded.runtime, loaded.graph, loaded.parity, loaded.solo) == ("onnxruntime", None, None, False)
    assert loaded.capabilities == {Need.FORWARD, Need.LAYERS}
    info = loaded.info([method(Need.FORWARD), method(Need.FORWARD, Need.GRADIENTS), method(Need.LAYERS)])
    reason = "the model has only an ONNX file; gradients need model.pt2 beside it (pellucid-export writes one)"
    assert info.capabilities == (
        CapabilityInfo("forward", True, "", 1),
        CapabilityInfo("forward-gradients", False, reason),
        CapabilityInfo("layers", True, "", 1),
    )
    assert [layer.type for layer in info.layers] == ["Gemm"]


def test_an_onnx_file_of_which_no_value_holds_rows_has_no_layers_and_says_so(model):
    put_onnx(model / "1")
    loaded = dataclasses.replace(load_one(model), cuts=None)

    assert loaded.capabilities == {Need.FORWARD}
    (found,) = loaded.info([method(Need.LAYERS)]).capabilities
    assert found.reason.startswith("the model has only an ONNX file, of which no value between the inputs and the out")


def test_the_rows_of_a_default_answer_are_told_for_the_models_own_inputs(model):
    put_graph(model / "1", Embedded(), torch.zeros(2, 4, dtype=torch.int64))
    refusing = dataclasses.replace(method(Need.FORWARD), cost=_refusing)
    by_elements = dataclasses.replace(method(Need.FORWARD), cost=_by_elements)

    of_layers = dataclasses.replace(method(Need.FORWARD), cost=_by_elements, verb=DISSECT)

    info = load_one(model).info([by_elements, refusing, method(Need.GRADIENTS), of_layers])

    # No row is asked of a method of Dissect, so that there is nothing that one would take.
    assert [capability.rows for capability in info.capabilities] == [4, 0, 0, 0]
    assert info.capabilities[3].allowed


def test_open_lengths_are_told_and_count_as_one(model):
    shapes = {"x": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}
    put_graph(model / "1", Embedded(), torch.zeros(2, 4, dtype=torch.int64), shapes=shapes)

    loaded = load_one(model)

    assert loaded.open_lengths
    info = loaded.info([dataclasses.replace(method(Need.FORWARD), cost=_by_elements)])
    assert info.capabilities[0].rows == 1


def _by_elements(params, question):
    return Cost(forward=int((question.inputs["x"] != question.baseline["x"]).sum()))


def _refusing(params, question):
    raise InvalidRequestError("too many")


def test_whole_numbers_have_no_gradient(model):
    put_graph(model / "1", Embedded(), torch.zeros(2, 4, dtype=torch.int64))

    loaded = load_one(model)

    assert loaded.capabilities == {Need.FORWARD, Need.LAYERS}
    assert loaded.refusal(method(Need.GRADIENTS)) == (
        "every input of the model is of whole numbers, which have no gradient"
    )
    assert loaded.features["x"] == Feature("tensor", False)


class Stepped(torch.nn.Module):
    def forward(self, x):
        return torch.heaviside(x, x)


def test_an_operator_without_a_derivative_leaves_a_model_without_gradients(model):
    put_graph(model / "1", Stepped())

    loaded = load_one(model)

    assert loaded.capabilities == {Need.FORWARD, Need.LAYERS}
    assert loaded.refusal(method(Need.GRADIENTS)) == (
        "the operator aten.heaviside of the model has no derivative in what it is given"
    )


def test_a_graph_whose_rows_depend_on_one_another_is_solo(model):
    put_graph(model / "1", Centred())

    assert load_one(model).solo


def test_an_onnx_file_whose_rows_depend_on_one_another_is_solo(model):
    mean = helper.make_node("ReduceMean", ["x", "axis"], ["mean"])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    put_onnx(
        model / "1",
        [mean, helper.make_node("Sub", ["x", "mean"], ["output"])],
        outputs=[value("output", [ROWS, 3])],
        tensors=[axis],
    )

    assert load_one(model).solo


def test_the_manifest_can_make_a_model_solo(model):
    put_manifest(model, "solo = true")
    put_graph(model / "1")

    assert load_one(model).solo


# What callers are told


def test_a_model_without_signature_in_its_manifest_is_described_from_its_file(model):
    put_graph(model / "1")

    info = load_one(model).info([])

    assert [(entry.name, entry.modality, entry.data_type, entry.shape) for entry in info.inputs] == [
        ("x", "tensor", "float32", (3,))
    ]
    assert info.outputs == (OutputInfo("output", "values", "float32", (2,)),)
    assert [(layer.name, layer.type, layer.shape, layer.units) for layer in info.layers] == [
        ("linear", "Linear", (2,), 2)
    ]
    assert (info.description, info.background_rows, info.solo, info.runtime) == ("", 0, False, "graph")


def test_the_manifest_says_what_the_numbers_mean(model):
    put_manifest(
        model,
        """
        description = "Two lines."
        [limits]
        max_rows = 9
        [[inputs]]
        name = "x"
        modality = "tabular"
        columns = [{name = "a", mean = 1}, {name = "b", categories = ["u", "v"]}]
        [[outputs]]
        name = "output"
        kind = "logits"
        labels = ["no", "yes"]
        """,
    )
    put_graph(model / "1")

    loaded = load_one(model)

    assert loaded.outputs == (OutputInfo("output", "logits", "float32", (2,), ("no", "yes")),)
    assert loaded.inputs["x"].columns == ("a", "b")
    assert loaded.features["x"].groups.tolist() == [0, 1, 1]
    assert (loaded.info([]).description, loaded.max_rows) == ("Two lines.", 9)


def test_outputs_in_the_manifest_come_first(model):
    put_manifest(model, '[[outputs]]\nname = "second"')
    nodes = [helper.make_node("Neg", ["x"], ["first"]), helper.make_node("Abs", ["x"], ["second"])]
    put_onnx(model / "1", nodes, outputs=[value("first", [ROWS, 3]), value("second", [ROWS, 3])])

    assert [output.name for output in load_one(model).outputs] == ["second", "first"]


def test_lengths_are_known_of_the_graph_and_one_is_tried(model):
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return (x * self.table[: x.shape[1]]).sum(1)

    put_graph(model / "1", Places(), torch.zeros(2, 4), shapes={"x": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}})

    assert list(load_one(model).lengths.ranges.values()) == [Range(1, 6)]


def test_lengths_of_one_name_in_an_onnx_file_are_one_length(model):
    put_onnx(
        model / "1",
        [helper.make_node("Add", ["x", "y"], ["output"])],
        inputs=[value("x", [ROWS, "length"]), value("y", [ROWS, "length"])],
        outputs=[value("output", [ROWS, "length"])],
    )

    lengths = load_one(model).lengths

    lengths.require({"x": (70,), "y": (70,)}, "inputs")
    with pytest.raises(InvalidRequestError, match="it must be 70 there"):
        lengths.require({"x": (70,), "y": (1,)}, "inputs")


def test_open_lengths_are_minus_one(model):
    put_onnx(
        model / "1",
        [helper.make_node("Neg", ["x"], ["output"])],
        inputs=[value("x", [ROWS, "length", 2])],
        outputs=[value("output", [ROWS, "length", 2])],
    )

    loaded = load_one(model)

    assert loaded.inputs["x"].info.shape == (-1, 2)
    assert loaded.outputs[0].shape == (-1, 2)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(3, 1000), nn.Linear(1000, 2)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def test_a_backward_row_takes_what_the_backward_pass_keeps_as_well(model):
    put_graph(model / "1", Wide())

    loaded = load_one(model)

    # The largest value is 1000 float32; the ReLU keeps its result, and linear layers only their frozen weights.
    assert loaded.input_row_bytes == 12
    assert loaded.row_bytes(backward=False) == 12 + 4 * 4000
    assert loaded.row_bytes(backward=True) == loaded.row_bytes(backward=False) + 4000


# Versions and digests


def test_every_version_is_loaded_in_order_and_other_folders_are_not(model):
    put_onnx(model / "10")
    put_onnx(model / "2")
    put_onnx(model / "010")
    put_onnx(model / "drafts")
    put_manifest(model.parent / "another")
    put_onnx(model.parent / "another" / "1")
    (model.parent / ".git").mkdir()
    (model.parent / "README.md").touch()

    assert [(entry.name, entry.version) for entry in load(model)] == [("affine", 2), ("affine", 10), ("another", 1)]


def put_everything(model):
    """A version with every kind of file."""
    put_manifest(
        model,
        'background = "data/rows.npz"\n[[outputs]]\nname = "output"\nkind = "logits"\nlabels_file = "labels.txt"\n',
    )
    (model / "labels.txt").write_text("no\nyes\n")
    (model / "data").mkdir()
    np.savez(model / "data" / "rows.npz", x=np.ones((2, 3), np.float32))
    put_onnx(model / "1")
    (model / "1" / "notes").mkdir()
    (model / "1" / "notes" / "a b.txt").write_text("as trained in May\n")


def test_the_digest_is_what_sha256sum_says(model):
    put_everything(model)
    script = (
        "(find * -type f; echo ../model.toml; echo ../labels.txt; echo ../data/rows.npz) | LC_ALL=C sort"
        " | xargs -d '\\n' sha256sum | sha256sum"
    )

    loaded = load_one(model)

    printed = subprocess.run(["sh", "-c", script], cwd=model / "1", capture_output=True, text=True, check=True).stdout
    assert loaded.digest == printed.split()[0]
    assert loaded.key == ModelKey("affine", 1, loaded.digest)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model.toml", b"logits", b"values"),
        ("labels.txt", b"yes", b"yeS"),
        ("1/notes/a b.txt", b"May", b"Mai"),
        ("1/model.onnx", np.float32(0.5).tobytes(), np.float32(0.75).tobytes()),
    ],
)
def test_any_byte_changes_the_digest(model, name, old, new):
    put_everything(model)
    before = load_one(model).digest
    content = (model / name).read_bytes()
    assert content.count(old) == 1

    (model / name).write_bytes(content.replace(old, new))

    assert load_one(model).digest != before


def test_another_background_is_another_digest(model):
    put_everything(model)
    before = load_one(model).digest

    np.savez(model / "data" / "rows.npz", x=np.full((2, 3), 1.5, np.float32))

    assert load_one(model).digest != before


def test_a_file_that_is_added_or_renamed_changes_the_digest(model):
    put_everything(model)
    digests = [load_one(model).digest]

    (model / "1" / "empty").touch()
    digests.append(load_one(model).digest)
    (model / "1" / "empty").rename(model / "1" / "hollow")
    digests.append(load_one(model).digest)

    assert len(set(digests)) == 3


def test_what_is_no_part_of_the_version_leaves_the_digest_alone(model):
    put_everything(model)
    before = load_one(model).digest

    (model / "README.md").write_text("hello")
    shutil.copytree(model / "1", model / "2")

    assert [entry.digest for entry in load(model)] == [before, before]


# Background


def put_background(model, **arrays):
    put_manifest(model, 'background = "rows.npz"')
    np.savez(model / "rows.npz", **arrays)
    put_onnx(model / "1")


def test_the_background_is_held_as_the_model_takes_it(model):
    put_background(model, x=np.array([[1, 2, 3], [3, 4, 5]], np.float64))

    loaded = load_one(model)

    assert loaded.background["x"].dtype == np.float32
    assert loaded.info([]).background_rows == 2
    assert not loaded.background["x"].flags.writeable
    kind, rows = loaded.baseline("mean", {"x": np.zeros(3, np.float32)})
    assert (kind, rows["x"].tolist()) == ("mean", [[2, 3, 4]])


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"y": np.ones((2, 3))}, "has the arrays y; it must have one for each input: x"),
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, "has the arrays x, y"),
        ({"x": np.ones((2, 4))}, 'rows.npz["x"] has the shape (2, 4); it must be (rows, 3)'),
        ({"x": np.ones((0, 3))}, "at least one row"),
        ({"x": np.full((2, 3), np.nan)}, "nan at index [0, 0]"),
        ({"x": np.array([[{}, {}, {}]])}, "cannot be read as arrays of numbers"),
        ({"x": np.array([["a", "b", "c"]])}, "is of type"),
    ],
    ids=["other name", "too many", "shape", "empty", "nan", "pickled", "text"],
)
def test_a_background_that_does_not_fit_is_refused(model, arrays, part):
    put_background(model, **arrays)

    message = refusal(model)

    assert part in message
    assert str(model) in message


def test_a_background_that_is_no_file_of_arrays_is_refused(model):
    put_background(model, x=np.ones((1, 3)))
    (model / "rows.npz").write_bytes(b"PK\x03\x04 no")

    assert "write it with numpy.savez" in refusal(model)


def test_a_background_helps_a_model_that_random_rows_break(model):
    def embed():
        put_graph(model / "1", Embedded(1), torch.zeros(2, 4, dtype=torch.int64))

    embed()
    assert "put some that are into a background" in refusal(model)

    put_manifest(model, 'background = "rows.npz"')
    np.savez(model / "rows.npz", x=np.zeros((2, 4), np.int64))

    assert load_one(model).background["x"].tolist() == [[0] * 4] * 2


# Refusals


@pytest.mark.parametrize(
    ("manifest", "part"),
    [
        ('[[inputs]]\nname = "image"', "model.toml has inputs called 'image'; the model's are: x"),
        ('[[outputs]]\nname = "logits"', "model.toml has outputs called 'logits'; the model's are: output"),
        ('[[outputs]]\nname = "output"\nlabels = ["a", "b", "c"]', "has 3 labels, and 2 elements on its last axis"),
        ('[[inputs]]\nname = "x"\nranges = [[0, 1], [0, 1]]', "2 ranges"),
        ('[[inputs]]\nname = "x"\nmodality = "tabular"\ncolumns = [{name = "a"}]', "1 columns make rows of (1,)"),
        (
            '[[inputs]]\nname = "x"\nmodality = "image"\nresize = 4\ncrop = [4, 4]\nmean = [0]\n'
            "standard_deviation = [1]",
            "channels first",
        ),
        ("runtime = 'onnxruntime'", "has no model.onnx, which runtime = 'onnxruntime' needs"),
        ("rntime = 'auto'", "perhaps runtime was meant"),
    ],
)
def test_a_manifest_that_does_not_fit_the_model_is_refused(model, manifest, part):
    put_manifest(model, manifest)
    put_graph(model / "1")

    message = refusal(model)

    assert part in message
    assert message.startswith(str(model))


def test_an_output_of_whole_numbers_has_no_logits(model):
    put_manifest(model, '[[outputs]]\nname = "output"\nkind = "logits"')
    cast = helper.make_node("Cast", ["x"], ["output"], to=TensorProto.INT64)
    put_onnx(model / "1", [cast], outputs=[value("output", [ROWS, 3], TensorProto.INT64)])

    assert "output 'output' is int64, so that its kind must be 'values'" in refusal(model)


def test_two_files_with_other_names_are_refused(model):
    put_graph(model / "1")
    put_onnx(model / "1", [helper.make_node("Neg", ["x"], ["y"])], outputs=[value("y", [ROWS, 3])])

    message = refusal(model)

    assert "model.pt2 has the outputs output (float32), and model.onnx y (float32)" in message


def test_a_graph_with_a_fixed_batch_is_refused_with_the_remedy(model):
    put_graph(model / "1", dynamic=False)

    message = refusal(model)

    assert str(model / "1" / "model.pt2") in message
    assert "dynamic" in message


def test_a_file_that_is_no_model_is_refused_by_its_path_once(model):
    (model / "1").mkdir()
    (model / "1" / "model.pt2").write_bytes(b"no zip")

    assert refusal(model).count(str(model / "1" / "model.pt2")) == 1


def test_an_onnx_file_that_reaches_outside_is_refused_by_its_path(model):
    put_onnx(model / "1")
    content = onnx.load(model / "1" / "model.onnx")
    content.graph.initializer[0].ClearField("raw_data")
    content.graph.initializer[0].data_location = TensorProto.EXTERNAL
    content.graph.initializer[0].external_data.add(key="location", value="../model.toml")
    (model / "1" / "model.onnx").write_bytes(content.SerializeToString())

    message = refusal(model)

    assert message.startswith(f"{model / '1' / 'model.onnx'}: ")
    assert "'../model.toml'" in message


def test_an_output_that_does_not_have_a_row_for_each_row_is_refused(model):
    halved = [helper.make_node("Reshape", ["x", "shape"], ["output"])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1])
    put_onnx(model / "1", halved, outputs=[value("output", ["any", 1])], tensors=[shape])

    assert "gives output 'output' the shape (3, 1) for 1 rows" in refusal(model)


def test_a_repository_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is not a folder; it must be the model repository"):
        load_repository(tmp_path / "gone", "cpu", 1)


def test_an_empty_repository_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has no models; it needs NAME/model"):
        load_repository(tmp_path, "cpu", 1)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda model: (model / "model.toml").unlink(), "has no model.toml"),
        (lambda model: (model / "1").rename(model / "first"), "has no version; put the model's file into"),
        (lambda model: (model / "1" / "model.onnx").unlink(), "has no model.pt2; pellucid-export writes one"),
        (lambda model: model.rename(model.parent / "two words"), "a model's name must be letters"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(model, spoil, part):
    put_onnx(model / "1")
    spoil(model)

    assert part in refusal(model)


def test_a_loaded_model_prepares_rows_and_runs_them(model):
    put_graph(model / "1")
    put_onnx(model / "1")
    loaded = load_one(model)

    rows = loaded.inputs["x"].prepare(TensorInput(np.array([[1, 1, 1]])), 'inputs["x"]').rows

    assert loaded.session.run({"x": rows})["output"].tolist() == [[6.5, 14.5]]
    with torch.no_grad():
        assert loaded.graph({"x": torch.from_numpy(rows)})["output"].tolist() == [[6.5, 14.5]]
