"""The pairs of one holder share the turns of the event loop, however many there are and whatever they receive."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import trio

from hybridrelay.relay.service.pace import PairPace
from hybridrelay.relay.service.pump import pump
from hybridrelay.streams.nowait import READ_BYTES, TURN_SECONDS, Buffer
from hybridrelay.streams.turns import SharedTurns

from ...fake_channels import Discarding

PAIRS, READS = 20, 30


class Channel(Discarding):
    """A data channel that is readable a number of times, but holds only this data, or nothing: WebSocket pongs."""

    def __init__(self, reads: int, data: bytes | None) -> None:
        self._left = reads
        self._data = data
        self.reads = 0

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        if not self._left:
            return None
        self._left -= 1
        self.reads += 1
        return self._data

    @property
    def readable(self) -> bool:
        return self._left > 0


class MostReads(trio.abc.Instrument):
    """Finds the most reads of all channels in one pass of the event loop."""

    def __init__(self, channels: list[Channel]) -> None:
        self._channels = channels
        self.total = self.most = 0

    def before_io_wait(self, timeout: float) -> None:
        now = sum(channel.reads for channel in self._channels)
        self.most, self.total = max(self.most, now - self.total), now


@pytest.mark.parametrize("data", [None, b"x"], ids=["nothing", "one byte"])
@pytest.mark.parametrize("one_holder", [True, False])
async def test_a_holder_has_one_turn_in_a_pass(one_holder: bool, data: bytes | None) -> None:
    def turns() -> SharedTurns:
        # Each look at this clock takes a whole turn, so that one read does.
        return SharedTurns(itertools.count(0.0, TURN_SECONDS).__next__)

    shared = turns()
    channels = [Channel(READS, data) for _ in range(PAIRS)]
    instrument = MostReads(channels)
    async with trio.open_nursery() as nursery:
        for channel in channels:
            pace = PairPace(turns=shared if one_holder else turns())
            nursery.start_soon(partial(pump, channel, Channel(0, None), pace=pace))
        trio.lowlevel.add_instrument(instrument)
        with trio.fail_after(60):
            while instrument.total < PAIRS * READS:
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(instrument)
        nursery.cancel_scope.cancel()
    if one_holder:
        assert instrument.most <= 3
    else:
        assert instrument.most >= PAIRS // 2
