"""The folder of the jobs: an index, and for each job its request, where it stands, and the parts of its answer.

The law: whenever the machine stops, a job that had not ended has exactly the parts that its last checkpoint counts,
once the store is opened again; one that is done has all of them. So a part is on the disk before the checkpoint that
counts it, and the last part before the row that says that the job is done.

Requests and checkpoints are of `pellucid_server.wire`, which only versions with the same classes can read: a job that
another version began is done from the start, or not at all if not even its request can be read. Parts are bytes that
any version can read; what they are is the owner's matter. Behind the bytes of each file is a digest of them.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pellucid_server import wire
from pellucid_server.errors import UnsupportedError
from pellucid_server.jobs.disk import Disk, size_of
from pellucid_server.jobs.failures import failure_of, lost_files
from pellucid_server.jobs.index import Index, StoreError
from pellucid_server.jobs.records import DONE, FAILED, JobRecord
from pellucid_server.jobs.sealed import DamageError, sealed, unsealed
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import Part
from pellucid_server.vocabulary.requests import Request

_log = logging.getLogger(__name__)

_REQUEST, _CHECKPOINT = "request", "checkpoint"
_FINGERPRINT_BYTES = 32


class Store:
    """The jobs on the disk; use it from one thread at a time, and in one process.

    Raises
    ------
    StoreError
        The folder cannot be used: another server has it, or it cannot be read or written, or a later version of the
        service has written it.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        self._answers = folder / "answers"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(folder)
        except OSError as error:
            raise StoreError(f"The folder of jobs {folder} cannot be used: {error.strerror}.") from error
        try:
            self._answers.mkdir(mode=0o700, exist_ok=True)
            self._index = Index(folder / "jobs.sqlite")
            self.records = self._repaired(self._index.all())
            """The jobs that were there when it was opened, the oldest first."""
        except OSError as error:
            os.close(self._lock)
            raise StoreError(f"The folder of jobs {folder} cannot be used: {error.strerror}.") from error
        except StoreError:
            os.close(self._lock)
            raise

    def create(self, record: JobRecord, request: Request) -> JobRecord:
        """Write a new job; return it with its size."""
        folder = self._answers / record.id
        self._disk.make_folder(folder)
        self._disk.write(folder / _REQUEST, _packed(request))
        record = replace(record, size_bytes=size_of(folder))
        self.put(record)
        return record

    def put(self, record: JobRecord) -> None:
        """Write what is known of a job."""
        self._disk.step("commit", 0)
        self._index.put(record)

    def pin(self, job: str) -> None:
        """Write that a job was submitted."""
        self._disk.step("commit", 0)
        self._index.pin(job)

    def request(self, job: str) -> Request:
        """Return a job's request.

        Raises
        ------
        UnsupportedError
            Another version of the service has written it.
        """
        found = _unpacked((self._answers / job / _REQUEST).read_bytes())
        if found is None:
            text = "The job's request cannot be read: another version of the service wrote it. Submit it again."
            raise UnsupportedError(text, subject=f"jobs/{job}")
        request: Request = found
        return request

    def save_part(self, job: str, number: int, data: bytes) -> None:
        """Write a part of a job's answer, in place of one of that number."""
        self._disk.write(self._part(job, number), sealed(data))

    def part(self, job: str, number: int) -> bytes:
        """Return a part of a job's answer.

        Raises
        ------
        DamageError
            It is gone, perhaps with the job, or cannot be read, or is not what was written.
        """
        try:
            return unsealed(self._part(job, number).read_bytes())
        except OSError as error:
            raise DamageError(f"a part of the job {job} cannot be read: {error.strerror}") from error

    def save_checkpoint(self, job: str, checkpoint: Part) -> None:
        """Write where a job stands: `number` is how many parts of its answer were written before."""
        self._disk.write(self._answers / job / _CHECKPOINT, _packed(checkpoint))

    def checkpoint(self, job: str) -> Part | None:
        """Return where a job stands; None if it is at its start."""
        try:
            found = _unpacked((self._answers / job / _CHECKPOINT).read_bytes())
        except FileNotFoundError:
            return None
        return found if isinstance(found, Part) else None

    def size(self, job: str) -> int:
        """Return the bytes of a job's files."""
        return size_of(self._answers / job)

    def drop_files(self, job: str) -> None:
        """Remove a job's request, checkpoint and parts; what is known of it stays."""
        self._disk.remove(self._answers / job)

    def remove(self, jobs: Iterable[str]) -> None:
        """Remove jobs with all that belongs to them."""
        listed = list(jobs)
        # The rows first: a folder without a row is removed when the store is opened.
        try:
            self._remove_rows(listed)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            # The folders make room.
            self._remove_folders(listed)
            self._remove_rows(listed)
        self._remove_folders(listed)

    def _remove_rows(self, jobs: list[str]) -> None:
        self._disk.step("commit", 0)
        self._index.remove(jobs)

    def _remove_folders(self, jobs: list[str]) -> None:
        for each in jobs:
            self._disk.remove(self._answers / each)

    def close(self) -> None:
        """Let another server have the folder."""
        self._index.close()
        os.close(self._lock)

    def _part(self, job: str, number: int) -> Path:
        return self._answers / job / f"part-{number:06d}"

    def _repaired(self, records: list[JobRecord]) -> list[JobRecord]:
        """Make the law hold after a stop at any moment; return the jobs as they are then."""
        known = {each.id: each for each in records}
        for path in list(self._answers.iterdir()):
            record = known.get(path.name)
            if record is None or (record.over and record.state != DONE):
                self._disk.remove(path)
        return [self._repaired_job(each) for each in records]

    def _repaired_job(self, record: JobRecord) -> JobRecord:
        folder = self._answers / record.id
        if record.over and record.state != DONE:
            return record
        if not (folder / _REQUEST).exists() or not all(
            self._part(record.id, number).exists() for number in range(record.parts if record.state == DONE else 0)
        ):
            return self._without_files(record)
        if record.state == DONE:
            self._trim(record.id, record.parts)
            return record
        checkpoint = self.checkpoint(record.id)
        parts = 0 if checkpoint is None else checkpoint.number
        if not all(self._part(record.id, number).exists() for number in range(parts)):
            return self._without_files(record)
        if checkpoint is None:
            # It may be there and of another version, whose parts are not to be gone on from.
            self._disk.remove(folder / _CHECKPOINT)
            checkpoint = Part(0, 0, Findings())
        self._trim(record.id, parts)
        return replace(
            record,
            parts=parts,
            share=checkpoint.share,
            rows_done=checkpoint.rows_done,
            rows=checkpoint.rows,
            size_bytes=size_of(folder),
        )

    def _trim(self, job: str, parts: int) -> None:
        """Remove parts beyond the first so many, and what a write left behind that did not come to its end."""
        kept = {self._part(job, number).name for number in range(parts)} | {_REQUEST, _CHECKPOINT}
        for path in list((self._answers / job).iterdir()):
            if path.name not in kept:
                self._disk.remove(path)

    def _without_files(self, record: JobRecord) -> JobRecord:
        """Fail a job some of whose files are gone: somebody has removed them."""
        failed = replace(record, state=FAILED, failure=failure_of(lost_files()), parts=0, size_bytes=0)
        failed = replace(failed, ended=record.ended or record.created)
        self._index.put(failed)
        self._disk.remove(self._answers / record.id)
        return failed


def _locked(folder: Path) -> int:
    """Take the folder's lock, which ends with this process, and return its descriptor."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"The folder of jobs {folder} is in use by another server; each needs one of its own (jobs.folder)."
        ) from None
    return descriptor


def _packed(message: Any) -> bytes:
    return sealed(b"".join((wire.fingerprint().encode(), *wire.pieces(message))))


def _unpacked(data: bytes) -> Any:
    """Return the message; None if another version wrote it, or the disk has lost some of it."""
    if data[:_FINGERPRINT_BYTES] != wire.fingerprint().encode():
        return None
    try:
        # Segments must lie at multiples of 16, as the fingerprint's end does.
        return wire.decode(memoryview(unsealed(data))[_FINGERPRINT_BYTES:])
    except Exception:  # noqa: BLE001 - what damaged bytes raise is not known; one file must not keep the server from starting
        _log.warning("a file of a job cannot be read", exc_info=True)
        return None
