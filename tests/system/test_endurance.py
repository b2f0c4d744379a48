"""One failure does not cause others, programs stop gracefully, and callers that wait share attempts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from hybridrelay.abc import Dialer
from hybridrelay.client import run_forward
from hybridrelay.connectivity import dial_directly
from hybridrelay.connector import ConnectorConfig, InstanceFile, run_connector, served_stream
from hybridrelay.connector.targets import open_target
from hybridrelay.connector.unproven import UnprovenChannels
from hybridrelay.errors import (
    AuthorizationError,
    ConfigurationError,
    HybridRelayError,
    RelayUnreachable,
    RendezvousError,
    StreamRefused,
)
from hybridrelay.protocol import Reason
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import ConnectionString, HostPort, KeySlot, Role

from ..receiving import receive_all
from ..waiting import patience
from .deployment import HOST, Deployment, deploy, echo, serve_target


async def test_one_relay_that_refuses_does_not_end_the_others(nursery: trio.Nursery, tmp_path: Path) -> None:
    first, second = await deploy(nursery, tmp_path / "a"), await deploy(nursery, tmp_path / "b")
    target = await serve_target(nursery, echo)
    refused, kept = first.publish("one"), second.publish("two")
    await first.connector(first.string(refused, Role.CONNECTOR, target), second.string(kept, Role.CONNECTOR, target))
    with SQLiteStore.open(first.state_dir) as registry:
        registry.revoke_key("one", "listener", KeySlot.PRIMARY)
    async with first.client(first.string(refused, Role.APPLICATION), resume_deadline=1) as client:
        with trio.fail_after(patience(20)), pytest.raises((RendezvousError, StreamRefused)):  # noqa: PT012
            while True:
                await (await client.open_stream(patience=0)).aclose()
    async with second.client(second.string(kept, Role.APPLICATION)) as client:
        stream = await client.open_stream()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
    nursery.cancel_scope.cancel()


async def test_the_last_relay_that_refuses_ends_the_connector(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    string = deployment.string(published, Role.CONNECTOR, HostPort(HOST, 9))
    registered = trio.Event()

    async def revoke() -> None:
        await registered.wait()
        with SQLiteStore.open(deployment.state_dir) as registry:
            registry.revoke_key("db", "listener", KeySlot.PRIMARY)

    async def run(*, task_status: trio.TaskStatus[tuple[ConnectionString, ...]]) -> None:
        with pytest.raises(AuthorizationError):
            await run_connector(ConnectorConfig([string]), task_status=task_status)
        ended.set()

    ended = trio.Event()
    nursery.start_soon(revoke)
    await nursery.start(run)
    registered.set()
    with trio.fail_after(patience(20)):
        await ended.wait()
    nursery.cancel_scope.cancel()


async def test_a_bug_in_one_stream_ends_that_stream(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    good = open_target
    calls = iter([RuntimeError("a bug"), None])

    async def fail_once(target: HostPort, **options: Any) -> trio.SocketStream:
        if bug := next(calls):
            raise bug
        return await good(target, **options)

    monkeypatch.setattr(served_stream, "open_target", fail_once)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        with pytest.raises(HybridRelayError):
            await client.open_stream()
        stream = await client.open_stream()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
    assert "a bug" in caplog.text
    caplog.clear()
    nursery.cancel_scope.cancel()


async def test_callers_share_one_failed_attempt(deployment: Deployment, nursery: trio.Nursery) -> None:
    string = deployment.string(deployment.publish(), Role.APPLICATION)
    dials = 0

    async def dial(host: str, port: int) -> trio.SocketStream:
        nonlocal dials
        dials += 1
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError

    failures: list[RelayUnreachable] = []
    async with deployment.client(string, dialer=Dialer(dial)) as client:

        async def open_stream() -> None:
            with pytest.raises(RelayUnreachable) as caught:
                await client.open_stream(patience=0)
            failures.append(caught.value)

        async with trio.open_nursery() as callers:
            callers.start_soon(open_stream)
            await trio.testing.wait_all_tasks_blocked()
            alone = dials
            for _ in range(10):
                callers.start_soon(open_stream)
    assert len(failures) == 11
    # One attempt for the first, at most one more for all who came while it ran.
    assert dials <= 2 * max(alone, 3)
    nursery.cancel_scope.cancel()


async def test_a_connector_that_stops_lets_open_streams_finish(deployment: Deployment, nursery: trio.Nursery) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    stop, stopped = trio.Event(), trio.Event()
    string = deployment.string(published, Role.CONNECTOR, target)

    async def run(*, task_status: trio.TaskStatus[tuple[ConnectionString, ...]]) -> None:
        await run_connector(ConnectorConfig([string]), stop=stop, grace=30, task_status=task_status)
        stopped.set()

    await nursery.start(run)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        stream = await client.open_stream()
        stop.set()
        await stream.send_all(b"to the end")
        await stream.send_eof()
        assert await receive_all(stream) == b"to the end"
        with trio.fail_after(patience(20)):
            await stopped.wait()
    nursery.cancel_scope.cancel()


async def test_a_forward_that_stops_lets_open_connections_finish(
    deployment: Deployment, nursery: trio.Nursery
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    await deployment.connector(deployment.string(published, Role.CONNECTOR, target))
    stop = trio.Event()
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        async with trio.open_nursery() as forwarding:
            (address,) = await forwarding.start(partial(run_forward, client, [(HOST, 0)], stop=stop, grace=30))
            async with await trio.open_tcp_stream(*address) as application:
                await application.send_all(b"x")
                assert await application.receive_some() == b"x"
                stop.set()
                await application.send_all(b"to the end")
                await application.send_eof()
                assert await receive_all(application) == b"to the end"
    nursery.cancel_scope.cancel()


async def test_a_listener_that_is_full_says_so(
    deployment: Deployment, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnprovenChannels, "admit", lambda *_: None)  # all places are taken by younger channels
    published = deployment.publish()
    await deployment.connector(deployment.string(published, Role.CONNECTOR))
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        with pytest.raises(RendezvousError) as caught:
            await client.open_stream(patience=0)
    assert caught.value.reason is Reason.LIMIT
    nursery.cancel_scope.cancel()


async def test_a_connector_that_comes_back_says_that_its_former_self_is_dead(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path
) -> None:
    published = deployment.publish()
    target = await serve_target(nursery, echo)
    string = deployment.string(published, Role.CONNECTOR, target)
    cut = trio.Event()
    sockets: list[trio.SocketStream] = []

    async def dial(host: str, port: int) -> trio.SocketStream:
        if cut.is_set():
            await trio.sleep_forever()
        sockets.append(await dial_directly(host, port))
        return sockets[-1]

    first = InstanceFile(tmp_path / "instance")
    assert first.dead == ()
    await deployment.connector(string, dialer=Dialer(dial), instance_file=first)
    async with deployment.client(deployment.string(published, Role.APPLICATION)) as client:
        stream = await client.open_stream()
        # Killed, as far as anybody else can see: everything is cut, and nothing comes back.
        cut.set()
        for one in sockets:
            await trio.aclose_forcefully(one)
        first.close()
        second = InstanceFile(tmp_path / "instance")
        assert second.dead == (first.instance,)
        await deployment.connector(string, instance_file=second)
        with trio.fail_after(patience(15)), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()  # long before the deadline for resumption
        fresh = await client.open_stream()
        await fresh.send_all(b"x")
        assert await fresh.receive_some() == b"x"
    second.close()
    nursery.cancel_scope.cancel()


def test_an_instance_file_that_is_held_says_nothing(tmp_path: Path) -> None:
    first = InstanceFile(tmp_path / "instance")
    beside = InstanceFile(tmp_path / "instance")
    assert beside.dead == ()
    assert beside.instance != first.instance
    beside.close()
    first.close()
    after = InstanceFile(tmp_path / "instance")
    assert after.dead == (first.instance,)
    after.close()


def test_an_instance_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="instance file"):
        InstanceFile(tmp_path / "nowhere" / "instance")
