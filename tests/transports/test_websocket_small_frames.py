"""Small frames cost as much time as large ones: others run between them; tiny ones are received with pauses."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.streams.nowait import NowaitStream
from hybridrelay_websocket.frames import encode_data
from hybridrelay_websocket.stream import (
    MAX_FRAMES_PER_READ,
    PAUSE_SECONDS,
    SMALL_FRAME_BYTES,
    TINY_FRAME_BYTES,
    WebSocketStream,
)

BLOCKS = 20


async def _receive_all(stream: NowaitStream) -> tuple[bytes, int]:
    """What arrives up to the end, and how often others could run meanwhile."""
    received, waits = bytearray(), 0
    while True:
        block = stream.receive_nowait()
        if block is None:
            waits += 1
            await stream.wait_readable()
        elif block:
            received += block
        else:
            return bytes(received), waits


@pytest.mark.parametrize(
    ("size", "pauses", "lets_others_run"),
    [
        (1, True, True),
        (TINY_FRAME_BYTES - 1, True, True),
        (TINY_FRAME_BYTES, False, True),
        (SMALL_FRAME_BYTES, False, False),
    ],
)
async def test_a_flood_of_small_frames(
    autojump_clock: trio.testing.MockClock, size: int, pauses: bool, lets_others_run: bool
) -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = WebSocketStream(near, client=False)
    data = bytes(range(256)) * (BLOCKS * MAX_FRAMES_PER_READ * size // 256 + 1)
    frames = [data[at : at + size] for at in range(0, BLOCKS * MAX_FRAMES_PER_READ * size, size)]
    await far.send_all(b"".join(b"".join(encode_data(frame, masked=True)) for frame in (*frames, b"")))
    began = trio.current_time()
    received, waits = await _receive_all(stream)
    assert received == b"".join(frames)
    assert (waits >= BLOCKS) == lets_others_run
    assert trio.current_time() - began == pytest.approx(BLOCKS * PAUSE_SECONDS if pauses else 0)


PING, PONG, EMPTY = b"\x89\xfd", b"\x8a\xfd", b"\x00\x80"
MASK = bytes(4)


@pytest.mark.parametrize(
    "frame", [PING + MASK + bytes(125), PONG + MASK + bytes(125), EMPTY + MASK], ids=["pings", "pongs", "fragments"]
)
async def test_a_flood_of_frames_without_data(autojump_clock: trio.testing.MockClock, frame: bytes) -> None:
    """This also holds if there is a little data between them, so that the caller gets something."""
    near, far = trio.testing.memory_stream_pair()
    stream = WebSocketStream(near, client=False)
    begin, end = b"\x02\x81" + MASK + b"x", b"\x80\x80" + MASK
    data = b"".join(encode_data(b"x", masked=True))
    few = [data + frame * 40] if frame[0] & 0x0F else [begin + frame * 40 + end]
    await far.send_all(b"".join(few * (BLOCKS * MAX_FRAMES_PER_READ // 40)) + b"".join(encode_data(b"", masked=True)))
    began = trio.current_time()
    received, _ = await _receive_all(stream)
    assert received == b"x" * (BLOCKS * MAX_FRAMES_PER_READ // 40)
    assert trio.current_time() - began >= (BLOCKS - 5) * PAUSE_SECONDS / 2


async def test_a_few_tiny_frames_are_received_at_once(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = WebSocketStream(near, client=False)
    await far.send_all(b"".join(encode_data(b"x", masked=True)) * (MAX_FRAMES_PER_READ - 1))
    assert await stream.receive_some() == b"x" * (MAX_FRAMES_PER_READ - 1)
    assert trio.current_time() == 0


async def test_a_pause_that_is_cancelled_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = WebSocketStream(near, client=False)
    await far.send_all(b"".join(encode_data(b"x", masked=True)) * 2 * MAX_FRAMES_PER_READ)
    assert await stream.receive_some() == b"x" * MAX_FRAMES_PER_READ
    with trio.move_on_after(PAUSE_SECONDS / 2) as scope:
        await stream.receive_some()
    assert scope.cancelled_caught
    assert await stream.receive_some() == b"x" * MAX_FRAMES_PER_READ
    assert trio.current_time() == pytest.approx(PAUSE_SECONDS)
