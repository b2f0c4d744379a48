"""The contracts: what a transport is, and what its implementers owe.

A transport moves bytes between a dialing side and the relay, and is trusted with nothing: everything secret runs
inside TLS inside it. Transports are found by entry point (group ``hybridrelay.transports``); each entry point names a
module-level `Transport` instance. ``transports/README.md`` shows how to write one; `hybridrelay.testing` has the
conformance suite that it must pass.
"""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping

import attrs
import trio

from .protocol.preamble import Purpose

__all__ = ["AcceptOptions", "ConnectOptions", "Dial", "Port", "Purpose", "Route", "Transport"]

#: Opens a byte stream to ``(host, port)``: directly, or through a proxy. Transports never open sockets themselves, so
#: that every transport crosses every kind of proxy. Raises `OSError` (or a subclass) where the connection fails; a
#: `hybridrelay.connectivity.DialError` carries what reports say about it.
Dial = Callable[[str, int], Awaitable[trio.abc.HalfCloseableStream]]


@attrs.frozen
class Port:
    """One of the relay's listening ports."""

    #: What operators call it: ``--ports data=9352``.
    name: str
    #: The number used where neither relay nor connection string says otherwise.
    default: int
    #: What connections on this port may be for; anything else is refused with `Reason.WRONG_PORT`.
    purposes: frozenset[Purpose]
    #: Whether connections on this port begin with an outer TLS handshake, so that middleboxes see what they expect.
    outer_tls: bool = False


@attrs.frozen
class Route:
    """One way to reach a relay: which port serves which purpose. The prober tries routes by ascending rank."""

    #: Shown in reports: ``tcp``, ``wss``, ``ws``.
    name: str
    #: Lower is tried first and preferred.
    rank: int
    ports: Mapping[Purpose, Port]


@attrs.frozen
class ConnectOptions:
    """Where and how to connect."""

    host: str
    port: int
    #: Whether to begin with an outer TLS handshake (`Port.outer_tls`).
    outer_tls: bool
    #: Opens the underlying connection.
    dial: Dial
    #: For the outer TLS; None means a default that verifies nothing, because security is not the transport's job.
    ssl_context: ssl.SSLContext | None = None
    #: Called with the certificate (DER) that the other end of the outer TLS showed, as soon as that is known and
    #: before anything is sent through it. Not verified; shows who intercepts the outer TLS.
    on_outer_certificate: Callable[[bytes], None] | None = None


@attrs.frozen
class AcceptOptions:
    """How the relay serves one accepted TCP connection."""

    port: Port
    #: The outer certificate; present exactly where ``port.outer_tls``.
    ssl_context: ssl.SSLContext | None = None
    #: To be awaited before anything expensive is done for the peer, which is not authenticated: a TLS handshake, as
    #: soon as its ClientHello is complete. Waits for the peer's turn.
    before_handshake: Callable[[], Awaitable[None]] | None = None


class Transport(ABC):
    """A way of moving bytes over a TCP connection that other code opened."""

    #: The mode that selects it: ``--mode tcp``.
    name: str
    #: The routes that it offers.
    routes: tuple[Route, ...]
    #: It adds nothing to TCP: on its ports the preamble comes first, and `accept` returns the socket's own stream.
    adds_nothing: bool = False

    @abstractmethod
    async def connect(self, options: ConnectOptions) -> trio.abc.HalfCloseableStream:
        """Dial and do the transport's own handshake.

        Returns:
            A stream of exactly the bytes that the other side sends. It passes
            `trio.testing.check_half_closeable_stream`; an end that was not announced by the peer raises
            `trio.BrokenResourceError`, never reads as end of file.

        Raises:
            OSError: the connection itself failed (refused, unreachable, unknown name).
            TransportError: connected, but the other side does not speak this transport; or the connection broke
                (`TransportError.lost`).

        The caller sets the deadline. Cancelled at any point, nothing stays open.
        """

    @abstractmethod
    async def accept(self, stream: trio.SocketStream, options: AcceptOptions) -> trio.abc.HalfCloseableStream | None:
        """Do the server's side of the handshake on a connection that was just accepted.

        Returns:
            The stream, or None where the connection was answered and needs nothing more (a health check, a
            refusal). A transport that adds nothing to TCP returns ``stream`` itself, which lets the relay move its
            bytes in the kernel.

        Raises:
            TransportError: the peer does not speak this transport; it has been answered and the stream closed.

        The peer is not authenticated: what is read is bounded, and the caller sets the deadline. On any exception,
        cancellation included, the stream is closed.
        """
