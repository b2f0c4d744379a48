"""WebSocket over HTTP and HTTPS, for networks in which only the ports of browsers are open.

The client's handshake is trio-websocket's, the server's our own; after it, both sides use our own codec on the same
connection (`frames`, `stream`).
"""

from __future__ import annotations

from hybridrelay.abc import Transport

from .handshake import PATH, SUBPROTOCOL
from .stream import WebSocketStream
from .transport import WebSocketTransport

__all__ = ["PATH", "SUBPROTOCOL", "WebSocketStream", "WebSocketTransport", "transport"]

#: What the entry point names.
transport: Transport = WebSocketTransport()
