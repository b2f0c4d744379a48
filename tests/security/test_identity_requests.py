"""Requests for certificates: only an Ed25519 key that signs for itself, and nothing else."""

from __future__ import annotations

import contextlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.errors import ConfigurationError
from hybridrelay.security import RequestError, Secret, make_request, new_private_key, parse_request_untrusted
from hybridrelay.security.identity_requests import MAX_REQUEST, load_private_key

KEY = new_private_key()
GOOD = make_request(KEY)
EMPTY = x509.Name([])


def builder(subject: x509.Name = EMPTY) -> x509.CertificateSigningRequestBuilder:
    return x509.CertificateSigningRequestBuilder().subject_name(subject)


def der(request: x509.CertificateSigningRequest) -> bytes:
    return request.public_bytes(Encoding.DER)


OWN = ed25519.Ed25519PrivateKey.generate()
CURVE = ec.generate_private_key(ec.SECP256R1())
HOSTILE = {
    "a subject": der(builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])).sign(OWN, None)),
    "an extension": der(builder().add_extension(x509.BasicConstraints(True, None), True).sign(OWN, None)),
    "a usage": der(
        builder().add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False).sign(OWN, None)
    ),
    "a name": der(
        builder()
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("hybridrelay://x")]), False)
        .sign(OWN, None)
    ),
    "an attribute": der(builder().add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"x").sign(OWN, None)),
    "an RSA key": der(builder().sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())),
    "an elliptic curve": der(builder().sign(CURVE, hashes.SHA256())),
    "SHA-512": der(builder().sign(CURVE, hashes.SHA512())),
    "nothing": b"",
    "an empty sequence": b"0\x00",
    "trailing bytes": GOOD + b"\x00",
    "too long": GOOD + bytes(MAX_REQUEST),
    "a certificate's PEM": b"-----BEGIN CERTIFICATE REQUEST-----\n",
    "deep nesting": b"0\x80" * 500,
}


def test_the_key_arrives() -> None:
    raw = load_private_key(KEY).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert parse_request_untrusted(GOOD).public_key == raw
    assert len(GOOD) < 200


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_requests_are_refused(request_: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request_untrusted(request_)


def test_a_request_for_somebody_elses_key_is_refused() -> None:
    """Without the private key, nobody can ask for a certificate of a key."""
    theirs, ours = (load_private_key(one).public_key() for one in (new_private_key(), KEY))
    raw = [one.public_bytes(Encoding.Raw, PublicFormat.Raw) for one in (theirs, ours)]
    with pytest.raises(RequestError, match="not signed"):
        parse_request_untrusted(GOOD.replace(raw[1], raw[0]))


def test_no_changed_byte_leads_to_another_key() -> None:
    key = parse_request_untrusted(GOOD)
    for position in range(len(GOOD)):
        changed = GOOD[:position] + bytes([GOOD[position] ^ 1]) + GOOD[position + 1 :]
        with contextlib.suppress(RequestError):
            assert parse_request_untrusted(changed) == key  # another encoding of the same


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request_untrusted(data)


@pytest.mark.parametrize("text", ["", "AAAA", "MAA="])
def test_a_damaged_private_key(text: str) -> None:
    with pytest.raises(ConfigurationError, match="damaged"):
        make_request(Secret(text))
