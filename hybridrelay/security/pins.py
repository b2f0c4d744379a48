"""Pins: the relay's public key by its SHA-256, so that no certificate authority is needed to know it."""

from __future__ import annotations

import base64
import binascii
import hashlib

_PREFIX = "sha256:"


def check_pin(pin: str) -> str:
    """Return `pin` if it is one: ``sha256:`` and 32 bytes in Base64.

    Raises:
        ValueError: otherwise.
    """
    if not pin.startswith(_PREFIX):
        raise ValueError("a pin begins with sha256:")
    try:
        digest = base64.b64decode(pin.removeprefix(_PREFIX).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError):
        raise ValueError("a pin is sha256: and Base64") from None
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("a pin is sha256: and 32 bytes in Base64")
    if base64.b64encode(digest).decode("ascii") != pin.removeprefix(_PREFIX):
        # Its last character has bits that mean nothing. Pins are compared as texts, so there is one text for each.
        raise ValueError("a pin is sha256: and 32 bytes in Base64, exactly as the relay shows it")
    return pin


def spki_pin(certificate: bytes) -> str:
    """The pin of a certificate's public key.

    Args:
        certificate: DER.

    Raises:
        ValueError: not a certificate.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        public_key = x509.load_der_x509_certificate(certificate).public_key()
    except UnsupportedAlgorithm as exc:
        raise ValueError("a public key of an unknown kind") from exc
    info = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _PREFIX + base64.b64encode(hashlib.sha256(info).digest()).decode("ascii")
