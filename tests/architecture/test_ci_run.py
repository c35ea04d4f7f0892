"""What CI's script runs and says, with a `make` that only says what it was asked for."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "run"

MAKE = """#!/bin/sh
echo "making $1"
test "$1" = deploy-check && { printf '%s\\n' "$DEPLOY_SAYS"; exit $DEPLOY_STATUS; }
echo "2 failed, 3 passed in 5.00s"
exit $TEST_STATUS
"""

UNSET = "unset"

Run = Callable[..., "tuple[int, list[str]]"]


@pytest.fixture
def commits(tmp_path: Path) -> Callable[..., None]:
    """Make commits in a repository that holds the script, each of which changes the given files."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci" / "run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "make").write_text(MAKE)
    (tmp_path / "bin" / "make").chmod(0o755)
    git(tmp_path, "init", "--quiet")

    def make(number: int, *files: str) -> None:
        for count in range(number):
            for file in files:
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / file).write_text(f"{count} of {number}\n")
            git(tmp_path, "add", "--all")
            git(tmp_path, "commit", "--quiet", "--message", "A change")

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the script; its exit status and lines."""

    def start(*, test: int = 0, deploy: int = 0, says: str = "4 passed in 6.00s", **more: str) -> tuple[int, list[str]]:
        given = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "DEPLOY_CHECK": UNSET}
        told = {"TEST_STATUS": str(test), "DEPLOY_STATUS": str(deploy), "DEPLOY_SAYS": says}
        variables = {**os.environ, **given, **told, **more}
        done = subprocess.run(
            [str(tmp_path / ".ci" / "run")],
            env={name: value for name, value in variables.items() if value != UNSET},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    return start


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


def test_a_clone_without_a_commit_to_compare_with_is_checked(commits: Callable[..., None], run: Run) -> None:
    commits(3, "docs/a.md")

    status, lines = run()

    assert status == 0
    assert [line for line in lines if line.startswith("making")] == ["making test", "making deploy-check"]
    summaries = ["== make deploy-check", "4 passed in 6.00s", "== make test", "2 failed, 3 passed in 5.00s"]
    assert lines[-4:] == summaries


@pytest.mark.parametrize("file", ["deploy/image/Dockerfile", "server/app.py", "tests/deploy/test_image.py", "Makefile"])
def test_a_change_within_the_last_commits_is_checked(commits: Callable[..., None], run: Run, file: str) -> None:
    commits(20, "docs/a.md")
    commits(1, file)
    commits(19, "docs/b.md")

    assert "making deploy-check" in run()[1]


def test_a_change_that_no_commit_has_yet_is_checked(commits: Callable[..., None], run: Run, tmp_path: Path) -> None:
    commits(1, "server/app.py")
    commits(21, "docs/a.md")
    (tmp_path / "server" / "app.py").write_text("changed\n")

    assert "making deploy-check" in run()[1]


def test_where_nothing_that_is_checked_has_changed_the_script_says_so(commits: Callable[..., None], run: Run) -> None:
    commits(1, "server/app.py")
    commits(21, "docs/a.md")

    status, lines = run()
    asked = run(DEPLOY_CHECK="yes")[1]

    assert status == 0
    assert "making deploy-check" not in lines
    assert "== make deploy-check was not run: nothing that it checks has changed within 20 commits" in lines
    assert lines[-1] == "2 failed, 3 passed in 5.00s"
    assert "making deploy-check" in asked


def test_the_checks_can_be_left_out(commits: Callable[..., None], run: Run) -> None:
    commits(1, "server/app.py")

    status, lines = run(DEPLOY_CHECK="no")

    assert status == 0
    assert "making deploy-check" not in lines
    assert "== make deploy-check was not run: DEPLOY_CHECK is no" in lines


def test_failed_tests_end_the_script_with_their_status_and_summary(commits: Callable[..., None], run: Run) -> None:
    commits(1, "server/app.py")

    status, lines = run(test=2)

    assert (status, lines) == (2, ["making test", "2 failed, 3 passed in 5.00s"])


def test_failed_checks_fail_the_script(commits: Callable[..., None], run: Run) -> None:
    commits(1, "server/app.py")

    status, lines = run(deploy=2, says="1 failed, 3 passed in 6.00s")

    assert status == 2
    assert lines[-3:] == ["1 failed, 3 passed in 6.00s", "== make test", "2 failed, 3 passed in 5.00s"]


def test_what_cannot_be_checked_is_named_among_the_last_lines(commits: Callable[..., None], run: Run) -> None:
    commits(1, "server/app.py")

    status, lines = run(says="NOT CHECKED: there is no apt-get here to install docker.io")

    assert status == 0
    assert lines[-3] == "NOT CHECKED: there is no apt-get here to install docker.io"
