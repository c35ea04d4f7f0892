"""What the metrics page says after real requests."""

from dataclasses import dataclass

import numpy as np
import pytest
from e2e.messages import DIABETES_ROW, TABLE_MODEL, TREES_MODEL, attribute, predict, rows, spec, table_rows
from e2e.serving import LONG_SECONDS, Server, wait_until
from pellucid.v1 import ablation_pb2, explanation_service_pb2, model_service_pb2
from pellucid_server.vocabulary.results import KINDS
from prometheus_client.parser import text_string_to_metric_families

GOOD = {"features": rows(np.full((2, 30), 1.0))}


@dataclass(frozen=True)
class Page:
    """The samples of a page."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, server: Server) -> "Page":
        families = text_string_to_metric_families(server.metrics())
        samples = [sample for family in families for sample in family.samples]
        found = cls({(each.name, frozenset(each.labels.items())): each.value for each in samples})
        assert len(found.samples) == len(samples), "two samples have one name and labels"
        return found

    def total(self, metric: str, **labels: str) -> float:
        """Add up the samples of a metric that have these labels."""
        wanted = labels.items()
        return sum(value for (found, has), value in self.samples.items() if found == metric and wanted <= set(has))

    def labels(self, metric: str, label: str) -> set[str]:
        return {dict(has)[label] for found, has in self.samples if found == metric and label in dict(has)}


@pytest.fixture
def before(server: Server) -> Page:
    return Page.of(server)


def test_a_prediction_is_on_the_page_with_its_version_its_rows_and_its_bytes(server: Server, before: Page) -> None:
    request = predict(TABLE_MODEL, GOOD)
    reply = server.explanations.Predict(request)

    page = Page.of(server)

    def rise(metric: str, **labels: str) -> float:
        return page.total(metric, **labels) - before.total(metric, **labels)

    labels = {"rpc": "Predict", "method": "", "model": TABLE_MODEL, "version": "1", "code": "OK"}
    assert rise("pellucid_request_seconds_count", **labels) == 1
    assert 0 < rise("pellucid_compute_seconds_sum", **labels) < rise("pellucid_request_seconds_sum", **labels)
    assert rise("pellucid_rows_evaluated_total", model=TABLE_MODEL, kind="forward") == 2
    call = {"grpc_method": "pellucid.v1.ExplanationService/Predict"}
    assert rise("grpc_server_call_started_total", **call) == 1
    assert rise("grpc_server_call_duration_seconds_count", **call, grpc_status="OK") == 1
    received, sent = (f"grpc_server_call_{way}_total_compressed_message_size_bytes_sum" for way in ("rcvd", "sent"))
    assert rise(received, **call) == request.ByteSize()
    assert rise(sent, **call) == reply.ByteSize()


def test_an_explanation_shows_how_good_it_is(server: Server, before: Page) -> None:
    asked = attribute(TABLE_MODEL, GOOD, spec("integrated-gradients", tolerance=0.01))
    found = server.explanations.Attribute(asked).explanation.attributions

    page = Page.of(server)

    labels = {"method": "integrated-gradients", "model": TABLE_MODEL}

    def rise(metric: str, **more: str) -> float:
        return page.total(metric, **labels, **more) - before.total(metric, **labels, **more)

    assert all(each.accuracy.tolerance_met for each in found)
    assert rise("pellucid_explanations_total", tolerance="met") == 2
    assert rise("pellucid_explanations_total", tolerance="missed") == 0
    assert rise("pellucid_approximation_error_count") == 2
    assert rise("pellucid_approximation_error_sum") == pytest.approx(sum(each.approximation_error for each in found))
    gaps = [each.accuracy.absolute_gap / abs(each.instance_output_value - each.baseline_output_value) for each in found]
    assert rise("pellucid_completeness_gap_sum") == pytest.approx(sum(gaps))


@pytest.mark.parametrize("method", ["kernel-shap", "feature-ablation", "occlusion"])
def test_the_shares_of_columns_are_those_of_the_answer(server: Server, before: Page, method: str) -> None:
    # Of a model with a column of categories, "sex".
    asked = attribute(TREES_MODEL, {"features": table_rows([DIABETES_ROW])}, spec(method))
    (found,) = server.explanations.Attribute(asked).explanation.attributions

    page = Page.of(server)

    (scored,) = found.inputs.values()
    scores = np.abs(np.frombuffer(scored.scores.data, np.float32).astype(float))
    shares = dict(zip(scored.columns, scores / scores.sum(), strict=True))
    metric = "pellucid_attribution_share_sum_total"
    rises = {
        column: page.total(metric, model=TREES_MODEL, column=column)
        - before.total(metric, model=TREES_MODEL, column=column)
        for column in DIABETES_ROW
    }
    assert rises == pytest.approx(shares)
    assert page.total("pellucid_attribution_shares_total", model=TREES_MODEL) == 1 + before.total(
        "pellucid_attribution_shares_total", model=TREES_MODEL
    )
    assert page.labels(metric, "column") >= set(DIABETES_ROW)


def test_a_heartbeat_later_the_batches_of_a_request_are_on_the_page(server: Server, before: Page) -> None:
    asked = attribute(TABLE_MODEL, GOOD, spec("smoothgrad", samples=40))
    server.explanations.Attribute(asked)
    labels = {"device": "cpu", "kind": "gradient"}

    def rows_in_batches() -> float:
        page = Page.of(server)
        return page.total("pellucid_batch_rows_sum", **labels) - before.total("pellucid_batch_rows_sum", **labels)

    wait_until(lambda: rows_in_batches() >= 80, seconds=LONG_SECONDS, what="the batches are on the page")
    page = Page.of(server)
    busy = [each.total("pellucid_device_busy_seconds_total", device="cpu", worker="0") for each in (before, page)]
    assert busy[1] > busy[0]
    assert page.total("pellucid_worker_up", device="cpu", worker="0") == 1
    assert 50e6 < page.total("pellucid_worker_memory_bytes", device="cpu", worker="0") < 50e9


def test_changes_of_layers_are_kinds_of_their_own(server: Server, before: Page) -> None:
    described = server.models.GetModel(model_service_pb2.GetModelRequest(model={"name": TABLE_MODEL}))
    layer = next(each.name for each in described.layers if each.cuttable)
    changes = [ablation_pb2.Intervention(sites=[ablation_pb2.Site(layer=layer)])]
    asked = explanation_service_pb2.AblateRequest(
        model={"name": TABLE_MODEL}, inputs=GOOD, method="ablation", interventions=changes
    )
    *_, last = server.explanations.Ablate(asked)

    page = Page.of(server)

    def rise(metric: str, **labels: str) -> float:
        return page.total(metric, **labels) - before.total(metric, **labels)

    rises = {kind: rise("pellucid_rows_evaluated_total", model=TABLE_MODEL, kind=kind) for kind in KINDS}
    # The prediction beside it is no part of the answer's own work.
    assert rises.pop("forward") == 2
    assert {kind for kind, rows in rises.items() if rows} == {"prefix", "suffix"}
    assert sum(rises.values()) == last.findings.receipt.work.rows_forward
    assert page.labels("pellucid_rows_evaluated_total", "kind") <= set(KINDS)
    assert rise("pellucid_explanations_total", method="ablation", model=TABLE_MODEL, tolerance="none") == 1
    assert rise("pellucid_request_seconds_count", rpc="Ablate", method="ablation", version="1", code="OK") == 1


def test_models_are_on_the_page_with_their_digests(server: Server) -> None:
    reply = server.explanations.Predict(predict(TABLE_MODEL, GOOD))

    page = Page.of(server)

    served = reply.receipt.model
    assert page.total("pellucid_model_info", model=served.name, version="1", digest=served.digest) == 1
    assert page.total("pellucid_model_loads_total", model=served.name, outcome="loaded") == 1
    assert page.total("pellucid_model_loads_total", outcome="failed") == 0


def test_nothing_waits_in_a_quiet_server(server: Server) -> None:
    page = Page.of(server)

    assert page.labels("pellucid_backlog_seconds", "class") >= {"predictions", "interactive"}
    assert page.total("pellucid_backlog_seconds") == 0
