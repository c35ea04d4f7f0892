"""Labelled data sets and studies over them, through the real server: against predictions of the rows by hand."""

import csv
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import DIABETES_ROW, TABLE_MODEL, TREES_MODEL
from e2e.serving import LONG_SECONDS, Server, serve
from pellucid import Client, Mean, Zero, aio, tensors
from pellucid.findings import Findings
from pellucid.findings_messages import read_findings
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2, input_pb2
from sklearn.datasets import load_breast_cancer, load_diabetes

Floats = npt.NDArray[np.float64]

LABELS = ("M", "B")
GROUPS = ("large", "small")

_TOML = """
description = "Measurements of 569 tumours."
kind = "table"
data = "rows.csv"
label = "diagnosis"
groups = ["size", "mean texture"]
ignored = ["patient"]
[classes]
M = "malignant"
B = "benign"
"""

_PROGRESSION = """
kind = "table"
data = "rows.csv"
label = "progression"
groups = ["sex"]
"""


@pytest.fixture(scope="module")
def rows(table: Floats, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of the data set's table, the texture in whole tens so that it can group."""
    found = []
    for number, (row, label) in enumerate(zip(table, load_breast_cancer().target, strict=True)):
        cells: dict[str, Any] = dict(zip(columns, row.tolist(), strict=True))
        cells["mean texture"] = float(10 * (cells["mean texture"] // 10))
        size = GROUPS[int(row[0] < 13)]
        # Some labels are wrong, so that the accuracy is not 1 in any group.
        wrong = number % 9 == 0
        found.append({"patient": f"p{number}", **cells, "diagnosis": LABELS[int(label) ^ wrong], "size": size})
    return found


@pytest.fixture(scope="module")
def datasets(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set for the table model, one with a wrong row, one with none, and a broken one."""
    folder = tmp_path_factory.mktemp("sets") / "datasets"
    for name in ("tumours", "wrong-row", "broken", "swapped"):
        (folder / name).mkdir(parents=True)
        (folder / name / "dataset.toml").write_text(_TOML.replace("size", "seize") if name == "broken" else _TOML)
        with (folder / name / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            if name == "swapped":
                continue
            writer.writerows(rows)
            if name == "wrong-row":
                writer.writerow({**rows[0], "mean radius": "twelve"})
    (folder / "progression").mkdir()
    (folder / "progression" / "dataset.toml").write_text(_PROGRESSION)
    with (folder / "progression" / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*DIABETES_ROW, "progression"])
        data = load_diabetes(scaled=False)
        table.writerows([*row, label] for row, label in zip(data.data.tolist(), data.target, strict=True))
    return folder


@pytest.fixture(scope="module")
def served(models: Path, datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the two table models; the data sets lie beside them, where it looks for them by itself."""
    repository = datasets.parent / "models"
    repository.mkdir()
    for name in (TABLE_MODEL, TREES_MODEL):
        (repository / name).symlink_to(models / name, target_is_directory=True)
    with serve(repository, tmp_path_factory.mktemp("datasets")) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[Client]:
    with Client(served.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def right(client: Client, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Whether each row is predicted as it is labelled, by `Predict`."""
    given = [{name: row[name] for name in columns} for row in rows]
    found = np.asarray(client.predict(TABLE_MODEL, given).outputs["output"]).argmax(1)
    return found == np.array([LABELS.index(row["diagnosis"]) for row in rows])


def ablate(server: Server, *, seconds: float = LONG_SECONDS, **fields: Any) -> list[Findings]:
    settings: dict[str, Any] = {"method": "ablation-study", "dataset": "tumours", **fields}
    parameters = {
        name: explanation_pb2.ParamValue(**{"flag" if isinstance(value, bool) else "integer": value})
        for name, value in settings.pop("parameters", {}).items()
    }
    request = explanation_service_pb2.AblateRequest(
        model=explanation_pb2.ModelSpec(name=TABLE_MODEL), parameters=parameters, **settings
    )
    answers = list(server.explanations.Ablate(request, timeout=seconds))
    assert [each.part for each in answers if each.HasField("findings")] == list(range(len(answers)))
    return [read_findings(each.findings) for each in answers]


def refused(server: Server, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ablate(server, **fields)
    return caught.value.code(), caught.value.details() or ""


def intervention(layer: str, kind: str = "ZERO", **fields: Any) -> ablation_pb2.Intervention:
    return ablation_pb2.Intervention(sites=[ablation_pb2.Site(layer=layer)], kind=f"INTERVENTION_KIND_{kind}", **fields)


def lines(parts: list[Findings], name: str = "accuracy") -> list[Mapping[str, Any]]:
    return [line for part in parts if name in part.tables for line in part.tables[name]]


def test_the_data_sets_are_listed_with_what_is_wrong_with_the_broken_one(client: Client, served: Server) -> None:
    broken, _, _, tumours, _ = client.datasets()

    assert (broken.name, broken.state) == ("broken", "broken")
    assert "no column 'seize'; it has: size" in broken.reason
    assert (tumours.kind, tumours.rows, tumours.state) == ("table", 569, "ready")
    assert (tumours.groups, tumours.classes) == (("size", "mean texture"), ("M", "B"))
    assert tumours.description == "Measurements of 569 tumours."
    assert len(tumours.digest) == 64
    assert served.lines("the data set broken cannot be read")


async def test_the_asynchronous_client_and_the_command_list_the_same(client: Client, served: Server) -> None:
    async with aio.AsyncClient(served.address) as connected:
        assert await connected.datasets() == client.datasets()

    command = [str(Path(sys.executable).parent / "pellucid"), "datasets", "--json", "--address", served.address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [each.to_dict() for each in client.datasets()]


def test_a_server_without_the_folder_has_no_data_sets(server: Server) -> None:
    with Client(server.address) as connected:
        assert connected.datasets() == ()


def test_accuracy_is_that_of_the_predictions_of_all_rows_by_hand(
    served: Server, rows: list[dict[str, Any]], right: npt.NDArray[np.bool_]
) -> None:
    parts = ablate(served)

    found = {(line["by"], line["group"]): line for line in lines(parts)}
    wanted: dict[tuple[str, str], list[bool]] = {}
    for row, hit in zip(rows, right, strict=True):
        label = "malignant" if row["diagnosis"] == "M" else "benign"
        texture = str(row["mean texture"])
        for key in (("all", ""), ("class", label), ("size", row["size"]), ("mean texture", texture)):
            wanted.setdefault(key, []).append(bool(hit))
    assert set(found) == set(wanted)
    for key, hits in wanted.items():
        assert found[key]["rows"] == len(hits)
        assert found[key]["accuracy"] == pytest.approx(sum(hits) / len(hits), abs=1e-9)
        assert found[key]["low"] <= found[key]["accuracy"] <= found[key]["high"]
    assert 0.5 < found["all", ""]["accuracy"] < 0.95
    last = parts[-1]
    assert last.accuracy is not None
    assert last.accuracy.partial is False
    assert last.receipt is not None
    assert last.receipt.method == "ablation-study"


def test_an_ablated_column_and_layer_are_as_predictions_of_changed_rows_say(
    served: Server, client: Client, rows: list[dict[str, Any]], columns: tuple[str, ...]
) -> None:
    with np.load(Path(__file__).parents[2] / "models" / TABLE_MODEL / "background.npz") as file:
        background = file["features"]
    place = columns.index("worst area")
    info = client.model(TABLE_MODEL)
    assert info.background_rows == len(background)
    changes = [
        intervention("input:features[worst area]", "MEAN", reference=ablation_pb2.REFERENCE_BACKGROUND),
        intervention("hidden1", "ZERO"),
    ]

    parts = ablate(served, interventions=changes)

    # A standardized value is (value - mean) / deviation, by the background's own: both are in the manifest.
    manifest = tomllib.loads((Path(__file__).parents[2] / "models" / TABLE_MODEL / "model.toml").read_text())
    column = manifest["inputs"][0]["columns"][place]
    mean = column["mean"] + column["standard_deviation"] * float(background[:, place].astype(np.float64).mean())
    given = [{**{name: row[name] for name in columns}, "worst area": mean} for row in rows]
    predicted = np.asarray(client.predict(TABLE_MODEL, given).outputs["output"]).argmax(1)
    labels = np.array([LABELS.index(row["diagnosis"]) for row in rows])
    found = {(line["change"], line["by"], line["group"]): line for line in lines(parts)}
    assert found["input:features[worst area] mean", "all", ""]["accuracy"] == pytest.approx(
        (predicted == labels).mean()
    )
    for size in GROUPS:
        of = np.array([row["size"] == size for row in rows])
        accuracy = found["input:features[worst area] mean", "size", size]["accuracy"]
        assert accuracy == pytest.approx((predicted == labels)[of].mean())
    # With the first layer at zero every row is the same to the model.
    by_class = [found["hidden1 zero", "class", name]["accuracy"] for name in ("malignant", "benign")]
    assert sorted(by_class) == [0.0, 1.0]


def test_the_dataset_is_a_reference_of_other_methods_too(served: Server, columns: tuple[str, ...]) -> None:
    row = input_pb2.Input(tensor=tensors.to_tensor(load_breast_cancer().data[:1]))
    parts = ablate(served, method="ablation", inputs={"features": row}, interventions=[intervention("hidden1", "MEAN")])

    assert len(lines(parts, "effects")) == 1


@pytest.mark.parametrize("method", ["ablation", "ablation-study"])
def test_data_sets_that_are_empty_or_swapped_after_the_start_are_refused_alike_by_every_method(
    served: Server, datasets: Path, method: str
) -> None:
    fields: dict[str, Any] = {
        "method": method,
        "dataset": "swapped",
        "interventions": [intervention("hidden1", "MEAN")],
    }
    if method == "ablation":
        fields["inputs"] = {"features": input_pb2.Input(tensor=tensors.to_tensor(load_breast_cancer().data[:1]))}
    rows = datasets / "swapped" / "rows.csv"
    header, outside = rows.read_bytes(), datasets.parent / "outside.csv"
    outside.write_bytes((datasets / "tumours" / "rows.csv").read_bytes())
    found = [refused(served, **fields)]

    for act in (lambda: rows.symlink_to(outside), lambda: os.mkfifo(rows), lambda: None):
        rows.unlink(missing_ok=True)
        act()
        found.append(refused(served, **fields, seconds=20.0))
    rows.unlink(missing_ok=True)
    rows.write_bytes(header)
    os.utime(rows, (0, 0))  # As if it had not changed just now.

    words = ("it has no rows", "leads out of the data set's folder", "is not a plain file", "cannot be read")
    for (code, text), expected in zip(found, words, strict=True):
        assert code is grpc.StatusCode.FAILED_PRECONDITION, text
        assert expected in text
        assert str(datasets) not in text


def test_a_study_that_is_cut_off_has_the_rows_so_far(served: Server) -> None:
    change = intervention("hidden1", "NOISE", draws=1024, value=1.0)

    parts = ablate(served, interventions=[change], seconds=4.0)

    assert parts[-1].accuracy is not None
    assert parts[-1].accuracy.partial is True
    assert 0 < lines(parts)[0]["rows"] < 569


def test_a_study_whose_worker_is_killed_goes_on_and_has_the_table_of_all_rows(served: Server) -> None:
    request = explanation_service_pb2.AblateRequest(
        model=explanation_pb2.ModelSpec(name=TABLE_MODEL),
        method="ablation-study",
        dataset="tumours",
        interventions=[intervention("hidden1", "NOISE", draws=16, value=1.0)],
    )
    expected = [read_findings(each.findings) for each in served.explanations.Ablate(request, timeout=LONG_SECONDS)]
    pid = served.worker_pid()

    call = served.explanations.Ablate(request, timeout=LONG_SECONDS)
    parts = [next(call)]
    os.kill(pid, signal.SIGKILL)
    parts += list(call)

    found = [read_findings(each.findings) for each in parts if each.HasField("findings")]
    assert served.worker_pid() != pid
    for name, columns in {"running": ("change", "rows"), "accuracy": ("change", "by", "group", "rows")}.items():
        first, second = ([[line[each] for each in columns] for line in lines(some, name)] for some in (expected, found))
        assert first == second
    assert lines(found)[0]["rows"] == 569
    assert found[-1].accuracy is not None
    assert found[-1].accuracy.partial is False


def test_a_wrong_cell_is_neither_in_the_message_nor_in_the_log(served: Server) -> None:
    code, text = refused(served, dataset="wrong-row")

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "rows.csv, line 571, column 'mean radius': it must be a number." in text
    assert "twelve" not in text
    assert not served.lines("twelve")


def test_the_client_gives_the_same_and_says_what_it_rests_on(served: Server, client: Client) -> None:
    found = client.ablate(TABLE_MODEL, None, Zero("hidden2[0-31]"), method="ablation-study", dataset="tumours")

    expected = lines(
        ablate(
            served,
            interventions=[
                ablation_pb2.Intervention(
                    sites=[ablation_pb2.Site(layer="hidden2", units=range(32))], kind="INTERVENTION_KIND_ZERO"
                )
            ],
        )
    )
    assert list(found.tables["accuracy"]) == expected
    assert found.receipt is not None
    (tumours,) = (each for each in client.datasets() if each.name == "tumours")
    assert found.receipt.input_digest == tumours.digest


def test_numbers_that_are_predicted_have_errors_by_group_as_worked_out_by_hand(client: Client) -> None:
    data = load_diabetes(scaled=False)
    rows = [dict(zip(DIABETES_ROW, row, strict=True)) for row in data.data.tolist()]
    mean = np.mean([row["body mass index"] for row in rows])

    found = client.ablate(
        TREES_MODEL, None, Mean("input:features[body mass index]"), method="ablation-study", dataset="progression"
    )

    # Of 442 rows the mean is taken over 256, which other rows in their place would change a little.
    for change, given in (("none", rows), ("mean", [{**row, "body mass index": mean} for row in rows])):
        predicted = np.asarray(client.predict(TREES_MODEL, given).outputs["progression"]).reshape(-1)
        misses = predicted - data.target
        for sex in (1.0, 2.0):
            of = data.data[:, 1] == sex
            (line,) = (
                each
                for each in found.tables["errors"]
                if each["change"].endswith(change) and each["by"] == "sex" and float(each["group"]) == sex
            )
            exact = 1e-6 if change == "none" else 0.02
            assert line["rows"] == of.sum()
            assert line["mean absolute error"] == pytest.approx(np.abs(misses[of]).mean(), rel=exact)
            assert line["mean squared error"] == pytest.approx(np.square(misses[of]).mean(), rel=2 * exact)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"dataset": "tumors"}, grpc.StatusCode.NOT_FOUND, "Did you mean 'tumours'"),
        ({"dataset": "broken"}, grpc.StatusCode.FAILED_PRECONDITION, "no column 'seize'"),
        ({"dataset": "wrong-row"}, grpc.StatusCode.FAILED_PRECONDITION, "rows.csv, line 571"),
        ({"interventions": [intervention("hiden1")]}, grpc.StatusCode.NOT_FOUND, "hidden1"),
        ({"interventions": [intervention("input:features[worst aria]")]}, grpc.StatusCode.NOT_FOUND, "'worst area'"),
        ({"interventions": [intervention("input:feature[x]")]}, grpc.StatusCode.INVALID_ARGUMENT, "input:features["),
        (
            {"interventions": [intervention("input:features[worst area]", "SCALE", value=2.0)]},
            grpc.StatusCode.INVALID_ARGUMENT,
            "ZERO, MEAN, RESAMPLE",
        ),
        ({"interventions": [intervention("hidden1", "PATCH")]}, grpc.StatusCode.INVALID_ARGUMENT, "source rows"),
        (
            {"interventions": [intervention("hidden1", "MEAN", reference=ablation_pb2.REFERENCE_BATCH)]},
            grpc.StatusCode.INVALID_ARGUMENT,
            "DATASET or BACKGROUND",
        ),
        ({"metric": ablation_pb2.METRIC_PROBABILITY}, grpc.StatusCode.INVALID_ARGUMENT, "metric"),
        (
            {"target": explanation_pb2.Target(output="output", outcome=explanation_pb2.Outcome(label="benign"))},
            grpc.StatusCode.INVALID_ARGUMENT,
            "target.outcome",
        ),
        ({"target": explanation_pb2.Target(output="outputs")}, grpc.StatusCode.INVALID_ARGUMENT, "its outputs: output"),
        ({"parameters": {"bootstrap": 20_000}}, grpc.StatusCode.INVALID_ARGUMENT, "[0, 10000]"),
        ({"dataset": "", "method": "ablation-study"}, grpc.StatusCode.INVALID_ARGUMENT, "dataset"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_cannot_be_answered_is_refused_with_what_would_be_right(
    served: Server, fields: Mapping[str, Any], code: grpc.StatusCode, words: str
) -> None:
    found, text = refused(served, **fields)

    assert found is code, text
    assert words in text
