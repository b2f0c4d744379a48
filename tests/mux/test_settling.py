"""Streams that are closed on this side, and wait for the peer's acknowledgement or for the end of their session."""

from __future__ import annotations

import collections
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from hybridrelay.mux import Bridged, BridgeProgress, MuxStream, Party, Session, SessionConfig, StreamEnd, bridge
from hybridrelay.mux._stream_ends import BATCH, SETTLING_SECONDS
from hybridrelay.protocol import Reason
from hybridrelay.testing import session_pair, tcp_pair

STREAMS = 1000


class Pair:
    """Two sessions. What the client sends can be held back, and with it what it acknowledges."""

    def __init__(self) -> None:
        client, server = trio.testing.memory_stream_pair()
        self._channels = client, server
        self._out = client.send_stream
        self._pump = self._out.send_all_hook

    @classmethod
    async def start(cls, nursery: trio.Nursery) -> Pair:
        made = cls()
        made.nursery = nursery
        config = SessionConfig(max_streams=STREAMS, max_backlog=STREAMS)
        made.client, made.server = await session_pair(nursery, channels=lambda: made._channels, config=config)
        return made

    client: Session
    server: Session
    nursery: trio.Nursery

    async def open(self) -> tuple[MuxStream, MuxStream]:
        """A stream whose direction from the client to the server has ended."""
        ours = self.client.open_stream_nowait()
        await ours.send_eof()
        theirs = (await self.server.offers.receive()).accept()
        assert await theirs.receive_some() == b""
        return ours, theirs

    def hold(self) -> None:
        self._out.send_all_hook = None

    async def release(self) -> None:
        self._out.send_all_hook = self._pump
        assert self._pump is not None
        await self._pump()


@pytest.fixture
async def pair(nursery: trio.Nursery) -> Pair:
    return await Pair.start(nursery)


async def bridged(pair: Pair, progress: BridgeProgress, settled: Callable[[], None]) -> None:
    """A bridge at the server, whose target ends; what the client acknowledges is held back."""
    _, theirs = await pair.open()
    local, target = await tcp_pair()
    pair.hold()
    async with target:
        await target.send_all(b"answers")
        await target.send_eof()
        await bridge(theirs, local, progress=progress)
    progress.when_settled(settled)


async def test_a_bridge_waits_for_the_acknowledgement_for_a_few_seconds(
    pair: Pair, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    progress, settled = BridgeProgress(), list[float]()
    await bridged(pair, progress, lambda: settled.append(trio.current_time()))
    began = trio.current_time()
    await trio.sleep(SETTLING_SECONDS - 0.01)
    assert not settled
    await trio.sleep(1)
    assert settled == [began + SETTLING_SECONDS]
    expected = Bridged(7, 0, Reason.NO_ERROR, received_all=True)
    assert progress.so_far() == expected
    await pair.release()
    await trio.sleep(1)
    assert len(settled) == 1
    assert progress.so_far() == expected
    assert pair.server.stream_count == 0
    nursery.cancel_scope.cancel()


async def test_an_acknowledgement_in_time_counts(
    pair: Pair, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    progress, settled = BridgeProgress(), list[float]()
    await bridged(pair, progress, lambda: settled.append(trio.current_time()))
    await trio.sleep(SETTLING_SECONDS - 1)
    await pair.release()
    await trio.sleep(10)
    assert len(settled) == 1
    assert progress.so_far() == Bridged(7, 0, Reason.NO_ERROR, sent_all=True, received_all=True)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("closes", [True, False])
async def test_the_end_of_a_stream_without_a_bridge_is_reported_after_the_same_time(
    pair: Pair, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, closes: bool
) -> None:
    _, theirs = await pair.open()
    ends: list[tuple[float, StreamEnd]] = []
    theirs.set_end_callback(lambda end: ends.append((trio.current_time(), end)))
    pair.hold()
    began = trio.current_time()
    await (theirs.aclose() if closes else theirs.send_eof())
    await trio.sleep(60)
    ((at, end),) = ends
    assert at == began + SETTLING_SECONDS
    assert (end.ended_at, end.reason, end.ended_by) == (began, Reason.NO_ERROR, Party.NOBODY)
    assert not end.sent_all
    assert end.received_all
    nursery.cancel_scope.cancel()


async def _close(pair: Pair, clock: trio.testing.MockClock) -> None:
    pair.server.close(Reason.IDENTITY_DENIED)


async def _peer_closes(pair: Pair, clock: trio.testing.MockClock) -> None:
    pair.client.close()
    await pair.release()


async def _acknowledge(pair: Pair, clock: trio.testing.MockClock) -> None:
    await trio.sleep(1)  # the timer for acknowledgements expires
    await pair.release()


async def _cancel(pair: Pair, clock: trio.testing.MockClock) -> None:
    pair.nursery.cancel_scope.cancel()


async def _wait(pair: Pair, clock: trio.testing.MockClock) -> None:
    clock.jump(SETTLING_SECONDS)


@pytest.mark.parametrize(
    ("end", "closed"),
    [
        *((end, closed) for end in (_close, _peer_closes, _cancel) for closed in (True, False)),
        (_acknowledge, True),
        (_wait, True),
    ],
)
async def test_other_tasks_run_while_the_ends_of_many_streams_are_reported(
    autojump_clock: trio.testing.MockClock,
    end: Callable[[Pair, trio.testing.MockClock], Awaitable[None]],
    closed: bool,
) -> None:
    """Whatever ends them at the same time: each is reported once, and at most a portion in each pass of the event
    loop."""
    passes, reported = 0, list[tuple[int, int]]()

    def follow(number: int, stream: MuxStream) -> None:
        stream.set_end_callback(lambda _: reported.append((number, passes)))

    async with trio.open_nursery() as nursery:
        pair = await Pair.start(nursery)
        streams = []
        for number in range(STREAMS):
            _, stream = await pair.open()
            follow(number, stream)
            streams.append(stream)
        pair.hold()
        if closed:
            for stream in streams:
                await stream.aclose()
        assert not reported
        with trio.CancelScope(shield=True):
            await end(pair, autojump_clock)
            while len(reported) < STREAMS and passes < 100 * STREAMS:
                await trio.lowlevel.checkpoint()
                passes += 1
        nursery.cancel_scope.cancel()
    assert sorted(number for number, _ in reported) == list(range(STREAMS))
    assert max(collections.Counter(at for _, at in reported).values()) <= 2 * BATCH
