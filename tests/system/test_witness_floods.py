"""Peers that misuse a relay as a witness, and relays that lie to those whose witness they are."""

from __future__ import annotations

import time

import attrs
import pytest
import trio

from hybridrelay.audit.chain import Checkpoint, checkpoint_message
from hybridrelay.audit.keys import SigningKey
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.link import make_connection_token
from hybridrelay.events.audit import CheckpointRefused
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.checkpoints import CheckpointQuery
from hybridrelay.relay.store import checkpoints as store_module
from hybridrelay.security import ConnectionString, Role

from ..waiting import patience
from .deployment import HOST, Deployment
from .live_scene import relay_and_connector
from .test_checks import open_channel

KEY = SigningKey.generate()


def checkpoint(seq: int, log: str = "0f" * 8) -> Checkpoint:
    head, at = f"{seq:064x}", "2026-11-30T05:00:00.000Z"
    return Checkpoint(log, seq, head, at, str(KEY.public), KEY.sign(checkpoint_message(seq, head, at)))


async def registered(deployment: Deployment, string: ConnectionString) -> ControlChannel:
    channel = await open_channel(deployment, deployment.nursery, control.PeerRole.CONNECTOR)
    token = make_connection_token(string, HOST, time.time())
    answer = await channel.register(control.Register(1, string.entity_path, token))
    assert isinstance(answer, control.Registered)
    return channel


async def test_a_flood_is_refused_and_the_channel_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with relay_and_connector(tmp_path_factory.mktemp("state")) as (relay, deployment, published, _):
        string = deployment.string(published, Role.CONNECTOR)
        channel = await registered(deployment, string)
        answers: list[control.Witnessed | control.Failed] = []

        async def ask(number: int) -> None:
            answers.append(await channel.witness(published.name, checkpoint(number)))

        with trio.fail_after(patience(20)):
            async with trio.open_nursery() as asking:
                for number in range(300):
                    asking.start_soon(ask, number)
        accepted = [one for one in answers if isinstance(one, control.Witnessed)]
        refused = [one for one in answers if isinstance(one, control.Failed)]
        assert 1 <= len(accepted) <= 6
        assert {one.reason for one in refused} == {Reason.BUSY}
        assert len(await relay.live.checkpoints(CheckpointQuery(1000))) == len(accepted)
        token = make_connection_token(string, HOST, time.time())
        assert isinstance(await channel.check(published.name, token), control.Checked)


async def test_the_first_checkpoint_and_the_newest_stay_when_the_limit_is_reached(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log makes room with its own checkpoints in between. Another log has none that it may have replaced."""
    monkeypatch.setattr(store_module, "MAX_ROWS", 3)
    async with relay_and_connector(tmp_path_factory.mktemp("state")) as (relay, deployment, published, events):
        channel = await registered(deployment, deployment.string(published, Role.CONNECTOR))
        answers = [await channel.witness(published.name, checkpoint(number)) for number in range(4)]
        assert [type(one) for one in answers] == [control.Witnessed] * 4
        kept = [one.seq for one in await relay.live.checkpoints(CheckpointQuery(10))]
        assert (len(kept), kept[0], kept[-1]) == (3, 0, 3)
        refused = await channel.witness(published.name, checkpoint(0, log="0e" * 8))
        assert isinstance(refused, control.Failed)
        assert refused.reason is Reason.LIMIT
        assert len([one for one in events if isinstance(one, CheckpointRefused)]) == 1
        assert [one.seq for one in await relay.live.checkpoints(CheckpointQuery(10))] == kept


async def test_only_for_hybrid_connections_whose_key_was_shown(deployment: Deployment, nursery: trio.Nursery) -> None:
    string = deployment.string(deployment.publish(), Role.CONNECTOR)
    channel = await registered(deployment, string)
    answer = await channel.witness("other", checkpoint(1))
    assert isinstance(answer, control.Failed)
    assert answer.reason is Reason.RIGHT_MISSING
    assert not channel.has_ended
    nursery.cancel_scope.cancel()


async def test_only_what_is_signed_with_the_key_that_it_names(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with relay_and_connector(tmp_path_factory.mktemp("state")) as (relay, deployment, published, events):
        channel = await registered(deployment, deployment.string(published, Role.CONNECTOR))
        answer = await channel.witness(published.name, attrs.evolve(checkpoint(1), head="ab" * 32))
        assert isinstance(answer, control.Failed)
        assert answer.reason is Reason.PROTOCOL_ERROR
        assert "not signed with the key that it names" in answer.detail
        assert isinstance(await channel.witness(published.name, checkpoint(1)), control.Witnessed)
        assert [one.seq for one in await relay.live.checkpoints(CheckpointQuery(10))] == [1]
        assert len([one for one in events if isinstance(one, CheckpointRefused)]) == 1


async def test_not_before_a_valid_token(deployment: Deployment, nursery: trio.Nursery) -> None:
    deployment.publish()
    channel = await open_channel(deployment, nursery, control.PeerRole.CONNECTOR)
    await channel.send(control.Witness(1, "db", "0f" * 8, 1, "ab" * 32, "t", "k", "s"))
    with trio.fail_after(patience(20)):
        async for _ in channel.messages:
            pass
    assert channel.has_ended
    nursery.cancel_scope.cancel()
