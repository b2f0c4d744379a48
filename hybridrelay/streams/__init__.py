"""Streams that the layers above build on: TLS, and reading parts of known length."""

from __future__ import annotations

from .conflict import ConflictDetector
from .exact import receive_exactly
from .tls import TLSStream

__all__ = ["ConflictDetector", "TLSStream", "receive_exactly"]
