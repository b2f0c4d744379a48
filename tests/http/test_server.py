"""The server on real sockets: hostile clients, limits, shutdown."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

import pytest
import trio
import trio.testing

from hybridrelay.cli.logs import LineFormatter
from hybridrelay.errors import TLSHandshakeError
from hybridrelay.http import Hold, Limits, Prepare, Service, Stop, Upgraded, serve
from hybridrelay.streams import TLSStream
from hybridrelay.streams.unix_sockets import connect_unix_socket, listen_unix_socket
from hybridrelay.testing._pairs import outer_context

from ..receiving import receive_all
from .serving import Client, Observed, make_service

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#: Deadlines that no test reaches by itself.
PATIENT = Limits(
    head_seconds=1000,
    idle_seconds=1000,
    read_seconds=1000,
    body_seconds=1000,
    write_seconds=1000,
    linger_seconds=1000,
)


class Options(TypedDict, total=False):
    """Of `serve`."""

    max_connections: int
    grace_seconds: float
    hold: Hold
    prepare: Prepare
    on_upgrade: Callable[[Upgraded], Awaitable[None]]


@asynccontextmanager
async def serving(service: Service, **options: Unpack[Options]) -> AsyncIterator[tuple[int, Stop, trio.Event]]:
    """A server; its port, its stop, and an event for when it has ended."""
    stop, ended = Stop(), trio.Event()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await serve(listeners, service, stop=stop, task_status=task_status, **options)
            ended.set()

        await nursery.start(run)
        yield port, stop, ended
        nursery.cancel_scope.cancel()
    assert listeners[0].socket.fileno() == -1


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until they have made the condition true."""
    with trio.fail_after(60):
        while not condition():
            await trio.lowlevel.checkpoint()


async def connect(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def stuck(port: int, target: bytes = b"/flood") -> trio.SocketStream:
    """A client that asks for more than fits into any buffer, and reads only the beginning."""
    client = trio.socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await client.connect(("127.0.0.1", port))
    stream = trio.SocketStream(client)
    await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    await stream.receive_some(10)
    return stream


async def test_many_clients_are_served_at_the_same_time() -> None:
    async with serving(make_service()) as (port, _, _):
        async with trio.open_nursery() as nursery:
            for _ in range(10):

                @nursery.start_soon
                async def one() -> None:
                    async with await connect(port) as stream:
                        client = Client(stream)
                        for _ in range(3):
                            assert (await client.request("GET", "/")).body == b"hello\n"


async def test_a_full_server_answers_503_until_a_connection_ends() -> None:
    async with serving(make_service(limits=PATIENT), max_connections=2) as (port, _, _):
        async with await connect(port) as first, await connect(port) as second:
            for stream in (first, second):
                assert (await Client(stream).request("GET", "/")).status == 200
            async with await connect(port) as third:
                await third.send_all(GET)
                received = await receive_all(third)
            assert received.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in received
            assert b"\r\nConnection: close\r\n" in received
            await first.aclose()
            with trio.fail_after(60):
                while True:
                    async with await connect(port) as fourth:
                        if (await Client(fourth).request("GET", "/")).status == 200:
                            break
            assert (await Client(second).request("GET", "/")).status == 200


async def test_a_flood_of_connections_is_reset_beyond_the_refusals() -> None:
    # Those that are refused linger here for as long as their clients stay.
    async with serving(make_service(limits=PATIENT), max_connections=1) as (port, _, _):
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(await connect(port)) for _ in range(40)]
            outcomes = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def first() -> None:
                    assert (await Client(streams[0]).request("GET", "/")).status == 200

                for stream in streams[1:]:

                    @nursery.start_soon
                    async def one(stream: trio.SocketStream = stream) -> None:
                        try:
                            outcomes.append(await receive_all(stream))
                        except trio.BrokenResourceError:
                            outcomes.append(b"")

            refused = [one for one in outcomes if one.startswith(b"HTTP/1.1 503 ")]
            assert len(refused) == 16
            assert len(outcomes) == 39


async def test_a_connection_can_be_ended_to_make_room() -> None:
    ends: list[Callable[[], None]] = []
    held: list[trio.SocketStream] = []

    @contextmanager
    def hold(accepted: trio.SocketStream, end: Callable[[], None]) -> Iterator[None]:
        ends.append(end)
        held.append(accepted)
        try:
            yield
        finally:
            held.remove(accepted)

    async with serving(make_service(limits=PATIENT), max_connections=2, hold=hold) as (port, _, _):
        async with await connect(port) as idle, await connect(port) as other:
            await wait_until(lambda: len(ends) == 2)
            by_address = {stream.socket.getpeername(): end for stream, end in zip(held, ends, strict=True)}
            by_address[idle.socket.getsockname()]()
            with contextlib.suppress(trio.BrokenResourceError):
                assert await receive_all(idle) == b""
            await wait_until(lambda: len(held) == 1)
            assert (await Client(other).request("GET", "/")).status == 200
            async with await connect(port) as third:
                assert (await Client(third).request("GET", "/")).status == 200
        await wait_until(lambda: not held)


@pytest.mark.parametrize("target", [b"/flood", b"/endless"])
async def test_clients_that_do_not_read_delay_no_cancellation(target: bytes) -> None:
    observed = Observed()
    async with serving(make_service(observed, PATIENT)) as (port, _, _):
        clients = [await stuck(port, target) for _ in range(5)]
    # The context's end cancels it: arriving here is what is tested. What was sent is not taken for complete.
    assert [one.is_complete for one in observed.accesses] == [False] * 5
    for client in clients:
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(client)
        await client.aclose()


async def test_clients_that_do_not_read_get_the_grace_and_no_more() -> None:
    observed = Observed()
    async with serving(make_service(observed, PATIENT), grace_seconds=0.2) as (port, stop, ended):
        client = await stuck(port)
        idle = await connect(port)
        await Client(idle).request("GET", "/")
        stop.set()
        assert await receive_all(idle) == b""
        with trio.fail_after(60):
            await ended.wait()
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(client)
        with pytest.raises(OSError, match=r".*"):
            await connect(port)
        await client.aclose()
        await idle.aclose()
    assert not observed.accesses[-1].is_complete


async def test_a_client_that_does_not_read_is_aborted_in_time() -> None:
    observed = Observed()
    async with serving(make_service(observed, Limits(write_seconds=0.2))) as (port, _, _):
        client = await stuck(port)
        await wait_until(lambda: bool(observed.accesses))
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(client)
        await client.aclose()


async def test_a_server_that_ends_completes_its_answers_and_closes_silent_connections() -> None:
    observed = Observed()
    async with serving(make_service(observed, PATIENT), grace_seconds=math.inf) as (port, stop, ended):
        async with await connect(port) as events, await connect(port) as silent:
            await events.send_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"first" not in received:
                received += await events.receive_some()
            stop.set()
            assert (await receive_all(events)).endswith(b"last\n\r\n0\r\n\r\n")
            assert await receive_all(silent) == b""
        with trio.fail_after(60):
            await ended.wait()
    assert [one.is_complete for one in observed.accesses] == [True]


async def test_an_answer_survives_what_was_not_read() -> None:
    observed = Observed()
    async with serving(make_service(observed)) as (port, _, _):
        async with await connect(port) as client:
            await client.send_all(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 8000)
            assert (await receive_all(client)).startswith(b"HTTP/1.1 431 ")


async def test_many_requests_ahead_without_reading() -> None:
    """The following requests are not read while the responses are not: they stay in the sockets' buffers."""
    observed = Observed()
    async with serving(make_service(observed, Limits(write_seconds=1000, max_requests=10**6))) as (port, _, _):
        client = await connect(port)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                while True:
                    await client.send_all(GET * 1000)

            # That is, until both sides wait for the other to read.
            await trio.testing.wait_all_tasks_blocked(0.1)
            nursery.cancel_scope.cancel()
        served = len(observed.accesses)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(observed.accesses) == served
        assert observed.ended is None
        await trio.aclose_forcefully(client)


async def test_an_upgraded_stream_is_handed_over() -> None:
    async def echo(upgraded: Upgraded) -> None:
        await upgraded.stream.send_all(upgraded.received)
        async for chunk in upgraded.stream:
            await upgraded.stream.send_all(chunk)

    async with serving(make_service(), on_upgrade=echo) as (port, _, _):
        async with await connect(port) as client:
            await client.send_all(
                b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nearly"
            )
            received = b""
            while not received.endswith(b"early"):
                received += await client.receive_some()
            await client.send_all(b"late")
            assert await client.receive_some() == b"late"
            await client.send_eof()
            assert await client.receive_some() == b""


async def test_requests_over_a_unix_socket_are_served_and_their_peer_is_known(tmp_path: Path) -> None:
    async def who(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
        return stream, stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)

    observed = Observed()
    listener, _ = await listen_unix_socket(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve([listener], make_service(observed), prepare=who, task_status=task_status)
        )
        async with await connect_unix_socket(tmp_path / "socket") as client:
            assert (await Client(client).request("GET", "/")).status == 200
        await wait_until(lambda: bool(observed.accesses))
        nursery.cancel_scope.cancel()
    assert isinstance(observed.accesses[0].peer, bytes)


async def outer_tls(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
    tls = TLSStream(stream, outer_context(), server_side=True)
    await tls.do_handshake()
    return tls, tls.version()


async def tls_client(port: int) -> TLSStream:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = TLSStream(await connect(port), context, server_hostname="x")
    await tls.do_handshake()
    return tls


async def test_requests_over_tls_are_served_and_a_full_server_says_so() -> None:
    observed = Observed()
    async with serving(make_service(observed), prepare=outer_tls, max_connections=1) as (port, _stop, _ended):
        tls = await tls_client(port)
        client = Client(tls)
        assert (await client.request("POST", "/echo", b"a" * 60_000)).body == b"a" * 60_000
        full = await tls_client(port)
        assert (await receive_all(full)).startswith(b"HTTP/1.1 503 ")
        await full.aclose()
        assert (await client.request("GET", "/", Connection="close")).status == 200
        assert await tls.receive_some() == b""
        await tls.aclose()
        await wait_until(lambda: len(observed.accesses) == 2)
    assert observed.accesses[0].peer == "TLSv1.3"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_response_in_tls_that_breaks_off_does_not_end_in_good_order(version: bytes) -> None:
    async with serving(make_service(), prepare=outer_tls) as (port, _, _):
        tls = await tls_client(port)
        await tls.send_all(b"GET /crash-late HTTP/%s\r\nHost: x\r\n\r\n" % version)
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(tls)
        await trio.aclose_forcefully(tls)


async def test_peers_that_do_not_speak_tls() -> None:
    observed = Observed()
    async with serving(make_service(observed, Limits(head_seconds=0.2)), prepare=outer_tls) as (port, _, _):
        for said in (b"GET / HTTP/1.1\r\n\r\n", b""):
            async with await connect(port) as client:
                await client.send_all(said)
                with contextlib.suppress(trio.BrokenResourceError):
                    await receive_all(client)
        tls = await tls_client(port)
        assert (await Client(tls).request("GET", "/")).status == 200
        await trio.aclose_forcefully(tls)
    assert observed.crashes == []


async def test_a_bug_in_prepare_ends_the_server() -> None:
    async def broken(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
        raise KeyError

    async def connect_and_wait() -> None:
        async with serving(make_service(), prepare=broken) as (port, _, _):
            async with await connect(port):
                await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await connect_and_wait()
    assert raised.group_contains(KeyError)


async def test_errors_of_the_peer_in_prepare_do_not() -> None:
    async def refuse(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
        raise TLSHandshakeError("no")

    async with serving(make_service(), prepare=refuse) as (port, _, _):
        for _ in range(2):
            async with await connect(port) as client:
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await client.receive_some() == b""


async def test_one_crash_does_not_end_the_others() -> None:
    observed = Observed()
    async with serving(make_service(observed)) as (port, _, _):
        async with await connect(port) as client:
            assert (await Client(client).request("GET", "/crash")).status == 500
        async with await connect(port) as client:
            assert (await Client(client).request("GET", "/")).status == 200
    assert len(observed.crashes) == 1


async def test_the_log_of_a_crash_quotes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(router=make_service().router)
    async with serving(service) as (port, _, _):
        async with await connect(port) as client:
            assert (await Client(client).request("GET", "/crash")).status == 500
    [record] = caplog.records
    text = LineFormatter().format(record)
    assert "KeyError" in text
    assert "in crash" in text
    assert "secret of" not in text.replace('raise KeyError("a secret of the peer")', "")
