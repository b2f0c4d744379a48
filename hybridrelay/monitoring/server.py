"""Serves the status of a connector, `forward` or `run`, on a Unix socket or a loopback address."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

import attrs
import trio

from .._listening import explain_listen_error, open_listeners
from .._nursery import FlatNursery
from ..connectivity.endpoint import format_address
from ..errors import ConfigurationError
from ..events.log import logged_events
from ..events.program import StatusListening
from ..events.stream import EventStream
from ..http import Failure, Prepare, Response, Service, serve
from ..management.hosts import AllowedHosts
from ..management.rendering import render_failure
from ..security.names import bracketed, is_loopback
from ..streams.unix_sockets import check_same_user, is_listening, listen_unix_socket
from .operations import Monitored, make_router
from .sources import StatusSource

__all__ = ["StatusAddress", "serve_status"]

#: How many connections are served at a time. There are few callers: an administrator, and a monitoring system or two.
#: Further connections are answered with 503, or reset if there are very many; see `hybridrelay.http.serve`.
_MAX_CONNECTIONS = 32


@attrs.frozen
class StatusAddress:
    """The address at which the status is served: the path of a Unix socket, or a loopback address and a port.

    Raises:
        ConfigurationError: the host is not a loopback address. Callers need no credentials, so only this machine may
            have access.
    """

    #: The path of the Unix socket. If it is None, `host` and `port` are used.
    path: Path | None = None
    host: str = ""
    #: 0 means any free port.
    port: int = 0

    def __attrs_post_init__(self) -> None:
        if self.path is None and not is_loopback(self.host):
            raise ConfigurationError(
                f"the status cannot be served on {self.host}, which is not a loopback address: everyone who can "
                "reach it could read it",
                remedy="use 127.0.0.1, ::1 or the path of a Unix socket; connect from other machines through ssh -L, "
                "or through a reverse proxy that authenticates",
            )

    @classmethod
    def of(cls, given: Path | tuple[str, int]) -> Self:
        """Make the address from the value of an option."""
        return cls(given) if isinstance(given, Path) else cls(None, *given)

    def __str__(self) -> str:
        return format_address(self.host, self.port) if self.path is None else str(self.path)


async def serve_status(
    address: StatusAddress,
    source: StatusSource,
    *,
    stop: trio.Event | None = None,
    events: EventStream | None = None,
    started_at: float | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``/v1/status``, ``/metrics``, ``/livez`` and ``/readyz`` of a connector, `forward` or `run` until
    cancelled.

    A Unix socket has mode 0600: only this user and root can connect. Over TCP, every user of this machine can
    connect, but web pages cannot read the answers, not even through a name of their own that resolves to the address
    (DNS rebinding).

    `task_status.started` passes the address, with port 0 replaced by the actual port. An event reports it, too.

    Args:
        address: where to listen.
        source: what to show.
        stop: the event that stops the program; once it is set, ``/readyz`` answers 503.
        events: the stream to which events are published; None means the log.
        started_at: when the program was started (seconds since 1970); None means now.

    Raises:
        ConfigurationError: the program cannot listen at `address`, or another program already does.

    If cancelled, it aborts all connections without waiting, and removes the socket.
    """
    events = logged_events() if events is None else events
    started_at = time.time() if started_at is None else started_at
    monitored = Monitored(source, trio.Event() if stop is None else stop, started_at)
    prepare: Prepare | None = None if address.path is None else _check_user
    service = Service(
        router=make_router(monitored),
        hosts=AllowedHosts(()) if address.path is None else None,
        render_failure=_render_failure,
    )
    async with _listening(address, events) as listeners, FlatNursery() as nursery:
        nursery.start_soon(monitored.lag.measure)
        await nursery.start(partial(serve, listeners, service, max_connections=_MAX_CONNECTIONS, prepare=prepare))
        listens_at = str(address)
        if address.path is None:
            listens_at = ", ".join(format_address(*one.socket.getsockname()[:2]) for one in listeners)
        events.publish(StatusListening(address=listens_at))
        task_status.started(listens_at)


def _render_failure(failure: Failure) -> Response:
    if failure.status == 421:
        remedy = "use an address of this machine, such as 127.0.0.1, or localhost"
        failure = attrs.evolve(failure, members={**failure.members, "remedy": remedy})
    return render_failure(failure)


async def _check_user(stream: trio.SocketStream) -> tuple[trio.abc.Stream, object]:
    await trio.lowlevel.checkpoint()
    check_same_user(stream)
    return stream, None


@asynccontextmanager
async def _listening(address: StatusAddress, events: EventStream) -> AsyncIterator[list[trio.SocketListener]]:
    if address.path is None:
        listeners = await _listen_on_address(address, events)
        try:
            yield listeners
        finally:
            for listener in listeners:
                listener.socket.close()
        return
    await _check_unused(address.path)
    try:
        listener, file = await listen_unix_socket(address.path)
    except OSError as exc:
        raise _cannot_listen(address.path, exc) from exc
    try:
        yield [listener]
    finally:
        listener.socket.close()
        file.remove()


async def _listen_on_address(address: StatusAddress, events: EventStream) -> list[trio.SocketListener]:
    try:
        listeners = await open_listeners(address.host, address.port, events=events)
    except OSError as exc:
        text, remedy = explain_listen_error(exc, address.port, otherwise="or give --status another address")
        raise ConfigurationError(f"the status cannot be served on {address}: {text}", remedy=remedy) from exc
    for listener in listeners:
        host = listener.socket.getsockname()[0]
        if not is_loopback(host):  # a name such as localhost can lead elsewhere
            for opened in listeners:
                opened.socket.close()
            raise ConfigurationError(
                f"the status cannot be served on {address}: it is the address {bracketed(host)}, which is not a "
                "loopback address",
                remedy="use 127.0.0.1 or ::1",
            )
    return listeners


async def _check_unused(path: Path) -> None:
    """Check that no other program listens on a Unix socket, because that socket would be replaced.

    Raises:
        ConfigurationError: another program listens there, or no socket can be there.
    """
    try:
        if not await is_listening(path):
            return
    except OSError as exc:
        raise _cannot_listen(path, exc) from exc
    raise ConfigurationError(
        f"another program serves its status on {path}", remedy="give each program a path of its own"
    )


def _cannot_listen(path: Path, exc: OSError) -> ConfigurationError:
    text = exc.strerror or str(exc)
    if isinstance(exc, FileNotFoundError):
        text, remedy = f"the directory {path.parent} does not exist", "create it, or give --status another path"
    elif isinstance(exc, FileExistsError):
        remedy = "give --status another path"
    else:
        remedy = "give --status a path in a directory that this user may write to, or an address such as 127.0.0.1:0"
    return ConfigurationError(f"the status cannot be served on {path}: {text}", remedy=remedy)
