"""Patches between two runs through the real server, held to the eager networks with hooks."""

import contextlib
import io
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from e2e.messages import PICTURE_MODEL, failure, pictures, rows, violated_fields
from e2e.serving import Server, serve
from e2e.test_ablations import ablate, change, column
from pellucid.tensors import from_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, model_service_pb2
from pellucid_server import export
from PIL import Image, ImageOps
from server.engine.models.networks import ZOO, zoo_module

RESIDUAL, ENCODER, ONNX = "residual", "encoder", "onnx-residual"
PATCH = ablation_pb2.INTERVENTION_KIND_PATCH
LENGTH = 4
POSITION = ablation_pb2.EACH_POSITION


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a residual network and a transformer."""
    repository = tmp_path_factory.mktemp("repository")
    for name in (RESIDUAL, ENCODER):
        dynamic = {"tokens": {1: "length"}} if name == ENCODER else None
        export.export(zoo_module(name), ZOO[name].rows(2, LENGTH), repository / name / "1", onnx=False, dynamic=dynamic)
    export.export(zoo_module(RESIDUAL), ZOO[RESIDUAL].rows(2, LENGTH), repository / ONNX / "1", onnx=True)
    (repository / ONNX / "1" / "model.pt2").unlink()
    with serve(repository, tmp_path_factory.mktemp("server")) as running:
        yield running


def tokens(seed: int, count: int = 1, length: int = LENGTH) -> Any:
    return np.random.default_rng(seed).standard_normal((count, length, 8)).astype(np.float32)


def images(seed: int, count: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 3, 5, 5)).astype(np.float32)


def run(name: str, inputs: Any, changes: Any = None, noted: dict[str, Any] | None = None) -> Any:
    """Return the outputs of a network; `changes` has what modules' values become, and `noted` gets what they are."""
    module = zoo_module(name)
    hooks = []
    for layer, function in (changes or {}).items():
        hook = module.get_submodule(layer).register_forward_hook(lambda _, __, value, each=function: each(value))
        hooks.append(hook)
    for layer in list(noted or ()):
        hook = module.get_submodule(layer).register_forward_hook(
            lambda _, __, value, layer=layer: noted.__setitem__(layer, value.clone())
        )
        hooks.append(hook)
    with torch.no_grad():
        output = module(torch.from_numpy(inputs)).numpy()
    for hook in hooks:
        hook.remove()
    return output


def values(name: str, inputs: Any, *layers: str) -> dict[str, Any]:
    noted = dict.fromkeys(layers)
    run(name, inputs, noted=noted)
    return noted


def asked(server: Server, model: str, name: str, clean: Any, corrupted: Any, *changes: Any, **fields: Any) -> Any:
    source = {} if corrupted is None else {"source": {name: rows(corrupted)}}
    return list(server.explanations.Ablate(ablate(model, {name: rows(clean)}, *changes, **source, **fields)))


LAYERS = ("layers.0.attention", "layers.0.mlp.2", "layers.1.attention", "layers.1.mlp.2")


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_map_of_layers_and_positions_of_a_transformer_is_that_of_hooks(small: Server, direction: str) -> None:
    clean, corrupted = tokens(1), tokens(2)
    places = [change(layer, kind=PATCH, each=POSITION) for layer in LAYERS]
    parts = asked(
        small, ENCODER, "tokens", clean, corrupted, *places, method="activation-patching",
        parameters={"direction": direction},
    )  # fmt: skip

    here, there = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    other, label = values(ENCODER, there, *LAYERS), run(ENCODER, clean)[0].argmax()
    start, end = run(ENCODER, here)[0, label], run(ENCODER, there)[0, label]

    def patched(layer: str, position: int) -> float:
        mask = torch.arange(LENGTH)[None, :, None] == position
        output = run(ENCODER, here, {layer: lambda value: torch.where(mask, other[layer], value)})
        return float((output[0, label] - start) / (end - start))

    expected = [[patched(layer, position) for position in range(LENGTH)] for layer in LAYERS]
    (array,) = [part.findings.arrays["scores"] for part in parts if "scores" in part.findings.arrays]
    assert [axis.name for axis in array.axes] == ["layer", "position"]
    assert tuple(array.axes[0].labels) == LAYERS
    np.testing.assert_allclose(from_tensor(array.values), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(column(parts, "effects", "score"), np.ravel(expected), rtol=1e-3, atol=1e-4)
    last = parts[-1].findings
    assert last.receipt.parameters["direction"].text == direction
    assert len(last.ablation.source_digest) == 64
    assert [part.part for part in parts] == list(range(len(parts)))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_everything_patched_is_the_other_run_also_where_a_shortcut_leads_round(small: Server, direction: str) -> None:
    clean, corrupted = images(1, 3), images(2, 3)
    changes = [change(layer, kind=PATCH) for layer in ("blocks.1#1", "blocks.1.norm#1", "head")]
    parts = asked(
        small, RESIDUAL, "image", clean, corrupted, *changes, method="activation-patching",
        parameters={"direction": direction},
    )  # fmt: skip

    scores = np.reshape([column([part], "effects", "score") for part in parts[:3]], (3, 3))
    np.testing.assert_allclose(scores[[0, 2]], 1, atol=1e-4)
    assert np.abs(scores[1] - 1).max() > 0.01


def test_runs_that_score_the_same_have_no_score_and_a_warning(small: Server) -> None:
    clean = images(1, 2)
    parts = asked(small, RESIDUAL, "image", clean, clean, change("blocks.0", kind=PATCH), method="activation-patching")

    (score,) = [each for each in parts[0].findings.tables["effects"].columns if each.name == "score"]
    assert from_tensor(score.missing).tolist() == [True, True]
    assert column(parts, "effects", "defined") == [False, False]
    assert any("not defined" in text for part in parts for text in part.findings.warnings)


def test_estimates_are_exact_behind_the_last_bend_and_checked_elsewhere(small: Server) -> None:
    clean, corrupted = tokens(1, 2), tokens(2, 2)
    parts = asked(
        small, ENCODER, "tokens", clean, corrupted, change("layers.1.mlp.2", kind=PATCH, each=POSITION),
        change("layers.0", kind=PATCH, each=POSITION), method="attribution-patching", parameters={"check": 8},
    )  # fmt: skip
    exact = asked(
        small, ENCODER, "tokens", clean, corrupted, change("layers.1.mlp.2", kind=PATCH, each=POSITION),
        change("layers.0", kind=PATCH, each=POSITION), method="activation-patching",
    )  # fmt: skip

    estimates = dict(
        zip(
            zip(column(parts, "effects", "row"), column(parts, "effects", "site"), strict=True),
            column(parts, "effects", "effect"),
            strict=True,
        )
    )
    effects = dict(
        zip(
            zip(column(exact, "effects", "row"), column(exact, "effects", "site"), strict=True),
            column(exact, "effects", "effect"),
            strict=True,
        )
    )
    for (row, site), effect in effects.items():
        if site.startswith("layers.1.mlp.2"):
            assert estimates[row, site] == pytest.approx(effect, rel=1e-3, abs=1e-5)
    names = ("row", "site", "estimate", "exact", "gap")
    checked = list(zip(*(column(parts, "check", name) for name in names), strict=True))
    assert len(checked) == 16
    for row, site, estimate, true, gap in checked:
        assert estimate == pytest.approx(estimates[row, site])
        assert true == pytest.approx(effects[row, site], rel=1e-3, abs=1e-5)
        assert gap == pytest.approx(estimate - true)
    along = asked(
        small, ENCODER, "tokens", clean, corrupted, change("layers.0", kind=PATCH), method="attribution-patching",
        parameters={"points": 64, "check": 1},
    )  # fmt: skip
    span = np.abs(np.subtract(column(along, "runs", "clean"), column(along, "runs", "corrupted")))
    np.testing.assert_allclose(column(along, "check", "gap"), 0, atol=0.01 * span.max())


def test_a_path_of_a_transformer_holds_all_that_leads_round_it_and_says_what(small: Server) -> None:
    clean, corrupted = tokens(1, 2), tokens(2, 2)
    sender, receiver = "layers.0.attention.out", "layers.1.mlp.0"
    parts = asked(
        small, ENCODER, "tokens", clean, corrupted, change(sender, kind=PATCH), method="path-patching",
        parameters={"receivers": receiver}, target=_element(0),
    )  # fmt: skip

    frozen = ("layers.0.mlp.2", "layers.1.attention.out")
    held = values(ENCODER, clean, *frozen)
    held[sender] = values(ENCODER, corrupted, sender)[sender]
    received: dict[str, Any] = {receiver: None}
    run(ENCODER, clean, {layer: lambda _, each=value: each for layer, value in held.items()}, received)
    direct = run(ENCODER, clean, {receiver: lambda _: received[receiver]})
    total = run(ENCODER, clean, {sender: lambda _: held[sender]})
    before = run(ENCODER, clean)
    np.testing.assert_allclose(column(parts, "effects", "direct"), (before - direct)[:, 0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(column(parts, "effects", "effect"), (before - total)[:, 0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(column(parts, "effects", "indirect"), (direct - total)[:, 0], rtol=1e-3, atol=1e-5)
    settled = {name: value.text for name, value in parts[-1].findings.receipt.parameters.items()}
    assert settled["receivers"] == receiver
    assert settled["frozen"] == "layers.0:branch, layers.1.attention.out"


def test_on_the_residual_network_any_change_may_begin_a_path(small: Server) -> None:
    clean = images(1, 2)
    parts = asked(
        small, RESIDUAL, "image", clean, None, change("blocks.0", 0, 1, each=1), method="path-patching",
        parameters={"receivers": "blocks.1:branch", "freeze_norms": True},
    )  # fmt: skip

    sums = np.add(column(parts, "effects", "direct"), column(parts, "effects", "indirect"))
    np.testing.assert_allclose(sums, column(parts, "effects", "effect"), rtol=1e-5, atol=1e-6)
    assert column(parts, "effects", "site") == ["blocks.0[0]", "blocks.0[1]"] * 2
    assert column(parts, "paths", "receivers") == ["blocks.1:branch"]


def _element(index: int) -> Any:
    return explanation_pb2.Target(outcome=explanation_pb2.Outcome(index=[index]))


REFUSED: Sequence[tuple[dict[str, Any], str, str]] = [
    ({"method": "activation-patching", "kind": 1}, "INVALID_ARGUMENT", "takes PATCH alone"),
    ({"method": "attribution-patching", "kind": 1}, "INVALID_ARGUMENT", "takes PATCH alone"),
    ({"method": "activation-patching", "corrupted": None, "kind": 1}, "INVALID_ARGUMENT", "source is empty"),
    ({"method": "activation-patching", "corrupted": tokens(2, 1, 5)}, "INVALID_ARGUMENT", "of the same shape"),
    ({"method": "attribution-patching", "corrupted": tokens(2, 3)}, "INVALID_ARGUMENT", "source has 3 rows"),
    ({"method": "activation-patching", "parameters": {"direction": "back"}}, "INVALID_ARGUMENT", "of: denoise, noise"),
    ({"method": "attribution-patching", "parameters": {"points": 0}}, "INVALID_ARGUMENT", "must be in [1, 256]"),
    ({"method": "attribution-patching", "metric": ablation_pb2.METRIC_KL_DIVERGENCE}, "INVALID_ARGUMENT", "metric is"),
    ({"method": "path-patching", "parameters": {"receivers": "layers.1.nlp.0"}}, "NOT_FOUND", "ones: 'layers.1.mlp.0'"),
    ({"method": "path-patching", "parameters": {"frozen": "layers.7.*"}}, "NOT_FOUND", "there is no such layer"),
    ({"method": "path-patching", "parameters": {"receivers": "layers.0.norm1"}}, "INVALID_ARGUMENT", "does not reach"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "code", "words"), REFUSED)
def test_what_cannot_be_is_refused_with_what_would_be_right(
    small: Server, given: dict[str, Any], code: str, words: str
) -> None:
    fields = {"corrupted": tokens(2), "kind": PATCH, **given}
    corrupted, kind = fields.pop("corrupted"), fields.pop("kind")

    error = failure(
        lambda: asked(
            small, ENCODER, "tokens", tokens(1, 2), corrupted, change("layers.0.attention.out", kind=kind), **fields
        )
    )

    assert error.code() is getattr(grpc.StatusCode, code)
    assert words in error.details()
    if code == "INVALID_ARGUMENT":
        assert violated_fields(error)


@pytest.mark.parametrize("method", ["attribution-patching", "path-patching"])
def test_what_an_onnx_file_cannot_do_is_refused_with_the_reason(small: Server, method: str) -> None:
    layer = next(iter(small.models.GetModel(_model(ONNX)).layers)).name
    error = failure(lambda: asked(small, ONNX, "image", images(1), images(2), change(layer, kind=PATCH), method=method))

    assert "model.pt2" in error.details()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_an_onnx_file_is_patched_as_it_is(small: Server) -> None:
    layers = [layer.name for layer in small.models.GetModel(_model(ONNX)).layers if layer.cuttable]
    changes = [change(layer, kind=PATCH) for layer in layers]
    parts = asked(small, ONNX, "image", images(1), images(2), *changes, method="activation-patching")

    label = run(RESIDUAL, images(1))[0].argmax()
    np.testing.assert_allclose(column(parts, "runs", "clean"), run(RESIDUAL, images(1))[:, label], rtol=1e-4)
    np.testing.assert_allclose(column(parts, "runs", "corrupted"), run(RESIDUAL, images(2))[:, label], rtol=1e-4)
    scores = dict(zip(column(parts, "effects", "site"), column(parts, "effects", "score"), strict=True))
    # Whatever the layers are called, the last one's value is what the output is made of.
    assert scores[layers[-1]] == pytest.approx(1, abs=1e-4)
    assert len(scores) > 3


def _model(name: str) -> Any:
    return model_service_pb2.GetModelRequest(model=explanation_pb2.ModelSpec(name=name))


@pytest.mark.parametrize("method", ["activation-patching", "path-patching"])
def test_a_sweep_that_its_deadline_cuts_off_returns_what_it_has(server: Server, cat: bytes, method: str) -> None:
    flipped = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(cat))).save(flipped, "PNG")
    request = ablate(
        PICTURE_MODEL, {"image": pictures(cat)}, change("_blocks.*._bn2", kind=PATCH, each=1), method=method,
        source={"image": pictures(flipped.getvalue())},
    )  # fmt: skip

    parts = []
    # On a crowded machine a deadline may pass before there is anything: the next has the graphs that were derived.
    for seconds in (8.0, 12.0, 18.0):
        with contextlib.suppress(grpc.RpcError):
            parts = list(server.explanations.Ablate(request, timeout=seconds))
        if parts:
            break

    last = parts[-1].findings
    assert last.accuracy.partial
    assert len(column(parts, "effects", "site")) == len(set(column(parts, "effects", "site"))) > 0
    assert last.receipt.method == method


def test_a_map_whose_worker_is_killed_goes_on_and_has_all_layers(tmp_path_factory: pytest.TempPathFactory) -> None:
    repository = tmp_path_factory.mktemp("repository")
    export.export(zoo_module(ENCODER), ZOO[ENCODER].rows(2, LENGTH), repository / ENCODER / "1", onnx=False)
    settings = {"PELLUCID_POOL__RESTART_INITIAL_SECONDS": "0.01"}
    request = ablate(
        ENCODER,
        {"tokens": rows(tokens(1, 64))},
        *(change(layer, kind=PATCH, each=POSITION) for layer in LAYERS),
        method="activation-patching",
        source={"tokens": rows(tokens(2, 64))},
    )
    with serve(repository, tmp_path_factory.mktemp("server"), settings) as running:
        expected = list(running.explanations.Ablate(request))
        call = running.explanations.Ablate(request)
        parts = [next(call)]
        os.kill(running.worker_pid(), signal.SIGKILL)
        parts += list(call)

    assert [part.part for part in parts] == list(range(len(expected)))
    assert column(parts, "effects", "site") == column(expected, "effects", "site")
    first, again = (
        from_tensor(next(each.findings.arrays["scores"] for each in some if each.findings.arrays).values)
        for some in (expected, parts)
    )
    np.testing.assert_allclose(again, first, rtol=1e-3, atol=1e-4)
