"""The server put together: gRPC with health and reflection, the pool, the metrics page, and their ends."""

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from pellucid_server.config import Config, worker_environment
from pellucid_server.metrics import Metrics, RequestRecorder
from pellucid_server.pool.pool import Pool
from pellucid_server.pool.process import WORKER_COMMAND, Launcher
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.service import EXPLANATION_SERVICE, MODEL_SERVICE, add_services

_log = logging.getLogger(__name__)

_SERVICES = ("", EXPLANATION_SERVICE.full_name, MODEL_SERVICE.full_name)

_ENDLESS_SECONDS = 1e9


class StartError(Exception):
    """The server cannot start; the message tells the operator why."""


class App:
    """One server: `start`, then `stop`.

    Parameters
    ----------
    worker_command
        The command line that starts a worker, without `--fd N`.
    """

    def __init__(self, config: Config, *, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
        self.port = 0
        """The gRPC port that is listened on."""
        self.metrics_port: int | None = None
        """The port of the metrics page, if there is one."""
        self._config = config
        self._registry = CollectorRegistry()
        self._metrics = Metrics.on(self._registry)
        settings = config.worker_settings()
        launcher = Launcher(worker_environment(settings[0].threads), worker_command)
        restarts = self._metrics.worker_restarts
        self._pool = Pool(
            settings, config.pool, launcher, on_restart=lambda device: restarts.labels(device=device).inc()
        )
        self._boundary = Boundary(RequestRecorder(self._metrics), lambda: self._pool.hello)
        self._metrics.jobs_pending.set_function(lambda: self._pool.pending)
        self._metrics.requests_in_flight.set_function(lambda: self._boundary.in_flight)
        for each in settings:
            restarts.labels(device=each.device)
        self._health = health_aio.HealthServicer()
        self._health_changes: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self._metrics_server: Any = None

    async def start(self) -> None:
        """Listen, start the workers, and turn healthy when all are ready.

        Health is answered from the first moment, as NOT_SERVING; other requests are UNAVAILABLE until then.

        Raises
        ------
        StartError
            A port cannot be had.
        WorkerStartError
            A worker refused or died before it was ready.
        """
        ProcessCollector(registry=self._registry)
        await self._set_health(False)
        self._listen()
        assert self._server is not None  # noqa: S101 - set by the line above
        await self._server.start()
        self._serve_metrics()
        self._pool.watch(self._change_health)
        await self._pool.start()

    async def stop(self, *, grace_seconds: float) -> None:
        """Turn NOT_SERVING, take no new work, give what runs its time, and end the workers."""
        await self._health.enter_graceful_shutdown()
        self._pool.drain()
        if self._server is not None:
            await self._drain(self._server, grace_seconds)
        await self._pool.close()
        if self._metrics_server is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._stop_metrics)

    async def _drain(self, server: grpc.aio.Server, grace_seconds: float) -> None:
        """Refuse new connections at once; end when the last request is answered, at the latest after the grace."""
        # gRPC's own grace would always be used up, by health watchers, whose streams stay open for ever. And its end
        # must not meet the second stop: one of the two would then touch the server that the other has freed.
        stopping = asyncio.create_task(server.stop(_ENDLESS_SECONDS))
        idle = asyncio.create_task(self._boundary.idle())
        await asyncio.wait({stopping, idle}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await server.stop(None)
        await stopping

    def _listen(self) -> None:
        config = self._config.server
        options = [
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Two servers on one port would share its connections at random.
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.aio.server(options=options)
        add_services(server, self._pool, self._config.limits, self._boundary)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            names = (*_SERVICES[1:], health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        address = f"{config.host}:{config.port}"
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(f"Cannot listen on {address}; is another server there?") from error
        self._server = server

    def _serve_metrics(self) -> None:
        config = self._config.server
        if config.metrics_port < 0:
            return
        try:
            server, _ = start_http_server(config.metrics_port, config.host.strip("[]"), self._registry)
        except OSError as error:
            where = f"{config.host}:{config.metrics_port}"
            raise StartError(f"Cannot serve metrics on {where}: {error.strerror}.") from error
        self._metrics_server = server
        self.metrics_port = server.server_port

    def _stop_metrics(self) -> None:
        self._metrics_server.shutdown()
        self._metrics_server.server_close()

    def _change_health(self, healthy: bool) -> None:
        change = asyncio.get_running_loop().create_task(self._set_health(healthy))
        self._health_changes.add(change)
        change.add_done_callback(self._health_changes.discard)

    async def _set_health(self, healthy: bool) -> None:
        states = health_pb2.HealthCheckResponse
        for service in _SERVICES:
            await self._health.set(service, states.SERVING if healthy else states.NOT_SERVING)


async def serve(
    config: Config, *, ready_file: Path | None = None, worker_command: Sequence[str] = WORKER_COMMAND
) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    ready_file
        Gets `{"port", "metrics_port", "pid"}` as JSON, whole at once, when requests are taken.

    Raises
    ------
    StartError, WorkerStartError
        The server cannot start.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    app = App(config, worker_command=worker_command)
    _log.info("starting: %s", ", ".join(config.pool.devices))
    starting = asyncio.create_task(app.start())
    stopping = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _announce(app, config, ready_file)
            await stopping
            _log.info("stopping; requests have %g s to end", config.server.grace_seconds)
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await app.stop(grace_seconds=config.server.grace_seconds)
    _log.info("stopped")


def _announce(app: App, config: Config, ready_file: Path | None) -> None:
    # What is there by now stays: no collection need look at it again.
    gc.collect()
    gc.freeze()
    host = config.server.host
    metrics = "none" if app.metrics_port is None else f"http://{host}:{app.metrics_port}/metrics"
    _log.info("serving on %s:%d, metrics on %s", host, app.port, metrics)
    if ready_file is not None:
        facts = {"port": app.port, "metrics_port": app.metrics_port, "pid": os.getpid()}
        part = ready_file.with_name(ready_file.name + ".part")
        part.write_text(json.dumps(facts) + "\n", "utf-8")
        part.replace(ready_file)
