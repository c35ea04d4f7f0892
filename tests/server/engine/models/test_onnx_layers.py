"""What layers of ONNX files are called, which values are none, and what is kept to cut them."""

import itertools
import threading

import numpy as np
import onnx
import pytest
import skl2onnx
import torch
from onnx import TensorProto
from pellucid_server.engine.models.onnx import sessions
from pellucid_server.engine.models.onnx.cuts import OnnxCuts
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.engine.models.onnx.sessions import Kept
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from server.engine.models.onnx_networks import FILES, File, node, run_with, weight, whole
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier


@pytest.fixture
def cut(tmp_path):
    def cut(model, rows):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxCuts(OnnxModel(path, threads=1, device="cpu", cuttable=True), rows)

    return cut


def before(cuts, layer, rows):
    """Return what lies before a layer."""
    return cuts.prefixes((layer,))(rows)[layer]


def plain(nodes, *tensors, outputs=(("y", 3),), **settings):
    return File(nodes, list(tensors), {"x": ((3,), None)}, outputs, "", **settings)


def test_nodes_without_a_name_are_called_as_their_value_and_names_that_are_taken_are_numbered(cut):
    file = plain(
        [
            node("Relu", "x", "a", name=""),
            node("Relu", "a", "b", name="d"),
            node("Relu", "b", "c", name="d#1"),
            node("Relu", "c", "d", name=""),
            node("Split", "d parts", "e f", name="/layer[1]/split:0 *", axis=1),
            node("Concat", "f e", "y", name="pellucid.own", axis=1),
        ],
        whole("parts", [1, 2]),
    )

    layers = cut(file.model, file.rows(3)).layers

    assert list(layers) == ["a", "d", "d#1", "d#2", "/layer[1]/split:0 *", "/layer[1]/split:0 *#1", "y"]
    assert [layer.units for layer in layers.values()][-3:] == [1, 2, 3]


def test_numbered_layers_are_cut_at_their_own_value(cut):
    file = plain([node("Neg", "x", "a", name="b"), node("Exp", "a", "b", name=""), node("Neg", "b", "y")])
    cuts = cut(file.model, file.rows(3))
    values = torch.full((1, 3), 0.5)

    suffix = cuts.suffix("b#1")

    np.testing.assert_array_equal(suffix(values, before(cuts, "b#1", {"x": torch.zeros(1, 3)}))["y"], -values)


@pytest.mark.parametrize(
    ("forest", "kinds"),
    [
        (GradientBoostingRegressor(n_estimators=3), {"TreeEnsembleRegressor"}),
        (RandomForestClassifier(n_estimators=3), {"TreeEnsembleClassifier", "Normalizer"}),
    ],
)
def test_an_ensemble_of_trees_has_few_layers_and_is_cut_behind_the_trees(cut, forest, kinds):
    source = np.random.default_rng(0)
    x = source.standard_normal((40, 3)).astype(np.float32)
    forest.fit(x, (x[:, 0] > 0).astype(int))
    given = [("x", skl2onnx.common.data_types.FloatTensorType([None, 3]))]
    options = {id(forest): {"zipmap": False}} if hasattr(forest, "classes_") else None
    model = skl2onnx.to_onnx(forest, initial_types=given, options=options)

    cuts = cut(model, {"x": x[:3]})

    assert 1 <= len(cuts.layers) <= 3
    assert {layer.type for layer in cuts.layers.values()} & kinds
    name, layer = next(each for each in cuts.layers.items() if each[1].type in kinds)
    suffix = cuts.suffix(name)
    context = before(cuts, name, {"x": torch.from_numpy(x[:5])})
    assert context.value.shape == (5, *layer.shape)
    whole_run = run_with(model, {"x": x[:5]}, {}, [entry.name for entry in model.graph.output])
    for found, expected in zip(suffix(context.value, context).values(), whole_run, strict=True):
        np.testing.assert_allclose(found.numpy().reshape(expected.shape), expected, rtol=1e-5)


def test_values_that_are_whole_numbers_constants_or_sized_by_content_are_no_layers(cut):
    file = plain(
        [
            node("Cast", "x", "whole", to=TensorProto.INT64),
            node("Add", "w w", "constant"),
            node("Greater", "x zero", "positive"),
            node("NonZero", "positive", "where"),
            node("Cast", "where", "places", to=TensorProto.FLOAT),
            node("ReduceSum", "places", "total", keepdims=0),
            node("ReduceMean", "x", "middle", axes=[0], keepdims=1),
            node("Mul", "total middle", "shift"),
            node("Add", "x constant", "moved"),
            node("Add", "moved shift", "y"),
        ],
        weight("w", 3),
        onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"),
    )

    cuts = cut(file.model, file.rows(3))

    assert list(cuts.layers) == ["moved", "y"]
    # What is made of all rows at once is made again of the rows behind the cut.
    rows, values = file.rows(4, seed=1), np.ones((4, 3), np.float32)
    suffix = cuts.suffix("moved")
    (expected,) = run_with(file.model, rows, {"moved": values}, ["y"])
    found = suffix(torch.from_numpy(values), before(cuts, "moved", {"x": torch.from_numpy(rows["x"])}))["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_file_of_thousands_of_nodes_has_thousands_of_layers_and_not_too_many(cut):
    names = ["x", *(f"v{number}" for number in range(9000)), "y"]
    file = plain([node("Neg", before, after) for before, after in itertools.pairwise(names)])

    cuts = cut(file.model, file.rows(3))

    assert len(cuts.layers) == 8192
    suffix = cuts.suffix("v8000")
    assert suffix(torch.ones(1, 3), before(cuts, "v8000", {"x": torch.zeros(1, 3)}))["y"].tolist() == [[1, 1, 1]]


def test_in_an_old_file_layers_are_held_and_not_edited(cut):
    file = plain([node("Relu", "x", "r"), node("Neg", "r", "y")], opset=8)
    cuts = cut(file.model, file.rows(3))

    suffix = cuts.suffix("r")

    assert suffix(torch.ones(1, 3), before(cuts, "r", {"x": torch.zeros(1, 3)}))["y"].tolist() == [[-1, -1, -1]]
    with pytest.raises(UnsupportedError, match=r"opset 8; export the model with opset 9 or newer"):
        cuts.editing(("r", "y"))


def test_rows_on_which_a_part_cannot_be_run_are_the_callers_mistake(cut):
    file = plain(
        [node("Relu", "x", "r"), node("Cast", "r", "i", to=TensorProto.INT64), node("Gather", "t i", "y", axis=0)],
        weight("t", 4),
    )
    cuts = cut(file.model, {"x": np.ones((3, 3), np.float32)})
    suffix = cuts.suffix("r")
    context = before(cuts, "r", {"x": torch.zeros(1, 3)})

    with pytest.raises(InvalidRequestError, match="beyond a table"):
        suffix(torch.full((1, 3), 7.0), context)


@pytest.mark.parametrize("length", [3, 64], ids=["small", "large"])
def test_weights_beside_the_file_are_those_that_were_loaded_whatever_is_written_there_later(tmp_path, length):
    wide = np.random.default_rng(0).standard_normal((length, length)).astype(np.float32)
    (tmp_path / "weights.bin").write_bytes(wide.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=wide.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    # ONNX Runtime rearranges what is multiplied by, and adds what is added where it lies.
    nodes = [node("MatMul", "x w", "m"), node("Unsqueeze", "m one", "e"), node("Add", "e w", "y")]
    file = File(nodes, [tensor, whole("one", [1])], {"x": ((length,), None)}, (("y", length, length),), "")
    (tmp_path / "model.onnx").write_bytes(file.model.SerializeToString())
    model = OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu", cuttable=True)
    cuts = OnnxCuts(model, file.rows(3))
    rows = np.full((1, length), 0.5, np.float32)
    truth = (rows @ wide)[:, None] + wide
    np.testing.assert_allclose(model.run({"x": rows})["y"], truth, rtol=1e-4, atol=1e-5)

    # In place, and shorter: what is mapped would have other numbers, or end the process.
    (tmp_path / "weights.bin").write_bytes((wide[:1] + 1).tobytes())

    np.testing.assert_allclose(model.run({"x": rows})["y"], truth, rtol=1e-4, atol=1e-5)
    found = cuts.suffix("m")(torch.from_numpy(rows @ wide), before(cuts, "m", {"x": torch.zeros(1, length)}))["y"]
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


def test_weights_are_shared_by_the_parts_and_sessions_that_there_is_no_room_for_are_opened_again(cut, monkeypatch):
    monkeypatch.setattr(sessions, "_LEAST_KEPT_BYTES", 0)
    monkeypatch.setattr(sessions, "_TIMES_KEPT", 0)
    wide = weight("wide", 64, 64)
    names = ["x", *(f"v{number}" for number in range(6)), "y"]
    nodes = [node("MatMul", f"{before} wide", after) for before, after in itertools.pairwise(names)]
    file = File(nodes, [wide], {"x": ((64,), None)}, (("y", 64),), "")
    opened = []
    real = sessions.Session

    def counting(content, *arguments, **options):
        opened.append(len(content))
        return real(content, *arguments, **options)

    monkeypatch.setattr(sessions, "Session", counting)
    cuts = cut(file.model, file.rows(3))
    rows = file.rows(2, seed=1)

    def behind(layer):
        suffix = cuts.suffix(layer)
        context = before(cuts, layer, {"x": torch.from_numpy(rows["x"])})
        return suffix(2 * context.value, context)["y"].numpy()

    (plain_run,) = run_with(file.model, rows, {}, ["y"])
    for layer in ["v0", "v3", "v0"]:
        np.testing.assert_allclose(behind(layer), 2 * plain_run, rtol=1e-4)
    assert len(opened) > 4
    assert max(opened) < 4096 < wide.ByteSize()


def test_what_is_kept_is_made_once_and_given_up_by_the_order_of_use():
    kept, made = Kept(2, lambda number: 1), []

    def of(key):
        return kept.get(key, lambda: made.append(key) or key)

    for key in "abacab":
        assert of(key) == key
    # b was used longest ago when c came, and then c when b came.
    assert made == ["a", "b", "c", "b"]


def test_what_cannot_be_made_is_tried_again_and_others_wait_for_what_is_being_made():
    kept = Kept(2, lambda number: 1)
    with pytest.raises(ValueError, match="first"):
        kept.get("a", lambda: (_ for _ in ()).throw(ValueError("first")))
    begun, finish, found = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        assert finish.wait(timeout=60)
        return object()

    threads = [threading.Thread(target=lambda: found.append(kept.get("a", slow))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(timeout=60)
    threads[1].start()
    finish.set()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 2
    assert found[0] is found[1]


def test_a_branch_takes_an_edited_value_from_outside(cut):
    file = FILES["branches"]
    cuts = cut(file.model, file.rows(3))
    rows = file.rows(2)
    zero, nothing = torch.zeros((2, 4)), torch.zeros((2, 4))

    found, _ = cuts.editing(("skip",))({"x": torch.from_numpy(rows["x"])}, {"skip": (zero, nothing)})

    (expected,) = run_with(file.model, rows, {"skip": np.zeros((2, 4), np.float32)}, ["y"])
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5)
