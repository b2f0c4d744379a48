"""A connector changes to native TCP when the native ports open, and clients notice nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trio

from hybridrelay.abc import Dialer
from hybridrelay.connectivity.dialing import dial_directly
from hybridrelay.relay.core.listeners import Listener, ListenerTable
from hybridrelay.security import Role

from ..waiting import patience
from .deployment import Deployment, echo, serve_target

UPGRADE_INTERVAL = 0.1
PATIENCE_SECONDS = 20


async def test_a_connector_is_registered_while_it_upgrades(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    native = {deployment.ports[name] for name in ("probe", "control", "data")}
    is_open = trio.Event()
    seen: list[tuple[Listener[object], ...]] = []
    has_upgraded = trio.Event()

    async def dial(host: str, port: int) -> trio.SocketStream:
        if port in native and not is_open.is_set():
            raise ConnectionRefusedError
        return await dial_directly(host, port)

    def watched(change: Callable[..., object]) -> Callable[..., object]:
        def changing(table: ListenerTable[object], *arguments: object, **options: object) -> object:
            result = change(table, *arguments, **options)
            seen.append(table.of("db"))
            if is_open.is_set():
                has_upgraded.set()
            return result

        return changing

    published = deployment.publish()
    target = await serve_target(nursery, echo)
    await deployment.connector(
        deployment.string(published, Role.CONNECTOR, target), dialer=Dialer(dial), upgrade_interval=UPGRADE_INTERVAL
    )
    for name in ("register", "remove"):
        monkeypatch.setattr(ListenerTable, name, watched(getattr(ListenerTable, name)))
    caplog.set_level(logging.INFO, "hybridrelay.events")
    async with deployment.client(deployment.string(published, Role.APPLICATION), mode="tcp") as client:
        stream = await client.open_stream()
        await _exchange(stream)
        is_open.set()
        with trio.fail_after(patience(PATIENCE_SECONDS)):
            while not has_upgraded.is_set():
                await _exchange(stream)
                async with deployment.client(deployment.string(published, Role.APPLICATION), mode="tcp") as another:
                    await _exchange(await another.open_stream())
            # Whose data channel was on the worse route has followed, or is about to.
            await _exchange(stream)
    assert seen
    assert all(seen)
    events = [record for record in caplog.records if record.name == "hybridrelay.events"]
    assert [record.getMessage() for record in events if "route=tcp" in record.getMessage()]
    # To the client, whose sessions follow, the end of a data channel is a loss.
    warnings = [record for record in events if record.levelno >= logging.WARNING]
    assert {vars(record)["event"] for record in warnings} <= {"session.interrupted"}
    nursery.cancel_scope.cancel()


async def _exchange(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"x")
    assert await stream.receive_some() == b"x"
