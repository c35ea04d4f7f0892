"""Counterfactuals through the real server: every answer is sent to Predict again, as a caller would."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import (
    DIABETES_ROW,
    PICTURE_MODEL,
    TABLE_MODEL,
    TREES_MODEL,
    details,
    failure,
    param,
    pictures,
    predict,
    rows,
    table_rows,
    violated_fields,
)
from e2e.serving import LONG_SECONDS, Server, serve
from e2e.small_models import SCORES, write_scores
from pellucid.findings import Findings
from pellucid.findings_messages import read_findings
from pellucid.tensors import from_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2
from PIL import Image

Floats = npt.NDArray[np.float64]


def ask(model: str, inputs: Any, parameters: Any = (), **fields: Any) -> Any:
    return explanation_service_pb2.AblateRequest(
        model=explanation_pb2.ModelSpec(name=model),
        inputs=inputs,
        method="counterfactual",
        parameters={name: param(value) for name, value in dict(parameters).items()},
        **fields,
    )


def answer(server: Server, request: Any, timeout: float = LONG_SECONDS) -> list[Findings]:
    return [read_findings(part.findings) for part in server.explanations.Ablate(request, timeout=timeout)]


def lines(found: Findings, name: str) -> list[dict[str, Any]]:
    """Return a table as a dict for each of its rows."""
    columns = found.tables[name].columns
    count = len(next(iter(columns.values())).values)
    return [{key: _plain(column.values[at]) for key, column in columns.items()} for at in range(count)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def says(server: Server, model: str, inputs: Any) -> Floats:
    reply = server.explanations.Predict(predict(model, inputs), timeout=LONG_SECONDS)
    (output,) = reply.outputs.values()
    return from_tensor(output.values)


@pytest.mark.parametrize("distance", ["l1", "l2", "l0"])
def test_a_tumour_is_turned_by_a_row_that_predict_agrees_on(
    server: Server, table: Floats, columns: tuple[str, ...], distance: str
) -> None:
    chosen = table[[0, 20, 60]]
    parts = answer(server, ask(TABLE_MODEL, {"features": rows(chosen)}, {"distance": distance}))

    assert len(parts) == 4
    before = says(server, TABLE_MODEL, {"features": rows(chosen)}).argmax(axis=1)
    for number, part in enumerate(parts[:3]):
        line, made = lines(part, "counterfactuals")[0], lines(part, "rows")[0]
        assert (line["row"], line["found"], line["valid"]) == (number, True, True)
        row = {name: made[name] for name in columns}
        assert says(server, TABLE_MODEL, {"features": table_rows([row])})[0].argmax() == 1 - before[number]
        changes = lines(part, "changes")
        assert {each["column"] for each in changes} == {
            name for at, name in enumerate(columns) if row[name] != chosen[number, at]
        }
        for each in changes:
            assert float(each["after"]) == each["after_value"] == row[each["column"]]
        if line["minimal"]:
            backs = [{**row, each["column"]: float(chosen[number, columns.index(each["column"])])} for each in changes]
            assert (says(server, TABLE_MODEL, {"features": table_rows(backs)}).argmax(axis=1) == before[number]).all()
    receipt = parts[-1].receipt
    assert receipt is not None
    assert receipt.method == "counterfactual"
    assert receipt.model.digest


def test_trees_are_searched_without_gradients_and_columns_keep_to_their_rules(server: Server) -> None:
    before = float(says(server, TREES_MODEL, {"features": table_rows([DIABETES_ROW])}).reshape(-1)[0])
    rules = [
        ablation_pb2.ColumnRule(column="age", fixed=True),
        ablation_pb2.ColumnRule(column="sex", fixed=True),
        ablation_pb2.ColumnRule(column="body mass index", only_down=True, minimum=22),
        ablation_pb2.ColumnRule(column="blood pressure", whole=True, only_down=True),
    ]
    request = ask(
        TREES_MODEL,
        {"features": table_rows([DIABETES_ROW])},
        {"k": 2},
        wanted=ablation_pb2.Wanted(maximum=before - 40),
        columns=rules,
        seed=3,
    )
    parts = answer(server, request)

    made = lines(parts[0], "rows")
    assert made
    for line, row in zip(lines(parts[0], "counterfactuals"), made, strict=True):
        cells = {name: row[name] for name in DIABETES_ROW}
        score = float(says(server, TREES_MODEL, {"features": table_rows([cells])}).reshape(-1)[0])
        assert score <= before - 40
        assert line["score_before"] == pytest.approx(before, rel=1e-5)
        assert line["score_after"] == pytest.approx(score, rel=1e-5)
        assert (cells["age"], cells["sex"]) == (DIABETES_ROW["age"], DIABETES_ROW["sex"])
        assert 22 <= float(cells["body mass index"]) <= float(DIABETES_ROW["body mass index"])
        assert float(cells["blood pressure"]) == round(float(cells["blood pressure"])) <= 101
    assert lines(answer(server, request)[0], "rows") == made


def test_a_picture_comes_back_as_one_that_predict_calls_something_else(server: Server, cat: bytes) -> None:
    parts = answer(server, ask(PICTURE_MODEL, {"image": pictures(cat)}, {"distance": "l2"}))

    (picture,) = parts[0].pictures.values()
    line = lines(parts[0], "counterfactuals")[0]
    before = says(server, PICTURE_MODEL, {"image": pictures(cat)})[0].argmax()
    after = says(server, PICTURE_MODEL, {"image": pictures(picture.data)})[0].argmax()
    row = says(server, PICTURE_MODEL, {"image": rows(parts[0].arrays["counterfactual/0/image"].values[None])})[0]
    assert line["found"]
    assert after != before
    assert row.argmax() == after
    assert Image.open(io.BytesIO(picture.data)).size == (picture.width, picture.height)


def test_what_is_wanted_may_be_named(server: Server, table: Floats) -> None:
    wanted = ablation_pb2.Wanted(outcome=explanation_pb2.Outcome(label="benign"))
    found = answer(server, ask(TABLE_MODEL, {"features": rows(table[[0, 20]])}, wanted=wanted))

    assert [lines(part, "counterfactuals")[0]["prediction_after"] for part in found[:2]] == ["benign", "benign"]
    assert lines(found[1], "counterfactuals")[0]["source"] == "row"


def test_a_deadline_ends_with_an_answer_and_not_with_a_hang(server: Server, table: Floats) -> None:
    begin = time.monotonic()
    parts = answer(
        server, ask(TABLE_MODEL, {"features": rows(table[:40])}, {"evaluations": 1_000_000, "k": 16}), timeout=4.0
    )

    assert time.monotonic() - begin < 4.0
    assert parts[-1].accuracy is not None
    assert parts[-1].accuracy.partial


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        (
            {"columns": [ablation_pb2.ColumnRule(column="worst radios")]},
            "columns[0].column",
            ["'worst radios'", "worst radius"],
        ),
        (
            {
                "columns": [
                    ablation_pb2.ColumnRule(column="mean area"),
                    ablation_pb2.ColumnRule(column="worst radius", categories=["a"]),
                ]
            },
            "columns[1].categories",
            ["'worst radius' is numeric"],
        ),
        (
            {"columns": [ablation_pb2.ColumnRule(column="worst radius", minimum=99)]},
            "columns[0].minimum",
            ["99", "36.04"],
        ),
        (
            {"columns": [ablation_pb2.ColumnRule(column="worst radius", maximum=10, only_up=True)]},
            "columns[0].maximum",
            ["25.38", "row 0", "only become larger"],
        ),
        (
            {"columns": [ablation_pb2.ColumnRule(column="worst radius", minimum=20.2, maximum=20.8, whole=True)]},
            "columns[0].whole",
            ["no whole number from 20.2 to 20.8"],
        ),
        (
            {"wanted": ablation_pb2.Wanted(outcome=explanation_pb2.Outcome(label="benig"))},
            "wanted.outcome.label",
            ["'benig'", "benign"],
        ),
        ({"dataset": "adult"}, "dataset", ["leave it out"]),
        ({"metric": ablation_pb2.METRIC_PROBABILITY}, "metric", ["leave it out"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_questions_are_refused_with_the_path_of_the_field(
    server: Server, table: Floats, fields: Any, path: str, words: list[str]
) -> None:
    request = ask(TABLE_MODEL, {"features": rows(table[:1])}, **fields)
    error = failure(lambda: answer(server, request))

    assert violated_fields(error) == [path]
    assert all(word in error.details() for word in words), error.details()


def test_a_category_that_there_is_not_is_refused_with_those_that_are_near(server: Server) -> None:
    rule = ablation_pb2.ColumnRule(column="sex", categories=["1", "3"])
    error = failure(lambda: answer(server, ask(TREES_MODEL, {"features": table_rows([DIABETES_ROW])}, columns=[rule])))

    assert violated_fields(error) == ["columns[0].categories"]
    assert "'3'" in error.details()
    assert "1, 2" in error.details()


def test_one_number_has_no_other_outcome(server: Server) -> None:
    error = failure(lambda: answer(server, ask(TREES_MODEL, {"features": table_rows([DIABETES_ROW])})))

    assert violated_fields(error) == ["wanted"]
    assert "wanted.minimum" in error.details()


def test_rows_of_the_background_are_shown_only_where_the_manifest_says_so(server: Server, table: Floats) -> None:
    error = failure(lambda: answer(server, ask(TABLE_MODEL, {"features": rows(table[:1])}, {"nearest_row": True})))

    assert "PreconditionFailure" in details(error)
    assert "disclosable" in error.details()


@pytest.fixture(scope="module")
def disclosing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the small models, whose table may show its background."""
    folder: Path = tmp_path_factory.mktemp("small")
    write_scores(folder)
    manifest = folder / SCORES / "model.toml"
    text = manifest.read_text()
    assert 'background = "background.npz"\n' in text
    text = text.replace('background = "background.npz"\n', "")
    manifest.write_text(text + '\n[background]\nfile = "background.npz"\ndisclosable = true\n')
    with serve(folder, tmp_path_factory.mktemp("disclosing")) as running:
        yield running


def test_a_disclosable_background_gives_its_nearest_row_and_categories_come_back_by_name(disclosing: Server) -> None:
    row = {"width": 11.0, "height": 0.5, "colour": "green"}
    own = says(disclosing, SCORES, {"features": table_rows([row])})[0].argmax()
    parts = answer(disclosing, ask(SCORES, {"features": table_rows([row])}, {"nearest_row": True, "k": 2}))

    sources = {line["source"] for line in lines(parts[0], "counterfactuals")}
    assert "background" in sources
    for made in lines(parts[0], "rows"):
        cells = {name: made[name] for name in row}
        assert cells["colour"] in ("red", "green", "blue")
        assert says(disclosing, SCORES, {"features": table_rows([cells])})[0].argmax() != own
