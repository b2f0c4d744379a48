"""A network inside the process, over which any transport can run. No port is bound, and nothing leaves the program.

`MemoryNetwork` replaces the opening of sockets on both sides: `dial` is for `Dialer.tcp`, and a `MemoryListener` for
`Binding.acceptors`. Its connections are socket pairs of the kernel and not Python buffers, so that the relay's
joining of sockets in the kernel is tested, too.

`MemoryTransport` is a transport that adds nothing, for tests that do not depend on a particular transport.
"""

from __future__ import annotations

import socket

import trio

from ..abc import Address, Binding, Connection, Dialer, Listener, Port, Route, Transport
from ..streams.listening import StreamListener

__all__ = ["MemoryListener", "MemoryNetwork", "MemoryTransport"]

#: How many connections can wait to be accepted. If there are more, `MemoryNetwork.dial` waits.
BACKLOG = 100


class MemoryNetwork:
    """A network with its own names and port numbers. Connections to addresses without a listener are refused.

    Use::

        network = MemoryNetwork()
        binding = Binding("relay", 9352, acceptors=(network.listen("relay", 9352),))
        listener = await transport.listen(binding)
        connection = await transport.connect(Address("relay", 9352), Dialer(network.dial))
    """

    def __init__(self) -> None:
        self._listening: dict[tuple[str, int], trio.MemorySendChannel[trio.SocketStream]] = {}

    def listen(self, host: str, port: int) -> MemoryListener:
        """Begin to listen, until the listener is closed.

        Raises:
            OSError: something already listens there.
        """
        address = (host, port)
        if address in self._listening:
            raise OSError(f"{host}:{port} is in use")
        send, receive = trio.open_memory_channel[trio.SocketStream](BACKLOG)
        self._listening[address] = send
        return MemoryListener(self, address, receive)

    async def dial(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        """Connect to a listener. This is a `hybridrelay.abc.Dial`.

        Raises:
            ConnectionRefusedError: nothing listens there.

        If cancelled, it closes the connection.
        """
        channel = self._listening.get((host, port))
        if channel is None:
            await trio.lowlevel.checkpoint()
            raise ConnectionRefusedError(f"nothing listens on {host}:{port}")
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
        try:
            await channel.send(theirs)
        except BaseException as exc:
            ours.socket.close()
            theirs.socket.close()
            if isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError):
                raise ConnectionRefusedError(f"nothing listens on {host}:{port} any more") from exc
            raise
        return ours

    def _forget(self, address: tuple[str, int]) -> None:
        self._listening.pop(address).close()


class MemoryListener(trio.abc.Listener[trio.SocketStream]):
    """One address of a `MemoryNetwork`, for `trio.serve_listeners`."""

    def __init__(
        self,
        network: MemoryNetwork,
        address: tuple[str, int],
        channel: trio.MemoryReceiveChannel[trio.SocketStream],
    ) -> None:
        #: Host and port.
        self.address = address
        self._network = network
        self._channel = channel
        self._closed = False

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection.

        Raises:
            trio.ClosedResourceError: the listener was closed.

        If cancelled, no connection is lost.
        """
        try:
            return await self._channel.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("this listener was closed") from None

    async def aclose(self) -> None:
        """Refuse further connections, and close those that were not accepted yet. Idempotent."""
        if not self._closed:
            self._closed = True
            self._network._forget(self.address)
            waiting: list[trio.SocketStream] = []
            try:
                while True:
                    waiting.append(self._channel.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                pass
            self._channel.close()
            for stream in waiting:
                await trio.aclose_forcefully(stream)
        await trio.lowlevel.checkpoint()


class MemoryTransport(Transport):
    """A transport that adds nothing to the dialed connection. One port serves every purpose."""

    name = "memory"
    #: The only port. Its number is arbitrary; its route ranks before every real one.
    port = Port("memory", 1)
    routes = (Route("memory", 0, port),)

    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        """See `Transport.connect`."""
        return Connection.over(await dialer.tcp(address.host, address.port), address.host)

    async def listen(self, binding: Binding) -> Listener:
        """See `Transport.listen`. With `MemoryListener` as an acceptor of the binding, no port is bound."""
        return await StreamListener.open(binding, handshake=None)
