"""What the checks with operators' tools share: free ports, programs that run for a while, packages of npm."""

import contextlib
import fcntl
import json
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from e2e.serving import LONG_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "build" / "deploy-tools"
"""What is fetched once and stays."""

_INSTALL_SECONDS = 300


def free_port() -> int:
    """Return a port that nothing listens on, for a program that does not say which it took where it is given 0."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """Run a program in the log's folder, once it is ready, and end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)

    def looked() -> bool:
        assert process.poll() is None, log.read_text()
        return ready()

    try:
        wait_until(looked, seconds=LONG_SECONDS, what=f"{command[0]} is ready")
        yield
    finally:
        process.terminate()
        try:
            process.wait(LONG_SECONDS)
        finally:
            process.kill()


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep other test processes from doing the same at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def npm_folder(name: str, *packages: str) -> Path:
    """Return a folder whose node_modules has packages, each as NAME@VERSION; it stays for the next time."""
    folder = TOOLS / "npm" / name
    wanted = json.dumps(packages)
    mark = folder / "installed.json"
    with alone(TOOLS, f"npm-{name}"):
        if not (mark.is_file() and mark.read_text() == wanted):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"private": true}')
            command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", *packages]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            mark.write_text(wanted)
    return folder
