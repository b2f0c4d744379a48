"""Certificates and keys in files: the output of every common editor is accepted, and each fault has its own error."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from hybridrelay.errors import ConfigurationError
from hybridrelay.security import control_client_context, control_server_context, outer_server_context, relay_pin
from hybridrelay.security.pem_files import certificates_in

from ..certificates import CertificateAuthority

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _certificate(key: Key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.test")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


def _key_bytes(key: Key, encoding: Encoding = Encoding.PEM) -> bytes:
    return key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())


KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = _certificate(KEY)
PEM = CERTIFICATE.public_bytes(Encoding.PEM) + _key_bytes(KEY)


@pytest.mark.parametrize("serve", [control_server_context, outer_server_context])
@pytest.mark.parametrize(
    "data",
    [
        PEM,
        b"\xef\xbb\xbf" + PEM.replace(b"\n", b"\r\n"),
        b"\xff\xfe" + PEM.decode().replace("\n", "\r\n").encode("utf-16-le"),
        PEM.replace(b"\n", b"\r"),
        b"subject = M\xfcnchen\n" + PEM,
    ],
    ids=["plain", "mark and CRLF", "UTF-16", "CR", "a comment in Latin-1"],
)
def test_pem_however_it_was_saved(data: bytes, tmp_path: Path, serve: Callable[[Path], ssl.SSLContext]) -> None:
    (tmp_path / "file").write_bytes(data)

    assert isinstance(serve(tmp_path / "file"), ssl.SSLContext)
    assert isinstance(control_client_context(ca_file=tmp_path / "file"), ssl.SSLContext)
    assert relay_pin(tmp_path / "file").startswith("sha256:")


def _small() -> Key:
    return rsa.generate_private_key(65537, 1024)


def _fault(name: str) -> tuple[bytes, bytes | None]:
    """What is in the certificate file, and in the key file."""
    certificate = CERTIFICATE.public_bytes(Encoding.PEM)
    if name == "short":
        key = _small()
        return _certificate(key).public_bytes(Encoding.PEM), _key_bytes(key)
    return {
        "certificate in DER": (CERTIFICATE.public_bytes(Encoding.DER), _key_bytes(KEY)),
        "key in DER": (certificate, _key_bytes(KEY, Encoding.DER)),
        "pfx": (pkcs12.serialize_key_and_certificates(None, KEY, CERTIFICATE, None, NoEncryption()), None),
        "another key": (certificate, _key_bytes(ec.generate_private_key(ec.SECP256R1()))),
        "a key of another kind": (certificate, _key_bytes(rsa.generate_private_key(65537, 2048))),
        "no key": (certificate, None),
        "swapped": (_key_bytes(KEY), certificate),
        "encrypted": (
            certificate,
            KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        ),
        "damaged": (certificate.replace(b"M", b"!", 1), _key_bytes(KEY)),
        "binary": (b"\x00\xff\x00", None),
        "empty": (b"", None),
    }[name]


FAULTS = {
    "short": "is too short",
    "certificate in DER": "is a certificate in DER, not PEM",
    "key in DER": "is a key in DER, not PEM",
    "pfx": "is PKCS #12 .* not PEM",
    "another key": "does not belong to the first certificate",
    "a key of another kind": "does not belong to the first certificate",
    "no key": "there is no private key in",
    "swapped": "there is no certificate in",
    "encrypted": "is encrypted",
    "damaged": "is damaged",
    "binary": "is not PEM",
    "empty": "there is no certificate in",
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_a_message_of_its_own(name: str, tmp_path: Path) -> None:
    certificate, key = _fault(name)
    paths = [tmp_path / "certificate", tmp_path / "key"]
    paths[0].write_bytes(certificate)
    if key is not None:
        paths[1].write_bytes(key)

    with pytest.raises(ConfigurationError, match=FAULTS[name]) as caught:
        control_server_context(paths[0], None if key is None else paths[1])

    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy is not None


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "certificate").write_bytes(PEM)

    with pytest.raises(ConfigurationError, match=r"cannot read the key file .*missing: No such file"):
        control_server_context(tmp_path / "certificate", tmp_path / "missing")


def test_certificates_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    """And there are all of them, also those that are not of CAs."""
    authority = CertificateAuthority()
    one, other = authority.write(tmp_path / "ca").read_text(), authority.issue("host")[0].decode()
    both = certificates_in(f"comment\r\n{one}\n{other}")
    assert len(both) == 2
    assert certificates_in(f"{other}\n{one}".replace("\n", "\r\n")) == both
    assert certificates_in(one.replace("CERTIFICATE", "TRUSTED CERTIFICATE")) == certificates_in(one) < both
    assert certificates_in("no certificate") == frozenset()
