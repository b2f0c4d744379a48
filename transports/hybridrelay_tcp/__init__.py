"""Native TCP: the relay's own ports, nothing added to the bytes.

`accept` returns the accepted socket's stream itself, so that the relay can join two of them in the kernel.
"""

from __future__ import annotations

import trio

from hybridrelay.abc import AcceptOptions, ConnectOptions, Port, Purpose, Route, Transport
from hybridrelay.errors import TransportError
from hybridrelay.streams.sockets import tune_stream

__all__ = ["TCPTransport", "transport"]

# The numbers of the classic Hybrid Connections service, which networks that allowed it have already opened.
PROBE = Port("probe", 9350, frozenset({Purpose.PROBE}))
CONTROL = Port("control", 5671, frozenset({Purpose.CONTROL}))
DATA = Port("data", 9352, frozenset({Purpose.DATA}))


class TCPTransport(Transport):
    """A port for each purpose, and the TCP connection as it is."""

    name = "tcp"
    adds_nothing = True
    routes = (Route("tcp", 10, {Purpose.PROBE: PROBE, Purpose.CONTROL: CONTROL, Purpose.DATA: DATA}),)

    async def connect(self, options: ConnectOptions) -> trio.abc.HalfCloseableStream:
        """Dial; there is no handshake. See `Transport.connect`."""
        if options.outer_tls:
            raise TransportError("native TCP has no outer TLS")
        stream = await options.dial(options.host, options.port)
        tune_stream(stream)
        return stream

    async def accept(self, stream: trio.SocketStream, options: AcceptOptions) -> trio.abc.HalfCloseableStream | None:
        """Return ``stream`` itself. See `Transport.accept`."""
        return stream


#: What the entry point names.
transport: Transport = TCPTransport()
