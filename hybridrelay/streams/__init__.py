"""What the other packages use for streams: TLS, non-blocking operations, socket options, connecting, listeners."""

from __future__ import annotations

from .conflict import ConflictDetector
from .exact import receive_exactly
from .tls import TLSStream

__all__ = ["ConflictDetector", "TLSStream", "receive_exactly"]
