"""A relay with whatever a test says that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import attrs
import trio

from hybridrelay._histogram import HistogramSnapshot
from hybridrelay.relay import (
    ConnectionSnapshot,
    EndSnapshot,
    ListenerSnapshot,
    PlacesSnapshot,
    RelaySnapshot,
    SenderSnapshot,
    SessionSnapshot,
)
from hybridrelay.relay.checkpoints import CheckpointQuery, KeptCheckpoint
from hybridrelay.relay.counters import RelayCounters
from hybridrelay.relay.history import HistoryQuery, Row
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.snapshot import EndedRollSnapshot, Position, RollSnapshot, Sees, UpdateSnapshot
from hybridrelay.relay.usage import PastUsage, Period, Usage

T = TypeVar("T", ListenerSnapshot, SenderSnapshot, SessionSnapshot)
LISTENER_END = EndSnapshot("1" * 32, "192.0.2.1", "tcp", "connector", "primary")
SENDER_END = EndSnapshot("2" * 32, "192.0.2.2", "websocket", "application", "secondary")


def listener(connection: str = "orders", instance: str = "1" * 32) -> ListenerSnapshot:
    return ListenerSnapshot(
        **attrs.asdict(attrs.evolve(LISTENER_END, instance=instance)),
        connection=connection, software="test/1", since=1000.0, sessions=1, bytes_to_client=7, bytes_to_connector=5,
        target="healthy", chosen={"only": 2, "random": 5}, last_chosen="random",
    )  # fmt: skip


def sender(connection: str = "orders", id: str = "3" * 16) -> SenderSnapshot:  # noqa: A002
    return SenderSnapshot(
        **attrs.asdict(SENDER_END), id=id,
        connection=connection, software="test/1", since=1001.0, sessions=1, bytes_to_client=7, bytes_to_connector=5,
    )  # fmt: skip


def session(connection: str = "orders", id: str = "4" * 32) -> SessionSnapshot:  # noqa: A002
    return SessionSnapshot(
        id=id, connection=connection, listener=LISTENER_END, sender=SENDER_END, since=1002.0,
        bytes_to_client=7, bytes_to_connector=5,
    )  # fmt: skip


@attrs.define
class FakeRelay:
    """Implements `LiveRelay`."""

    held_listeners: list[ListenerSnapshot] = attrs.field(factory=list)
    #: How many values were asked for at the same time.
    limits: list[int] = attrs.field(factory=list, kw_only=True)
    held_senders: list[SenderSnapshot] = attrs.field(factory=list)
    held_sessions: list[SessionSnapshot] = attrs.field(factory=list)
    #: What the relay knows of rolls, by hybrid connection and rule, and which keys peers have presented.
    rolls: dict[tuple[str, str], RollSnapshot] = attrs.field(factory=dict, kw_only=True)
    ended_rolls: dict[tuple[str, str], EndedRollSnapshot] = attrs.field(factory=dict, kw_only=True)
    pushed: dict[str, tuple[UpdateSnapshot, ...]] = attrs.field(factory=dict, kw_only=True)
    presented: set[KeyId] = attrs.field(factory=set, kw_only=True)
    numbers: RelaySnapshot = attrs.field(factory=lambda: RelaySnapshot(is_running=True))

    @classmethod
    def with_one_of_each(cls) -> FakeRelay:
        return cls([listener()], [sender()], [session()])

    def snapshot(self, *, sees: Sees = lambda _name: True) -> RelaySnapshot:
        return attrs.evolve(
            self.numbers,
            quotas=tuple(one for one in self.numbers.quotas if sees(one.connection))[:100],
            listeners=len(self.held_listeners),
            senders=len(self.held_senders),
            sessions=len(self.held_sessions),
            pairs=PlacesSnapshot(len(self.held_sessions), 100),
        )

    counters: RelayCounters = attrs.field(factory=RelayCounters)
    names: list[str] = attrs.field(factory=list)

    def connection_names(self) -> list[str]:
        return self.names

    def rendezvous_times(self) -> HistogramSnapshot:
        return HistogramSnapshot((0.1, 1.0), (3, 2, 1), 12.5)

    def loop_lag(self) -> HistogramSnapshot:
        return HistogramSnapshot((0.1,), (0, 0), 0.0)

    def listener_count(self, name: str) -> int:
        return sum(one.connection == name for one in self.held_listeners)

    def has_only_unhealthy_listeners(self, name: str) -> bool:
        targets = {one.target for one in self.held_listeners if one.connection == name}
        return targets == {"unhealthy"}

    def connection(self, name: str) -> ConnectionSnapshot:
        held = self.held_listeners, self.held_senders, self.held_sessions
        listeners, senders, sessions = (sum(one.connection == name for one in ones) for ones in held)
        return ConnectionSnapshot(listeners, senders, sessions, 7, 5)

    def listeners(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[ListenerSnapshot]:
        self.limits.append(limit)
        return _page(self.held_listeners, limit, after, connection)

    def senders(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SenderSnapshot]:
        return _page(self.held_senders, limit, after, connection)

    def sessions(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SessionSnapshot]:
        return _page(self.held_sessions, limit, after, connection)

    #: The checkpoints of audit logs, and what was asked for.
    held_checkpoints: list[KeptCheckpoint] = attrs.field(factory=list, kw_only=True)

    async def checkpoints(self, query: CheckpointQuery) -> list[KeptCheckpoint]:
        found = [
            one
            for one in self.held_checkpoints
            if one.id > query.after
            and query.log_id in ("", one.log_id)
            and query.connection in ("", one.connection)
            and one.connection.startswith(query.prefix)
        ]
        return found[: query.limit]

    async def delete_checkpoints(self, connection: str, log: str) -> int:
        before = len(self.held_checkpoints)
        self.held_checkpoints = [
            one for one in self.held_checkpoints if (one.connection, one.log_id) != (connection, log)
        ]
        return before - len(self.held_checkpoints)

    #: The rows of the history, and what was asked for.
    rows: list[tuple[int, Row]] = attrs.field(factory=list, kw_only=True)
    queries: list[HistoryQuery] = attrs.field(factory=list, kw_only=True)
    #: The rows of a resolution, if they are not the same as those of others.
    rows_of: dict[int, list[tuple[int, Row]]] = attrs.field(factory=dict, kw_only=True)

    async def history(self, query: HistoryQuery) -> list[tuple[int, Row]]:
        await trio.lowlevel.checkpoint()
        self.queries.append(query)
        return self.rows_of.get(query.resolution, self.rows)

    used: dict[str, Usage] = attrs.field(factory=dict, kw_only=True)
    past: list[PastUsage] = attrs.field(factory=list, kw_only=True)
    uses: dict[KeyId, float] = attrs.field(factory=dict, kw_only=True)

    def usage(self, name: str) -> Usage:
        return self.used.get(name, Usage())

    def period(self) -> Period:
        return Period(2026, 11)

    async def past_usage(self, name: str) -> list[PastUsage]:
        await trio.lowlevel.checkpoint()
        return self.past

    def roll(self, connection: str, rule: str) -> RollSnapshot | None:
        return self.rolls.get((connection, rule))

    def ended_roll(self, connection: str, rule: str) -> EndedRollSnapshot | None:
        return self.ended_rolls.get((connection, rule))

    def updates(self, connection: str) -> tuple[UpdateSnapshot, ...]:
        return self.pushed.get(connection, ())

    def is_key_in_use(self, key: KeyId) -> bool:
        return key in self.presented

    def last_use(self, key: KeyId) -> float | None:
        return self.uses.get(key)

    def key_uses(self) -> Mapping[KeyId, float]:
        return self.uses

    def note_use(self, key: KeyId) -> None:
        self.uses[key] = 3000.0

    def drain(self) -> bool:
        if self.numbers.is_running and self.numbers.draining_since is None:
            self.numbers = attrs.evolve(self.numbers, draining_since=2000.0)
        return self.numbers.is_running

    def undo_drain(self) -> bool:
        if self.numbers.is_running:
            self.numbers = attrs.evolve(self.numbers, draining_since=None)
        return self.numbers.is_running

    def drop_listener(self, connection: str, instance: str) -> bool:
        return _drop(self.held_listeners, connection, instance)

    def drain_listener(self, connection: str, instance: str, *, on: bool) -> bool:
        for number, one in enumerate(self.held_listeners):
            if (one.connection, one.instance) == (connection, instance) and one.draining is not on:
                self.held_listeners[number] = attrs.evolve(one, draining=on)
                return True
        return False

    def drop_sender(self, connection: str, sender: str) -> bool:
        return _drop(self.held_senders, connection, sender)

    def drop_session(self, connection: str, session: str) -> bool:
        return _drop(self.held_sessions, connection, session)


def _page(held: list[T], limit: int, after: Position | None, connection: str | None) -> list[T]:
    found = sorted(held, key=lambda one: (one.connection, one.key))
    rest = [one for one in found if connection in (None, one.connection)]
    return [one for one in rest if after is None or (one.connection, one.key) > after][:limit]


def _drop(held: list[T], connection: str, key: str) -> bool:
    before = len(held)
    held[:] = [one for one in held if (one.connection, one.key) != (connection, key)]
    return len(held) < before
