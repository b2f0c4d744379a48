"""A connection string that is changed while a client ends because relays have refused the earlier one."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.cli.entries import ANYWHERE, Entry
from hybridrelay.cli.serving import served as served_module
from hybridrelay.cli.serving.application import ApplicationService
from hybridrelay.cli.serving.plan import Wanted, make_plan
from hybridrelay.client import Client, ClientConfig, open_port
from hybridrelay.errors import AuthorizationError
from hybridrelay.events import Event, EventStream
from hybridrelay.events.client import ForwardPortClosed
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Secret

from ...waiting import async_wait_until
from .test_renewed_identities import READ, Program, forward, refuse

CHANGED = attrs.evolve(READ, key=Secret("k2"))


@attrs.define
class Refusal:
    """Relays that refuse the first client when told to, and that client, whose end takes until it may end."""

    used: list[ConnectionString] = attrs.field(factory=list)
    refuses: trio.Event = attrs.field(factory=trio.Event)
    is_ending: trio.Event = attrs.field(factory=trio.Event)
    may_end: trio.Event = attrs.field(factory=trio.Event)
    is_used_again: trio.Event = attrs.field(factory=trio.Event)

    async def keep_connected(self, client: Client, *, task_status: trio.TaskStatus[None]) -> None:
        self.used.append(client.connection_string)
        task_status.started()
        if len(self.used) > 1:
            self.is_used_again.set()
            await trio.sleep_forever()
        await self.refuses.wait()
        raise AuthorizationError("the key was revoked", reason=Reason.KEY_REVOKED)

    async def close(self, _: Client) -> None:
        if self.refuses.is_set() and not self.is_ending.is_set():
            self.is_ending.set()
            await self.may_end.wait()


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Refusal:
    made, close = Refusal(), Client._aclose

    async def close_late(client: Client) -> None:
        await made.close(client)
        await close(client)

    monkeypatch.setattr(served_module, "keep_connected", made.keep_connected)
    monkeypatch.setattr(Client, "_aclose", close_late)
    return made


async def wait_until_listening(program: Program, ports: list[str]) -> None:
    async def is_listening() -> bool:
        return program.ports == ports

    await async_wait_until(is_listening, seconds=30, what="the same ports")


async def test_a_forward_serves_with_the_new_one(tmp_path: Path, refusal: Refusal) -> None:
    async with forward(tmp_path) as program:
        ports = program.ports
        refusal.refuses.set()
        await refusal.is_ending.wait()
        (tmp_path / "orders.application").write_text(CHANGED.format())
        await program.reloads.reload()
        refusal.may_end.set()
        await refusal.is_used_again.wait()
        await wait_until_listening(program, ports)
        assert refusal.used == [READ, CHANGED]
        assert program.serving().connection_string == CHANGED


async def test_the_refused_one_is_not_used_again(tmp_path: Path, refusal: Refusal) -> None:
    """The forward ends, because it serves nothing else."""

    async def serve() -> None:
        async with forward(tmp_path):
            refusal.refuses.set()
            refusal.may_end.set()
            await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(AuthorizationError, match="the key was revoked")):
        await serve()
    assert refusal.used == [READ]


@pytest.mark.parametrize("is_changed", [True, False])
async def test_an_application_is_served_with_the_new_one(refusal: Refusal, *, is_changed: bool) -> None:
    def make_config(string: ConnectionString) -> ClientConfig:
        return ClientConfig(string, mode="tcp", dialer=Dialer(tcp=refuse))

    published: list[Event] = []
    events = EventStream(published.append)
    entry = Entry("orders", ("orders", 0), listen=(ANYWHERE,))
    with trio.fail_after(60):
        port = await open_port(("127.0.0.1", 0), events=events)
        service = ApplicationService(make_config, events, {entry.key: [port]})
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run, [Wanted(entry, READ)])
            (listener,) = port.listeners
            refusal.refuses.set()
            await refusal.is_ending.wait()
            if is_changed:
                plan = make_plan(service.running, [Wanted(entry, CHANGED)])
                assert await service.apply(plan) == [*plan.steps]
            refusal.may_end.set()
            if is_changed:
                await refusal.is_used_again.wait()
                assert listener.socket.fileno() != -1
                service.stop(0)
    assert listener.socket.fileno() == -1
    assert refusal.used == [READ, CHANGED][: 1 + is_changed]
    assert sum(isinstance(event, ForwardPortClosed) for event in published) == (not is_changed)
