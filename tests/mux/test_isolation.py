"""Streams do not block each other, and no stream blocks the session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from hybridrelay.mux import CONTROL_CONFIG, Session, SessionConfig, SessionRole
from hybridrelay.mux.stream import QUEUED_PER_SESSION
from hybridrelay.protocol import Reason, SessionCore
from hybridrelay.streams.nowait import TURN_BYTES
from hybridrelay.testing import session_pair

from ..receiving import receive_all
from .streams import open_stream


async def test_a_slow_reader_stalls_only_itself(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    slow, slow_far = await open_stream(client, server)
    quick, quick_far = await open_stream(client, server)
    async with trio.open_nursery() as clogging:
        clogging.start_soon(slow.send_all, bytes(50_000_000))
        await trio.testing.wait_all_tasks_blocked()
        # The slow stream's window is full; the other one moves all the same, both ways.
        payload = bytes(range(256)) * 4096

        async def echo() -> None:
            await quick_far.send_all(await receive_all(quick_far))
            await quick_far.send_eof()

        clogging.start_soon(echo)
        await quick.send_all(payload)
        await quick.send_eof()
        assert await receive_all(quick) == payload
        clogging.cancel_scope.cancel()
    await slow_far.aclose()
    nursery.cancel_scope.cancel()


async def test_memory_that_a_sender_may_cause_is_bounded_by_the_window(nursery: trio.Nursery) -> None:
    config = SessionConfig(initial_window=64 * 1024, max_window=64 * 1024)
    client, server = await session_pair(nursery, config=config)
    ours, theirs = await open_stream(client, server)
    async with trio.open_nursery() as clogging:
        clogging.start_soon(ours.send_all, bytes(10_000_000))
        await trio.testing.wait_all_tasks_blocked()
        assert server.core.streams[theirs.stream_id].readable_bytes == 64 * 1024
        assert client.core.streams[ours.stream_id].queued_bytes <= config.send_queue
        clogging.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_many_offers_that_nobody_accepts_do_not_stop_other_streams(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)
    ours, theirs = await open_stream(client, server)
    for _ in range(500):
        client.open_stream_nowait()
    await ours.send_all(b"still here")
    assert await theirs.receive_some() == b"still here"
    nursery.cancel_scope.cancel()


async def test_offers_beyond_the_backlog_are_refused_with_the_reason(nursery: trio.Nursery) -> None:
    client, _ = await session_pair(nursery, config=SessionConfig(max_backlog=2))
    first, second, third = (client.open_stream_nowait() for _ in range(3))
    await trio.testing.wait_all_tasks_blocked()
    assert third.reset_reason is Reason.LIMIT
    assert first.reset_reason is second.reset_reason is Reason.NO_ERROR
    nursery.cancel_scope.cancel()


async def test_a_dead_peer_is_noticed_although_a_write_is_blocked(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    closed = trio.Event()
    client_channel, server_channel = _valved_pair(closed)()
    # The server is patient: it must be the client that notices.
    client, server = (
        Session.create(SessionRole.INITIATOR),
        Session.create(SessionRole.ACCEPTOR, config=SessionConfig(ping_timeout=1000)),
    )
    nursery.start_soon(server.run, server_channel)
    await nursery.start(client.run, client_channel)
    ours, _ = await open_stream(client, server)
    closed.set()
    sender_ended = trio.Event()

    async def send() -> None:
        try:
            await ours.send_all(bytes(1_000_000))
        except trio.BrokenResourceError:
            sender_ended.set()

    nursery.start_soon(send)
    before = trio.current_time()
    outcome = await client.wait_ended()
    assert outcome.reason is Reason.PEER_SILENT
    # In virtual time: the documented bound, not a measurement.
    assert trio.current_time() - before <= 15.5
    await sender_ended.wait()
    nursery.cancel_scope.cancel()


async def test_an_idle_session_lives_on(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client, server = await session_pair(nursery)
    ours, theirs = await open_stream(client, server)
    await trio.sleep(4 * 3600)  # of virtual time
    await ours.send_all(b"good morning")
    assert await theirs.receive_some() == b"good morning"
    nursery.cancel_scope.cancel()


def _add_valve(stream: trio.testing.MemorySendStream, closed: trio.Event) -> None:
    deliver = stream.send_all_hook
    assert deliver is not None

    async def hook() -> None:
        if closed.is_set():
            await trio.sleep_forever()
        await deliver()

    stream.send_all_hook = hook


def _valved_pair(closed: trio.Event) -> Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]:
    """Return a function that makes channels. Once `closed` is set, they deliver nothing, and every write blocks."""

    def channels() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        left, right = trio.testing.memory_stream_pair()
        for end in (left, right):
            _add_valve(end.send_stream, closed)
        return left, right

    return channels


async def test_a_clogged_channel_does_not_hold_up_the_end(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    closed = trio.Event()
    client, server = await session_pair(nursery, channels=_valved_pair(closed))
    await open_stream(client, server)
    closed.set()
    client.close(Reason.NO_ERROR)
    with trio.fail_after(10):
        assert (await client.wait_ended()).reason is Reason.NO_ERROR
    nursery.cancel_scope.cancel()


async def test_role_of_a_session_is_visible() -> None:
    assert "initiator" in repr(Session.create(SessionRole.INITIATOR))


async def test_a_message_is_queued_whole_or_not_at_all(nursery: trio.Nursery) -> None:
    """Whenever its sender is cancelled: half a message would make all following ones unreadable."""
    client, server = await session_pair(nursery, config=CONTROL_CONFIG)
    ours, theirs = await open_stream(client, server)
    message = bytes(range(250)) * 3

    async def flood() -> None:
        while True:
            await ours.send_whole(message)

    async with trio.open_nursery() as sending:
        sending.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        sending.cancel_scope.cancel()
    await ours.send_eof()
    received = await receive_all(theirs)
    assert received == message * (len(received) // len(message))
    assert len(received) > CONTROL_CONFIG.send_queue
    nursery.cancel_scope.cancel()


async def test_a_peer_that_reads_nothing_on_many_streams_does_not_fill_our_memory(nursery: trio.Nursery) -> None:
    client, server = await session_pair(nursery)

    async def flood(stream: trio.abc.SendStream) -> None:
        await stream.send_all(bytes(1_000_000))

    for _ in range(2000):
        client.open_stream_nowait()
        nursery.start_soon(flood, (await server.offers.receive()).accept())
    await trio.testing.wait_all_tasks_blocked()
    queued = sum(stream.queued_bytes for stream in server.core.streams.values())
    # More than the bound, because the first streams queued their shares before the others came.
    assert queued < 3 * QUEUED_PER_SESSION
    assert queued < 2000 * client.core.config.send_queue * 3 // 4
    nursery.cancel_scope.cancel()


async def test_a_long_send_lets_others_run(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds if the channel takes everything at once."""
    client, server = await session_pair(nursery)
    ours, _ = await open_stream(client, server)
    sent = 0

    def send_data(core: SessionCore, stream: object, data: bytes) -> None:
        nonlocal sent
        sent += len(data)

    with monkeypatch.context() as patch:
        patch.setattr(SessionCore, "send_data", send_data)  # never a full queue
        async with trio.open_nursery() as sending:
            sending.start_soon(ours.send_all, bytes(100 * TURN_BYTES))
            while not sent:
                await trio.lowlevel.checkpoint()
            assert sent < 3 * TURN_BYTES
            sending.cancel_scope.cancel()
    nursery.cancel_scope.cancel()
