"""Accepting connections, even when descriptors or memory have run out.

In that situation, `trio.serve_listeners` logs a traceback and sleeps, ten times a second, while the peers in the
backlog believe that they are connected. Here they are reset immediately, so that they can try elsewhere or report an
error:

1. The last few descriptors are kept for the program itself (`is_reserved`). A connection that gets one of them is
   reset.
2. If even those have run out, a descriptor that is held in reserve is closed to accept and reset one connection, and
   then opened again.
3. One event says that connections are being reset, and one at the end how many were.

Errors that concern only one connection (see accept(2)) are ignored.

`serve_listeners` runs a task for each connection. `accept_sockets` passes each one to a function instead, several in
one pass of the event loop, which costs much less.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self

import trio

from ._descriptors import is_reserved
from ._nursery import FlatNursery
from ._shortage import OUT_OF_DESCRIPTORS, Shortage, socket_shortage_of
from .events.program import ResourcesRestored, ResourcesShort
from .events.stream import EventStream

__all__ = ["ShortageReport", "accept_sockets", "serve_listeners"]

Handler = Callable[[trio.SocketStream], Awaitable[object]]
#: Called with an accepted socket, which it owns from now on, and the peer's address as `socket.accept` returns it. If
#: the system lacks a resource, it closes the socket and raises OSError, with the same error numbers as accept(2).
Take = Callable[[socket.socket, object], None]

#: The shortage counts as over after this time without a reset (seconds).
QUIET_SECONDS = 5.0
#: How many connections `accept_sockets` accepts from one listener before other tasks run.
_AT_A_TIME = 4
#: The pause after a failed accept, if not even a reset was possible (seconds).
_PAUSE_SECONDS = 0.1
#: Errors of accept(2) that concern only one connection, which is lost: the list of `trio.SocketListener.accept`.
_ERRORS_OF_ONE_CONNECTION = frozenset(
    getattr(errno, name)
    for name in (
        "EPERM", "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH",
        "EOPNOTSUPP", "ENETUNREACH", "ENOSR", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ETIMEDOUT", "ECONNRESET",
    )
    if hasattr(errno, name)
)  # fmt: skip
#: SO_LINGER with a time of zero: closing the socket then resets the connection.
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    *,
    handler_nursery: trio.Nursery,
    events: EventStream,
    what: str,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until cancelled, and run `handler` with each, which is closed when the handler returns.

    Args:
        handler: serves one connection. Must not raise.
        listeners: the caller closes them.
        handler_nursery: runs the handlers.
        events: the stream to which an event is published when connections are reset, and one when that is over.
        what: names the listeners in events.
        task_status: for `nursery.start`.

    Raises:
        OSError: a listener can no longer accept any connection.
    """
    async with trio.open_nursery() as nursery:
        with _Reserve() as reserve:
            report = ShortageReport(events, what)
            nursery.start_soon(report.run)
            for listener in listeners:
                nursery.start_soon(_accept, listener, handler, handler_nursery, reserve, report)
            task_status.started()
            await trio.sleep_forever()


async def _accept(
    listener: trio.SocketListener,
    handler: Handler,
    handler_nursery: trio.Nursery,
    reserve: _Reserve,
    report: ShortageReport,
) -> None:
    while True:
        try:
            stream = await listener.accept()
        except OSError as exc:
            shortage = socket_shortage_of(exc)
            if shortage is None:
                raise
            reset = reserve.reset_one(listener)
            report.note(shortage, reset)
            if not reset:
                await trio.sleep(_PAUSE_SECONDS)
            continue
        if is_reserved(stream.socket.fileno()):
            _reset(stream.socket)
            report.note(OUT_OF_DESCRIPTORS, 1)
        else:
            handler_nursery.start_soon(_handle, handler, stream)


async def accept_sockets(
    takes: Mapping[trio.SocketListener, Take],
    *,
    events: EventStream,
    what: str,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until cancelled, and pass each one on, without a task for each.

    Args:
        takes: what takes the connections of each listener. The caller closes the listeners, after this has returned.
        events: the stream to which an event is published when connections are reset, and one when that is over.
        what: names the listeners in events.
        task_status: for `nursery.start`.

    Raises:
        OSError: a listener can no longer accept any connection.
    """
    async with FlatNursery() as nursery:
        with _Reserve() as reserve:
            report = ShortageReport(events, what)
            nursery.start_soon(report.run)
            for listener, take in takes.items():
                nursery.start_soon(_accept_sockets, listener, take, reserve, report)
            task_status.started()
            await trio.sleep_forever()


async def _accept_sockets(
    listener: trio.SocketListener, take: Take, reserve: _Reserve, report: ShortageReport
) -> None:
    # The same descriptor, for calls that Trio does not offer. Trio has made it non-blocking.
    accepting = socket.socket(fileno=listener.socket.fileno())
    try:
        while True:
            await trio.lowlevel.wait_readable(accepting)
            try:
                for _ in range(_AT_A_TIME):
                    accepted, address = accepting.accept()
                    if is_reserved(accepted.fileno()):
                        _reset(accepted)
                        report.note(OUT_OF_DESCRIPTORS, 1)
                    else:
                        take(accepted, address)
            except BlockingIOError:
                pass
            except OSError as exc:
                shortage = socket_shortage_of(exc)
                if shortage is None:
                    if exc.errno not in _ERRORS_OF_ONE_CONNECTION:
                        raise
                    continue
                reset = reserve.reset_one(listener)
                report.note(shortage, reset)
                if not reset:
                    await trio.sleep(_PAUSE_SECONDS)
    finally:
        accepting.detach()


async def _handle(handler: Handler, stream: trio.SocketStream) -> None:
    try:
        await handler(stream)
    finally:
        await trio.aclose_forcefully(stream)


def _reset(sock: socket.socket | trio.socket.SocketType) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class _Reserve:
    """A descriptor that is held in reserve."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self._take()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._give_up()

    def reset_one(self, listener: trio.SocketListener) -> int:
        """Accept and reset one connection although no descriptor is free. Returns 1, or 0 if that failed."""
        if self._descriptor is None:
            self._take()
            return 0
        self._give_up()
        # Accepted without Trio, so that nothing else runs and takes the descriptor that was just freed.
        accepting = socket.socket(fileno=listener.socket.fileno())
        try:
            accepted, _ = accepting.accept()
        except OSError:
            return 0
        else:
            _reset(accepted)
            return 1
        finally:
            accepting.detach()
            self._take()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def _give_up(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ShortageReport:
    """Publishes one event when a resource has run out, and one at the end with the number of connections that were
    reset."""

    def __init__(self, events: EventStream, what: str) -> None:
        self._events = events
        self._what = what
        self._count = 0
        self._notes = 0
        self._shortage: Shortage | None = None
        self._began = trio.Event()

    def note(self, shortage: Shortage, count: int) -> None:
        """Note that a resource has run out, and that `count` connections were reset because of that."""
        self._count += count
        self._notes += 1
        self._shortage = shortage
        self._began.set()

    async def run(self) -> None:
        """Publish events until cancelled."""
        while True:
            await self._began.wait()
            assert self._shortage is not None
            shortage = self._shortage
            self._events.publish(
                ResourcesShort(where=self._what, detail=f"this program {shortage.text}", remedy=shortage.remedy)
            )
            try:
                known = 0
                while known != self._notes:
                    known = self._notes
                    await trio.sleep(QUIET_SECONDS)
            finally:
                self._events.publish(
                    ResourcesRestored(
                        where=self._what,
                        detail=f"this program {shortage.text}",
                        connections_reset=self._count,
                    )
                )
            self._count = 0
            self._began = trio.Event()
