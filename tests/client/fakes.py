"""Relays of a client that answer as a test wants."""

from __future__ import annotations

import math

import trio
import trio.testing

from hybridrelay.client.relays.listeners import ListenerSearch
from hybridrelay.client.relays.sender import DataChannel, Peer
from hybridrelay.connectivity import candidates, discover
from hybridrelay.errors import HybridRelayError
from hybridrelay.security import PeerIdentity, Role

#: What a search for any listener finds.
ANY = Peer("any", PeerIdentity("db", Role.CONNECTOR, "lab", "01", 4e9, b"hash"))
CARRIER = candidates(discover(), "tcp")[0]


class FakeLink:
    """The part of a `RelayLink` that is looked at."""

    def __init__(self, host: str) -> None:
        self.host = host


class FakeSender:
    """A relay that answers as a test wants: after some time, with a channel or an error."""

    def __init__(self, host: str) -> None:
        self.link = FakeLink(host)
        self.away_until = self.failed_at = -math.inf
        self.takes = 0.01
        #: What the answer waits for after that.
        self.ready = trio.Event()
        self.ready.set()
        self.error: HybridRelayError | None = None
        self.asked: list[float] = []
        self.wanted: list[Peer | ListenerSearch] = []
        self.opened: list[DataChannel] = []
        self.cancelled = self.channels_lost = 0

    def on_opened(self) -> None:
        """Called when a data channel was opened; for tests to replace."""

    @property
    def is_away(self) -> bool:
        return trio.current_time() < self.away_until

    async def open_data_channel(self, to: Peer | ListenerSearch) -> DataChannel:
        self.asked.append(trio.current_time())
        self.wanted.append(to)
        try:
            await trio.sleep(self.takes)
            await self.ready.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        ours, _ = trio.testing.memory_stream_pair()
        self.opened.append(DataChannel(ours, to if isinstance(to, Peer) else ANY, self, CARRIER))
        self.on_opened()
        return self.opened[-1]

    def failed(self) -> None:
        self.failed_at = trio.current_time()

    def data_channel_lost(self) -> None:
        self.channels_lost += 1

    open_data_channel_probing = open_data_channel
