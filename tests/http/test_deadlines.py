"""Every wait of the server has a deadline. In virtual time, over streams in memory."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from hybridrelay.http import (
    ClientGone,
    Limits,
    Request,
    RequestError,
    Response,
    Route,
    Send,
    Stop,
    StreamedResponse,
)

from ..receiving import receive_all
from .serving import Client, Observed, make_service, run_connection, served

LIMITS = Limits(
    head_seconds=10,
    idle_seconds=60,
    read_seconds=5,
    body_seconds=20,
    write_seconds=7,
    drain_seconds=3,
    linger_seconds=1,
)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def trickle(stream: trio.abc.SendStream, data: bytes, seconds: float) -> None:
    """Send one byte at a time, with pauses, until the connection breaks."""
    try:
        for index in range(len(data)):
            await stream.send_all(data[index : index + 1])
            await trio.sleep(seconds)
    except trio.BrokenResourceError:
        pass


async def ended_after(observed: Observed) -> float:
    while observed.ended is None:
        await trio.sleep(0.125)
    return trio.current_time()


def clogged_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """The server's sending waits until the client reads: nothing is buffered."""
    return trio.testing.lockstep_stream_pair()


async def test_a_client_that_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, observed):
        begin = trio.current_time()
        assert await receive_all(client) == b""
        assert trio.current_time() - begin == pytest.approx(10)
    assert isinstance(observed.ended, ClientGone)
    assert observed.accesses == []


@pytest.mark.parametrize("data", [GET[:10], b"G"])
async def test_half_a_head_is_waited_for_until_its_deadline(
    data: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, observed):
        await client.send_all(data)
        begin = trio.current_time()
        received = await receive_all(client)
        assert trio.current_time() - begin == pytest.approx(10)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in received
    assert isinstance(observed.ended, RequestError)


@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_that_trickles(before: bytes, autojump_clock: trio.testing.MockClock) -> None:
    # The deadline of a head counts from its first byte.
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, _), trio.open_nursery() as nursery:
        await client.send_all(before)
        if before:
            assert (await client.receive_some()).endswith(b"hello\n")
            await trio.sleep(20)
        begin = trio.current_time()
        nursery.start_soon(trickle, client, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000, 1)
        assert (await receive_all(client)).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - begin == pytest.approx(10)
        nursery.cancel_scope.cancel()


async def test_half_a_head_behind_a_request(autojump_clock: trio.testing.MockClock) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, _):
        await client.send_all(GET + GET[:10])
        received = await receive_all(client)
        assert trio.current_time() == pytest.approx(10)
    assert received.count(b"HTTP/1.1 200 ") == received.count(b"HTTP/1.1 408 ") == 1


async def test_a_silent_connection_is_closed_a_minute_after_its_last_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (stream, observed):
        client = Client(stream)
        await client.request("GET", "/")
        await trio.sleep(59)
        await client.request("GET", "/")
        begin = trio.current_time()
        assert await receive_all(stream) == b""
        assert trio.current_time() - begin == pytest.approx(60)
    assert observed.ended is None


@pytest.mark.parametrize(
    ("framing", "data", "seconds", "expected"),
    [
        (b"Content-Length: 100", b"", 1, 5),
        (b"Content-Length: 100", b"a" * 100, 1, 20),
        (b"Content-Length: 100", b"a" * 100, 6, 5),
        (b"Transfer-Encoding: chunked", b"64;x=" + b"y" * 100, 1, 20),
        (b"Transfer-Encoding: chunked", b"1\r\na\r\n" * 100, 1, 20),
    ],
)
async def test_bodies_that_take_long(
    framing: bytes, data: bytes, seconds: float, expected: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, _), trio.open_nursery() as nursery:
        await client.send_all(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        nursery.start_soon(trickle, client, data, seconds)
        received = await receive_all(client)
        # A lingering second at the end; the first byte of a body may come with its head.
        assert trio.current_time() == pytest.approx(expected, abs=2)
        nursery.cancel_scope.cancel()
    assert received.startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_nobody_reads_and_that_does_not_come(autojump_clock: trio.testing.MockClock) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, observed):
        await client.send_all(b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        received = await receive_all(client)
        assert trio.current_time() == pytest.approx(3)
    assert received.endswith(b"hello\n")
    assert observed.ended is None


@pytest.mark.parametrize("target", [b"/", b"/streamed", b"/flood", b"/events", b"/nowhere"])
async def test_a_client_that_does_not_read(target: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with served(clogged_pair(), LIMITS) as (client, observed):
        await client.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert await ended_after(observed) == pytest.approx(7, abs=0.2)
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")
    assert isinstance(observed.ended, ClientGone)
    assert [one.is_complete for one in observed.accesses] == [False]


async def test_a_client_that_does_not_read_what_is_wrong_with_its_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served(clogged_pair(), LIMITS) as (client, observed):
        await client.send_all(b"nonsense\r\n\r\n")
        assert await ended_after(observed) == pytest.approx(7, abs=0.2)


async def test_each_piece_has_a_deadline_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> Response:
        return Response(200, bytes(50))

    limits = Limits(write_bytes=10, write_seconds=7)
    async with served(clogged_pair(), limits, routes=[Route("GET", "/", handler)]) as (client, _):
        await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while chunk := await client.receive_some(10):
            received += chunk
            await trio.sleep(6)
        assert received.endswith(b"\r\n\r\n" + bytes(50))
        assert trio.current_time() > 60


async def test_lingering_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        served(trio.testing.memory_stream_pair(), LIMITS) as (client, observed),
        trio.open_nursery() as nursery,
    ):
        await client.send_all(b"nonsense\r\n\r\n")
        nursery.start_soon(trickle, client, bytes(1000), 0.1)
        assert await ended_after(observed) == pytest.approx(1, abs=0.2)
        nursery.cancel_scope.cancel()


# --- leaving, stopping, cancelling


async def test_an_event_stream_ends_when_its_client_leaves(autojump_clock: trio.testing.MockClock) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, observed):
        await client.send_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(1000)
        ended = observed.ended
        assert ended is None
        await client.send_eof()
        await trio.sleep(0.1)
        assert isinstance(observed.ended, ClientGone)
    assert [one.is_complete for one in observed.accesses] == [False]
    assert observed.crashes == []


@pytest.mark.parametrize("ahead", [1, LIMITS.read_bytes - 1, LIMITS.read_bytes, 5 * LIMITS.read_bytes])
async def test_leaving_is_noticed_however_much_was_sent_ahead(
    ahead: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(trio.testing.memory_stream_pair(), LIMITS) as (client, observed):
        await client.send_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * ahead)
        await trio.sleep(10)
        await client.send_eof()
        await trio.sleep(0.1)
        assert isinstance(observed.ended, ClientGone)
    assert [one.is_complete for one in observed.accesses] == [False]


async def test_a_long_poll_ends_when_its_client_leaves(autojump_clock: trio.testing.MockClock) -> None:
    cancelled = []

    async def poll(request: Request) -> Response:
        try:
            await trio.sleep(30)
        except trio.Cancelled:
            cancelled.append(trio.current_time())
            raise
        return Response(200, b"nothing new")

    routes = [Route("GET", "/", poll, until_client_leaves=True)]
    async with served(trio.testing.memory_stream_pair(), LIMITS, routes=routes) as (stream, _):
        client = Client(stream)
        assert (await client.request("GET", "/")).body == b"nothing new"
        # What is sent ahead, before or while the answer is waited for, is not taken for leaving and is not lost.
        await stream.send_all(GET + GET)
        await trio.sleep(5)
        await stream.send_all(GET)
        await trio.sleep(90)
        await stream.send_all(GET)
        await trio.sleep(5)
        await stream.send_eof()
        received = await receive_all(stream)
    assert received.count(b"nothing new") == 3
    assert cancelled == [pytest.approx(130)]


async def test_a_finished_answer_to_a_client_that_has_left(autojump_clock: trio.testing.MockClock) -> None:
    async def quick(request: Request) -> Response:
        return Response(200, b"done")

    routes = [Route("GET", "/", quick, until_client_leaves=True)]
    async with served(trio.testing.memory_stream_pair(), LIMITS, routes=routes) as (client, observed):
        await client.send_all(GET)
        assert (await client.receive_some()).endswith(b"done")
        await client.send_eof()
        assert await receive_all(client) == b""
    assert observed.ended is None


async def test_stop_closes_what_is_idle_at_once(autojump_clock: trio.testing.MockClock) -> None:
    for request in (b"", GET):
        stop = Stop()
        async with served(trio.testing.memory_stream_pair(), LIMITS, stop=stop) as (client, observed):
            if request:
                await client.send_all(request)
                await client.receive_some()
            await trio.testing.wait_all_tasks_blocked()
            begin = trio.current_time()
            stop.set()
            assert await receive_all(client) == b""
            assert trio.current_time() - begin <= LIMITS.linger_seconds
        assert observed.ended is None


async def test_stop_before_the_beginning(autojump_clock: trio.testing.MockClock) -> None:
    stop = Stop()
    stop.set()
    async with served(trio.testing.memory_stream_pair(), LIMITS, stop=stop) as (client, _):
        assert await receive_all(client) == b""
        assert stop.is_set()


async def test_stop_lets_a_request_end(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(3)
        return Response(200, b"done")

    stop = Stop()
    async with served(trio.testing.memory_stream_pair(), LIMITS, stop=stop, routes=[Route("GET", "/", slow)]) as (
        client,
        observed,
    ):
        await client.send_all(GET + GET)
        await trio.sleep(1)
        stop.set()
        received = await receive_all(client)
    assert received.count(b"done") == 1
    assert b"Connection: close" in received
    assert observed.ended is None


@pytest.mark.parametrize("target", [b"/flood", b"/endless", b"/events"])
async def test_cancelling_waits_for_nobody(target: bytes, autojump_clock: trio.testing.MockClock) -> None:
    client, server = clogged_pair()
    observed = Observed()
    limits = Limits(write_seconds=math.inf, linger_seconds=1000)
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_connection, server, make_service(observed, limits), observed, None)
            await client.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    assert trio.current_time() == pytest.approx(5)
    assert [one.is_complete for one in observed.accesses] == [False]
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")


async def test_a_cancelled_send_aborts_the_response(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(request: Request) -> StreamedResponse:
        async def write(send: Send) -> None:
            with trio.move_on_after(1):
                await send(bytes(100))

        return StreamedResponse(200, write)

    routes = [Route("GET", "/", handler)]
    async with served(clogged_pair(), LIMITS, routes=routes) as (client, observed):
        await client.send_all(GET)
        received = await client.receive_some(200)
        assert await ended_after(observed) == pytest.approx(1, abs=0.2)
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")
    assert received.startswith(b"HTTP/1.1 200 ")
    assert isinstance(observed.ended, ClientGone)
    assert observed.crashes == []


async def test_cancelled_at_every_checkpoint() -> None:
    """Wherever a cancellation arrives, the stream is closed and nothing else is raised."""
    sent = (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n"
        b"GET /streamed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    nth, done = 0, False
    while not done:
        nth += 1
        assert nth < 1000
        client, server = trio.testing.memory_stream_pair()
        observed = Observed()
        await client.send_all(sent)
        await client.send_eof()
        with trio.CancelScope() as scope:
            countdown = _CancelAtNth(scope, nth)
            trio.lowlevel.add_instrument(countdown)
            try:
                await run_connection(server, make_service(observed, Limits(read_bytes=20)), observed, None)
            finally:
                trio.lowlevel.remove_instrument(countdown)
        done = not scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            await server.send_all(b"x")
        assert observed.crashes == []
    assert nth > 10


class _CancelAtNth(trio.abc.Instrument):
    """Cancels a scope when a task has been scheduled so many times."""

    def __init__(self, scope: trio.CancelScope, nth: int) -> None:
        self._scope = scope
        self._left = nth

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


@pytest.mark.parametrize("line", ["GET /nowhere", "PUT /", "OPTIONS /", "GET /"])
async def test_what_no_route_serves_waits_for_its_answer(line: str, autojump_clock: trio.testing.MockClock) -> None:
    routes = [Route("GET", "/", answer_at_once)]
    pair = trio.testing.memory_stream_pair()
    async with served(pair, Limits(unrouted_seconds=3), routes=routes) as (stream, _):
        began = trio.current_time()
        method, target = line.split()
        await Client(stream).request(method, target)
        assert trio.current_time() - began == (0 if line == "GET /" else 3)


async def answer_at_once(request: Request) -> Response:
    await trio.lowlevel.checkpoint()
    return Response(200)
