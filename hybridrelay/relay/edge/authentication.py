"""Authenticates a connection, from its first bytes to a channel, in the task that serves it.

Meanwhile, the connection has one of the slots for unauthenticated connections, and waits for permission before each
TLS handshake. It is closed if it takes too long or if another connection displaces it from its slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
import trio

from ..._value import Value
from ...abc import Connection, Incoming
from ...events.relay import ForwardedAddressMalformed, UnauthenticatedClosed
from ...events.stream import EventStream
from ...http import client_address
from ...mux import EarlySession
from ...protocol.errors import RemoteProtocolError
from ...protocol.preamble import PROBE_SIZE
from ...protocol.reasons import Reason
from ...security import NO_NETWORKS, Networks
from ...streams import TLSStream, receive_exactly
from ...streams.listening import StreamListener
from ...streams.nowait import HELD_FOR_STRANGER, NowaitStream
from ...streams.outer_tls import accept_outer_tls
from ...streams.sockets import abort_stream, tune_socket
from ..core.rendezvous import Arrival
from .certificates import RelayCertificates
from .permits import HandshakeScheduler
from .requests import ControlRequest, DataRequest, ProbeRequest, RequestReader
from .slots import Slot, Slots
from .unauthenticated import UnauthenticatedConnection

__all__ = ["AuthenticatedControlChannel", "AuthenticatedDataChannel", "Authenticator"]

PeerT = TypeVar("PeerT")


@attrs.frozen
class AuthenticatedDataChannel(Value):
    """A data channel that has presented a valid ticket."""

    arrival: Arrival
    stream: trio.abc.HalfCloseableStream


@attrs.frozen
class AuthenticatedControlChannel(Generic[PeerT]):
    """A control channel whose peer has presented a valid token."""

    peer: PeerT
    early: EarlySession
    tls: TLSStream


@attrs.define(eq=False)
class Authenticator(Generic[PeerT]):
    """Authenticates connections.

    Args:
        certificates: the relay's certificates.
        slots: the slots for unauthenticated connections; each connection has one.
        nested: slots for second TLS handshakes, inside outer TLS.
        layered: slots for connections with TLS inside outer TLS, from the second handshake until the peer has
            authenticated.
        scheduler: gives permission for handshakes.
        requests: reads preambles.
        admit: called with the session of a control channel, the address of its peer, and the name of the
            transport; receives the peer's token. Returns None if the peer has left without a valid token. If it
            raises or returns None, it has cleaned up.
        abandon: called with each arrival that does not lead to an `AuthenticatedDataChannel`.
        events: the stream to which events are published.
        trusted_proxies: the reverse proxies whose statements about where a connection comes from are trusted. May be
            replaced.
    """

    certificates: RelayCertificates
    slots: Slots
    nested: Slots
    layered: Slots
    scheduler: HandshakeScheduler
    requests: RequestReader
    admit: Callable[[EarlySession, str, str], Awaitable[PeerT | None]]
    abandon: Callable[[Arrival], None]
    events: EventStream
    trusted_proxies: Networks = NO_NETWORKS

    async def authenticate(
        self, connection: UnauthenticatedConnection
    ) -> AuthenticatedDataChannel | AuthenticatedControlChannel[PeerT] | None:
        """Authenticate the peer of a connection.

        Returns:
            The channel, which the caller serves and closes; or None if nothing more is to be done: it was a probe,
            the peer was refused or has left, or it took too long.

        Raises:
            Exception: an error that the peer or the network has caused. The caller closes the connection.
        """
        channel: AuthenticatedDataChannel | AuthenticatedControlChannel[PeerT] | None = None
        try:
            if isinstance(connection.arrived, trio.SocketStream):
                tune_socket(connection.arrived.socket)
            with connection.scope, self.slots.held(connection.slot), connection.permit:
                channel = await self._authenticate(connection)
                if channel is not None:
                    connection.permit.authenticated()
        finally:
            if channel is None and isinstance(connection.request, DataRequest):
                self.abandon(connection.request.arrival)
        if connection.scope.cancelled_caught:
            self.events.publish(UnauthenticatedClosed(peer=connection.address, port=connection.port.name))
        return channel

    async def _authenticate(
        self, connection: UnauthenticatedConnection
    ) -> AuthenticatedDataChannel | AuthenticatedControlChannel[PeerT] | None:
        request = connection.request
        if request is None:
            established = await self._handshake(connection)
            if established is None:
                return None
            self._note_forwarding(connection, established.forwarded_for)
            stream = _movable(established)
            if isinstance(stream, NowaitStream):
                stream.limit_held(HELD_FOR_STRANGER)
            if connection.port.outer_tls:
                self.slots.advance(connection.slot)
            request = await self.requests.read(connection.port, stream)
            if isinstance(request, ControlRequest) and request.key_id is not None:
                connection.permit.prove(request.key_id)
                self.slots.prove(connection.slot, request.key_id)
        else:
            # The transport adds nothing to the bytes, so the preamble was already read before this task was started.
            assert isinstance(connection.arrived, trio.SocketStream)
            stream = connection.arrived
        match request:
            case ProbeRequest():
                await stream.send_all(await receive_exactly(stream, PROBE_SIZE))
                await stream.aclose()
                return None
            case DataRequest(arrival):
                if isinstance(stream, NowaitStream):
                    stream.limit_held(None)
                return AuthenticatedDataChannel(arrival, stream)
            case ControlRequest():
                return await self._open_control_channel(connection, stream, request)

    def _note_forwarding(self, connection: UnauthenticatedConnection, forwarded_for: tuple[str, ...]) -> None:
        """Count a connection for the address that it comes from, as stated by trusted proxies."""
        try:
            address = client_address(connection.address, forwarded_for, self.trusted_proxies.covers)
        except ValueError as exc:
            event = ForwardedAddressMalformed(peer=connection.address, port=connection.port.name, detail=str(exc))
            self.events.publish(event)
            return
        if address != connection.address:
            connection.address = address
            self.slots.move(connection.slot, address)
            connection.permit.move(address)

    async def _handshake(self, connection: UnauthenticatedConnection) -> Connection | None:
        """Perform the handshakes of the outer TLS, if there is one, and of the transport (`Incoming.handshake`)."""
        port, arrived = connection.port, connection.arrived
        if isinstance(arrived, Incoming):
            await connection.permit.wait()
            return await arrived.handshake()
        assert isinstance(port.listener, StreamListener)
        stream: trio.abc.Stream = arrived
        if port.outer_tls:
            context = self.certificates.outer_context
            assert context is not None
            stream = await accept_outer_tls(stream, context, before_answer=connection.permit.wait)
        elif not port.is_plain:
            await connection.permit.wait()  # the transport's work with the first bytes needs permission, too
        return await port.listener.incoming(stream, connection.address).handshake()

    async def _open_control_channel(
        self, connection: UnauthenticatedConnection, stream: trio.abc.Stream, request: ControlRequest
    ) -> AuthenticatedControlChannel[PeerT] | None:
        """Perform the TLS handshake with the relay's certificate, and receive a token."""
        nested: Slot | None = None
        layered: Slot | None = None

        async def before_answer() -> None:
            nonlocal nested, layered
            await connection.permit.wait()
            if connection.port.outer_tls:
                nested = _take(self.nested, connection, request)
                layered = _take(self.layered, connection, request)

        context = self.certificates.control_context(by_ca=request.by_ca)
        tls = TLSStream(stream, context, server_side=True, before_answer=before_answer)
        try:
            try:
                await tls.do_handshake()
            finally:
                if nested is not None:
                    self.nested.release(nested)
            self.slots.advance(connection.slot)
            if layered is not None:
                self.layered.advance(layered)
            early = EarlySession(tls)
            try:
                peer = await self.admit(early, connection.address, connection.port.transport)
                if peer is not None:
                    return AuthenticatedControlChannel(peer, early, tls)
                await early.aclose(Reason.NO_ERROR)
            except RemoteProtocolError as exc:
                await early.aclose(exc.reason, str(exc))
                raise
            except trio.BrokenResourceError:
                await early.aclose(Reason.SESSION_LOST)
                raise
        except BaseException:
            await abort_stream(tls)
            raise
        finally:
            if layered is not None:
                self.layered.release(layered)
        return None


def _take(slots: Slots, connection: UnauthenticatedConnection, request: ControlRequest) -> Slot:
    slot = slots.take(connection.address, connection.scope.cancel)
    if request.key_id is not None:
        slots.prove(slot, request.key_id)
    return slot


def _movable(connection: Connection) -> trio.abc.HalfCloseableStream:
    """Return the stream of a connection; a `SocketStream` if the kernel can move its bytes."""
    if connection.kernel_socket is None or isinstance(connection.stream, trio.SocketStream):
        return connection.stream
    return trio.SocketStream(connection.kernel_socket)
