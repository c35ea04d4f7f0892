"""Who may connect, and who may ask what."""

from pathlib import Path

from pydantic import Field, model_validator

from pellucid_server.settings.section import Section


class TlsConfig(Section):
    """TLS on the gRPC port."""

    certificate: Path | None = None
    """PEM file of the server's certificate, with those between it and the root behind it; left out, no TLS."""

    key: Path | None = None
    """PEM file of its private key, without a password."""

    client_ca: Path | None = None
    """PEM file of the authorities that sign clients' certificates; given, clients must have one (mutual TLS)."""

    poll_seconds: float = Field(default=5.0, gt=0, le=86400)
    """How often the files are looked at: new connections use renewed ones, and old connections stay."""

    @model_validator(mode="after")
    def _check_pairs(self) -> "TlsConfig":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: give both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key: clients show theirs in the handshake of TLS alone")
        return self

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that there are."""
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path is not None)


class AccessConfig(Section):
    """Who may ask what."""

    file: Path | None = None
    """TOML file of identities, their tokens' hashes, roles and quotas; left out, everyone may ask everything."""

    digest_key_file: Path | None = None
    """File with a secret of 16 bytes or more: receipts' digests of rows are HMACs under it; left out, plain SHA-256."""

    poll_seconds: float = Field(default=5.0, gt=0, le=86400)
    """How often the file is looked at; one that cannot be used leaves the one before in force."""
