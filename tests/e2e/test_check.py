"""`pellucid-server check` on small models: what it says is what a server would do."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e import small_models
from pellucid_server.__main__ import main

BROKEN = "damaged"


@dataclass(frozen=True)
class Said:
    """What one check said."""

    status: int
    output: str

    @property
    def found(self) -> dict[str, Any]:
        return dict(json.loads(self.output))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model that is whole, one whose file was cut off, and a folder that is none."""
    folder = tmp_path_factory.mktemp("check") / "models"
    written = small_models.write_scores(folder)
    shutil.copytree(written, folder / BROKEN)
    os.truncate(folder / BROKEN / "1" / "model.pt2", 5000)
    (folder / "lost+found").mkdir()
    return folder


def check(*arguments: str | Path) -> Said:
    """Check as an operator does, in a process of its own."""
    command = [sys.executable, "-m", "pellucid_server", "check", *map(str, arguments)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return Said(ended.returncode, ended.stdout)


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Said:
    status = main(["check", *map(str, arguments)])
    return Said(status, capsys.readouterr().out)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_broken_model_is_named_with_its_reason_beside_the_one_that_would_be_served(repository: Path) -> None:
    said = check("--models", repository, "--json", "--skip-ports")

    good = {each["name"]: each for each in said.found["models"]}[small_models.SCORES]
    bad = {each["name"]: each for each in said.found["models"]}[BROKEN]
    assert said.status == said.found["status"] == 1
    assert (bad["state"], good["state"]) == ("broken", "serving")
    assert bad["reason"].startswith(f"{BROKEN}/1/model.pt2 is no .pt2 file")
    assert str(repository) not in bad["reason"]
    assert (len(good["digest"]), good["background_rows"], good["warnings"]) == (64, 5, [])
    assert [(each["name"], each["shape"]) for each in good["inputs"]] == [("features", [5])]
    assert [(each["name"], each["kind"]) for each in good["outputs"]] == [("output", "logits")]
    assert "integrated-gradients" in good["methods"]["allowed"]
    assert good["trial_seconds"] > 0
    assert good["trial_bytes"] >= 0
    assert said.found["passed_over"] == ["lost+found"]


def test_all_models_good_and_all_broken_have_statuses_of_their_own(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / small_models.SCORES, tmp_path / "good" / small_models.SCORES)
    (tmp_path / "good" / small_models.SCORES / "model.toml").write_text("solo = true\n")
    shutil.copytree(repository / BROKEN, tmp_path / "bad" / BROKEN)

    good = check("--models", tmp_path / "good", "--skip-ports")
    bad = check("--models", tmp_path / "bad", "--skip-ports")

    assert (good.status, bad.status) == (0, 1)
    assert good.output.endswith("1 of 1 model versions would be served.\n")
    assert "warning: it is solo" in good.output
    assert "warning: it has no background" in good.output
    assert bad.output.endswith("The server would not start.\n")
    assert f"{BROKEN}/1 is broken: {BROKEN}/1/model.pt2 is no .pt2 file" in bad.output


def test_a_repository_without_models_would_not_start(tmp_path: Path) -> None:
    said = check("--models", tmp_path, "--json", "--skip-ports")

    assert said.status == 1
    assert said.found["problem"].endswith("has no models; it needs NAME/model.toml and NAME/1/model.pt2 for each.")


def test_every_wrong_setting_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    access = write(tmp_path / "access.toml", '[identities.web]\ntokens = ["secret-that-is-no-hash"]\n')
    key = write(tmp_path / "digest.key", "short")
    certificate = write(tmp_path / "tls.crt", "no certificate")
    config = write(
        tmp_path / "pellucid.toml",
        f"""
[server]
port = 50999
metrics_port = 50999
[models]
repository = "{tmp_path}/away"
datasets = "{tmp_path}/data-away"
[tls]
certificate = "{certificate}"
key = "{tmp_path}/tls.key"
[access]
file = "{access}"
digest_key_file = "{key}"
""",
    )

    said = in_process(capsys, "--config", config, "--json")

    problems = said.found["settings"]["problems"]
    assert said.status == 2
    for wanted in (
        f"{tmp_path}/away is not a folder; models.repository",
        f"{tmp_path}/data-away is not a folder; models.datasets",
        f"{tmp_path}/tls.key cannot be read",
        f"{access}: ",
        f"{key} must hold a secret of 16 bytes",
        "server.metrics_port and server.port are both 50999",
    ):
        assert sum(wanted in each for each in problems) == 1, wanted
    assert "secret-that-is-no-hash" not in said.output
    assert "models" not in said.found


def test_an_unknown_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = in_process(capsys, "--config", write(tmp_path / "pellucid.toml", "[server]\nprt = 1\n"))

    assert said.status == 2
    assert said.output == "settings: wrong\n  problem: server.prt is 1: there is no such setting.\n"


def test_a_port_that_is_taken_is_named_unless_ports_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f'[server]\nhost = "127.0.0.1"\nport = {port}\nmetrics_port = -1\nhealth_port = 0\n'
        config = write(tmp_path / "pellucid.toml", text)
        looked = in_process(capsys, "--config", config, "--models", tmp_path / "away", "--json")
        skipped = in_process(capsys, "--config", config, "--models", tmp_path / "away", "--json", "--skip-ports")

    about = [each for each in looked.found["settings"]["problems"] if "server.port" in each]
    assert len(about) == 1
    assert about[0].startswith(f"Cannot listen on 127.0.0.1:{port}: another program listens there")
    assert "server.port" not in skipped.output
