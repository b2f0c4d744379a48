"""A lot of data, in both directions at the same time, arrives unchanged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import trio

from ..deployments import Deployment
from .targets import receive_hash, send_random, serve

#: Each way. `nox -s soak` sends a gibibyte.
BULK_BYTES = int(os.environ.get("HYBRIDRELAY_BULK_BYTES") or 64 << 20)


async def test_bulk_both_ways_at_once(
    deployment: Deployment, nursery: trio.Nursery, mode: str, remark: Callable[[str], None]
) -> None:
    found: dict[str, object] = {}

    async def both(side: str, stream: trio.SocketStream) -> None:
        async def send() -> None:
            found[f"sent by {side}"] = BULK_BYTES, await send_random(stream, BULK_BYTES)

        async with trio.open_nursery() as inner:
            inner.start_soon(send)
            found[f"received by {side}"] = await receive_hash(stream)

    target_done = trio.Event()

    async def target(stream: trio.SocketStream) -> None:
        await both("target", stream)
        target_done.set()

    published = deployment.create("bulk", await serve(nursery, target))
    connector = deployment.start_connector(published, arguments=["--mode", mode])
    forward = deployment.start_forward(published, mode=mode)
    began = time.monotonic()
    async with await trio.open_tcp_stream("127.0.0.1", forward.port) as stream:
        await both("application", stream)
    await target_done.wait()
    seconds = time.monotonic() - began
    assert found["received by target"] == found["sent by application"]
    assert found["received by application"] == found["sent by target"]
    memory = ", ".join(
        f"{program.name.split()[-1]} {program.resident_bytes >> 20} MiB"
        for program in (deployment.programs[0], connector, forward.program)
    )
    rate = BULK_BYTES / 1e6 / seconds
    remark(f"bulk over {mode}: {BULK_BYTES >> 20} MiB each way at once, {rate:.0f} MB/s each way; {memory}")
    nursery.cancel_scope.cancel()
