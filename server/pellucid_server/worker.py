"""The worker process: loads the models onto one device and answers requests on an inherited socket.

Forked by the pool from its template, which is `python -m pellucid_server.worker --template N`, or started as
`python -m pellucid_server.worker --fd N --record M` where that is not possible. The first message is its settings; it
answers `Hello` once every model is tried out and loaded, or found broken, or `Refused`, and then sends a
`Heartbeat` at equal intervals. It notes what it is busy with in the record M, if there is one (see
`pellucid_server.recorder`).
It exits at end of file, whatever it is doing, and when one of its threads fails.
"""

import argparse
import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from pellucid_server import template
from pellucid_server.engine import methods as methods_package
from pellucid_server.engine.asking import registry
from pellucid_server.engine.datasets.catalogue import DataSets, scan, scan_copies
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.engine.device import accelerator
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.evaluations.model_handle import WorkerServices
from pellucid_server.engine.models.loading import trials
from pellucid_server.engine.models.loading.guard import GuardError
from pellucid_server.engine.models.loading.loader import Loader, import_for_loads
from pellucid_server.engine.operations import ablate as _ablate  # noqa: F401 - it registers what answers Ablate
from pellucid_server.engine.operations import counterfactuals as _counterfactuals  # noqa: F401 - as above
from pellucid_server.engine.operations import dissect as _dissect  # noqa: F401 - as above
from pellucid_server.engine.operations import studies as _studies  # noqa: F401 - it reads what studies are asked
from pellucid_server.engine.operations.attribute import attribute
from pellucid_server.engine.operations.context import BUG, Models, RequestContext, failure
from pellucid_server.engine.operations.predict import predict
from pellucid_server.engine.operations.streams import Resume, StreamVerb, stream_infos, stream_verb
from pellucid_server.engine.tasks.helpers import Helpers
from pellucid_server.engine.tasks.hub import Hub
from pellucid_server.engine.tasks.part_credit import PartCredit
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.engine.tasks.spans import SpanLog
from pellucid_server.errors import UnavailableError
from pellucid_server.faults import Faults
from pellucid_server.memory_hygiene import TRIM_SECONDS, keep_freed, resident_bytes, settle, trim
from pellucid_server.model_files.listing import ModelError
from pellucid_server.processes import name_process
from pellucid_server.recorder import Recorder
from pellucid_server.served_models import ServedModels
from pellucid_server.traces import DiscreetFormatter
from pellucid_server.vocabulary.changes import Adopt, Prepare
from pellucid_server.vocabulary.messages import (
    Cancel,
    Credit,
    Done,
    Heartbeat,
    Hello,
    Loading,
    Part,
    Progress,
    Refused,
    Start,
    WorkerSettings,
)
from pellucid_server.vocabulary.requests import AblateRequest, AttributeRequest, DissectRequest, PredictRequest, Request
from pellucid_server.vocabulary.results import Failure, RequestTiming, Result
from pellucid_server.worker_connection import Connection

_log = logging.getLogger(__name__)

_HELPER_MODULES = ("pellucid_server.engine.methods.shared.groups",)
"""What a helper process imports beforehand, if it is not forked: the first superpixels would wait for it."""
_TRIAL = "trial"
"""The role of a process that tries out a version while others are served."""

_COPY_AGAIN_SECONDS = (5.0, 15.0, 60.0, 300.0, 600.0)
"""How long to wait before data sets at a URL that cannot be read are tried again; the last for ever."""

_SWITCH_SECONDS = 1e-4
_PROGRESS_SECONDS = 0.1


class Worker:
    """Runs the requests that arrive."""

    def __init__(self, connection: Connection, models: ServedModels, services: WorkerServices, faults: Faults) -> None:
        self._connection = connection
        self._models = models
        self._services = services
        self._faults = faults
        self._requests: dict[int, RequestState] = {}
        self._credits: dict[int, PartCredit] = {}

    def take(self, message: Any) -> None:
        """Do what the front says."""
        match message:
            case Start():
                self._start(message)
            case Cancel():
                # The request may have ended while the cancellation was on its way.
                state = self._requests.get(message.request_number)
                if state is not None:
                    state.cancelled = True
                    self._credit(message.request_number, 0, 0)
            case Credit():
                self._credit(message.request_number, message.parts, message.size_bytes)
            case Prepare():
                self._models.prepare(message)
            case Adopt():
                self._models.adopt(message)
            case _:
                _log.warning("the front sent an unexpected %s", type(message).__name__)

    def beat(self) -> None:
        """Report how long the device, the hub and the threads beside it have been at what they do, and what was done.

        Not while the front reads nothing: a front that is stopped for hours would be left a heap of heartbeats.
        """
        if self._connection.stuck:
            return
        engine, hub = self._services.engine, self._services.hub
        busy_seconds, batches = engine.batches.take()
        self._connection.send_now(
            Heartbeat(
                engine.busy_seconds(),
                hub.busy_seconds(),
                hub.offloaded_seconds(),
                resident_bytes(),
                busy_seconds,
                batches,
            )
        )

    def _credit(self, request_number: int, parts: int, size_bytes: int) -> None:
        credit = self._credits.get(request_number)
        if credit is not None:
            credit.grant(parts, size_bytes)

    def _start(self, start: Start) -> None:
        request, model = start.request, start.request.model.name
        self._faults.reach("sent", model=model)
        state = RequestState(
            start.request_number,
            None if start.seconds_left is None else time.monotonic() + start.seconds_left,
            priority=start.priority,
            caller=start.caller,
            alone=start.alone,
            model=model,
            spans=SpanLog(start.trace) if start.trace else None,
        )
        number, hub = start.request_number, self._services.hub
        self._requests[number] = state
        if stream_verb(request) is not None:
            self._credits[number] = PartCredit(hub, state, parts=start.credit_parts, size_bytes=start.credit_bytes)
        prediction = isinstance(request, PredictRequest) and not request.explanations
        # Those that are served as it arrives: it ends on them, whatever changes meanwhile.
        models = self._models.now
        hub.submit(
            lambda: self._run(state, start, models),
            request_number=number,
            prediction=prediction,
            name=type(request).__name__.removesuffix("Request"),
        )

    def _run(self, state: RequestState, start: Start, models: Models) -> None:
        """Do one request, as a task of the hub, and send what came of it."""
        result, failed = self._outcome(state, start, models)
        self._requests.pop(state.request_number, None)
        self._credits.pop(state.request_number, None)
        ended, started = time.monotonic(), state.started or state.arrived
        timing = RequestTiming(
            started - state.arrived, ended - started, state.rows_forward, state.rows_backward, state.rows_by_kind()
        )
        self._faults.reach("answered", model=state.model)
        done = Done(state.request_number, timing, result, failed)
        if state.spans is not None:
            spans = state.spans.report("" if failed is None else failed.reason)
            done = replace(done, spans=spans, spans_dropped=state.spans.dropped)
        try:
            self._connection.send(done)
        except Exception:  # noqa: BLE001 - the request must have an answer, and this one cannot be sent again
            _log.exception("request %d: the result cannot be sent", state.request_number)
            self._connection.send(Done(state.request_number, timing, failure=BUG))

    def _outcome(self, state: RequestState, start: Start, models: Models) -> tuple[Result | None, Failure | None]:
        try:
            state.check()
            state.started = time.monotonic()
            if state.spans is not None:
                state.spans.start()
            self._faults.reach("running", model=state.model)
            context = RequestContext(models, self._services, state, _Reporter(self._connection, state).report)
            verb = stream_verb(start.request)
            if verb is not None:
                self._send_parts(context, start, verb)
                return None, None
            return self._operate(context, start.request), None
        except Exception as error:  # noqa: BLE001 - a bug costs its own request and no other
            return None, failure(state, error)

    def _send_parts(self, context: RequestContext, start: Start, verb: StreamVerb) -> None:
        """Send the parts of an answer, as far ahead of its reader as the credit allows."""
        number, credit = start.request_number, self._credits[start.request_number]
        resume = Resume(start.parts_done, start.checkpoint)
        digest = context.models.find(start.request.model).digest
        if start.digest not in ("", digest):
            text = "The worker was lost, and the model has changed since it began; send the request again."
            raise UnavailableError(text, retry_after_seconds="0.000")
        with contextlib.closing(verb.run(context, start.request, resume)) as steps:
            for position, step in enumerate(steps, start.parts_done):
                part = Part(
                    number,
                    position,
                    step.body,
                    step.share,
                    step.checkpoint,
                    digest,
                    step.state,
                    step.preview,
                    step.silent,
                    context.request.rows_done,
                    context.request.rows_asked,
                )
                credit.spend(part.size_bytes)
                self._connection.send(part)

    def _operate(self, context: RequestContext, request: Request) -> Result:
        match request:
            case PredictRequest():
                return predict(context, request)
            case AttributeRequest():
                return attribute(context, request)
            case AblateRequest() | DissectRequest():
                raise AssertionError("Ablate and Dissect are answered in parts")


class _Reporter:
    """Sends a request's progress, at most ten times a second and never less than before."""

    def __init__(self, connection: Connection, state: RequestState) -> None:
        self._connection = connection
        self._state = state
        self._sent = time.monotonic()
        self._share = 0.0

    def report(self, share: float) -> None:
        """Send that `share` of the request is done."""
        now = time.monotonic()
        if share > self._share and now - self._sent >= _PROGRESS_SECONDS:
            self._sent, self._share = now, share
            state = self._state
            self._connection.send(Progress(state.request_number, share, state.rows_done, state.rows_asked))


def main() -> NoReturn:
    """Be a worker, or a template of workers, until the front closes the socket."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--fd", type=int, help="of the socket to the front")
    what.add_argument("--template", type=int, help="fork workers, as asked for on the socket with this descriptor")
    what.add_argument("--trial", type=int, help="try out a version, as asked for on the socket with this descriptor")
    parser.add_argument("--record", type=int, help="of the flight recorder's file")
    # A terminal sends an interrupt to the whole group; the front decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # torch warns of its own deprecated calls at each load.
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    handler = logging.StreamHandler()
    handler.setFormatter(DiscreetFormatter("%(asctime)s worker %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    threading.excepthook = _end
    arguments = parser.parse_args()
    registry.discover(methods_package)
    if arguments.template is not None:
        template.serve(arguments.template, "pellucid-templ", {"worker": work})
    if arguments.trial is not None:
        # Only where there is no template to fork it from.
        import_for_loads()
        trials.answer(arguments.trial)
        sys.exit()
    work(arguments.fd, arguments.record)


def work(descriptor: int, record: int | None) -> NoReturn:
    """Serve until the front closes the socket `descriptor`; `record` is of the flight recorder's file."""
    name_process("pellucid-worker")
    # Forked workers would all go on from one state. (The other generators that have no seed see to it themselves.)
    np.random.seed()
    connection = Connection(descriptor)
    recorder = None if record is None else Recorder(record)
    settings: WorkerSettings | None = connection.first()
    if settings is None:
        os._exit(0)
    _prepare_process(settings)
    helpers = Helpers(load=_HELPER_MODULES, roles={_TRIAL: trials.answer})
    import_for_loads()
    try:
        # Before any thread is started: both fork.
        helpers.prepare()
        loader = Loader.begin(settings, registry.methods())
    except ModelError as error:
        connection.send_now(Refused(str(error)))
        connection.drain()
        os._exit(0)
    # After the fork: what models are tried out in is measured by the memory that it has.
    keep_freed()
    ready: Future[Worker] = Future()
    threading.Thread(target=_read, args=(connection, ready), name="reader", daemon=True).start()
    worker = _ready_worker(connection, settings, recorder, ready, loader, helpers)
    if worker is None:
        connection.drain()
        os._exit(0)
    trimmed = time.monotonic()
    while True:
        time.sleep(settings.heartbeat_seconds)
        worker.beat()
        if time.monotonic() - trimmed > TRIM_SECONDS:
            trim()
            trimmed = time.monotonic()


def _read(connection: Connection, ready: "Future[Worker]") -> NoReturn:
    """Take messages until end of file; then end the process, though threads are in the middle of work.

    It reads while the models are being loaded, so that a worker whose front dies stops at once. The front
    sends nothing until it is greeted.
    """
    while (message := connection.receive()) is not None:
        ready.result().take(message)
    os._exit(0)


def _end(failed: threading.ExceptHookArgs) -> NoReturn:
    """End the process when one of its threads fails: it would answer nothing, and the front starts another."""
    name = failed.thread.name if failed.thread is not None else "unnamed"
    trace = (failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    _log.critical("the thread %r failed, and the worker with it", name, exc_info=trace)
    os._exit(1)


def _prepare_process(settings: WorkerSettings) -> None:
    """Set what holds for the whole process, before any thread is started."""
    torch.set_num_threads(settings.threads)
    accelerator.prepare_process(settings.device)
    sys.setswitchinterval(_SWITCH_SECONDS)


def _missing_device(name: str) -> str:
    """Say what is wrong with a device that is not there; empty if it is."""
    kind, _, index = name.partition(":")
    if kind != "cuda" or int(index) < torch.cuda.device_count():
        return ""
    return (
        f"There is no {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices. Set "
        "pool.devices to those that are there, or to cpu; a CPU build of torch sees none."
    )


def _ready_worker(
    connection: Connection,
    settings: WorkerSettings,
    recorder: Recorder | None,
    ready: "Future[Worker]",
    loader: Loader,
    helpers: Helpers,
) -> Worker | None:
    """Load the models and greet the front; hand the worker to the reader before work can come."""
    missing = _missing_device(settings.device)
    if missing:
        connection.send_now(Refused(missing))
        loader.close()
        return None
    # All children were forked before.
    accelerator.prepare_thread(settings.device)
    try:
        loaded = loader.load(lambda version: connection.send_now(Loading(version.name, version.number)))
    except (ModelError, GuardError) as error:
        connection.send_now(Refused(str(error)))
        loader.close()
        return None
    faults = Faults(settings.fault_folder)
    accelerator.leave_room(settings.device)
    engine = Engine(
        chunk_seconds=settings.chunk_seconds,
        chunk_bytes=accelerator.chunk_bytes(settings.device, settings.chunk_bytes),
        threads=settings.threads,
        class_weights=settings.class_weights,
        express=settings.device == "cpu",
        recorder=recorder,
        faults=faults,
        device=settings.device,
    )
    services = WorkerServices(
        engine, Hub(on_turn=connection.turn, recorder=recorder), helpers, settings.device, settings.threads
    )
    settle()
    methods = registry.methods()
    remote = "://" in settings.datasets
    datasets = DataSets(copying=True) if remote else scan(Path(settings.datasets)) if settings.datasets else DataSets()
    hello = Hello(
        models=tuple(model.info(methods) for model in loaded.models),
        methods=tuple(method.info() for method in methods),
        device=settings.device,
        broken=loaded.broken,
        verdicts=loaded.verdicts,
        streams=stream_infos(),
        datasets=datasets.infos,
    )
    served = ServedModels(
        Models.of(loaded.models, loaded.broken, datasets),
        hello,
        settings,
        engine=engine,
        fork=partial(helpers.fork, _TRIAL),
        send=connection.send_now,
    )
    worker = Worker(connection, served, services, faults)
    ready.set_result(worker)
    connection.send_now(hello)
    helpers.start()
    if remote:
        threading.Thread(target=_take_copies, args=(served, settings), name="copies", daemon=True).start()
    if not datasets.complete:
        # Of gigabytes, a digest takes seconds, which no model should wait for.
        threading.Thread(target=_complete, args=(served, datasets), name="digests", daemon=True).start()
    return worker


def _take_copies(served: ServedModels, settings: WorkerSettings, wait: Callable[[float], object] = time.sleep) -> None:
    """Copy the data sets at a URL, and serve them when they are there; try again for as long as that fails."""
    for seconds in itertools.chain(_COPY_AGAIN_SECONDS, itertools.repeat(_COPY_AGAIN_SECONDS[-1])):
        try:
            datasets = scan_copies(settings.datasets, Path(settings.datasets_cache), settings.datasets_cache_bytes)
            break
        except DataSetError as error:
            _log.error("the data sets are not copied, which is tried again in %g s: %s", seconds, error)
            wait(seconds)
    served.take_datasets(datasets)
    if not datasets.complete:
        _complete(served, datasets)


def _complete(served: ServedModels, datasets: DataSets) -> None:
    """Send the digests of large data sets when they are there."""
    served.complete_datasets(datasets.completed())


if __name__ == "__main__":
    main()
