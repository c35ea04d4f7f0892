"""Tables by name, on the real server: the order of the columns changes no answer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from e2e.messages import DIABETES_ROW, TABLE_MODEL, TREES_MODEL, failure, predict, table_rows, violated_fields
from e2e.serving import Server
from pellucid import Client, ExplanationSpec
from pellucid.errors import InvalidRequestError

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def frame(table: Floats, columns: tuple[str, ...]) -> pd.DataFrame:
    """The breast-cancer set's first rows, the columns in the order of the alphabet."""
    return pd.DataFrame(table[:5], columns=list(columns)).sort_index(axis=1)


def command(server: Server, *words: str) -> Any:
    path = str(Path(sys.executable).parent / "pellucid")
    done = subprocess.run(
        [path, *words, "--json", "--address", server.address], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sorted_columns_are_the_same_rows_however_they_are_given(
    client: Client, server: Server, table: Floats, frame: pd.DataFrame, tmp_path: Path
) -> None:
    frame.to_csv(tmp_path / "rows.csv", index=False)
    forms = [
        frame,
        frame.sample(frac=1.0, axis=1, random_state=4).astype("Float64"),
        pl.from_pandas(frame),
        pa.Table.from_pandas(frame, preserve_index=False),
        frame.to_records(index=False),
        frame.to_dict("records"),
        tmp_path / "rows.csv",
    ]
    expected = client.predict(TABLE_MODEL, table[:5])

    digests = {client.predict(TABLE_MODEL, form).receipt.input_digest for form in forms}

    assert digests == {expected.receipt.input_digest}
    first = client.predict(TABLE_MODEL, frame.iloc[0]).top[0][0]
    assert (first.label, round(first.probability or 0, 2)) == ("malignant", 0.99)
    found = command(server, "predict", TABLE_MODEL, str(tmp_path / "rows.csv"))
    np.testing.assert_allclose(found["outputs"]["output"], expected.outputs["output"], rtol=1e-5)


def test_an_explanation_of_a_frame_has_the_values_of_its_rows(client: Client, frame: pd.DataFrame) -> None:
    spec = ExplanationSpec("kernel-shap", {"samples": 256}, baseline=frame.iloc[4])

    by_frame = client.attribute_rows(TABLE_MODEL, frame.head(2), spec)
    by_dict = client.attribute_rows(
        TABLE_MODEL,
        frame.head(2).to_dict("records"),
        ExplanationSpec("kernel-shap", {"samples": 256}, baseline=dict(frame.iloc[4])),
    )

    for one, other in zip(by_frame, by_dict, strict=True):
        assert one.by_column == pytest.approx(other.by_column, rel=1e-5, abs=1e-6)
        assert one.receipt.baseline_digest == other.receipt.baseline_digest
    assert by_frame[1].sources["features"] == frame.iloc[1].to_dict()


@pytest.mark.parametrize("sex", [2, 2.0, np.int64(2), "2"])
def test_a_code_is_its_category(client: Client, server: Server, sex: Any) -> None:
    expected = client.predict(TREES_MODEL, DIABETES_ROW).outputs["progression"]

    found = client.predict(TREES_MODEL, pd.DataFrame([{**DIABETES_ROW, "sex": sex}]))
    raw = server.explanations.Predict(predict(TREES_MODEL, {"features": table_rows([{**DIABETES_ROW, "sex": 2.0}])}))

    np.testing.assert_array_equal(found.outputs["progression"], expected)
    assert raw.receipt.input_digest == found.receipt.input_digest


def test_a_code_that_is_no_category_is_refused_for_any_client(client: Client, server: Server) -> None:
    row = {**DIABETES_ROW, "sex": 0.0}

    error = failure(lambda: server.explanations.Predict(predict(TREES_MODEL, {"features": table_rows([row])})))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error) == ['inputs["features"].table.rows[0].cells["sex"]']
    assert "is the number 0.0; it must be a category, one of: 1, 2" in str(error.details())
    with pytest.raises(InvalidRequestError, match="it takes: '1', '2'"):
        client.predict(TREES_MODEL, row)


def test_more_rows_than_a_model_takes_are_refused_with_the_number(client: Client, frame: pd.DataFrame) -> None:
    with pytest.raises(InvalidRequestError, match="has 1025 rows"):
        client.predict(TABLE_MODEL, pd.concat([frame] * 205))
