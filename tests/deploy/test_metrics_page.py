"""The metrics page of a running server before Prometheus' own checks."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e.conftest import models  # noqa: F401 - a fixture
from e2e.messages import DIABETES_ROW, TABLE_MODEL, TREES_MODEL, attribute, failure, predict, rows, spec, table_rows
from e2e.serving import Server, serve

pytestmark = pytest.mark.deploy

GOOD = {"features": rows(np.full((2, 30), 1.0))}


@pytest.fixture(scope="module")
def page(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811 - the fixture
    """The page of a server that has done some of everything."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (TABLE_MODEL, TREES_MODEL):
        (folder / name).symlink_to(models / name, target_is_directory=True)
    (folder / "damaged" / "1").mkdir(parents=True)
    (folder / "damaged" / "model.toml").write_text("[[inputs]]\n")
    with serve(folder, tmp_path_factory.mktemp("server"), as_users_do=True) as server:
        ask(server)
        yield server.metrics()


def ask(server: Server) -> None:
    server.explanations.Predict(predict(TABLE_MODEL, GOOD))
    server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, spec("integrated-gradients", tolerance=0.01)))
    server.explanations.Attribute(attribute(TREES_MODEL, {"features": table_rows([DIABETES_ROW])}, spec("kernel-shap")))
    failure(lambda: server.explanations.Predict(predict("nobody", GOOD)))


def test_promtool_finds_nothing_wrong_with_the_page(page: str) -> None:
    found = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)

    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_promtool_would_find_a_counter_without_its_ending() -> None:
    bad = "# HELP things Things.\n# TYPE things counter\nthings 1\n"

    found = subprocess.run(["promtool", "check", "metrics"], input=bad, text=True, capture_output=True, check=False)

    assert found.returncode != 0
    assert "_total" in found.stderr


@pytest.mark.parametrize(
    "metric",
    [
        "pellucid_request_seconds_bucket",
        "pellucid_rows_evaluated_total",
        "pellucid_approximation_error_bucket",
        "pellucid_attribution_share_sum_total",
        "pellucid_model_info",
        "pellucid_model_broken",
        "grpc_server_call_duration_seconds_bucket",
    ],
)
def test_the_page_that_was_checked_had_samples(page: str, metric: str) -> None:
    assert f"\n{metric}{{" in page
