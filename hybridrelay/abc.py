"""The contracts between hybridrelay and the packages that carry its bytes.

A *transport* carries bytes between a dialing side (client or connector) and the relay. It need not be trusted:
everything secret is sent over TLS inside the transport. Transports are found by entry point (group
``hybridrelay.transports``); each entry point names a module-level `Transport` instance. ``transports/README.md``
shows how to write one, and `hybridrelay.testing` has the conformance suite that it must pass.

Who does what:

- A transport implements how to make a `Connection` to an `Address` with what a `Dialer` opens, and how to `listen` on
  a `Binding`. It does not deal with proxies, the purposes of channels, or TLS certificates.
- The `Dialer` decides how this machine reaches the network: directly, through a proxy, or through a command. On the
  dialing side, transports never open a socket or start a process themselves, so that every transport works through
  every kind of proxy, and the only command that can run is the one that this machine's administrator configured.
- The *outer TLS* that middleboxes expect on port 443 is added below the transport by the calling code
  (`hybridrelay.streams.outer_tls`), on both sides, on every port that is declared with ``outer_tls``.
- Which port serves which purpose is declared in `Route`. The relay and `hybridrelay.connectivity` apply it.
- The relay decides when work is done for peers that have not authenticated. A `Listener` therefore returns `Incoming`
  connections for which no work has been done yet, and the relay calls `Incoming.handshake` when they may proceed.

`listen` returns a listener and does not run a handler for each connection (as `trio.serve_listeners` does), because
the relay must be able to hold, reorder and drop connections before it starts a task for them, and it owns the nursery
in which they are served. A transport that needs tasks of its own takes a nursery when it is created.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import attrs
import trio

from ._value import Value
from .errors import TransportError
from .http_options import NO_HTTP_OPTIONS, HttpOptions
from .protocol.preamble import Purpose

__all__ = [
    "Address",
    "Binding",
    "Connection",
    "Dial",
    "DialProcess",
    "DialUDP",
    "Dialer",
    "Incoming",
    "Listener",
    "Port",
    "Purpose",
    "Route",
    "Transport",
]

#: Opens a byte stream to ``(host, port)`` over TCP. It is a `trio.abc.HalfCloseableStream`, unless it contains outer
#: TLS, with which one direction cannot be ended separately. Raises `OSError` (or a subclass) if the connection fails;
#: a `hybridrelay.connectivity.DialError` has the texts for reports. The caller sets the deadline. If cancelled,
#: nothing stays open.
Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]
#: Opens a UDP socket that is connected to ``(host, port)``. Errors and cancellation are as for `Dial`.
DialUDP = Callable[[str, int], Awaitable[trio.socket.SocketType]]
#: Starts the command that the administrator configured. The stream writes to its standard input and reads its
#: standard output; closing the stream ends the process. The end of its output is read as ``b""``, whatever its cause.
#: Raises `OSError` if the command cannot be started. If cancelled, no process is left.
DialProcess = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]


async def _no_datagrams(_host: str, _port: int) -> trio.socket.SocketType:
    await trio.lowlevel.checkpoint()
    raise OSError(errno.EOPNOTSUPP, "this dialer opens no UDP sockets (proxies do not carry UDP)")


async def _no_process() -> trio.abc.HalfCloseableStream:
    await trio.lowlevel.checkpoint()
    raise OSError(errno.EOPNOTSUPP, "no command is configured for reaching the relay")


@attrs.frozen
class Dialer(Value):
    """Opens everything that a transport needs on the dialing side.

    `process` has no argument with which a transport could choose the command: commands come from the options and the
    configuration file of this machine, and never from a connection string.
    """

    tcp: Dial
    udp: DialUDP = _no_datagrams
    process: DialProcess = _no_process
    #: What transports over HTTP add to their requests. If there are header fields, `tcp` verifies the certificate of
    #: the outer TLS. A transport must not send them over a connection without outer TLS.
    http: HttpOptions = NO_HTTP_OPTIONS
    #: Returns the options for a connection that begins now, in place of `http`, if they may change while a program
    #: runs. `hybridrelay.connectivity` calls it once for each connection; transports use `http`.
    current_http: Callable[[], HttpOptions] | None = None


@attrs.frozen
class Address(Value):
    """The address to connect to."""

    #: A host name or an IP address; IPv6 without brackets.
    host: str
    #: The TCP or UDP port number; 0 for a ``local`` `Port`, which can only be reached by a command.
    port: int
    #: Whether the streams of `Dialer.tcp` are already inside outer TLS, for protocols for which this matters.
    outer_tls: bool = False


@attrs.frozen
class Connection(Value):
    """An established connection."""

    #: Carries exactly the bytes that the other side sends. It passes `trio.testing.check_half_closeable_stream`. An
    #: end that the peer did not signal raises `trio.BrokenResourceError` and never looks like end of file.
    stream: trio.abc.HalfCloseableStream
    #: The other end, for logs and for limits: an IP address if there is one.
    remote: str
    #: The socket, if its bytes are exactly those of `stream`, with nothing read ahead or held back, so that the relay
    #: can move them in the kernel. None if the transport changes or adds bytes.
    kernel_socket: trio.socket.SocketType | None = None
    #: The addresses from which the connection comes, as stated by proxies of the transport's protocol, that of the
    #: nearest proxy last. They can be forged, so the relay uses them only from proxies that it is told to trust.
    forwarded_for: tuple[str, ...] = ()

    @classmethod
    def over(cls, stream: trio.abc.Stream, remote: str) -> Connection:
        """Return a connection that adds nothing to `stream`. If that is a plain socket, `kernel_socket` is set.

        Raises:
            TransportError: one direction of `stream` cannot be ended separately. This is the case inside outer TLS,
                where a transport has to signal the end of its data itself.
        """
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            raise TransportError("this transport needs a connection that can be half-closed, and outer TLS cannot")
        return cls(stream, remote, stream.socket if isinstance(stream, trio.SocketStream) else None)


class Incoming(trio.abc.AsyncResource):
    """A connection that was accepted. Its peer is not authenticated, and no work has been done for it yet."""

    #: See `Connection.remote`.
    remote: str

    @abstractmethod
    async def handshake(self) -> Connection | None:
        """Do the server's side of the transport's handshake. Called at most once, when the relay allows it.

        Returns:
            The connection; None if the peer was answered but no connection results (a health check, a refusal).

        Raises:
            TransportError: the peer does not speak this transport; it has been answered.

        Reads only a bounded number of bytes, checks lengths before allocating memory for them, and reads nothing
        beyond the handshake. The caller sets the deadline. Unless a connection is returned, everything is closed when
        this ends, even if it is cancelled.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection, whether or not the handshake was done. Does not wait; idempotent."""


class Listener(trio.abc.AsyncResource):
    """Accepts connections of one transport."""

    @property
    @abstractmethod
    def bound(self) -> tuple[Binding, ...]:
        """The bindings on which it listens, with actual port numbers."""

    @abstractmethod
    async def accept(self) -> Incoming:
        """Wait for the next connection, without reading from it or computing anything for it.

        Raises:
            OSError: this attempt failed: the process has no descriptor or memory left, or the listener is unusable.
            trio.ClosedResourceError: the listener was closed.

        If cancelled, no connection is lost.
        """


@attrs.frozen
class Binding(Value):
    """The address to listen on."""

    #: A name or an address of this machine; ``""`` means every address.
    host: str
    #: 0 means any free port.
    port: int
    #: If set, listen on a Unix socket with this path instead, to which only this user can connect.
    path: Path | None = None
    #: For transports over HTTP: they are also served below this path (`HttpOptions.path_prefix`).
    path_prefix: str = ""
    #: If set, accept from these instead of opening anything: sockets that were opened elsewhere, or a network in
    #: memory. The listener owns them from now on.
    acceptors: tuple[trio.abc.Listener[trio.SocketStream], ...] | None = attrs.field(default=None, eq=False)

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host or '*'}:{self.port}"


@attrs.frozen
class Port(Value):
    """A port on which a relay can listen."""

    #: The name in options and connection strings: ``--ports data=9352``.
    name: str
    #: The port number if neither the relay nor the connection string names another; 0 if `local`.
    default: int = 0
    #: Whether connections on this port begin with an outer TLS handshake, as middleboxes expect.
    outer_tls: bool = False
    #: Whether it is a Unix socket in the relay's state directory, for programs of the relay's own user, instead of a
    #: TCP or UDP port. The relay always opens it; it does not appear in options and connection strings.
    local: bool = False


@attrs.frozen
class Route(Value):
    """A way in which a transport reaches a relay: the port for each purpose of a connection."""

    #: The name in reports: ``tcp``, ``wss``, ``ws``.
    name: str
    #: The route with the lowest rank is tried first and preferred.
    rank: int
    #: The port for every purpose that is not in `others`.
    port: Port
    others: Mapping[Purpose, Port] = attrs.field(factory=dict)
    #: Whether mode ``auto`` may choose it. If not, it is used only in the mode with the transport's name.
    automatic: bool = True
    #: Additional time for connecting (seconds), for instance because a command connects first.
    extra_seconds: float = 0.0

    def port_for(self, purpose: Purpose) -> Port:
        """Return the port for channels of this purpose."""
        return self.others.get(purpose, self.port)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports of the route, without duplicates."""
        return tuple(dict.fromkeys(self.port_for(purpose) for purpose in Purpose))


class Transport(ABC):
    """A way of carrying bytes between a dialing side and the relay."""

    #: The mode that selects it: ``--mode tcp``.
    name: str
    #: The routes that it offers.
    routes: tuple[Route, ...]

    @abstractmethod
    async def connect(self, address: Address, dialer: Dialer) -> Connection:
        """Open what is needed with `dialer`, and do the transport's own handshake.

        Raises:
            OSError: no connection could be opened (refused, unreachable, unknown name), exactly as `dialer` raised
                it.
            TransportError: the other side does not speak this transport; or the connection broke
                (`TransportError.lost`).

        The caller sets and enforces the deadline. If cancelled at any point, nothing stays open.
        """

    @abstractmethod
    async def listen(self, binding: Binding) -> Listener:
        """Begin to listen.

        A transport whose handshake runs over one stream returns a `hybridrelay.streams.listening.StreamListener`.
        The relay then accepts the sockets itself, with its limits for them, adds the outer TLS, and calls the
        transport's handshake. Any other listener accepts connections itself (`Listener.accept`).

        Raises:
            OSError: listening is not possible.

        If cancelled, nothing stays open.
        """
