"""Seconds of the soak on the real server: a worker and callers are killed, and every verdict holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table_models_only(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without the network on pictures, whose rows take long on a small machine."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("breast-cancer", "diabetes"):
        (folder / name).symlink_to(models / name, target_is_directory=True)
    return folder


def test_a_worker_and_callers_are_killed_and_every_verdict_holds(table_models_only: Path, tmp_path: Path) -> None:
    # Of one worker: while there is none, all that is asked is answered later or told to come back.
    command = [sys.executable, "-m", "soak", "--models", str(table_models_only), "--workers", "1"]
    command += ["--seconds", "12", "--calm-seconds", "8", "--kill-worker-seconds", "8", "--kill-callers-seconds", "5"]
    command += ["--bare", "2", "--folder", str(tmp_path / "soak")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed: 1 workers, 4 processes of callers" in done.stdout
    assert "BROKEN" not in done.stdout
    assert re.search(r"^held +no wrong answer +\d+ answers", done.stdout, re.MULTILINE)
