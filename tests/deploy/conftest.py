"""What the checks with operators' tools share: a container engine, and the image."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deploy.engines import Engine, start_engine
from deploy.tools import ROOT, alone

KEPT = ROOT / "build" / "deploy"
"""What takes long to get and stays the same: the base image's files, and wheels."""

BASE = "pellucid-base:bookworm"
IMAGE = "pellucid:tested"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these files out where they are not asked for: what they import, `make deploy-check` alone installs."""
    return True if "not deploy" in config.option.markexpr else None


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine of the tests' own."""
    with start_engine() as started:
        print(f"containers are run by {started.name}")
        yield started


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of the CPU image, built without any network from wheels on the disk."""
    with ThreadPoolExecutor() as threads:
        for made in (threads.submit(_make_base), threads.submit(_gather_wheels)):
            made.result()
    if not engine("images", "--quiet", BASE):
        engine("import", "--change", 'CMD ["python3"]', str(KEPT / "base.tar"), BASE)
    command = [str(ROOT / "deploy/image/build.sh"), "--offline", "--tag", IMAGE, "--build-arg", f"BASE={BASE}"]
    _must([*command, *engine.build_options], ENGINE=engine.builder)
    return IMAGE


def _make_base() -> None:
    file = KEPT / "base.tar"
    with alone(KEPT, "base"):
        if not file.exists():
            _must([str(Path(__file__).with_name("make_base.sh")), str(file)])


def _gather_wheels() -> None:
    with alone(KEPT, "wheels"):
        _must([str(ROOT / "deploy/image/wheels.sh"), "cpu"], PYTHON=sys.executable)


def _must(command: list[str], **variables: str) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}"
