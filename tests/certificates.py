"""A certificate authority for tests, and relay certificates that it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hybridrelay.security import load_or_create_relay_certificate


@attrs.frozen
class CertificateAuthority:
    """Signs certificates that are valid for a day."""

    key: ec.EllipticCurvePrivateKey = attrs.field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: str = "a test authority"

    @property
    def _name(self) -> x509.Name:
        # The length of a common name is limited.
        oid = NameOID.COMMON_NAME if len(self.name) <= 64 else NameOID.ORGANIZATION_NAME
        return x509.Name([x509.NameAttribute(oid, self.name)])

    def write(self, path: Path) -> Path:
        """Write the authority's own certificate, for SSL_CERT_FILE."""
        path.write_bytes(self._sign(self._name, self.key, [x509.DNSName("ca.invalid")], ca=True))
        return path

    def issue(self, *names: str, common_name: str = "a relay", units: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """A certificate for these host names and addresses, and its key (both PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
                *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units),
            ]
        )
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._sign(subject, key, [_general_name(name) for name in names], ca=False), key_pem

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName], *, ca: bool
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_of_version_5(directory: Path) -> tuple[bytes, Path]:
    """A self-signed certificate whose version does not exist, which OpenSSL serves and accepts.

    Returns it in DER, and the path of a file with it and its key in PEM.
    """
    path = load_or_create_relay_certificate(directory, now=dt.datetime.now(dt.UTC).timestamp(), name="odd")
    pem = path.read_text()
    text = pem[: pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
    der = ssl.PEM_cert_to_DER_cert(text)
    version = der.index(b"\xa0\x03\x02\x01\x02") + 4
    der = der[:version] + b"\x04" + der[version + 1 :]
    path.write_text(ssl.DER_cert_to_PEM_cert(der) + pem.removeprefix(text))
    return der, path


def damaged(der: bytes) -> Iterator[bytes]:
    """A certificate with one byte changed: every byte, to several values."""
    for position, byte in enumerate(der):
        for value in {byte ^ 1, byte ^ 4, byte ^ 0x80, 0, 0x1E, 0xFF} - {byte}:
            yield der[:position] + bytes([value]) + der[position + 1 :]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
