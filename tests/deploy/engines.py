"""A real container engine for tests: Docker's, or where that does not start buildah and podman, which need no daemon.

`PELLUCID_TEST_ENGINE` chooses: `docker`, `podman`, or the address of an engine that runs already, such as
`unix:///var/run/docker.sock`, which keeps the images.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

START_SECONDS = 20.0
LONG_SECONDS = 600.0
DATA_GIB = 6
"""What the image and the stages of its build take at most: of memory where there is twice as much, else of the disk."""

HARDENED = (
    "--read-only",
    *("--tmpfs", "/tmp"),
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--memory", "3g"),
    *("--pids-limit", "256"),
)
"""How the image is run in production."""


@dataclass(frozen=True)
class Engine:
    """An engine whose images and containers are nobody else's.

    Attributes
    ----------
    name
        What ran, for the report.
    command
        The program that runs containers, with what it always gets.
    builder
        The program that builds images, as `build.sh` takes it.
    checks_health
        Whether it runs health checks by itself.
    """

    name: str
    command: tuple[str, ...]
    builder: str
    build_options: tuple[str, ...]
    run_options: tuple[str, ...] = ()
    checks_health: bool = True

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run a command of the engine and return what it printed, both streams together."""
        done = subprocess.run(
            [*self.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONG_SECONDS,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout.strip()

    def run(self, image: str, *options: str, arguments: Sequence[str] = ()) -> str:
        """Start a container in the machine's network and return its id."""
        health = ("--health-interval", "3s") if self.checks_health else ()
        fixed = (*self.run_options, *health, "--network", "host")
        return self("run", "--detach", *fixed, *options, image, *arguments).splitlines()[-1]


@contextlib.contextmanager
def start_engine() -> Iterator[Engine]:
    """Start an engine; all that it made is gone at the end, and it ends with this process, however that ends."""
    chosen = os.environ.get("PELLUCID_TEST_ENGINE", "")
    if "://" in chosen:
        yield _named(_docker_at(chosen))
        return
    # Paths of sockets are bounded: not below pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="pellucid-engine-", dir="/tmp"))
    try:
        with contextlib.ExitStack() as stack:
            engine = None if chosen == "podman" else stack.enter_context(_docker(folder))
            if engine is None and shutil.which("podman") is None:
                # In a container without the right to mount, for example.
                pytest.skip("NOT CHECKED: Docker's engine does not start here, and there is no podman")
            yield engine or stack.enter_context(_podman(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _docker_at(address: str) -> Engine:
    # The package's own program has BuildKit; a newer one that comes first on the path may lack it.
    program = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"
    return Engine("docker", (program, "--host", address), f"{program} --host {address}", ("--network", "none"))


def _named(engine: Engine) -> Engine:
    return replace(engine, name=f"docker {engine('version', '--format', '{{.Server.Version}}')}")


@contextlib.contextmanager
def _docker(folder: Path) -> Iterator[Engine | None]:
    if shutil.which("dockerd") is None:
        yield None
        return
    socket = f"unix://{folder}/docker.sock"
    daemon_command = [
        *("setpriv", "--pdeathsig", "TERM", "dockerd", "--host", socket),
        *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid"),
        *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"),
    ]
    # What the daemon mounts, the memory for its images included, goes with its last process.
    (folder / "data").mkdir()
    mount = f"mount -t tmpfs -o size={DATA_GIB}g images {folder}/data && " if _memory_gib() > 2 * DATA_GIB else ""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{mount}exec "$@"', "sh", *daemon_command]
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    engine = _docker_at(socket)
    try:
        if not _started(engine, daemon):
            print(f"the Docker engine does not start:\n{(folder / 'dockerd.log').read_text()[-2000:]}")
            yield None
            return
        yield _named(engine)
    finally:
        if daemon.poll() is None and (containers := engine("ps", "--all", "--quiet", check=False).split()):
            engine("rm", "--force", *containers, check=False)
        daemon.terminate()
        daemon.wait(LONG_SECONDS)


def _memory_gib() -> float:
    """Return how much memory is free or can be made so."""
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) / (1 << 20)


def _started(engine: Engine, daemon: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and daemon.poll() is None:
        if subprocess.run([*engine.command, "info"], capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def _podman(folder: Path) -> Iterator[Engine]:
    store = ("--root", f"{folder}/store", "--runroot", f"{folder}/run", "--storage-driver", "overlay")
    # Neither systemd nor all of root's capabilities are needed this way.
    limits = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096")
    engine = Engine(
        "buildah and podman",
        ("podman", *store, "--cgroup-manager", "cgroupfs"),
        f"buildah {' '.join(store)}",
        ("--isolation", "chroot", "--pull-never"),
        ("--runtime", "runc", "--no-healthcheck", *limits),
        checks_health=False,
    )
    try:
        yield engine
    finally:
        engine("rm", "--all", "--force", "--time", "0", check=False)
        # It leaves its store mounted.
        subprocess.run(["umount", "--recursive", f"{folder}/store/overlay"], capture_output=True, check=False)
