"""What is asked: a fixed list of requests, each with the answer that a quiet server gave.

The conductor writes the list to a folder; the callers, which are processes of their own, read it there.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2, model_service_pb2
from PIL import Image

EXPLANATIONS = "/pellucid.v1.ExplanationService/"
MODELS = "/pellucid.v1.ModelService/"
HEALTH = "/grpc.health.v1.Health/Check"

TABLE, PICTURE, TREES = "breast-cancer", "efficientnet-lite0", "diabetes"
"""The demo's models: a network on a table, one on pictures, and trees that have no gradients."""

GENEROUS_SECONDS = 60.0
"""The deadline of a request that is meant to be answered."""

_TABLE_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "integrated-gradients": {"steps": 16},
    "kernel-shap": {"samples": 256},
    "occlusion": {"window": 3},
    "smoothgrad": {"samples": 16},
}
_PICTURE_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "feature-ablation": {"segments": 6},
    "input-x-gradient": {},
    "integrated-gradients": {"steps": 4},
    "kernel-shap": {"segments": 4, "regions": "grid"},
    "occlusion": {"window": 112, "stride": 112},
    "saliency": {},
    "smoothgrad": {"samples": 4},
}
"""Few rows each: a gradient of the network on pictures takes some 60 ms. Methods not here are asked of tables only."""


@dataclass(frozen=True)
class Entry:
    """One request of the catalogue."""

    name: str
    path: str
    """The RPC, as gRPC writes it."""
    code: str = "OK"
    """The code that a server with time gives it."""
    weight: float = 1.0
    """How often it is asked, against the others."""
    seconds: float = GENEROUS_SECONDS
    """Its deadline; shorter than the generous one where it is meant to be cut short."""
    adaptive: bool = False
    """Whether how much is evaluated depends on the deadline."""
    priorities: tuple[str, ...] = ("", "interactive", "bulk")
    """The classes that it may name; empty for none."""

    @property
    def rpc(self) -> str:
        """The RPC's name."""
        return self.path.rpartition("/")[2]

    @property
    def streaming(self) -> bool:
        """Whether replies come as a stream."""
        return self.rpc in {"Ablate", "Dissect"}


def build(described: Mapping[str, Any], methods: Iterable[str], seed: int) -> list[tuple[Entry, bytes]]:
    """Return every entry and its request's bytes.

    Parameters
    ----------
    described
        GetModel's reply for each model that is served, by name; the demo's are asked, where they are there.
    methods
        The names of the methods of Attribute that ListMethods gives.
    seed
        Of the rows that are asked about.
    """
    random = np.random.default_rng(seed)
    found = _about_the_server(described)
    if TABLE in described:
        found += _about_tables(_allowed(described[TABLE], methods), random)
    if TREES in described:
        found += _about_trees(_allowed(described[TREES], methods), random)
    if PICTURE in described:
        found += _about_pictures(_allowed(described[PICTURE], methods), random)
    return found


def write(folder: Path, entries: Sequence[tuple[Entry, bytes]], quiet: Sequence[bytes]) -> None:
    """Write the entries, their requests and their quiet answers."""
    (folder / "entries.json").write_text(json.dumps([asdict(entry) for entry, _ in entries]))
    for number, ((_, request), answer) in enumerate(zip(entries, quiet, strict=True)):
        (folder / f"{number}.request").write_bytes(request)
        (folder / f"{number}.answer").write_bytes(answer)


def read(folder: Path) -> list[tuple[Entry, bytes, bytes]]:
    """Return each entry, its request and its quiet answer."""
    entries = [
        Entry(**{**fields, "priorities": tuple(fields["priorities"])})
        for fields in json.loads((folder / "entries.json").read_text())
    ]
    return [
        (entry, (folder / f"{number}.request").read_bytes(), (folder / f"{number}.answer").read_bytes())
        for number, entry in enumerate(entries)
    ]


def replay(request: bytes, answer: explanation_pb2.Attribution, *, row: int) -> bytes:
    """Return the request for the same attribution of one row by its receipt: what was settled is asked for.

    The same bytes each time: what was cut alike is known by them.
    """
    asked = explanation_service_pb2.AttributeRequest.FromString(request)
    for given in asked.inputs.values():
        _keep_row(given, row)
    asked.explanation.ClearField("parameters")
    asked.explanation.ClearField("tolerance")
    for name, value in answer.receipt.parameters.items():
        asked.explanation.parameters[name].CopyFrom(value)
    return bytes(asked.SerializeToString(deterministic=True))


def _keep_row(given: input_pb2.Input, row: int) -> None:
    match given.WhichOneof("value"):
        case "tensor":
            given.tensor.CopyFrom(to_tensor(from_tensor(given.tensor)[row : row + 1]))
        case "pictures":
            given.pictures.encoded[:] = [given.pictures.encoded[row]]
        case "table":
            kept = given.table.rows[row]
            given.table.CopyFrom(input_pb2.Table(rows=[kept]))


def _allowed(model: Any, methods: Iterable[str]) -> list[str]:
    allowed = {each.method for each in model.capabilities if each.allowed}
    return [method for method in methods if method in allowed]


def _about_the_server(described: Mapping[str, Any]) -> list[tuple[Entry, bytes]]:
    plain: dict[str, Any] = {"weight": 0.5, "priorities": ("",)}
    nothing = _predict("nobody", {"features": _tensor(np.ones((1, 1), np.float32))})
    found = [
        (Entry("health", HEALTH, **plain), b""),
        (Entry("models", MODELS + "ListModels", **plain), b""),
        (Entry("methods", MODELS + "ListMethods", **plain), b""),
        (Entry("ablate", EXPLANATIONS + "Ablate", "INVALID_ARGUMENT", **plain), b""),
        (Entry("dissect", EXPLANATIONS + "Dissect", "INVALID_ARGUMENT", **plain), b""),
        (Entry("no model", EXPLANATIONS + "Predict", "NOT_FOUND", **plain), nothing),
        (Entry("no request", EXPLANATIONS + "Predict", "INVALID_ARGUMENT", **plain), b"\xff\xff"),
    ]
    for name in described:
        request = model_service_pb2.GetModelRequest(model=explanation_pb2.ModelSpec(name=name))
        found.append((Entry(f"model {name}", MODELS + "GetModel", **plain), request.SerializeToString()))
    return found


def _about_tables(methods: Iterable[str], random: np.random.Generator) -> list[tuple[Entry, bytes]]:
    one, many = _tensor(_cells(random, 1)), _tensor(_cells(random, 64))
    wrong = _tensor(np.ones((1, 29), np.float32))
    found = [
        _prediction("table, a row", TABLE, {"features": one}, weight=6.0),
        _prediction("table, 64 rows", TABLE, {"features": many}, weight=2.0),
        _prediction("table, a column missing", TABLE, {"features": wrong}, code="INVALID_ARGUMENT", weight=0.5),
        _prediction(
            "table, no such class",
            TABLE,
            {"features": one},
            code="INVALID_ARGUMENT",
            priorities=("nobody",),
            weight=0.3,
        ),
        _prediction(
            "table, explained",
            TABLE,
            {"features": one},
            [_spec("integrated-gradients", steps=8), _spec("saliency"), _spec("kernel-shap", samples=128)],
            priorities=("", "interactive", "bulk"),
        ),
        _attribution("table, a tolerance", TABLE, one, _spec("integrated-gradients", tolerance=0.001), adaptive=True),
    ]
    for method in methods:
        spec = _spec(method, **_TABLE_PARAMETERS.get(method, {}))
        found.append(_attribution(f"table, {method}", TABLE, one, spec, weight=1.5))
        found.append(_attribution(f"4 rows, {method}", TABLE, _tensor(_cells(random, 4)), spec, weight=0.5))
    return found


def _about_trees(methods: Iterable[str], random: np.random.Generator) -> list[tuple[Entry, bytes]]:
    rows = input_pb2.Table(rows=[_diabetes_row(random) for _ in range(3)])
    given = input_pb2.Input(table=rows)
    found = [
        _prediction("trees, 3 rows", TREES, {"features": given}, weight=2.0),
        _attribution("trees, saliency", TREES, given, _spec("saliency"), code="FAILED_PRECONDITION", weight=0.5),
    ]
    for method in methods:
        spec = _spec(method, **_TABLE_PARAMETERS.get(method, {}))
        found.append(_attribution(f"trees, {method}", TREES, given, spec, weight=0.5))
    return found


def _about_pictures(methods: Iterable[str], random: np.random.Generator) -> list[tuple[Entry, bytes]]:
    picture = input_pb2.Input(pictures=input_pb2.Pictures(encoded=[_photograph(random)]))
    noise = _tensor(random.normal(size=(2, 3, 224, 224)).astype(np.float32))
    found = [
        _prediction("picture", PICTURE, {"image": picture}, weight=4.0),
        _prediction("pictures, as arrays", PICTURE, {"image": noise}),
        _prediction(
            "picture, explained", PICTURE, {"image": picture}, [_spec("saliency")], priorities=("", "bulk"), weight=0.3
        ),
        _attribution(
            "picture, many samples",
            PICTURE,
            picture,
            _spec("smoothgrad", samples=64),
            adaptive=True,
            seconds=2.0,
            weight=0.2,
        ),
        _attribution(
            "picture, a tolerance",
            PICTURE,
            picture,
            _spec("integrated-gradients", tolerance=0.002, max_rows=96),
            adaptive=True,
            seconds=3.0,
            weight=0.2,
        ),
    ]
    for method in methods:
        if method in _PICTURE_PARAMETERS:
            spec = _spec(method, **_PICTURE_PARAMETERS[method])
            found.append(_attribution(f"picture, {method}", PICTURE, picture, spec, weight=0.25))
    return found


def _prediction(
    name: str,
    model: str,
    inputs: Mapping[str, input_pb2.Input],
    explanations: Sequence[explanation_pb2.ExplanationSpec] = (),
    **about: Any,
) -> tuple[Entry, bytes]:
    about.setdefault("priorities", ("", "predictions"))
    return Entry(name, EXPLANATIONS + "Predict", **about), _predict(model, inputs, explanations)


def _predict(
    model: str,
    inputs: Mapping[str, input_pb2.Input],
    explanations: Sequence[explanation_pb2.ExplanationSpec] = (),
) -> bytes:
    named = explanation_pb2.ModelSpec(name=model)
    request = explanation_service_pb2.PredictRequest(model=named, inputs=inputs, explanations=explanations)
    return bytes(request.SerializeToString())


def _attribution(
    name: str, model: str, given: input_pb2.Input, spec: explanation_pb2.ExplanationSpec, **about: Any
) -> tuple[Entry, bytes]:
    request = explanation_service_pb2.AttributeRequest(
        model=explanation_pb2.ModelSpec(name=model),
        inputs={"image" if model == PICTURE else "features": given},
        explanation=spec,
    )
    return Entry(name, EXPLANATIONS + "Attribute", **about), bytes(request.SerializeToString())


def _spec(method: str, *, tolerance: float | None = None, **parameters: Any) -> explanation_pb2.ExplanationSpec:
    kinds = {bool: "flag", int: "integer", float: "real", str: "text"}
    values = {name: explanation_pb2.ParamValue(**{kinds[type(value)]: value}) for name, value in parameters.items()}
    return explanation_pb2.ExplanationSpec(method=method, parameters=values, tolerance=tolerance, seed=7)


def _tensor(array: npt.NDArray[Any]) -> input_pb2.Input:
    return input_pb2.Input(tensor=to_tensor(array))


def _cells(random: np.random.Generator, rows: int) -> npt.NDArray[np.float32]:
    return np.abs(random.normal(12, 5, (rows, 30))).astype(np.float32)


def _diabetes_row(random: np.random.Generator) -> input_pb2.Row:
    numbers = {
        "age": random.uniform(20, 79),
        "body mass index": random.uniform(18, 42),
        "blood pressure": random.uniform(62, 130),
        "total cholesterol": random.uniform(110, 300),
        "low-density lipoproteins": random.uniform(42, 240),
        "high-density lipoproteins": random.uniform(22, 99),
        "cholesterol ratio": random.uniform(2, 9),
        "log triglycerides": random.uniform(3.3, 6.1),
        "blood sugar": random.uniform(58, 124),
    }
    cells = {name: input_pb2.Cell(number=float(value)) for name, value in numbers.items()}
    return input_pb2.Row(cells={**cells, "sex": input_pb2.Cell(category=str(random.integers(1, 3)))})


def _photograph(random: np.random.Generator) -> bytes:
    """Return a JPEG file of blurred noise, 320 by 256 pixels: regions and edges, and nobody's rights."""
    coarse = random.integers(0, 256, (8, 10, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()
