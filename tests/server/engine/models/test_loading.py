"""What is found out of a model holds for the files that were looked at."""

import threading
from collections import namedtuple

import pytest
from pellucid_server.engine.models.loading import loader as loading
from pellucid_server.model_files.plain_files import fingerprint
from pellucid_server.vocabulary.descriptions import Verdict
from pellucid_server.vocabulary.messages import WorkerSettings

Model = namedtuple("Model", "name version fast")


def test_files_that_change_while_models_are_tried_out_are_tried_out_anew_by_the_next_process(tmp_path, monkeypatch):
    # Nothing is tried out here, so that nothing forks.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(loading, "_FIRST_LOAD_MODULES", ())
    monkeypatch.setattr(loading, "load_version", lambda version, *others, **settings: Model(version.name, 1, None))
    monkeypatch.setattr(loading.Loader, "_report", lambda *arguments: None)
    for name in ("good", "bad"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "model.toml").write_text("")
        (tmp_path / name / "1" / "model.pt2").write_text("")
    before = {name: fingerprint(tmp_path / name / "1") for name in ("good", "bad")}
    known = (Verdict("good", 1, before["good"]), Verdict("bad", 1, before["bad"], "It is broken."))
    settings = WorkerSettings("cpu", str(tmp_path), 1, 0.05, 1 << 28, verdicts=known)

    loader = loading.Loader.begin(settings, [])
    for name in ("good", "bad"):
        (tmp_path / name / "1" / "model.pt2").write_text("another model")
    loaded = loader.load()

    assert {each.name: each.fingerprint for each in loaded.verdicts} == before
    assert fingerprint(tmp_path / "bad" / "1") != before["bad"]


@pytest.mark.parametrize(
    ("wanted", "known", "asked", "found", "said"),
    [
        (True, None, None, "a graph", True),
        (True, None, None, None, False),
        (True, True, True, "a graph", True),
        (True, False, False, None, False),
        (False, True, False, None, True),
        (False, None, False, None, None),
    ],
)
def test_whether_a_second_graph_agrees_is_found_out_once(tmp_path, monkeypatch, wanted, known, asked, found, said):
    heard = []

    def load_version(version, device, threads, *, fast_graph):
        heard.append(fast_graph)
        return Model(version.name, version.number, found)

    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(loading, "_FIRST_LOAD_MODULES", ())
    monkeypatch.setattr(loading, "load_version", load_version)
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "model.toml").write_text("")
    (tmp_path / "m" / "1" / "model.pt2").write_text("")
    verdict = Verdict("m", 1, fingerprint(tmp_path / "m" / "1"), fast_graph=known)
    settings = WorkerSettings("cpu", str(tmp_path), 1, 0.05, 1 << 28, fast_graph=wanted, verdicts=(verdict,))

    loaded = loading.Loader.begin(settings, []).load()

    assert heard == [asked]
    assert [each.fast_graph for each in loaded.verdicts] == [said]
