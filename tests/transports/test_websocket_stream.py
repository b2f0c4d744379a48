"""The WebSocket stream over memory: trio's contract, ends and breaks, pings, and a peer that does not read."""

from __future__ import annotations

import weakref

import pytest
import trio
import trio.testing

from hybridrelay.streams import sockets
from hybridrelay.testing import tcp_pair
from hybridrelay_websocket.frames import (
    MAX_FRAMES_OF_STRANGER,
    Close,
    Data,
    EndOfData,
    Event,
    FrameDecoder,
    Ping,
    encode_close,
    encode_data,
    encode_pong,
)
from hybridrelay_websocket.stream import CLOSE_TIMEOUT, MAX_FRAMES_PER_READ, MAX_MESSAGE, WebSocketStream

from ..leaks import no_garbage_collector


def wrap(
    client: trio.abc.HalfCloseableStream, server: trio.abc.HalfCloseableStream
) -> tuple[WebSocketStream, WebSocketStream]:
    return WebSocketStream(client, client=True), WebSocketStream(server, client=False)


def message(payload: bytes) -> bytes:
    """The frame as the client sends it."""
    return b"".join(encode_data(payload, masked=True))


def ping(payload: bytes) -> bytes:
    """A ping differs from a pong in one bit."""
    pong = encode_pong(payload, masked=True)
    return bytes([pong[0] & ~0x2 | 0x1]) + pong[1:]


END = message(b"")


class Peer:
    """A client that speaks in frames, and the stream of the server that it talks to."""

    def __init__(self, *, lockstep: bool = False) -> None:
        self.raw: trio.abc.HalfCloseableStream
        below: trio.abc.HalfCloseableStream
        self.raw, below = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
        self.stream = WebSocketStream(below, client=False)
        self._decoder = FrameDecoder(masked=False)

    async def next_event(self) -> Event | None:
        """The next event of what the server sends, or None at the end of file."""
        while (event := self._decoder.next_event(1 << 20)) is None:
            data = await self.raw.receive_some()
            if not data:
                return None
            self._decoder.receive_untrusted(bytes(data))
        return event


async def test_it_behaves_like_a_stream_of_trio() -> None:
    async def make_pair() -> tuple[WebSocketStream, WebSocketStream]:
        return wrap(*trio.testing.memory_stream_pair())

    async def make_clogged_pair() -> tuple[WebSocketStream, WebSocketStream]:
        return wrap(*trio.testing.lockstep_stream_pair())

    async def make_pair_swapped() -> tuple[WebSocketStream, WebSocketStream]:
        return wrap(*trio.testing.memory_stream_pair())[::-1]

    async def make_clogged_pair_swapped() -> tuple[WebSocketStream, WebSocketStream]:
        return wrap(*trio.testing.lockstep_stream_pair())[::-1]

    await trio.testing.check_half_closeable_stream(make_pair, make_clogged_pair)
    await trio.testing.check_half_closeable_stream(make_pair_swapped, make_clogged_pair_swapped)


@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536, MAX_MESSAGE, 3 * MAX_MESSAGE + 5])
@pytest.mark.parametrize("client_sends", [True, False])
async def test_data_of_any_size_arrives(size: int, client_sends: bool) -> None:
    client, server = wrap(*trio.testing.memory_stream_pair())
    source, sink = (client, server) if client_sends else (server, client)
    data = bytes(range(256)) * (size // 256 + 1)
    await source.send_all(data[:size])
    await source.send_eof()
    received = b""
    while chunk := await sink.receive_some():
        received += chunk
    assert received == data[:size]


async def test_long_data_becomes_many_messages() -> None:
    peer = Peer()
    await peer.stream.send_all(bytes(2 * MAX_MESSAGE + 1))
    await peer.stream.send_eof()
    sizes = []
    while isinstance(event := await peer.next_event(), Data):
        sizes.append(len(event.payload))
    assert sizes == [MAX_MESSAGE, MAX_MESSAGE, 1]
    assert event == EndOfData()


async def test_small_messages_that_are_there_come_together() -> None:
    peer = Peer()
    await peer.raw.send_all(message(b"a") + ping(b"") + message(b"b") + message(b"c") + END)
    assert await peer.stream.receive_some() == b"abc"
    assert await peer.stream.receive_some() == b""


async def test_what_came_with_the_handshake_is_read_first() -> None:
    _, below = trio.testing.memory_stream_pair()
    stream = WebSocketStream(below, client=False, received=message(b"early") + END)
    assert await stream.receive_some(2) == b"ea"
    assert await stream.receive_some() == b"rly"
    assert await stream.receive_some() == b""


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "without an end of data"),
        (encode_close(1000, masked=True), "closed without an end of data .code 1000"),
        (message(b"half")[:-1], "without an end of data"),
        (encode_data(b"unmasked", masked=False)[0], "not masked"),
        (b"\x81\x80\x00\x00\x00\x00", "opcode 1"),
    ],
    ids=["end of file", "close", "half a frame", "unmasked", "text"],
)
async def test_what_arrived_before_a_break_is_received_and_the_break_is_not_an_end_of_file(
    sent: bytes, why: str
) -> None:
    peer = Peer()
    await peer.raw.send_all(message(b"before") + sent)
    await peer.raw.send_eof()
    expected = b"beforehalf"[: len(b"before") + (3 if sent.startswith(b"\x82\x84") else 0)]
    received = b""
    while len(received) < len(expected):
        received += await peer.stream.receive_some()
    assert received == expected
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match=why):
            await peer.stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await peer.stream.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await peer.stream.send_eof()
    with pytest.raises(trio.BrokenResourceError):
        await peer.stream.wait_send_all_might_not_block()
    await peer.stream.aclose()
    violation = "masked" in why or "opcode" in why
    assert await peer.next_event() == Close(1002 if violation else 1000), "and no end of data before it"


async def test_the_end_is_announced_once() -> None:
    peer = Peer()
    await peer.stream.send_all(b"x")
    await peer.stream.aclose()
    await peer.stream.aclose()
    assert [await peer.next_event() for _ in range(3)] == [Data(b"x"), EndOfData(), Close(1000)]
    assert await peer.raw.receive_some() == b""


async def test_the_end_of_data_is_said_once() -> None:
    peer = Peer()
    await peer.stream.send_eof()
    await peer.stream.send_eof()
    await peer.stream.aclose()
    assert [await peer.next_event() for _ in range(2)] == [EndOfData(), Close(1000)]


async def test_a_forceful_close_says_nothing() -> None:
    peer = Peer()
    await trio.aclose_forcefully(peer.stream)
    assert await peer.next_event() is None


async def test_a_goodbye_that_nobody_takes_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    peer = Peer(lockstep=True)
    start = trio.current_time()
    await peer.stream.aclose()
    assert trio.current_time() == start + CLOSE_TIMEOUT
    assert await peer.raw.receive_some() != b"x"


async def test_close_does_not_wait_for_a_blocked_sender(autojump_clock: trio.testing.MockClock) -> None:
    peer = Peer(lockstep=True)

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await peer.stream.send_all(b"x")

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()
    assert trio.current_time() == start


async def test_close_of_a_lost_connection() -> None:
    peer = Peer()
    await peer.raw.aclose()
    with pytest.raises(trio.BrokenResourceError, match="lost"):
        await peer.stream.send_all(b"x")
    await peer.stream.aclose()


async def test_waiting_on_a_lost_connection() -> None:
    near, far = await tcp_pair()
    async with near, far:
        stream = WebSocketStream(near, client=True)
        await sockets.abort_stream(far)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.wait_send_all_might_not_block()


async def test_a_loss_found_by_waiting() -> None:
    _, below = trio.testing.memory_stream_pair()

    async def fail() -> None:
        raise trio.BrokenResourceError

    below.send_stream.wait_send_all_might_not_block_hook = fail
    with pytest.raises(trio.BrokenResourceError, match="lost"):
        await WebSocketStream(below, client=True).wait_send_all_might_not_block()


async def test_close_of_a_connection_that_is_found_lost_then() -> None:
    peer = Peer()
    await peer.raw.aclose()
    await peer.stream.aclose()


async def test_a_cancelled_send_can_not_be_continued() -> None:
    peer = Peer(lockstep=True)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.stream.send_all, bytes(10))
            await trio.testing.wait_all_tasks_blocked()
            assert await peer.raw.receive_some(5)
            scope.cancel()
    for operation in (peer.stream.send_all(b"x"), peer.stream.send_eof()):
        with pytest.raises(trio.BrokenResourceError, match="not finished"):
            await operation
    # Receiving goes on.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.raw.send_all, message(b"still"))
        assert await peer.stream.receive_some() == b"still"
    await peer.stream.aclose()


async def test_an_end_of_data_that_was_cancelled_in_the_middle_is_not_followed_by_anything() -> None:
    peer = Peer(lockstep=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.stream.send_eof)
        await trio.testing.wait_all_tasks_blocked()
        assert len(await peer.raw.receive_some(1)) == 1, "a part of the frame"
        nursery.cancel_scope.cancel()
    for operation in (peer.stream.send_all(b"x"), peer.stream.send_eof()):
        with pytest.raises(trio.BrokenResourceError, match="not finished"):
            await operation
    await peer.stream.aclose()
    rest = b""
    while some := await peer.raw.receive_some():
        rest += some
    assert rest == b"".join(encode_data(b"", masked=False))[1:], "no Close, which might be in the middle of a frame"


@pytest.mark.parametrize("first", ["data", "end of data"])
async def test_a_frame_whose_write_has_failed_is_not_followed_by_anything(first: str) -> None:
    _, below = trio.testing.memory_stream_pair()

    async def fail_once() -> None:
        below.send_stream.send_all_hook = None
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug below")

    below.send_stream.send_all_hook = fail_once
    stream = WebSocketStream(below, client=False)
    with pytest.raises(RuntimeError, match="a bug below"):
        await (stream.send_all(b"x") if first == "data" else stream.send_eof())
    for operation in (stream.send_all(b"x"), stream.send_eof()):
        with pytest.raises(trio.BrokenResourceError, match="not finished") as caught:
            await operation
        assert isinstance(caught.value.__cause__, RuntimeError)
    await stream.aclose()


async def test_a_send_cancelled_before_it_began_tears_nothing() -> None:
    peer = Peer()
    with trio.CancelScope() as scope:
        scope.cancel()
        await peer.stream.send_all(b"never")
    await peer.stream.send_all(b"x")
    assert await peer.next_event() == Data(b"x")


async def test_a_cancelled_receive_loses_nothing() -> None:
    peer = Peer()
    sent = message(b"abc")
    await peer.raw.send_all(sent[:-1])
    assert await peer.stream.receive_some() == b"ab"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.stream.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    await peer.raw.send_all(sent[-1:])
    assert await peer.stream.receive_some() == b"c"


# --- pings


def pongs(data: bytes | bytearray) -> list[bytes]:
    """The payloads of the pongs in ``data``, which is nothing but whole small frames."""
    found: list[bytes] = []
    while data:
        size = data[1]
        assert data[0] == 0x8A, data
        found.append(bytes(data[2 : 2 + size]))
        data = data[2 + size :]
    return found


async def test_pings_are_answered_while_we_only_read() -> None:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.stream.receive_some)
        for payload in (b"one", b"two"):
            await peer.raw.send_all(ping(payload))
            assert pongs(await peer.raw.receive_some()) == [payload]
        nursery.cancel_scope.cancel()


async def test_of_many_pings_that_are_decoded_at_once_only_the_last_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    peer = Peer()
    await peer.raw.send_all(b"".join(ping(b"%d" % number) for number in range(4_000)) + END)
    assert await peer.stream.receive_some() == b""
    await trio.testing.wait_all_tasks_blocked()
    last = [MAX_FRAMES_PER_READ * (number + 1) - 1 for number in range(4_000 // MAX_FRAMES_PER_READ)]
    assert pongs(await peer.raw.receive_some()) == [b"%d" % number for number in (*last, 3_999)]


async def test_frames_are_few_until_the_peer_has_authenticated() -> None:
    peer = Peer()
    peer.stream.limit_held(8192)
    for _ in range(MAX_FRAMES_OF_STRANGER // 2):
        await peer.raw.send_all(ping(b"") + message(b"x"))
        assert await peer.stream.receive_some() == b"x"
        peer.stream.limit_held(4096)  # another number begins nothing
    peer.stream.limit_held(None)
    await peer.raw.send_all(message(b"y") * MAX_FRAMES_OF_STRANGER)
    left = MAX_FRAMES_OF_STRANGER
    while left:
        left -= len(await peer.stream.receive_some())
    peer.stream.limit_held(8192)
    await peer.raw.send_all(ping(b"") * (MAX_FRAMES_OF_STRANGER + 1))
    with pytest.raises(trio.BrokenResourceError, match="before authentication"):
        await peer.stream.receive_some()


async def test_a_reader_is_not_stopped_by_a_clogged_writer() -> None:
    peer = Peer(lockstep=True)

    async def send_pings() -> None:
        for number in range(100):
            await peer.raw.send_all(ping(b"%d" % number) + message(b"x"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.stream.send_all, bytes(200_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(send_pings)
        for _ in range(100):
            assert await peer.stream.receive_some() == b"x"
        assert await peer.next_event() == Data(bytes(200_000)), "no pong in the middle of a frame"
        # The first ping made the pong that waited for its turn, the last one the other.
        found = b""
        while len(found) < 2 + 1 + 2 + 2:
            found += await peer.raw.receive_some()
        assert pongs(found) == [b"0", b"99"]


async def test_a_clogged_pong_stops_neither_reading_nor_closing(autojump_clock: trio.testing.MockClock) -> None:
    peer = Peer(lockstep=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.raw.send_all, ping(b"p") + message(b"x"))
        assert await peer.stream.receive_some() == b"x"
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(peer.stream.send_all, b"waits for its turn")
        await trio.testing.wait_all_tasks_blocked()
        assert pongs(await peer.raw.receive_some()) == [b"p"]
        assert await peer.next_event() == Data(b"waits for its turn")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.raw.send_all, ping(b"p") + message(b"x"))
        assert await peer.stream.receive_some() == b"x"
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()


async def test_a_pong_that_fails_is_reported_to_the_next_sender() -> None:
    raw, below = trio.testing.memory_stream_pair()

    async def fail() -> None:
        raise RuntimeError("a bug below")

    below.send_stream.send_all_hook = fail
    stream = WebSocketStream(below, client=False)
    await raw.send_all(ping(b"") + message(b"x"))
    assert await stream.receive_some() == b"x"
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.send_all(b"x")
    assert isinstance(caught.value.__cause__, RuntimeError)
    await stream.aclose()


@pytest.mark.parametrize("cause", ["the peer has gone", "cancelled in the middle of a frame"])
async def test_a_stream_that_failed_is_freed_once_it_is_closed(cause: str) -> None:
    """The garbage collector is not needed. It does not know how much memory OpenSSL has allocated below."""
    peer = Peer(lockstep=True)
    with no_garbage_collector():
        if cause == "the peer has gone":
            await peer.raw.aclose()
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.stream.send_all, b"x")
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
        except* trio.BrokenResourceError:
            pass
        with pytest.raises(trio.BrokenResourceError):
            await peer.stream.send_all(b"x")
        await peer.stream.aclose()
        freed = weakref.ref(peer.stream)
        del peer
        assert freed() is None


async def test_no_pong_after_close() -> None:
    peer = Peer()
    await peer.raw.send_all(ping(b"p") + message(b"x"))
    assert await peer.stream.receive_some() == b"x"
    await trio.aclose_forcefully(peer.stream)
    await trio.testing.wait_all_tasks_blocked()
    assert await peer.raw.receive_some() in (b"", encode_pong(b"p", masked=False))


async def test_ping_from_the_server_is_answered_masked() -> None:
    raw, below = trio.testing.memory_stream_pair()
    stream = WebSocketStream(below, client=True)
    await raw.send_all(b"\x89\x01p" + b"".join(encode_data(b"x", masked=False)))
    assert await stream.receive_some() == b"x"
    data = await raw.receive_some()
    decoder = FrameDecoder(masked=True)
    decoder.receive_untrusted(bytes([data[0] ^ 0x3]) + bytes(data[1:]))  # a ping again, so that it is reported
    assert decoder.next_event(1) == Ping(b"p")
