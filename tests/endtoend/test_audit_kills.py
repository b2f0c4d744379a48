"""A connector is killed under load: no connection that the target had is missing in its audit files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio

from ..deployments import Deployment
from .targets import serve

KILLS = 4


def records(directory: Path) -> list[dict[str, Any]]:
    data = b"".join(path.read_bytes() for path in sorted(directory.glob("audit-*.jsonl")))
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


async def test_no_connection_of_the_target_is_missing(deployment: Deployment, nursery: trio.Nursery) -> None:
    reached = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal reached
        reached += 1
        await stream.send_all(await stream.receive_some() or b"-")

    published = deployment.create("db", await serve(nursery, answer))
    directory = deployment.directory / "audit"
    options = ("--audit-dir", str(directory), "--audit-required", "file")
    connector = deployment.start_connector(published, arguments=options)
    forward = deployment.start_forward(published)
    key = deployment.directory / "audit.pub"
    key.write_text(deployment.run("audit", "key", directory).stdout)

    async def open_streams() -> None:
        while True:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
                    await stream.send_all(b"x")
                    await stream.receive_some()
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(0.01)

    async with trio.open_nursery() as applications:
        for _ in range(8):
            applications.start_soon(open_streams)
        for _ in range(KILLS):
            before = reached
            with trio.fail_after(90):
                while reached < before + 20:
                    await trio.sleep(0.01)
            connector.kill()
            await trio.to_thread.run_sync(connector.wait)
            opened = sum(one["event"] == "stream.opened" for one in records(directory))
            assert opened >= reached
            connector = await trio.to_thread.run_sync(
                lambda: deployment.start_connector(published, arguments=options)
            )
        applications.cancel_scope.cancel()
    assert await trio.to_thread.run_sync(connector.terminate) == 0

    verified = deployment.run("audit", "verify", directory, "--key", key, "--json")
    assert verified.returncode == 0, verified.stdout
    found = json.loads(verified.stdout)
    assert found["isTrusted"]
    assert found["signedUpTo"] == found["last"] - 1
    events = [one["event"] for one in records(directory)]
    assert events.count("log.resumed") == KILLS
    assert events[-2:] == ["log.closed", "log.checkpoint"]
    nursery.cancel_scope.cancel()
