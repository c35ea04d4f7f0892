"""Identities and what they may do."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

PREDICT, EXPLAIN, DISSECT, ADMIN = ROLES = ("predict", "explain", "dissect", "admin")
"""What an identity may do: ask a model, explain it, use labelled data sets, load and unload models."""

ANONYMOUS = "anonymous"
"""The name of the identity of calls that bring no proof of another."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much an identity may ask for; None is any amount."""

    requests_per_second: float | None = None
    requests_burst: int | None = None
    """Requests at once after a pause; None is those of a second, and 1 at least."""
    rows_per_minute: int | None = None
    """Evaluation rows; a minute's rows may come at once."""
    concurrent_requests: int | None = None

    @property
    def burst(self) -> float:
        """Requests that may come at once."""
        return float(self.requests_burst or max(1.0, self.requests_per_second or 0.0))


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that is known.

    Attributes
    ----------
    roles
        For models that no pattern of `models` matches, and for what concerns no model.
    models
        Patterns of models' names, each with the roles for those models; the first that matches counts.
    datasets
        Patterns of the labelled data sets that it may use, if it has the role for that.
    names_callers
        Whether it calls on behalf of others, whom it names in the metadata.
    """

    name: str
    roles: frozenset[str] = frozenset()
    models: tuple[tuple[str, frozenset[str]], ...] = ()
    datasets: tuple[str, ...] = ("*",)
    quota: Quota = Quota()
    names_callers: bool = False

    def roles_for(self, model: str) -> frozenset[str]:
        """Return the roles for a model, whether there is one of that name or not."""
        return next((roles for pattern, roles in self.models if fnmatchcase(model, pattern)), self.roles)

    def sees(self, model: str) -> bool:
        """Tell whether the identity may know of a model."""
        return bool(self.roles_for(model) & {PREDICT, EXPLAIN, DISSECT})

    def may(self, role: str) -> bool:
        """Tell whether the identity has a role for any model at all."""
        return role in self.roles or any(role in roles for _, roles in self.models)

    def sees_dataset(self, name: str) -> bool:
        """Tell whether the identity may know of a labelled data set."""
        return self.may(DISSECT) and any(fnmatchcase(name, pattern) for pattern in self.datasets)


@dataclass(frozen=True, slots=True)
class Policy:
    """All identities, and what proves that a caller is one of them."""

    identities: Mapping[str, Identity]
    """By name."""
    certificates: Mapping[str, Identity]
    """By a name in the client's certificate."""
    anonymous: Identity | None = None
    """The identity of calls without any proof; None refuses them."""
    _tokens: Mapping[bytes, tuple[bytes, Identity]] = field(default_factory=dict, repr=False)
    _key: bytes = field(default=b"", repr=False)

    @classmethod
    def of(
        cls,
        identities: Iterable[Identity],
        tokens: Mapping[bytes, str],
        certificates: Mapping[str, str],
        anonymous: Identity | None = None,
    ) -> "Policy":
        """Make a policy.

        Parameters
        ----------
        tokens
            The names of identities by the SHA-256 of a token.
        certificates
            The names of identities by a name in a certificate.
        """
        by_name = {each.name: each for each in identities}
        key = secrets.token_bytes(32)
        return cls(
            by_name,
            {name: by_name[owner] for name, owner in certificates.items()},
            anonymous,
            {_place(key, digest): (digest, by_name[owner]) for digest, owner in tokens.items()},
            key,
        )

    def by_token(self, digest: bytes) -> Identity | None:
        """Return whose token has a SHA-256.

        The time that this takes says nothing of the hashes there are: it looks the digest up under a key that changes
        with each policy, and compares in constant time.
        """
        known, identity = self._tokens.get(_place(self._key, digest), (b"", None))
        return identity if hmac.compare_digest(known, digest) else None

    def by_certificate(self, names: Iterable[str]) -> Identity | None:
        """Return the identity of the first of a certificate's names that has one."""
        return next((self.certificates[name] for name in names if name in self.certificates), None)


def _place(key: bytes, digest: bytes) -> bytes:
    return hashlib.blake2b(digest, key=key, digest_size=16).digest()
