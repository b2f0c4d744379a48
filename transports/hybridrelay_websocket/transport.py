"""The transport `websocket`: HTTP service, handshake, and stream. On port 443, it runs inside outer TLS.

The HTTP server, the handshakes and the codec are imported when they are used: every program loads this module to
learn which routes there are, but most programs use native TCP, and no client serves HTTP.
"""

from __future__ import annotations

from functools import partial

import trio

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Port, Route, Transport
from hybridrelay.streams.listening import StreamListener
from hybridrelay.streams.sockets import tune_stream

from .names import PATH

__all__ = ["HTTP", "HTTPS", "WebSocketTransport"]

HTTP = Port("http", 80)
HTTPS = Port("https", 443, outer_tls=True)


class WebSocketTransport(Transport):
    """WebSocket over one port for all purposes. HTTPS is preferred to HTTP."""

    name = "websocket"
    routes = (Route("wss", 20, HTTPS), Route("ws", 30, HTTP))

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        """Dial and upgrade. See `Transport.connect`."""
        from .handshake import handshake_as_client
        from .stream import WebSocketStream

        stream = await dialer.tcp(address.host, address.port)
        try:
            tune_stream(stream)
            # The header fields are secrets. Without outer TLS, everything in the path could read them.
            headers = dialer.http.headers if address.outer_tls else ()
            path = dialer.http.path_prefix + PATH
            received = await handshake_as_client(stream, _host_header(address), path, headers)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Connection(WebSocketStream(stream, client=True, received=received), address.host)

    async def listen(self, binding: Binding) -> Listener:
        """See `Transport.listen`."""
        from .accepting import accept
        from .front import http_service

        return await StreamListener.open(binding, partial(accept, http_service(binding.path_prefix)))


def _host_header(address: Address) -> str:
    # Like browsers: without the final dot of an absolute name, and without the zone of an IPv6 address.
    host = address.host.partition("%")[0].removesuffix(".")
    host = f"[{host}]" if ":" in host else host
    default = (HTTPS if address.outer_tls else HTTP).default
    return host if address.port == default else f"{host}:{address.port}"
