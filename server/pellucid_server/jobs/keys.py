"""What equal requests have in common, so that each is done once."""

import hashlib

from pellucid_server import wire
from pellucid_server.pool.queue.quarantine import in_order
from pellucid_server.vocabulary.requests import Request


def job_key(request: Request, *, owner: str | None, dataset_digest: str) -> str:
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
