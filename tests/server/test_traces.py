"""Exceptions in a log: where and of which type, never their words."""

import asyncio
import io
import logging

import pytest
from pellucid_server import errors, wire
from pellucid_server.engine.tasks.helper import HelperError, _answered
from pellucid_server.logs import JsonFormatter, TextFormatter, set_up
from pellucid_server.settings.sections import LoggingConfig
from pellucid_server.traces import DiscreetFormatter, trace

SECRET = "Quarrington"


def raised(error, *, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def handled():
    """Return an error that was raised while another was handled."""
    try:
        try:
            {}[SECRET]
        except KeyError:
            float(SECRET)
    except ValueError as error:
        return error
    raise AssertionError("float took it")


def circular():
    first, second = raised(KeyError(SECRET)), raised(ValueError(SECRET))
    first.__cause__, second.__cause__ = second, first
    return first


class Unwritable(Exception):
    def __str__(self):
        raise ZeroDivisionError(SECRET)


def noted():
    error = ValueError(SECRET)
    error.add_note(SECRET)
    return raised(error)


LEAKING = {
    "a key": lambda: raised(KeyError(SECRET)),
    "a cause": lambda: raised(RuntimeError(SECRET), cause=raised(ValueError(SECRET))),
    "a context": handled,
    "a circle": circular,
    "a group": lambda: raised(ExceptionGroup(SECRET, [ValueError(SECRET), KeyError(SECRET)])),
    "a note": noted,
    "a codec": lambda: raised(UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET)),
    "a syntax": lambda: raised(SyntaxError(SECRET, (SECRET, 1, 1, SECRET))),
    "a file": lambda: raised(FileNotFoundError(2, SECRET, SECRET)),
    "a caller's mistake": lambda: raised(errors.InvalidRequestError(SECRET, field=SECRET)),
    "an exception that cannot be written": lambda: raised(Unwritable(SECRET)),
    "an error never raised": lambda: KeyError(SECRET),
}


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter(), DiscreetFormatter("%(message)s")])
@pytest.mark.parametrize("make", LEAKING.values(), ids=LEAKING.keys())
def test_no_exceptions_words_are_in_a_line_whatever_formats_it(make, formatter):
    error = make()
    info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("a", logging.ERROR, "f.py", 1, "it failed", (), info)
    record.exc_text = f"KeyError: {SECRET}"  # as another handler leaves it

    line = formatter.format(record)

    assert SECRET not in line
    assert type(error).__name__ in line


def test_a_trace_has_the_files_and_lines_of_the_whole_chain():
    found = trace(handled())

    assert found.count("Traceback (most recent call last):") == 2
    assert found.index("KeyError") < found.index("another exception occurred") < found.index("ValueError")
    assert "test_traces.py" in found
    assert "float(SECRET)" in found
    assert found.splitlines()[-1] == "ValueError"


def test_the_system_and_the_server_itself_keep_their_words():
    assert trace(OSError(28, SECRET)) == "OSError: No space left on device"
    assert trace(errors.UnavailableError("The worker was lost.")).endswith("UnavailableError: The worker was lost.")
    assert trace(HelperError("the helper process ended")).endswith("HelperError: the helper process ended")


def test_a_bug_in_the_helper_process_comes_back_without_the_arguments():
    frame = wire.frame(("pellucid_server.engine.methods.shared.groups", "grid", (SECRET, 2, 3)))

    result, failure, text = wire.decode(_answered(frame[wire.LENGTH.size :])[wire.LENGTH.size :])

    assert (result, failure) == (None, "failed")
    assert "groups.py" in text
    assert SECRET not in text


@pytest.fixture
def log(monkeypatch):
    """Set the log up as the server does; yields what reads it."""
    root, watched = logging.getLogger(), [logging.getLogger(name) for name in ("asyncio", "grpc._cython.cygrpc")]
    handlers, level, filters = root.handlers[:], root.level, [each.filters[:] for each in watched]
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    set_up(LoggingConfig())
    yield written.getvalue
    root.handlers[:] = handlers
    root.setLevel(level)
    for each, kept in zip(watched, filters, strict=True):
        each.filters[:] = kept


def test_a_task_whose_error_was_never_fetched_is_logged_without_its_words(log):
    async def fail():
        raise ValueError(SECRET)

    async def forget():
        task = asyncio.create_task(fail(), name="forgotten")
        await asyncio.wait({task})

    asyncio.run(forget())

    assert "Task exception was never retrieved" in log()
    assert "ValueError" in log()
    assert SECRET not in log()


@pytest.mark.parametrize("kind", errors.error_classes())
def test_a_class_whose_message_may_be_logged_says_so_itself(kind):
    quoting = {
        "PellucidError",
        "InvalidRequestError",
        "NotFoundError",
        "UnsupportedError",
        "UnauthenticatedError",
        "PermissionDeniedError",
    }

    assert kind.quotes_request is (kind.__name__ in quoting)
