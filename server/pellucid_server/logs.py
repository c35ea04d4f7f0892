"""How log records are written: lines for people, or one JSON object for each.

Neither has the words of exceptions, which may quote what a caller sent: see `pellucid_server.traces`.
"""

import json
import logging
import time
from typing import Any

from pellucid_server.settings.sections import LoggingConfig
from pellucid_server.traces import DiscreetFormatter, trace

_log = logging.getLogger(__name__)

_GRPC = "grpc._cython.cygrpc"
_ASYNCIO = "asyncio"


class TextFormatter(DiscreetFormatter):
    """Time, level, module and message, then the record's fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Write the line; values that hold spaces or control characters are quoted."""
        fields = _fields(record)
        return " ".join([super().formatMessage(record), *(f"{name}={_plain(value)}" for name, value in fields.items())])


class JsonFormatter(logging.Formatter):
    """One JSON object: `time`, `level`, `logger`, `message`, the record's fields, and `traceback` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["traceback"] = trace(record.exc_info[1])
        return json.dumps(entry, default=str)


def set_up(config: LoggingConfig) -> None:
    """Write the process's log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.getLogger(_GRPC).addFilter(noteworthy)
    logging.getLogger(_ASYNCIO).addFilter(without_objects)


def noteworthy(record: logging.LogRecord) -> bool:
    """Tell whether a record of gRPC's tells of more than an answer that came a moment after its deadline.

    gRPC logs that as an error, with a traceback, unless it has already heard that the caller is gone. The request
    has its own line.
    """
    error = record.exc_info[1] if record.exc_info else None
    # By its name, as the class is private. Without these words it is a batch that gRPC would not even begin.
    if type(error).__name__ != "ExecuteBatchError" or not str(error).startswith('Failed "execute_batch"'):
        return True
    _log.debug("a caller was gone when its answer was sent: %s", record.getMessage())
    return False


def without_objects(record: logging.LogRecord) -> bool:
    """Keep the first line of a record of asyncio's: the others show tasks with what they raised, words and all."""
    record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)
