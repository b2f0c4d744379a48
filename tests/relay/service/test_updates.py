"""A relay gives an update to the programs that it is for, and counts only their answers to it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from hybridrelay.errors import StateError
from hybridrelay.events import Event, EventStream
from hybridrelay.events.relay_changes import UpdateAnswered
from hybridrelay.protocol import control
from hybridrelay.protocol.control import PeerRole, UpdateKept, UpdateState
from hybridrelay.relay.model import StoreChange
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.service.updates import UpdateService
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.updates import StoredUpdate
from hybridrelay.security import Role, Rule

from ..peers import HOST, FarEnd, client_hello, hello_of, make_broker, token_for

NOW, EXPIRES = 1_800_000_000.0, 1_800_000_100.0


@pytest.fixture
def store(registry: SQLiteStore, rules: Sequence[Rule]) -> SQLiteStore:
    registry.create("db", [HOST], rules)
    return registry


class Updates:
    """The service, with what was published, and a clock that the test sets."""

    def __init__(self, store: SQLiteStore, broker: BrokerService, peers: list[ControlPeer]) -> None:
        self.now = NOW
        self.events: list[Event] = []
        self._store = store
        self._seen = store.snapshot()
        self.service = UpdateService(
            broker, lambda: peers, store, trio.CapacityLimiter(1),
            clock=lambda: self.now, events=EventStream(self.events.append),
        )  # fmt: skip

    async def look(self) -> None:
        """Read what has changed, and give updates, once."""
        seen, self._seen = self._seen, self._store.snapshot()
        self.service.changed(StoreChange.between(seen, self._seen))
        await self.service._read()
        await self.service._look()

    def known(self, name: str = "db") -> list[tuple[int, int, int]]:
        """The sequence of each update of a hybrid connection, and how many programs were seen and have kept it."""
        return [(one.sequence, one.recipients, one.kept) for one in self.service.snapshot(name)]


def an_update(sequence: int, role: Role = Role.CONNECTOR) -> StoredUpdate:
    return StoredUpdate("db", role, "", sequence, b"sealed %d" % sequence, 0.0, EXPIRES)


def given(sequence: int) -> control.Update:
    return control.Update("db", sequence, base64.b64encode(b"sealed %d" % sequence).decode())


async def connect(
    broker: BrokerService, nursery: trio.Nursery, hello: control.Hello, rule: Rule
) -> tuple[FarEnd, control.Check]:
    """A program that has presented a valid token; and what it may ask again, which is answered at once."""
    program = await FarEnd.connect(broker, nursery, hello)
    await program.hear()
    check = control.Check(1, "db", token_for(rule))
    assert isinstance(await program.ask(check), control.Checked)
    return program, check


async def test_an_update_is_given_to_its_side_until_it_expires_and_once(
    store: SQLiteStore, rules: Sequence[Rule], nursery: trio.Nursery
) -> None:
    broker = make_broker(store)
    connector, connector_check = await connect(broker, nursery, hello_of("0" * 64), rules[0])
    client, client_check = await connect(broker, nursery, client_hello(), rules[1])
    updates = Updates(store, broker, [connector.peer, client.peer])
    await updates.look()
    store.put_update(an_update(7))
    await updates.look()
    await updates.look()
    assert await connector.hear() == given(7)
    assert updates.known() == [(7, 1, 0)]
    # One that replaces it is given, too, and those that have kept the earlier one do not count as having it.
    kept = UpdateKept("db", 7, UpdateState.KEPT)
    updates.service.answered(connector.peer.address, connector.peer.instance, PeerRole.CONNECTOR, kept)
    assert updates.known() == [(7, 1, 1)]
    store.put_update(an_update(8))
    await updates.look()
    assert await connector.hear() == given(8)
    assert updates.known() == [(8, 1, 0)]
    # One that has expired is given to nobody.
    updates.now = EXPIRES
    store.put_update(an_update(9))
    await updates.look()
    assert updates.known() == [(9, 1, 0)]
    # Nobody has got anything else.
    assert isinstance(await connector.ask(connector_check), control.Checked)
    assert isinstance(await client.ask(client_check), control.Checked)
    nursery.cancel_scope.cancel()


async def test_only_an_answer_of_a_recipient_to_this_update_counts(
    store: SQLiteStore, rules: Sequence[Rule], nursery: trio.Nursery
) -> None:
    broker = make_broker(store)
    connector, _ = await connect(broker, nursery, hello_of("0" * 64), rules[0])
    updates = Updates(store, broker, [connector.peer])
    store.put_update(an_update(7))
    store.put_update(an_update(5, Role.APPLICATION))
    await updates.look()
    at, instance = connector.peer.address, connector.peer.instance
    kept = UpdateState.KEPT
    for address, name, role, answer in (
        (at, instance, PeerRole.CONNECTOR, UpdateKept("db", 6, kept)),
        (at, instance, PeerRole.CONNECTOR, UpdateKept("db", 5, kept)),
        (at, instance, PeerRole.CLIENT, UpdateKept("db", 7, kept)),
        (at, instance, None, UpdateKept("db", 7, kept)),
        (at, instance, PeerRole.CONNECTOR, UpdateKept("other", 7, kept)),
        (at, "f" * 32, PeerRole.CONNECTOR, UpdateKept("db", 7, kept)),
        ("198.51.100.1", instance, PeerRole.CONNECTOR, UpdateKept("db", 7, kept)),
    ):
        updates.service.answered(address, name, role, answer)
    assert sorted(updates.known()) == [(5, 0, 0), (7, 1, 0)]
    assert updates.events == []
    updates.service.answered(at, instance, PeerRole.CONNECTOR, UpdateKept("db", 7, kept))
    assert sorted(updates.known()) == [(5, 0, 0), (7, 1, 1)]
    (event,) = updates.events
    assert isinstance(event, UpdateAnswered)
    assert (event.connection, event.sequence, event.role, event.state) == ("db", 7, "connector", "kept")
    nursery.cancel_scope.cancel()


async def test_changes_are_noted_while_the_store_cannot_be_read(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = Updates(store, make_broker(store), [])
    await updates.look()
    store.put_update(an_update(7))

    def fail(*_: Any) -> Sequence[StoredUpdate]:
        raise StateError("the disk is on fire")

    with monkeypatch.context() as context:
        context.setattr(store, "updates_of", fail)
        await updates.look()
        assert updates.known() == []
    await updates.look()
    assert updates.known() == [(7, 0, 0)]


async def test_the_updates_of_a_hybrid_connection_that_was_deleted_are_forgotten(
    store: SQLiteStore, rules: Sequence[Rule], nursery: trio.Nursery
) -> None:
    broker = make_broker(store)
    connector, _ = await connect(broker, nursery, hello_of("0" * 64), rules[0])
    updates = Updates(store, broker, [connector.peer])
    store.put_update(an_update(7))
    await updates.look()
    assert (updates.known(), updates.service._room.used) == ([(7, 1, 0)], 1)
    store.put_update(an_update(8))
    await updates.look()
    assert (updates.known(), updates.service._room.used) == ([(8, 1, 0)], 1)
    store.delete("db")
    await updates.look()
    assert updates.known() == []
    assert not updates.service._updates
    assert updates.service._room.used == 0
    nursery.cancel_scope.cancel()
