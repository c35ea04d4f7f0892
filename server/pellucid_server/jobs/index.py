"""The index of the jobs: a row of SQLite for each."""

import dataclasses
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pellucid_server.jobs.records import JobRecord
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import Failure

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        owner TEXT NOT NULL,
        verb TEXT NOT NULL,
        method TEXT NOT NULL,
        model TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest TEXT NOT NULL,
        dataset TEXT NOT NULL,
        dataset_digest TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        ended REAL,
        share REAL NOT NULL,
        rows_done INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        parts INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        resumed INTEGER NOT NULL,
        failure TEXT
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE jobs ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN pinned INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE jobs ADD COLUMN priority TEXT NOT NULL DEFAULT 'bulk';
    """,
)
"""What makes the tables of each version out of those of the one before; only ever added to."""

_WAIT_SECONDS = 5.0
_FLAGS = ("shared", "pinned")


class StoreError(Exception):
    """The folder of jobs cannot be used; the message tells the operator why."""


class Index:
    """The rows; use it from one thread at a time.

    Raises
    ------
    StoreError
        The file is no such index, or a later version of the service has written it.
    """

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._begin(path)
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"The index of jobs {path} cannot be used: {error}") from error
        except StoreError:
            self.close()
            raise

    def all(self) -> list[JobRecord]:
        """Return every job, the oldest first."""
        return [_record(row) for row in self._rows.execute("SELECT * FROM jobs ORDER BY created, id")]

    def put(self, record: JobRecord) -> None:
        """Write a job's row, in place of the one that is there; it is on the disk afterwards."""
        fields = _fields(record)
        names, marks = ", ".join(fields), ", ".join(f":{name}" for name in fields)
        self._rows.execute(f"INSERT OR REPLACE INTO jobs ({names}) VALUES ({marks})", fields)  # noqa: S608 - own names

    def pin(self, job: str) -> None:
        """Write that a job was submitted, and nothing else of it; harmless if it is not there."""
        self._rows.execute("UPDATE jobs SET pinned = 1 WHERE id = ?", (job,))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows."""
        with self._rows:
            self._rows.execute("BEGIN IMMEDIATE")
            self._rows.executemany("DELETE FROM jobs WHERE id = ?", [(each,) for each in ids])

    def close(self) -> None:
        """Put everything into the one file."""
        self._rows.close()

    def _begin(self, path: Path) -> None:
        """Make the tables those of this version.

        Raises
        ------
        StoreError
            A later version of the service has written them; nothing is changed then.
        """
        rows = self._rows
        rows.row_factory = sqlite3.Row
        # Before anything is read. Of one process alone, the log needs no shared memory, which network file systems do
        # not have, and a full disk has no room for.
        rows.execute("PRAGMA locking_mode = EXCLUSIVE")
        (version,) = rows.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StoreError(
                f"The jobs in {path.parent} were written by a later version of the service (schema {version}; this one "
                f"knows {len(MIGRATIONS)}). Start that version, or set jobs.folder to another folder."
            )
        rows.execute("PRAGMA journal_mode = WAL")
        # A job that was answered for is there after a power cut too.
        rows.execute("PRAGMA synchronous = FULL")
        for number, step in enumerate(MIGRATIONS[version:], version + 1):
            rows.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")


def _fields(record: JobRecord) -> dict[str, Any]:
    found = {entry.name: getattr(record, entry.name) for entry in dataclasses.fields(record)}
    found |= {"model": record.model.name, "version": record.model.version, "digest": record.model.digest}
    failure = record.failure
    found["failure"] = (
        None if failure is None else json.dumps([failure.reason, failure.message, dict(failure.metadata)])
    )
    return found


def _record(row: sqlite3.Row) -> JobRecord:
    found = dict(row)
    found["model"] = ModelKey(found["model"], found.pop("version"), found.pop("digest"))
    found |= {name: bool(found[name]) for name in _FLAGS}
    if found["failure"] is not None:
        found["failure"] = Failure(*json.loads(found["failure"]))
    return JobRecord(**found)
