"""DER and PEM as text, for connection strings and files. OpenSSL interprets the content."""

from __future__ import annotations

import base64
import binascii


def encode_der(der: bytes) -> str:
    """Encode DER as one line of Base64."""
    return base64.b64encode(der).decode("ascii")


def decode_der_untrusted(text: str) -> bytes:
    """Decode one line of Base64 that contains one DER structure.

    Raises:
        ValueError: the text is not Base64, or not one complete structure. The message does not repeat it.
    """
    try:
        der = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError):
        raise ValueError("not Base64") from None
    if not _is_whole_sequence(der):
        raise ValueError("not one complete structure: perhaps it was cut short when it was copied")
    return der


def pem(kind: str, der: bytes) -> str:
    """Convert DER to PEM, for functions of `ssl` that accept only PEM."""
    body = base64.encodebytes(der).decode("ascii")
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n"


def _is_whole_sequence(der: bytes) -> bool:
    """Return whether this is one ASN.1 SEQUENCE of exactly the length that its header states (X.690, 8.1.3)."""
    if len(der) < 2 or der[0] != 0x30:
        return False
    if der[1] < 0x80:
        return len(der) == 2 + der[1]
    size = der[1] & 0x7F
    return 1 <= size <= 3 and len(der) == 2 + size + int.from_bytes(der[2 : 2 + size], "big")
