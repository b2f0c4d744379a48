"""Tickets at a running relay: which relay made them, also after a restart and at another relay."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Purpose
from hybridrelay.connectivity import RelayEndpoint, candidates, discover, open_channel
from hybridrelay.errors import RendezvousError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.store.relay_id import RELAY_ID_FILE

from .deployment import HOST, Deployment, deploy

TCP = candidates(discover(), "tcp")[0]


def relay_id(relay: Deployment) -> bytes:
    return bytes.fromhex((relay.state_dir / RELAY_ID_FILE).read_text())


async def refusal(relay: Deployment, ticket: bytes) -> RendezvousError:
    endpoint = RelayEndpoint(HOST, relay.ports, (relay.info.pin,))
    with trio.fail_after(30), pytest.raises(RendezvousError) as caught:
        await open_channel(endpoint, TCP, Purpose.DATA, ticket=ticket)
    return caught.value


async def test_a_ticket_of_another_relay_is_refused_as_such(nursery: trio.Nursery, tmp_path: Path) -> None:
    relays = [await deploy(nursery, tmp_path / name) for name in ("one", "other")]
    for relay, other in itertools.permutations(relays):
        assert relay_id(relay) != relay_id(other)
        own = await refusal(relay, relay_id(relay) + bytes(28))
        assert own.reason is Reason.TICKET_UNKNOWN
        foreign = await refusal(relay, relay_id(other) + bytes(28))
        assert foreign.reason is Reason.TICKET_OF_ANOTHER_RELAY
        assert foreign.remedy
    nursery.cancel_scope.cancel()


async def test_the_id_stays_the_same_after_a_restart(nursery: trio.Nursery, tmp_path: Path) -> None:
    relay = await deploy(nursery, tmp_path / "state")
    before = relay_id(relay)
    await relay.kill_relay()
    relay = await deploy(nursery, tmp_path / "state")
    assert relay_id(relay) == before
    assert (await refusal(relay, before + bytes(28))).reason is Reason.TICKET_UNKNOWN
    nursery.cancel_scope.cancel()
