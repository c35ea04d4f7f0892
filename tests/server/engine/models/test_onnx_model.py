"""ONNX files: which are refused before anything of them is run, and what the rest answer."""

import math
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import skl2onnx
import torch
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as states
from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.onnx.file import one_line
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel, SessionError
from pellucid_server.errors import InvalidRequestError
from sklearn.linear_model import LogisticRegression

FLOAT = TensorProto.FLOAT
WEIGHT = np.array([1, 2, 3], np.float32)


def weight(name="w"):
    return helper.make_tensor(name, FLOAT, [3], WEIGHT.tobytes(), raw=True)


def elsewhere(location, name="w"):
    """A tensor whose data is in another file."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def value(name, shape=("rows", 3), kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(nodes=None, *, inputs=None, outputs=None, tensors=(), domains=(), functions=()):
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs or [value("x")], outputs or [value("y")], list(tensors) or [weight()])
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


@pytest.fixture
def load(tmp_path):
    def load(content, device="cpu", **options):
        path = tmp_path / "folder" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return OnnxModel(path, threads=1, device=device, **options)

    return load


def test_a_session_says_what_goes_in_and_comes_out(load):
    session = load(
        model(
            [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Cast", ["i"], ["z"], to=TensorProto.DOUBLE)],
            inputs=[value("x"), value("i", ("rows", "length", 2), TensorProto.INT64)],
            outputs=[value("y"), value("z", ("rows", "length", 2), TensorProto.DOUBLE)],
        )
    )

    assert [(entry.name, entry.dtype, entry.shape) for entry in session.inputs] == [
        ("x", np.float32, (3,)),
        ("i", np.int64, (None, 2)),
    ]
    assert [(entry.name, entry.dtype, entry.shape) for entry in session.outputs] == [
        ("y", np.float32, (3,)),
        ("z", np.float64, (None, 2)),
    ]


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_any_number_of_rows_is_run(load, rows):
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)

    np.testing.assert_array_equal(load(model()).run({"x": x})["y"], x + WEIGHT)


def test_lengths_that_do_not_go_together_are_the_callers_mistake(load):
    session = load(
        model(
            [helper.make_node("Add", ["x", "z"], ["y"])],
            inputs=[value("x", ("rows", "first")), value("z", ("rows", "second"))],
            outputs=[value("y", ("rows", "third"))],
        )
    )
    rows = {"x": np.zeros((2, 4), np.float32), "z": np.zeros((2, 5), np.float32)}

    with pytest.raises(InvalidRequestError, match=r"rows of these shapes: x \(4\), z \(5\)"):
        session.run(rows)


def test_rows_of_fixed_lengths_that_do_not_go_together_are_no_mistake_of_the_callers(load):
    session = load(
        model(
            [helper.make_node("Reshape", ["x", "four"], ["y"])],
            outputs=[value("y", ("rows", 4))],
            tensors=[helper.make_tensor("four", TensorProto.INT64, [2], [-1, 4])],
        )
    )

    with pytest.raises(states.Fail, match="cannot be reshaped"):
        session.run({"x": np.zeros((2, 3), np.float32)})


def kept_bytes(session):
    """How much more a session holds after 256 rows, of which each takes 1 MiB on the way."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    session.run({"x": np.zeros((1, 3), np.float32)})
    before = resident()
    session.run({"x": np.zeros((256, 3), np.float32)})
    return resident() - before


@pytest.mark.parametrize(("trim_seconds", "kept"), [(0.0, False), (3600.0, True)])
def test_memory_that_a_large_batch_took_is_given_back_when_it_is_time(load, trim_seconds, kept):
    wide = np.ones((3, 1 << 18), np.float32)
    there = helper.make_tensor("there", FLOAT, wide.shape, wide.tobytes(), raw=True)
    back = helper.make_tensor("back", FLOAT, wide.T.shape, wide.tobytes(), raw=True)
    nodes = [helper.make_node("MatMul", ["x", "there"], ["m"]), helper.make_node("MatMul", ["m", "back"], ["y"])]
    session = load(model(nodes, tensors=[there, back]), trim_seconds=trim_seconds)

    assert (kept_bytes(session) > 200 << 20) is kept


class OnCuda:
    """A session that believes that it is on a CUDA device, and runs on the CPU."""

    def __init__(self, content, options, *, providers):
        self.options, self.asked, self.runs = options, providers, []
        self._inner = onnxruntime.capi.onnxruntime_inference_collection.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def get_providers(self):
        return [name for name, _ in self.asked]

    def run(self, names, rows, options=None):
        arenas = options and options.get_run_config_entry("memory.enable_memory_arena_shrinkage")
        self.runs.append(arenas)
        if arenas and self.has_arena:
            options = None
        return self._inner.run(names, rows, options)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    has_arena = True


@pytest.fixture
def on_cuda(load, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (79 << 30, 80 << 30))
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCuda)
    return lambda content=None, **options: load(content or model(), device="cuda:1", **options)


def test_on_cuda_a_session_has_a_bounded_arena_that_takes_what_it_needs(on_cuda):
    session = on_cuda()._session._session

    (name, options), (rest, _) = session.asked
    assert (name, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["device_id"] == "1"
    # The weights come on top, with what else is in the file.
    assert 20 << 30 < int(options["gpu_mem_limit"]) < (20 << 30) + 1000
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert session.options.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"


@pytest.mark.parametrize("beside", [False, True])
def test_on_cuda_weights_wherever_they_are_take_nothing_from_the_limit(on_cuda, tmp_path, beside):
    weights = np.ones(3 << 20, np.float32)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.bin").write_bytes(weights.tobytes())
    tensor = helper.make_tensor("w", FLOAT, weights.shape, weights.tobytes(), raw=True)
    if beside:
        tensor = elsewhere("weights.bin")
        tensor.dims[:] = weights.shape
    lookup = helper.make_node("Gather", ["w", "i"], ["y"])
    indices, found = value("i", ("rows",), TensorProto.INT64), value("y", ("rows",))
    session = on_cuda(model([lookup], inputs=[indices], outputs=[found], tensors=[tensor]))

    (_, options), _ = session._session._session.asked
    assert weights.nbytes <= int(options["gpu_mem_limit"]) - (20 << 30) <= 2 * weights.nbytes + 1000
    assert session.run({"i": np.array([7, 1])})["y"].tolist() == [1, 1]


def test_on_cuda_working_memory_is_given_back_on_both_devices(on_cuda):
    session = on_cuda(trim_seconds=0.0)

    session.run({"x": np.zeros((1, 3), np.float32)})

    assert session._session._session.runs == ["cpu:0;gpu:1"]


def test_on_cuda_a_run_that_took_more_than_an_idle_session_may_keep_gives_it_back_at_once(on_cuda, monkeypatch):
    session, other = on_cuda(trim_seconds=3600.0), on_cuda(trim_seconds=3600.0)
    # The largest values of a row have 24 bytes, and two of them are there at a time: 2 sessions may keep 100 rows each.
    monkeypatch.setattr(session._session._arena, "most_bytes", 2 * 100 * 2 * 24)
    assert session.largest_value_bytes == other.largest_value_bytes == 24

    for rows in (100, 101, 1):
        session.run({"x": np.zeros((rows, 3), np.float32)})

    assert session._session._session.runs == [None, "cpu:0;gpu:1", None]


def test_where_there_is_no_arena_to_shrink_rows_are_run_all_the_same(on_cuda, monkeypatch, caplog):
    # On this CPU, ONNX Runtime itself says that there is none.
    monkeypatch.setattr(OnCuda, "has_arena", False)
    session = on_cuda(trim_seconds=0.0)

    for _ in range(2):
        assert session.run({"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[1, 2, 3]]

    assert session._session._session.runs == ["cpu:0;gpu:1", "cpu:0", "cpu:0"]
    assert [record.message for record in caplog.records] == [
        "ONNX Runtime keeps its working memory on cuda:1: it has no arena there to shrink"
    ]


def test_an_arena_at_its_limit_is_out_of_memory():
    copies = helper.make_node("Concat", ["x"] * 64, ["y"], axis=1)
    content = model([copies], inputs=[value("x", ("rows", 1024))], outputs=[value("y", ("rows", 1 << 16))])
    bounds = {"max_mem": 16 << 20, "arena_extend_strategy": 1}
    kind, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo("Cpu", kind, 0, memory), onnxruntime.OrtArenaCfg(bounds)
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # No other session shares the arena that was registered.
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])

    assert session.run(None, {"x": np.ones((4, 1024), np.float32)})[0].shape == (4, 1 << 16)
    with pytest.raises(states.Fail) as caught:
        session.run(None, {"x": np.ones((400, 1024), np.float32)})
    assert out_of_memory(caught.value)


def test_data_beside_the_file_is_read(load, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.bin").write_bytes(WEIGHT.tobytes())

    session = load(model(tensors=[elsewhere("weights.bin")]))

    assert session.run({"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[1, 2, 3]]


def in_a_constant(location):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=elsewhere(location, "c")),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return model(nodes)


def in_a_branch(location):
    constant = helper.make_node("Constant", [], ["c"], value=elsewhere(location, "c"))
    then = helper.make_graph([constant], "then", [], [helper.make_tensor_value_info("c", FLOAT, [3])])
    other = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["o"])], "else", [], [helper.make_tensor_value_info("o", FLOAT, [3])]
    )
    nodes = [
        helper.make_node("If", ["choice"], ["c"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return model(nodes, tensors=[weight(), helper.make_tensor("choice", TensorProto.BOOL, [], [True])])


def in_a_function(location):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=elsewhere(location, "c")),
        helper.make_node("Add", ["a", "c"], ["b"]),
    ]
    function = helper.make_function("own", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    return model([helper.make_node("F", ["x"], ["y"], domain="own")], domains=["own"], functions=[function])


def in_the_training_part(location):
    content = model()
    content.training_info.add().initialization.initializer.append(elsewhere(location, "t"))
    return content


PLACES = [
    lambda location: model(tensors=[elsewhere(location)]),
    in_a_constant,
    in_a_branch,
    in_a_function,
    in_the_training_part,
]


@pytest.mark.parametrize("place", PLACES, ids=["weight", "constant", "branch", "function", "training"])
@pytest.mark.parametrize("location", ["../secret.bin", "nested/../../secret.bin", "/etc/hostname", "link.bin"])
def test_data_outside_the_folder_is_refused_wherever_it_is_named(load, tmp_path, place, location):
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "folder" / "nested").mkdir(parents=True)
    (tmp_path / "folder" / "link.bin").symlink_to(tmp_path / "secret.bin")

    with pytest.raises(SessionError, match=r"outside|absolute|symbolic link"):
        load(place(location))


def test_data_that_is_missing_is_refused(load):
    with pytest.raises(SessionError, match=r"gone\.bin"):
        load(model(tensors=[elsewhere("gone.bin")]))


def test_an_operator_of_a_foreign_domain_is_refused(load):
    with pytest.raises(SessionError, match="operator 'Add' of the domain 'evil'"):
        load(model([helper.make_node("Add", ["x", "w"], ["y"], domain="evil")], domains=["evil"]))


def test_an_operator_that_reads_another_file_is_refused(load):
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="../cache.bin")

    with pytest.raises(SessionError, match="operator 'EPContext'"):
        load(model([node], domains=["com.microsoft"]))


def test_a_function_of_the_files_own_is_allowed(load):
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    session = load(
        model([helper.make_node("Twice", ["x"], ["y"], domain="own")], domains=["own"], functions=[function])
    )

    assert session.run({"x": np.array([[1, 2, 3]], np.float32)})["y"].tolist() == [[2, 4, 6]]


def test_an_operator_hidden_in_a_function_is_refused(load):
    hidden = helper.make_node("Add", ["a", "a"], ["b"], domain="evil")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    function = helper.make_function("own", "F", ["a"], ["b"], [hidden], opsets)

    with pytest.raises(SessionError, match="domain 'evil'"):
        load(model([helper.make_node("F", ["x"], ["y"], domain="own")], domains=["own"], functions=[function]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage" * 100, model().SerializeToString()[:-20]])
def test_what_is_no_onnx_file_is_refused(load, content):
    with pytest.raises(SessionError, match="not an ONNX file that can be served"):
        load(content)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (model(inputs=[value("x", (2, 3))]), "input 'x' has the shape [2, 3]; its axis 0 must be the rows"),
        (model(inputs=[value("x", ())]), "input 'x' has the shape []"),
        (
            model([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], outputs=[value("y", ())]),
            "output 'y' has the shape []",
        ),
        (
            model(
                [helper.make_node("Identity", ["x"], ["y"])], inputs=[value("x", kind=8)], outputs=[value("y", kind=8)]
            ),
            "input 'x' is a tensor(string)",
        ),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_with_the_remedy(load, content, part):
    with pytest.raises(SessionError) as caught:
        load(content)

    assert part in str(caught.value)


@pytest.fixture(scope="module")
def classifier():
    """Two classes split at x = 0, with a slope."""
    x = np.linspace(-2, 2, 40, dtype=np.float32)[:, None]
    return LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))


def converted(classifier, **options):
    kind = skl2onnx.common.data_types.FloatTensorType([None, 1])
    return skl2onnx.convert_sklearn(classifier, initial_types=[("x", kind)], options={id(classifier): options})


def test_a_scikit_learn_classifier_answers_labels_and_probabilities(load, classifier):
    session = load(converted(classifier, zipmap=False))

    outputs = session.run({"x": np.array([[-1.5], [0.3]], np.float32)})

    scores = [classifier.coef_[0, 0] * x + classifier.intercept_[0] for x in (-1.5, 0.3)]
    probabilities = [1 / (1 + math.exp(-score)) for score in scores]
    assert outputs["label"].tolist() == [0, 1]
    np.testing.assert_allclose(outputs["probabilities"][:, 1], probabilities, rtol=1e-5)


def test_a_classifier_that_answers_a_list_of_dictionaries_is_refused_with_the_remedy(load, classifier):
    with pytest.raises(SessionError, match=r"not a tensor; .*'zipmap': False"):
        load(converted(classifier, zipmap=True))


def test_the_largest_value_is_found_between_input_and_output(load):
    nodes = [helper.make_node("MatMul", ["x", "up"], ["wide"]), helper.make_node("MatMul", ["wide", "down"], ["y"])]
    tensors = [
        helper.make_tensor(name, FLOAT, shape, np.ones(shape, np.float32).tobytes(), raw=True)
        for name, shape in {"up": (3, 1000), "down": (1000, 3)}.items()
    ]

    assert load(model()).largest_value_bytes == 3 * 8
    assert load(model(nodes, tensors=tensors)).largest_value_bytes == 1000 * 8


def test_rows_that_the_file_cannot_run_on_are_the_models_fault(load):
    halves = [helper.make_node("Reshape", ["x", "two"], ["h"]), helper.make_node("Reshape", ["h", "back"], ["y"])]
    shapes = {"two": [2, -1], "back": [-1, 3]}
    tensors = [helper.make_tensor(name, TensorProto.INT64, [2], shape) for name, shape in shapes.items()]
    session = load(model(halves, tensors=tensors))

    assert session.run_checked({"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[1, 1, 1]] * 2
    with pytest.raises(SessionError, match="cannot run it"):
        session.run_checked({"x": np.zeros((3, 3), np.float32)})


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="there is CUDA")
def test_a_device_that_the_installed_runtime_lacks_is_refused_with_the_remedy(load):
    with pytest.raises(SessionError, match=r"'cuda:0'; install pellucid\[server-gpu\]"):
        load(model(), device="cuda:0")


def test_a_number_beyond_the_models_table_is_the_callers_mistake(load):
    inputs = [value("x", ["rows"], TensorProto.INT64)]
    lookup = model([helper.make_node("Gather", ["w", "x"], ["y"])], inputs=inputs, outputs=[value("y", ["rows"])])

    session = load(lookup)

    assert session.run({"x": np.array([2])})["y"].tolist() == [3]
    with pytest.raises(InvalidRequestError, match=r"A whole number in the inputs \(x\)"):
        session.run({"x": np.array([3])})
    with pytest.raises(SessionError, match="ONNX Runtime cannot run it"):
        session.run_checked({"x": np.array([3])})


def test_an_error_of_onnx_runtime_is_shown_without_the_places_of_its_source():
    raised = (
        "[ONNXRuntimeError] : 1 : FAIL : running Reshape node. Status Message: /onnxruntime_src/onnxruntime/core/"
        "providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::"
        "TensorShape&, onnxruntime::TensorShapeVector&, bool) input_shape_size == requested_shape_size was false.\n"
    )

    assert one_line(RuntimeError(raised)) == (
        "[ONNXRuntimeError] : 1 : FAIL : running Reshape node. Status Message: "
        "input_shape_size == requested_shape_size was false."
    )
