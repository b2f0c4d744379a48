"""`NowaitStream.has_more`: if it were False by mistake, what a stream still holds would never be read."""

from __future__ import annotations

import select
import socket
import sys

import pytest
import trio
import trio.testing

from hybridrelay.streams.nowait import READ_BYTES, SMALL_READ_BYTES, TURN_BYTES, NowaitSocket, NowaitStream, nowait
from hybridrelay.testing import tcp_pair
from hybridrelay_websocket.frames import END_OF_DATA, encode_close, encode_data
from hybridrelay_websocket.stream import MAX_FRAMES_PER_READ, PROTOCOL_ERROR, WebSocketStream

from ..fake_channels import Discarding
from ..stream_pairs import tls

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets are used through their descriptors")


async def arrived(stream: trio.SocketStream, event: int = select.POLLIN) -> None:
    """Wait until the kernel would report this."""
    poll = select.poll()
    poll.register(stream.socket.fileno(), event)
    with trio.fail_after(60):
        while not any(happened & event for _, happened in poll.poll(0)):
            await trio.lowlevel.checkpoint()


async def move(far: trio.SocketStream, near: trio.SocketStream, sock: NowaitSocket, size: int) -> None:
    """Send and read this much, in pieces, so that no read finds less than it has asked for."""
    while size:
        piece = min(1000, size)
        await far.send_all(bytes(piece))
        await arrived(near)
        data = sock.receive_nowait(piece)
        assert data is not None
        assert len(data) == piece
        size -= piece


def more(stream: NowaitStream) -> bool:
    """Return `has_more`. If a test asserted the attribute itself, mypy would assume that it does not change."""
    return stream.has_more


async def close_all(*streams: trio.abc.AsyncResource) -> None:
    for stream in streams:
        await trio.aclose_forcefully(stream)


# --- sockets


async def test_a_socket_has_no_more_after_a_read_that_found_less_than_its_buffer_holds() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    assert sock.socket_below is sock
    assert more(sock), "nobody has looked"
    assert sock.receive_nowait() is None
    assert not more(sock)
    await far.send_all(b"12345678")
    await arrived(near)
    sock.on_readable(hung_up=False)
    assert more(sock)
    assert sock.receive_nowait(4) == b"1234"
    assert more(sock), "the buffer was full"
    assert sock.receive_nowait(5) == b"5678"
    assert not more(sock)
    assert sock.receive_nowait() is None
    assert not more(sock)
    await close_all(near, far)


async def test_a_socket_has_more_after_it_has_hung_up() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    await far.send_all(b"last")
    await far.send_eof()
    await arrived(near, getattr(select, "POLLRDHUP", select.POLLIN))
    sock.on_readable(hung_up=True)
    assert sock.receive_nowait() == b"last"
    assert more(sock)
    assert sock.receive_nowait() == b""
    await close_all(near, far)


async def test_that_a_socket_has_hung_up_is_not_forgotten() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    sock.on_readable(hung_up=True)
    sock.on_readable(hung_up=False)
    await far.send_all(b"last")
    await arrived(near)
    assert sock.receive_nowait() == b"last"
    assert more(sock)
    await close_all(near, far)


async def test_a_socket_has_more_when_it_only_lets_others_run() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    await move(far, near, sock, TURN_BYTES)
    await far.send_all(b"x")
    await arrived(near)
    assert sock.receive_nowait(1) is None
    assert more(sock)
    assert sock.receive_nowait(1) == b"x"
    await close_all(near, far)


async def test_a_socket_that_has_drained_has_no_more_although_its_turn_is_over() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    await move(far, near, sock, TURN_BYTES - 1)
    await far.send_all(b"x")
    await arrived(near)
    assert sock.receive_nowait(5) == b"x"
    assert not more(sock)
    assert sock.receive_nowait(5) is None
    assert not more(sock)
    await close_all(near, far)


async def test_flushing_a_socket_without_waiting() -> None:
    near, far = await tcp_pair()
    for stream in (near, far):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    sock = NowaitSocket(near)
    assert sock.flush_nowait(), "nothing is buffered"
    data = bytes(range(256)) * 4000
    assert not sock.send_nowait(data)
    assert not sock.flush_nowait()
    received, before = bytearray(), sock.unsent_bytes
    with trio.fail_after(60):
        while not sock.flush_nowait():
            assert 0 < sock.unsent_bytes <= before
            before = sock.unsent_bytes
            received += await far.receive_some()
    assert sock.unsent_bytes == 0
    sock.send_eof_nowait()
    while some := await far.receive_some():
        received += some
    assert received == data
    await far.send_all(b"answer")
    await arrived(near)
    assert sock.receive_nowait() == b"answer"
    await close_all(near, far)


async def test_a_socket_says_once_that_it_has_failed() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    assert not sock.has_failed()
    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await far.aclose()
    await arrived(near, select.POLLERR)
    assert sock.has_failed()
    assert not sock.has_failed()
    await close_all(near)
    assert sock.has_failed(), "it was closed"


async def test_the_end_of_a_direction_that_cannot_be_sent() -> None:
    near, far = await tcp_pair()
    sock = NowaitSocket(near)
    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await far.aclose()
    await arrived(near, select.POLLERR)
    with pytest.raises(trio.BrokenResourceError):
        sock.send_eof_nowait()
    await close_all(near)
    with pytest.raises(trio.ClosedResourceError):
        sock.send_eof_nowait()


# --- TLS


async def test_tls_has_more_while_it_holds_what_it_has_decrypted() -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    assert near.socket_below is not None
    assert near.socket_below.fileno() == raw.socket.fileno()
    await far.send_all(b"1234")
    await arrived(raw)
    assert near.receive_nowait(READ_BYTES) == b"1234"
    assert not more(near)
    await far.send_all(b"5678")
    await near.wait_readable()
    assert near.receive_nowait(2) == b"56"
    assert more(near)
    assert near.receive_nowait(2) == b"78"
    assert near.receive_nowait(2) is None
    assert not more(near)
    await close_all(near, far)


@pytest.mark.parametrize("most", [SMALL_READ_BYTES, READ_BYTES])
async def test_tls_has_more_while_records_are_left(most: int) -> None:
    """Many records of one byte are not decrypted in one go, and, in small reads, each is decrypted apart."""
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    records = 3000

    async def send() -> None:
        for _ in range(records):
            if not far.send_nowait(b"x"):
                await far.flush()

    received = reads = 0
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while received < records:
                await near.wait_readable()
                while True:
                    data = near.receive_nowait(most)
                    received += len(data or b"")
                    reads += 1
                    if not near.has_more:
                        assert near.receive_nowait(most) is None
                        break
    assert reads > 3
    await close_all(near, far)


async def test_tls_has_more_at_its_end() -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    await far.send_all(b"last")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.aclose)
        await arrived(raw, getattr(select, "POLLRDHUP", select.POLLIN))
        # As if the socket had not reported its end yet.
        assert near.receive_nowait() == b"last"
        assert more(near)
        assert near.receive_nowait() == b""
        assert more(near)
        await near.aclose()


async def test_tls_has_more_after_an_error() -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    await far.send_all(b"intact")
    await far_raw.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    await arrived(raw)
    assert near.receive_nowait() == b"intact"
    assert more(near)
    with pytest.raises(trio.BrokenResourceError):
        near.receive_nowait()
    assert more(near)
    await close_all(near, far)


async def test_tls_flushes_without_waiting_unless_another_task_sends() -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    assert near.flush_nowait()
    size = 0
    while near.send_nowait(bytes(400_000)):
        size += 400_000
    size += 400_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.flush)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            near.flush_nowait()
        nursery.cancel_scope.cancel()
    received = 0
    with trio.fail_after(60):
        while not near.flush_nowait():
            received += len(await far.receive_some())
        while received < size:
            received += len(await far.receive_some())
    assert near.send_nowait(b"more")
    assert await far.receive_some() == b"more"
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        near.flush_nowait()
    await close_all(near, far)


async def test_tls_cannot_be_used_after_flushing_has_failed() -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    while near.send_nowait(bytes(400_000)):
        pass
    far_raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await far_raw.aclose()
    await arrived(raw, select.POLLERR)
    with pytest.raises(trio.BrokenResourceError):
        near.flush_nowait()
    with pytest.raises(trio.BrokenResourceError, match="an earlier send failed"):
        near.flush_nowait()
    await close_all(near, far)


async def test_tls_over_something_else_has_no_socket_below() -> None:
    near, far = await tls(trio.testing.memory_stream_pair())
    assert near.socket_below is None
    await far.send_all(b"1234")
    await near.wait_readable()
    assert near.receive_nowait(1) == b"1"
    assert more(near)
    assert near.receive_nowait() == b"234"
    assert not more(near)
    await close_all(near, far)


async def test_an_adapted_stream_has_more_while_it_holds_something() -> None:
    near, far = trio.testing.memory_stream_pair()
    adapter = nowait(near)
    assert adapter.socket_below is None
    assert not more(adapter)
    await far.send_all(b"1234")
    await adapter.wait_readable()
    assert more(adapter)
    assert adapter.receive_nowait(3) == b"123"
    assert more(adapter)
    assert adapter.receive_nowait(3) == b"4"
    assert not more(adapter)
    with pytest.raises(NotImplementedError):
        adapter.flush_nowait()


# --- WebSocket


class Arriving(Discarding):
    """Returns what a test has given to it."""

    def __init__(self) -> None:
        self.arrived: list[bytes] = []

    @property
    def readable(self) -> bool:
        return bool(self.arrived)

    @property
    def has_more(self) -> bool:
        return self.readable

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> bytes | None:
        return self.arrived.pop(0) if self.arrived else None


def message(payload: bytes) -> bytes:
    return b"".join(encode_data(payload, masked=False))


@pytest.fixture
def below() -> Arriving:
    return Arriving()


@pytest.fixture
def stream(below: Arriving) -> WebSocketStream:
    return WebSocketStream(below, client=True)


def test_websocket_has_no_socket_below(stream: NowaitStream) -> None:
    assert stream.socket_below is None


def test_websocket_has_more_while_it_holds_payload(below: Arriving, stream: NowaitStream) -> None:
    assert not more(stream)
    below.arrived = [message(b"1234")]
    assert more(stream)
    assert stream.receive_nowait(1) == b"1"
    assert more(stream)
    assert stream.receive_nowait(3) == b"234"
    assert not more(stream)


async def test_websocket_has_more_while_frames_are_left_unless_it_pauses(
    below: Arriving, stream: WebSocketStream, autojump_clock: trio.testing.MockClock
) -> None:
    size = 100
    below.arrived = [message(bytes(size)) * (MAX_FRAMES_PER_READ + 1)]
    assert len(stream.receive_nowait() or b"") == size * MAX_FRAMES_PER_READ
    assert more(stream) == (stream._paused_until is None)
    await stream.wait_readable()
    assert more(stream)
    assert len(stream.receive_nowait() or b"") == size
    assert not more(stream)
    below.arrived = [message(b"x") * (MAX_FRAMES_PER_READ + 1)]
    assert len(stream.receive_nowait() or b"") == MAX_FRAMES_PER_READ
    assert not more(stream), "it pauses"
    await stream.wait_readable()
    assert more(stream)
    assert stream.receive_nowait() == b"x"


@pytest.mark.parametrize(
    ("following", "error"),
    [
        (message(END_OF_DATA), None),
        (encode_close(PROTOCOL_ERROR, masked=False), "the peer closed"),
        (b"\xff\xff", "violated"),
    ],
)
async def test_websocket_has_more_if_the_end_or_an_error_came_with_payload(
    below: Arriving,
    stream: NowaitStream,
    following: bytes,
    error: str | None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    below.arrived = [message(b"last") + following]
    assert stream.receive_nowait() == b"last"
    for _ in range(2):
        assert more(stream)
        with trio.fail_after(1):
            await stream.wait_readable()
        if error is None:
            assert stream.receive_nowait() == b""
        else:
            with pytest.raises(trio.BrokenResourceError, match=error):
                stream.receive_nowait()
