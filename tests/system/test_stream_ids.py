"""A client that has used up the stream ids of its session opens another session, and applications notice nothing."""

from __future__ import annotations

import attrs
import pytest
import trio

from hybridrelay.client import client as client_module
from hybridrelay.mux import DATA_CONFIG
from hybridrelay.security import Role

from .deployment import Deployment, echo, serve_target

SOON = 30


async def test_streams_go_on_over_another_session(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "DATA_CONFIG", attrs.evolve(DATA_CONFIG, last_stream_id=5))
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    sessions = set()
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        kept = await client.open_stream()  # stays open through all of it
        first = await client.connect()
        for _ in range(10):
            with trio.fail_after(SOON):
                async with await client.open_stream() as stream:
                    await stream.send_all(b"x")
                    assert await stream.receive_some() == b"x"
            sessions.add(await client.connect())
        assert len(sessions) >= 4, "three streams each"
        await kept.send_all(b"y")
        assert await kept.receive_some() == b"y"
        assert first.outcome is None
        await kept.aclose()
        with trio.fail_after(SOON):
            await first.wait_ended()  # with its last stream
    nursery.cancel_scope.cancel()
