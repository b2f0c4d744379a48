"""Streams that the opener closes before the peer has answered OPEN."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.errors import StreamRefused
from hybridrelay.mux import MuxStream, Party, Session, SessionRole, StreamEnd
from hybridrelay.mux._stream_ends import SETTLING_SECONDS
from hybridrelay.mux._unanswered import UnansweredStreams
from hybridrelay.mux.stream import OPENING_SECONDS
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair


class Scene:
    """Two sessions, and a stream that waits for its answer."""

    def __init__(self, client: Session, server: Session) -> None:
        self.client = client
        self.server = server
        client.unanswered = UnansweredStreams(1)
        self.ends: list[StreamEnd] = []
        self.stream = client.open_stream_nowait()
        self.stream.set_end_callback(self.ends.append)

    async def send_and_close(self) -> None:
        await self.stream.send_all(b"hello")
        await self.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not self.ends

    async def accept(self) -> MuxStream:
        theirs = (await self.server.offers.receive()).accept()
        await self.stream.wait_opened()
        return theirs

    async def end(self) -> StreamEnd:
        await trio.sleep(1)  # an acknowledgement may be delayed
        (end,) = self.ends
        assert self.client.unanswered.may_open_now
        return end


@pytest.fixture
async def scene(nursery: trio.Nursery) -> Scene:
    return Scene(*await session_pair(nursery))


async def received(stream: MuxStream) -> bytes:
    """Everything up to the end of file."""
    data = b""
    while more := await stream.receive_some():
        data += more
    return data


@pytest.mark.parametrize("how", ["closed", "closed while cancelled", "after the end of file", "left"])
@pytest.mark.parametrize("size", [1, 5, 200_000])
async def test_what_was_sent_is_delivered(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, how: str, size: int
) -> None:
    """Also what exceeds the 16 KiB that may be written before the answer."""
    stream, data = scene.stream, b"x" * size
    stream.send_nowait(data)
    if how == "left":
        async with stream:
            pass
    else:
        if how == "after the end of file":
            await stream.send_eof()
        with trio.CancelScope() as scope:
            if how == "closed while cancelled":
                scope.cancel()
            await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    theirs = await scene.accept()
    assert await received(theirs) == data
    with pytest.raises(trio.BrokenResourceError, match="stopped reading"):
        await theirs.send_all(b"answer")
    await theirs.aclose()
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_closed) == (Party.LOCAL, Reason.CANCELLED, True)
    assert (end.was_accepted, end.sent, end.sent_all) == (True, len(data), True)
    assert scene.client.stream_count == scene.server.stream_count == 0
    nursery.cancel_scope.cancel()


async def test_an_end_of_file_alone_is_delivered(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    await scene.stream.send_eof()
    await scene.stream.aclose()
    assert await received(await scene.accept()) == b""
    assert (await scene.end()).sent_all
    nursery.cancel_scope.cancel()


async def test_without_anything_sent_the_stream_is_reset(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    offer = await scene.server.offers.receive()
    await scene.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert offer.withdrawn_reason is Reason.CANCELLED
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_accepted) == (Party.LOCAL, Reason.CANCELLED, False)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("waited", [0.0, SETTLING_SECONDS + 1, OPENING_SECONDS - 1])
async def test_the_answer_may_take_a_while(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, waited: float
) -> None:
    """What the peer has acknowledged before its answer does not count as delivered."""
    await scene.send_and_close()
    await trio.sleep(waited)
    assert not scene.ends
    assert not scene.client.unanswered.may_open_now
    assert await received(await scene.accept()) == b"hello"
    assert (await scene.end()).sent_all
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("together", [True, False])
async def test_a_reset_right_after_the_answer_is_not_a_refusal(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, together: bool
) -> None:
    """As on any stream that was closed, a reset does not count once everything was acknowledged."""
    await scene.send_and_close()
    await trio.sleep(1)
    theirs = (await scene.server.offers.receive()).accept()
    if not together:
        await trio.sleep(1)
    theirs.reset(Reason.TARGET_RESET)
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_accepted) == (Party.LOCAL, Reason.CANCELLED, True)
    assert end.sent_all
    nursery.cancel_scope.cancel()


async def test_a_reset_before_everything_has_arrived_is_reported(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    await scene.stream.send_all(b"x" * 100_000)
    await scene.stream.aclose()
    (await scene.server.offers.receive()).accept().reset(Reason.TARGET_RESET)
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_accepted) == (Party.PEER, Reason.TARGET_RESET, True)
    assert not end.sent_all
    nursery.cancel_scope.cancel()


async def test_the_time_for_the_acknowledgement_begins_with_the_answer(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    data = b"x" * 3_000_000
    scene.stream.send_nowait(data)
    await scene.stream.aclose()
    await trio.sleep(SETTLING_SECONDS - 0.01)
    theirs = await scene.accept()
    await trio.sleep(SETTLING_SECONDS - 1)  # the rest has to wait until the peer reads
    assert not scene.ends
    assert await received(theirs) == data
    assert (await scene.end()).sent_all
    nursery.cancel_scope.cancel()


async def test_a_stream_of_a_session_that_has_not_begun_is_reset_too(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    client, server = (Session.create(role) for role in (SessionRole.INITIATOR, SessionRole.ACCEPTOR))
    stream = client.open_stream_nowait()
    await stream.send_all(b"hello")
    await stream.aclose()
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(server.run, theirs)
    await nursery.start(client.run, ours)
    with trio.fail_after(OPENING_SECONDS + 2 * SETTLING_SECONDS), pytest.raises(StreamRefused, match="no answer"):
        await stream.wait_opened()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("waited", [0.0, SETTLING_SECONDS + 1])
async def test_a_refusal_is_reported(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, waited: float
) -> None:
    await scene.send_and_close()
    await trio.sleep(waited)
    (await scene.server.offers.receive()).refuse(Reason.TARGET_REFUSED, "nobody is there")
    with pytest.raises(StreamRefused, match="nobody is there"):
        await scene.stream.wait_opened()
    end = await scene.end()
    assert (end.ended_by, end.reason, end.text) == (Party.PEER, Reason.TARGET_REFUSED, "nobody is there")
    assert not end.was_accepted
    assert not end.sent_all
    nursery.cancel_scope.cancel()


async def test_without_an_answer_it_is_reset(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    offer = await scene.server.offers.receive()
    began = trio.current_time()
    await scene.send_and_close()
    with pytest.raises(StreamRefused, match="no answer"):
        await scene.stream.wait_opened()
    assert began + OPENING_SECONDS <= trio.current_time() <= began + OPENING_SECONDS + SETTLING_SECONDS
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_accepted) == (Party.LOCAL, Reason.TARGET_TIMEOUT, False)
    assert offer.withdrawn_reason is Reason.TARGET_TIMEOUT
    nursery.cancel_scope.cancel()


async def test_it_is_lost_with_its_session(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    await scene.send_and_close()
    scene.server.close(Reason.IDENTITY_DENIED)
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_accepted) == (Party.SESSION, Reason.IDENTITY_DENIED, False)
    nursery.cancel_scope.cancel()


async def test_it_can_still_be_reset(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    offer = await scene.server.offers.receive()
    await scene.send_and_close()
    scene.stream.reset(Reason.TARGET_RESET)
    end = await scene.end()
    assert (end.ended_by, end.reason, end.was_accepted) == (Party.LOCAL, Reason.TARGET_RESET, False)
    assert offer.withdrawn_reason is Reason.TARGET_RESET
    nursery.cancel_scope.cancel()


async def test_the_grace_of_a_session_that_closes_applies_to_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    await scene.send_and_close()
    async with trio.open_nursery() as closing:
        closing.start_soon(lambda: scene.client.aclose(grace=10))
        await trio.testing.wait_all_tasks_blocked()
        theirs = await scene.accept()
        assert await received(theirs) == b"hello"
        await theirs.aclose()
    assert (await scene.end()).sent_all
    nursery.cancel_scope.cancel()


async def test_nobody_has_to_follow_it(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client, server = await session_pair(nursery)
    stream = client.open_stream_nowait()
    await stream.send_all(b"hello")
    await stream.aclose()
    theirs = (await server.offers.receive()).accept()
    assert await received(theirs) == b"hello"
    await theirs.aclose()
    await trio.sleep(2 * OPENING_SECONDS)
    assert client.stream_count == server.stream_count == 0
    nursery.cancel_scope.cancel()
