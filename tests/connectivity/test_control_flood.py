"""A relay that says more than anybody can take in costs its peer the control channel, not its memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.connectivity import candidates, discover
from hybridrelay.connectivity.control import MAX_UNHANDLED, ControlChannel
from hybridrelay.mux import CONTROL_CONFIG
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.testing import session_pair

CARRIER = candidates(discover(), "tcp")[0]


async def test_a_flood_of_offers_ends_the_channel(nursery: trio.Nursery) -> None:
    session, relay = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    theirs = (await relay.offers.receive()).accept()
    channel = ControlChannel(session, stream, control.Welcome("0" * 32, "relay"), CARRIER)
    offer = control.encode_message(control.Offer(1, "db", bytes(TICKET_SIZE), 30.0))

    async def flood() -> None:
        for _ in range(MAX_UNHANDLED + 1):
            await theirs.send_all(offer)

    nursery.start_soon(flood)
    with pytest.raises(RemoteProtocolError):
        await channel._serve(control.ControlDecoder(), [])
    unhandled = [message async for message in channel.messages]
    assert len(unhandled) == MAX_UNHANDLED
    nursery.cancel_scope.cancel()
