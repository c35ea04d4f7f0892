"""A job service whose replies are written by hand, and such replies."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from pellucid.tensors import to_tensor
from pellucid.v1 import dissection_pb2, explanation_pb2, findings_pb2, job_service_pb2, job_service_pb2_grpc

DONE = job_service_pb2.JOB_STATE_DONE
RUNNING = job_service_pb2.JOB_STATE_RUNNING


def message(state=RUNNING, share=0.5, **fields):
    usual = {
        "id": "ab",
        "state": state,
        "rpc": "Dissect",
        "method": "activations",
        "model": explanation_pb2.ModelSpec(name="iris", version=2, digest="cd" * 32),
        "progress": dissection_pb2.Progress(share=share, rows_done=5, rows=10, rows_per_second=2.5, seconds_left=2.0),
    }
    return job_service_pb2.Job(**(usual | fields))


def change(*arguments, preview=None, **fields):
    return job_service_pb2.WatchJobResponse(job=message(*arguments, **fields), preview=preview)


def table(*values):
    column = findings_pb2.NamedColumn(name="mean", numbers=to_tensor(np.asarray(values)))
    return findings_pb2.Findings(tables={"units": findings_pb2.NamedTable(columns=[column])})


def last(**fields):
    receipt = explanation_pb2.Receipt(model=explanation_pb2.ModelSpec(name="iris"), method="activations")
    return findings_pb2.Findings(receipt=receipt, **fields)


LOST = grpc.StatusCode.UNAVAILABLE


class JobServer(job_service_pb2_grpc.JobServiceServicer):
    """Answers each call with the next script of its RPC: a message, messages, or messages and a status in the end."""

    def __init__(self):
        self.scripts = {}
        self.requests = []

    def _next(self, rpc, request):
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests.append(copy)
        return self.scripts[rpc].popleft()

    def _stream(self, rpc, request, context):
        for each in self._next(rpc, request):
            if isinstance(each, grpc.StatusCode):
                context.abort(each, "as scripted")
            yield each

    def SubmitJob(self, request, context):
        return self._next("SubmitJob", request)

    def ListJobs(self, request, context):
        return self._next("ListJobs", request)

    def GetJob(self, request, context):
        return self._next("GetJob", request)

    def CancelJob(self, request, context):
        return self._next("CancelJob", request)

    def DeleteJob(self, request, context):
        return self._next("DeleteJob", request)

    def WatchJob(self, request, context):
        yield from self._stream("WatchJob", request, context)

    def FetchJob(self, request, context):
        yield from self._stream("FetchJob", request, context)


@pytest.fixture(scope="module")
def served():
    servicer = JobServer()
    server = grpc.server(ThreadPoolExecutor(4))
    job_service_pb2_grpc.add_JobServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer, address
    server.stop(None)


@pytest.fixture
def script(served):
    """Set what the server does, by RPC, call by call."""
    servicer, _ = served
    servicer.requests.clear()

    def write(**scripts):
        servicer.scripts = {rpc: deque(calls) for rpc, calls in scripts.items()}
        return servicer.requests

    return write
