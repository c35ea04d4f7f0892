"""Requests for jobs: what a call wants, and which jobs it may know of."""

from collections.abc import Mapping
from dataclasses import replace

from pellucid_server.access.policy import ADMIN, DISSECT, EXPLAIN, PREDICT, Identity
from pellucid_server.errors import PermissionDeniedError, UnavailableError, broken_model
from pellucid_server.jobs.failures import no_job
from pellucid_server.jobs.jobs import Jobs
from pellucid_server.jobs.keys import Asked, Wish
from pellucid_server.jobs.records import JobRecord
from pellucid_server.pool.pool import check_class
from pellucid_server.rpc import catalogue
from pellucid_server.rpc.arrival import Call
from pellucid_server.settings.sections import ClassConfig
from pellucid_server.vocabulary.descriptions import BrokenModel
from pellucid_server.vocabulary.messages import Hello

ROLES = {"Dissect": DISSECT, "Ablate": EXPLAIN}
"""The role that each RPC needs whose requests jobs do."""

_SOON = "1.000"


def wish_of(jobs: Jobs, asked: Asked, call: Call, hello: Hello | None, classes: Mapping[str, ClassConfig]) -> Wish:
    """Return what a call wants: its request with the model version that answers now.

    Raises
    ------
    NotFoundError, UnsupportedError
        There is no such model version, it is broken, or has another digest.
    UnavailableError
        It is not known yet what is served, or which files the data set has.
    InvalidRequestError
        There is no such class of requests, or it takes none like this.
    """
    known = catalogue.known(hello)
    if call.priority:
        check_class(classes, asked, call.priority)
    found = catalogue.find(known, asked.model)
    if isinstance(found, BrokenModel):
        raise broken_model(found.name, found.version, found.reason)
    return jobs.wish(
        replace(asked, model=found.key),
        owner=owner_of(call),
        dataset_digest=_dataset_digest(known, asked.dataset),
        priority=call.priority,
    )


def owner_of(call: Call) -> str:
    """Return the owner of a job that a call asks for: its identity, or an empty text on a server without identities."""
    return "" if call.identity is None else call.identity.name


def is_admin(call: Call) -> bool:
    """Tell whether a call may see and end everybody's jobs."""
    return call.identity is None or ADMIN in call.identity.roles


def is_owner(record: JobRecord, call: Call) -> bool:
    """Tell whether a job is the caller's to end."""
    return is_admin(call) or record.owner == owner_of(call)


def may_know(record: JobRecord, call: Call) -> bool:
    """Tell whether a caller may know of a job."""
    return is_owner(record, call) or (record.shared and _missing_role(record, call.identity) == "")


def check_known(record: JobRecord, call: Call) -> None:
    """Refuse a job that a caller may not know of, in the words of one that is not there.

    Raises
    ------
    NotFoundError
        It is another's.
    """
    if not may_know(record, call):
        raise no_job(record.id)


def check_readable(record: JobRecord, call: Call) -> None:
    """Refuse what a job found to a caller who may not ask for it any more; administrators may read all.

    Raises
    ------
    PermissionDeniedError
        The identity has lost the role for the model, or may not use the data set any more.
    """
    role = "" if is_admin(call) else _missing_role(record, call.identity)
    if role and call.identity is not None:
        raise PermissionDeniedError(
            f"The identity {call.identity.name} does not have the role {role!r} for the model {record.model.name!r} "
            "and the data that the job is about any more.",
            identity=call.identity.name,
            role=role,
            model=record.model.name,
        )


def _missing_role(record: JobRecord, identity: Identity | None) -> str:
    """Return a role that an identity lacks to ask for what a job does; empty if it may."""
    if identity is None:
        return ""
    held = identity.roles_for(record.model.name)
    needed = {ROLES.get(record.verb, PREDICT)} | ({DISSECT} if record.dataset else set())
    missing = sorted(needed - held)
    if missing:
        return missing[0]
    return "" if not record.dataset or identity.sees_dataset(record.dataset) else DISSECT


def _dataset_digest(hello: Hello, name: str) -> str:
    """Return the digest of a data set's files; empty where there is none, or it cannot be read: the engine says so."""
    found = next((each for each in hello.datasets if each.name == name), None) if name else None
    if found is None or found.reason:
        return ""
    if not found.digest:
        text = f"The files of the data set {name!r} are still being read to know their digest; try again soon."
        raise UnavailableError(text, retry_after_seconds=_SOON)
    return found.digest
