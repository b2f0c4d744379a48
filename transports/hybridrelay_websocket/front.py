"""The HTTP front of the relay's ports 80 and 443: what reaches the WebSocket handshake, and what is refused.

The request is parsed here, by h11, before any WebSocket code sees it, and answered here: a handshake by a library
costs ten times as much, and every stranger can ask for one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http
from collections.abc import Iterable

import attrs
import h11
import trio

from hybridrelay.errors import TransportError
from hybridrelay.streams.nowait import SMALL_READ_BYTES

from .handshake import MAX_HEAD, PATH, SUBPROTOCOL

__all__ = ["HEALTH_PATH", "Answer", "Upgrade", "accept_upgrade", "judge", "read_request", "send_answer"]

HEALTH_PATH = "/healthz"
#: How much a refused client may still send while it reads the answer (bytes), and how long it may take (seconds).
#: Closing on unread input resets the connection, and the answer is lost with it.
LINGER_BYTES = 64 * 1024
LINGER_TIMEOUT = 1
#: RFC 6455 section 1.3.
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Headers = list[tuple[str, str]]


@attrs.frozen
class Answer:
    """An ordinary HTTP response, after which the connection is closed."""

    status: int
    text: str
    headers: Headers = attrs.field(factory=list)


@attrs.frozen
class Upgrade:
    """A request for our WebSocket, with its key."""

    key: bytes


class BadRequest(Exception):
    """What came is not HTTP, or too much of it. `answer` is what to say to that."""

    def __init__(self, why: str, answer: Answer) -> None:
        super().__init__(why)
        self.answer = answer


async def read_request(stream: trio.abc.ReceiveStream) -> tuple[h11.Request, bytes]:
    """Read one HTTP head, holding no more than `MAX_HEAD` and one read's worth of it.

    Returns:
        The request, and what was already read behind its head.

    Raises:
        BadRequest: garbage, or a head that is too long.
        TransportError: the connection ended before the head did.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as exc:
            status = exc.error_status_hint
            text = "the request head is too long" if status == 431 else "this is not an HTTP request"
            raise BadRequest(f"{text}: {exc}", Answer(status, text)) from exc
        if isinstance(event, h11.Request):
            return event, connection.trailing_data[0]
        assert event is h11.NEED_DATA, event
        try:
            chunk = await stream.receive_some(SMALL_READ_BYTES)
        except trio.BrokenResourceError as exc:
            raise TransportError("the connection was lost before a request") from exc
        if not chunk:
            raise TransportError("the connection ended before a request")
        connection.receive_data(bytes(chunk))


def judge(request: h11.Request) -> Answer | Upgrade:
    """Decide about a request that h11 accepted. Pure; raises nothing."""
    path = _path(request.target)
    if path == HEALTH_PATH:
        if request.method not in {b"GET", b"HEAD"}:
            return _method_not_allowed("GET, HEAD")
        return Answer(200, "ok")
    if path != PATH:
        return Answer(404, "there is nothing here")
    if request.method != b"GET":
        return _method_not_allowed("GET")
    return _judge_upgrade(request)


def _path(target: bytes) -> str:
    """The path of a request target: also of one in absolute form, which servers must accept (RFC 9112, 3.2.2)."""
    text = target.partition(b"?")[0].decode("latin-1")
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() in {"http", "https"}:
        _, slash, path = rest.partition("/")
        return slash + path or "/"
    return text


def _judge_upgrade(request: h11.Request) -> Answer | Upgrade:
    """RFC 6455 section 4.2.1, and our subprotocol."""
    headers = list(request.headers)
    if (
        request.http_version != b"1.1"
        or "websocket" not in _tokens(headers, b"upgrade")
        or "upgrade" not in _tokens(headers, b"connection")
    ):
        return Answer(426, "this is a WebSocket", [("Upgrade", "websocket")])
    if _tokens(headers, b"sec-websocket-version") != ["13"]:
        text = "WebSocket version 13 is needed"
        return Answer(426, text, [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")])
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _is_key(keys[0]):
        return Answer(400, "Sec-WebSocket-Key is missing or malformed")
    if SUBPROTOCOL not in _tokens(headers, b"sec-websocket-protocol"):
        return Answer(400, f"the subprotocol {SUBPROTOCOL} is needed")
    if any(name in {b"content-length", b"transfer-encoding"} and value != b"0" for name, value in headers):
        return Answer(400, "an upgrade request has no body")
    return Upgrade(keys[0])


async def accept_upgrade(stream: trio.abc.SendStream, key: bytes) -> None:
    """Accept an upgrade (RFC 6455 section 4.2.2). Raises TransportError where the client is gone."""
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_SUFFIX, usedforsecurity=False).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}".encode(),
    ]
    try:
        await stream.send_all(b"\r\n".join([*lines, b"", b""]))
    except trio.BrokenResourceError as exc:
        raise TransportError("the connection was closed during the WebSocket handshake") from exc


async def send_answer(
    raw: trio.SocketStream, stream: trio.abc.SendStream, answer: Answer, *, head_only: bool = False
) -> None:
    """Send ``answer`` over ``stream`` and end the sending side of ``raw``, the socket below it; closes nothing.

    Best effort: a client that is gone is no error. Takes at most `LINGER_TIMEOUT` after the answer is sent.
    """
    body = f"{answer.text}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *answer.headers,
    ]
    lines = [f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}", *(f"{k}: {v}" for k, v in headers)]
    head = "\r\n".join([*lines, "", ""]).encode()
    try:
        await stream.send_all(head if head_only else head + body)
        await raw.send_eof()
        with trio.move_on_after(LINGER_TIMEOUT):
            left = LINGER_BYTES
            while left > 0 and (chunk := await raw.receive_some(left)):
                left -= len(chunk)
    except trio.BrokenResourceError:
        pass


def _method_not_allowed(allowed: str) -> Answer:
    return Answer(405, "this method is not allowed here", [("Allow", allowed)])


def _tokens(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    """The comma-separated values of all headers of that name; lower-case, as all of ours are."""
    values = (value.decode("latin-1") for name, value in headers if name == wanted)
    return [token.strip().lower() for value in values for token in value.split(",")]


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False
