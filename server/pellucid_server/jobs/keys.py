"""What equal requests have in common, so that each is done once."""

import hashlib
from dataclasses import dataclass

from pellucid_server import wire
from pellucid_server.pool.queue.quarantine import in_order
from pellucid_server.vocabulary.requests import AblateRequest, DissectRequest

Asked = DissectRequest | AblateRequest
"""What jobs do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants to have done.

    Attributes
    ----------
    request
        Its model has the version and the digest to run on.
    key
        What all equal wishes have in common, by `job_key`.
    owner
        The identity that the job belongs to; empty on a server without identities.
    dataset_digest
        Of the data set that the request names; empty without one.
    priority
        The class of the work; empty for the usual one.
    """

    request: Asked
    key: str
    owner: str
    dataset_digest: str = ""
    priority: str = ""


def job_key(request: Asked, *, owner: str | None, dataset_digest: str) -> str:
    """Return the SHA-256 over all that an answer is a function of, 64 hexadecimal digits.

    Takes a millisecond for each MiB.

    Parameters
    ----------
    request
        Its model has the version and the digest that it would run on.
    owner
        On whose behalf; None where answers are shared between identities.
    dataset_digest
        Of the data set that it names; empty without one.
    """
    found = hashlib.sha256()
    for text in ("shared" if owner is None else f"owner {owner}", dataset_digest):
        encoded = text.encode()
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    for piece in wire.pieces(in_order(request)):
        found.update(piece)
    return found.hexdigest()
