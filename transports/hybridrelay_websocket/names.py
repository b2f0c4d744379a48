"""The path and the subprotocol of the WebSocket, by which both sides recognize this transport."""

from __future__ import annotations

__all__ = ["PATH", "SUBPROTOCOL"]

#: The only path, so that a reverse proxy needs only one rule. It may have a prefix.
PATH = "/hybridrelay"
#: Identifies this transport's conventions, including their version.
SUBPROTOCOL = "hybridrelay.v1"
