"""Listeners for transports whose handshake runs over one byte stream, which is nearly every transport."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from .._listening import open_listeners
from .._nursery import FlatNursery
from .._value import Value
from ..abc import Binding, Connection, Incoming, Listener
from ..events.log import logged_events
from .unix_sockets import SocketFile, listen_unix_socket

__all__ = ["LOCAL", "ForwardedStream", "StreamHandshake", "StreamListener", "remote_of"]

#: `Incoming.remote` of connections from this machine that have no IP address.
LOCAL = "local"


@attrs.frozen
class ForwardedStream(Value):
    """The result of a handshake in which proxies have stated where the connection comes from."""

    stream: trio.abc.HalfCloseableStream
    #: See `Connection.forwarded_for`.
    forwarded_for: tuple[str, ...]


#: The server's side of a transport's handshake on a stream that was just accepted. It returns None if the peer was
#: answered, but no connection results. In that case, and on any exception including cancellation, the stream is
#: closed.
StreamHandshake = Callable[[trio.abc.Stream], Awaitable[trio.abc.HalfCloseableStream | ForwardedStream | None]]


class StreamListener(Listener):
    """Accepts byte streams. A transport then does its handshake on each of them.

    The relay treats this class specially: it accepts from `acceptors` itself, because its limits need the sockets,
    adds the outer TLS if the port has it, and continues with `incoming`.

    Args:
        acceptors: accept the streams. They are closed with this listener.
        handshake: see `StreamHandshake`. None means that the transport has no handshake and adds nothing to the
            bytes. The relay then reads the preamble before it starts a task for the connection.
        file: the file of the Unix socket, if there is one. It is removed with this listener.
    """

    def __init__(
        self,
        acceptors: Sequence[trio.abc.Listener[trio.SocketStream]],
        handshake: StreamHandshake | None,
        *,
        file: SocketFile | None = None,
    ) -> None:
        #: The listeners from which streams are accepted: for TCP, one for each address.
        self.acceptors = tuple(acceptors)
        self._handshake = handshake
        self._file = file
        self._accepted: deque[trio.SocketStream] = deque()
        self._closed = False

    @classmethod
    async def open(cls, binding: Binding, handshake: StreamHandshake | None) -> StreamListener:
        """Listen on the TCP port or the Unix socket of the binding, or use the acceptors that it contains.

        Raises:
            OSError: listening is not possible.
        """
        if binding.acceptors is not None:
            return cls(binding.acceptors, handshake)
        if binding.path is not None:
            listener, file = await listen_unix_socket(binding.path)
            return cls([listener], handshake, file=file)
        return cls(await open_listeners(binding.host or None, binding.port, events=logged_events()), handshake)

    @property
    def sockets(self) -> tuple[trio.SocketListener, ...]:
        """The `acceptors` that are sockets. Except in tests, these are all of them."""
        return tuple(one for one in self.acceptors if isinstance(one, trio.SocketListener))

    @property
    def adds_nothing(self) -> bool:
        """Whether there is no handshake and nothing is added to the bytes."""
        return self._handshake is None

    @property
    def bound(self) -> tuple[Binding, ...]:
        """See `Listener.bound`."""
        if self._file is not None:
            return (Binding("", 0, self._file.path),)
        return tuple(Binding(*one.socket.getsockname()[:2]) for one in self.sockets)

    def incoming(self, stream: trio.abc.Stream, remote: str) -> Incoming:
        """Return the incoming connection for a stream that the caller has accepted, perhaps with outer TLS added."""
        return _IncomingStream(stream, remote, self._handshake)

    async def accept(self) -> Incoming:
        """See `Listener.accept`."""
        stream = await self.accept_stream()
        return self.incoming(stream, remote_of(stream))

    async def accept_stream(self) -> trio.SocketStream:
        """Wait for the next stream, without a handshake. Errors and cancellation are as for `Listener.accept`."""
        if len(self.acceptors) == 1:
            return await self.acceptors[0].accept()
        while not self._accepted:
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            # More than one may arrive at the same moment. The others are kept for the next calls.
            async with FlatNursery() as nursery:
                for acceptor in self.acceptors:
                    nursery.start_soon(self._accept_from, acceptor, nursery.cancel_scope)
        return self._accepted.popleft()

    async def _accept_from(self, acceptor: trio.abc.Listener[trio.SocketStream], others: trio.CancelScope) -> None:
        self._accepted.append(await acceptor.accept())
        others.cancel()

    async def aclose(self) -> None:
        """Stop listening. Streams that were accepted stay open."""
        if not self._closed:
            self._closed = True
            if self._file is not None:
                self._file.remove()
        with trio.CancelScope(shield=True):
            for resource in (*self.acceptors, *self._accepted):
                await trio.aclose_forcefully(resource)
        await trio.lowlevel.checkpoint()


class _IncomingStream(Incoming):
    def __init__(self, stream: trio.abc.Stream, remote: str, handshake: StreamHandshake | None) -> None:
        self.remote = remote
        self._stream = stream
        self._handshake = handshake

    async def handshake(self) -> Connection | None:
        if self._handshake is None:
            return Connection.over(self._stream, self.remote)
        result = await self._handshake(self._stream)
        if isinstance(result, ForwardedStream):
            return attrs.evolve(Connection.over(result.stream, self.remote), forwarded_for=result.forwarded_for)
        return None if result is None else Connection.over(result, self.remote)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


def remote_of(stream: trio.SocketStream) -> str:
    """Return the IP address of the other end; `LOCAL` if it has none, or if the connection has already ended."""
    try:
        name = stream.socket.getpeername()
    except OSError:
        return LOCAL
    return str(name[0]) if isinstance(name, tuple) else LOCAL
