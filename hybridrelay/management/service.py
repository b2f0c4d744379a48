"""Serves the management API on a Unix socket in the relay's state directory, and over TCP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from .._nursery import FlatNursery
from .._threads import from_any_thread
from .._version import __version__
from ..audit.record import SinkProblem
from ..errors import ConfigurationError
from ..events.log import logged_events
from ..events.management import ManagementTokenUseNotSaved, ManagementUnavailable
from ..events.plain_log import also_subscribed
from ..events.stream import EventStream
from ..http import Handler, Reply, Request, Response, Route, Router, Service, Stop, serve
from ..relay import LiveRelay, RelayInfo, SQLiteStore
from ..relay.store.state_dir import MANAGEMENT_SOCKET, local_socket
from ..security import ManagementRole
from ..streams.unix_sockets import SocketFile, check_same_user, listen_unix_socket
from .audit_log import ManagementAuditLog
from .callers import Caller
from .calls import handler_of
from .condition import LastReload, management_certificate_problem, reload_problems, sink_problems
from .description import Description
from .forwarding import for_client_address
from .gate import Gate
from .handlers import OPERATIONS
from .hosts import AllowedHosts
from .live_values import RelayProblem
from .logins import Logins
from .managed import Managed
from .openapi import openapi_document
from .peers import Peer
from .rendering import render_failure
from .request_ids import REQUEST_ID, new_request_id
from .tcp import ManagementTcp
from .web.page import routes_of
from .web.table import PAGES

__all__ = ["make_router", "serve_management"]

#: How long running requests may continue when the relay stops (seconds).
_GRACE_SECONDS = 2.0


def make_router(managed: Managed, gate: Gate | None = None) -> Router[Handler]:
    """Make the router for all that is served: the operations, the OpenAPI document, and the dashboard's pages.

    Args:
        managed: the relay.
        gate: admits requests; None makes one.
    """
    admitting = Gate(managed) if gate is None else gate
    description = Description(partial(openapi_document, OPERATIONS, version=__version__))

    async def describe(request: Request) -> Reply:
        await admitting.admit(request)
        document = await description.read()
        return Response(200, document, (("Content-Type", "application/json"), (REQUEST_ID, new_request_id())))

    routes = [
        Route(
            row.method,
            row.path,
            handler_of(row, managed, admitting),
            until_client_leaves=row.streams is not None,
        )
        for row in OPERATIONS
    ]
    routes += [Route("GET", "/openapi.json", describe), *routes_of(PAGES, managed, admitting)]
    return Router(for_client_address(route, managed.events) for route in routes)


async def serve_management(
    state_dir: Path,
    info: Callable[[], RelayInfo],
    relay: LiveRelay,
    *,
    stop: trio.Event,
    tcp: ManagementTcp | None = None,
    events: EventStream | None = None,
    logins: Logins | None = None,
    last_reload: Callable[[], LastReload | None] = lambda: None,
    failed_sinks: Callable[[], Sequence[SinkProblem]] = tuple,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the management API of a relay until `stop` is set, on ``management.sock`` in its state directory.

    Only the user who owns the directory, and root, can connect there; they are administrators. If the socket cannot
    be created, this publishes an event, and the relay runs without it.

    Args:
        state_dir: the state directory of the relay.
        info: returns where the relay can be reached now.
        relay: the current state of the relay.
        stop: set this to stop gracefully: running requests may continue for two seconds.
        tcp: serves the API over TCP as well; None means only on the socket.
        events: the relay's event stream, which the API shows, and to which it publishes its own events; None means
            the log. The API also shows what this process publishes only in its log (`plainly_logged_events`), such as
            a reload.
        logins: the browsers that are logged in to the dashboard. With this, code in this process can add one-time
            codes (`Logins.add_code`).
        last_reload: returns the last reload of the relay's configuration file, whose problems the API shows.
        failed_sinks: returns the sinks of the relay's audit log that cannot be written.

    Raises:
        StateError: the store cannot be opened.
        ConfigurationError: it is not possible to listen at an address of `tcp`.

    If cancelled, this aborts all connections without waiting.
    """
    events = logged_events() if events is None else events
    with contextlib.ExitStack() as closing:
        local = await _listen(state_dir, events, closing)
        if local is None and tcp is None:
            task_status.started()
            return
        store = closing.enter_context(SQLiteStore.open(state_dir, events=events))
        reader = closing.enter_context(SQLiteStore.open(state_dir, events=events))
        audit = ManagementAuditLog(state_dir, clock=time.time, events=events)

        def problems() -> Sequence[RelayProblem]:
            last, error = last_reload(), None if tcp is None else tcp.certificate_error
            return (
                *(() if last is None else reload_problems(last)),
                *(() if error is None else (management_certificate_problem(error),)),
                *sink_problems(failed_sinks()),
            )

        managed = Managed(store, reader, info, relay, events, state_dir=state_dir, audit=audit, problems=problems)
        for subscriber in (managed.feed, audit):
            closing.enter_context(events.subscribed(subscriber))
        closing.enter_context(also_subscribed(from_any_thread(managed.feed)))
        gate = Gate(managed, () if tcp is None else tcp.authenticators, logins)
        router, http_stop = make_router(managed, gate), Stop()
        async with FlatNursery() as nursery:
            nursery.start_soon(_pass_on, stop, http_stop, None if local is None else local[1])
            nursery.start_soon(gate.save_uses)
            nursery.start_soon(audit.run)
            async with FlatNursery() as servers:
                if local is not None:
                    # A browser can reach the socket through a local port of `ssh -L`.
                    service = Service(router=router, hosts=AllowedHosts(()), render_failure=render_failure)
                    serve_local = partial(
                        serve, [local[0]], service, grace_seconds=_GRACE_SECONDS, stop=http_stop, prepare=_identify
                    )
                    await servers.start(serve_local)
                if tcp is not None:
                    nursery.start_soon(tcp.watch)
                    await servers.start(partial(tcp.serve, router, stop=http_stop, grace_seconds=_GRACE_SECONDS))
                task_status.started()
            nursery.cancel_scope.cancel()
        with contextlib.suppress(OSError):  # the failure is already an event; the entries are in the log
            await audit.flush()
        try:
            await gate.save_uses_now()
        except ConfigurationError as exc:
            events.publish(ManagementTokenUseNotSaved(detail=str(exc), remedy=exc.remedy or ""))


async def _listen(
    state_dir: Path, events: EventStream, closing: contextlib.ExitStack
) -> tuple[trio.SocketListener, SocketFile] | None:
    path = local_socket(state_dir, MANAGEMENT_SOCKET)
    try:
        listener, file = await listen_unix_socket(path)
    except OSError as exc:
        events.publish(ManagementUnavailable(file=str(path), detail=exc.strerror or str(exc)))
        return None
    closing.callback(listener.socket.close)
    closing.callback(file.remove)
    return listener, file


async def _pass_on(stop: trio.Event, http_stop: Stop, file: SocketFile | None) -> None:
    await stop.wait()
    # The socket is removed before the grace period, after which another relay may be listening at the same path.
    if file is not None:
        file.remove()
    http_stop.set()


async def _identify(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
    """Return the stream, and the peer that the socket's credentials identify."""
    await trio.lowlevel.checkpoint()
    user = check_same_user(stream)
    return stream, Peer(caller=Caller("local", "owner" if user is None else f"uid {user}", ManagementRole.ADMIN))
