"""What the ports 80 and 443 answer, request by request."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from hybridrelay.abc import Binding
from hybridrelay.errors import TransportError
from hybridrelay.http_options import HttpOptions
from hybridrelay.streams import sockets
from hybridrelay.streams.listening import StreamListener
from hybridrelay.streams.outer_tls import accept_outer_tls, connect_outer_tls
from hybridrelay.testing import tcp_pair
from hybridrelay.testing._pairs import outer_context
from hybridrelay_websocket import PATH, SUBPROTOCOL, front, transport
from hybridrelay_websocket.frames import encode_data
from hybridrelay_websocket.handshake import handshake_as_client

#: The longest head of a request that is accepted.
LONGEST = front.LIMITS.max_head_bytes
UPGRADE = {
    "Host": "relay.example.com",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": f"other, {SUBPROTOCOL}",
}


async def handshake(stream: trio.abc.Stream) -> trio.abc.HalfCloseableStream | None:
    """The server's side of the transport's handshake; its stream, or None."""
    async with await transport.listen(Binding("127.0.0.1", 0)) as listener:
        assert isinstance(listener, StreamListener)
        connection = await listener.incoming(stream, "127.0.0.1").handshake()
    return None if connection is None else connection.stream


def request(method: str = "GET", target: str = PATH, version: str = "1.1", **changes: str | None) -> bytes:
    """A good upgrade request, except for ``changes``: underscores for dashes, None to leave a header out."""
    headers = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{method} {target} HTTP/{version}", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def accept(sent: bytes, *, refused: bool = False) -> bytes:
    """Be a client that sends ``sent``; returns what comes back. ``refused``: accept is to raise TransportError."""
    client, server = await tcp_pair()
    ended: trio.abc.Stream | TransportError | None = None
    async with client, server, trio.open_nursery() as nursery:

        async def serve() -> None:
            nonlocal ended
            try:
                ended = await handshake(server)
            except TransportError as exc:
                ended = exc
            assert server.socket.fileno() == -1

        nursery.start_soon(serve)
        await client.send_all(sent)
        await client.send_eof()
        received = b""
        while chunk := await client.receive_some():
            received += chunk
    assert isinstance(ended, TransportError) if refused else ended is None
    return received


REFUSED = {
    "health": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "health with a query": (b"GET /healthz?a=b HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "health by HTTP 1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
    "health posted": (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
    "root": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "other path": (request(target="/other"), 404),
    "longer path": (request(target=PATH + "/x"), 404),
    "absolute form": (b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "absolute form with port and query": (b"GET HTTP://x:80/healthz?a HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "absolute form without a path": (b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "absolute form of the WebSocket": (request(target="http://x" + PATH, Upgrade=None), 426),
    "another scheme": (b"GET ftp://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "strange path": (request(target="/%00%ff"), 404),
    "other method": (request("POST"), 405),
    "unknown method": (request("BREW"), 501),
    "CONNECT": (request("CONNECT", "x:443"), 501),
    "the WebSocket by HEAD": (request("HEAD"), 426),
    "no upgrade": (request(Upgrade=None, Connection=None), 426),
    "no Upgrade header": (request(Upgrade=None), 426),
    "other upgrade": (request(Upgrade="h2c"), 426),
    "no Connection header": (request(Connection=None), 426),
    "Connection closes": (request(Connection="close"), 426),
    "HTTP 1.0": (request(version="1.0"), 426),
    "no version": (request(Sec_WebSocket_Version=None), 426),
    "old version": (request(Sec_WebSocket_Version="8"), 426),
    "no key": (request(Sec_WebSocket_Key=None), 400),
    "short key": (request(Sec_WebSocket_Key="c2hvcnQ="), 400),
    "key that is not base64": (request(Sec_WebSocket_Key="\xff" * 24), 400),
    "no subprotocol": (request(Sec_WebSocket_Protocol=None), 400),
    "other subprotocol": (request(Sec_WebSocket_Protocol="chat"), 400),
    "a body": (request(Content_Length="5") + b"abcde", 400),
    "a chunked body": (request(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_that_is_not_an_upgrade_is_answered(name: str) -> None:
    sent, status = REFUSED[name]
    head, _, body = (await accept(sent)).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} ")
    assert "connection: close" in lines
    assert f"content-length: {len(body)}" in lines or sent.startswith(b"HEAD ")
    if status == 200:
        assert body == b"ok\n"
    if status == 405:
        assert any(line.startswith("allow: get") for line in lines)
    if status == 426:
        assert "upgrade: websocket" in lines
    if "version" in name:
        assert "sec-websocket-version: 13" in lines


async def test_health_is_answered_to_head_without_a_body() -> None:
    received = await accept(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\n")
    assert b"Content-Length: 3\r\n" in received


BAD = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "bad header": (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400),
    "endless line": (b"GET /" + b"a" * 2 * LONGEST, 414),
    "endless headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * LONGEST, 431),
    "two lengths": (request("POST", Content_Length="1, 2"), 400),
    "host of high bytes": (request(Host="\xff\xfe"), 400),
    "two ways to end the body": (request(Content_Length="0", Transfer_Encoding="chunked"), 400),
}


@pytest.mark.parametrize("name", BAD)
async def test_garbage_is_refused(name: str) -> None:
    sent, status = BAD[name]
    received = await accept(sent, refused=True)
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in received


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\n", request()[:-1]])
async def test_an_end_before_the_head_does(sent: bytes) -> None:
    assert await accept(sent, refused=True) == b""


async def test_the_answer_survives_what_was_not_read() -> None:
    sent = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000
    assert LONGEST < len(sent) < LONGEST + front.LIMITS.linger_bytes
    received = await accept(sent, refused=True)
    assert received.startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_is_gone() -> None:
    for sent in (b"", request(), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        client, server = await tcp_pair()
        async with server:
            await client.send_all(sent)
            await sockets.abort_stream(client)
            with contextlib.suppress(TransportError):  # or None: the answer may have left
                assert await handshake(server) is None
            assert server.socket.fileno() == -1


GOOD = {
    "plain": {},
    "upper case": {"Upgrade": "WebSocket", "Connection": "UPGRADE"},
    "hosts that wsproto would choke on": {"Host": "a..b"},
    "compression offered": {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
    "a query": {"target": PATH + "?x=y"},
    "browser headers": {"Origin": "https://example.com", "Cookie": "a=b", "Content_Length": "0"},
}


@pytest.mark.parametrize("name", GOOD)
async def test_frames_right_after_the_head_are_not_lost(name: str) -> None:
    client, server = await tcp_pair()
    async with client, server, trio.open_nursery() as nursery:
        # Frames right after the head, as an eager client sends them.
        frames = b"".join(b"".join(encode_data(payload, masked=True)) for payload in (b"early", b""))
        nursery.start_soon(client.send_all, request(**GOOD[name]) + frames)
        stream = await handshake(server)
        assert stream is not None
        assert await stream.receive_some() == b"early"
        assert await stream.receive_some() == b""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await client.receive_some(1)
        lines = head.decode().lower().split("\r\n")
        assert lines[0] == "http/1.1 101 switching protocols"
        assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in lines, "the example of RFC 6455 section 1.3"
        assert f"sec-websocket-protocol: {SUBPROTOCOL}" in lines
        assert not any("extensions" in line for line in lines)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"x")
        assert await client.receive_some() == b"\x82\x01x", "nothing else was written"
        await trio.aclose_forcefully(stream)


async def accept_inside_outer_tls(sent: bytes, record_bytes: int) -> bytes:
    """Be a client on port 443 that sends ``sent`` in records of this length; returns what comes back."""
    client, server = await tcp_pair()

    async def at_once() -> None:
        pass

    async with client, server, trio.open_nursery() as nursery:

        async def serve() -> None:
            with contextlib.suppress(TransportError):
                tls = await accept_outer_tls(server, outer_context(), before_answer=at_once)
                assert await handshake(tls) is None

        nursery.start_soon(serve)
        async with await connect_outer_tls(client, "relay") as tls:
            for start in range(0, len(sent), record_bytes):
                await tls.send_all(sent[start : start + record_bytes])
            received = b""
            while chunk := await tls.receive_some():
                received += chunk
    assert server.socket.fileno() == -1
    return received


async def test_health_inside_outer_tls() -> None:
    received = await accept_inside_outer_tls(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 16_384)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"ok\n")


@pytest.mark.parametrize("record_bytes", [1000, 16_384])
@pytest.mark.parametrize(
    ("size", "status"),
    [(LONGEST, 200), (LONGEST + 1, 431), (LONGEST + 1000, 431), (2 * LONGEST, 431), (5 * LONGEST, 431)],
)
async def test_heads_are_as_long_on_both_ports(size: int, status: int, record_bytes: int) -> None:
    """This also holds if they arrive in many TLS records on port 443."""
    sent = b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n"
    sent = sent.replace(b"A: ", b"A: " + b"a" * (size - len(sent)))
    for received in (
        await accept(sent, refused=status != 200),
        await accept_inside_outer_tls(sent, record_bytes),
    ):
        assert received.startswith(f"HTTP/1.1 {status} ".encode())


async def test_the_websocket_is_also_served_below_a_path_prefix() -> None:
    for prefix, target, status in (
        ("/edge/relay", f"/edge/relay{PATH}", b"101"),
        ("/edge/relay", PATH, b"101"),
        ("/edge/relay", f"/edge{PATH}", b"404"),
        ("/edge/relay", "/healthz", b"200"),
        ("", f"/edge/relay{PATH}", b"404"),
    ):
        client, server = await tcp_pair()
        async with client, server, await transport.listen(Binding("127.0.0.1", 0, path_prefix=prefix)) as listener:
            assert isinstance(listener, StreamListener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.incoming(server, "127.0.0.1").handshake)
                await client.send_all(request(target=target))
                assert (await client.receive_some()).startswith(b"HTTP/1.1 " + status), (prefix, target)
                nursery.cancel_scope.cancel()


async def test_the_largest_header_fields_that_can_be_set_are_accepted() -> None:
    host, prefix = ".".join(["h" * 57] * 4) + ":65535", "/p" * 100
    size = 7168 - 2 * len("X-A: \r\n")
    options = HttpOptions(prefix, (("X-A", "a" * (size // 2)), ("X-B", "b" * (size // 2))))
    client, server = await tcp_pair()
    async with client, server, trio.open_nursery() as nursery:
        nursery.start_soon(front.serve_http, server, front.http_service(prefix))
        path = f"{options.path_prefix}{PATH}"
        assert await handshake_as_client(client, host, path, options.headers) == b""
    too_many = (*options.headers, ("X-C", "c"))
    with pytest.raises(ValueError, match="header fields"):
        HttpOptions(prefix, too_many)
