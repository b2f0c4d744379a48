"""Native TCP: the relay's own ports, with nothing added to the bytes.

Both ends return the socket's own stream, so that the relay can move bytes between two of them in the kernel.
"""

from __future__ import annotations

from hybridrelay.abc import Address, Binding, Connection, Dialer, Listener, Port, Purpose, Route, Transport
from hybridrelay.errors import TransportError
from hybridrelay.streams.listening import StreamListener
from hybridrelay.streams.sockets import tune_stream

__all__ = ["TCPTransport", "transport"]

# The port numbers of the classic Hybrid Connections service, which networks that have used it already allow.
PROBE = Port("probe", 9350)
CONTROL = Port("control", 5671)
DATA = Port("data", 9352)


class TCPTransport(Transport):
    """One port for each purpose; the TCP connection is used as it is."""

    name = "tcp"
    routes = (Route("tcp", 10, DATA, {Purpose.PROBE: PROBE, Purpose.CONTROL: CONTROL}),)

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        """Dial; there is no handshake. See `Transport.connect`."""
        if address.outer_tls:
            raise TransportError("native TCP does not run inside outer TLS")
        stream = await dialer.tcp(address.host, address.port)
        tune_stream(stream)
        return Connection.over(stream, address.host)

    async def listen(self, binding: Binding) -> Listener:
        """See `Transport.listen`."""
        return await StreamListener.open(binding, handshake=None)


#: The object that the entry point names.
transport: Transport = TCPTransport()
