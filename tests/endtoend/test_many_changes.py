"""A relay reads changes in parts: a key that is revoked among many other changes ends its streams, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hybridrelay.relay.service.watcher import PART
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot

from ..deployments import Deployment
from .targets import ask, echo, serve

#: How many hybrid connections are created and deleted, which takes several parts.
MANY = 3 * PART


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


async def test_a_relay_applies_many_changes_and_one_revocation(deployment: Deployment, nursery: trio.Nursery) -> None:
    relay = deployment.start_relay()
    target = await serve(nursery, echo)
    ports: dict[str, int] = {}
    for name in ("kept", "ended", "deleted"):
        published = deployment.create(name, target)
        await trio.to_thread.run_sync(deployment.start_connector, published)
        ports[name] = (await trio.to_thread.run_sync(deployment.start_forward, published)).port

    def change() -> None:
        with SQLiteStore.open(deployment.state, create=False) as registry:
            for number in range(MANY):
                registry.create(f"many/{number:03}", ["127.0.0.1"], [])
            for slot in KeySlot:
                registry.regenerate_key("ended", "application", slot)
            for number in range(0, MANY, 2):
                registry.delete(f"many/{number:03}")
            registry.delete("deleted")

    with trio.fail_after(90):
        async with (
            await trio.open_tcp_stream("127.0.0.1", ports["kept"]) as kept,
            await trio.open_tcp_stream("127.0.0.1", ports["ended"]) as ended,
            await trio.open_tcp_stream("127.0.0.1", ports["deleted"]) as deleted,
        ):
            for stream in (kept, ended, deleted):
                assert await ask(stream, b"before") == b"before"
            await trio.to_thread.run_sync(change)
            for stream in (ended, deleted):
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            assert await ask(kept, b"after") == b"after"
    await relay.logs("connection.deleted: .*connection=deleted")
    with SQLiteStore.open(deployment.state, create=False) as registry:
        assert registry.count("many/") == MANY // 2
    # What is created after all of this can be used.
    published = deployment.create("new", target)
    await trio.to_thread.run_sync(deployment.start_connector, published)
    port = (await trio.to_thread.run_sync(deployment.start_forward, published)).port
    with trio.fail_after(60):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert await ask(stream, b"new") == b"new"
    nursery.cancel_scope.cancel()
