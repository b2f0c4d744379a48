"""Accepting connections from listeners and serving them: a bounded number at a time, with a graceful shutdown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import trio

from .._accepting import serve_listeners
from ..errors import HybridRelayError
from ..events.log import logged_events
from ..streams.sockets import abort_stream, close_forcefully
from .body import ClientGone
from .connection import Upgraded, refuse_connection, serve_connection
from .failure import Failure, RequestError
from .service import Service
from .stopping import Stop

__all__ = ["Hold", "Prepare", "serve"]

#: Prepares an accepted connection, for instance by a TLS handshake. Returns the stream to serve, and what is known
#: about the peer (`Request.peer`). Raises OSError, `HybridRelayError` or `trio.BrokenResourceError` if the peer
#: cannot be served. It is cancelled after `Limits.head_seconds`, and when a shutdown begins. `serve` always
#: closes the accepted connection.
Prepare = Callable[[trio.SocketStream], Awaitable[tuple[trio.abc.Stream, object]]]

#: Called with an accepted connection and a function that ends it at once. Returns a context manager, which is open
#: until the connection has ended. With it, the caller of `serve` can end one connection to make room for another.
#: Must not raise.
Hold = Callable[[trio.SocketStream, Callable[[], None]], AbstractContextManager[object]]

#: How many connections beyond the limit are answered with 503 at the same time. Further ones are reset.
_MAX_REFUSALS = 16
#: When refused clients should retry (seconds).
_RETRY_AFTER_SECONDS = 1


async def serve(
    listeners: Sequence[trio.SocketListener],
    service: Service,
    *,
    max_connections: int = 64,
    grace_seconds: float = 5,
    stop: Stop | None = None,
    hold: Hold | None = None,
    prepare: Prepare | None = None,
    on_upgrade: Callable[[Upgraded], Awaitable[None]] | None = None,
    closed: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections and serve requests on them, until cancelled or until `stop` is set.

    Args:
        listeners: TCP or Unix listeners. They are closed at the end.
        service: routes, limits and hooks.
        max_connections: further connections are answered with 503 and Retry-After, 16 at a time; the others are
            reset.
        grace_seconds: how long running requests may continue after `stop` was set. Idle connections are closed
            immediately.
        stop: set it for a graceful shutdown.
        hold: see `Hold`; None if no connection is ever ended to make room for another.
        prepare: see `Prepare`. With None, the accepted connection is served unchanged, and `Request.peer` is None.
        on_upgrade: serves a connection that another protocol takes over. The connection is closed when it returns.
            Needed only if a handler returns `SwitchProtocols`.
        closed: set when the listeners are closed. Running requests may still continue then.

    Raises:
        OSError: a listener cannot accept connections at all.
        Exception: what `Service.on_crash` or `on_upgrade` raised, or what `prepare` raised in addition to the errors
            that `Prepare` names. It ends all connections.

    If cancelled, it aborts all connections without waiting.
    """
    server = _Server(service, max_connections, stop or Stop(), hold, prepare, on_upgrade)
    await server.run(listeners, grace_seconds, trio.Event() if closed is None else closed, task_status)


class _Server:
    """The state of one call of `serve`."""

    def __init__(
        self,
        service: Service,
        max_connections: int,
        stop: Stop,
        hold: Hold | None,
        prepare: Prepare | None,
        on_upgrade: Callable[[Upgraded], Awaitable[None]] | None,
    ) -> None:
        self._service = service
        self._max_connections = max_connections
        self._stop = stop
        self._hold = hold
        self._prepare = prepare
        self._on_upgrade = on_upgrade
        self._connections = 0
        self._refusals = 0

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        grace_seconds: float,
        closed: trio.Event,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            # The deadline of this scope is set when the grace period begins.
            with trio.CancelScope() as grace:
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        accept = partial(
                            serve_listeners,
                            self._serve,
                            listeners,
                            handler_nursery=connections,
                            events=logged_events(),
                            what="the HTTP server",
                        )
                        await accepting.start(accept)
                        task_status.started()
                        await self._stop.wait()
                        accepting.cancel_scope.cancel()
                    await close_forcefully(*listeners)
                    closed.set()
                    grace.deadline = trio.current_time() + grace_seconds
        finally:
            await close_forcefully(*listeners)
            closed.set()

    async def _serve(self, accepted: trio.SocketStream) -> None:
        if self._connections < self._max_connections:
            self._connections += 1
            try:
                with trio.CancelScope() as scope, self._held(accepted, scope.cancel):
                    await self._serve_accepted(accepted)
            finally:
                self._connections -= 1
        elif self._refusals < _MAX_REFUSALS:
            self._refusals += 1
            try:
                await self._refuse(accepted)
            finally:
                self._refusals -= 1
        else:
            await abort_stream(accepted)

    def _held(self, accepted: trio.SocketStream, end: Callable[[], None]) -> AbstractContextManager[object]:
        return nullcontext() if self._hold is None else self._hold(accepted, end)

    async def _serve_accepted(self, accepted: trio.SocketStream) -> None:
        prepared = await self._prepared(accepted)
        if prepared is None:
            return
        stream, peer = prepared
        try:
            upgraded = await serve_connection(stream, self._service, stop=self._stop, peer=peer)
        except (RequestError, ClientGone):
            return  # `Service.on_access` was called for every request
        except Exception as exc:  # noqa: BLE001  # an error on one connection must not end the others
            self._service.on_crash(exc)
            return
        if upgraded is not None:
            try:
                if self._on_upgrade is None:
                    raise RuntimeError("a handler returned SwitchProtocols, and nothing serves the other protocol")
                await self._on_upgrade(upgraded)
            finally:
                await trio.aclose_forcefully(upgraded.stream)

    async def _refuse(self, accepted: trio.SocketStream) -> None:
        prepared = await self._prepared(accepted)
        if prepared is not None:
            retry = (("Retry-After", str(_RETRY_AFTER_SECONDS)),)
            failure = Failure(503, "this server has as many connections as it can serve", retry, close=True)
            await refuse_connection(prepared[0], self._service, failure)

    async def _prepared(self, accepted: trio.SocketStream) -> tuple[trio.abc.Stream, object] | None:
        if self._prepare is None:
            return accepted, None
        with trio.move_on_after(self._service.limits.head_seconds) as scope:
            self._stop.add_idle(scope)
            try:
                return await self._prepare(accepted)
            except (HybridRelayError, OSError, trio.BrokenResourceError):
                return None
            finally:
                self._stop.discard_idle(scope)
        return None
