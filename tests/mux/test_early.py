"""A session that one task drives until its peer has authenticated, and that a `Session` takes over afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from hybridrelay.mux import CONTROL_CONFIG, DIALED_CONTROL_CONFIG, EarlySession, MuxStream, Session, SessionRole
from hybridrelay.mux.early import MAX_EARLY_BYTES, MAX_EARLY_FRAMES, MAX_EARLY_READS
from hybridrelay.protocol import frames
from hybridrelay.protocol.control_codec import MAX_MESSAGE_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.limits import REFUSALS_BEFORE_AUTHORIZED
from hybridrelay.streams.nowait import HELD_FOR_STRANGER

HELLO = frames.Hello(bytes(range(16)), bytes(32), 1, 0, 0, 0).encode()
OPEN = frames.Open(1, 65536).encode()


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[MuxStream, EarlySession, trio.abc.Stream, trio.Nursery]]:
    """The initiator's stream, and the acceptor with its channel."""
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session.create(SessionRole.INITIATOR, config=DIALED_CONTROL_CONFIG)
    early = EarlySession(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, ours)
        yield session.open_stream_nowait(), early, theirs, nursery
        nursery.cancel_scope.cancel()


async def _early(sent: bytes) -> tuple[trio.abc.HalfCloseableStream, trio.abc.Stream, EarlySession]:
    """Open a session by writing frames. Returns both ends of its channel, and the session, which has received `x`.

    Args:
        sent: the bytes that follow `x` in the same write.
    """
    ours, theirs = trio.testing.memory_stream_pair()
    early = EarlySession(theirs)
    received = []

    async def receive() -> None:
        received.append(await early.receive_some())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await ours.send_all(HELLO)
            assert await ours.receive_some()
            await ours.send_all(OPEN + frames.data_header(1, 1) + b"x" + sent)
    assert received == [b"x"] or (sent and received[0].startswith(b"x"))
    return ours, theirs, early


async def test_the_stream_goes_both_ways_before_and_after_it_is_taken_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(5):
        async with _pair() as (stream, early, channel, nursery):
            await stream.send_all(b"first")
            assert await early.receive_some() == b"first"
            await early.send_whole(b"answer")
            assert await stream.receive_some() == b"answer"
            await stream.send_all(b"second")  # on its way while the session is taken over
            session, taken = early.take_over()
            nursery.start_soon(session.run, channel)
            await taken.send_all(b"another answer")
            assert await taken.receive_some() == b"second"
            assert await stream.receive_some() == b"another answer"
            await stream.send_eof()
            assert await taken.receive_some() == b""


async def test_a_frame_of_which_a_part_has_arrived_is_completed_after_the_session_was_taken_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rest = frames.data_header(1, 4) + b"rest"
    ours, theirs, early = await _early(rest[:-2])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            session, taken = early.take_over()
            nursery.start_soon(session.run, theirs)
            await ours.send_all(rest[-2:])
            assert await taken.receive_some() == b"rest"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("held", [0, 3000])
async def test_no_frame_is_longer_than_what_may_be_held(held: int) -> None:
    longest = HELD_FOR_STRANGER - held
    ours, _, early = await _early(b"")
    await ours.send_all(frames.data_header(1, longest) + bytes(longest))
    received = 0
    with trio.fail_after(60):
        while received < longest:
            received += len(await early.receive_some(held=held))
        await ours.send_all(frames.data_header(1, longest + 1))
        with pytest.raises(trio.BrokenResourceError):
            await early.receive_some(held=held)
    said = list(frames.FrameDecoder().decode_untrusted(await ours.receive_some()))
    assert isinstance(said[-1], frames.GoAway)
    assert said[-1].reason is Reason.PROTOCOL_ERROR


async def test_after_the_session_was_taken_over_frames_may_be_as_long_as_the_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs, early = await _early(b"")
    longest = CONTROL_CONFIG.max_window - 1
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            session, taken = early.take_over()
            nursery.start_soon(session.run, theirs)
            await ours.send_all(frames.data_header(1, longest) + bytes(longest))
            received = 0
            while received < longest:
                received += len(await taken.receive_some())
            nursery.cancel_scope.cancel()


async def test_the_end_of_the_stream_its_reset_and_the_loss_of_the_channel_are_told_apart() -> None:
    for last, error in (
        (frames.Fin(1).encode(), None),
        (frames.Reset(1, Reason.CANCELLED).encode(), trio.BrokenResourceError),
        (b"", trio.BrokenResourceError),
    ):
        ours, _, early = await _early(b"")
        await ours.send_all(last) if last else await ours.send_eof()
        with trio.fail_after(60):
            if error is None:
                assert await early.receive_some() == b""
            else:
                with pytest.raises(error):
                    await early.receive_some()


async def test_the_reason_of_the_end_is_reported_and_the_channel_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, _, early = await _early(b"")
    await ours.receive_some()  # OPENED
    with trio.fail_after(10):
        await early.aclose(Reason.LIMIT, "enough")
        (goodbye,) = frames.FrameDecoder().decode_untrusted(await ours.receive_some())
        assert isinstance(goodbye, frames.GoAway)
        assert (goodbye.reason, goodbye.text, goodbye.final) == (Reason.LIMIT, "enough", True)
        assert await ours.receive_some() == b""


async def test_many_messages_of_the_dialing_side_at_once_are_never_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A client may ask for many rendezvous over a control channel that has just been opened."""
    message = bytes(700)
    with trio.fail_after(5):
        async with _pair() as (stream, early, _, nursery):
            sending = trio.Lock()

            async def send() -> None:
                async with sending:
                    await stream.send_whole(message)

            for _ in range(50):
                nursery.start_soon(send)
            # Nothing can leave before the acceptor has greeted.
            await trio.testing.wait_all_tasks_blocked()
            received = 0
            while received < 50 * len(message):
                received += len(await early.receive_some())


@pytest.mark.parametrize(
    "flood",
    [
        frames.Ack(0).encode(),
        frames.Pong(bytes(8)).encode(),
        frames.HEADER.pack(0x80 << 24, 0) + frames.Ack(0).encode(),
        frames.data_header(1, 1) + b"x",
    ],
    ids=["acknowledgements", "pongs", "unknown frames", "small data"],
)
async def test_a_stranger_sends_few_frames(autojump_clock: trio.testing.MockClock, flood: bytes) -> None:
    ours, _, early = await _early(b"")
    await ours.send_all(flood * MAX_EARLY_FRAMES)

    async def receive_all() -> None:
        while await early.receive_some():
            pass

    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match=Reason.LIMIT.describe):
        await receive_all()


async def test_a_stranger_sends_few_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """It comes in long frames, and never exceeds the window."""
    ours, _, early = await _early(b"")
    frame = frames.data_header(1, HELD_FOR_STRANGER) + bytes(HELD_FOR_STRANGER)

    async def receive_frame() -> None:
        await ours.send_all(frame)
        received = 0
        while received < HELD_FOR_STRANGER:
            received += len(await early.receive_some())

    with trio.fail_after(5):
        for _ in range(MAX_EARLY_BYTES // len(frame)):
            await receive_frame()
        with pytest.raises(trio.BrokenResourceError, match=Reason.LIMIT.describe):
            await receive_frame()


async def test_a_stranger_causes_few_reads(autojump_clock: trio.testing.MockClock) -> None:
    """A frame whose bytes arrive one by one costs as much as that many frames."""
    ours, _, early = await _early(frames.data_header(1, MAX_EARLY_READS + 1))

    async def trickle() -> None:
        for _ in range(MAX_EARLY_READS):
            await ours.send_all(b"z")
            await trio.testing.wait_all_tasks_blocked()
        await ours.send_all(b"z")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match=Reason.LIMIT.describe):
            await early.receive_some()
        nursery.cancel_scope.cancel()


async def test_all_requests_that_may_be_refused_fit_into_what_a_stranger_may_send(
    autojump_clock: trio.testing.MockClock,
) -> None:
    message = bytes(MAX_MESSAGE_SIZE)
    async with _pair() as (stream, early, _, nursery):

        async def send() -> None:
            for _ in range(REFUSALS_BEFORE_AUTHORIZED + 1):
                await stream.send_all(message)

        nursery.start_soon(send)
        left = len(message) * (REFUSALS_BEFORE_AUTHORIZED + 1)
        with trio.fail_after(5):
            while left:
                left -= len(await early.receive_some())
