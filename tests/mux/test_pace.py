"""How fast the frames of a control channel are handled."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from hybridrelay.mux import CONTROL_CONFIG, DATA_CONFIG, Session, SessionRole
from hybridrelay.mux.pace import BURST, PER_SECOND, Pace
from hybridrelay.protocol import SessionConfig, frames


def test_a_burst_is_taken_at_once_and_comes_back() -> None:
    pace = Pace(0.0)
    assert pace.take(int(BURST), 0, 0.0) == 0
    assert pace.take(int(PER_SECOND), 0, 0.0) == 1.0
    assert pace.take(0, 0, 1.0) == 0
    assert pace.take(int(PER_SECOND), 0, 2.0) == 0
    # However long nothing comes, no more than a burst.
    assert pace.take(int(BURST), 0, 1e9) == 0
    assert pace.take(1, 0, 1e9) == 1 / PER_SECOND


def test_bytes_count_as_well() -> None:
    pace = Pace(0.0)
    assert pace.take(0, int(BURST) * 1024, 0.0) == 0
    assert pace.take(1, 1024, 0.0) == 2 / PER_SECOND


def test_a_single_read_never_waits_for_long() -> None:
    """A pause must not look like the silence of a peer that has gone."""
    smallest, read = frames.HEADER_SIZE, 2048
    pace = Pace(0.0)
    pace.take(int(BURST), 0, 0.0)
    assert pace.take(read // smallest, read, 0.0) < CONTROL_CONFIG.ping_timeout / 2


@pytest.mark.parametrize("config", [CONTROL_CONFIG, DATA_CONFIG], ids=["control", "data"])
async def test_a_flood_on_a_control_channel_is_read_with_pauses(
    autojump_clock: trio.testing.MockClock, config: SessionConfig
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session.create(SessionRole.ACCEPTOR, config=config)
    count = int(BURST) + 10 * int(PER_SECOND)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, theirs)
        await ours.send_all(frames.Hello(bytes(16), bytes(32), 1).encode())
        assert await ours.receive_some(), "its HELLO"
        began = trio.current_time()
        for _ in range(count):
            await ours.send_all(frames.Ack(0).encode())
        while session.core.frames_received < count:
            await trio.sleep(0.1)
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    assert (took >= 9) is config.is_control


async def test_a_flood_on_a_data_channel_lets_others_run_between_a_few_frames(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What a frame costs does not depend on its size: an application may have hundreds of sessions."""
    ours, theirs = trio.testing.memory_stream_pair()
    session = Session.create(SessionRole.ACCEPTOR, config=DATA_CONFIG)
    count, counts = 4096, [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, theirs)
        await ours.send_all(frames.Hello(bytes(16), bytes(32), 1).encode())
        assert await ours.receive_some(), "its HELLO"
        await ours.send_all(frames.Ack(0).encode() * count)
        while counts[-1] < count:
            await trio.lowlevel.checkpoint()
            counts.append(session.core.frames_received)
        nursery.cancel_scope.cancel()
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 2 * 128
