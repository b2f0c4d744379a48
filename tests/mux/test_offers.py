"""Streams that the peer opens faster than they are accepted, or withdraws before they are."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.mux import DATA_CONFIG, Session, SessionRole
from hybridrelay.mux._offers import OfferQueue
from hybridrelay.protocol import Reason, frames


@attrs.define(eq=False)
class Entry:
    is_withdrawn: bool = False


async def greet(channel: trio.abc.Stream) -> None:
    """The initiator's HELLO, and the acceptor's."""
    await channel.send_all(frames.Hello(b"session id 16 by", b"s" * 32, 0).encode())
    await channel.receive_some()


async def test_withdrawn_offers_take_no_room_and_are_never_received() -> None:
    queue: OfferQueue[Entry] = OfferQueue(2)
    withdrawn, first = Entry(), Entry()
    assert queue.put(withdrawn)
    assert queue.put(first)
    assert not queue.put(Entry())
    withdrawn.is_withdrawn = True
    second = Entry()
    assert queue.put(second)
    assert [await queue.receive(), await queue.receive()] == [first, second]
    last = Entry()
    assert queue.put(last)
    last.is_withdrawn = True
    with trio.move_on_after(0):
        await queue.receive()
        pytest.fail("a withdrawn offer was received")


async def test_a_queue_that_was_closed_gives_what_it_has_and_then_ends() -> None:
    queue: OfferQueue[Entry] = OfferQueue(2)
    entry = Entry()
    queue.put(entry)
    queue.close()
    assert not queue.put(Entry())
    assert await queue.receive() is entry
    with pytest.raises(trio.EndOfChannel):
        await queue.receive()


async def test_closing_wakes_the_task_that_waits(nursery: trio.Nursery) -> None:
    queue: OfferQueue[Entry] = OfferQueue(1)
    ended = trio.Event()

    async def take() -> None:
        with pytest.raises(trio.EndOfChannel):
            await queue.receive()
        ended.set()

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    assert not ended.is_set()
    await queue.aclose()
    with trio.fail_after(60):
        await ended.wait()


async def test_a_cancelled_receive_takes_nothing() -> None:
    queue: OfferQueue[Entry] = OfferQueue(1)
    entry = Entry()
    queue.put(entry)
    with trio.CancelScope() as scope:
        scope.cancel()
        await queue.receive()
    assert scope.cancelled_caught
    assert await queue.receive() is entry


async def test_streams_that_are_opened_and_reset_in_one_read_do_the_session_no_harm() -> None:
    """Far more than the queue of offers holds, and all in one read: none can be taken out of it in between."""
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG)
    flood = b"".join(
        frames.Open(1 + 2 * number, 1 << 20).encode() + frames.Reset(1 + 2 * number, Reason.CANCELLED).encode()
        for number in range(5000)
    )
    honest = frames.Open(20_001, 1 << 20).encode()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, theirs)
        await greet(ours)
        await ours.send_all(flood + honest)
        with trio.fail_after(60):
            offer = await session.offers.receive()
        assert offer.stream_id == 20_001
        assert session.is_open
        nursery.cancel_scope.cancel()


async def test_what_is_opened_beyond_the_queue_is_refused_and_the_session_goes_on() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session.create(SessionRole.ACCEPTOR, config=attrs.evolve(DATA_CONFIG, max_backlog=3))
    opens = b"".join(frames.Open(1 + 2 * number, 1 << 20).encode() for number in range(5))
    decoder = frames.FrameDecoder()
    refused: list[int] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, theirs)
        await greet(ours)
        await ours.send_all(opens)
        with trio.fail_after(60):
            while len(refused) < 2:
                for frame in decoder.decode_untrusted(bytes(await ours.receive_some())):
                    if isinstance(frame, frames.Refused):
                        assert frame.reason is Reason.LIMIT
                        refused.append(frame.stream)
        assert refused == [7, 9]
        assert (await session.offers.receive()).stream_id == 1
        assert session.is_open
        nursery.cancel_scope.cancel()
