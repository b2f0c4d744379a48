"""The relay: its ports, and what becomes of each connection that comes in on one of them."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import attrs
import trio

from ..._accepting import serve_listeners
from ..._descriptors import descriptor_limit
from ..._listening import explain_listen_error, open_listeners
from ..._log_limit import LimitedLogger, report_left_out
from ..._nursery import FlatNursery, leaves, wait_stop
from ..._vitals import reporting
from ...abc import AcceptOptions, Port, Purpose, Transport
from ...connectivity.discovery import all_ports, discover, transports_by_port
from ...errors import ConfigurationError, HybridRelayError
from ...mux import EarlySession, Session
from ...protocol import control
from ...protocol.errors import RemoteProtocolError
from ...protocol.preamble import PREAMBLE_SIZE, PROBE_SIZE, decode_preamble_untrusted, encode_status
from ...protocol.reasons import Reason
from ...security import (
    bracketed,
)
from ...streams import TLSStream, receive_exactly
from ...streams.sockets import abort_stream, tune_socket
from ..core.places import Places
from ..edge.certificates import CertificateFiles, RelayCertificates
from ..edge.handshakes import Turn, Turns
from ..edge.slots import Held, Slot, Slots, address_group
from ..edge.unauthenticated import Guest, Lobby, Request
from ..limits import (
    AUTHENTICATION_DEADLINE_SECONDS,
    NESTED_HANDSHAKES,
    UNAUTHENTICATED_SLOTS,
    Shares,
    unauthenticated_slots,
)
from ..model import StoreChange
from ..store.public_ports import save_public_ports
from ..store.relay_id import load_or_create_relay_id
from ..store.sqlite import SQLiteStore
from ..store.state_dir import occupy_state_directory
from .broker import BrokerService
from .control import ControlPeer
from .watcher import StoreWatcher

logger = LimitedLogger("hybridrelay.relay")

#: How long a relay that stops lets what is under way go on (seconds).
DRAIN_SECONDS = 1.0
#: When peers should come back to a relay that stops (seconds); they add jitter of their own.
RETRY_AFTER_SECONDS = 1.0
#: How often expired registrations are looked for (seconds); a connector renews long before.
_SWEEP_SECONDS = 5.0
#: What a peer, or the network, may do to a connection at any time: its end, and nobody's fault here.
_EXPECTED = (
    HybridRelayError,
    OSError,
    RemoteProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
    trio.TooSlowError,
)


@attrs.frozen
class Binding:
    """An address to listen on. Host ``""`` is every address of the machine; port 0 any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host) or '*'}:{self.port}"


_at_least_one = attrs.validators.optional(attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class RelayConfig:
    """What a relay needs to know."""

    #: The registry and the relay's own certificate live here. Made where it is missing.
    state_dir: Path = attrs.field(converter=Path)
    #: By port name: where to listen. A name that is absent or has no binding is off.
    bindings: Mapping[str, tuple[Binding, ...]]
    #: What connection strings say instead, where something in front of the relay has other ports. None: not served.
    public_ports: Mapping[str, int | None] = attrs.field(factory=dict)
    #: PEM: the outer certificate for port 443. A CA should have signed it, because proxies that open TLS demand that.
    #: It also serves control channels whose connection string has no pin. Without it, one is made.
    tls_certificate: Path | None = None
    #: PEM: its key, where that is not in the same file.
    tls_key: Path | None = None
    #: The most pairs of data channels that may be joined, or be about to be. None: about one for
    #: four descriptors, at most 32,768. More than that is not possible.
    max_pairs: int | None = attrs.field(default=None, validator=_at_least_one)
    #: The most of them that one hybrid connection, and one key of a sender, may have. None: no fixed limit; when most
    #: are taken, they are shared out (`places.py`).
    max_pairs_per_connection: int | None = attrs.field(default=None, validator=_at_least_one)
    max_pairs_per_key: int | None = attrs.field(default=None, validator=_at_least_one)


@attrs.frozen
class RelayInfo:
    """A relay that serves."""

    #: By port name: where it listens, port 0 replaced.
    bound: Mapping[str, tuple[Binding, ...]]
    #: ``sha256:...``: what connection strings carry, so that nobody else can pose as this relay.
    pin: str


class Relay:
    """One relay. `run_relay` is enough where nothing changes while it runs."""

    def __init__(
        self,
        config: RelayConfig,
        *,
        transports: Mapping[str, Transport] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._clock = clock
        transports = discover() if transports is None else transports
        self._ports = all_ports(transports)
        self._by_port = transports_by_port(transports)
        for name in (*config.bindings, *config.public_ports):
            if name not in self._ports:
                known = ", ".join(self._ports)
                raise ConfigurationError(f"unknown port {name!r}", remedy=f"known are: {known}")
        if not any(config.bindings.values()):
            raise ConfigurationError("all ports are off", remedy="open at least one with --ports")
        self._certificates: RelayCertificates | None = None
        self._peers: set[ControlPeer] = set()
        self._lobby: Lobby | None = None
        #: By port name: the same descriptors as the listeners', for calls that trio does not have.
        self._listening: dict[str, list[socket.socket]] = {}

    async def run(
        self, *, stop: trio.Event | None = None, task_status: trio.TaskStatus[RelayInfo] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `run_relay`."""
        config = self._config
        descriptors = descriptor_limit()
        self._slots = Slots(unauthenticated_slots(descriptors))
        self._nested = Slots(max(1, int(self._slots.total * NESTED_HANDSHAKES)))
        self._turns = Turns()
        if self._slots.total < UNAUTHENTICATED_SLOTS:
            logger.warning("only %d descriptors: raise the limit (ulimit -Hn, LimitNOFILE)", descriptors)
        with occupy_state_directory(config.state_dir), SQLiteStore.open(config.state_dir) as registry:
            certificates = self._certificates = self._load_certificates()
            async with FlatNursery() as nursery:
                watcher = self._watcher = StoreWatcher(registry)
                await nursery.start(watcher.run, self._changed)
                self._broker = self._make_broker(watcher, descriptors)
                nursery.start_soon(self._broker.expire)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._turns.run)
                if sys.platform == "linux":
                    self._lobby = self._make_lobby(nursery)
                    nursery.start_soon(self._lobby.run)
                nursery.start_soon(certificates.watch)
                nursery.start_soon(report_left_out)
                with reporting(self):
                    await self._listen_and_serve(nursery, certificates.own_pin, stop, task_status)

    def _make_broker(self, watcher: StoreWatcher, descriptors: int | None) -> BrokerService:
        config, shares = self._config, Shares.of(descriptors)
        if config.max_pairs is not None and config.max_pairs > shares.pairs:
            logger.warning(
                "only %d pairs of data channels are possible with %s descriptors, and not %d: raise the limit of "
                "descriptors (ulimit -Hn, LimitNOFILE)",
                shares.pairs, descriptors, config.max_pairs,
            )  # fmt: skip
        pairs = Places(
            "data channels",
            min(shares.pairs, config.max_pairs or shares.pairs),
            per_connection=config.max_pairs_per_connection,
            per_key=config.max_pairs_per_key,
        )
        return BrokerService(
            watcher.snapshot,
            refresh=watcher.refresh,
            clock=self._clock,
            pairs=pairs,
            control_channels=Places("control channels", shares.control_channels),
            max_pipes=shares.pipes,
            relay_id=load_or_create_relay_id(config.state_dir),
        )

    async def _listen_and_serve(
        self, nursery: trio.Nursery, pin: str, stop: trio.Event | None, task_status: trio.TaskStatus[RelayInfo]
    ) -> None:
        """Open all ports, and serve until told to stop; connections are tasks of `nursery`."""
        config = self._config
        bound: dict[str, tuple[Binding, ...]] = {}
        listeners: list[tuple[Port, list[trio.SocketListener]]] = []
        try:
            for name, bindings in config.bindings.items():
                opened = [one for binding in bindings for one in await _listen(name, binding)]
                if opened:
                    listeners.append((self._ports[name], opened))
                    bound[name] = tuple(Binding(*one.socket.getsockname()[:2]) for one in opened)
            # The tasks that accept end before their sockets are closed.
            async with FlatNursery() as accepting:
                for port, opened in listeners:
                    self._listening[port.name] = [socket.socket(fileno=os.dup(one.socket.fileno())) for one in opened]
                    serve = partial(serve_listeners, partial(self._accepted, port), opened, handler_nursery=nursery)
                    await accepting.start(partial(serve, logger=logger, what=f"port {port.name}"))
                save_public_ports(config.state_dir, self._public_ports(bound))
                task_status.started(RelayInfo(MappingProxyType(bound), pin))
                await wait_stop(stop)
                await self._drain()
                accepting.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
        finally:
            for _, opened in listeners:
                for one in opened:
                    one.socket.close()
            for duplicate in chain.from_iterable(self._listening.values()):
                duplicate.close()
            self._broker.close()

    def vitals(self) -> dict[str, int]:
        """What it holds now; the names are those in docs/operating.md."""
        return {
            "unauthenticated": len(self._slots),
            "waiting_handshakes": self._turns.waiting,
            "peers": len(self._peers),
            **self._broker.vitals(),
        }

    async def _drain(self) -> None:
        """Say that the relay is about to go, and give what is under way a moment."""
        logger.info("draining; peers that are notified: %d", len(self._peers))
        with trio.move_on_after(DRAIN_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in self._peers:
                    nursery.start_soon(peer.send, control.Draining(RETRY_AFTER_SECONDS))
            await trio.sleep_forever()

    def _public_ports(self, bound: Mapping[str, tuple[Binding, ...]]) -> dict[str, int | None]:
        """What connection strings have to say: ports that are not the defaults."""
        ports: dict[str, int | None] = {}
        for name, port in self._ports.items():
            number: int | None = bound[name][0].port if name in bound else None
            number = self._config.public_ports.get(name, number)
            if number != port.default:
                ports[name] = number
        return ports

    def _load_certificates(self) -> RelayCertificates:
        config = self._config
        public = None if config.tls_certificate is None else CertificateFiles(config.tls_certificate, config.tls_key)
        outer_needed = any(self._ports[name].outer_tls for name, bindings in config.bindings.items() if bindings)
        return RelayCertificates.load(config.state_dir, public, now=self._clock(), outer_needed=outer_needed)

    async def reload_certificates(self) -> bool:
        """Read `RelayConfig.tls_certificate` and its key again, for new connections; nothing that is open is touched.

        A running relay also notices by itself, within half a minute, that the files have changed.

        Returns:
            Whether another certificate is in force now. False where there is none to be reloaded, or the relay has
            not loaded it yet.

        Raises:
            ConfigurationError: it cannot be used, or its key does not belong to it; the earlier one stays in force.

        Cancelled, the earlier one stays in force.
        """
        return self._certificates is not None and await self._certificates.reload()

    def _changed(self, change: StoreChange) -> None:
        self._broker.update(change)
        for peer in self._peers:
            peer.check_keys()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            now = self._clock()
            for peer in list(self._peers):
                peer.expire(now)

    # --- connections

    def _make_lobby(self, nursery: trio.Nursery) -> Lobby:
        plain = frozenset(name for name, transport in self._by_port.items() if transport.adds_nothing)

        def serve(guest: Guest) -> None:
            nursery.start_soon(self._serve, guest)

        return Lobby(self._slots, self._turns, plain=plain, greet=self._judge_preamble, serve=serve)

    async def _accepted(self, port: Port, stream: trio.SocketStream) -> None:
        """One connection that was just accepted."""
        if self._lobby is not None:
            family, kind, protocol = stream.socket.family, stream.socket.type, stream.socket.proto
            self._lobby.enter(port, socket.socket(family, kind, protocol, fileno=stream.socket.detach()))
            self._lobby.enter_waiting(port, self._listening[port.name])
            return
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:  # it has gone already
            await trio.aclose_forcefully(stream)
            return
        scope = trio.CancelScope(deadline=trio.current_time() + AUTHENTICATION_DEADLINE_SECONDS)
        turn = Turn.of(self._turns, address)
        await self._serve(Guest(port, stream, address, self._slots.take(address, scope.cancel), turn, scope))

    async def _serve(self, guest: Guest) -> None:
        """One connection, until its end. Nothing that happens to it reaches any other."""
        port = guest.port
        try:
            await self._serve_connection(guest)
        except Exception as exc:
            unexpected = [leaf for leaf in leaves(exc) if not isinstance(leaf, _EXPECTED)]
            if unexpected:
                # A bug of ours. It must not end the relay for everybody else, and must not go unseen.
                logger.exception("port %s: a connection failed unexpectedly", port.name)
            else:
                logger.debug("port %s: connection ended: %s", port.name, exc)
        finally:
            await trio.aclose_forcefully(guest.stream)

    async def _serve_connection(self, guest: Guest) -> None:
        stream: trio.abc.HalfCloseableStream | None = guest.stream
        admitted: _Admitted | None = None
        request = guest.request
        try:
            tune_socket(guest.stream.socket)
            with self._slots.hold(guest.slot, guest.scope) as held, guest.turn as turn:
                if request is None:
                    stream = await self._accept(guest)
                    if stream is None:
                        return
                    if guest.port.outer_tls:
                        held.advance()
                    request = await self._greet(guest.port, stream)
                    if request.key_id is not None:
                        turn.prove(request.key_id)
                        self._slots.prove(guest.slot, request.key_id)
                assert stream is not None
                if request.purpose is Purpose.PROBE:
                    await _echo(stream)
                elif request.purpose is Purpose.CONTROL:
                    admitted = await self._admit(stream, held, guest, request)
                if request.arrival is not None or admitted is not None:
                    turn.authenticated()
            if held.scope.cancelled_caught:
                logger.debug(
                    "port %s: %s did not authenticate in time, or was closed to make room for others",
                    guest.port.name,
                    guest.address,
                )
            elif request is not None and request.arrival is not None and stream is not None:
                await self._broker.meet(request.arrival, stream)
            elif admitted is not None:
                await self._serve_peer(admitted)
        finally:
            if request is not None and request.arrival is not None:
                self._broker.abandon(request.arrival)

    async def _accept(self, guest: Guest) -> trio.abc.HalfCloseableStream | None:
        """The transport's handshake; see `Transport.accept`."""
        assert self._certificates is not None
        port = guest.port
        context = self._certificates.outer_context if port.outer_tls else None
        if not port.outer_tls and not self._by_port[port.name].adds_nothing:
            await guest.turn.wait()  # for what the transport does with the first bytes
        options = AcceptOptions(port, context, guest.turn.wait)
        return await self._by_port[port.name].accept(guest.stream, options)

    def _judge_preamble(self, port: Port, preamble: bytes) -> Request:
        """What a preamble asks for.

        Raises:
            RemoteProtocolError: the peer has to be turned away with that reason.
        """
        said = decode_preamble_untrusted(preamble)
        if said.purpose not in port.purposes:
            raise RemoteProtocolError("wrong port", reason=Reason.WRONG_PORT)
        if said.purpose is Purpose.DATA:
            return Request(said.purpose, arrival=self._broker.use_ticket(said.credential))
        if said.purpose is Purpose.CONTROL:
            key_id = self._watcher.keys.prove(said.credential, self._clock())
            return Request(said.purpose, key_id=key_id, by_authority=said.by_authority)
        return Request(said.purpose)

    async def _greet(self, port: Port, stream: trio.abc.HalfCloseableStream) -> Request:
        """Read the preamble, and answer it, except for a valid ticket, whose answer waits for the other side.

        Raises:
            RemoteProtocolError: the peer was refused, and the reason was sent to it.
        """
        try:
            request = self._judge_preamble(port, await receive_exactly(stream, PREAMBLE_SIZE))
        except RemoteProtocolError as exc:
            await stream.send_all(encode_status(exc.reason))
            await stream.aclose()
            raise
        if request.arrival is None:
            await stream.send_all(encode_status(Reason.NO_ERROR))
        return request

    async def _admit(self, stream: trio.abc.Stream, held: Held, guest: Guest, request: Request) -> _Admitted | None:
        """Authenticate the peer of a control channel; None where it has gone without having shown a token."""
        certificates = self._certificates
        assert certificates is not None
        nested: Slot | None = None

        async def before_answer() -> None:
            nonlocal nested
            await guest.turn.wait()
            if guest.port.outer_tls:
                nested = self._nested.take(guest.address, guest.scope.cancel)
                if request.key_id is not None:
                    self._nested.prove(nested, request.key_id)

        context = certificates.control_context(by_authority=request.by_authority)
        tls = TLSStream(stream, context, server_side=True, before_answer=before_answer)
        peer: ControlPeer | None = None
        try:
            try:
                await tls.do_handshake()
            finally:
                if nested is not None:
                    self._nested.release(nested)
            held.advance()
            early = EarlySession(tls)
            peer = ControlPeer(
                self._broker, early, outer_pins=certificates.outer_pins, address=address_group(guest.address)
            )
            try:
                while await peer.serve_some():
                    if peer.authorized:
                        return _Admitted(peer, early, tls)
                await early.aclose(Reason.NO_ERROR)
            except RemoteProtocolError as exc:
                await early.aclose(exc.reason, str(exc))
                raise
            except trio.BrokenResourceError:
                await early.aclose(Reason.SESSION_LOST)
                raise
        except BaseException:
            if peer is not None:
                peer.lost()
            await abort_stream(tls)
            raise
        return None

    async def _serve_peer(self, admitted: _Admitted) -> None:
        """Serve a peer that has authenticated, in a session with tasks of its own."""
        peer = admitted.peer
        try:
            async with FlatNursery() as nursery:
                session, stream = admitted.early.take_over()
                nursery.start_soon(session.run, admitted.tls)
                nursery.start_soon(self._forget_when_over, session, peer)
                peer.attach(session, stream, nursery)
                self._peers.add(peer)
                peer.check_keys()  # a change since it was authorized has passed it by
                while await peer.serve_some():
                    pass
                nursery.cancel_scope.cancel()
        finally:
            self._peers.discard(peer)
            peer.lost()  # it may have registered something while its session was ending

    async def _forget_when_over(self, session: Session, peer: ControlPeer) -> None:
        try:
            await session.wait_ended()
        finally:
            peer.lost()


@attrs.frozen
class _Admitted:
    """A control channel whose peer has shown a valid token."""

    peer: ControlPeer
    early: EarlySession
    tls: TLSStream


async def _echo(stream: trio.abc.HalfCloseableStream) -> None:
    """A probe's data round trip."""
    await stream.send_all(await receive_exactly(stream, PROBE_SIZE))
    await stream.aclose()


async def _listen(name: str, binding: Binding) -> list[trio.SocketListener]:
    try:
        return await open_listeners(binding.host or None, binding.port, logger=logger)
    except OSError as exc:
        otherwise = "or choose another (--host, --ports), and say with --public-ports what connection strings carry"
        text, remedy = explain_listen_error(exc, binding.port, otherwise=otherwise)
        raise ConfigurationError(f"port {name} cannot listen on {binding}: {text}", remedy=remedy) from exc


async def run_relay(
    config: RelayConfig,
    *,
    transports: Mapping[str, Transport] | None = None,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[RelayInfo] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled or told to stop; started, with ports and pin, once all ports are open.

    Changes that other processes make in the registry act within a second.

    Args:
        config: see `RelayConfig`.
        transports: by name; None means those that are installed.
        stop: set it for a graceful end: peers are told when to come back, and what is under way gets a second.

    Raises:
        StateError: the state directory is unusable, of another user, another relay's, or from a newer version.
        ConfigurationError: a port cannot be opened, or a certificate not be used.
    """
    await Relay(config, transports=transports).run(stop=stop, task_status=task_status)
