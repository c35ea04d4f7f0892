"""Envoy and nginx in front of two servers, as their examples in `deploy/proxies` configure them."""

import itertools
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from deploy.tools import ROOT, free_port, running
from e2e.serving import Server, serve, wait_until
from pellucid import Client
from sklearn.datasets import load_breast_cancer

pytestmark = pytest.mark.deploy

EXAMPLES = ROOT / "deploy/proxies"
MODEL = "breast-cancer"
CALLERS, CALLS = 8, 400
SECONDS = 120.0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / MODEL).symlink_to(ROOT / "models" / MODEL, target_is_directory=True)
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with (
        serve(repository, folders[0], as_users_do=True) as first,
        serve(repository, folders[1], as_users_do=True) as second,
    ):
        yield first, second


def configured(name: str, servers: tuple[Server, ...], listening: int, admin: int = 0) -> str:
    """Return an example with this test's addresses in place of its own."""
    text = (EXAMPLES / name).read_text("utf-8")
    for number, server in enumerate(servers):
        host, port = server.address.rsplit(":", 1)
        text = text.replace(f"address: pellucid-{number}, port_value: 50051", f"address: {host}, port_value: {port}")
        text = text.replace(f"pellucid-{number}:50051", server.address)
    text = text.replace("port_value: 8080", f"port_value: {listening}").replace(
        "listen 8080", f"listen 127.0.0.1:{listening}"
    )
    assert "pellucid-" not in text
    return text.replace("port_value: 9901", f"port_value: {admin}").replace("0.0.0.0", "127.0.0.1")


@contextmanager
def envoy(servers: tuple[Server, ...], folder: Path, change: Callable[[str], str] = str) -> Iterator[str]:
    listening, admin = free_port(), free_port()
    (folder / "envoy.yaml").write_text(change(configured("envoy.yaml", servers, listening, admin)))
    command = ["envoy", "-c", "envoy.yaml", "--concurrency", "1", "-l", "warn", "--disable-hot-restart"]

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/clusters", timeout=5) as page:
                text = page.read().decode()
        except OSError:
            return False
        return len(re.findall(r"health_flags::healthy", text)) == len(servers)

    with running(command, folder / "proxy.log", healthy):
        yield f"127.0.0.1:{listening}"


@contextmanager
def nginx(servers: tuple[Server, ...], folder: Path) -> Iterator[str]:
    listening = free_port()
    text = configured("nginx.conf", servers, listening)
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        text = text.replace("http {", f"http {{\n    {name}_temp_path {folder}/{name};", 1)
    text = text.replace("http {", "http {\n    access_log off;", 1)
    (folder / "nginx.conf").write_text(f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr;\n{text}")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", listening)) == 0

    with running(command, folder / "proxy.log", listens):
        yield f"127.0.0.1:{listening}"


PROXIES = {"envoy": envoy, "nginx": nginx}


def served(server: Server) -> int:
    """Return how many predictions a server has answered."""
    found = re.findall(
        r'pellucid_request_seconds_count\{[^}]*code="OK"[^}]*rpc="Predict"[^}]*\} (\S+)', server.metrics()
    )
    found += re.findall(
        r'pellucid_request_seconds_count\{[^}]*rpc="Predict"[^}]*code="OK"[^}]*\} (\S+)', server.metrics()
    )
    return int(sum(float(each) for each in found))


def load(address: str, calls: int, *, after: Callable[[int], None] = lambda answered: None) -> Counter[str]:
    """Have the shipped client make so many predictions, by several callers on one connection; count the outcomes."""
    row = load_breast_cancer().data[:1].astype(np.float32)
    numbers, lock, outcomes = itertools.count(1), threading.Lock(), Counter[str]()
    with Client(address, timeout=SECONDS) as client:
        (expected,) = client.predict(MODEL, row).outputs.values()

        def call(_: int) -> None:
            try:
                (found,) = client.predict(MODEL, row).outputs.values()
                outcome = "right" if np.allclose(found, expected, rtol=0, atol=1e-5) else "wrong"
            except Exception as error:
                outcome = repr(error)
            with lock:
                outcomes[outcome] += 1
                after(next(numbers))

        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(call, range(calls)))
    return outcomes


@pytest.mark.parametrize("proxy", PROXIES)
def test_requests_are_balanced_and_none_fails_when_a_server_is_killed(
    servers: tuple[Server, Server], tmp_path: Path, proxy: str
) -> None:
    with PROXIES[proxy](servers, tmp_path) as address:
        assert load(address, CALLS) == {"right": CALLS}
        shares = [served(server) / (CALLS + 1) for server in servers]
        print(f"{proxy}: shares {shares}")
        assert min(shares) > 0.25

        def kill(answered: int) -> None:
            if answered == CALLS // 4:
                os.kill(servers[0].process.pid, signal.SIGKILL)

        assert load(address, CALLS, after=kill) == {"right": CALLS}


def test_the_client_survives_a_fifth_of_unavailable_answers(servers: tuple[Server, Server], tmp_path: Path) -> None:
    fault = """                  - name: envoy.filters.http.fault
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
                      abort: { grpc_status: 14, percentage: { numerator: 20 } }
"""

    def faulty(text: str) -> str:
        changed = text.replace("                http_filters:\n", f"                http_filters:\n{fault}")
        assert changed != text
        return changed

    with envoy(servers, tmp_path, faulty) as address:
        assert load(address, CALLS) == {"right": CALLS}


def test_a_server_that_is_scaled_down_answers_the_twenty_explanations_that_it_has(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    row = load_breast_cancer().data[0].astype(np.float32)

    def explain(client: Client, seed: int) -> float:
        found = client.attribute(MODEL, row, "smoothgrad", samples=4096, seed=seed, timeout=SECONDS)
        return float(sum(scores.sum() for scores in found.scores.values()))

    with envoy(servers, tmp_path) as address, Client(address) as client, ThreadPoolExecutor(20) as pool:
        explanations = [pool.submit(explain, client, seed) for seed in range(20)]
        wait_until(servers[0].busy, seconds=SECONDS, what="the first server has an explanation")
        began = time.monotonic()
        servers[0].process.terminate()
        answers = [each.result(SECONDS) for each in explanations]
        print(f"twenty answers {time.monotonic() - began:.1f} s after SIGTERM")

    assert len(answers) == 20
    assert np.isfinite(answers).all()
    assert servers[0].process.wait(SECONDS) == 0
