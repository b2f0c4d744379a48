"""Serving connections, each in a separate task, until they end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator

import trio

from ..._exception_groups import leaves
from ..._nursery import FlatNursery
from ..._unexpected_failure import unexpected_failure
from ...abc import Incoming
from ...errors import HybridRelayError
from ...events.relay import ChannelFailed, ProxyHeaderRefused
from ...events.stream import EventStream
from ...mux import EarlySession, Session
from ...protocol import control
from ...protocol.errors import RemoteProtocolError
from ...security import NO_NETWORKS, Networks
from ...streams.listening import remote_of
from ...streams.proxy_protocol import ProxyHeaderError, receive_proxy_header
from ...streams.turns import PeerTurns, SharedTurns
from ..client_addresses import ClientAddresses
from ..core.holders import Holder
from ..edge.authentication import AuthenticatedControlChannel, AuthenticatedDataChannel, Authenticator
from ..edge.permits import HandshakePermit
from ..edge.ports import OpenPort
from ..edge.slots import Slot, address_group
from ..edge.unauthenticated import UnauthenticatedConnection, UnauthenticatedConnections
from ..limits import AUTHENTICATION_DEADLINE_SECONDS
from .broker import BrokerService
from .channel_index import ChannelIndex
from .checkpoints import Checkpoints
from .claims import Claims
from .control import ControlPeer

__all__ = ["ConnectionService", "ControlPeers"]

#: How many control channels are examined before other tasks run.
_AT_A_TIME = 50
#: Errors that a peer or the network may cause at any time. They end the connection, and are not bugs.
_EXPECTED = (
    HybridRelayError,
    OSError,
    RemoteProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
    trio.TooSlowError,
)


class ControlPeers:
    """The control channels whose peers have authenticated.

    Args:
        broker: the relay's broker.
        instance: see `control.Welcome.relay_instance`.
        outer_pins: returns the pins of the outer certificates, see `control.Welcome`.
        claims: answers takers; None means that there are no claims.
        client_addresses: what connectors are told about the addresses of clients.
        checkpoints: keeps checkpoints of audit logs; None means that none are kept.
    """

    def __init__(
        self,
        broker: BrokerService,
        instance: str,
        outer_pins: Callable[[], tuple[str, ...]],
        claims: Claims | None = None,
        client_addresses: ClientAddresses = ClientAddresses.EXACT,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._broker = broker
        #: May be replaced: peers that have been admitted are not affected.
        self.client_addresses = client_addresses
        self._instance = instance
        self._outer_pins = outer_pins
        self._claims = claims
        self._checkpoints = checkpoints
        self._peers: set[ControlPeer] = set()
        #: The same by hybrid connection, with peers that have authenticated a moment ago.
        self._index: ChannelIndex[ControlPeer] = ChannelIndex()
        #: See `ControlPeer`. Set when the relay is assembled.
        self.key_answered: Callable[[str, str, control.KeyKept], None] | None = None
        self.update_answered: Callable[[str, str, control.PeerRole | None, control.UpdateKept], None] | None = None
        #: One key may have thousands of control channels, which share turns.
        self._turns = PeerTurns()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[ControlPeer]:
        return iter(tuple(self._peers))

    async def admit(self, early: EarlySession, address: str, transport: str = "") -> ControlPeer | None:
        """Receive a peer's token. Returns None if the peer has left without presenting a valid one.

        Args:
            early: the session of the control channel.
            address: the peer's IP address, or what stands for it if it has none.
            transport: the name of the transport.

        Raises:
            RemoteProtocolError: the peer has violated the protocol.
            trio.BrokenResourceError: the channel was lost.
        """
        peer = ControlPeer(
            self._broker,
            early,
            relay_instance=self._instance,
            outer_pins=self._outer_pins(),
            address=address_group(address),
            client_address=self.client_addresses.stated(address),
            transport=transport,
            claims=self._claims,
            checkpoints=self._checkpoints,
            key_answered=self._answered,
            update_answered=self._update_answered,
            index=self._index,
        )
        try:
            while await peer.serve_some():
                if peer.authorized:
                    return peer
        except BaseException:
            peer.lost()
            raise
        peer.lost()
        return None

    async def sweep(self, now: float) -> None:
        """End expired registrations, and channels whose peers read nothing. There may be thousands of channels, so
        this lets other tasks run in between. `now`: seconds since 1970."""
        for number, peer in enumerate(self, 1):
            if peer in self._peers:  # it may have ended meanwhile
                peer.expire(now)
                peer.check_reading()
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()

    def check_keys(self, connections: Iterable[str]) -> None:
        """Have the channels that concern these hybrid connections check their keys; see `ControlPeer.check_keys`."""
        for peer in self._index.of(connections):
            if peer in self._peers:
                peer.check_keys()

    def _answered(self, address: str, instance: str, answer: control.KeyKept) -> None:
        if self.key_answered is not None:
            self.key_answered(address, instance, answer)

    def _update_answered(
        self, address: str, instance: str, role: control.PeerRole | None, answer: control.UpdateKept
    ) -> None:
        if self.update_answered is not None:
            self.update_answered(address, instance, role, answer)

    async def serve(self, channel: AuthenticatedControlChannel[ControlPeer]) -> None:
        """Serve a peer that has authenticated until its channel ends, in a session with its own tasks."""
        peer = channel.peer
        try:
            async with FlatNursery() as nursery:
                session, stream = channel.early.take_over(self._turns_of(peer))
                nursery.start_soon(session.run, channel.tls)
                nursery.start_soon(self._forget_when_over, session, peer)
                peer.attach(session, stream, nursery)
                self._peers.add(peer)
                peer.check_keys()  # it has not learned of changes since it was authorized
                while await peer.serve_some():
                    pass
                nursery.cancel_scope.cancel()
        finally:
            self._peers.discard(peer)
            peer.lost()  # again: it may have registered something while its session was ending

    def _turns_of(self, peer: ControlPeer) -> SharedTurns:
        if peer.key is None:
            return SharedTurns()
        holder = Holder(peer.key, peer.address)
        return self._turns.of(holder, *holder.groups)

    async def _forget_when_over(self, session: Session, peer: ControlPeer) -> None:
        try:
            await session.wait_ended()
        finally:
            peer.lost()

    async def announce_stop(self, retry_after: float, seconds: float) -> None:
        """Notify all peers that the relay is about to stop, and wait, so that sessions can move to other relays.

        Args:
            retry_after: for how long peers should prefer other relays (seconds).
            seconds: how long to wait. Peers that do not read the message within this time are not waited for.
        """
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for peer in self:
                    nursery.start_soon(peer.send, control.Draining(retry_after))
            await trio.sleep_forever()


class ConnectionService:
    """Serves connections; see the module's docstring.

    Args:
        authenticator: authenticates connections.
        broker: serves data channels.
        peers: serves control channels.
        events: the stream to which events are published.
        proxies: the proxies that have to send a PROXY header.
    """

    def __init__(
        self,
        authenticator: Authenticator[ControlPeer],
        broker: BrokerService,
        peers: ControlPeers,
        events: EventStream,
        *,
        proxies: Networks = NO_NETWORKS,
    ) -> None:
        self._authenticator = authenticator
        self._broker = broker
        self._peers = peers
        self._events = events
        self._proxies = proxies
        #: Set by `watch_unauthenticated`.
        self._waiting: UnauthenticatedConnections | None = None

    def use_proxies(self, proxy_protocol_from: Networks, trusted_proxies: Networks) -> None:
        """Use other proxies for connections that arrive from now on."""
        self._proxies = proxy_protocol_from
        if self._waiting is not None:
            self._waiting.proxies = proxy_protocol_from
        self._authenticator.trusted_proxies = trusted_proxies

    async def watch_unauthenticated(
        self,
        nursery: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch connections until cancelled, and start a task in `nursery` for each that needs one.

        Only for Linux.
        """

        def serve(connection: UnauthenticatedConnection) -> None:
            nursery.start_soon(self._serve, connection)

        self._waiting = UnauthenticatedConnections(
            self._authenticator.slots,
            self._authenticator.scheduler,
            decode=self._authenticator.requests.decode,
            serve=serve,
            proxies=self._proxies,
            refused=self._refused,
        )
        task_status.started()
        await self._waiting.run()

    def take(self, port: OpenPort, sock: socket.socket, name: object) -> None:
        """Watch a connection that was just accepted until it needs a task. `watch_unauthenticated` must be running.

        Args:
            port: the port on which it was accepted.
            sock: its socket, which this object then owns.
            name: the peer's address, as `socket.accept` returns it.
        """
        assert self._waiting is not None
        self._waiting.enter(port, sock, name)

    async def accepted(self, port: OpenPort, arrived: trio.SocketStream | Incoming) -> None:
        """Serve one connection that was just accepted."""
        address = arrived.remote if isinstance(arrived, Incoming) else remote_of(arrived)
        scope = trio.CancelScope(deadline=trio.current_time() + AUTHENTICATION_DEADLINE_SECONDS)
        permit = HandshakePermit.of_new_connection(self._authenticator.scheduler, address)
        slot = self._authenticator.slots.take(address, scope.cancel)
        if isinstance(arrived, trio.SocketStream) and self._proxies.covers(address):
            stated = await self._receive_proxy_header(port, arrived, address, slot, scope)
            if stated is None:
                return
            address = stated
            self._authenticator.slots.move(slot, address)
            permit.move(address)
        await self._serve(UnauthenticatedConnection(port, arrived, address, slot, permit, scope))

    async def _receive_proxy_header(
        self, port: OpenPort, stream: trio.SocketStream, address: str, slot: Slot, scope: trio.CancelScope
    ) -> str | None:
        """Return the address that a proxy states; None if the connection was refused and closed."""
        detail = "no complete PROXY header has arrived in time"
        stated: str | None = None
        try:
            # Not the scope of the connection, because that can be entered only once.
            with trio.CancelScope(deadline=scope.deadline) as receiving:
                slot.evict = receiving.cancel
                stated = await receive_proxy_header(stream) or address
        except ProxyHeaderError as exc:
            detail = str(exc)
        except trio.BrokenResourceError:
            detail = ""
        finally:
            slot.evict = scope.cancel
            if stated is None:
                self._authenticator.slots.release(slot)
                await trio.aclose_forcefully(stream)
        if stated is None and detail:
            self._refused(port, address, detail)
        return stated

    def _refused(self, port: OpenPort, address: str, detail: str) -> None:
        self._events.publish(ProxyHeaderRefused(peer=address, port=port.name, detail=detail))

    async def _serve(self, connection: UnauthenticatedConnection) -> None:
        """Serve one connection until its end. Its errors do not affect other connections."""
        port = connection.port
        try:
            match await self._authenticator.authenticate(connection):
                case AuthenticatedDataChannel(arrival, stream):
                    await self._broker.serve_channel(arrival, stream, port.transport)
                case AuthenticatedControlChannel() as channel:
                    await self._peers.serve(channel)
        except Exception as exc:  # noqa: BLE001 - it is reported as an event, with its traceback
            if any(not isinstance(leaf, _EXPECTED) for leaf in leaves(exc)):
                # A bug, or no memory. It is reported, and must not affect other connections.
                self._events.publish(unexpected_failure(f"a connection on port {port.name}", exc))
            else:
                self._events.publish(ChannelFailed(peer=connection.address, port=port.name, detail=str(exc)))
        finally:
            await trio.aclose_forcefully(connection.arrived)
