"""The byte pump over real connections: spliced, buffered, and where one stream or both are WebSockets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import hybridrelay_websocket
from hybridrelay.relay.service import pump as pump_module
from hybridrelay.relay.service.pump import Moved, PumpOutcome, abort, pump
from hybridrelay.relay.service.splice import PipePool
from hybridrelay.streams import receive_exactly
from hybridrelay.testing import open_pair, tcp_pair

from ...receiving import receive_all
from ...wrapped_streams import WrappedHalfCloseableStream

MIB = 1024 * 1024
WS = next(route for route in hybridrelay_websocket.transport.routes if route.name == "ws")

pytestmark = [pytest.mark.usefixtures("no_descriptor_leaks")]

each_kind = pytest.mark.parametrize("kind", ["spliced", "buffered", "tcp-websocket", "websocket-tcp", "websockets"])
each_end = pytest.mark.parametrize("a_first", [True, False], ids=["a", "b"])
sockets_only = pytest.mark.parametrize("kind", ["spliced", "buffered"])


@attrs.frozen
class Pairs:
    """The streams that the pump joins (`near`), and those of the peers (`far`)."""

    near_a: trio.abc.HalfCloseableStream
    near_b: trio.abc.HalfCloseableStream
    far_a: trio.abc.HalfCloseableStream
    far_b: trio.abc.HalfCloseableStream

    def in_order(self, a_first: bool) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        return (self.far_a, self.far_b) if a_first else (self.far_b, self.far_a)


@asynccontextmanager
async def pairs_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pairs]:
    if kind == "buffered":
        monkeypatch.setattr(pump_module, "can_splice", lambda source, sink: False)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        pairs = []
        for is_websocket in (kind in ("websocket-tcp", "websockets"), kind in ("tcp-websocket", "websockets")):
            if is_websocket:
                pairs.append(await stack.enter_async_context(open_pair(hybridrelay_websocket.transport, WS)))
            else:
                pair = await tcp_pair()
                stack.push_async_callback(trio.aclose_forcefully, pair[0])
                stack.push_async_callback(trio.aclose_forcefully, pair[1])
                pairs.append(pair)
        (far_a, near_a), (far_b, near_b) = pairs
        yield Pairs(near_a, near_b, far_a, far_b)


async def send_and_end(stream: trio.abc.HalfCloseableStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()


async def send_until_broken(stream: trio.abc.SendStream) -> None:
    try:
        while True:
            await stream.send_all(bytes(MIB))
    except trio.BrokenResourceError:
        pass


async def digest_of_all(stream: trio.abc.ReceiveStream) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    async for block in stream:
        digest.update(block)
        count += len(block)
    return count, digest.hexdigest()


async def expect_broken(stream: trio.abc.ReceiveStream) -> None:
    """Read to the end, which has to be an error and not an end of file."""
    with pytest.raises(trio.BrokenResourceError):
        await receive_all(stream)


@asynccontextmanager
async def running(
    four: Pairs, pipes: PipePool | None = None, moved: Moved | None = None
) -> AsyncIterator[list[PumpOutcome]]:
    """Run a pump in the background; at the end of the block, wait for its end, which is then in the list."""
    results: list[PumpOutcome] = []

    async def run() -> None:
        results.append(await pump(four.near_a, four.near_b, pipes=pipes, moved=moved))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield results


@each_kind
async def test_carries_everything_both_ways_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there, back = os.urandom(9 * MIB), os.urandom(7 * MIB + 1)
    got: dict[str, bytes] = {}

    async def receive(name: str, stream: trio.abc.ReceiveStream) -> None:
        got[name] = await receive_all(stream)

    moved = Moved()
    async with pairs_of(kind, monkeypatch) as four:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, four.far_a, there)
            nursery.start_soon(send_and_end, four.far_b, back)
            nursery.start_soon(receive, "there", four.far_b)
            nursery.start_soon(receive, "back", four.far_a)
            outcome = await pump(four.near_a, four.near_b, moved=moved)

    assert got["there"] == there
    assert got["back"] == back
    assert outcome is PumpOutcome.FINISHED
    assert (moved.a_to_b, moved.b_to_a) == (len(there), len(back))


@each_kind
async def test_bytes_are_counted_while_they_flow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Moved()
    async with pairs_of(kind, monkeypatch) as four:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(pump, four.near_a, four.near_b, moved=moved))
            await four.far_a.send_all(b"x" * 1000)
            assert len(await receive_exactly(four.far_b, 1000)) == 1000
            await wait_all_tasks_blocked()
            assert (moved.a_to_b, moved.b_to_a) == (1000, 0)
            await four.far_b.send_all(b"x" * 10)
            assert len(await receive_exactly(four.far_a, 10)) == 10
            await wait_all_tasks_blocked()
            assert (moved.a_to_b, moved.b_to_a) == (1000, 10)
            nursery.cancel_scope.cancel()


@sockets_only
async def test_128_mib_arrive_as_they_were_sent(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = os.urandom(MIB)
    sent = hashlib.sha256()

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        for number in range(128):
            # Each block is different, so that one lost or repeated would show.
            data = number.to_bytes(8, "big") + block
            sent.update(data)
            await stream.send_all(data)
        await stream.send_eof()

    moved = Moved()
    async with pairs_of(kind, monkeypatch) as four, running(four, moved=moved) as results:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, four.far_a)
            received = await digest_of_all(four.far_b)
            await four.far_b.aclose()

    assert received == (128 * (MIB + 8), sent.hexdigest())
    assert results == [PumpOutcome.FINISHED]
    assert (moved.a_to_b, moved.b_to_a) == (received[0], 0)


@each_kind
@each_end
async def test_a_reply_still_flows_after_one_side_has_ended(
    kind: str, a_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pairs_of(kind, monkeypatch) as four, running(four) as results:
        asks, answers = four.in_order(a_first)
        await asks.send_all(b"question")
        await asks.send_eof()
        assert await receive_all(answers) == b"question"
        answer = os.urandom(MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, answers, answer)
            assert await receive_all(asks) == answer

    assert results == [PumpOutcome.FINISHED]


@each_kind
@each_end
async def test_a_break_of_one_stream_never_looks_like_an_end_to_the_other(
    kind: str, a_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pairs_of(kind, monkeypatch) as four, running(four) as results:
        breaks, other = four.in_order(a_first)
        await breaks.send_all(b"half of it")
        assert await other.receive_some() == b"half of it"
        await abort(breaks)
        await expect_broken(other)

    assert results == [PumpOutcome.A_BROKE if a_first else PumpOutcome.B_BROKE]


@sockets_only
@each_end
async def test_a_stream_that_breaks_while_it_is_written_to(
    kind: str, a_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pairs_of(kind, monkeypatch) as four, running(four) as results:
        sends, breaks = four.in_order(a_first)
        # Its end has been passed on, so that only writing can find it broken.
        await breaks.send_eof()
        assert await receive_all(sends) == b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until_broken, sends)
            await breaks.receive_some()
            await abort(breaks)

    assert results == [PumpOutcome.B_BROKE if a_first else PumpOutcome.A_BROKE]


@each_kind
async def test_cancelled_while_idle_both_far_ends_see_a_break(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pairs_of(kind, monkeypatch) as four:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, four.near_a, four.near_b)
            await four.far_a.send_all(b"x")
            assert await four.far_b.receive_some() == b"x"
            nursery.cancel_scope.cancel()
        await expect_broken(four.far_a)
        await expect_broken(four.far_b)


@each_kind
@pytest.mark.parametrize("bursts", [1, 2, 3, 5, 8, 13])
async def test_cancelled_after_any_burst_nothing_stays_open(
    kind: str, bursts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0

    class CancelledLater(Moved):
        """Cancels the pump after so many turns."""

        def __setattr__(self, name: str, value: object) -> None:
            nonlocal counted
            super().__setattr__(name, value)
            counted += isinstance(value, int) and value > 0
            if counted == bursts:
                scope.cancel()

    with PipePool() as pipes:
        async with pairs_of(kind, monkeypatch) as four:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_until_broken, four.far_a)
                nursery.start_soon(expect_broken, four.far_b)
                with trio.CancelScope() as scope:
                    await pump(four.near_a, four.near_b, moved=CancelledLater(), pipes=pipes)
        assert scope.cancelled_caught
        assert pipes.borrowed == 0


@sockets_only
async def test_a_receiver_that_stalls_stalls_the_sender(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    total, moved = 64 * MIB, Moved()
    sent = 0

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal sent
        for _ in range(total // MIB):
            await stream.send_all(bytes(MIB))
            sent += MIB
        await stream.send_eof()

    with PipePool() as pipes:
        async with pairs_of(kind, monkeypatch) as four, running(four, pipes, moved) as results:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, four.far_a)
                await wait_all_tasks_blocked(0.05)

                # What is on its way sits in the buffers of two sockets and one pipe.
                assert sent < total / 2
                assert pipes.borrowed == (kind == "spliced")

                assert (await digest_of_all(four.far_b))[0] == total
                await four.far_b.aclose()
        assert (results, moved.a_to_b) == ([PumpOutcome.FINISHED], total)
        assert pipes.borrowed == 0


@sockets_only
async def test_cancelled_while_the_receiver_stalls(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with PipePool() as pipes:
        async with pairs_of(kind, monkeypatch) as four, trio.open_nursery() as nursery:
            nursery.start_soon(send_until_broken, four.far_a)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as pumping:
                    pumping.start_soon(lambda: pump(four.near_a, four.near_b, pipes=pipes))
                    await wait_all_tasks_blocked(0.05)
                    scope.cancel()
            # The pipe had bytes in it, so it must not be lent again.
            assert (pipes.borrowed, pipes.idle) == (0, 0)
            await expect_broken(four.far_b)


async def test_an_idle_pair_holds_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with PipePool() as pipes:
        async with pairs_of("spliced", monkeypatch) as four, running(four, pipes):
            for sender, receiver in ((four.far_a, four.far_b), (four.far_b, four.far_a)) * 10:
                await sender.send_all(b"ping")
                assert await receiver.receive_some() == b"ping"
                await wait_all_tasks_blocked()
                assert pipes.borrowed == 0
            # Each direction has returned the pipe before the other one needed it.
            assert pipes.idle == 1
            await four.far_a.aclose()
            await four.far_b.aclose()


async def test_a_stream_that_breaks_its_contract_breaks_both_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(WrappedHalfCloseableStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise ZeroDivisionError

    async with pairs_of("buffered", monkeypatch) as four:
        with pytest.RaisesGroup(ZeroDivisionError):
            await pump(four.near_a, Odd(four.near_b))
        await expect_broken(four.far_a)
        with pytest.raises(trio.ClosedResourceError):
            await four.near_b.send_all(b"x")


@each_end
async def test_a_stream_that_breaks_just_when_the_end_is_passed_on(
    a_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(WrappedHalfCloseableStream):
        async def send_eof(self) -> None:
            raise trio.BrokenResourceError

    async with pairs_of("buffered", monkeypatch) as four:
        asks, _ = four.in_order(a_first)
        await asks.send_eof()
        near_a, near_b = (four.near_a, Odd(four.near_b)) if a_first else (Odd(four.near_a), four.near_b)
        outcome = await pump(near_a, near_b)
        assert outcome is (PumpOutcome.B_BROKE if a_first else PumpOutcome.A_BROKE)
        await expect_broken(asks)


async def test_closing_that_hangs_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    class Hanging(WrappedHalfCloseableStream):
        closed = False

        async def aclose(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.closed = True

    (far_a, near_a), (far_b, near_b) = trio.testing.memory_stream_pair(), trio.testing.memory_stream_pair()
    hanging = [Hanging(near) for near in (near_a, near_b)]
    await far_a.send_eof()
    await far_b.send_eof()
    assert await pump(*hanging) is PumpOutcome.FINISHED
    assert [stream.closed for stream in hanging] == [True, True]


async def test_aborting_closes_all_even_when_cancelled() -> None:
    near, far = await tcp_pair()
    third, fourth = await tcp_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await abort(near, third)
    await abort(near)
    for stream in (far, fourth):
        await expect_broken(stream)
        await stream.aclose()
