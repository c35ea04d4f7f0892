"""Trying out one version in a process of its own, where there is no template to fork that from."""

import subprocess

import pytest
from pellucid_server.engine.models.loading.guard import GuardError
from pellucid_server.engine.models.loading.handover import Handover
from pellucid_server.engine.models.loading.trials import try_out
from pellucid_server.model_files.listing import Version
from pellucid_server.vocabulary.messages import WorkerSettings


@pytest.fixture
def version(tmp_path):
    """A version whose file is none."""
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "m" / "model.toml").write_text("")
    (folder / "model.pt2").write_bytes(b"no model")
    return Version(folder, "m", 1)


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings("cpu", str(tmp_path), 1, 0.05, 1 << 28)


@pytest.fixture
def handover():
    with Handover() as place:
        yield place


def test_without_a_template_a_command_tries_a_version_out(version, settings, handover):
    assert "m/1/model.pt2 is no .pt2 file, or is damaged" in try_out(
        version, settings, lambda descriptor: None, handover.descriptor
    )


def test_a_process_that_ends_without_a_word_is_an_error_that_says_how(version, settings, handover):
    def dies(descriptor):
        return subprocess.Popen(["sh", "-c", "exit 3"], stdin=descriptor)

    with pytest.raises(GuardError, match="exit status 3"):
        try_out(version, settings, dies, handover.descriptor)
