"""Serves the management API on a Unix socket in the relay's state directory."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

import msgspec
import trio

from .._version import __version__
from ..events import EventStream, ManagementUnavailable, logged_events
from ..http import Handler, Reply, Request, Response, Route, Router, Service, Stop, serve
from ..relay import LiveRelay, RelayInfo, SQLiteStore
from ..relay.store.state_dir import local_socket
from ..security import ManagementRole
from ..streams.unix_sockets import SocketFile, listen_unix_socket
from .callers import Caller
from .calls import handler_of
from .handlers import OPERATIONS
from .managed import Managed
from .openapi import openapi_document
from .problems import render_problem

__all__ = ["SOCKET", "make_router", "serve_management"]

#: The name of the socket in the state directory, without its suffix.
SOCKET = "management"
#: How long running requests may continue when the relay stops (seconds).
_GRACE_SECONDS = 2.0
_PEER_CREDENTIALS = struct.Struct("3i")


def make_router(managed: Managed) -> Router[Handler]:
    """Everything that is served: the operations of the table, and their description."""
    document = msgspec.json.encode(openapi_document(OPERATIONS, version=__version__))

    async def describe(request: Request) -> Reply:
        await trio.lowlevel.checkpoint()
        return Response(200, document, (("Content-Type", "application/json"),))

    routes = [Route(row.method, row.path, handler_of(row, managed)) for row in OPERATIONS]
    return Router([*routes, Route("GET", "/openapi.json", describe)])


async def serve_management(
    state_dir: Path,
    info: RelayInfo,
    relay: LiveRelay,
    *,
    stop: trio.Event,
    events: EventStream | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the management API of a relay until `stop` is set, on ``management.sock`` in its state directory.

    Only the user who owns the directory, and root, can connect; they are administrators. Where the socket cannot be
    made, the relay runs without it, which is an event.

    Args:
        state_dir: of the relay, which runs on it.
        info: what is known about the relay once it serves.
        relay: what it holds at this moment, and what can be ended.
        stop: set it for a graceful end. Requests that run may continue for two seconds.
        events: where events go; None means the log.

    Raises:
        StateError: the store cannot be opened.

    Cancelled, it aborts all connections without waiting.
    """
    events = logged_events() if events is None else events
    path = local_socket(state_dir, SOCKET)
    try:
        listener, file = await listen_unix_socket(path)
    except OSError as exc:
        events.publish(ManagementUnavailable(file=str(path), detail=exc.strerror or str(exc)))
        task_status.started()
        return
    http_stop = Stop()
    try:
        with (
            SQLiteStore.open(state_dir, events=events) as store,
            SQLiteStore.open(state_dir, events=events) as reader,
        ):
            managed = Managed(store, reader, info, relay, events)
            service = Service(router=make_router(managed), render_failure=render_problem)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, stop, http_stop, file)
                await serve(
                    [listener],
                    service,
                    grace_seconds=_GRACE_SECONDS,
                    stop=http_stop,
                    prepare=_identify,
                    task_status=task_status,
                )
                nursery.cancel_scope.cancel()
    finally:
        file.remove()
        listener.socket.close()


async def _pass_on(stop: trio.Event, http_stop: Stop, file: SocketFile) -> None:
    await stop.wait()
    # Now, and not after the grace: the relay may have ended by then, and another one may listen here.
    file.remove()
    http_stop.set()


async def _identify(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
    """Who has connected, by the socket's credentials.

    The mode of the socket lets only its owner and root connect. This is a second check.
    """
    await trio.lowlevel.checkpoint()
    user = _peer_user(stream)
    if user is not None and user not in (0, os.geteuid()):
        raise PermissionError("another user has connected")
    return stream, Caller("local", "owner" if user is None else f"uid {user}", ManagementRole.ADMIN)


def _peer_user(stream: trio.SocketStream) -> int | None:
    """The user id of the process that has connected; None where the system does not say."""
    if sys.platform != "linux":
        return None
    data = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, user, _ = _PEER_CREDENTIALS.unpack(data)
    return int(user)
