"""Data channels that are not joined."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.service.data_channels import _send_status


async def test_a_data_channel_is_closed_although_the_sending_of_its_status_was_cancelled() -> None:
    sending, _ = trio.testing.memory_stream_one_way_pair()
    _, receiving = trio.testing.memory_stream_one_way_pair()
    sending.send_all_hook = trio.sleep_forever  # the peer reads nothing
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_status, trio.StapledStream(sending, receiving), Reason.PEER_ABSENT)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await sending.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await receiving.receive_some()
