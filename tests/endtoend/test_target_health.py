"""Two connectors as processes: the target of one fails and comes back, one is drained, and both targets fail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hybridrelay import open_client
from hybridrelay.client import Client, other_connectors
from hybridrelay.errors import StreamRefused
from hybridrelay.management import ManagementClient, read_status
from hybridrelay.management.addresses import LocalAddress
from hybridrelay.mux import MuxStream
from hybridrelay.protocol.reasons import Reason
from hybridrelay.streams.exact import receive_exactly

from ..deployments import Deployment, Program, Published, free_port
from ..waiting import async_wait_until

SECONDS = 60.0


@attrs.define(eq=False)
class Target:
    """Greets with its name, and then echoes. While it is down, its port refuses connections; those that are open
    stay."""

    name: bytes
    nursery: trio.Nursery
    port: int = attrs.field(factory=free_port)
    _scope: trio.CancelScope | None = None
    _open: set[trio.CancelScope] = attrs.field(factory=set)

    async def up(self) -> None:
        listener = trio.socket.socket()
        listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await listener.bind(("127.0.0.1", self.port))
        listener.listen(100)
        self._scope = trio.CancelScope()
        self.nursery.start_soon(self._serve, trio.SocketListener(listener), self._scope)

    async def _serve(self, listener: trio.SocketListener, scope: trio.CancelScope) -> None:
        with scope:
            await trio.serve_listeners(self._handle, [listener], handler_nursery=self.nursery)

    def down(self) -> None:
        assert self._scope is not None
        self._scope.cancel()

    def drop(self) -> None:
        """End the open connections."""
        for scope in self._open:
            scope.cancel()

    async def _handle(self, stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._open.add(scope)
            async with stream:
                try:
                    await stream.send_all(self.name)
                    async for data in stream:
                        await stream.send_all(data)
                except trio.BrokenResourceError:
                    pass  # a check ends at once
        self._open.discard(scope)


@attrs.define
class Scene:
    deployment: Deployment
    published: Published
    targets: tuple[Target, Target]

    async def run(self, *arguments: str | Path) -> str:
        """Run a command, and return its output. `status` may say that there is a problem."""
        done = await trio.to_thread.run_sync(partial(self.deployment.run, *arguments))
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    async def status(self) -> dict[str, Any]:
        """What ``status --json`` prints, without the time that it takes to start a program."""
        client = ManagementClient(LocalAddress(self.deployment.state))
        try:
            status = await read_status(client)
        finally:
            await client.aclose()
        found: dict[str, Any] = json.loads("".join(status.json_parts()))
        return found

    async def listeners(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.status())["listeners"]
        return found

    async def problems(self) -> list[tuple[str, str | None]]:
        """The codes of the relay's problems, with the hybrid connections that have them."""
        status = await self.status()
        return [(one["code"], one["connection"]) for one in status["relay"]["problems"]]

    async def report(self, *wanted: str) -> None:
        """Wait until the connectors report this about their targets, in any order."""

        async def reported() -> bool:
            return sorted(one["target"] for one in await self.listeners()) == sorted(wanted)

        await async_wait_until(reported, seconds=SECONDS, what=f"the connectors report {wanted}")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[tuple[Client, MuxStream, bytes]]:
        """A new session with one stream, and the name of the target."""
        async with (
            open_client(self.published.application.read_text()) as client,
            await client.open_stream() as stream,
        ):
            yield client, stream, await receive_exactly(stream, 1)

    async def targets_of(self, sessions: int) -> set[bytes]:
        """Open sessions at the same time, and return the names of the targets that they have reached."""
        async with AsyncExitStack() as stack:
            return {(await stack.enter_async_context(self.session()))[2] for _ in range(sessions)}


async def echoes(stream: MuxStream) -> None:
    await stream.send_all(b"echo")
    assert await receive_exactly(stream, 4) == b"echo"


@pytest.fixture
async def scene(deployment: Deployment, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    targets = Target(b"a", nursery), Target(b"b", nursery)
    for one in targets:
        await one.up()
    published = deployment.create("orders", ("127.0.0.1", targets[0].port))
    yield Scene(deployment, published, targets)
    nursery.cancel_scope.cancel()


def file_for(scene: Scene, target: Target) -> Path:
    """The connector's string with another target, as a second machine may have it."""
    text = scene.published.connector.read_text()
    before = f"Target=127.0.0.1:{scene.targets[0].port}"
    assert before in text
    copy = scene.published.connector.with_name(f"orders.connector.{target.name.decode()}")
    copy.touch(mode=0o600)
    copy.write_text(text.replace(before, f"Target=127.0.0.1:{target.port}"))
    return copy


async def start(scene: Scene, target: Target, *arguments: str) -> Program:
    start = partial(scene.deployment.start_connector, file_for(scene, target), arguments=arguments)
    return await trio.to_thread.run_sync(start)


async def test_new_sessions_go_where_the_target_is(scene: Scene) -> None:
    a, b = scene.targets
    for one in scene.targets:
        await start(scene, one, "--check-target-interval", "1")
    await scene.report("healthy", "healthy")

    a.down()
    await scene.report("healthy", "unhealthy")
    assert await scene.problems() == []
    assert await scene.targets_of(6) == {b"b"}
    (at_b,) = [one for one in await scene.listeners() if one["target"] == "healthy"]
    assert at_b["chosen"] == {"only-healthy": 6}
    assert at_b["lastChosen"] == "only-healthy"
    text = await scene.run("status", "--state", scene.deployment.state)
    assert "6 only-healthy" in text

    await a.up()
    await scene.report("healthy", "healthy")
    async with AsyncExitStack() as stack:
        for _ in range(50):  # it has the fewest sessions, or is chosen at random
            client, stream, name = await stack.enter_async_context(scene.session())
            if name == b"a":
                break
        assert name == b"a"
        (session,) = client.snapshot().sessions
        await scene.run("drain", "orders", session.instance, "--state", scene.deployment.state)
        assert await scene.targets_of(6) == {b"b"}
        await echoes(stream)
        async with await client.open_stream() as second:
            assert await receive_exactly(second, 1) == b"a", "its session stays"
        drained = {one["instance"]: one["draining"] for one in await scene.listeners()}
        assert drained == {session.instance: True, at_b["instance"]: False}
        await scene.run("drain", "orders", session.instance, "--undo", "--state", scene.deployment.state)

    for one in scene.targets:
        one.down()
    await scene.report("unhealthy", "unhealthy")
    assert await scene.problems() == [("target-unhealthy", "orders")]
    with pytest.raises(StreamRefused) as caught:
        async with scene.session():
            pass
    assert caught.value.reason is Reason.TARGET_REFUSED, "the target's own answer"
    await b.up()
    await scene.report("healthy", "unhealthy")
    assert await scene.targets_of(3) == {b"b"}


async def test_a_client_changes_to_the_connector_whose_target_is_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is checked in advance, and no application notices. The client of this process asks a connector again
    sooner than others do."""
    monkeypatch.setattr(other_connectors, "EXCLUDED_SECONDS", 1.0)
    monkeypatch.setattr(other_connectors, "RETRY_SECONDS", 0.5)
    a, b = scene.targets
    await start(scene, a)
    forward = await trio.to_thread.run_sync(scene.deployment.start_forward, scene.published)
    application = partial(trio.open_tcp_stream, "127.0.0.1", forward.port)
    async with scene.session() as (client, stream, name), await application() as tcp:
        assert name == await receive_exactly(tcp, 1) == b"a"
        await start(scene, b)
        a.down()
        async with await client.open_stream() as second:
            assert await receive_exactly(second, 1) == b"b", "the stream that was refused is opened again"
        async with await application() as another:
            await another.send_all(b"at once")  # before the stream is answered
            assert await receive_exactly(another, 8) == b"bat once"
        await forward.program.logs("connector.replaced: .*reason=target-refused")
        await echoes(stream)
        await tcp.send_all(b"open connections stay")
        assert await receive_exactly(tcp, 21) == b"open connections stay"
        await scene.report("unhealthy", "healthy")
        # Back again, in the same way.
        await a.up()
        b.down()

        async def reaches_a() -> bool:
            try:
                async with await client.open_stream() as third:
                    return await receive_exactly(third, 1) == b"a"
            except StreamRefused:  # it was refused by the first connector a moment ago, and is not asked yet
                return False

        await async_wait_until(reaches_a, seconds=2 * SECONDS, what="the first connector is used again")


async def test_a_client_stays_with_the_only_connector(scene: Scene) -> None:
    a, _ = scene.targets
    await start(scene, a)
    async with scene.session() as (client, stream, name):
        assert name == b"a"
        a.down()
        (before,) = client.snapshot().sessions
        for _ in range(3):
            with pytest.raises(StreamRefused) as caught:
                await client.open_stream()
            assert caught.value.reason is Reason.TARGET_REFUSED
        assert [one.id for one in client.snapshot().sessions] == [before.id]
        await echoes(stream)
        await a.up()
        async with await client.open_stream() as second:
            assert await receive_exactly(second, 1) == b"a"


async def test_a_required_audit_log_that_cannot_be_written(scene: Scene, nursery: trio.Nursery) -> None:
    """The connector refuses all streams, so that the relay prefers the other one, until it can be written again."""
    a, b = scene.targets
    server = Target(b"", nursery)
    await server.up()
    sink = f"syslog+tcp://127.0.0.1:{server.port}"
    connector = await start(scene, a, "--audit-to", sink, "--audit-required", "syslog")
    await scene.report("unknown")
    async with scene.session() as (_, _, name):
        assert name == b"a"
    await scene.report("healthy")

    server.down()
    server.drop()

    async def is_refused() -> bool:  # it is noticed when something is recorded
        try:
            async with scene.session():
                return False
        except StreamRefused as exc:
            return exc.reason is Reason.AUDIT_UNAVAILABLE

    await async_wait_until(is_refused, seconds=SECONDS, what="streams are refused")
    await scene.report("unhealthy")
    assert await scene.problems() == [("target-unhealthy", "orders")]
    await start(scene, b)
    assert await scene.targets_of(3) == {b"b"}

    await server.up()
    await connector.logs("audit.sink-restored")
    await scene.report("healthy", "healthy")
    assert await scene.problems() == []


async def test_the_other_ports_of_a_target(scene: Scene) -> None:
    """A target is as healthy as the worst of its ports that are named singly."""
    first, second = sorted(scene.targets, key=lambda one: one.port)
    text = scene.published.connector.read_text()
    file = scene.published.connector.with_name("orders.connector.ports")
    file.touch(mode=0o600)
    both = f"Target=127.0.0.1:{first.port},{second.port}"
    file.write_text(text.replace(f"Target=127.0.0.1:{scene.targets[0].port}", both))
    start = partial(scene.deployment.start_connector, file, arguments=["--check-target-interval", "1"])
    connector = await trio.to_thread.run_sync(start)
    await scene.report("healthy")
    second.down()
    await scene.report("unhealthy")
    await connector.logs(f"target.unhealthy: .*target=127.0.0.1:{second.port} ")
    await second.up()
    await scene.report("healthy")
