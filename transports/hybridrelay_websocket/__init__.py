"""WebSocket over HTTP and HTTPS, for networks in which only the web's ports are open.

The client's handshake is done by trio-websocket, and the server's by our own code. After it, both sides use our own
codec on the same connection (`frames.py`, `stream.py`).
"""

from __future__ import annotations

from hybridrelay.abc import Transport

from .names import PATH, SUBPROTOCOL
from .transport import WebSocketTransport

__all__ = ["PATH", "SUBPROTOCOL", "WebSocketTransport", "transport"]

#: The object that the entry point names.
transport: Transport = WebSocketTransport()
