"""Checks and measures Pellucid on a CUDA machine: `python scripts/gpu/check.py --wheels FOLDER --out FOLDER`.

Run on the machine, with its own Python and torch. Installs the gathered wheels into a folder of its own, runs the
tests that are marked `gpu`, then the GPU benchmarks, and writes `report.md` and `report.json` after every stage. It
ends within `--seconds`, whatever happens: each stage has a limit, and less where little is left.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]

_LAST_SECONDS = 10.0
"""Kept for the report."""

_TAIL_LINES = 60
_MOST_LOGGED = 240


@dataclass(frozen=True)
class Stage:
    """A command, and the most seconds that it may take."""

    name: str
    command: Sequence[str]
    limit_seconds: float


@dataclass
class Outcome:
    """How a stage went; `code` is None where its time was up, or there was none left."""

    name: str
    command: str
    seconds: float = 0.0
    code: int | None = None
    tail: list[str] = field(default_factory=list)


@dataclass
class Check:
    """What was found so far, and where it is written."""

    folder: Path
    device: str
    ends: float
    facts: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, stage: Stage, environment: dict[str, str]) -> bool:
        """Run a stage, write the report, and tell whether it went well."""
        outcome = Outcome(stage.name, " ".join(stage.command))
        self.outcomes.append(outcome)
        limit = min(stage.limit_seconds, self.ends - time.monotonic() - _LAST_SECONDS)
        if limit > 0:
            log = self.folder / f"{stage.name}.log"
            started = time.monotonic()
            outcome.code = _run(stage.command, log, environment, limit)
            outcome.seconds = round(time.monotonic() - started, 1)
            outcome.tail = log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        self.write()
        verdict = "no time" if limit <= 0 else "time is up" if outcome.code is None else f"exit code {outcome.code}"
        print(f"{stage.name}: {verdict}, {outcome.seconds:.0f} s", flush=True)
        return outcome.code == 0

    def write(self) -> None:
        """Write the report."""
        tests, figures = _tests(self.folder / "tests.xml"), _read(self.folder / "figures.json")
        whole: dict[str, Any] = {"device": self.device, "facts": self.facts, "tests": tests, "figures": figures}
        whole["logged"] = _logged(self.folder / "tests")
        whole["stages"] = [asdict(outcome) for outcome in self.outcomes]
        (self.folder / "report.json").write_text(json.dumps(whole, indent=1), "utf-8")
        (self.folder / "report.md").write_text(_markdown(whole), "utf-8")


def main() -> int:
    """Run all stages; 0 if all went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheels", type=Path, help="what gather.py gathered; without it, nothing is installed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--device", default="cuda:0", help="cpu tries everything out but the GPU itself")
    parser.add_argument("--seconds", type=float, default=480.0, help="when it ends at the latest")
    parser.add_argument("--tests", default="", help="only those, as pytest's -k")
    parser.add_argument("--stages", nargs="+", choices=("tests", "benchmarks"), default=["tests", "benchmarks"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    check = Check(arguments.out, arguments.device, time.monotonic() + arguments.seconds)
    environment = _environment(arguments.out, arguments.device)
    well = True
    if arguments.wheels is not None:
        wheels = sorted(str(path) for path in arguments.wheels.glob("*.whl"))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        command += ["--upgrade", "--target", str(arguments.out / "site"), *wheels]
        well = check.run(Stage("install", command, 60), environment)
    check.facts = _facts(environment)
    check.write()
    stages = {
        "tests": Stage("tests", _pytest(arguments.out, arguments.tests), 0.55 * arguments.seconds),
        "benchmarks": Stage(
            "benchmarks",
            [
                *(sys.executable, "-m", "benchmarks.gpu", "--device", arguments.device),
                *("--json", str((arguments.out / "figures.json").resolve())),
            ],
            arguments.seconds,
        ),
    }
    for name in arguments.stages:
        well = check.run(stages[name], environment) and well
    print((arguments.out / "report.md").read_text("utf-8"))
    return 0 if well else 1


def _environment(folder: Path, device: str) -> dict[str, str]:
    paths = [folder / "site", ROOT / "client", ROOT / "server", ROOT]
    inherited = {**os.environ, "PYTHONPATH": ":".join(str(path.resolve()) for path in paths)}
    return {**inherited, "PELLUCID_TEST_DEVICE": device, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _pytest(folder: Path, chosen: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider", "--tb=short"]
    command += ["-k", chosen] if chosen else []
    return [
        *command,
        "-vv",
        "-o",
        "junit_family=xunit1",
        "--durations=15",
        "--timeout=150",
        f"--basetemp={folder.resolve() / 'tests'}",
        f"--junitxml={folder.resolve() / 'tests.xml'}",
    ]


def _run(command: Sequence[str], log: Path, environment: dict[str, str], limit: float) -> int | None:
    """Run a command with its output in `log`; end it, and all that it started, when its time is up."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            # Interrupted, pytest still reports what it has.
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_SECONDS / 2)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


_FACTS = """
import importlib.metadata as metadata, json, os, platform, torch
facts = {"python": platform.python_version(), "processors": str(os.cpu_count()), "torch": torch.__version__}
facts["cuda"], facts["cudnn"] = str(torch.version.cuda), str(torch.backends.cudnn.version())
for name in ("numpy", "onnxruntime", "grpcio"):
    facts[name] = metadata.version(name)
if torch.cuda.is_available():
    found = torch.cuda.get_device_properties(0)
    facts["card"], facts["card memory"] = found.name, f"{found.total_memory / 2**30:.1f} GiB"
print(json.dumps(facts))
"""


def _facts(environment: dict[str, str]) -> dict[str, str]:
    found = subprocess.run(
        [sys.executable, "-c", _FACTS], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if found.returncode:
        return {"unknown": found.stderr[-500:]}
    facts: dict[str, str] = json.loads(found.stdout.splitlines()[-1])
    return facts


def _tests(path: Path) -> dict[str, Any]:
    """Read pytest's own report: counts, failures, and what the tests recorded."""
    if not path.exists():
        return {}
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except ElementTree.ParseError:
        return {}
    names = {id(case): f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}" for case in cases}
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    recorded = {
        names[id(case)]: {str(each.get("name")): float(each.get("value", "nan")) for each in case.iter("property")}
        for case in cases
        if case.find("properties") is not None
    }
    return {
        "passed": len(cases) - len(bad) - len(skipped),
        "failed": [names[id(case)] for case in bad],
        "skipped": [names[id(case)] for case in skipped],
        "recorded": recorded,
    }


def _logged(folder: Path) -> list[str]:
    """Return what the tests' servers logged as errors, with the lines that follow each: its traceback."""
    found: list[str] = []
    for log in sorted(folder.rglob("server.log")):
        lines = log.read_text("utf-8", "replace").splitlines()
        for number, line in enumerate(lines):
            if " ERROR " in line and len(found) < _MOST_LOGGED:
                found += lines[number : number + _TAIL_LINES]
    return found[:_MOST_LOGGED]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found


def _markdown(whole: dict[str, Any]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in whole["facts"].items())
    lines = [
        "# GPU check",
        "",
        f"Device {whole['device']}; {facts}.",
        "",
        "| stage | exit code | seconds |",
        "|---|---|---|",
    ]
    lines += [f"| {each['name']} | {each['code']} | {each['seconds']} |" for each in whole["stages"]]
    tests = whole["tests"]
    if tests:
        lines += ["", "## Tests", ""]
        lines += [f"{tests['passed']} passed, {len(tests['failed'])} failed, {len(tests['skipped'])} skipped.", ""]
        lines += [f"- failed: {name}" for name in tests["failed"]] + [f"- skipped: {name}" for name in tests["skipped"]]
        values = [(value, test, name) for test, each in tests["recorded"].items() for name, value in each.items()]
        lines += ["", "What they recorded, largest first:", ""]
        lines += [f"- {value:.3g}: {name} ({test})" for value, test, name in sorted(values, reverse=True)[:20]]
    if whole["figures"]:
        lines += ["", "## Benchmarks", "", "| what | value | unit | of |", "|---|---|---|---|"]
        for each in whole["figures"]:
            lines.append(f"| {each['what']} | {each['value']:.4g} | {each['unit']} | {each.get('note', '')} |")
    if whole["logged"]:
        lines += ["", "## Errors that the servers logged", "", "```", *whole["logged"], "```"]
    for each in whole["stages"]:
        if each["code"] != 0 and each["tail"]:
            lines += ["", f"## The end of {each['name']}", "", "```", *each["tail"], "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
