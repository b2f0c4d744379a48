"""Anyone with a Listen key can register. One without an acceptable identity keeps no client from the others."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.client import run_forward
from hybridrelay.errors import AuthorizationError, PeerIdentityError
from hybridrelay.policy import PolicyFile
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import KeySlot, Role, create_authority

from .deployment import HOST, Deployment, Published, echo, serve_target

SOON = 30


def without_identity(published: Published) -> Published:
    """The hybrid connection as an attacker has it who knows the Listen key and nothing else."""
    return attrs.evolve(published, authority=create_authority(published.name, now=time.time()))


async def rogues(deployment: Deployment, published: Published, count: int) -> None:
    for _ in range(count):
        await deployment.connector(deployment.string(without_identity(published), Role.CONNECTOR))


async def test_every_new_session_finds_the_honest_connector(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    await rogues(deployment, published, 4)
    target = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    string = deployment.string(published, Role.APPLICATION)
    for _ in range(5):
        async with deployment.client(string) as client:
            with trio.fail_after(SOON):
                stream = await client.open_stream(patience=0)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
    nursery.cancel_scope.cancel()


async def test_a_connector_that_shuts_us_out_is_passed_over(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    deny = tmp_path / "deny"
    deny.write_text("lab\n")
    for _ in range(3):
        await deployment.connector(deployment.string(published, Role.CONNECTOR, target), policy=PolicyFile(deny))
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    for _ in range(5):
        async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
            with trio.fail_after(SOON):
                await (await client.open_stream(patience=0)).aclose()
    nursery.cancel_scope.cancel()


async def test_rogues_alone_are_reported_as_what_they_are(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    await rogues(deployment, published, 2)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        for _ in range(2):
            with trio.fail_after(SOON), pytest.raises(PeerIdentityError) as caught:
                await client.open_stream()
            assert caught.value.reason is Reason.IDENTITY_WRONG_AUTHORITY
    nursery.cancel_scope.cancel()


async def test_a_forward_outlives_rogues_even_at_its_start(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    await rogues(deployment, published, 1)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        async with trio.open_nursery() as forwarding:
            with trio.fail_after(SOON):
                ((host, port),) = await forwarding.start(partial(run_forward, client, [(HOST, 0)]))
            await deployment.connector(
                deployment.string(published, Role.CONNECTOR, await serve_target(nursery, echo))
            )
            async with await trio.open_tcp_stream(host, port) as local:
                await local.send_all(b"x")
                with trio.fail_after(SOON):
                    assert await local.receive_some() == b"x"
            forwarding.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def test_a_forward_ends_at_its_start_where_the_relay_refuses_the_key(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.publish()
    with SQLiteStore.open(deployment.state_dir) as registry:
        registry.revoke_key(published.name, "sender", KeySlot.PRIMARY)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        with trio.fail_after(SOON), pytest.raises(AuthorizationError):
            await run_forward(client, [(HOST, 0)])
    nursery.cancel_scope.cancel()
