"""What the front measures, for Prometheus, on a registry that is passed in.

Labels come from closed sets: RPCs from the schema, models, versions, methods and columns from what the workers serve,
codes from gRPC, classes and devices from the settings. A name that a request brings and that is not served counts as
"unknown". docs/operating.md has a table of all metrics.

`collectors` names them, `families` is what they are made of, and each other module records for one part of the
server: `requests` and `calls` for the boundary, `explanations` for the handlers, `workers` for the pool, `models` for
what is served, `jobs` for jobs.
"""

from pellucid_server.metrics.collectors import Metrics
from pellucid_server.metrics.jobs import JobRecorder, JobsCollector
from pellucid_server.metrics.labels import UNKNOWN, ServedLabels
from pellucid_server.metrics.models import LoadRecorder, ModelsCollector
from pellucid_server.metrics.requests import RequestRecorder
from pellucid_server.metrics.workers import PoolRecorder, WorkersCollector

__all__ = [
    "UNKNOWN",
    "JobRecorder",
    "JobsCollector",
    "LoadRecorder",
    "Metrics",
    "ModelsCollector",
    "PoolRecorder",
    "RequestRecorder",
    "ServedLabels",
    "WorkersCollector",
]
