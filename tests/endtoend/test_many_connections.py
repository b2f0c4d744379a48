"""Hundreds of connections at a time through one forward."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import trio

from ..deployments import Deployment
from ..receiving import receive_all
from .targets import serve

CONNECTIONS = 500


async def test_five_hundred_at_once(
    deployment: Deployment, nursery: trio.Nursery, mode: str, remark: Callable[[str], None]
) -> None:
    """All of them have reached the target before the first is served, and each gets the answer to what it sent."""
    reached = served = 0
    all_open = trio.Event()

    async def target(stream: trio.SocketStream) -> None:
        nonlocal reached
        reached += 1
        if reached == CONNECTIONS:
            all_open.set()
        data = await receive_all(stream)
        await stream.send_all(hashlib.sha256(data).digest())
        await stream.send_eof()

    published = deployment.create("many", await serve(nursery, target))
    connector = deployment.start_connector(published)
    forward = deployment.start_forward(published, mode=mode)
    processes = {"relay": deployment.programs[0], "connector": connector, "forward": forward.program}
    before = {name: program.resident_bytes for name, program in processes.items()}

    async def application() -> None:
        nonlocal served
        data = os.urandom(20_000)
        async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
            await stream.send_all(data[:100])
            await all_open.wait()
            await stream.send_all(data[100:])
            await stream.send_eof()
            assert await receive_all(stream) == hashlib.sha256(data).digest()
            served += 1

    async with trio.open_nursery() as applications:
        for _ in range(CONNECTIONS):
            applications.start_soon(application)
    memory = ", ".join(
        f"{name} {before[name] >> 20} -> {program.resident_bytes >> 20} MiB" for name, program in processes.items()
    )
    remark(f"{CONNECTIONS} connections at once over {mode}; memory: {memory}")
    assert served == CONNECTIONS
    nursery.cancel_scope.cancel()
