"""The link of our own has the delay and the rate that it was told: in virtual time, so exactly."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.link import join
from benchmarks.shaper import Shaper

_SIZES = st.lists(st.integers(1, 100_000), min_size=1, max_size=50)


def test_a_byte_on_an_empty_line_takes_the_delay_and_its_own_time() -> None:
    shaper = Shaper(delay=0.03, rate=1000)
    assert shaper.arrival(5.0, 100) == pytest.approx(5.13)
    assert shaper.arrival(5.0, 100) == pytest.approx(5.23)  # behind the first
    assert shaper.arrival(9.0, 100) == pytest.approx(9.13)  # nothing was saved up


@given(_SIZES, st.floats(0, 1), st.floats(1e3, 1e9))
def test_a_busy_line_runs_at_its_rate(sizes: list[int], delay: float, rate: float) -> None:
    shaper = Shaper(delay, rate)
    arrivals = [shaper.arrival(7.0, size) for size in sizes]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(7.0 + delay + sum(sizes) / rate)


@pytest.mark.parametrize("round_trip", [0.02, 0.06, 0.15])
async def test_a_link_takes_its_round_trip(round_trip: float, autojump_clock: trio.testing.MockClock) -> None:
    client, a = trio.testing.memory_stream_pair()
    b, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: join(a, b, delay=round_trip / 2, rate=1e9))
        for _ in range(3):
            began = trio.current_time()
            await client.send_all(b"?")
            assert await server.receive_some() == b"?"
            assert trio.current_time() - began == pytest.approx(round_trip / 2, abs=1e-6)
            await server.send_all(b"!")
            assert await client.receive_some() == b"!"
            assert trio.current_time() - began == pytest.approx(round_trip, abs=1e-6)
        await client.aclose()
        await server.aclose()


@pytest.mark.parametrize("rate", [1e6, 25e6])
@pytest.mark.parametrize("delay", [0.01, 0.075])
async def test_rate_in_both_directions_at_once(
    rate: float, delay: float, autojump_clock: trio.testing.MockClock
) -> None:
    client, a = trio.testing.memory_stream_pair()
    b, server = trio.testing.memory_stream_pair()
    size = int(rate)  # one second's worth
    took = {}

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(bytes(size))
        await stream.send_eof()

    async def receive(stream: trio.abc.HalfCloseableStream, name: str) -> None:
        received = 0
        while block := await stream.receive_some():
            received += len(block)
        assert received == size
        took[name] = trio.current_time()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: join(a, b, delay=delay, rate=rate))
        for stream, name in ((client, "down"), (server, "up")):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream, name)
    assert took == {name: pytest.approx(began + 1 + delay, rel=1e-3) for name in ("down", "up")}


async def test_no_more_is_taken_than_is_on_the_line(autojump_clock: trio.testing.MockClock) -> None:
    """Otherwise the line would be an endless buffer, in which latency grows and which no sender feels."""
    rate, delay = 1e6, 0.1
    client, a = trio.testing.lockstep_stream_pair()
    b, _unread = trio.testing.lockstep_stream_pair()
    taken = 0

    async def send() -> None:
        nonlocal taken
        with trio.move_on_after(10):
            while True:
                await client.send_all(bytes(1000))
                taken += 1000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: join(a, b, delay=delay, rate=rate))
        nursery.start_soon(send)
        await trio.sleep(5)  # nobody reads at the far end
        assert taken <= Shaper(delay, rate).capacity + 20_000
        nursery.cancel_scope.cancel()


async def test_the_end_of_one_direction_leaves_the_other(autojump_clock: trio.testing.MockClock) -> None:
    client, a = trio.testing.memory_stream_pair()
    b, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: join(a, b, delay=0.01, rate=1e6))
        await client.send_all(b"all")
        await client.send_eof()
        assert await server.receive_some() == b"all"
        assert await server.receive_some() == b""
        await server.send_all(b"answer")
        assert await client.receive_some() == b"answer"
        await server.aclose()


async def test_a_broken_end_breaks_the_other(autojump_clock: trio.testing.MockClock) -> None:
    client, a = trio.testing.memory_stream_pair()
    b, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: join(a, b, delay=0.01, rate=1e6))
        await server.aclose()
        await client.send_all(b"for nobody")
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"more")
