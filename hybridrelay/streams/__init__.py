"""Streams for the packages above: TLS, operations that do not wait, sockets, listeners."""

from __future__ import annotations

from .conflict import ConflictDetector
from .exact import receive_exactly
from .tls import TLSStream

__all__ = ["ConflictDetector", "TLSStream", "receive_exactly"]
