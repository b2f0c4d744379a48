"""Bytes that one side had taken, and that the other side never got, are not reported as delivered."""

from __future__ import annotations

import re
import socket

import pytest
import trio

from hybridrelay.streams.sockets import abort_stream

from ..deployments import Deployment, Program
from ..waiting import async_wait_until
from .targets import serve

#: Less than a stream may queue.
STEP = 32 * 1024
DEBUG = ("--log-level", "debug")


async def send_until_queued(stream: trio.SocketStream, program: Program) -> int:
    """Send until `program` holds bytes that the other side has no room for, then end. Returns how much was sent."""
    sent = 0

    async def is_queued() -> bool:
        nonlocal sent
        await stream.send_all(bytes(STEP))
        sent += STEP
        return bool((await trio.to_thread.run_sync(program.statistics))["queued_bytes"])

    await async_wait_until(is_queued, seconds=60, what="bytes in the queue of the stream")
    await stream.send_eof()
    return sent


async def ended(program: Program, pattern: str) -> dict[str, str]:
    """The fields of the log line that says how the stream ended."""
    line = (await program.logs(pattern)).string
    return {name: value.strip("'") for name, value in re.findall(r"(\w+)=(\S+)", line)}


@pytest.mark.parametrize("sender", ["application", "target"])
async def test_the_receiver_stops_reading_and_resets(
    deployment: Deployment, nursery: trio.Nursery, sender: str
) -> None:
    accepted: list[trio.SocketStream] = []
    is_accepted, is_over = trio.Event(), trio.Event()

    async def target(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        is_accepted.set()
        await is_over.wait()

    published = deployment.create("dropped", await serve(nursery, target))
    connector = deployment.start_connector(published, arguments=DEBUG)
    forward = deployment.start_forward(published, arguments=DEBUG)
    application = await trio.open_tcp_stream("127.0.0.1", forward.port)
    with trio.fail_after(30):
        await is_accepted.wait()
    if sender == "application":
        source, program, sink = application, forward.program, accepted[0]
    else:
        source, program, sink = accepted[0], connector, application
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with trio.fail_after(90):
        sent = await send_until_queued(source, program)
        await abort_stream(sink)
        audit = await ended(connector, r"event='(closed|closed-with-reset|broken)'")
        event = await ended(forward.program, "A stream was closed")
    to = "to_target" if sender == "application" else "to_client"
    receiver = "target" if sender == "application" else "application"
    for fields in (audit, event):
        assert fields[to] == f"reset-by-{receiver}"
        assert 0 < int(fields[f"bytes_{to}"]) < sent
    await application.aclose()
    is_over.set()
    nursery.cancel_scope.cancel()
