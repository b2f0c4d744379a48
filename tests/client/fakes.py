"""Relays of a client that answer as a test wants."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
import trio.testing

from hybridrelay.client.relays.listeners import ListenerSearch
from hybridrelay.client.relays.relay_connection import DataChannel, Peer, RelayConnection
from hybridrelay.connectivity import DIRECTLY, RelayEndpoint, candidates, discover
from hybridrelay.connectivity.data import EndToEnd
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.errors import HybridRelayError
from hybridrelay.protocol import control
from hybridrelay.security import PeerIdentity, Role
from hybridrelay.streams import TLSStream

from ..stream_pairs import CLIENT

#: What a search for any listener finds.
ANY = Peer("any", PeerIdentity("db", Role.CONNECTOR, "lab", "01", 4e9, b"hash"))
#: The end-to-end TLS of a client, which no `FakeRelay` uses.
OURS = EndToEnd("db", Role.APPLICATION, "x-session-1", CLIENT)
CARRIER = candidates(discover(), "tcp")[0]


class FakeRelay(RelayConnection):
    """A relay that answers as a test wants: after some time, with a channel or an error.

    It has the interface of a `RelayConnection`, and nothing of its state.
    """

    def __init__(self, host: str) -> None:
        self.link = RelayLink(RelayEndpoint(host), control.PeerRole.CLIENT, instance=new_instance(), dialer=DIRECTLY)
        self.away_until = self.failed_at = -math.inf
        self.takes = 0.01
        #: What the answer waits for after that.
        self.ready = trio.Event()
        self.ready.set()
        self.error: HybridRelayError | None = None
        self.asked: list[float] = []
        self.wanted: list[Peer | ListenerSearch] = []
        self.identities: list[str] = []
        self.opened: list[DataChannel] = []
        self.cancelled = self.channels_lost = 0
        #: Called when a data channel was opened.
        self.on_opened: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<FakeRelay at {self.link.host}>"

    async def open_data_channel(self, to: Peer | ListenerSearch, end_to_end: EndToEnd) -> DataChannel:
        self.asked.append(trio.current_time())
        self.wanted.append(to)
        self.identities.append(end_to_end.serial)
        try:
            await trio.sleep(self.takes)
            await self.ready.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        self.opened.append(data_channel(self, to if isinstance(to, Peer) else ANY))
        self.on_opened()
        return self.opened[-1]

    def data_channel_lost(self) -> None:
        self.channels_lost += 1

    async def open_data_channel_probing(self, to: Peer | ListenerSearch, end_to_end: EndToEnd) -> DataChannel:
        return await self.open_data_channel(to, end_to_end)


def data_channel(relay: RelayConnection, peer: Peer = ANY) -> DataChannel:
    """A data channel through that relay. Nobody is at its other end."""
    ours, _ = trio.testing.memory_stream_pair()
    return DataChannel(TLSStream(ours, CLIENT), peer, relay, CARRIER)
