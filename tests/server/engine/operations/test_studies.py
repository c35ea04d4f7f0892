"""Questions of studies, from requests that name a data set."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from e2e.small_models import SCORES, write_scores
from pellucid_server.engine import methods
from pellucid_server.engine.asking.registry import discover, lookup
from pellucid_server.engine.asking.verbs import STUDY
from pellucid_server.engine.datasets import files
from pellucid_server.engine.datasets.catalogue import scan
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.engine.operations.context import Models
from pellucid_server.engine.operations.streams import Resume
from pellucid_server.engine.operations.studies import read_study
from pellucid_server.errors import InvalidRequestError, NotFoundError
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.requests import AblateRequest, ModelKey, TableInput

TOML = 'kind = "table"\ndata = "rows.csv"\nlabel = "size"\n'
ROWS = "width,height,colour,size\n12.0,1.5,red,large\n8.0,-1.0,green,small\n9.0,2.0,blue,small\n"
discover(methods)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_scores(folder)
    (found,) = load_repository(folder, "cpu", 1)
    return found


@pytest.fixture
def context(tmp_path, model):
    """A request's context, whose hub runs what is offloaded on a thread called beside."""
    for name in ("shapes", "forms"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.toml").write_text(TOML)
        (tmp_path / name / "rows.csv").write_text(ROWS)
    with ThreadPoolExecutor(1, thread_name_prefix="beside") as beside:
        hub = SimpleNamespace(
            offload=lambda step: beside.submit(step).result(), heavy=lambda byte_count, function: function()
        )
        yield SimpleNamespace(
            models=Models.of((model,), datasets=scan(tmp_path)),
            services=SimpleNamespace(hub=hub),
            request=SimpleNamespace(check=lambda: None),
        )


def asked(context, model, resume=None, **fields):
    method = lookup("ablation-study", STUDY)
    request = AblateRequest(model=ModelKey(SCORES), inputs={}, method=method.name, **fields)
    return read_study(context, model, request, method, resume or Resume()).question


def test_the_files_are_looked_at_beside_the_hub(context, model, monkeypatch):
    threads, walked = [], files._walk

    def walk(folder, root, depth):
        threads.append(threading.current_thread().name)
        return walked(folder, root, depth)

    monkeypatch.setattr(files, "_walk", walk)

    question = asked(context, model, dataset="shapes")
    assert sum(batch.count for batch in question.batches(2)) == 3

    assert len(threads) == 3
    assert all(name.startswith("beside") for name in threads), threads


@pytest.mark.parametrize("inputs", [{}, {"features": TableInput(({"width": 1.0},))}], ids=["alone", "with inputs"])
def test_without_a_data_set_the_method_says_which_there_are(context, model, inputs):
    method = lookup("ablation-study", STUDY)
    request = AblateRequest(model=ModelKey(SCORES), inputs=inputs, method=method.name)

    with pytest.raises(InvalidRequestError) as caught:
        read_study(context, model, request, method, Resume())

    assert caught.value.metadata["field"] == "dataset"
    assert caught.value.message.startswith(
        "dataset is empty; ablation-study reads the rows of a data set: set it to one"
    )
    assert "forms, shapes" in caught.value.message
    assert ("leave inputs out" in caught.value.message) == bool(inputs)


def test_an_unknown_data_set_is_refused_with_those_that_there_are(context, model):
    with pytest.raises(NotFoundError, match=r"No data set 'shape'; there are: forms, shapes\. Did you mean 'shapes'"):
        asked(context, model, dataset="shape")


def test_a_second_worker_learns_of_the_parts_that_the_caller_has(context, model):
    last = Findings(warnings=("x",))

    question = asked(context, model, Resume(3, last), dataset="shapes")

    assert (question.parts_done, question.last) == (3, last)
