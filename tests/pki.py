"""Certificates for tests: an authority, and what it signs."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path
    expires: float
    """In seconds since 1970."""


@dataclass(frozen=True)
class Authority:
    """Signs certificates, whose files go to `folder`."""

    folder: Path
    name: str = "authority"
    days: float = 2.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self.name, self.name, key, self.days).add_extension(x509.BasicConstraints(True, None), True)
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "expires", _write(self._file("crt"), builder.sign(key, hashes.SHA256())))

    @property
    def certificate(self) -> Path:
        return self._file("crt")

    def sign(self, file: str, common_name: str, names: tuple[str, ...] = (), *, days: float = 1.0) -> Pair:
        """Sign a certificate that has been valid for a day and ends in `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(common_name, self.name, key, days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), False)
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key", 0.0)
        expires = _write(pair.certificate, builder.sign(self._key, hashes.SHA256()))
        plain = serialization.NoEncryption()
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return Pair(pair.certificate, pair.key, expires)

    def _file(self, ending: str) -> Path:
        return self.folder / f"{self.name}.{ending}"


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.UniformResourceIdentifier(text) if ":" in text else x509.DNSName(text)


def _write(path: Path, certificate: x509.Certificate) -> float:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate.not_valid_after_utc.timestamp()
