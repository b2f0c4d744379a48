"""The relay: connects its parts, and runs them."""

# This module is long because every part is made here.

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import attrs
import trio

from ..._check_type import check_type
from ..._descriptors import descriptor_limit
from ..._log_limit import report_left_out
from ..._nursery import FlatNursery, wait_stop
from ..._statistics import reporting
from ..._threads import run_in_thread
from ..._value import Value
from ..._version import __version__
from ...abc import Transport
from ...connectivity.discovery import all_ports, discover
from ...errors import ConfigurationError
from ...events.log import logged_events
from ...events.program import ProgramReady, ProgramStarted, ProgramStopping
from ...events.relay_resources import FewDescriptors, FewPairs
from ...events.stream import EventStream
from ..config import Binding, RelayConfig, RelayInfo
from ..core.places import Places
from ..directory.directory import Directory
from ..directory.record import DirectoryRecorder
from ..edge.authentication import Authenticator
from ..edge.certificates import CertificateFiles, RelayCertificates
from ..edge.permits import HandshakeScheduler
from ..edge.ports import Ports
from ..edge.requests import RequestReader
from ..edge.slots import Slots
from ..limits import (
    LAYERED_TLS,
    NESTED_HANDSHAKES,
    SWEEP_SECONDS,
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
from .checkpoints import CheckpointService
from .claims import ClaimService
from .connections import ConnectionService, ControlPeers
from .history import HistoryService
from .joined import JoinedService
from .live import RETRY_AFTER_SECONDS, MaybeRunningRelay, RunningRelay
from .places import places_for_control_channels, places_for_pairs
from .rolls import RollService
from .takeover import Takeover, listen_for_workers
from .updates import UpdateService
from .usage import UsageService
from .watcher import StoreWatcher
from .workers import PairRetention, Workers, open_workers

__all__ = ["STOP_GRACE_SECONDS", "Relay", "run_relay"]

#: How long a relay that is stopping lets open connections continue (seconds).
STOP_GRACE_SECONDS = 1.0
#: The fields of `RelayConfig` that can be changed while the relay runs.
_UPDATED = (
    "bindings",
    "public_ports",
    "tls_certificate",
    "tls_key",
    "proxy_protocol_from",
    "trusted_proxies",
    "client_addresses",
)


@attrs.frozen
class _Parts(Value):
    """The parts of a running relay."""

    certificates: RelayCertificates
    broker: BrokerService
    peers: ControlPeers
    slots: Slots
    scheduler: HandshakeScheduler
    connections: ConnectionService
    running: RunningRelay
    claims: ClaimService
    checkpoints: CheckpointService
    ports: Ports

    def statistics(self) -> dict[str, int]:
        """Return their current statistics, with the names in docs/operating.md."""
        return {
            "unauthenticated": len(self.slots),
            "waiting_handshakes": self.scheduler.waiting,
            "peers": len(self.peers),
            **self.broker.statistics(),
        }

    def changed(self, change: StoreChange) -> None:
        """Handle a change to the store."""
        self.broker.update(change)
        self.peers.check_keys({key.connection for key in change.ended} | change.disabled)
        self.running.updates.changed(change)


class Relay:
    """A relay. `run_relay` is sufficient if nothing has to be changed while it is running.

    Args:
        config: see `RelayConfig`.
        transports: the transports by name; None means those that are installed.
        clock: returns seconds since 1970.
        events: the stream to which events are published; None means the log.
        directory: the directory to which the relay adds its listeners, if there is one.

    Raises:
        ConfigurationError: the configuration names no port, or one that no transport has.
        TypeError: `config` is not a `RelayConfig`.
    """

    def __init__(
        self,
        config: RelayConfig,
        *,
        transports: Mapping[str, Transport] | None = None,
        clock: Callable[[], float] = time.time,
        events: EventStream | None = None,
        directory: Directory | None = None,
    ) -> None:
        self._config = check_type(config, RelayConfig, "RelayConfig(state_dir, {'http': (Binding('::', 80),)})")
        self._clock = clock
        self._events = logged_events() if events is None else events
        self._directory = directory
        transports = discover() if transports is None else transports
        self._transports = transports
        self._ports = all_ports(transports)
        self._check_ports(config)
        if config.workers and sys.platform != "linux":
            raise ConfigurationError("only Linux has worker processes", remedy="leave out --workers, or use 0")
        #: The parts of the relay while it runs, otherwise None.
        self._parts: _Parts | None = None
        self._workers: Workers | None = None
        #: The current state of the relay, and what an administrator can end.
        self.live = MaybeRunningRelay()
        #: Where the relay can be reached now; None until it serves.
        self.info: RelayInfo | None = None
        self._updating = trio.Lock()

    def _check_ports(self, config: RelayConfig) -> None:
        for name in (*config.bindings, *config.public_ports):
            if name not in self._ports:
                known = ", ".join(self._ports)
                raise ConfigurationError(f"unknown port {name!r}", remedy=f"known are: {known}")
        if not any(config.bindings.values()):
            raise ConfigurationError("all ports are off", remedy="open at least one with --ports")

    async def run(
        self, *, stop: trio.Event | None = None, task_status: trio.TaskStatus[RelayInfo] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `run_relay`."""
        config = self._config
        self._events.publish(ProgramStarted(role="relay", version=__version__))
        with (
            occupy_state_directory(config.state_dir),
            SQLiteStore.open(config.state_dir, events=self._events) as store,
            SQLiteStore.open(config.state_dir, events=self._events) as own_store,
        ):
            certificates = self._load_certificates()
            relay_id = load_or_create_relay_id(config.state_dir, events=self._events)
            with self._in_directory(relay_id), self._listening_for_workers() as listener:
                retention = (
                    PairRetention(config.keep_pairs, config.state_dir) if listener is not None else PairRetention()
                )
                joined = JoinedService(config.state_dir, retention.seconds, clock=self._clock, events=self._events)
                async with (
                    joined.subscribed(),  # also while the relay stops, until the last pair has ended
                    open_workers(
                        config.workers, self._events, retention=retention, takes_over=listener is not None
                    ) as workers,
                    FlatNursery() as nursery,
                ):
                    self._workers = workers
                    watcher = StoreWatcher(store, events=self._events)
                    await nursery.start(watcher.run, self._changed)
                    ports = Ports(self._transports, self._events)
                    parts = self._parts = self._assemble(
                        watcher, certificates, relay_id, workers, own_store, ports, joined
                    )
                    try:
                        with (
                            reporting(parts),
                            self._events.subscribed(self.live.counters),
                            self._events.subscribed(parts.running.history),
                            self._events.subscribed(parts.running.usage),
                        ):
                            async with ports:
                                await self._serve(nursery, parts, stop, listener, task_status)
                    finally:
                        self._parts = self.live.running = self.info = None
                        parts.broker.close()
                        await parts.running.history.finish()
                        await parts.running.usage.finish()
                        await parts.checkpoints.finish()

    @contextmanager
    def _in_directory(self, relay_id: bytes) -> Iterator[None]:
        """Keep the directory of listeners, if there is one, up to date during the block."""
        if self._directory is None:
            yield
            return
        self._directory.remove_relay(relay_id)  # entries of an earlier run
        try:
            with self._events.subscribed(DirectoryRecorder(self._directory, relay_id)):
                yield
        finally:
            self._directory.remove_relay(relay_id)

    @contextmanager
    def _listening_for_workers(self) -> Iterator[socket.socket | None]:
        """Listen for workers of the previous main process during the block, even if the workers of this process keep
        no pairs: only a main process that has taken over their pairs can end them."""
        if sys.platform != "linux":
            yield None
            return
        with listen_for_workers(self._config.state_dir, self._events) as listener:
            yield listener

    def kill_workers(self) -> None:
        """Kill the workers of a relay that is running or stopping. The kernel then resets their connections. For
        programs that end immediately, without ending `run`. Never waits."""
        if self._workers is not None:
            self._workers.kill()

    def _changed(self, change: StoreChange) -> None:
        if self._parts is not None:  # None while the relay is ending
            self._parts.changed(change)

    def _assemble(
        self,
        watcher: StoreWatcher,
        certificates: RelayCertificates,
        relay_id: bytes,
        workers: Workers,
        own_store: SQLiteStore,
        ports: Ports,
        joined: JoinedService,
    ) -> _Parts:
        """Make the parts of the relay, each with its share of the descriptors."""
        descriptors = descriptor_limit()
        shares = Shares.of(descriptors)
        slots = Slots(unauthenticated_slots(descriptors))
        scheduler = HandshakeScheduler()
        if slots.total < UNAUTHENTICATED_SLOTS:
            self._events.publish(FewDescriptors(descriptors=descriptors or 0, unauthenticated=slots.total))
        pairs = self._places_for_pairs(shares, descriptors)
        control_channels = places_for_control_channels(shares.control_channels)
        broker = BrokerService(
            watcher.connections,
            editions=watcher.editions,
            refresh=watcher.refresh,
            clock=self._clock,
            pairs=pairs,
            control_channels=control_channels,
            max_pipes=shares.pipes,
            workers=workers,
            relay_id=relay_id,
            events=self._events,
        )
        limiter = trio.CapacityLimiter(1)
        claims = ClaimService(own_store, limiter, self._events, clock=self._clock)
        checkpoints = CheckpointService(self._config.state_dir, clock=self._clock, events=self._events)
        peers = ControlPeers(
            broker,
            secrets.token_hex(16),
            lambda: certificates.outer_pins,
            claims,
            self._config.client_addresses,
            checkpoints,
        )
        rolls = RollService(
            broker,
            lambda: peers,
            own_store,
            limiter,
            clock=self._clock,
            events=self._events,
            state_dir=self._config.state_dir,
        )
        peers.key_answered = rolls.answered
        updates = UpdateService(broker, lambda: peers, own_store, limiter, clock=self._clock, events=self._events)
        peers.update_answered = updates.answered
        authenticator = Authenticator(
            certificates=certificates,
            slots=slots,
            nested=Slots(max(1, int(slots.total * NESTED_HANDSHAKES))),
            layered=Slots(max(1, int(slots.total * LAYERED_TLS))),
            scheduler=scheduler,
            requests=RequestReader(broker.use_ticket, lambda proof: watcher.keys.prove(proof, self._clock())),
            admit=peers.admit,
            abandon=broker.abandon,
            events=self._events,
            trusted_proxies=self._config.trusted_proxies,
        )
        connections = ConnectionService(
            authenticator, broker, peers, self._events, proxies=self._config.proxy_protocol_from
        )
        config = self._config
        usage = UsageService(config.state_dir, broker, clock=self._clock, events=self._events)
        history = HistoryService(
            config.state_dir, broker, clock=self._clock, events=self._events, max_bytes=config.max_history_bytes
        )
        running = self.live.running = RunningRelay(
            broker,
            peers,
            certificates,
            pairs,
            control_channels,
            slots,
            scheduler,
            history,
            usage,
            rolls,
            updates,
            checkpoints,
            joined,
            watcher,
            clock=self._clock,
        )
        return _Parts(certificates, broker, peers, slots, scheduler, connections, running, claims, checkpoints, ports)

    def _places_for_pairs(self, shares: Shares, descriptors: int | None) -> Places[str]:
        config = self._config
        if config.max_pairs is not None and config.max_pairs > shares.pairs:
            self._events.publish(FewPairs(descriptors=descriptors or 0, pairs=shares.pairs, wanted=config.max_pairs))
        return places_for_pairs(
            min(shares.pairs, config.max_pairs or shares.pairs),
            per_connection=config.max_pairs_per_connection,
            per_key=config.max_pairs_per_key,
        )

    async def _serve(
        self,
        nursery: trio.Nursery,
        parts: _Parts,
        stop: trio.Event | None,
        workers_listener: socket.socket | None,
        task_status: trio.TaskStatus[RelayInfo],
    ) -> None:
        """Open all ports, and serve until `stop` is set. Connections are served by tasks in `nursery`."""
        nursery.start_soon(parts.broker.expire)
        nursery.start_soon(self._sweep, parts.peers)
        nursery.start_soon(parts.scheduler.run)
        nursery.start_soon(parts.certificates.watch)
        nursery.start_soon(report_left_out)
        nursery.start_soon(self.live.lag.measure)
        nursery.start_soon(parts.running.announce_drains)
        nursery.start_soon(parts.claims.run)
        nursery.start_soon(parts.checkpoints.run)
        nursery.start_soon(parts.running.rolls.run)
        nursery.start_soon(parts.running.updates.run)
        take = None
        if sys.platform == "linux":
            await nursery.start(parts.connections.watch_unauthenticated, nursery)
            take = parts.connections.take
        ports = parts.ports
        await ports.open(self._config.bindings, self._config.state_dir)
        await parts.running.usage.load()
        await parts.running.joined.load()
        nursery.start_soon(parts.running.usage.run)
        nursery.start_soon(parts.running.history.run)
        nursery.start_soon(parts.running.joined.run)
        taking_over = trio.CancelScope()
        if workers_listener is not None:
            assert self._workers is not None
            takeover = Takeover(workers_listener, parts.broker, self._workers, self._events)
            nursery.start_soon(takeover.run, nursery, taking_over)
        # The tasks that accept connections end before their sockets are closed.
        async with FlatNursery() as accepting:
            await accepting.start(partial(ports.accept, parts.connections.accepted, nursery, take=take))
            self.info = info = self._info(parts)
            save_public_ports(self._config.state_dir, info.public_ports, events=self._events)
            addresses = tuple(str(one) for bindings in info.bound.values() for one in bindings)
            self._events.publish(ProgramReady(role="relay", addresses=addresses))
            task_status.started(info)
            await wait_stop(stop)
            self._events.publish(ProgramStopping(role="relay", open=len(parts.peers)))
            await parts.peers.announce_stop(RETRY_AFTER_SECONDS, STOP_GRACE_SECONDS)
            accepting.cancel_scope.cancel()
        taking_over.cancel()
        if self._workers is not None:
            await self._workers.keep_pairs()
        nursery.cancel_scope.cancel()

    def _info(self, parts: _Parts) -> RelayInfo:
        bound = MappingProxyType(dict(parts.ports.bound))
        return RelayInfo(bound, parts.certificates.own_pin, self._public_ports(bound))

    def _public_ports(self, bound: Mapping[str, tuple[Binding, ...]]) -> dict[str, int | None]:
        """Return the ports for connection strings, by name: those that differ from the defaults. None: it is off."""
        ports: dict[str, int | None] = {}
        for name, port in self._ports.items():
            number: int | None = bound[name][0].port if name in bound else None
            number = self._config.public_ports.get(name, number)
            if number != port.default:
                ports[name] = number
        return ports

    def _load_certificates(self) -> RelayCertificates:
        config = self._config
        return RelayCertificates.load(
            config.state_dir,
            _public_files(config),
            now=self._clock(),
            outer_needed=self._outer_needed(config),
            events=self._events,
        )

    def _outer_needed(self, config: RelayConfig) -> bool:
        """Return whether a port with outer TLS is open."""
        return any(self._ports[name].outer_tls for name, bindings in config.bindings.items() if bindings)

    async def reload_certificates(self) -> bool:
        """Read `RelayConfig.tls_certificate` and its key again, and use them for new connections.

        Open connections are not affected. A running relay also notices changed files by itself, within half a minute.
        If cancelled, the earlier certificate stays in force.

        Returns:
            Whether another certificate is in force now. False if there is none to be reloaded, or the relay is not
            serving yet.

        Raises:
            ConfigurationError: the certificate cannot be used, or does not belong to its key. The earlier one stays
                in force.
        """
        return self._parts is not None and await self._parts.certificates.reload()

    async def update(self, config: RelayConfig) -> tuple[str, ...]:
        """Use a changed configuration from now on, as far as that is possible without a restart: the ports, the
        certificate, the proxies in front of the relay, and what connectors are told about the addresses of clients.
        Open connections are not affected, not even those that arrived on a port that is closed.

        New ports are opened before removed ones are closed. `info` says where the relay can be reached afterwards.

        Returns:
            The names of the other fields that have changed, and take effect only after a restart.

        Raises:
            ConfigurationError: a port cannot be opened, or a certificate cannot be used. Nothing was changed, except
                that ports that the message names may be closed; see `Ports.change`.
            TypeError: `config` is not a `RelayConfig`.

        If cancelled, either nothing was changed; or the relay listens on old and new addresses, and nothing else was
        changed; or everything was. Several calls run one after the other.
        """
        check_type(config, RelayConfig, "RelayConfig(...)")
        self._check_ports(config)
        used = {name: getattr(config, name) for name in _UPDATED}
        async with self._updating:
            now = attrs.evolve(self._config, **used)
            parts = self._parts
            if parts is not None and self.info is not None:
                outer_needed = self._outer_needed(now)
                use_certificates = await parts.certificates.prepare(_public_files(now), outer_needed=outer_needed)
                if outer_needed and parts.certificates.outer_context is None:
                    # The first connections on the new port may arrive before it is certain that all ports are open.
                    (await parts.certificates.prepare(None, outer_needed=True))()
                await parts.ports.change(now.bindings)
                use_certificates()
                self._config = now
                parts.connections.use_proxies(now.proxy_protocol_from, now.trusted_proxies)
                parts.peers.client_addresses = now.client_addresses
                self.info = info = self._info(parts)
                # The file is short, and must not name ports that are closed.
                with trio.CancelScope(shield=True):
                    await run_in_thread(save_public_ports, now.state_dir, info.public_ports)
            else:
                self._config = now
        return tuple(
            one.name for one in attrs.fields(RelayConfig) if getattr(now, one.name) != getattr(config, one.name)
        )

    async def _sweep(self, peers: ControlPeers) -> None:
        """End expired registrations, and control channels whose peers read nothing."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            await peers.sweep(self._clock())


def _public_files(config: RelayConfig) -> CertificateFiles | None:
    return None if config.tls_certificate is None else CertificateFiles(config.tls_certificate, config.tls_key)


async def run_relay(
    config: RelayConfig,
    *,
    transports: Mapping[str, Transport] | None = None,
    events: EventStream | None = None,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[RelayInfo] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until cancelled or until `stop` is set.

    `task_status.started` is called with the ports and the pin when all ports are open. Changes that other processes
    make to the store take effect within a second. If cancelled, all connections are closed immediately.

    Args:
        config: see `RelayConfig`.
        transports: the transports by name; None means those that are installed.
        events: the stream to which events are published; None means the log.
        stop: set it to stop the relay gracefully: peers are told when to reconnect, and open connections may continue
            for one second. With `RelayConfig.keep_pairs`, workers then keep their pairs for the next main
            process.

    Raises:
        StateError: the state directory is unusable, belongs to another user, is used by another relay, or was written
            by a newer version.
        ConfigurationError: a port cannot be opened, the configuration names no port or an unknown one, or a
            certificate cannot be used.
        TypeError: `config` is not a `RelayConfig`.
    """
    await Relay(config, transports=transports, events=events).run(stop=stop, task_status=task_status)
