"""The jobs put together with what their work touches: the pool, metrics, quotas and the schema's bytes."""

import asyncio

from pellucid_server.config import Config
from pellucid_server.faults import Faults
from pellucid_server.jobs.jobs import Jobs
from pellucid_server.jobs.records import JobRecord
from pellucid_server.jobs.runner import Outside, Workers
from pellucid_server.jobs.store import Store
from pellucid_server.metrics import JobRecorder
from pellucid_server.pool.pool import Pool
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.findings import findings_message
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.results import RequestTiming


def stored_jobs(
    store: Store, workers: Workers, config: Config, *, pool: Pool, boundary: Boundary, recorder: JobRecorder
) -> Jobs:
    """Return the jobs of a store; `workers` are the pool's as callers see them."""
    ready = asyncio.Event()

    def look(healthy: bool) -> None:
        (ready.set if healthy else ready.clear)()

    look(pool.healthy)
    pool.watch(look)

    async def wait() -> None:
        await ready.wait()

    def charge(owner: str, timing: RequestTiming) -> None:
        boundary.gate.charge_owner(owner, timing.rows_forward + timing.rows_backward)

    def ended(record: JobRecord) -> None:
        seconds = None if record.started is None or record.ended is None else record.ended - record.started
        recorder.ended(record.state, seconds)

    outside = Outside(
        encode=_encoded,
        answered=boundary.recorded,
        charge=charge,
        ready=wait,
        faults=Faults(config.faults.folder),
    )
    capacity = config.jobs.concurrent * len(config.pool.devices)
    return Jobs(store, workers, config.jobs, capacity=capacity, outside=outside, ended=ended)


def _encoded(found: Findings) -> bytes:
    """Return the bytes that a part is stored as: any version of the schema can read them."""
    return findings_message(found).SerializeToString(deterministic=True)
