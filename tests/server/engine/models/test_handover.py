"""What the process that tries a version out hands over: the ONNX file as it was checked, which is run as it is."""

import dataclasses

import numpy as np
import onnx
import pytest
from pellucid_server.engine.models.loading import repository
from pellucid_server.engine.models.loading.handover import Handover
from pellucid_server.engine.models.loading.trials import try_out
from pellucid_server.engine.models.onnx import onnx_model
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.model_files.listing import ModelError, Version
from pellucid_server.vocabulary.messages import WorkerSettings
from server.engine.models.onnx_networks import FILES, File, node, weight

WIDE = 64
"""A square matrix of such a side is large enough to be handed over beside its model."""


def handed(model, digest="d"):
    """Return what another process would read of what a model was opened with."""
    with Handover() as place:
        model.ready.write(place.descriptor, digest)
        return place.take()


def line(*names):
    """A chain of products with large weights."""
    values = ["x", *(f"v{number}" for number in range(len(names) - 1)), "y"]
    nodes = [
        node("MatMul", f"{before} {name}", after)
        for before, name, after in zip(values[:-1], names, values[1:], strict=True)
    ]
    return File(nodes, [weight(name, WIDE, WIDE) for name in names], {"x": ((WIDE,), None)}, (("y", WIDE),), "")


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "m" / "model.toml").write_text("")
    (folder / "model.onnx").write_bytes(line("a", "b").model.SerializeToString())
    return Version(folder, "m", 1)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_handed_over_answers_as_the_file_itself_to_the_last_bit_and_is_cut_alike(name, tmp_path):
    file = FILES[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(file.model.SerializeToString())
    first = OnnxModel(path, threads=1, device="cpu", cuttable=True)
    ready, _ = handed(first)
    path.unlink()

    second = OnnxModel(path, threads=1, device="cpu", ready=ready)

    rows = file.rows(3)
    expected = first.run(rows)
    for output, values in second.run(rows).items():
        np.testing.assert_array_equal(values, expected[output])
    ours, theirs = second.skeleton, first.skeleton
    assert (ours.batch, ours.symbols, ours.beside) == (theirs.batch, theirs.symbols, theirs.beside)
    assert (ours.shapes, ours.kinds) == (theirs.shapes, theirs.kinds)
    assert ours.model == theirs.model
    assert dataclasses.replace(ours.wiring, nodes=()) == dataclasses.replace(theirs.wiring, nodes=())
    assert set(ours.weights.values) == set(theirs.weights.values)


def test_large_weights_are_beside_the_model_once_and_as_they_were(tmp_path):
    (tmp_path / "model.onnx").write_bytes(line("a", "b").model.SerializeToString())
    model = OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu", cuttable=True)

    ready, digest = handed(model, "of the version")

    assert digest == "of the version"
    assert len(ready.content) < 4096
    assert ready.skeleton.weights is ready.weights
    for name in ("a", "b"):
        np.testing.assert_array_equal(
            ready.weights.values[name].numpy(), onnx.numpy_helper.to_array(weight(name, 64, 64))
        )


def test_what_was_taken_can_be_changed_by_no_process_that_still_has_it(tmp_path):
    (tmp_path / "model.onnx").write_bytes(line("a").model.SerializeToString())
    model = OnnxModel(tmp_path / "model.onnx", threads=1, device="cpu")
    with Handover() as place:
        model.ready.write(place.descriptor, "")
        place.take()

        with open(place.descriptor, "r+b", closefd=False, buffering=0) as file, pytest.raises(PermissionError):
            file.write(b"0")
        with open(place.descriptor, "r+b", closefd=False, buffering=0) as file, pytest.raises(PermissionError):
            file.truncate(0)


def test_what_another_process_has_read_and_checked_is_loaded_without_reading_the_file(version, tmp_path, monkeypatch):
    settings = WorkerSettings("cpu", str(tmp_path), 1, 0.05, 1 << 28)
    with Handover() as place:
        assert not try_out(version, settings, lambda descriptor: None, place.descriptor)
        ready = place.take()
    expected = repository.load_version(version, "cpu", 1)
    monkeypatch.delattr(onnx_model, "read_onnx")

    model = repository.load_version(version, "cpu", 1, ready=ready)

    assert ready[1] == model.digest == expected.digest
    rows = line("a", "b").rows(3)
    np.testing.assert_array_equal(model.session.run(rows)["y"], expected.session.run(rows)["y"])
    # What it was opened with is not kept.
    assert model.session.ready is None


def test_a_version_whose_files_are_not_those_that_were_tried_out_is_refused(version):
    ready, digest = handed(repository.load_version(version, "cpu", 1, keep_ready=True).session, "of others")

    with pytest.raises(ModelError, match="m/1: its files changed while it was loaded"):
        repository.load_version(version, "cpu", 1, ready=(ready, digest))
