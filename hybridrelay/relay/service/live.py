"""The current state of a relay, as values, and the ways in which administrators end parts of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice

import attrs
import trio

from ..._histogram import Histogram, HistogramSnapshot
from ..._loop_lag import LoopLag
from ..._value import Value
from ..checkpoints import CheckpointQuery, KeptCheckpoint
from ..core.listener import Listener
from ..core.pairs import Pair, PairEnd, Traffic
from ..core.places import Places
from ..counters import RelayCounters
from ..edge.certificates import RelayCertificates
from ..edge.permits import HandshakeScheduler
from ..edge.slots import Slots
from ..history import HistoryQuery, Row
from ..model import KeyId
from ..snapshot import (
    ConnectionSnapshot,
    EndedRollSnapshot,
    EndSnapshot,
    FileProblem,
    ListenerSnapshot,
    PlacesSnapshot,
    Position,
    QuotaSnapshot,
    RelaySnapshot,
    RollSnapshot,
    Sees,
    SenderSnapshot,
    SessionSnapshot,
    UpdateSnapshot,
)
from ..usage import TOTAL, PastUsage, Period, Usage
from .broker import RENDEZVOUS_BUCKETS, BrokerService
from .checkpoints import CheckpointService
from .connections import ControlPeers
from .history import HistoryService
from .joined import JoinedService
from .listener_handle import ListenerHandle, SenderHandle
from .rolls import RollService
from .updates import UpdateService
from .usage import UsageService
from .watcher import StoreWatcher

__all__ = ["RETRY_AFTER_SECONDS", "MaybeRunningRelay", "RunningRelay"]

#: After this time, peers may return to a relay that stops or drains (seconds). They add jitter. Short, because a
#: drain may be undone, and because a client without another relay resumes its sessions here.
RETRY_AFTER_SECONDS = 1.0
#: How many peers are notified before other tasks run.
_AT_A_TIME = 100

#: How many quotas that are nearly used up are shown.
_MAX_QUOTAS = 100
#: How many new keys that programs have only in memory are shown.
_MAX_UNKEPT = 100


@attrs.frozen
class RunningRelay(Value):
    """The state of a running relay. The methods are those of `LiveRelay`. `clock` returns seconds since 1970."""

    broker: BrokerService
    peers: ControlPeers
    certificates: RelayCertificates
    pairs: Places[str]
    control_channels: Places[ListenerHandle]
    slots: Slots
    scheduler: HandshakeScheduler
    history: HistoryService
    usage: UsageService
    rolls: RollService
    updates: UpdateService
    checkpoints: CheckpointService
    joined: JoinedService
    watcher: StoreWatcher
    clock: Callable[[], float]

    def snapshot(self, *, sees: Sees = lambda _name: True) -> RelaySnapshot:
        """See `LiveRelay.snapshot`."""
        broker = self.broker
        quotas = (one for one in broker.core.quotas.most_used() if sees(one[0]))
        return RelaySnapshot(
            listeners=len(broker.listeners.index),
            senders=len(broker.senders),
            sessions=len(broker.pairs),
            open_rendezvous=broker.open_rendezvous,
            unauthenticated=PlacesSnapshot(len(self.slots), self.slots.total),
            waiting_handshakes=self.scheduler.waiting,
            pairs=PlacesSnapshot(len(self.pairs), self.pairs.total),
            control_channels=PlacesSnapshot(len(self.control_channels), self.control_channels.total),
            certificates=self.certificates.snapshot(),
            is_running=True,
            draining_since=broker.draining_since,
            file_problems=tuple(one for one in self._file_problems if one is not None),
            usage=self.usage.machine.of(TOTAL),
            quotas=tuple(
                QuotaSnapshot(name, kind.value, used, limit)
                for name, kind, used, limit in islice(quotas, _MAX_QUOTAS)
            ),
            unkept_keys=tuple(islice((one for one in self.rolls.unkept() if sees(one.connection)), _MAX_UNKEPT)),
        )

    @property
    def _file_problems(self) -> tuple[FileProblem | None, ...]:
        services = (self.watcher, self.history, self.usage, self.checkpoints, self.joined, self.rolls)
        return tuple(one.problem for one in services)

    def listener_count(self, name: str) -> int:
        """See `LiveRelay.listener_count`."""
        return self.broker.listeners.index.count(name)

    def has_only_unhealthy_listeners(self, name: str) -> bool:
        """See `LiveRelay.has_only_unhealthy_listeners`."""
        unhealthy = self.broker.listeners.unhealthy(name)
        return 0 < unhealthy == self.broker.listeners.index.count(name)

    def connection(self, name: str) -> ConnectionSnapshot:
        """See `LiveRelay.connection`."""
        broker = self.broker
        traffic = broker.pairs.of_connection(name)
        return ConnectionSnapshot(
            broker.listeners.index.count(name),
            broker.senders.count(name),
            traffic.pairs,
            traffic.to_client,
            traffic.to_connector,
            broker.listeners.unhealthy(name),
        )

    def listeners(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[ListenerSnapshot]:
        """See `LiveRelay.listeners`."""
        found = self.broker.listeners.index.page(limit, after=after, connection=connection)
        return [self._listener(one) for _, one in found]

    def senders(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SenderSnapshot]:
        """See `LiveRelay.senders`."""
        found = self.broker.senders.page(limit, after=after, connection=connection)
        # A client may have many control channels with the same instance. Its pairs are added up once for all of them.
        positions = {(name, one.instance) for (name, _), one in found}
        traffic = {position: self.broker.pairs.of_instance(*position) for position in positions}
        return [self._sender(*position, one, traffic[position[0], one.instance]) for position, one in found]

    def sessions(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SessionSnapshot]:
        """See `LiveRelay.sessions`."""
        found = self.broker.pairs.index.page(limit, after=after, connection=connection)
        return [self._session(one) for _, one in found]

    async def announce_drains(self) -> None:
        """Whenever a drain starts, ask all peers to prefer other relays. Runs until cancelled."""
        next_drain = self.broker.next_drain
        while True:
            await next_drain.wait()
            next_drain = self.broker.next_drain  # taken now: it may start before all peers were asked
            for number, peer in enumerate(self.peers):
                if self.broker.draining_since is None:
                    break
                peer.announce_draining(RETRY_AFTER_SECONDS)
                if number % _AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()

    def drop_listener(self, connection: str, instance: str) -> bool:
        """See `LiveRelay.drop_listener`."""
        return self.broker.drop_listener(connection, instance)

    def drain_listener(self, connection: str, instance: str, *, on: bool) -> bool:
        """See `LiveRelay.drain_listener`."""
        return self.broker.drain_listener(connection, instance, on=on)

    def drop_sender(self, connection: str, sender: str) -> bool:
        """See `LiveRelay.drop_sender`."""
        return self.broker.drop_sender(connection, sender)

    def drop_session(self, connection: str, session: str) -> bool:
        """See `LiveRelay.drop_session`."""
        return self.broker.drop_pair(connection, session)

    def _listener(self, one: Listener[ListenerHandle]) -> ListenerSnapshot:
        traffic = self.broker.pairs.of_instance(one.connection, one.instance)
        chosen = self.broker.listeners.chosen(one)
        return ListenerSnapshot(
            instance=one.instance,
            address=one.address,
            transport=one.transport,
            rule=one.key.rule,
            slot=one.key.slot.value,
            connection=one.connection,
            software=one.software,
            since=self._time_of_day(self.broker.listeners.registered_since(one)),
            sessions=traffic.pairs,
            bytes_to_client=traffic.to_client,
            bytes_to_connector=traffic.to_connector,
            draining=self.broker.listeners.is_draining(one),
            target=self.broker.listeners.target_of(one).value,
            chosen={why.value: number for why, number in chosen.counts.items()},
            last_chosen=None if chosen.last is None else chosen.last.value,
        )

    def _sender(self, connection: str, sender_id: str, one: SenderHandle, traffic: Traffic) -> SenderSnapshot:
        rule, slot = _rule_and_slot(one.key_for(connection))
        return SenderSnapshot(
            id=sender_id,
            instance=one.instance,
            address=one.address,
            transport=one.transport,
            rule=rule,
            slot=slot,
            connection=connection,
            software=one.software,
            since=self._time_of_day(one.since),
            sessions=traffic.pairs,
            bytes_to_client=traffic.to_client,
            bytes_to_connector=traffic.to_connector,
        )

    def _session(self, pair: Pair) -> SessionSnapshot:
        return SessionSnapshot(
            id=pair.id,
            connection=pair.connection,
            listener=_end(pair.listener),
            sender=_end(pair.sender),
            since=self._time_of_day(pair.since),
            bytes_to_client=pair.moved.to_client,
            bytes_to_connector=pair.moved.to_connector,
        )

    def _time_of_day(self, since: float) -> float:
        """Convert a time on Trio's clock to seconds since 1970."""
        return self.clock() - (trio.current_time() - since)


class MaybeRunningRelay:
    """The state of a relay that may be running. Implements `LiveRelay`."""

    def __init__(self) -> None:
        """Begin with a relay that is not running yet."""
        #: The running relay; None while it is not running.
        self.running: RunningRelay | None = None
        #: Subscribes to the events while the relay is running.
        self.counters = RelayCounters()
        self.lag = LoopLag()

    def snapshot(self, *, sees: Sees = lambda _name: True) -> RelaySnapshot:
        """See `LiveRelay.snapshot`."""
        return RelaySnapshot() if self.running is None else self.running.snapshot(sees=sees)

    def listener_count(self, name: str) -> int:
        """See `LiveRelay.listener_count`."""
        return 0 if self.running is None else self.running.listener_count(name)

    def has_only_unhealthy_listeners(self, name: str) -> bool:
        """See `LiveRelay.has_only_unhealthy_listeners`."""
        return self.running is not None and self.running.has_only_unhealthy_listeners(name)

    def connection(self, name: str) -> ConnectionSnapshot:
        """See `LiveRelay.connection`."""
        return ConnectionSnapshot() if self.running is None else self.running.connection(name)

    def listeners(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[ListenerSnapshot]:
        """See `LiveRelay.listeners`."""
        return [] if self.running is None else self.running.listeners(limit, after=after, connection=connection)

    def senders(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SenderSnapshot]:
        """See `LiveRelay.senders`."""
        return [] if self.running is None else self.running.senders(limit, after=after, connection=connection)

    def sessions(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SessionSnapshot]:
        """See `LiveRelay.sessions`."""
        return [] if self.running is None else self.running.sessions(limit, after=after, connection=connection)

    def connection_names(self) -> list[str]:
        """See `LiveRelay.connection_names`."""
        return [] if self.running is None else self.running.broker.connection_names

    def roll(self, connection: str, rule: str) -> RollSnapshot | None:
        """See `LiveRelay.roll`."""
        return None if self.running is None else self.running.rolls.snapshot(connection, rule)

    def ended_roll(self, connection: str, rule: str) -> EndedRollSnapshot | None:
        """See `LiveRelay.ended_roll`."""
        return None if self.running is None else self.running.rolls.ended(connection, rule)

    def updates(self, connection: str) -> tuple[UpdateSnapshot, ...]:
        """See `LiveRelay.updates`."""
        return () if self.running is None else self.running.updates.snapshot(connection)

    def is_key_in_use(self, key: KeyId) -> bool:
        """See `LiveRelay.is_key_in_use`."""
        return self.running is not None and self.running.rolls.is_in_use(key)

    def rendezvous_times(self) -> HistogramSnapshot:
        """See `LiveRelay.rendezvous_times`."""
        times = Histogram(RENDEZVOUS_BUCKETS) if self.running is None else self.running.broker.rendezvous_times
        return times.snapshot()

    def loop_lag(self) -> HistogramSnapshot:
        """See `LiveRelay.loop_lag`."""
        return self.lag.snapshot()

    def usage(self, name: str) -> Usage:
        """See `LiveRelay.usage`."""
        return Usage() if self.running is None else self.running.usage.machine.of(name)

    def period(self) -> Period:
        """See `LiveRelay.period`."""
        return Period.at(time.time()) if self.running is None else self.running.usage.machine.period

    async def past_usage(self, name: str) -> list[PastUsage]:
        """See `LiveRelay.past_usage`."""
        return [] if self.running is None else await self.running.usage.past(name)

    def last_use(self, key: KeyId) -> float | None:
        """See `LiveRelay.last_use`."""
        return None if self.running is None else self.running.usage.machine.last_use(key)

    def key_uses(self) -> Mapping[KeyId, float]:
        """See `LiveRelay.key_uses`."""
        return {} if self.running is None else self.running.usage.machine.key_uses()

    def note_use(self, key: KeyId) -> None:
        """See `LiveRelay.note_use`."""
        if self.running is not None:
            self.running.usage.machine.used(key, self.running.clock())

    async def history(self, query: HistoryQuery) -> list[tuple[int, Row]]:
        """See `LiveRelay.history`."""
        return [] if self.running is None else await self.running.history.read(query)

    async def checkpoints(self, query: CheckpointQuery) -> list[KeptCheckpoint]:
        """See `LiveRelay.checkpoints`."""
        return [] if self.running is None else await self.running.checkpoints.read(query)

    async def delete_checkpoints(self, connection: str, log: str) -> int:
        """See `LiveRelay.delete_checkpoints`."""
        return 0 if self.running is None else await self.running.checkpoints.delete(connection, log)

    def drain(self) -> bool:
        """See `LiveRelay.drain`."""
        return self._set_draining(on=True)

    def undo_drain(self) -> bool:
        """See `LiveRelay.undo_drain`."""
        return self._set_draining(on=False)

    def _set_draining(self, *, on: bool) -> bool:
        if self.running is None:
            return False
        self.running.broker.set_draining(on=on)
        return True

    def drop_listener(self, connection: str, instance: str) -> bool:
        """See `LiveRelay.drop_listener`."""
        return self.running is not None and self.running.drop_listener(connection, instance)

    def drain_listener(self, connection: str, instance: str, *, on: bool) -> bool:
        """See `LiveRelay.drain_listener`."""
        return self.running is not None and self.running.drain_listener(connection, instance, on=on)

    def drop_sender(self, connection: str, sender: str) -> bool:
        """See `LiveRelay.drop_sender`."""
        return self.running is not None and self.running.drop_sender(connection, sender)

    def drop_session(self, connection: str, session: str) -> bool:
        """See `LiveRelay.drop_session`."""
        return self.running is not None and self.running.drop_session(connection, session)


def _end(end: PairEnd) -> EndSnapshot:
    return EndSnapshot(end.instance, end.address, end.transport, *_rule_and_slot(end.key))


def _rule_and_slot(key: KeyId | None) -> tuple[str, str]:
    return ("", "") if key is None else (key.rule, key.slot.value)
