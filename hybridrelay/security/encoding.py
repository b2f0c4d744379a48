"""DER and PEM as they travel in connection strings and files. What is inside is OpenSSL's business."""

from __future__ import annotations

import base64
import binascii


def encode_der(der: bytes) -> str:
    """DER as one line of Base64."""
    return base64.b64encode(der).decode("ascii")


def decode_der_untrusted(text: str) -> bytes:
    """Decode one line of Base64 that holds one DER structure.

    Raises:
        ValueError: not Base64, or cut short or otherwise not a whole structure. Does not repeat the text.
    """
    try:
        der = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError):
        raise ValueError("not Base64") from None
    if not _is_whole_sequence(der):
        raise ValueError("damaged: perhaps it was cut short when it was copied")
    return der


def pem(kind: str, der: bytes) -> str:
    """DER as PEM, for the functions of `ssl` that take nothing else."""
    body = base64.encodebytes(der).decode("ascii")
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n"


def _is_whole_sequence(der: bytes) -> bool:
    """Whether this is one ASN.1 SEQUENCE of exactly the length that its header states (X.690, 8.1.3)."""
    if len(der) < 2 or der[0] != 0x30:
        return False
    if der[1] < 0x80:
        return len(der) == 2 + der[1]
    size = der[1] & 0x7F
    return 1 <= size <= 3 and len(der) == 2 + size + int.from_bytes(der[2 : 2 + size], "big")
