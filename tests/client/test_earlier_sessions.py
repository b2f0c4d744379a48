"""Sessions that have been replaced and finish their streams are looked after like the current one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.client import client as client_module
from hybridrelay.client import sessions as sessions_module
from hybridrelay.client.client import Client
from hybridrelay.client.config import ClientConfig
from hybridrelay.client.lifecycle.inputs import MoveCause
from hybridrelay.client.relays.listeners import AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.relay_connection import DataChannel, RelayConnection
from hybridrelay.client.relays.relays import Relays
from hybridrelay.client.session import ClientSession
from hybridrelay.client.sessions import Sessions
from hybridrelay.connectivity import Candidate, candidates, discover
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.errors import HybridRelayError, RelayUnreachable
from hybridrelay.events import EventStream
from hybridrelay.mux import Budget, SessionConfig
from hybridrelay.protocol import SessionCore
from hybridrelay.protocol.reasons import Reason
from hybridrelay.streams.turns import SharedTurns

from .fakes import OURS, FakeRelay, data_channel
from .relays.test_relay_connection import connection_string
from .test_session import FakeSession, Scene


async def test_each_is_checked_after_the_machine_was_suspended(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[Callable[[str], None]] = []

    async def watch_network(callback: Callable[[str], None]) -> None:
        await trio.lowlevel.checkpoint()
        changed.append(callback)

    monkeypatch.setattr(client_module, "watch_network", watch_network)
    client = Client(ClientConfig(connection_string()), nursery)
    present, earlier = Scene(count=1), Scene(count=1)
    for scene in (present, earlier):
        await nursery.start(client._sessions.run, scene.make())
    nursery.start_soon(client.watch)
    await trio.sleep(1)
    changed[0]("suspended")
    assert present.session.checks == earlier.session.checks == 1
    nursery.cancel_scope.cancel()


class Moved(ClientSession):
    """Notes through which relays it was to move, and moves if it can."""

    def __init__(self, relay: RelayConnection, candidate: Candidate) -> None:
        scene = Scene(count=1)
        super().__init__(
            "db",
            OURS,
            scene.client_relays,
            ListenerSearch(AvoidedListeners()),
            new_session=lambda: scene.session,
            explain=lambda error: error,
            events=EventStream(),
        )
        self.present = attrs.evolve(data_channel(relay), candidate=candidate)
        self.moved_to: list[RelayConnection] = []
        self.error: HybridRelayError | None = None

    @property
    def channel(self) -> DataChannel:
        return self.present

    async def move(
        self, relays: Sequence[RelayConnection], cause: MoveCause, *, is_needed: Callable[[], bool] = lambda: True
    ) -> HybridRelayError | None:
        await trio.lowlevel.checkpoint()
        assert cause is MoveCause.BETTER_ROUTE
        assert is_needed()
        self.moved_to.extend(relays)
        return self.error


Asked = tuple[Callable[[], Candidate | None], Callable[[Candidate], Awaitable[None]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What a client's links were asked to look for."""
    asked: list[Asked] = []

    async def upgrade_route(
        self: RelayLink, in_use: Callable[[], Candidate | None], improved: Callable[[Candidate], Awaitable[None]]
    ) -> None:
        await trio.lowlevel.checkpoint()
        asked.append((in_use, improved))

    monkeypatch.setattr(RelayLink, "upgrade_route", upgrade_route)
    return asked


TCP, WSS = candidates(discover(), "auto")[:2]


async def test_each_follows_to_a_better_route(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, asked: list[Asked]
) -> None:
    client = Client(ClientConfig(connection_string()), nursery)
    nursery.start_soon(client.watch)
    await trio.sleep(1)
    ((in_use, improved),) = asked
    (relay,) = client._relays.all
    present, earlier = Moved(relay, TCP), Moved(relay, WSS)
    for one in (present, earlier):
        await nursery.start(client._sessions.run, one)
    assert in_use() is WSS
    await improved(TCP)
    assert earlier.moved_to == [relay]
    assert present.moved_to == []
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_better_route_over_which_no_session_can_move_is_not_used(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, asked: list[Asked], failing: int
) -> None:
    client = Client(ClientConfig(connection_string()), nursery)
    nursery.start_soon(client.watch)
    await trio.sleep(1)
    ((_, improved),) = asked
    (relay,) = client._relays.all
    both = Moved(relay, WSS), Moved(relay, WSS)
    for number, one in enumerate(both):
        one.error = RelayUnreachable("lost at once") if number < failing else None
        await nursery.start(client._sessions.run, one)
    if failing == len(both):
        with pytest.raises(RelayUnreachable, match="lost at once"):
            await improved(TCP)
    else:
        await improved(TCP)  # it works for one of them; the other one may follow later
    nursery.cancel_scope.cancel()


async def test_all_sessions_with_one_hybrid_connection_share_turns(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connector that goes away again and again makes the client open many sessions."""
    made: list[SharedTurns | None] = []

    class Recorded(FakeSession):
        def __init__(
            self, core: SessionCore, *, refused: Callable[[int, Reason], None], turns: SharedTurns | None
        ) -> None:
            super().__init__()
            made.append(turns)

    monkeypatch.setattr(sessions_module, "Session", Recorded)
    one, another = (
        Sessions(
            name,
            Relays([FakeRelay("a.example")]),
            OURS,
            nursery,
            config=SessionConfig(),
            budget=Budget(1 << 20),
            events=EventStream(),
        )
        for name in ("one", "another")
    )
    for sessions in (one, one, another):
        await sessions.open()
    first, second, of_another = made
    assert first is second is not None
    assert first is not of_another
    nursery.cancel_scope.cancel()
