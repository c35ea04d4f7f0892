"""The access file: identities in TOML.

    [identities.web]
    tokens = ["sha256:2bb8…"]             # `pellucid-server token` makes a token and this line
    certificates = ["web.example"]        # names in client certificates, where [tls] asks for them
    roles = ["predict", "explain"]        # for every model that no pattern below matches
    datasets = ["adult"]                  # data sets that it may use, with the role "dissect"
    requests_per_second = 50
    rows_per_minute = 600_000

    [identities.web.models]               # the first pattern that matches a model's name counts
    "credit-*" = ["predict"]
    "internal-*" = []                     # as unknown as a model that is not there

    [anonymous]                           # calls without proof; left out, they are refused
    roles = ["predict"]

What a message quotes of the file is never the hash or the token: a token may stand there by mistake.
"""

import tomllib
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from pellucid_server.access.policy import ANONYMOUS, Identity, Policy, Quota
from pellucid_server.access.tokens import HASH_PREFIX
from pellucid_server.access.watched import UnusableFileError
from pellucid_server.settings.section import Section, spelled

_Name = Annotated[
    str,
    spelled(
        rf"(?!{ANONYMOUS}$)[A-Za-z0-9][A-Za-z0-9._@-]{{0,63}}",
        f'a name is 1 to 64 of a-z, A-Z, 0-9, ., _, @ and -, a letter or digit first, and not "{ANONYMOUS}"',
    ),
]
_Hash = Annotated[
    str,
    spelled(
        rf"{HASH_PREFIX}[0-9a-f]{{64}}",
        f'a token\'s hash is "{HASH_PREFIX}" and 64 of 0-9 and a-f, as `pellucid-server token` writes it',
    ),
]
_Certificate = Annotated[
    str, spelled(r"[!-~]{1,512}", "a certificate's name is 1 to 512 printable characters of ASCII, without spaces")
]
_Pattern = Annotated[
    str, spelled(r"[A-Za-z0-9._*?-]{1,128}", "a pattern is 1 to 128 of a-z, A-Z, 0-9, ., _, -, and * and ?")
]
_ModelRole = Literal["predict", "explain", "dissect"]
_Role = Literal["predict", "explain", "dissect", "admin"]


class _Entry(Section):
    """What an identity may do."""

    roles: tuple[_Role, ...] = ()
    models: dict[_Pattern, tuple[_ModelRole, ...]] = Field(default_factory=dict)
    datasets: tuple[_Pattern, ...] = ("*",)
    requests_per_second: float | None = Field(default=None, gt=0, le=1e6)
    requests_burst: int | None = Field(default=None, ge=1, le=1_000_000)
    rows_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    concurrent_requests: int | None = Field(default=None, ge=1, le=1_000_000)

    def identity(self, name: str, *, names_callers: bool = False) -> Identity:
        """Return it as the server uses it."""
        return Identity(
            name,
            frozenset(self.roles),
            tuple((pattern, frozenset(roles)) for pattern, roles in self.models.items()),
            self.datasets,
            Quota(self.requests_per_second, self.requests_burst, self.rows_per_minute, self.concurrent_requests),
            names_callers,
        )


class _Known(_Entry):
    """An identity with what proves it."""

    tokens: tuple[_Hash, ...] = ()
    certificates: tuple[_Certificate, ...] = ()
    names_callers: bool = False


class _Anonymous(_Entry):
    """Everyone without proof: never an administrator."""

    roles: tuple[_ModelRole, ...] = ()


class _File(Section):
    """The whole file."""

    identities: dict[_Name, _Known] = Field(default_factory=dict)
    anonymous: _Anonymous | None = None


def read_policy(data: bytes) -> Policy:
    """Read an access file.

    Raises
    ------
    UnusableFileError
        It is no TOML, a value is wrong, or two identities have the same token or the same certificate's name.
    """
    try:
        found = _File.model_validate(tomllib.loads(data.decode()))
    except UnicodeDecodeError as error:
        raise UnusableFileError("it is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UnusableFileError(f"it is not TOML: {error}") from error
    except RecursionError as error:
        raise UnusableFileError("it is nested too deep") from error
    except ValidationError as error:
        raise UnusableFileError("; ".join(_problem(each) for each in error.errors(include_input=False))) from error
    except ValueError as error:
        raise UnusableFileError("it has a number of too many digits") from error
    if not found.identities and found.anonymous is None:
        raise UnusableFileError("it has no identity; give one under [identities.NAME], or [anonymous]")
    tokens: dict[bytes, str] = {}
    certificates: dict[str, str] = {}
    for name, entry in found.identities.items():
        for number, line in enumerate(entry.tokens):
            owner = tokens.setdefault(bytes.fromhex(line.removeprefix(HASH_PREFIX)), name)
            _check_own(owner, name, f"identities.{name}.tokens[{number}]")
        for number, each in enumerate(entry.certificates):
            _check_own(certificates.setdefault(each, name), name, f"identities.{name}.certificates[{number}]")
    identities = [entry.identity(name, names_callers=entry.names_callers) for name, entry in found.identities.items()]
    anonymous = None if found.anonymous is None else found.anonymous.identity(ANONYMOUS)
    return Policy.of(identities, tokens, certificates, anonymous)


def _check_own(owner: str, name: str, place: str) -> None:
    if owner != name:
        raise UnusableFileError(f"{place} is of the identity {owner!r} as well; each proves one identity alone")


def _problem(details: ErrorDetails) -> str:
    """Say what is wrong, and where, without the value."""
    place = ".".join(str(part) for part in details["loc"] if part != "[key]")
    if details["type"] == "extra_forbidden":
        return f"{place}: there is no such setting"
    reason = str(details["ctx"]["error"]) if details["type"] == "value_error" else details["msg"]
    return f"{place}: {reason}"
