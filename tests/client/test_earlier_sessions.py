"""Sessions that have been replaced and finish their streams are looked after like the present one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from hybridrelay.client import client as client_module
from hybridrelay.client.client import Client
from hybridrelay.client.config import ClientConfig
from hybridrelay.client.kept import KeptSession
from hybridrelay.client.relays.sender import DataChannel, Sender
from hybridrelay.client.relays.senders import Senders
from hybridrelay.connectivity import Candidate, candidates, discover
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.protocol.reasons import Reason

from .fakes import ANY
from .relays.test_sender import connection_string
from .test_kept import FakeSession, Scene


async def test_each_is_checked_after_the_machine_slept(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumped: list[Callable[[str], None]] = []

    async def watch_jumps(callback: Callable[[str], None]) -> None:
        await trio.lowlevel.checkpoint()
        jumped.append(callback)

    monkeypatch.setattr(client_module, "watch_jumps", watch_jumps)
    client = Client(ClientConfig(connection_string()), nursery)
    present, earlier = Scene(count=1), Scene(count=1)
    for scene in (present, earlier):
        await nursery.start(client._sessions.run, await scene.make())
    nursery.start_soon(client.watch)
    await trio.sleep(1)
    jumped[0]("slept")
    assert present.session.checks == earlier.session.checks == 1
    nursery.cancel_scope.cancel()


class Kept(KeptSession):
    """Notes through which relays it was to move."""

    def __init__(self, sender: Sender, candidate: Candidate) -> None:
        stream, _ = trio.testing.memory_stream_pair()
        super().__init__(FakeSession(), DataChannel(stream, ANY, sender, candidate), "db", Senders([sender]))
        self.moved_to: list[Sender] = []

    async def move(self, senders: Sequence[Sender], *, is_needed: Callable[[], bool]) -> Reason:
        await trio.lowlevel.checkpoint()
        assert is_needed()
        self.moved_to.extend(senders)
        return Reason.NO_ERROR


async def test_each_follows_to_a_better_route(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Callable[[], Candidate | None], Callable[[Candidate], Awaitable[None]]]] = []

    async def upgrade_route(
        self: RelayLink, in_use: Callable[[], Candidate | None], improved: Callable[[Candidate], Awaitable[None]]
    ) -> None:
        await trio.lowlevel.checkpoint()
        asked.append((in_use, improved))

    monkeypatch.setattr(RelayLink, "upgrade_route", upgrade_route)
    client = Client(ClientConfig(connection_string()), nursery)
    nursery.start_soon(client.watch)
    await trio.sleep(1)
    ((in_use, improved),) = asked
    (sender,) = client._senders.all
    tcp, wss = candidates(discover(), "auto")[:2]
    present, earlier = Kept(sender, tcp), Kept(sender, wss)
    for kept in (present, earlier):
        await nursery.start(client._sessions.run, kept)
    assert in_use() is wss
    await improved(tcp)
    assert earlier.moved_to == [sender]
    assert present.moved_to == []
    nursery.cancel_scope.cancel()
