"""Bytes with a digest behind them, so that what a disk has lost or changed is not taken for an answer."""

import hashlib

DIGEST_BYTES = 16


class DamageError(Exception):
    """A file of a job is gone, or is not what was written."""


def sealed(data: bytes) -> bytes:
    """Return the bytes with their digest behind them; takes a millisecond for each MiB, about."""
    return data + _digest(data)


def unsealed(data: bytes) -> bytes:
    """Return what was sealed.

    Raises
    ------
    DamageError
        It is not all there, or has changed.
    """
    content, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if _digest(content) != digest:
        raise DamageError("a file of a job is not what was written")
    return content


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
