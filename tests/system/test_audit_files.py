"""The audit files of a connector: every stream is on the disk before its target is dialed."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from hybridrelay.audit import AuditLog
from hybridrelay.audit import writer as writer_module
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.sinks.files import FileSink
from hybridrelay.audit.sinks.sink import SinkKind
from hybridrelay.connector import ConnectorConfig, run_connector
from hybridrelay.errors import StreamRefused
from hybridrelay.events import EventStream
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import Role

from ..audit.lines import verify
from ..waiting import patience
from .deployment import Deployment, serve_target


class Scene:
    """A connector with audit files, and a target that looks into them."""

    def __init__(self, path: Path, deployment: Deployment, nursery: trio.Nursery) -> None:
        self.path = path
        self.directory = AuditDirectory(Disk(path), clock=time.time)
        self.log = AuditLog([FileSink(self.directory, str(path))], required=[SinkKind.FILE])
        self.published = deployment.publish()
        self.deployment = deployment
        self.nursery = nursery
        #: How many streams were on the disk when the target got its connections.
        self.recorded: list[int] = []

    async def start(self) -> None:
        async def echo(stream: trio.SocketStream) -> None:
            self.recorded.append(len(self.of("stream.opened")))
            await stream.send_all(await stream.receive_some())

        target = await serve_target(self.nursery, echo)
        config = ConnectorConfig([self.deployment.string(self.published, Role.CONNECTOR, target)], audit=self.log)

        async def connector(*, task_status: trio.TaskStatus[object]) -> None:
            events = EventStream()
            async with self.log.opened(events):
                await run_connector(config, events=events, task_status=task_status)

        await self.nursery.start(connector)

    def records(self) -> list[dict[str, Any]]:
        data = b"".join(path.read_bytes() for path in sorted(self.path.glob("audit-*.jsonl")))
        return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.records() if one["event"] == event]


async def test_every_stream_is_on_the_disk_first(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path
) -> None:
    scene = Scene(tmp_path / "audit", deployment, nursery)
    await scene.start()
    async with deployment.client(deployment.string(scene.published, Role.APPLICATION)) as client:
        for number in range(1, 4):
            async with await client.open_stream() as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            assert scene.recorded[-1] >= number
    with trio.fail_after(patience(10)):
        while len(scene.of("stream.closed")) < 3:
            await trio.sleep(0.05)
    events = [one["event"] for one in scene.records()]
    assert {"registration.succeeded", "session.opened"} <= set(events)
    for one in scene.of("stream.closed"):
        assert {
            "connection", "label", "serial", "route", "client_address", "target", "address", "activity_id",
            "bytes_to_target", "bytes_to_client", "reason", "outcome",
        } <= one.keys()  # fmt: skip
        assert one["client_address"] == "127.0.0.1"
        assert (one["bytes_to_target"], one["bytes_to_client"]) == (1, 1)
    nursery.cancel_scope.cancel()


async def test_without_its_files_it_opens_no_stream_and_recovers(
    deployment: Deployment, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_RETRY_SECONDS", (0.05,))
    scene = Scene(tmp_path / "audit", deployment, nursery)
    await scene.start()
    async with deployment.client(deployment.string(scene.published, Role.APPLICATION)) as client:
        kept = await client.open_stream()
        append = scene.directory.append

        def full(_: object) -> object:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(scene.directory, "append", full)
        for _ in range(3):
            with pytest.raises(StreamRefused) as caught:
                async with await client.open_stream():
                    pass
            assert caught.value.reason is Reason.AUDIT_UNAVAILABLE
            assert "No space" not in str(caught.value)  # only for the private network
        assert len(scene.recorded) <= 1
        await kept.send_all(b"y")  # what is open continues
        assert await kept.receive_some() == b"y"

        monkeypatch.setattr(scene.directory, "append", append)
        with trio.fail_after(patience(10)):
            while scene.log.problems:
                await trio.sleep(0.05)
        async with await client.open_stream() as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        await kept.aclose()
    with trio.fail_after(patience(10)):
        while len(scene.of("stream.closed")) < 2:
            await trio.sleep(0.05)
    assert len(scene.of("stream.not-connected")) == 3
    assert len(scene.of("stream.opened")) == 5
    assert {one["reason"] for one in scene.of("stream.not-connected")} == {"audit-unavailable"}
    lines = {path.name: path.read_bytes().splitlines(keepends=True) for path in scene.path.glob("audit-*.jsonl")}
    assert verify(lines).notes == ()
    nursery.cancel_scope.cancel()
