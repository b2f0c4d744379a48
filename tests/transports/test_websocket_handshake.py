"""The client's side of the handshake, against servers that answer wrongly."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
import trio
import trio.testing

from hybridrelay.abc import Address, Dialer
from hybridrelay.errors import TransportError
from hybridrelay.http_options import NO_HTTP_OPTIONS, HttpOptions
from hybridrelay.streams import sockets
from hybridrelay.testing import tcp_pair
from hybridrelay_websocket import PATH, SUBPROTOCOL, handshake, transport
from hybridrelay_websocket.frames import encode_data
from hybridrelay_websocket.handshake import MAX_HEAD


def accept_key(head: bytes) -> str:
    [key] = [line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")]
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def answer(head: bytes, **changes: str | None) -> bytes:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_key(head),
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def connect(
    respond: Callable[[bytes], bytes],
    *,
    host: str = "127.0.0.1",
    port: int = 1,
    then_close: bool = False,
    outer_tls: bool = False,
    http: HttpOptions = NO_HTTP_OPTIONS,
) -> tuple[bytes, trio.abc.HalfCloseableStream]:
    """Connect to a server that answers the head with ``respond(head)``; returns the head and the stream."""
    near, far = await tcp_pair()
    heads: list[bytes] = []
    result: trio.abc.HalfCloseableStream | TransportError

    async def dial(dialed_host: str, dialed_port: int) -> trio.abc.Stream:
        assert (dialed_host, dialed_port) == (host, port)
        return near

    async def serve() -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await far.receive_some()
        heads.append(head)
        await far.send_all(respond(head))
        if then_close:
            await far.send_eof()

    async with far, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            result = (await transport.connect(Address(host, port, outer_tls), Dialer(dial, http=http))).stream
        except TransportError as exc:
            assert near.socket.fileno() == -1
            result = exc
    if isinstance(result, TransportError):
        raise result
    return heads.pop(), result


async def test_the_request_has_these_fields() -> None:
    head, stream = await connect(answer, host="relay.example.com", port=8080)
    await trio.aclose_forcefully(stream)
    lines = head.decode().split("\r\n")
    assert lines[0] == f"GET {PATH} HTTP/1.1"
    assert "Host: relay.example.com:8080" in lines
    assert f"Sec-WebSocket-Protocol: {SUBPROTOCOL}" in lines


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [("h", 80, "h"), ("h", 443, "h:443"), ("::1", 80, "[::1]"), ("::1", 81, "[::1]:81"), ("1.2.3.4", 80, "1.2.3.4")],
)
async def test_the_host_field_has_the_port_unless_it_is_the_default(host: str, port: int, expected: str) -> None:
    head, stream = await connect(answer, host=host, port=port)
    await trio.aclose_forcefully(stream)
    assert f"Host: {expected}\r\n".encode() in head


async def test_frames_right_behind_the_head() -> None:
    early = b"".join(encode_data(b"early", masked=False)) + b"\x82"
    _, stream = await connect(lambda head: answer(head) + early)
    assert await stream.receive_some() == b"early"
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    "fields",
    [
        "Transfer-Encoding: identity",
        "transfer-encoding : gzip,\r\n chunked",
        "Content-Length: many",
        "Content-Length: 1\r\nContent-Length: 2",
        "CONTENT-LENGTH: 5\r\nTransfer-Encoding: chunked\r\nVia: 1.1 proxy",
    ],
)
async def test_fields_of_a_body_are_ignored(fields: str) -> None:
    """An answer with the status 101 has no body, whatever a proxy adds (RFC 9112, section 6.3)."""
    early = b"".join(encode_data(b"early", masked=False))
    _, stream = await connect(lambda head: answer(head)[:-2] + fields.encode() + b"\r\n\r\n" + early)
    assert await stream.receive_some() == b"early"
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("interim", [b"100 Continue\r\n", b"103 Early Hints\r\nLink: </style.css>\r\n"])
@pytest.mark.parametrize("count", [1, 5])
async def test_interim_answers_come_before_the_answer(interim: bytes, count: int) -> None:
    early = b"".join(encode_data(b"early", masked=False))
    _, stream = await connect(lambda head: (b"HTTP/1.1 " + interim + b"\r\n") * count + answer(head) + early)
    assert await stream.receive_some() == b"early"
    await trio.aclose_forcefully(stream)


REFUSALS = {
    "not found": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\nsome of", "status 404"),
    "proxy": (b"HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", "status 407"),
    "ok": (b"HTTP/1.1 200 OK\r\n\r\n<html>", "status 200"),
    "no reason phrase": (b"HTTP/1.1 503\r\n\r\n", "status 503"),
    "status of four digits": (b"HTTP/1.1 1010 \r\n\r\n", "does not speak HTTP"),
    "HTTP/2": (b"HTTP/2 101 \r\n\r\n", "does not speak HTTP"),
    "SSH": (b"SSH-2.0-x\r\n", "does not speak HTTP"),
    "endless": (b"HTTP/1.1 101 \r\nA: " + bytes(2 * MAX_HEAD), "too long"),
    "interim answers without end": (b"HTTP/1.1 100 Continue\r\n\r\n" * (2 * MAX_HEAD // 25), "too long"),
    "after an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n\r\n", "status 404"),
    "no HTTP after an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\nSSH-2.0-x\r\n", "does not speak HTTP"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_explained(name: str) -> None:
    response, why = REFUSALS[name]
    with pytest.raises(TransportError, match=why):
        await connect(lambda _: response)


@pytest.mark.parametrize(
    ("status", "says"), [(426, "the headers Upgrade and Connection"), (404, f"passes {PATH} on")]
)
async def test_a_refusal_says_what_to_check(status: int, says: str) -> None:
    with pytest.raises(TransportError) as caught:
        await connect(lambda _: b"HTTP/1.1 %d No\r\n\r\n" % status)
    assert says in (caught.value.remedy or "")


BAD_HANDSHAKES: dict[str, dict[str, str | None]] = {
    "wrong key": {"Sec_WebSocket_Accept": "AAAA"},
    "no key": {"Sec_WebSocket_Accept": None},
    "key of high bytes": {"Sec_WebSocket_Accept": "\xff"},
    "no upgrade": {"Upgrade": None},
    "other upgrade": {"Upgrade": "h2c"},
    "upgrade of high bytes": {"Upgrade": "\xff"},
    "no connection": {"Connection": None},
    "connection of high bytes": {"Connection": "\xff"},
    "no subprotocol": {"Sec_WebSocket_Protocol": None},
    "other subprotocol": {"Sec_WebSocket_Protocol": "chat"},
    "subprotocol of high bytes": {"Sec_WebSocket_Protocol": "\xff"},
    "extension that nobody offered": {"Sec_WebSocket_Extensions": "permessage-deflate"},
    "extension of high bytes": {"Sec_WebSocket_Extensions": "\xff"},
    "header that is none": {"bad header": "x"},
}


@pytest.mark.parametrize("name", BAD_HANDSHAKES)
async def test_a_bad_handshake_is_refused(name: str) -> None:
    with pytest.raises(TransportError, match=r"not a WebSocket handshake|not a relay"):
        await connect(lambda head: answer(head, **BAD_HANDSHAKES[name]))


async def test_the_reason_is_reported() -> None:
    with pytest.raises(TransportError, match="Bad accept token"):
        await connect(lambda head: answer(head, Sec_WebSocket_Accept="AAAA"))


@pytest.mark.parametrize("size", [0, 1, 20, 100])
async def test_half_an_answer_is_a_closed_connection(size: int) -> None:
    with pytest.raises(TransportError, match="closed"):
        await connect(lambda head: answer(head)[:size], then_close=True)


async def test_a_connection_that_is_lost_in_the_handshake_is_reported_as_that() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()

    async def dial(host: str, port: int) -> trio.abc.Stream:
        return near

    with pytest.raises(TransportError, match="closed"):
        await transport.connect(Address("h", 80), Dialer(dial))
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")


async def test_a_connection_that_is_reset_in_the_handshake_is_reported_as_that() -> None:
    near, far = await tcp_pair()

    async def dial(host: str, port: int) -> trio.abc.Stream:
        return near

    async def reset() -> None:
        while not (await far.receive_some()).endswith(b"\r\n\r\n"):
            pass
        await sockets.abort_stream(far)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reset)
        with pytest.raises(TransportError, match="closed"):
            await transport.connect(Address("h", 80), Dialer(dial))
    assert near.socket.fileno() == -1


async def test_what_trio_websocket_is_given_can_not_be_closed() -> None:
    # trio-websocket closes a connection whose head is not a handshake, and the caller would then wait for ever.
    async def read_head() -> bytes:
        return b"head"

    near, far = trio.testing.memory_stream_pair()
    stream = handshake._HeadStream(near, read_head)
    assert await stream.receive_some(1) == b"head"
    with pytest.raises(TransportError, match="not a WebSocket handshake"):
        await stream.aclose()
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"x")
    assert await far.receive_some() == b"x"


async def test_a_failed_dial_is_not_translated() -> None:
    async def dial(host: str, port: int) -> trio.abc.Stream:
        raise ConnectionRefusedError("nobody")

    with pytest.raises(ConnectionRefusedError):
        await transport.connect(Address("h", 80), Dialer(dial))


@pytest.mark.parametrize(
    ("host", "shown"),
    [("Relay.example.com.", "Relay.example.com:8080"), ("fe80::1%eth0", "[fe80::1]:8080"), ("::1", "[::1]:8080")],
)
async def test_the_host_header_has_what_means_the_same_elsewhere(host: str, shown: str) -> None:
    head, stream = await connect(answer, host=host, port=8080)
    await trio.aclose_forcefully(stream)

    assert f"Host: {shown}" in head.decode().split("\r\n")


HTTP = HttpOptions("/edge/relay", (("X-Token", "s3cret"), ("Cookie", "a=b; c=d")))


async def test_a_path_prefix_and_header_fields_of_the_operator() -> None:
    head, stream = await connect(answer, outer_tls=True, http=HTTP)
    await trio.aclose_forcefully(stream)
    lines = head.decode().split("\r\n")
    assert lines[0] == f"GET /edge/relay{PATH} HTTP/1.1"
    assert {"X-Token: s3cret", "Cookie: a=b; c=d", "User-Agent: hybridrelay"} <= set(lines)


async def test_a_user_agent_of_the_operator_replaces_ours() -> None:
    head, stream = await connect(answer, outer_tls=True, http=HttpOptions(headers=(("user-agent", "Browser/1"),)))
    await trio.aclose_forcefully(stream)
    assert [line for line in head.decode().split("\r\n") if line.lower().startswith("user-agent")] == [
        "user-agent: Browser/1"
    ]


async def test_header_fields_are_not_sent_without_outer_tls() -> None:
    head, stream = await connect(answer, http=HTTP)
    await trio.aclose_forcefully(stream)
    assert head.startswith(f"GET /edge/relay{PATH} HTTP/1.1".encode())
    assert b"s3cret" not in head
    assert b"Cookie" not in head


@pytest.mark.parametrize(
    ("status", "remedy"),
    [("401", "--websocket-headers-file"), ("403", "--websocket-headers-file"), ("302", "--websocket-headers-file"),
     ("404", f"passes /edge/relay{PATH} on"), ("426", "Upgrade and Connection")],
)  # fmt: skip
async def test_a_refusal_says_what_to_do_and_no_secret(status: str, remedy: str) -> None:
    with pytest.raises(TransportError) as caught:
        await connect(lambda head: f"HTTP/1.1 {status} No\r\n\r\n".encode(), outer_tls=True, http=HTTP)
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy
    assert "s3cret" not in f"{caught.value}{caught.value.remedy}"
