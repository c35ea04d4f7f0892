"""Bearer tokens and their hashes.

A token has 256 random bits, so its SHA-256 can be kept in a file: to guess a token is as hard with the hash as
without. Salts and slow hashes protect words that people choose, of which there are few; here a slow hash would only
cost every call the time.
"""

import hashlib
import re
import secrets

PREFIX = "pellucid_"
"""How tokens begin, so that a scanner for leaked secrets can find them."""

HASH_PREFIX = "sha256:"

LEAST_LENGTH = 32
"""Characters of a token that was made elsewhere; shorter ones may be guessable."""

MOST_LENGTH = 4096

_RANDOM_BYTES = 32
_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)


def new_token() -> str:
    """Return a new random token."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token, 32 bytes."""
    return hashlib.sha256(token.encode()).digest()


def hash_line(token: str) -> str:
    """Return a token's hash as the access file has it."""
    return HASH_PREFIX + digest(token).hex()


def bearer(value: str) -> str | None:
    """Return the token in an authorization header's value, or None if it has none."""
    found = _BEARER.fullmatch(value.strip()) if len(value) <= MOST_LENGTH else None
    return found[1] if found else None
