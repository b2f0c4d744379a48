"""The sample target: a small HTTP server that knows nothing about relays."""

from __future__ import annotations

import json
from typing import Any

import h11
import trio

from ..._accepting import serve_listeners
from ..._listening import open_listeners
from ...events.log import logged_events
from .http import BLOCK, Wire

GREETING = "Hello from the private network: this HTTP server has no port that is open to the outside."


async def serve_resource(*, task_status: trio.TaskStatus[int]) -> None:
    """Serve on a free port of this machine until cancelled. Reports the port number through `task_status`.

    ``GET /`` answers with a greeting, ``GET /bytes`` with an endless body, and ``POST /bytes`` with the number of
    bytes that it has received.
    """
    events = logged_events()
    (listener,) = await open_listeners("127.0.0.1", 0, events=events)
    task_status.started(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await serve_listeners(_serve, [listener], handler_nursery=nursery, events=events, what="the sample target")


async def _serve(stream: trio.SocketStream) -> None:
    """Serve one connection. Errors of its peer end only this connection."""
    wire = Wire(stream, h11.Connection(h11.SERVER))
    try:
        while isinstance(request := await wire.receive(), h11.Request):
            await _answer(wire, request)
            if wire.connection.our_state is not h11.DONE:
                break
            wire.connection.start_next_cycle()
    except (trio.BrokenResourceError, h11.ProtocolError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _answer(wire: Wire, request: h11.Request) -> None:
    received = 0
    while isinstance(event := await wire.receive(), h11.Data):
        received += len(event.data)
    match request.method, request.target:
        case b"GET" | b"HEAD" as method, b"/":
            await _send(wire, 200, GREETING + "\n", head_only=method == b"HEAD")
        case b"GET", b"/bytes":
            await wire.send(h11.Response(status_code=200, headers=_headers(("Transfer-Encoding", "chunked"))))
            while True:
                await wire.send(h11.Data(data=BLOCK))
        case b"POST", b"/bytes":
            await _send(wire, 200, json.dumps({"received": received}))
        case _:
            await _send(wire, 404, "not here; try / or /bytes\n")


async def _send(wire: Wire, status: int, text: str, *, head_only: bool = False) -> None:
    body = text.encode()
    head = h11.Response(
        status_code=status,
        reason=b"OK" if status == 200 else b"",
        headers=_headers(("Content-Length", str(len(body)))),
    )
    await wire.send(head, h11.Data(data=b"" if head_only else body), h11.EndOfMessage())


def _headers(*more: tuple[str, str]) -> list[Any]:
    return [("Content-Type", "text/plain; charset=utf-8"), ("Server", "on-premises"), *more]
