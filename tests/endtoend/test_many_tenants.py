"""Keys of several hybrid connections together take all places of a relay. Another hybrid connection still gets in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from hybridrelay.connectivity import RelayEndpoint
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink, make_connection_token
from hybridrelay.errors import HybridRelayError
from hybridrelay.protocol import Reason, control
from hybridrelay.relay.limits import Shares
from hybridrelay.security import load_connection_string

from ..deployments import Deployment
from .targets import echo, serve
from .test_crowded_relay import take_all

DESCRIPTORS = 256
#: By rule 1 of `hybridrelay.relay.core.places`, so many hybrid connections take all places.
TENANTS = 5


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


async def _echo(port: int) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"hello")
        with trio.fail_after(30):
            return bytes(await stream.receive_some())


class IdleChannels:
    """Control channels that show a valid token once, and then do nothing."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        #: How many are open.
        self.open = 0

    async def take_all(self, application: Path) -> int:
        """Open channels with a Send key, one after the other, until the relay refuses one. Returns how many."""
        taken = 0
        while await self._nursery.start(self._hold, application):
            taken += 1
        return taken

    async def _hold(self, application: Path, task_status: trio.TaskStatus[bool]) -> None:
        """Open a channel, and hold it until the relay closes it. Reports whether it was admitted."""
        string = load_connection_string(application)
        (endpoint,) = RelayEndpoint.all_from(string)
        link = RelayLink(endpoint, control.PeerRole.CLIENT, instance=new_instance(), mode="tcp")
        is_admitted: bool | None = None
        try:
            with suppress(HybridRelayError):
                async with trio.open_nursery() as nursery:
                    channel = await link.start_control(nursery)
                    token = make_connection_token(string, link.host, time.time())
                    answer = await channel.join(control.Join(channel.next_id(), string.entity_path, token))
                    assert isinstance(answer, control.Failed)
                    is_admitted = answer.reason is not Reason.LIMIT
                    self.open += is_admitted
                    task_status.started(is_admitted)
                    if not is_admitted:
                        nursery.cancel_scope.cancel()
                    async for _ in channel.messages:
                        pass
        finally:
            self.open -= bool(is_admitted)


async def test_idle_control_channels_keep_no_hybrid_connection_out(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    """With a Send key of each of some hybrid connections, and no identity, somebody takes all control channels."""
    relay = deployment.start_relay(descriptors=DESCRIPTORS)
    total = Shares.of(DESCRIPTORS).control_channels
    channels = IdleChannels(nursery)
    taken = [
        await channels.take_all(deployment.create(f"greedy{number}", ("127.0.0.1", 9)).application)
        for number in range(TENANTS)
    ]
    assert sum(taken) >= total, taken
    honest = deployment.create("honest", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, honest)
    forward = await trio.to_thread.run_sync(deployment.start_forward, honest)
    assert await _echo(forward.port) == b"hello"
    assert await relay.logs("control.displaced.*by_other=True")
    displaced = [line for line in relay.err.splitlines() if "control.displaced" in line]
    assert not [line for line in displaced if "honest" in line], displaced
    nursery.cancel_scope.cancel()


async def test_silent_pairs_keep_no_hybrid_connection_out(deployment: Deployment, nursery: trio.Nursery) -> None:
    """The same for pairs of data channels, with both keys of some hybrid connections. Open sessions go on."""
    relay = deployment.start_relay("--max-pairs", "12", descriptors=DESCRIPTORS)
    honest = deployment.create("honest", await serve(nursery, echo))
    await trio.to_thread.run_sync(deployment.start_connector, honest)
    forward = await trio.to_thread.run_sync(deployment.start_forward, honest)
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await stream.send_all(b"before")
        with trio.fail_after(30):
            assert await stream.receive_some() == b"before"
        held = []
        for number in range(TENANTS - 1):
            greedy = deployment.create(f"greedy{number}", ("127.0.0.1", 9))
            streams, _ = await take_all(greedy.connector, greedy.application)
            held += streams
        try:
            newcomer = await trio.to_thread.run_sync(deployment.start_forward, honest)
            assert await _echo(newcomer.port) == b"hello"
            assert await relay.logs("rendezvous.ended.*greedy.*displaced by another hybrid connection")
            assert not [
                line for line in relay.err.splitlines() if "connection=honest" in line and "displaced" in line
            ]
            await stream.send_all(b"after")
            with trio.fail_after(30):
                assert await stream.receive_some() == b"after"
        finally:
            for one in held:
                await trio.aclose_forcefully(one)
    nursery.cancel_scope.cancel()
