"""Peers that reach a control channel and misuse it, and peers that may not be there any more."""

from __future__ import annotations

import logging
import time

import pytest
import trio

from hybridrelay.connectivity import RelayEndpoint
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.link import RelayLink, make_connection_token, new_instance
from hybridrelay.errors import RelayUnreachable
from hybridrelay.protocol import Reason, control
from hybridrelay.relay import Registry
from hybridrelay.relay import control as relay_control
from hybridrelay.security import ConnectionString, KeySlot, Role

from .deployment import Deployment


async def _control(deployment: Deployment, string: ConnectionString, role: control.Role) -> ControlChannel:
    link = RelayLink(RelayEndpoint.from_connection_string(string), role, instance=new_instance(), mode="tcp")
    return await link.start_control(deployment.nursery)


async def _join(channel: ControlChannel, string: ConnectionString) -> Reason:
    token = make_connection_token(string, time.time())
    answer = await channel.request(control.Join(channel.next_id(), string.entity_path, token))
    assert isinstance(answer, control.Failed)
    return answer.reason


async def test_who_has_no_right_may_not_ask_for_ever_and_does_not_fill_the_log(
    deployment: Deployment, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    published = deployment.publish()
    string = deployment.string(published, Role.APPLICATION, entity_path="other")
    caplog.set_level(logging.WARNING, "hybridrelay.relay")
    for _ in range(10):
        channel = await _control(deployment, string, control.Role.CLIENT)
        with pytest.raises(RelayUnreachable):  # noqa: PT012
            for _ in range(100):
                assert await _join(channel, string) is Reason.UNKNOWN_CONNECTION
    refusals = [record for record in caplog.records if "refused" in record.getMessage()]
    assert 0 < len(refusals) < 50
    nursery.cancel_scope.cancel()


async def test_a_control_channel_ends_with_the_last_key_that_opened_it(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_control, "REVOKED_CHANNEL_SECONDS", 1.0)
    published = deployment.publish()
    string = deployment.string(published, Role.APPLICATION)
    channel = await _control(deployment, string, control.Role.CLIENT)
    assert await _join(channel, string) is Reason.NO_LISTENER
    with Registry.open(deployment.state_dir) as registry:
        registry.regenerate_key("db", published.rules[1].name, KeySlot.PRIMARY)
    with trio.fail_after(30):
        said = [message async for message in channel.messages]
    assert said == [control.Ended("db", Reason.KEY_REVOKED)]
    nursery.cancel_scope.cancel()
