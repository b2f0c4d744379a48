"""Bytes that one side had taken, and that the other side never got, are not reported as delivered."""

from __future__ import annotations

import re
import socket

import pytest
import trio

from hybridrelay.streams.sockets import abort_stream

from ..deployments import Deployment, Program
from .targets import serve

#: Less than a stream may queue.
STEP = 32 * 1024
#: More than is on its way between two steps, and less than a receive window.
UNREAD = 4 * STEP
MAX_STEPS = 1000
DEBUG = ("--log-level", "debug")


async def send_until_queued(stream: trio.SocketStream, sender: Program, receiver: Program) -> int:
    """Send until `sender` holds bytes for which `receiver` has no room, then end. Returns how much was sent.

    Bytes can also be queued for a moment while everything moves. Therefore, `receiver` must hold many bytes, too.
    """
    for steps in range(1, MAX_STEPS + 1):
        await stream.send_all(bytes(STEP))
        unread = (await trio.to_thread.run_sync(receiver.statistics))["unread_bytes"]
        queued = (await trio.to_thread.run_sync(sender.statistics))["queued_bytes"]
        if unread >= UNREAD and queued:
            await stream.send_eof()
            return steps * STEP
    raise AssertionError(f"{MAX_STEPS * STEP} bytes have not filled the receive window of the stream")


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
    await is_accepted.wait()
    if sender == "application":
        source, sink, sending, receiving = application, accepted[0], forward.program, connector
    else:
        source, sink, sending, receiving = accepted[0], application, connector, forward.program
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = await send_until_queued(source, sending, receiving)
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
