"""Pins: the SHA-256 of a relay's public key, so that the relay can be recognized without a certificate authority.

A *short pin* has only the first 20 bytes of it, for codes that people type. To find another key with the same short
pin is as hard as to guess 160 random bits.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from .parsing_certificates import parsing_certificate

_PREFIX = "sha256:"
_SHORT_PREFIX = "sha256-160:"
#: The size of the digest in a short pin (bytes).
SHORT_PIN_SIZE = 20


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


def short_pin(pin: str | bytes) -> str:
    """Return the short pin for a pin, or for the 20 bytes of its digest.

    Raises:
        ValueError: this is not a pin.
    """
    digest = pin if isinstance(pin, bytes) else base64.b64decode(check_pin(pin).removeprefix(_PREFIX))
    return _SHORT_PREFIX + base64.b64encode(digest[:SHORT_PIN_SIZE]).decode("ascii")


def short_pin_digest(pin: str) -> bytes:
    """Return the 20 bytes of a short pin.

    Raises:
        ValueError: this is not a short pin.
    """
    digest = base64.b64decode(pin.removeprefix(_SHORT_PREFIX))
    if len(digest) != SHORT_PIN_SIZE or short_pin(digest) != pin:
        raise ValueError("not a short pin")
    return digest


def is_short_pin(pin: str) -> bool:
    """Return whether a pin, which is valid, is a short one."""
    return pin.startswith(_SHORT_PREFIX)


def pin_matches(pin: str, actual: str) -> bool:
    """Return whether a pin, or a short pin, is that of the relay whose pin is `actual`.

    Raises:
        ValueError: `pin` is neither.
    """
    if is_short_pin(pin):
        return pin == short_pin(actual)
    return check_pin(pin) == actual
