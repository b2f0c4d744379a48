"""An authority and a server certificate for the systems under test that use TLS, so that their clients can verify the
server as their documentation recommends."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from .ports import HOST

#: The password of `Certificates.bundle`.
BUNDLE_PASSWORD = "benchmark"
_VALID = dt.timedelta(days=1)


@attrs.frozen
class Certificates:
    """The files that a server and its clients need."""

    #: The authority's certificate (PEM), by which clients verify the server.
    authority: Path
    #: The server's certificate (PEM), valid for the address on which everything runs.
    server: Path
    #: The server's private key (PEM).
    key: Path
    #: The server's certificate and private key in one file (PKCS #12).
    bundle: Path


def create_certificates(directory: Path) -> Certificates:
    """Create an authority, and a server certificate that it has signed, both with ECDSA keys on P-256."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _sign("benchmark authority", authority_key, None, authority_key)
    server = _sign("benchmark server", server_key, authority, authority_key)
    files = Certificates(*(directory / name for name in ("authority.pem", "server.pem", "server.key", "server.p12")))
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.server.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    protection = serialization.BestAvailableEncryption(BUNDLE_PASSWORD.encode())
    files.bundle.write_bytes(
        pkcs12.serialize_key_and_certificates(b"server", server_key, server, [authority], protection)
    )
    return files


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Return a certificate for `key`: an authority's if `issuer` is None, otherwise a server's."""
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
