"""Every rendezvous ends in exactly one event, whatever ended it, with the bytes that were moved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.events import Event, EventStream, RendezvousEnded
from hybridrelay.protocol import control
from hybridrelay.protocol.preamble import STATUS_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.listeners import Listener
from hybridrelay.relay.core.rendezvous import Arrival
from hybridrelay.relay.limits import TICKET_LIFETIME_SECONDS
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot, Right, Rule
from hybridrelay.streams import receive_exactly

from ..listening import FakeListener, willing
from ..peers import HOST, make_broker, token_for, update

TO_CLIENT, TO_CONNECTOR = b"a" * 1000, b"b" * 300


@attrs.define
class Scene:
    """One hybrid connection with a listener, and what can happen to its rendezvous."""

    registry: SQLiteStore
    rules: tuple[Rule, ...]
    broker: BrokerService
    listener: FakeListener
    events: list[Event]
    joined: control.Joined | control.Failed | None = None
    #: One for each data channel that is served; cancelling it cancels `serve_channel`.
    scopes: list[trio.CancelScope] = attrs.field(factory=list)
    #: The peer's end of each of these data channels.
    far: list[trio.abc.HalfCloseableStream] = attrs.field(factory=list)

    def ends(self) -> list[tuple[str, int, int]]:
        """How each rendezvous ended, and the bytes to the client and to the connector."""
        found = [event for event in self.events if isinstance(event, RendezvousEnded)]
        assert all(event.connection == "db" and event.activity_id for event in found)
        return [(event.outcome, event.bytes_to_client, event.bytes_to_connector) for event in found]

    def is_empty(self) -> bool:
        statistics = self.broker.statistics()
        return statistics["joined_pairs"] == statistics["open_rendezvous"] == 0

    async def join(self) -> None:
        send = await self.broker.authorize("db", token_for(self.rules[1]), Right.SEND)
        self.joined = await self.broker.join(send, None)

    async def come(self, nursery: trio.Nursery, ticket: bytes) -> None:
        ours, far = trio.testing.memory_stream_pair()
        self.far.append(far)
        scope = trio.CancelScope()
        self.scopes.append(scope)

        async def serve() -> None:
            with scope:
                await self.broker.serve_channel(self.broker.use_ticket(ticket), ours)

        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()

    async def come_both(self, nursery: trio.Nursery) -> None:
        """Connect the sender, then the listener, and move some bytes in both directions."""
        assert isinstance(self.joined, control.Joined)
        await self.come(nursery, self.joined.ticket)
        await self.come(nursery, self.listener.ticket)
        sender, listener = self.far
        for one in self.far:
            await receive_exactly(one, STATUS_SIZE)
        await sender.send_all(TO_CONNECTOR)
        await listener.send_all(TO_CLIENT)
        await receive_exactly(sender, len(TO_CLIENT))
        await receive_exactly(listener, len(TO_CONNECTOR))

    def revoke(self, rule: int) -> None:
        self.registry.revoke_key("db", self.rules[rule].name, KeySlot.PRIMARY)
        update(self.broker, self.registry)


@pytest.fixture
def scene(tmp_path: Path, rules: tuple[Rule, ...]) -> Iterator[Scene]:
    events: list[Event] = []
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("db", [HOST], rules)
        broker = make_broker(registry, EventStream(events.append))
        yield Scene(registry, rules, broker, willing(), events)


async def _finish(scene: Scene) -> None:
    for one in scene.far:
        await one.send_eof()


async def _break(scene: Scene) -> None:
    await trio.aclose_forcefully(scene.far[0])
    await scene.far[1].send_all(b"lost")


async def _revoke_sender(scene: Scene) -> None:
    scene.revoke(1)


async def _revoke_listener(scene: Scene) -> None:
    scene.revoke(0)


async def _delete(scene: Scene) -> None:
    scene.registry.delete("db")
    update(scene.broker, scene.registry)


async def _close(scene: Scene) -> None:
    scene.broker.close()


async def _cancel_first(scene: Scene) -> None:
    scene.scopes[0].cancel()


async def _cancel_last(scene: Scene) -> None:
    scene.scopes[-1].cancel()


async def _close_and_cancel(scene: Scene) -> None:
    """What happens when the relay ends."""
    scene.broker.close()
    for scope in scene.scopes:
        scope.cancel()


async def _wait(scene: Scene) -> None:
    await trio.sleep(TICKET_LIFETIME_SECONDS + 1)


ENDS_OF_PAIRS: dict[str, list[Callable[[Scene], Awaitable[None]]]] = {
    "finished": [_finish],
    "closed by one side": [_break],
    "cancelled": [_cancel_first, _cancel_last],
    "revoked": [_revoke_sender, _revoke_listener, _delete],
    "shut down": [_close, _close_and_cancel],
}
ENDS_OF_ONE: dict[str, list[Callable[[Scene], Awaitable[None]]]] = {
    "listener absent": [_wait],
    "left": [_cancel_first],
    "revoked": [_revoke_sender, _revoke_listener, _delete],
    "shut down": [_close, _close_and_cancel],
}
ENDS_OF_NONE: dict[str, list[Callable[[Scene], Awaitable[None]]]] = {
    "both absent": [_wait],
    "revoked": [_revoke_sender, _revoke_listener, _delete],
    "shut down": [_close],
}


def _each(ends: dict[str, list[Callable[[Scene], Awaitable[None]]]]) -> pytest.MarkDecorator:
    cases = [(outcome, end) for outcome, every in ends.items() for end in every]
    return pytest.mark.parametrize(("outcome", "end"), cases, ids=[end.__name__ for _, end in cases])


async def _prepare(scene: Scene, nursery: trio.Nursery) -> None:
    listen = await scene.broker.authorize("db", token_for(scene.rules[0]), Right.LISTEN)
    scene.broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, scene.listener))
    await scene.join()
    nursery.start_soon(scene.broker.expire)


@_each(ENDS_OF_PAIRS)
async def test_a_joined_pair_has_one_end_with_the_bytes_of_both_directions(
    scene: Scene, outcome: str, end: Callable[[Scene], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await _prepare(scene, nursery)
        await scene.come_both(nursery)
        assert scene.ends() == []
        await end(scene)
        await trio.testing.wait_all_tasks_blocked()
        assert scene.ends() == [(outcome, len(TO_CLIENT), len(TO_CONNECTOR))]
        nursery.cancel_scope.cancel()
    assert len(scene.ends()) == 1
    assert scene.broker.statistics()["joined_pairs"] == 0
    assert scene.is_empty()


@_each(ENDS_OF_ONE)
async def test_a_rendezvous_for_which_only_the_sender_has_arrived(
    scene: Scene, outcome: str, end: Callable[[Scene], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await _prepare(scene, nursery)
        assert isinstance(scene.joined, control.Joined)
        await scene.come(nursery, scene.joined.ticket)
        await end(scene)
        await trio.testing.wait_all_tasks_blocked()
        assert scene.ends() == [(outcome, 0, 0)]
        nursery.cancel_scope.cancel()
    assert len(scene.ends()) == 1
    assert scene.is_empty()


@_each(ENDS_OF_NONE)
async def test_a_rendezvous_for_which_nobody_has_arrived(
    scene: Scene, outcome: str, end: Callable[[Scene], Awaitable[None]], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await _prepare(scene, nursery)
        await end(scene)
        await trio.testing.wait_all_tasks_blocked()
        assert scene.ends() == [(outcome, 0, 0)]
        nursery.cancel_scope.cancel()
    assert scene.is_empty()


async def test_a_rendezvous_that_the_listener_has_declined(scene: Scene) -> None:
    scene.listener.answer = control.Failed(1, Reason.LIMIT)
    async with trio.open_nursery() as nursery:
        await _prepare(scene, nursery)
        assert scene.ends() == [("withdrawn", 0, 0)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("steps", range(16))
async def test_a_cancelled_data_channel_is_closed_by_the_task_that_moves_the_bytes(scene: Scene, steps: int) -> None:
    """Whichever step the task that moves the bytes has reached, it does not wait for a socket that is closed.

    The cancelled task therefore ends only when that one has closed both, because its caller then closes the socket.
    """
    scope = trio.CancelScope()
    far: list[trio.socket.SocketType] = []
    descriptors_at_the_end: list[int] = []

    async def serve(arrival: Arrival, within: trio.CancelScope) -> None:
        ours, theirs = trio.socket.socketpair()
        far.append(theirs)
        with within:
            try:
                await scene.broker.serve_channel(arrival, trio.SocketStream(ours))
            finally:
                descriptors_at_the_end.append(ours.fileno())

    async with trio.open_nursery() as nursery:
        await _prepare(scene, nursery)
        assert isinstance(scene.joined, control.Joined)
        nursery.start_soon(serve, scene.broker.use_ticket(scene.joined.ticket), scope)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(serve, scene.broker.use_ticket(scene.listener.ticket), trio.CancelScope())
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert descriptors_at_the_end == [-1, -1]  # both were closed
    for one in far:
        one.close()
    assert len(scene.ends()) == 1
    assert scene.is_empty()
