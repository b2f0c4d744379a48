"""Error handling for parsing untrusted X.509 certificates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["parsing_certificate"]


@contextmanager
def parsing_certificate() -> Iterator[None]:
    """Convert all exceptions that a malformed certificate causes in the block to ValueError.

    `cryptography` parses the parts of a certificate when they are used, and raises many different exceptions if it
    cannot parse them: `InvalidVersion`, `UnsupportedAlgorithm`, `ExtensionNotFound`, `DuplicateExtension` and
    `TypeError` are not derived from ValueError. OpenSSL completes a handshake with such a certificate if it does not
    verify it. Therefore the block must contain the parsing and every access to a part, and nothing else.

    Raises:
        ValueError: the certificate cannot be parsed.
    """
    try:
        yield
    except (ValueError, MemoryError):
        raise
    except Exception as exc:
        raise ValueError(f"the certificate cannot be parsed ({type(exc).__name__})") from exc
