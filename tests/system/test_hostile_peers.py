"""Peers that reach a control channel and misuse it, and peers that may not be there any more."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from hybridrelay.abc import Purpose
from hybridrelay.connectivity import RelayEndpoint, open_channel
from hybridrelay.connectivity.control import ControlChannel, Introduction, run_control_channel
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.connector import InstanceFile
from hybridrelay.errors import RelayUnreachable, RendezvousError
from hybridrelay.protocol import Reason, control
from hybridrelay.protocol.control_codec import encode_message
from hybridrelay.protocol.preamble import STATUS_SIZE, Preamble, decode_status_untrusted
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.service import control as relay_control
from hybridrelay.security import ConnectionString, KeySlot, Role
from hybridrelay.streams import receive_exactly

from ..waiting import patience
from .deployment import HOST, Deployment, echo, serve_target


async def _control(deployment: Deployment, string: ConnectionString, role: control.PeerRole) -> ControlChannel:
    link = RelayLink(RelayEndpoint.all_from(string)[0], role, instance=new_instance(), mode="tcp")
    return await link.start_control(deployment.nursery)


async def _join(channel: ControlChannel, string: ConnectionString) -> Reason:
    token = make_connection_token(string, HOST, time.time())
    answer = await channel.join(control.Join(channel.next_id(), string.entity_path, token))
    assert isinstance(answer, control.Failed)
    return answer.reason


async def test_a_peer_without_a_right_may_not_ask_for_ever_and_does_not_fill_the_log(
    deployment: Deployment, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    published = deployment.publish()
    string = deployment.string(published, Role.APPLICATION, entity_path="other")
    caplog.set_level(logging.WARNING, "hybridrelay.events")
    for _ in range(10):
        channel = await _control(deployment, string, control.PeerRole.CLIENT)
        with pytest.raises(RelayUnreachable):  # noqa: PT012
            for _ in range(100):
                assert await _join(channel, string) is Reason.UNKNOWN_CONNECTION
    refusals = [record for record in caplog.records if "refused" in record.getMessage()]
    assert 0 < len(refusals) < 60
    nursery.cancel_scope.cancel()


async def test_a_control_channel_ends_with_the_last_key_that_opened_it(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_control, "REVOKED_CHANNEL_SECONDS", 1.0)
    published = deployment.publish()
    string = deployment.string(published, Role.APPLICATION)
    channel = await _control(deployment, string, control.PeerRole.CLIENT)
    assert await _join(channel, string) is Reason.NO_LISTENER
    with SQLiteStore.open(deployment.state_dir) as registry:
        registry.regenerate_key("db", published.rules[1].name, KeySlot.PRIMARY)
    with trio.fail_after(30):
        said = [message async for message in channel.messages]
    assert said == [control.Ended("db", Reason.KEY_REVOKED)]
    nursery.cancel_scope.cancel()


async def test_a_refusal_right_behind_an_acceptance_is_heard(deployment: Deployment, nursery: trio.Nursery) -> None:
    """Both arrive at the same time. The client, which has begun to dial, must not wait until the ticket expires."""
    published = deployment.publish()
    listening = deployment.string(published, Role.CONNECTOR)
    sending = deployment.string(published, Role.APPLICATION)
    listener = await _control(deployment, listening, control.PeerRole.CONNECTOR)
    token = make_connection_token(listening, HOST, time.time())
    assert isinstance(
        await listener.register(control.Register(listener.next_id(), listening.entity_path, token)),
        control.Registered,
    )

    async def accept_and_refuse() -> None:
        async for message in listener.messages:
            if isinstance(message, control.Registered):
                continue
            assert isinstance(message, control.Offer)
            accepted = encode_message(control.Accept(message.id))
            failed = encode_message(control.Failed(message.id, Reason.LISTENER_CANNOT_DIAL))
            await listener._stream.send_whole(accepted + failed)

    nursery.start_soon(accept_and_refuse)
    sender = await _control(deployment, sending, control.PeerRole.CLIENT)
    token = make_connection_token(sending, HOST, time.time())
    joined = await sender.join(control.Join(sender.next_id(), sending.entity_path, token))
    assert isinstance(joined, control.Joined)
    link = RelayLink(RelayEndpoint.all_from(sending)[0], control.PeerRole.CLIENT, instance=new_instance(), mode="tcp")
    candidate = await link.choose()
    with trio.fail_after(patience(10)), pytest.raises(RendezvousError) as caught:
        await open_channel(
            link.endpoint,
            candidate,
            Purpose.DATA,
            ticket=joined.ticket,
            dialer=link.dialer,
        )
    assert caught.value.reason in {Reason.TICKET_UNKNOWN, Reason.LISTENER_CANNOT_DIAL}
    nursery.cancel_scope.cancel()


async def test_a_connector_whose_instance_another_process_uses_goes_on_as_another(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """A copy of its machine, or somebody who got hold of the secret, may have stated any generation."""
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    string = deployment.string(published, Role.CONNECTOR, target)
    file = InstanceFile(tmp_path / "instance")
    await deployment.connector(string, mode="tcp", instance_file=file)
    endpoint = RelayEndpoint.all_from(string)[0]
    link = RelayLink(endpoint, control.PeerRole.CONNECTOR, instance=file.instance, mode="tcp")
    candidate = await link.choose()
    introduction = Introduction(control.PeerRole.CONNECTOR, file.instance, control.MAX_INTEGER)
    async with trio.open_nursery() as attack:
        channel = await attack.start(partial(run_control_channel, endpoint, candidate, introduction))
        token = make_connection_token(string, HOST, time.time())
        answer = await channel.register(control.Register(1, string.entity_path, token))
        assert isinstance(answer, control.Registered)
        attack.cancel_scope.cancel()
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        with trio.fail_after(60):
            stream = await client.open_stream(patience=50)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
    file.close()
    successor = InstanceFile(tmp_path / "instance")
    assert len(successor.dead) == 2
    assert successor.dead[1] == file.instance
    successor.close()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("port", "purpose"),
    [
        ("probe", Purpose.CONTROL),
        ("probe", Purpose.DATA),
        ("control", Purpose.PROBE),
        ("control", Purpose.DATA),
        ("data", Purpose.PROBE),
    ],
)
async def test_a_port_serves_no_other_purpose(
    deployment: Deployment, nursery: trio.Nursery, port: str, purpose: Purpose
) -> None:
    number = deployment.ports[port]
    assert number is not None
    async with await trio.open_tcp_stream(HOST, number) as stream:
        await stream.send_all(Preamble(purpose).encode())
        with trio.fail_after(patience(10)):
            assert decode_status_untrusted(await receive_exactly(stream, STATUS_SIZE)) is Reason.WRONG_PORT
            assert await stream.receive_some() == b""
    nursery.cancel_scope.cancel()
