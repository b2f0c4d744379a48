"""The client's WebSocket handshake, which trio-websocket does on a stream that stays ours.

trio-websocket reads ahead, and starts a task that keeps reading. Therefore it gets a substitute for the connection,
which delivers only the HTTP head and then blocks. When the handshake is complete, that task is cancelled while it
waits. It has neither seen nor written any frame, and closes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

import trio
import trio_websocket

from hybridrelay.errors import TransportError, UpgradeRefused

from .names import PATH, SUBPROTOCOL

__all__ = ["handshake_as_client"]

#: A response is refused if its head, together with interim responses, has not ended when more than this many bytes
#: have arrived. Enough for a proxy's cookies and tracing headers, and a bound on memory (at most twice as much).
#: nginx allows 8 KiB per line, h11 16 KiB.
MAX_HEAD = 16 * 1024

_PATH_MISSING = "check that the address is a relay's and that anything in front of it passes {path} on"
_UPGRADE_MISSING = (
    "the path is right, but something in front of the relay does not pass on the headers Upgrade and Connection: "
    "configure it for WebSocket"
)
_CREDENTIALS_MISSING = (
    "something in front of the relay requires credentials: give the header fields that it expects with "
    "--websocket-headers-file, or let it pass {path} without any"
)
#: The statuses with which access proxies answer: refusals, and redirects to a login page.
_REQUIRES_CREDENTIALS = frozenset({b"301", b"302", b"303", b"307", b"308", b"401", b"403"})
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
#: Fields that mean nothing in an answer without a body, whatever their values are (RFC 9112, section 6.3). Some
#: proxies add them, and h11 does not accept all of their values.
_FRAMING_FIELD = re.compile(
    rb"\r\n(?:content-length|transfer-encoding)[ \t]*:[^\r]*(?:\r\n[ \t][^\r]*)*(?=\r\n)", re.IGNORECASE
)
_HTTP = b"HTTP/1."
_NO_HANDSHAKE = "the answer is not a WebSocket handshake"
_CLOSED = "the connection was closed during the WebSocket handshake"


class _HeadStream(trio.abc.Stream):
    """What trio-websocket gets instead of the connection: reading returns the head and then blocks; closing raises
    an error."""

    def __init__(self, stream: trio.abc.Stream, read_head: Callable[[], Awaitable[bytes]]) -> None:
        self._stream = stream
        self._read_head = read_head
        self._head_read = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as exc:
            # Translated here, because trio-websocket would discard this exception, and its caller would wait forever.
            raise TransportError.lost(_CLOSED, exc) from exc

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._head_read:
            self._head_read = True
            # May return more than `max_bytes`. Here MAX_HEAD limits the memory instead.
            return await self._read_head()
        await trio.sleep_forever()
        raise AssertionError("unreachable")  # pragma: no cover

    async def aclose(self) -> None:
        # trio-websocket closes the stream only if the head is not a handshake. The exception ends its task and the
        # nursery.
        raise TransportError(_NO_HANDSHAKE)


async def handshake_as_client(
    stream: trio.abc.Stream, host: str, path: str = PATH, headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Request the upgrade (RFC 6455 section 4.1).

    Args:
        stream: the connection; the caller closes it if this raises.
        host: for the Host header, with the port if that is not the default.
        path: the path to request.
        headers: further header fields, which have been checked (`HttpOptions`).

    Returns:
        The bytes that were read after the server's head.

    Raises:
        TransportError: the other side gave another answer, or none.

    The caller sets the deadline. If cancelled, the caller closes the stream.
    """
    received = bytearray()
    head_size = 0

    async def receive_head(begin: int) -> tuple[int, bytes]:
        """Receive a head that begins at `begin`. Returns its end, and its status."""
        while (end := received.find(b"\r\n\r\n", begin)) < 0:
            if not _HTTP.startswith(received[begin : begin + len(_HTTP)]):
                raise TransportError("what answers does not speak HTTP")
            if len(received) > MAX_HEAD:
                raise TransportError("the HTTP answer is too long")
            try:
                chunk = await stream.receive_some(MAX_HEAD)
            except trio.BrokenResourceError as exc:
                raise TransportError.lost(_CLOSED, exc) from exc
            if not chunk:
                raise TransportError.lost(_CLOSED)
            received.extend(chunk)
        status = _STATUS_LINE.match(received, begin)
        if status is None:
            raise TransportError("what answers does not speak HTTP")
        return end + 4, status[1]

    async def read_head() -> bytes:
        nonlocal head_size
        begin, status = 0, b"100"
        while status.startswith(b"1") and status != b"101":  # interim answers come first (RFC 9110, section 15.2)
            begin = head_size
            head_size, status = await receive_head(begin)
        if status != b"101":
            # Raised here, because trio-websocket would wait for a body, which may never arrive.
            raise UpgradeRefused(
                f"the WebSocket upgrade was refused with HTTP status {status.decode()}",
                status=int(status),
                remedy=_remedy(status, path),
            )
        return _FRAMING_FIELD.sub(b"", received[begin:head_size])

    async def ask(nursery: trio.Nursery) -> None:
        connection = await trio_websocket.wrap_client_stream(
            nursery,
            _HeadStream(stream, read_head),  # type: ignore[arg-type]  # works with any stream; the annotation is narrower
            host,
            path,
            subprotocols=[SUBPROTOCOL],
            extra_headers=_with_user_agent(headers),
        )
        if connection.subprotocol != SUBPROTOCOL:
            raise TransportError("the WebSocket server is not a relay: it did not choose our subprotocol")

    await _run(ask)
    return bytes(received[head_size:])


def _with_user_agent(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    own = [] if any(name.lower() == "user-agent" for name, _ in headers) else [("User-Agent", "hybridrelay")]
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in (*own, *headers)]


def _remedy(status: bytes, path: str) -> str:
    if status == b"426":
        return _UPGRADE_MISSING
    return (_CREDENTIALS_MISSING if status in _REQUIRES_CREDENTIALS else _PATH_MISSING).format(path=path)


async def _run(handshake: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Run the handshake, end trio-websocket's task, and translate its exceptions.

    trio-websocket may raise many exceptions, some of them by accident while parsing (`UnicodeError`); the peer
    causes all of them.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await handshake(nursery)
            nursery.cancel_scope.cancel()
    except* Exception as group:  # noqa: BLE001  # see above
        failure = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
    if isinstance(failure, TransportError):
        raise failure
    if failure is not None:
        # trio-websocket often fails a second time while it answers a bad head. The first failure says what is wrong.
        first = failure
        while first.__context__ is not None:
            first = first.__context__
        raise TransportError(f"{_NO_HANDSHAKE}: {first}") from failure
