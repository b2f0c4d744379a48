"""The relay's side of the transport: serves the HTTP request of a new connection, and wraps it after the upgrade."""

from __future__ import annotations

import trio

from hybridrelay.http import Service, forwarded_for
from hybridrelay.streams.listening import ForwardedStream

from .front import serve_http
from .stream import WebSocketStream

__all__ = ["accept"]


async def accept(service: Service, stream: trio.abc.Stream) -> ForwardedStream | None:
    """Serve the HTTP request. See `hybridrelay.streams.listening.StreamHandshake`."""
    accepted: WebSocketStream | None = None
    try:
        upgraded = await serve_http(stream, service)
        if upgraded is not None:
            accepted = WebSocketStream(upgraded.stream, client=False, received=upgraded.received)
    finally:
        if accepted is None:
            await trio.aclose_forcefully(stream)
    if accepted is None:
        return None
    assert upgraded is not None
    return ForwardedStream(accepted, forwarded_for(upgraded.request.headers))
