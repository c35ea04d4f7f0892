"""Evaluations of a model that has only an ONNX file: held, edited and captured as those of a graph are."""

import numpy as np
import pytest
from pellucid_server.engine import methods
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.handle import UnfitLayerError
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES
from pellucid_server.engine.asking.registry import Need
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.edited import Edit, Edited
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.evaluations.recipes import Picked, Rows
from pellucid_server.engine.evaluations.suffix import Suffix
from pellucid_server.engine.models.loading.repository import load_version
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import UnsupportedError
from pellucid_server.model_files.listing import contents
from server.engine.models.onnx_networks import FILES, run_with

FILE = FILES["residual"]
TARGET = Target("y", ((1, 1.0), (2, -1.0)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    version = folder / "residual" / "1"
    version.mkdir(parents=True)
    (version.parent / "model.toml").write_text("")
    (version / "model.onnx").write_bytes(FILE.model.SerializeToString())
    return load_version(contents(folder).versions[0], "cpu", 1, fast_graph=False)


@pytest.fixture
def handle(bench, model):
    return ModelHandle(model, bench.services, RequestState(1, None))


def expected(rows, values=None):
    return run_with(FILE.model, rows, values or {}, ["y"])[0]


registry.discover(methods)


def test_the_model_shows_its_layers_and_has_no_gradients(model):
    shown = model.info(registry.methods())

    assert [layer.name for layer in shown.layers] == FILE.cuts.split()
    first = shown.layers[0]
    assert (first.type, first.shape, first.units, first.cuttable) == ("Conv", (3, 5, 5), 3, True)
    assert model.capabilities == {Need.FORWARD, Need.LAYERS}
    reasons = {each.method: each.reason for each in shown.capabilities}
    assert "only an ONNX file" in reasons["integrated-gradients"]
    assert model.obstacle(Need.GRADIENTS) == reasons["integrated-gradients"]


def test_values_of_several_requests_share_a_batch_and_go_with_their_own_rows(bench, model):
    rows = [FILE.rows(count, seed=count) for count in (1, 2, 3)]
    handles = [ModelHandle(model, bench.services, RequestState(number, None)) for number in range(3)]
    held = bench.run(
        *[lambda each=each, one=one: each.hold(Rows(one), "r") for each, one in zip(handles, rows, strict=True)]
    )
    source = np.random.default_rng(1)
    of = [np.array(each) for each in ([0] * 5, [1, 0, 1, 1], [2, 2, 0, 1])]
    values = [source.standard_normal((len(each), 3, 5, 5)).astype(np.float32) for each in of]

    found = bench.run(
        *[
            lambda each=each, before=before, given=given, picked=picked: each.ask(
                Suffix(before, Rows({"r": given}), TARGET, of=picked)
            )
            for each, before, given, picked in zip(handles, held, values, of, strict=True)
        ]
    )

    for answer, given, picked, one in zip(found, values, of, rows, strict=True):
        scores = expected({"x": one["x"][picked]}, {"r": given})
        np.testing.assert_allclose(answer.scores, scores[:, 1] - scores[:, 2], rtol=1e-4, atol=1e-5)
    for before, one in zip(held, rows, strict=True):
        np.testing.assert_allclose(before.values, run_with(FILE.model, one, {}, ["r"])[0], rtol=1e-4, atol=1e-5)
        # The residual crosses with the value.
        assert before.nbytes == 2 * before.values.nbytes


def test_layers_are_captured_and_edited_at_once(bench, handle):
    rows, count = FILE.rows(2), 4
    keep, add = np.ones((count, 3, 1, 1), np.float32), np.zeros((count, 3, 1, 1), np.float32)
    keep[np.arange(3), np.arange(3)] = 0
    whole = Edit(np.full((count, 1, 1, 1), 0.5, np.float32), np.zeros((count, 1, 1, 1), np.float32))
    of = np.array([0, 1, 0, 1])

    captured, edited = bench.run(
        lambda: handle.ask(Capture(Rows(rows), ("pooled", "a"))).arrays,
        lambda: handle.ask(Edited(Picked(rows, of), {"b": whole, "normal": Edit(keep, add)}, TARGET)).arrays[SCORES],
    )

    for layer, value in zip(("pooled", "a"), run_with(FILE.model, rows, {}, ["pooled", "a"]), strict=True):
        np.testing.assert_allclose(captured[layer], value, rtol=1e-4, atol=1e-5)
    picked = {"x": rows["x"][of]}
    normal = run_with(FILE.model, picked, {}, ["normal"])[0] * keep
    scaled = run_with(FILE.model, picked, {"normal": normal}, ["b"])[0] / 2
    scores = expected(picked, {"normal": normal, "b": scaled})
    np.testing.assert_allclose(edited, scores[:, 1] - scores[:, 2], rtol=1e-4, atol=1e-5)


def test_several_cuts_are_held_by_one_pass_and_layers_are_read_under_edits(bench, handle):
    rows, layers = FILE.rows(2), ("pooled", "a")
    zero = Edit(np.zeros((2, 3, 1, 1), np.float32), np.zeros((2, 3, 1, 1), np.float32))

    held, read, affine = bench.run(
        lambda: handle.hold_each(Rows(rows), layers),
        lambda: handle.ask(Edited(Rows(rows), {"r": zero}, capture=("sum",))).arrays,
        lambda: handle.affine("a"),
    )

    for one, value in zip(held, run_with(FILE.model, rows, {}, list(layers)), strict=True):
        np.testing.assert_allclose(one.values, value, rtol=1e-4, atol=1e-5)
    (expected_sum,) = run_with(FILE.model, rows, {"r": np.zeros((2, 3, 5, 5), np.float32)}, ["sum"])
    np.testing.assert_allclose(read["sum"], expected_sum, rtol=1e-4, atol=1e-5)
    assert affine == frozenset()


def test_predictions_are_what_they_were_after_all_that(bench, handle, model):
    rows = FILE.rows(3)
    before = model.session.run(rows)["y"]

    held = bench.run(lambda: handle.hold(Rows(rows), "sum"))[0]
    bench.run(lambda: handle.ask(Suffix(held, Rows({"sum": np.zeros((3, 3, 5, 5), np.float32)}))))

    (after,) = bench.run(lambda: handle.ask(Forward(Rows(rows))).arrays["y"])
    np.testing.assert_array_equal(after, before)


def test_gradients_behind_a_cut_are_refused_with_the_reason(bench, handle):
    rows = FILE.rows(1)
    (held,) = bench.run(lambda: handle.hold(Rows(rows), "a"))

    with pytest.raises(UnsupportedError, match=r"only an ONNX file; gradients need model\.pt2"):
        bench.run(lambda: handle.ask(Suffix(held, Rows({"a": held.values}), TARGET, gradient=True)))


def test_an_unknown_layer_is_refused_with_near_ones(bench, handle):
    with pytest.raises(UnfitLayerError, match="no layer 'pool'; layers that GetModel shows as cuttable: 'pooled'"):
        bench.run(lambda: handle.hold(Rows(FILE.rows(1)), "pool"))
