"""Pins: the SHA-256 of a relay's public key, so that the relay can be recognized without a certificate authority."""

from __future__ import annotations

import base64
import binascii
import hashlib

from .parsing_certificates import parsing_certificate

_PREFIX = "sha256:"


def check_pin(pin: str) -> str:
    """Return `pin` if it is valid: ``sha256:`` and 32 bytes in Base64.

    Raises:
        ValueError: it is not.
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
        # The last character has unused bits. Pins are compared as text, so only one spelling of each is accepted.
        raise ValueError("a pin is sha256: and 32 bytes in Base64, exactly as the relay shows it")
    return pin


def spki_pin(certificate: bytes) -> str:
    """Return the pin of a certificate's public key.

    Args:
        certificate: the certificate in DER.

    Raises:
        ValueError: it is not a certificate, or its public key is of an unknown kind.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    with parsing_certificate():
        public_key = x509.load_der_x509_certificate(certificate).public_key()
        info = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _PREFIX + base64.b64encode(hashlib.sha256(info).digest()).decode("ascii")
