"""Channels that are replaced or lost at bad moments: none is leaked, and no task waits for ever."""

from __future__ import annotations

import contextlib
import math
import socket
import weakref
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.mux import DATA_CONFIG, Session, SessionRole, receive_hello
from hybridrelay.protocol import Reason, SessionCore
from hybridrelay.streams import TLSStream
from hybridrelay.testing import session_pair
from hybridrelay_websocket.stream import WebSocketStream

from ..leaks import no_garbage_collector
from ..stream_pairs import MAKERS_OVER_SOCKETS, Maker, memory, names, tls_over_memory
from ..waiting import async_wait_until
from ..wrapped_streams import WrappedStream
from .streams import open_stream

_Channels = tuple[trio.abc.Stream, trio.abc.Stream]


class _Lingering(WrappedStream):
    """A stream whose graceful close takes a second."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.closing = trio.Event()

    async def aclose(self) -> None:
        self.closing.set()
        try:
            await trio.sleep(1)
        finally:
            await super().aclose()


async def _started(
    nursery: trio.Nursery, reconnect: Callable[[], Awaitable[trio.abc.Stream]] | None = None
) -> tuple[Session, Session]:
    """Two sessions that can resume; the client reconnects by `reconnect`."""
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = (
        Session.create(SessionRole.INITIATOR, config=DATA_CONFIG),
        Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG),
    )
    nursery.start_soon(server.run, theirs)
    await nursery.start(partial(client.run, ours, reconnect=reconnect))
    return client, server


async def test_a_channel_that_comes_while_the_session_ends_is_closed(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    lingering: list[_Lingering] = []

    def channels() -> _Channels:
        one, other = trio.testing.memory_stream_pair()
        lingering.append(_Lingering(one))
        return lingering[0], other

    client, _ = await session_pair(nursery, channels=channels)
    client.close()
    await lingering[0].closing.wait()
    late, far = trio.testing.memory_stream_pair()
    await client.replace_channel(late)
    assert (await client.wait_ended()).reason is Reason.NO_ERROR
    assert await far.receive_some() == b""


async def test_a_session_that_is_cancelled_with_another_channel_at_hand_has_ended() -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        client, _ = await _started(nursery)
        await client.replace_channel(near)
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        await client.wait_ended()
        assert await far.receive_some() == b""


async def test_a_channel_from_reconnect_is_closed_where_another_came_first(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    late, late_far = trio.testing.memory_stream_pair()
    first, first_far = trio.testing.memory_stream_pair()
    reconnecting = trio.Event()

    async def reconnect() -> trio.abc.Stream:
        reconnecting.set()
        with trio.CancelScope(shield=True):  # it has just connected when it is told that it need not
            await trio.sleep(1)
        return late

    client, server = await _started(nursery, reconnect)
    client.drop_channel()
    await reconnecting.wait()
    await client.replace_channel(first)
    with trio.fail_after(10):
        assert await late_far.receive_some() == b""
        _, initial = await receive_hello(first_far)
        await server.replace_channel(first_far, initial)
        await client.wait_attached()
    assert client.is_open
    nursery.cancel_scope.cancel()


async def test_a_task_that_waits_for_a_channel_is_woken_by_the_one_that_works(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    attempts = 0

    async def reconnect() -> trio.abc.Stream:
        nonlocal attempts
        attempts += 1
        await trio.sleep(1)
        near, far = trio.testing.memory_stream_pair()
        if attempts == 1:
            await far.aclose()  # lost before anybody has greeted
        else:
            await server.replace_channel(far)
        return near

    client, server = await _started(nursery, reconnect)
    client.drop_channel()
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(20):
        await client.wait_attached()
    assert client.is_open
    assert attempts == 2
    nursery.cancel_scope.cancel()


async def test_the_channel_of_a_silent_peer_is_closed_and_another_one_is_used(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ours, near = trio.testing.memory_stream_pair()
    far, theirs = trio.testing.memory_stream_pair()
    client, server = (Session.create(role, config=DATA_CONFIG) for role in SessionRole)

    async def reconnect() -> trio.abc.Stream:
        with trio.fail_after(1):
            while await near.receive_some():
                pass  # what the client has sent into the void; then its channel is closed
        assert client.core.ended is None
        another, other_end = trio.testing.memory_stream_pair()
        await server.replace_channel(other_end)
        return another

    async def carry(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        while data := await source.receive_some():
            await sink.send_all(data)

    async with trio.open_nursery() as path:
        path.start_soon(carry, near, far)
        path.start_soon(carry, far, near)
        nursery.start_soon(server.run, theirs)
        await nursery.start(partial(client.run, ours, reconnect=reconnect))
        stream, stream_there = await open_stream(client, server)
        path.cancel_scope.cancel()  # no error, no end of file, and nothing arrives any more
    await stream.send_all(b"still there?")
    with trio.fail_after(2 * (DATA_CONFIG.ping_interval + DATA_CONFIG.ping_timeout)):
        assert await stream_there.receive_some() == b"still there?"
    assert client.core.epoch == server.core.epoch == 1
    nursery.cancel_scope.cancel()


async def test_a_stale_attach_does_not_take_the_place_of_one_that_is_under_way(nursery: trio.Nursery) -> None:
    client, server = await _started(nursery)
    first = client.core.peer_hello
    assert first is not None
    hello = attrs.evolve(first, secret=client.core.greetings.secret, attach=True)
    near, far = trio.testing.memory_stream_pair()
    await server.replace_channel(near, attrs.evolve(hello, epoch=2).encode())
    assert server.attach_refusal(attrs.evolve(hello, epoch=1)) is Reason.SUPERSEDED
    assert server.attach_refusal(attrs.evolve(hello, epoch=2)) is Reason.SUPERSEDED
    assert server.attach_refusal(attrs.evolve(hello, epoch=3)) is None
    await far.aclose()
    nursery.cancel_scope.cancel()


async def test_each_acceptor_has_a_secret_of_its_own(nursery: trio.Nursery) -> None:
    """By this, the initiator finds out when somebody else answers on a later channel."""
    hellos = [(await _started(nursery))[0].core.peer_hello for _ in range(2)]
    known = {hello.secret for hello in hellos if hello is not None}
    assert len(known) == 2
    assert bytes(32) not in known
    nursery.cancel_scope.cancel()


async def test_two_tasks_may_wait_for_the_streams_of_a_session_to_finish(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    client, server = await _started(nursery)
    stream = client.open_stream_nowait()
    theirs = (await server.offers.receive()).accept()
    async with trio.open_nursery() as closing:
        closing.start_soon(partial(client.aclose, grace=math.inf))
        await trio.testing.wait_all_tasks_blocked()
        closing.start_soon(partial(client.aclose, grace=math.inf))
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await theirs.aclose()
        closing.cancel_scope.deadline = trio.current_time() + 60
    assert not closing.cancel_scope.cancelled_caught


async def test_streams_that_were_never_reported_do_not_disturb_the_end(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    client.drain()
    # A peer that has not heard, or does not care, opens one all the same; it is refused at once.
    core: SessionCore = server.core
    core.peer_going_away = False
    server.open_stream_nowait()
    await trio.testing.wait_all_tasks_blocked()
    client.reset_open_streams(Reason.CANCELLED)
    client.close()
    await client.wait_ended()


def _lowest(stream: trio.abc.Stream) -> trio.abc.Stream:
    while isinstance(stream, (TLSStream, WebSocketStream)):
        stream = stream.transport_stream
    return stream


def _cut(*ends: trio.abc.Stream) -> None:
    """Cut the connection, as if somebody in the path had done it."""
    for end in map(_lowest, ends):
        if isinstance(end, trio.SocketStream):
            with contextlib.suppress(OSError):  # the other end was cut
                end.socket.shutdown(socket.SHUT_RDWR)
        else:
            assert isinstance(end, trio.StapledStream)
            end.send_stream.close()


@pytest.mark.parametrize("maker", [*MAKERS_OVER_SOCKETS, memory, tls_over_memory], ids=names)
@pytest.mark.parametrize("how", ["lost", "replaced", "closed", "cancelled"])
async def test_a_channel_is_freed_when_its_session_no_longer_uses_it(
    maker: Maker, how: str, nursery: trio.Nursery
) -> None:
    """The garbage collector is not needed. It rarely examines what is as old as a channel that is lost, and does not
    know how much memory OpenSSL has allocated for it."""
    client, server = (Session.create(role, config=DATA_CONFIG) for role in SessionRole)
    assert client.core.role is SessionRole.INITIATOR
    #: What all layers of a channel refer to.
    left: list[weakref.ref[trio.abc.Stream]] = []

    async def pair() -> _Channels:
        both = await maker(nursery)
        left.extend(weakref.ref(_lowest(stream)) for stream in both)
        return both

    async def are_freed() -> bool:
        return all(stream() is None for stream in left[:2])

    with no_garbage_collector():
        async with trio.open_nursery() as running:
            ours, theirs = await pair()
            running.start_soon(server.run, theirs)
            await running.start(partial(client.run, ours, reconnect=trio.sleep_forever))
            match how:
                case "lost":
                    _cut(ours, theirs)
                case "replaced":
                    await client.replace_channel((another := await pair())[0])
                    _, initial = await receive_hello(another[1])
                    await server.replace_channel(another[1], initial)
                    del another
                case "closed":
                    client.close()
                case _:
                    running.cancel_scope.cancel()
            del ours, theirs
            if how != "cancelled":
                await async_wait_until(are_freed, seconds=20, what="both ends are freed")
            running.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()  # Trio itself refers to the task that was the last to end
        assert [stream() for stream in left] == [None] * len(left)
