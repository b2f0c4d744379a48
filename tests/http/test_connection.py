"""One connection: requests and responses, against h11's client and byte for byte."""

from __future__ import annotations

import itertools
from typing import Unpack

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridrelay.http import (
    ClientGone,
    Failure,
    Handler,
    Limits,
    Request,
    RequestError,
    Response,
    Route,
    Send,
    Stop,
    StreamedResponse,
    SwitchProtocols,
    Upgraded,
    problem_json,
)
from hybridrelay.testing import tcp_pair

from ..receiving import receive_all
from ..stream_pairs import MAKERS, Maker, memory, names, sockets
from .serving import Changes, Client, Observed, make_service, run_connection, served

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HELLO = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n"
    b"\r\nhello\n"
)


async def exchange(sent: bytes, limits: Limits | None = None, **changes: Unpack[Changes]) -> tuple[bytes, Observed]:
    """What comes back for ``sent``, after which the client ends its sending."""
    async with served(trio.testing.memory_stream_pair(), limits, **changes) as (client, observed):
        await client.send_all(sent)
        await client.send_eof()
        received = await receive_all(client)
    return received, observed


@pytest.mark.parametrize("make", MAKERS, ids=names)
async def test_every_kind_of_stream(make: Maker, nursery: trio.Nursery) -> None:
    async with served(await make(nursery)) as (stream, observed):
        client = Client(stream)
        assert (await client.request("GET", "/")).body == b"hello\n"
        assert (await client.request("POST", "/echo", b"abc" * 10_000)).body == b"abc" * 10_000
        assert (await client.request("POST", "/echo", [b"abc", b"def"])).body == b"abcdef"
        assert (await client.request("GET", "/streamed")).body == b"one two three"
        answer = await client.request("GET", "/", Connection="close")
        assert answer.headers["connection"] == "close"
        # TLS says that it is over; a reset would raise.
        assert await stream.receive_some() == b""
    assert observed.ended is None
    nursery.cancel_scope.cancel()


async def test_bytes_of_a_response() -> None:
    received, observed = await exchange(GET + LAST)

    assert received == HELLO + HELLO.replace(b"6\r\n\r\n", b"6\r\nConnection: close\r\n\r\n")
    assert [one.is_complete for one in observed.accesses] == [True, True]
    assert observed.accesses[0].sent_bytes == len(HELLO)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/nowhere", 404, b"there is nothing here\n"),
        ("DELETE", "/", 405, b"this method is not allowed here\n"),
        ("BREW", "/", 501, b"this server does not know the method\n"),
        ("GET", "/nothing", 204, b""),
        ("OPTIONS", "/", 204, b""),
        ("OPTIONS", "*", 204, b""),
        ("GET", "/names/a%2Fb", 200, b"a/b"),
        ("GET", "/names/%ff", 404, b"there is nothing here\n"),
        ("GET", "http://elsewhere/names/c", 200, b"c"),
        ("GET", "/refuse", 409, b"not now\n"),
        ("GET", "/known", 200, b"four"),
        ("HEAD", "/", 200, b""),
        ("HEAD", "/streamed", 200, b""),
        ("HEAD", "/known", 200, b""),
        ("HEAD", "/nowhere", 404, b""),
        ("HEAD", "/refuse", 409, b""),
        ("GET", "/upgrade", 426, b"upgrade to other\n"),
    ],
)
async def test_answers_after_which_the_connection_goes_on(method: str, path: str, status: int, body: bytes) -> None:
    async with served(trio.testing.memory_stream_pair()) as (stream, observed):
        client = Client(stream)
        for _ in range(2):
            answer = await client.request(method, path)
            assert (answer.status, answer.body) == (status, body)
            assert "connection" not in answer.headers
        await stream.send_eof()
    assert observed.ended is None
    assert observed.crashes == []


async def test_answers_have_the_headers_that_http_demands() -> None:
    async with served(trio.testing.memory_stream_pair()) as (stream, _):
        client = Client(stream)
        assert (await client.request("HEAD", "/")).headers["content-length"] == "6"
        assert (await client.request("HEAD", "/streamed")).headers["transfer-encoding"] == "chunked"
        assert (await client.request("HEAD", "/known")).headers["content-length"] == "4"
        assert (await client.request("OPTIONS", "/echo")).headers["allow"] == "OPTIONS, POST"
        assert (await client.request("GET", "/echo")).headers["allow"] == "OPTIONS, POST"
        assert (await client.request("GET", "/nowhere")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/streamed", "/known"])
async def test_an_answer_to_http_1_0_ends_with_the_connection(path: str) -> None:
    received, _ = await exchange(b"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % path.encode() + GET)

    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert b"Transfer-Encoding" not in head
    assert (b"Content-Length" in head) is (path != "/streamed")
    assert body == {"/": b"hello\n", "/streamed": b"one two three", "/known": b"four"}[path]


async def test_pipelined_requests_are_answered_in_order() -> None:
    requests = [b"GET /names/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(200)]
    bodies = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" * 2
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n" * 2

    async with served(await tcp_pair(), Limits(read_bytes=100)) as (stream, observed):
        client = h11.Connection(h11.CLIENT)
        async with trio.open_nursery() as sending:
            sending.start_soon(stream.send_all, b"".join(requests) + bodies + chunked + LAST)
            received = await receive_all(stream)
    client_bodies = []
    for _ in range(205):
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        received = b""
        assert isinstance(client.next_event(), h11.Response)
        body = b""
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
        client_bodies.append(body)
        if len(client_bodies) < 205:
            client.start_next_cycle()
    assert client_bodies == [str(number).encode() for number in range(200)] + [b"abc"] * 2 + [b"xyz"] * 2 + [
        b"hello\n"
    ]
    assert len(observed.accesses) == 205


async def test_one_byte_at_a_time() -> None:
    def cut(data: bytes) -> list[bytes]:
        return [data[index : index + 1] for index in range(len(data))]

    async with served(trio.testing.memory_stream_pair(), Limits(read_bytes=1, write_bytes=1)) as (stream, _):
        client = Client(stream, cut=cut)
        assert (await client.request("POST", "/echo", b"abc")).body == b"abc"
        assert (await client.request("POST", "/echo", [b"abc", b"d"])).body == b"abcd"
        assert (await client.request("POST", "/echo-streamed", [b"abc", b"d"])).body == b"abcd"
        assert (await client.request("GET", "/streamed")).body == b"one two three"


async def test_streaming_both_ways_at_once() -> None:
    async with served(trio.testing.lockstep_stream_pair()) as (stream, _):
        client = Client(stream)
        fields = [("Host", "x"), ("Transfer-Encoding", "chunked")]
        received = b""
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                await client.send(h11.Request(method="POST", target="/echo-streamed", headers=fields))
                await client.send(h11.Data(data=b"one"))
                await one_is_back.wait()
                await client.send(h11.Data(data=b"two"))
                await client.send(h11.EndOfMessage())

            one_is_back = trio.Event()
            assert isinstance(await client.next_event(), h11.Response)
            while isinstance(event := await client.next_event(), h11.Data):
                received += event.data
                if received == b"one":
                    one_is_back.set()
        assert received == b"onetwo"


async def test_sending_lets_others_run() -> None:
    async def handler(request: Request) -> StreamedResponse:
        async def write(send: Send) -> None:
            for piece in (b"", b"x"):
                with trio.testing.assert_checkpoints():
                    await send(piece)

        return StreamedResponse(200, write)

    async with served(await tcp_pair(), routes=[Route("GET", "/", handler)]) as (stream, observed):
        assert (await Client(stream).request("GET", "/")).body == b"x"
    assert observed.crashes == []


# --- bodies that are not read, too long, or waited for


@pytest.mark.parametrize(
    ("sent", "is_closed"),
    [
        (b"Content-Length: 100\r\n\r\n" + b"a" * 100, False),
        (b"Content-Length: 101\r\n\r\n" + b"a" * 101, True),
        (b"Transfer-Encoding: chunked\r\n\r\n64\r\n" + b"a" * 100 + b"\r\n0\r\n\r\n", False),
        (b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"a" * 101 + b"\r\n0\r\n\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\nwhat\r\n", True),
        (b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n", True),
    ],
)
async def test_bodies_that_nobody_reads(sent: bytes, is_closed: bool) -> None:
    received, _ = await exchange(
        b"POST /ignore HTTP/1.1\r\nHost: x\r\n" + sent + GET, Limits(drain_bytes=100, linger_bytes=10_000)
    )

    assert received.count(b"hello\n") == 2 - is_closed


async def test_the_limit_for_a_body_that_nobody_reads_is_for_all_its_pieces_together() -> None:
    limits = Limits(drain_bytes=100, linger_bytes=10_000)
    async with served(trio.testing.memory_stream_pair(), limits) as (client, _):
        await client.send_all(b"POST /ignore HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2):
            await client.send_all(b"3c\r\n" + b"a" * 60 + b"\r\n")
            await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"0\r\n\r\n" + GET)
        await client.send_eof()
        assert (await receive_all(client)).count(b"hello\n") == 1


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/small", b"Content-Length: 10\r\n\r\n0123456789", 200),
        ("/small", b"Content-Length: 11\r\n\r\n0123456789a", 413),
        ("/small", b"Content-Length: 11\r\nExpect: 100-continue\r\n\r\n", 413),
        ("/small", b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        ("/small", b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n", 200),
        ("/small", b"Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n", 413),
        ("/small", b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n0123456789a", 413),
        ("/echo", b"Content-Length: 21\r\n\r\n", 413),
        ("/echo", b"Content-Length: 3\r\n\r\nab", 400),
        ("/echo", b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", 400),
        ("/echo", b"Transfer-Encoding: chunked\r\n\r\nx", 400),
        ("/nowhere", b"Content-Length: 21\r\n\r\n", 413),
    ],
)
async def test_bodies_within_limits(path: str, sent: bytes, status: int) -> None:
    received, observed = await exchange(
        b"POST %s HTTP/1.1\r\nHost: x\r\n" % path.encode() + sent, Limits(max_body_bytes=20)
    )

    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nConnection: close\r\n" in received) is (status != 200)
    assert received.count(b"HTTP/1.1 ") == 1
    assert observed.ended is None


async def test_continue_is_sent_when_the_handler_reads() -> None:
    async with served(trio.testing.lockstep_stream_pair()) as (stream, _):
        client = Client(stream)
        fields = [("Host", "x"), ("Content-Length", "3"), ("Expect", "100-continue")]
        for _ in range(2):
            await client.send(h11.Request(method="POST", target="/echo", headers=fields))
            # Nothing is sent before the server has asked for it.
            assert isinstance(await client.next_event(), h11.InformationalResponse)
            await client.send(h11.Data(data=b"abc"))
            await client.send(h11.EndOfMessage())
            assert (await client.answer()).body == b"abc"


async def test_no_continue_where_the_body_is_there_or_not_read() -> None:
    field = b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    received, _ = await exchange(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + field + b"abc" + LAST)
    assert received.count(b"HTTP/1.1 ") == 2
    received, _ = await exchange(b"POST /ignore HTTP/1.1\r\nHost: x\r\n" + field)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in received
    received, _ = await exchange(b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + field)
    assert received.startswith(b"HTTP/1.1 404 ")


async def test_what_a_handler_reads_after_it_began_to_answer() -> None:
    # "100 Continue" cannot be sent any more; clients that wait for it send the body after a while.
    async with served(trio.testing.memory_stream_pair()) as (stream, _):
        await stream.send_all(
            b"POST /echo-streamed HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await stream.send_all(b"abc")
        assert (await receive_all(stream)).endswith(b"3\r\nabc\r\n0\r\n\r\n")


# --- ends


async def test_what_is_not_a_request() -> None:
    received, observed = await exchange(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + GET)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in received
    assert isinstance(observed.ended, RequestError)
    [access] = observed.accesses
    assert (access.method, access.path, access.status, access.is_complete) == (None, None, 400, True)


@pytest.mark.parametrize(
    "head",
    [
        b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HEAD / HTTP/1.1\nHost: x\n\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"HEAD /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\nname : value\r\n\r\n",
    ],
    ids=["two lengths", "line feeds", "two hosts", "blank in the target", "blank before the colon"],
)
async def test_head_that_is_refused_before_it_is_parsed(head: bytes) -> None:
    received, observed = await exchange(head)
    start, _, body = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 400 ")
    assert body == b""
    assert not observed.crashes


async def test_head_of_what_is_not_a_request() -> None:
    received, _ = await exchange(b"HEAD /%zz HTTP/1.1\r\nHost: x\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", b"G", GET[:-1], b"POST /echo HTTP/1.1\r\nHost: x\r\n"])
async def test_an_end_before_a_request(sent: bytes) -> None:
    received, observed = await exchange(sent)

    assert received == b""
    assert isinstance(observed.ended, ClientGone)


async def test_an_end_between_requests() -> None:
    received, observed = await exchange(GET)

    assert received == HELLO
    assert observed.ended is None


async def test_a_handler_that_fails_reveals_nothing_and_ends_the_connection() -> None:
    received, observed = await exchange(b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n" + GET)

    assert received.startswith(b"HTTP/1.1 500 ")
    assert received.count(b"HTTP/1.1") == 1
    assert b"secret" not in received
    assert [type(one) for one in observed.crashes] == [KeyError]
    assert observed.accesses[0].status == 500


async def test_head_of_a_handler_that_fails() -> None:
    received, _ = await exchange(b"HEAD /crash HTTP/1.1\r\nHost: x\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 500 ")
    assert received.endswith(b"\r\n\r\n")


async def bad_field(request: Request) -> Response:
    return Response(200, headers=(("X", "a\r\nb"),))


async def failure_with_a_bad_field(request: Request) -> Response:
    raise RequestError(Failure(409, "x", (("X", "a\r\nb"),)))


async def cannot_upgrade(request: Request) -> SwitchProtocols:
    return SwitchProtocols((("Upgrade", "other"),))


async def too_long(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        await send(b"12345")

    return StreamedResponse(200, write, length=4)


async def too_short(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        await send(b"123")

    return StreamedResponse(200, write, length=4)


@pytest.mark.parametrize("handler", [bad_field, failure_with_a_bad_field, cannot_upgrade])
async def test_replies_that_cannot_be_sent(handler: Handler) -> None:
    received, observed = await exchange(GET, routes=[Route("GET", "/", handler)])

    assert received.startswith(b"HTTP/1.1 500 ")
    assert len(observed.crashes) == 1


@pytest.mark.parametrize("handler", [too_long, too_short])
async def test_bodies_of_another_length_than_announced(handler: Handler) -> None:
    async with served(await tcp_pair(), routes=[Route("GET", "/", handler)]) as (client, observed):
        await client.send_all(GET)
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(client)
    assert len(observed.crashes) == 1
    assert not observed.accesses[0].is_complete


async def test_what_on_crash_raises_leaves() -> None:
    def on_crash(exc: Exception) -> None:
        raise exc

    client, server = trio.testing.memory_stream_pair()
    service = make_service()
    service = type(service)(router=service.router, on_crash=on_crash)
    await client.send_all(b"GET /crash HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(KeyError):
        await run_connection(server, service, Observed(), None)
    assert (await receive_all(client)).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_response_that_breaks_off_is_a_reset(version: bytes) -> None:
    # The end of an HTTP/1.0 response is the end of the connection, so an orderly close would complete it.
    async with served(await tcp_pair()) as (client, observed):
        await client.send_all(b"GET /crash-late HTTP/%s\r\nHost: x\r\n\r\n" % version)
        # An end in good order would raise nothing.
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(client)
    assert not observed.accesses[0].is_complete
    assert observed.accesses[0].status == 200


async def test_failures_in_the_callers_form() -> None:
    received, _ = await exchange(b"GET /refuse HTTP/1.1\r\nHost: x\r\n\r\n", render_failure=problem_json)

    assert b"Content-Type: application/problem+json\r\n" in received
    assert received.endswith(b'"detail": "not now", "code": "busy"}')
    received, _ = await exchange(b"nonsense\r\n\r\n", render_failure=problem_json)
    assert b"application/problem+json" in received


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"/", b"localhost", 200),
        (b"/", b"LOCALHOST:1234", 200),
        (b"/", b"[::1]:9180", 200),
        (b"/", b"evil.example", 421),
        (b"/", b"localhost.evil.example", 421),
        (b"/", b"", 421),
        (b"http://localhost/", b"evil.example", 200),
        (b"http://evil.example/", b"localhost", 421),
    ],
)
async def test_only_our_own_names(target: bytes, host: bytes, status: int) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, host)
    received, observed = await exchange(request + request, hosts=frozenset({"localhost", "::1"}))

    assert received.count(b"HTTP/1.1 %d " % status) == 2
    assert observed.accesses[0].pattern == ("/" if status == 200 else None)


async def test_no_name_where_one_is_needed() -> None:
    received, _ = await exchange(b"GET / HTTP/1.0\r\n\r\n", hosts=frozenset({"localhost"}))

    assert received.startswith(b"HTTP/1.1 421 ")


async def test_the_last_request_of_a_connection() -> None:
    received, observed = await exchange(GET * 5, Limits(max_requests=3))

    assert received.count(b"hello\n") == 3
    assert received.count(b"Connection: close") == 1
    assert observed.ended is None


async def test_each_request_is_reported_without_its_query() -> None:
    async with served(trio.testing.memory_stream_pair()) as (stream, observed):
        client = Client(stream)
        await client.request("POST", "/echo", b"abc")
        await client.request("GET", "/names/a%2Fb?secret=1")
    echo, name = observed.accesses
    assert (echo.method, echo.path, echo.pattern, echo.status, echo.received_bytes) == (
        "POST",
        "/echo",
        "/echo",
        200,
        3,
    )
    assert (name.path, name.pattern, name.peer) == ("/names/a%2Fb", "/names/{name}", "somebody")
    assert "somebody" not in repr(name)
    assert echo.seconds >= 0


# --- upgrades


@pytest.mark.parametrize("ahead", [b"", b"early"])
async def test_an_upgrade_hands_over_what_the_client_has_sent_ahead(ahead: bytes) -> None:
    async with served(trio.testing.memory_stream_pair()) as (client, observed):
        await client.send_all(
            b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n" + ahead
        )
        assert await client.receive_some() == (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"
        )
        await trio.testing.wait_all_tasks_blocked()
        upgraded = observed.ended
        assert isinstance(upgraded, Upgraded)
        assert (upgraded.received, upgraded.request.path) == (ahead, "/upgrade")
        await client.send_all(b"more")
        assert await upgraded.stream.receive_some() == b"more"
        await upgraded.stream.send_all(b"answer")
        assert await client.receive_some() == b"answer"
    assert (observed.accesses[0].status, observed.accesses[0].is_complete) == (101, True)


async def test_no_upgrade_of_a_request_with_a_body() -> None:
    received, observed = await exchange(
        b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: other\r\nContent-Length: 1\r\n\r\na"
    )

    assert received.startswith(b"HTTP/1.1 500 ")
    assert len(observed.crashes) == 1


# --- random requests


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes | list[bytes], bytes]:
    body = draw(st.one_of(st.binary(max_size=50), st.lists(st.binary(min_size=1, max_size=20), max_size=4)))
    path = draw(st.sampled_from(["/echo", "/echo-streamed", "/ignore", "/nowhere"]))
    whole = body if isinstance(body, bytes) else b"".join(body)
    expected = {"/ignore": b"hello\n", "/nowhere": b"there is nothing here\n"}.get(path, whole)
    return "POST", path, body, expected


@settings(max_examples=60)
@given(
    st.lists(requests(), min_size=1, max_size=5),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 50),
)
def test_two_cores_however_their_bytes_are_cut(
    wanted: list[tuple[str, str, bytes | list[bytes], bytes]], sizes: list[int], read_bytes: int
) -> None:
    def cut(data: bytes) -> list[bytes]:
        pieces, endless = [], itertools.cycle(sizes)
        while data:
            size = next(endless)
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    async def main() -> None:
        limits = Limits(read_bytes=read_bytes, write_bytes=read_bytes)
        async with served(trio.testing.memory_stream_pair(), limits) as (stream, observed):
            client = Client(stream, cut=cut)
            for method, path, body, expected in wanted:
                assert (await client.request(method, path, body)).body == expected
            await stream.send_eof()
            assert await receive_all(stream) == b""
        assert observed.ended is None
        assert observed.crashes == []

    trio.run(main)


@settings(max_examples=60)
@given(st.data())
def test_mutated_traffic_ends_in_one_way_or_another(data: st.DataObject) -> None:
    mutated = bytearray(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /echo-streamed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET
    )
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(mutated)))
        pieces = st.one_of(st.binary(max_size=4), st.sampled_from([b"\r\n", b"\n", b"Content-Length: 1\r\n", GET]))
        mutated[start : start + data.draw(st.integers(0, 6))] = data.draw(pieces)

    async def main() -> None:
        received, observed = await exchange(bytes(mutated), Limits(read_bytes=data.draw(st.integers(1, 99))))
        assert observed.crashes == []
        assert not received or received.startswith(b"HTTP/1.1 ")

    trio.run(main)


@pytest.mark.parametrize("make", [sockets, memory])
@pytest.mark.parametrize("size", [1, len(GET) - 1])
async def test_stop_within_a_head(make: Maker, size: int, nursery: trio.Nursery) -> None:
    stop = Stop()
    async with served(await make(nursery), stop=stop) as (client, observed):
        for piece in (GET[:size], GET[size:-1]):
            if piece:
                await client.send_all(piece)
                await trio.testing.wait_all_tasks_blocked(0.05)
            stop.set()
        await client.send_all(GET[-1:])
        received = await receive_all(client)
    assert received.endswith(b"hello\n")
    assert b"\r\nConnection: close\r\n" in received
    assert observed.ended is None


async def test_stop_is_seen_by_handlers() -> None:
    stop = Stop()
    async with served(trio.testing.memory_stream_pair(), stop=stop) as (client, observed):
        await client.send_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        received = b""
        while not received.endswith(b"first\n\r\n"):
            received += await client.receive_some()
        stop.set()
        assert (await receive_all(client)) == b"5\r\nlast\n\r\n0\r\n\r\n"
    assert observed.ended is None
