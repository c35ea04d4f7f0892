"""The demo as a command: what it says when something is wrong. `make demo` shows the rest."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_server_that_does_not_start_fails_the_demo_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "demo.run", "--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 1
    assert "the server did not start" in done.stdout
    assert "has no models" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
