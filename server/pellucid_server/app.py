"""The server put together: gRPC with health and reflection, the pool, the metrics page, and their ends."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from pellucid_server.access.watched import UnusableFileError
from pellucid_server.config import Config, worker_environment
from pellucid_server.faults import Faults
from pellucid_server.jobs.index import StoreError
from pellucid_server.jobs.jobs import Jobs
from pellucid_server.jobs.records import ENDED
from pellucid_server.jobs.store import Store
from pellucid_server.memory_hygiene import TRIM_SECONDS, settle, share_heaps, trim
from pellucid_server.metrics import (
    JobRecorder,
    JobsCollector,
    LoadRecorder,
    Metrics,
    ModelsCollector,
    PoolRecorder,
    RequestRecorder,
    WorkersCollector,
)
from pellucid_server.pool.pool import Pool
from pellucid_server.pool.workers.launcher import WORKER_COMMAND, Launcher
from pellucid_server.reload.manager import Manager
from pellucid_server.rpc.admin_port import AdminPort
from pellucid_server.rpc.arrival import CallerKeys
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.draining import drain
from pellucid_server.rpc.followed_jobs import FollowedJobs
from pellucid_server.rpc.health import SERVICES, Health, VisibleHealth
from pellucid_server.rpc.jobs import add_job_service
from pellucid_server.rpc.open_protocol.service import OPEN_SERVICE, add_open_service
from pellucid_server.rpc.ports import StartError, channel_options, listen_on, serve_health
from pellucid_server.rpc.room import Room
from pellucid_server.rpc.security import Security
from pellucid_server.rpc.service import add_services
from pellucid_server.rpc.stored_jobs import stored_jobs
from pellucid_server.security_metrics import SecurityCollector, quota_counter
from pellucid_server.tracing.setup import span_export
from pellucid_server.tracing.tracer import Tracer

__all__ = ["App", "StartError", "channel_options", "serve"]

_log = logging.getLogger(__name__)

_HEAPS = 2
"""Of the front, which runs Python on one thread at a time: one for that and one for gRPC's threads."""

_SPANS_SECONDS = 2.0
"""Time for a stopping server's last spans to reach the collector."""


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
        self.health_port: int | None = None
        """The port of the health check alone, if there is one."""
        self._config = config
        self._registry = CollectorRegistry()
        self._metrics = Metrics.on(self._registry)
        settings = config.worker_settings()
        environment = worker_environment(settings[0].threads)
        faults = Faults(config.faults.folder)
        self._pool = Pool(
            settings,
            config.pool,
            # Another command need not know how to be a template.
            Launcher(environment, worker_command, template=worker_command == WORKER_COMMAND),
            classes=config.classes,
            concurrent_requests=config.worker.concurrent_requests,
            observer=PoolRecorder(self._metrics, devices=config.pool.devices, classes=config.classes),
            faults=faults,
        )
        self.admin = AdminPort(
            config.admin,
            options=channel_options(config.server),
            listen=lambda server, address: listen_on(server, address, self._security.credentials(), "admin.port"),
        )
        """Where models are loaded and unloaded, if that is asked for."""
        self._manager = _manager(config, self._pool)
        keys = CallerKeys(config.server.caller_key, config.server.priority_key)
        recorder = RequestRecorder(self._metrics)
        self._spans = span_export(config.tracing, self._metrics.trace_spans_dropped.labels().inc)
        tracer = None if self._spans is None else Tracer(config.tracing.sample_ratio, self._spans)
        self._room = Room(config.server.inflight_bytes, config.server.max_message_bytes)
        self._security = Security(config.tls, config.access, quota_counter(self._registry))
        self._registry.register(SecurityCollector(lambda: self._security.certificates, self._security.stale))
        self._boundary = Boundary(
            recorder,
            lambda: self._pool.hello,
            keys=keys,
            faults=faults,
            classes=config.classes,
            room=self._room,
            gate=self._security.gate,
            tracer=tracer,
        )
        self._metrics.requests_pending.set_function(lambda: self._pool.pending)
        self._metrics.requests_in_flight.set_function(lambda: self._boundary.in_flight)
        self._metrics.show_queue(config.classes, lambda: self._pool.waiting, self._pool.backlog_seconds)
        self._hurried = asyncio.Event()
        self._registry.register(ModelsCollector(lambda: self._pool.hello))
        self._registry.register(WorkersCollector(lambda: self._pool.workers))
        loads = LoadRecorder(self._metrics)
        self._pool.watch(lambda _: loads.look(self._pool.hello))
        self._jobs: Jobs | None = None
        self._registry.register(
            JobsCollector(
                lambda: None if self._jobs is None else self._jobs.counts(),
                lambda: 0 if self._jobs is None else self._jobs.size_bytes,
            )
        )
        self._health = Health()
        self._health_changes: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self._health_server: grpc.aio.Server | None = None
        self._metrics_server: Any = None
        self._tidying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, start the workers, and turn healthy when all are ready.

        Health is answered from the first moment, as NOT_SERVING; other requests are UNAVAILABLE until then.

        Raises
        ------
        StartError
            A port cannot be had, or a file of certificates or identities, or the folder of jobs, cannot be used.
        WorkerStartError
            A worker refused or died before it was ready.
        """
        ProcessCollector(registry=self._registry)
        await self._health.show(False, None)
        self._secure()
        self._open_jobs()
        self._listen()
        assert self._server is not None  # noqa: S101 - set by the line above
        await self._server.start()
        if self._config.server.health_port >= 0:
            visible = VisibleHealth(self._health, self._boundary.gate.sees_in_public)
            self._health_server, self.health_port = await serve_health(self._config.server, visible)
        self._serve_metrics()
        self._tidying = asyncio.create_task(self._tidy())
        self._pool.watch(self._change_health)
        await self._pool.start()
        if self._jobs is not None:
            self._jobs.start()
        await self._manage()

    async def stop(self, *, grace_seconds: float) -> None:
        """Turn NOT_SERVING, take no new work, give what runs or waits its time, and end the workers."""
        await self._health.enter_graceful_shutdown()
        if self._jobs is not None:
            # Where they stand is stored, and no caller waits for them.
            await self._jobs.stop()
        self._pool.drain()
        if self._server is not None:
            await drain(self._server, self._boundary, self._hurried, grace_seconds)
        if self._manager is not None:
            await self._manager.close()
        await self.admin.stop()
        if self._jobs is not None:
            await self._jobs.close()
        # Beside one another: a collector that is away must not make the end later.
        await asyncio.gather(self._pool.close(), self._send_spans())
        if self._tidying is not None:
            self._tidying.cancel()
        self._boundary.aside.close()
        self._security.close()
        if self._health_server is not None:
            # The last, so that a probe still finds it while the others end.
            await self._health_server.stop(None)
        if self._metrics_server is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._stop_metrics)

    async def _send_spans(self) -> None:
        """Give the last spans some time to reach the collector."""
        if self._spans is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._spans.close, _SPANS_SECONDS)

    def hurry(self) -> None:
        """Let no more time of a stop's grace pass."""
        self._hurried.set()

    def _secure(self) -> None:
        try:
            self._security.load(self._config.server.host)
        except UnusableFileError as error:
            raise StartError(f"{error}.") from error

    def _open_jobs(self) -> None:
        """Take jobs from now on, if there is a folder for them; they wait until the workers are ready."""
        config = self._config.jobs
        if config.folder is None:
            return
        try:
            store = Store(config.folder.absolute())
        except StoreError as error:
            raise StartError(str(error)) from error
        self._jobs = stored_jobs(
            store,
            self._security.sealed(self._pool),
            self._config,
            pool=self._pool,
            boundary=self._boundary,
            recorder=JobRecorder(self._metrics, ENDED),
        )

    def _listen(self) -> None:
        config = self._config.server
        server = grpc.aio.server(options=channel_options(config))
        workers = self._security.sealed(self._pool)
        followed = None
        if self._jobs is not None:
            followed = FollowedJobs(self._jobs, self._config.classes, self._boundary.aside)
        add_services(server, workers, self._config.limits, self._boundary, followed_jobs=followed)
        add_job_service(server, self._jobs, workers, self._config, self._boundary)
        if config.open_protocol:
            add_open_service(server, workers, self._config.limits, self._boundary, ready=lambda: self._pool.healthy)
        health_pb2_grpc.add_HealthServicer_to_server(VisibleHealth(self._health, self._boundary.gate.sees), server)
        if config.reflection:
            names = (
                *SERVICES[1:],
                *([OPEN_SERVICE.full_name] if config.open_protocol else []),
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            )
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        self.port = listen_on(server, f"{config.host}:{config.port}", self._security.credentials(), "server.port")
        self._server = server

    async def _manage(self) -> None:
        """Have models change from now on, if that is asked for."""
        if self._manager is None:
            return
        self._manager.start()
        if self._config.admin.port >= 0:
            try:
                await self.admin.start(self._manager, self._boundary, reflected=self._config.server.reflection)
            except OSError as error:
                raise StartError(str(error)) from error

    async def _tidy(self) -> None:
        """Give the memory of large requests back."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            if self._room.used:
                # Those that are still here will leave something behind as well.
                self._room.used = self._room.held_bytes > 0
                await self._boundary.aside.run(trim)

    def _serve_metrics(self) -> None:
        config = self._config.server
        if config.metrics_port < 0:
            return
        try:
            server, _ = start_http_server(config.metrics_port, config.host.strip("[]"), self._registry)
        except OSError as error:
            where = f"{config.host}:{config.metrics_port}"
            raise StartError(
                f"Cannot serve metrics on {where}: {error.strerror}. server.metrics_port sets the port."
            ) from error
        self._metrics_server = server
        self.metrics_port = server.server_port

    def _stop_metrics(self) -> None:
        self._metrics_server.shutdown()
        self._metrics_server.server_close()

    def _change_health(self, healthy: bool) -> None:
        change = asyncio.get_running_loop().create_task(self._health.show(healthy, self._pool.hello))
        self._health_changes.add(change)
        change.add_done_callback(self._health_changes.discard)


def _manager(config: Config, pool: Pool) -> Manager | None:
    """Return what has models change while they are served; None if neither the files nor an administrator can."""
    if not config.models.poll_seconds and config.admin.port < 0:
        return None
    return Manager(
        pool.workers,
        config.models.repository.absolute(),
        poll_seconds=config.models.poll_seconds,
        patience_seconds=config.pool.start_seconds,
    )


async def serve(
    config: Config, *, ready_file: Path | None = None, worker_command: Sequence[str] = WORKER_COMMAND
) -> int:
    """Serve until SIGTERM or SIGINT; a second one cuts the grace short.

    Parameters
    ----------
    ready_file
        Gets `port`, `metrics_port`, `health_port`, `admin_port` and `pid` as JSON, whole at once, when requests are
        taken.

    Returns
    -------
    int
        The exit status: 0, or after a second signal 128 and its number, as shells have it.

    Raises
    ------
    StartError, WorkerStartError
        The server cannot start.
    """
    share_heaps(_HEAPS)
    app = App(config, worker_command=worker_command)
    signals = _Signals(app.hurry)
    _log.info("starting: %s", ", ".join(config.pool.devices))
    if config.faults.folder:
        _log.warning(
            "whoever can write to %s can hold requests and end processes: for tests alone", config.faults.folder
        )
    starting = asyncio.create_task(app.start())
    stopping = asyncio.create_task(signals.first.wait())
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
    return signals.status


class _Signals:
    """SIGTERM and SIGINT from now on; `hurry` is called at the second."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.first = asyncio.Event()
        self.status = 0
        """The exit status that they ask for."""
        self._hurry = hurry
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take, number)

    def _take(self, number: signal.Signals) -> None:
        if self.first.is_set():
            self.status = 128 + number
            self._hurry()
        self.first.set()


def _announce(app: App, config: Config, ready_file: Path | None) -> None:
    settle()
    host = config.server.host
    metrics = "none" if app.metrics_port is None else f"http://{host}:{app.metrics_port}/metrics"
    health = "none" if app.health_port is None else f"{host}:{app.health_port}"
    _log.info("serving on %s:%d, metrics on %s, health checks on %s", host, app.port, metrics, health)
    if app.admin.port is not None:
        _log.info("models are loaded and unloaded on %s:%d", config.admin.host, app.admin.port)
    if ready_file is not None:
        facts = {
            "port": app.port,
            "metrics_port": app.metrics_port,
            "health_port": app.health_port,
            "admin_port": app.admin.port,
            "pid": os.getpid(),
        }
        part = ready_file.with_name(ready_file.name + ".part")
        part.write_text(json.dumps(facts) + "\n", "utf-8")
        part.replace(ready_file)
