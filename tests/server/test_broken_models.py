"""Files that are damaged, hostile or no files at all beside a good model: each is named, and the good one served."""

import dataclasses
import io
import json
import os
import shutil
import socket
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from pellucid_server.faults import LOADING
from pellucid_server.model_files.plain_files import fingerprint
from pellucid_server.vocabulary.descriptions import Verdict
from pellucid_server.vocabulary.messages import Done, Hello, Refused, Start
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, TensorInput
from server.engine.models import malice
from server.worker_process import ROW, worker
from torch import nn
from torch.export import Dim

WEIGHT = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
MANIFEST = '[[inputs]]\nname = "input"\n[[outputs]]\nname = "output"\nkind = "values"\n'


def edited(model, name, edit):
    """Change an entry of JSON in a model's file."""
    path = model / "1" / "model.pt2"
    entries = malice.entries_of(path)
    malice.edited(entries, name, edit)
    malice.written(path, entries)


def manifest(text):
    return lambda model: (model / "model.toml").write_text(text)


def other_weights(model):
    def edit(lists):
        meta = lists["config"]["weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 1}, {"as_int": 3}], [{"as_int": 3}, {"as_int": 1}]

    edited(model, malice.WEIGHTS, edit)


def surrogate_output(model):
    path = model / "1" / "model.pt2"
    entries = malice.entries_of(path)
    name = json.loads(entries[malice.PROGRAM])["graph_module"]["graph"]["outputs"][0]["as_tensor"]["name"]
    entries[malice.PROGRAM] = entries[malice.PROGRAM].replace(f'"{name}"'.encode(), b'"\\ud800"')
    malice.written(path, entries)


def no_utf8_name(model):
    (Path(os.fsdecode(os.fsencode(model / "1") + b"/notes-\xff"))).write_text("")


def fifo(name):
    def make(model):
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)

    return make


def device(model):
    (model / "labels.txt").symlink_to("/dev/zero")
    (model / "model.toml").write_text(MANIFEST + 'labels_file = "labels.txt"\n')


def socket_file(model):
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(model / "1")
    try:
        server.bind("model.onnx")
    finally:
        os.chdir(here)
        server.close()


def escaping_labels(model):
    (model.parent.parent / "secret.txt").write_text("left\nright\n")
    (model / "labels.txt").symlink_to(model.parent.parent / "secret.txt")
    (model / "model.toml").write_text(MANIFEST + 'labels_file = "labels.txt"\n')


def escaping_version(model):
    (model / "1").rename(model.parent.parent / "elsewhere")
    (model / "1").symlink_to(model.parent.parent / "elsewhere")


def circle(model):
    (model / "model.toml").unlink()
    (model / "model.toml").symlink_to("model.toml")


def background(write):
    def make(model):
        (model / "model.toml").write_text('background = "rows.npz"\n' + MANIFEST)
        write(model / "rows.npz")

    return make


def header_of_terabytes(path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 46, 3)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("input.npy", head.getvalue())


def zeros(path):
    """Write 384 MiB that deflate to 2."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 25, 3)})
    file = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with file, file.open("input.npy", "w") as entry:
        entry.write(head.getvalue())
        [entry.write(bytes(1 << 24)) for _ in range(24)]


def onnx_row(elements):
    def make(model):
        (model / "1" / "model.pt2").unlink()
        names = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", elements]) for n in ("input", "output")]
        graph = helper.make_graph([helper.make_node("Neg", ["input"], ["output"])], "g", names[:1], names[1:])
        opsets = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), model / "1" / "model.onnx")

    return make


def number(text):
    """Put a number of the manifest's where one is expected."""
    return manifest(MANIFEST + f"[limits]\nmax_rows = {text}\n")


def column(text):
    return manifest(
        f'[[inputs]]\nname = "input"\nmodality = "tabular"\n[[inputs.columns]]\nname = "a"\nmean = {text}\n'
    )


BROKEN = {
    "weights-of-another-shape": (
        other_weights,
        "is torch.float32 of shape (1, 3) and strides (3, 1), where the graph says torch.float32 of shape (2, 3)",
    ),
    "cut-short": (lambda model: os.truncate(model / "1" / "model.pt2", 3000), "1/model.pt2 is no .pt2 file"),
    "no-file": (lambda model: (model / "1" / "model.pt2").unlink(), "1 has no model.pt2"),
    "no-manifest": (lambda model: (model / "model.toml").unlink(), "has no model.toml"),
    "no-version": (lambda model: shutil.rmtree(model / "1"), "has no version"),
    "no-utf8": (lambda model: (model / "model.toml").write_bytes(b"\xff"), "model.toml must be UTF-8 text"),
    "no-toml": (manifest("description = "), "model.toml is not TOML"),
    "number-400": (column("1" + 400 * "0"), "must be a finite number"),
    "number-5000": (column(5000 * "1"), "a number of too many digits"),
    "number-hexadecimal": (column("0x" + 5000 * "f"), "must be a finite number"),
    "count-400": (number("1" + 400 * "0"), "must be a whole number of at least 1"),
    "brackets-5000": (manifest("description = " + 5000 * "["), "is nested too deep"),
    "description-long": (manifest(f'description = "{5000 * "x"}"'), "must be a text of up to 4096 characters"),
    "manifest-large": (manifest("# " + (4 << 20) * "x"), "at most 4194304 are read"),
    "labels-many": (
        lambda model: (
            (model / "labels.txt").write_text("x\n" * ((1 << 18) + 1)),
            (model / "model.toml").write_text(MANIFEST + 'labels_file = "labels.txt"\n'),
        ),
        "must have up to 262144 labels",
    ),
    "label-long": (manifest(MANIFEST + f'labels = ["a", "{2000 * "x"}"]'), "of up to 1024 characters"),
    "labels-of-a-device": (device, "leads out of the model's folder"),
    "labels-outside": (escaping_labels, "leads out of the model's folder"),
    "version-outside": (escaping_version, "leads out of the model's folder"),
    "link-in-a-circle": (circle, "its links lead in a circle"),
    "link-to-nowhere": (lambda model: (model / "1" / "notes").symlink_to("gone"), "1/notes cannot be read"),
    "fifo-for-a-manifest": (fifo("model.toml"), "model.toml is not a plain file"),
    "fifo-for-a-graph": (fifo("1/model.pt2"), "1/model.pt2 is not a plain file"),
    "fifo-beside-the-graph": (fifo("1/notes"), "1/notes is not a plain file"),
    "socket-for-onnx": (socket_file, "1/model.onnx is not a plain file"),
    "folder-for-a-manifest": (
        lambda model: ((model / "model.toml").unlink(), (model / "model.toml").mkdir()),
        "model.toml is not a plain file",
    ),
    "file-name-of-bytes": (no_utf8_name, "has a name that is not UTF-8"),
    "surrogate-output": (surrogate_output, "1"),
    "background-of-terabytes": (background(header_of_terabytes), "claims 844424930131968 bytes"),
    "background-inflated": (background(zeros), "at most 268435456 are read"),
    "background-of-others": (
        background(lambda path: np.savez(path, other=np.zeros((2, 3)))),
        "has the arrays other; it must have one for each input: input",
    ),
    "row-of-2-to-the-40": (onnx_row(1 << 40), "has 1099511627776 elements per row"),
    "row-of-2-to-the-28": (onnx_row(1 << 28), "takes more memory"),
    "two words": (lambda model: None, "a model's name must be letters"),
    "grpc.health.v1.Health": (lambda model: None, "must not begin as those of services do"),
}

WHOLE = ("no-manifest", "no-version", "two words", "grpc.health.v1.Health")
"""Those of which no version was even looked at."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The folder of a good model, a linear map."""
    folder = tmp_path_factory.mktemp("good") / "linear"
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.from_numpy(WEIGHT)
    (folder / "1").mkdir(parents=True)
    (folder / "model.toml").write_text(MANIFEST)
    program = torch.export.export(layer.eval(), (torch.zeros(2, 3),), dynamic_shapes={"input": {0: Dim.DYNAMIC}})
    torch.export.save(program, folder / "1" / "model.pt2")
    return folder


@pytest.fixture(scope="module")
def repository(good, tmp_path_factory):
    """Every broken model, and a good one under each kind of layout."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    shutil.copytree(good, folder / "linear")
    for name, (spoil, _) in BROKEN.items():
        shutil.copytree(good, folder / name)
        spoil(folder / name)
    # A later version of a good model is broken, an earlier one is served.
    (folder / "linear" / "2").mkdir()
    (folder / "linear" / "2" / "model.pt2").write_bytes(b"no zip")
    # As Kubernetes mounts a ConfigMap: what is named are links to a folder that a link leads to.
    mounted = folder / "mounted"
    shutil.copytree(good, mounted / "..2026_11_26")
    (mounted / "..data").symlink_to("..2026_11_26")
    (mounted / "model.toml").symlink_to("..data/model.toml")
    (mounted / "1").symlink_to("..data/1")
    (folder / "linked").symlink_to(good)
    (folder / "lost+found" / "#7").mkdir(parents=True)
    (folder / "notes").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "README.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def hello(repository, tmp_path_factory):
    with worker(repository, tmp_path_factory.mktemp("faults")) as front:
        yield front.next(Hello)


def test_good_models_are_served_beside_broken_ones(hello):
    assert [(model.key.name, model.key.version) for model in hello.models] == [
        ("linear", 1),
        ("linked", 1),
        ("mounted", 1),
    ]


def test_every_broken_model_is_listed_once_and_nothing_else(hello):
    names = sorted([*BROKEN, "linear"])

    assert [each.name for each in hello.broken] == names


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_has_a_reason_that_names_it_and_what_is_wrong(hello, repository, name):
    (found,) = [each for each in hello.broken if each.name == name]

    assert BROKEN[name][1] in found.reason
    assert found.reason.startswith(name)
    assert str(repository) not in found.reason
    assert found.reason.endswith(".")
    assert len(found.reason.encode()) <= 640
    assert found.version == (0 if name in WHOLE else 1)


def test_a_model_with_a_broken_version_is_served_by_the_others(hello):
    (found,) = [each for each in hello.broken if each.name == "linear"]

    assert (found.version, "2/model.pt2 is no .pt2 file" in found.reason) == (2, True)


@pytest.fixture
def pair(good, tmp_path):
    """A repository with a good model and a copy."""
    folder = tmp_path / "models"
    shutil.copytree(good, folder / "good")
    shutil.copytree(good, folder / "other")
    return folder


def test_a_model_that_hangs_is_broken_and_the_one_beside_it_answers(pair, tmp_path):
    (tmp_path / LOADING).write_text("hold other")

    with worker(pair, tmp_path, load_seconds=2.0) as front:
        hello = front.next(Hello)
        front.send(Start(1, PredictRequest(ModelKey("good"), {"input": TensorInput(ROW)}), None))
        front.send(Start(2, PredictRequest(ModelKey("other"), {"input": TensorInput(ROW)}), None))
        answers = {done.request_number: done for done in (front.next(Done), front.next(Done))}

    assert [model.key.name for model in hello.models] == ["good"]
    assert hello.broken[0].reason.startswith("other/1: loading it hangs for more than 2 s")
    np.testing.assert_array_equal(answers[1].result.outputs["output"].values, ROW @ WEIGHT.T)
    assert answers[2].failure.reason == "UNSUPPORTED"
    assert answers[2].failure.metadata == {"subject": "models/other/1", "state": "broken"}
    assert hello.broken[0].reason in answers[2].failure.message


def test_what_was_found_of_a_model_holds_until_its_files_change(pair, tmp_path):
    (pair / "other" / "model.toml").write_text("wrong")
    with worker(pair, tmp_path) as front:
        first = front.next(Hello)
    # From now on whatever is tried out is broken.
    (tmp_path / LOADING).write_text("crash")
    with worker(pair, tmp_path, verdicts=first.verdicts) as front:
        second = front.next(Hello)
    (pair / "other" / "model.toml").write_text("wrong, too")
    with worker(pair, tmp_path, verdicts=first.verdicts) as front:
        third = front.next(Hello)

    assert second == first
    assert [model.key.name for model in third.models] == ["good"]
    assert "exit status" in third.broken[0].reason


def test_what_only_the_worker_itself_cannot_load_is_not_held_against_it_at_the_next_start(pair, tmp_path):
    (pair / "other" / "model.toml").write_text("wrong")
    passed = tuple(Verdict(name, 1, fingerprint(pair / name / "1")) for name in ("good", "other"))

    with worker(pair, tmp_path, verdicts=passed) as front:
        hello = front.next(Hello)

    assert [each.name for each in hello.broken] == ["other"]
    # Of the one that was loaded it is known by then that it has no faster graph.
    expected = [dataclasses.replace(passed[0], fast_graph=False), passed[1]]
    assert sorted(hello.verdicts, key=lambda each: each.name) == expected


def test_what_is_said_of_a_model_that_loads_is_in_the_log_once(pair, tmp_path):
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", length])]
        for name, length in (("input", 3), ("output", 2))
    )
    node = helper.make_node("MatMul", ["input", "w"], ["output"])
    graph = helper.make_graph([node], "g", inputs, outputs, [onnx.numpy_helper.from_array(-WEIGHT.T.copy(), "w")])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), pair / "other" / "1" / "model.onnx")

    with (tmp_path / "log").open("w") as log, worker(pair, tmp_path, log) as front:
        front.next(Hello)

    assert (tmp_path / "log").read_text().count("model.onnx is not used") == 1


def test_with_stop_every_broken_model_is_named_and_nothing_is_served(pair, tmp_path):
    for name in ("third", "crashes"):
        shutil.copytree(pair / "other", pair / name)
    (pair / "other" / "model.toml").write_text("wrong")
    (pair / "third" / "1" / "model.pt2").unlink()
    (tmp_path / LOADING).write_text("abort crashes")

    with worker(pair, tmp_path, on_broken_model="stop") as front:
        message = front.next(Refused).message

    assert message.startswith("3 of 4 models cannot be served, and models.on_error is 'stop':\n")
    assert str(pair / "other" / "model.toml") in message
    assert str(pair / "third" / "1") in message
    assert str(pair / "crashes" / "1") in message


def test_where_no_model_loads_the_worker_refuses_with_all_reasons(pair, tmp_path):
    (pair / "good" / "model.toml").unlink()
    (pair / "other" / "model.toml").write_text("wrong")

    with worker(pair, tmp_path) as front:
        message = front.next(Refused).message

    assert message.splitlines()[0] == "No model can be served:"
    assert [str(pair / name) in message for name in ("good", "other")] == [True, True]
