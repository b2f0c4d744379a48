"""A peer asks a relay whether it accepts a token, beside its other requests."""

from __future__ import annotations

import time

import attrs
import trio

from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Role, Secret

from .deployment import HOST, Deployment


async def open_channel(deployment: Deployment, nursery: trio.Nursery, role: control.PeerRole) -> ControlChannel:
    endpoint = RelayEndpoint(HOST, deployment.ports, (deployment.info.pin,))
    link = RelayLink(endpoint, role, instance=new_instance(), mode="tcp")
    return await link.start_control(nursery)


async def test_checks_and_registrations_have_different_ids(deployment: Deployment, nursery: trio.Nursery) -> None:
    """The registrations of a connector have ids of their own, which count from 1 as well."""
    string = deployment.string(deployment.publish(), Role.CONNECTOR)
    token = make_connection_token(string, HOST, time.time())
    channel = await open_channel(deployment, nursery, control.PeerRole.CONNECTOR)
    answers: list[object] = []

    async def register(number: int) -> None:
        answers.append(type(await channel.register(control.Register(number, "db", token))))

    async def check() -> None:
        answers.append(type(await channel.check("db", token)))

    async with trio.open_nursery() as asking:
        for number in range(1, 20):
            asking.start_soon(register, number)
            asking.start_soon(check)
    assert sorted(map(str, answers)) == sorted(map(str, [control.Registered, control.Checked] * 19))
    assert not channel.has_ended
    channel.close()


async def test_what_a_check_says(deployment: Deployment, nursery: trio.Nursery) -> None:
    string = deployment.string(deployment.publish(), Role.APPLICATION)
    channel = await open_channel(deployment, nursery, control.PeerRole.CLIENT)

    async def check(string: ConnectionString) -> control.Checked | control.Failed:
        return await channel.check("db", make_connection_token(string, HOST, time.time()))

    assert isinstance(await check(string), control.Checked)
    wrong = await check(attrs.evolve(string, key=Secret("wrong")))
    assert isinstance(wrong, control.Failed)
    assert wrong.reason is Reason.WRONG_KEY
    other = await check(attrs.evolve(string, key_name="listener"))
    assert isinstance(other, control.Failed)
    channel.close()
