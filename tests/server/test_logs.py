"""Lines of the log, and what of gRPC's own is in it."""

import asyncio
import io
import json
import logging
import random

import grpc
import pytest
from grpc._cython.cygrpc import ExecuteBatchError
from pellucid_server.logs import JsonFormatter, TextFormatter, noteworthy, set_up
from pellucid_server.settings.sections import LoggingConfig

GRPC = logging.getLogger("grpc._cython.cygrpc")
SECONDS = 60.0


class Missed:
    """Counts the answers of which gRPC says that they could not be sent."""

    def __init__(self):
        self.count = 0

    def filter(self, record):
        self.count += bool(record.exc_info) and isinstance(record.exc_info[1], ExecuteBatchError)
        return True


@pytest.fixture
def written(monkeypatch):
    """Return what is written to standard error."""
    found = io.StringIO()
    monkeypatch.setattr("sys.stderr", found)
    return found.getvalue


@pytest.fixture
def missed(written):
    """Set the log up as the server does, and undo that."""
    root, counting = logging.getLogger(), Missed()
    handlers, level, filters = root.handlers[:], root.level, GRPC.filters[:]
    GRPC.addFilter(counting)
    set_up(LoggingConfig())
    yield counting
    root.handlers[:], GRPC.filters[:] = handlers, filters
    root.setLevel(level)


class Close(grpc.GenericRpcHandler):
    """Ends every call within a millisecond of its deadline, one way or the other."""

    def __init__(self, draw, *, aborting):
        self._draw, self._aborting = draw, aborting

    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request, context):
        await asyncio.sleep(max(0.0, context.time_remaining() + self._draw(-1e-3, 1e-3)))
        if self._aborting:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        return b"just in time"


def record(**fields):
    made = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "request", (), None)
    made.fields = fields
    return made


def test_text_lines_quote_what_could_be_taken_for_more_fields():
    line = TextFormatter().format(record(id="x", error="a\nb code=OK", rows=3))

    assert line.endswith('INFO a.b request id=x error="a\\nb code=OK" rows=3')


def test_json_lines_are_objects_with_the_fields():
    entry = json.loads(JsonFormatter().format(record(id="x", seconds=0.5)))

    assert (entry["message"], entry["level"], entry["id"], entry["seconds"]) == ("request", "info", "x", 0.5)


@pytest.fixture
async def close(request):
    """Serve a handler that ends calls close to their deadline; yields a channel to it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Close(random.Random(seed).uniform, aborting=request.param),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


@pytest.mark.parametrize("close", [False, True], ids=["answer", "status"], indirect=True)
async def test_what_cannot_be_sent_because_its_caller_just_left_is_no_error_in_the_log(missed, written, close):
    async def call_until_one_is_missed(seconds):
        while not missed.count:
            await asyncio.gather(close.unary_unary("/a/b")(b"", timeout=seconds), return_exceptions=True)

    # Only a call that is taken in before its deadline can end close to it: a slow machine needs the long ones.
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(call_until_one_is_missed(0.02 * (1 + number)) for number in range(12)))

    # gRPC has told the log, and the log has told nobody.
    assert "cygrpc" not in written()


NOT_SENT = 'Failed "execute_batch": (<SendStatusFromServerOperation object>,)'


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ExecuteBatchError(NOT_SENT), False),
        (ExecuteBatchError("Failed grpc_call_start_batch: 8 with grpc_call_error value"), True),
        (grpc.aio.InternalError(NOT_SENT), True),
        (ValueError(NOT_SENT), True),
        (None, True),
    ],
    ids=["not sent", "not begun", "another of gRPC's", "a bug", "no error"],
)
def test_other_failures_of_grpc_are_in_the_log(error, told):
    exc_info = (type(error), error, None) if error else None

    found = noteworthy(logging.LogRecord(GRPC.name, logging.ERROR, "f.py", 1, "failed", (), exc_info))

    assert found is told
