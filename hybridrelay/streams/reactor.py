"""The reactor: one task that serves the sockets of all sessions and bridges.

If each direction of each socket had a Trio task, every message would cost a system call and a pass through the
scheduler, and the task would run with cold processor caches. The reactor registers each socket once, edge-triggered,
in an epoll set. One task waits for that set, and then calls the handlers of all sockets that are ready. What they
write to the channels of sessions is collected, and written once per channel when all handlers that are due have been
called.

Rules:

1. A handler is called again until it has nothing more to read, or pauses. In between, the other handlers are called.
   Handlers are grouped by the peer for which they work; each peer has one turn (`SharedTurns`) in each pass of the
   event loop, however many handlers it has.
2. A handler never waits. If it raises, that is reported to its `on_failed`, and it is not called again.
3. For a stream without a socket of its own (a WebSocket connection, a pipe, a stream of a test), tasks wait in place
   of the epoll set: one until something arrives, and another one while something is buffered. They call the same
   handlers. The same is done for sockets where there is no epoll, and if the environment variable
   ``HYBRIDRELAY_POLLING`` is ``tasks``.

The reactor of a Trio run exists while somebody uses it; see `using_reactor`.
"""

# This module is long because the two ways to wait for a stream have to fulfil the same rules.

from __future__ import annotations

import contextlib
import enum
import logging
import os
import select
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from .nowait import NowaitStream, Turn
from .timeouts import Timeouts
from .turns import SharedTurns
from .waiter import Waiter

__all__ = ["Handler", "Next", "Reactor", "Registration", "Writer", "using_reactor"]


class Next(enum.Enum):
    """When to call a handler's `on_readable` again. Each call returns this."""

    #: It has nothing to read. Call it when its stream becomes readable.
    WAIT = enum.auto()
    #: There may be more to read. Call it again after the other handlers.
    AGAIN = enum.auto()
    #: Call it when it calls `Registration.resume`, and not before.
    PAUSE = enum.auto()


class Handler(ABC):
    """Reads from one stream, and writes to it."""

    __slots__ = ()

    @abstractmethod
    def on_readable(self) -> Next:
        """Read something from the stream, pass it on, and count it with `SharedTurns.count`. Returns when to call
        this again."""

    @abstractmethod
    def on_flushed(self, error: BaseException | None) -> None:
        """Note that everything that the stream had buffered was passed on, or that this failed; see
        `Registration.flush`."""

    @abstractmethod
    def on_broken(self) -> None:
        """Note that the connection has failed while the handler pauses, and so does not find this out by reading.

        Only the epoll set reports this."""

    @abstractmethod
    def on_failed(self, error: Exception) -> None:
        """Note that one of the methods above has raised an exception, or that the stream has raised one that
        `NowaitStream` does not document. The handler is not called again. Must not raise."""


class Writer(Protocol):
    """Writes what has been collected during a round of handlers; see `Reactor.write_later`."""

    @property
    def turns(self) -> SharedTurns:
        """The turns in which the writing is counted."""

    def write(self) -> None:
        """Write what can be written without waiting. Must not raise."""


class Registration:
    """A stream that the reactor serves."""

    __slots__ = (
        "_can_flush",
        "_has_failed",
        "_is_broken",
        "_is_closed",
        "_is_flushing",
        "_is_paused",
        "_is_queued",
        "_is_readable",
        "_reactor",
        "handler",
        "stream",
        "turns",
    )

    def __init__(self, reactor: Reactor, stream: NowaitStream, handler: Handler, turns: SharedTurns) -> None:
        self._reactor = reactor
        self.stream = stream
        self.handler = handler
        #: The turns of the peer for which the handler works.
        self.turns = turns
        #: Whether the stream may have something to read.
        self._is_readable = False
        self._is_paused = False
        #: Whether the handler waits for `on_flushed`, and whether the socket has become writable since the last
        #: attempt to write what is buffered.
        self._is_flushing = self._can_flush = False
        #: Whether the connection has failed.
        self._is_broken = False
        #: Whether it waits to be called.
        self._is_queued = False
        self._is_closed = False
        #: Whether `on_failed` was called.
        self._has_failed = False

    def resume(self) -> None:
        """Call the handler again after it has paused. Has no effect if it is not paused."""
        if self._is_paused:
            self._is_paused = False
            self._queue_if_ready()

    def flush(self) -> None:
        """Call the handler's `on_flushed` when the stream has passed on what it has buffered. For use after
        `send_nowait` has returned False. Nothing else may be sent until `on_flushed` is called."""
        self._is_flushing = True

    def close(self) -> None:
        """Do not call the handler any more. Idempotent.

        Call this before the stream is closed, because nothing tells the reactor that a socket was closed. A Trio
        socket may be closed at once after this. Any other stream may be closed only when `wait_closed` has returned.
        Until it has, no stream, and no socket either, may be used in any other way.
        """
        self._is_closed = True

    async def wait_closed(self) -> None:
        """Wait until nothing uses the stream any more. For use after `close`; shielded from cancellation."""

    def mark_readable(self) -> None:
        """Note that there may be something to read, and call the handler soon."""
        self._is_readable = True
        self._queue_if_ready()

    def on_event(self, *, readable: bool, hung_up: bool, writable: bool, broken: bool) -> None:
        """Note what the epoll set has reported."""
        self._is_broken = self._is_broken or broken
        if readable or hung_up:
            port = self.stream.port
            assert port is not None
            port.on_readable(hung_up=hung_up)
            self._is_readable = True
        if writable or hung_up:
            self._can_flush = True
        self._queue_if_ready()

    def _queue_if_ready(self) -> None:
        if self._is_queued or self._is_closed:
            return
        if self._is_broken or (self._is_readable and not self._is_paused) or (self._is_flushing and self._can_flush):
            self._is_queued = True
            self._reactor.queue(self)

    def run(self) -> None:
        """Call the handler, which is due."""
        self._is_queued = False
        if self._is_closed:
            return
        try:
            if self._is_flushing and self._can_flush:
                self._can_flush = False
                self._flush_now()
            if self._is_readable and not self._is_paused and not self._is_closed:
                following = self.handler.on_readable()
                if following is Next.AGAIN:
                    self._queue_if_ready()
                elif following is Next.PAUSE:
                    self._is_paused = True
                else:
                    self._is_readable = False
                    self._wait_readable()
            if self._is_broken and self._is_paused and not self._is_closed:
                self._is_broken = False
                self.handler.on_broken()
        except Exception as exc:  # noqa: BLE001 - a bug, which the owner of the handler reports
            self._fail(exc)

    def _flush_now(self) -> None:
        error: BaseException | None = None
        try:
            if not self.stream.flush_nowait():
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            error = exc
        self._is_flushing = False
        self.handler.on_flushed(error)

    def _fail(self, error: Exception) -> None:
        """Report an exception that only a bug can cause, and stop calling the handler."""
        self.close()
        if not self._has_failed:
            self._has_failed = True
            try:
                self.handler.on_failed(error)
            except Exception:  # above all, if memory has run out; the other handlers have to be called
                _logger.exception("a handler that has failed could not be ended")

    def _wait_readable(self) -> None:
        """Begin to wait for the stream to become readable, without blocking. There is nothing to do for a socket in
        the epoll set, which reports this by itself."""


class _Polled(Registration):
    """A stream whose socket is in the epoll set."""

    __slots__ = ("_epoll_set", "_fd")

    def __init__(
        self, reactor: Reactor, stream: NowaitStream, handler: Handler, turns: SharedTurns, epoll_set: _EpollSet
    ) -> None:
        super().__init__(reactor, stream, handler, turns)
        self._epoll_set = epoll_set
        self._fd = epoll_set.add(self)

    def close(self) -> None:
        if not self._is_closed:
            super().close()
            self._epoll_set.remove(self, self._fd)


class _Watched(Registration):
    """A stream for which tasks wait: one to receive, and another one while something is buffered."""

    __slots__ = ("_ended", "_flush_scope", "_nursery", "_tasks", "_wanted", "_watch_scope")

    def __init__(
        self, reactor: Reactor, stream: NowaitStream, handler: Handler, turns: SharedTurns, nursery: trio.Nursery
    ) -> None:
        super().__init__(reactor, stream, handler, turns)
        self._nursery = nursery
        self._watch_scope = trio.CancelScope()
        self._flush_scope = trio.CancelScope()
        #: Wakes the task that waits for the stream, once the handler has read everything.
        self._wanted = Waiter()
        self._tasks = 1
        self._ended = trio.Event()
        nursery.start_soon(self._watch)

    def flush(self) -> None:
        if self._is_closed:
            return
        super().flush()
        self._tasks += 1
        self._flush_scope = trio.CancelScope()
        self._nursery.start_soon(self._flush)

    def close(self) -> None:
        super().close()
        self._watch_scope.cancel()
        self._flush_scope.cancel()

    async def wait_closed(self) -> None:
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    def _wait_readable(self) -> None:
        self._wanted.wake()

    async def _watch(self) -> None:
        try:
            with self._watch_scope:
                while not self._is_closed:
                    if self._is_readable:
                        await self._wanted.wait()
                    else:
                        await self._wait_once()
                        self._reactor.run_handlers()
        finally:
            self._end_task()

    async def _wait_once(self) -> None:
        try:
            await self.stream.wait_readable()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # what fails here fails again when the handler reads
        except Exception as exc:  # noqa: BLE001 - a bug of the stream; see `Registration.run`
            self._fail(exc)
            return
        self.mark_readable()

    async def _flush(self) -> None:
        error: BaseException | None = None
        try:
            with self._flush_scope:
                try:
                    await self.stream.flush()
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    error = exc
                except Exception as exc:  # noqa: BLE001 - a bug of the stream; see `Registration.run`
                    self._fail(exc)
        finally:
            self._end_task()
        if not self._is_closed:
            self._is_flushing = False
            try:
                self.handler.on_flushed(error)
            except Exception as exc:  # noqa: BLE001 - see `Registration.run`
                self._fail(exc)
            self._reactor.run_handlers()

    def _end_task(self) -> None:
        self._tasks -= 1
        if not self._tasks:
            self._ended.set()


class _EpollSet:
    """The sockets that are registered in the epoll set, each once and edge-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, Registration] = {}

    def fileno(self) -> int:
        """Return the descriptor, which is readable while a socket is ready."""
        return self._epoll.fileno()

    def add(self, registration: Registration) -> int:
        """Register the socket of a stream. What it is ready for now is reported, too. Returns its descriptor.

        Raises:
            OSError: the descriptor was closed, or the system's limit is reached (``max_user_watches``).
        """
        port = registration.stream.port
        assert port is not None
        fd = port.fileno()
        self._epoll.register(fd, _EVENTS)
        self._by_fd[fd] = registration
        return fd

    def remove(self, registration: Registration, fd: int) -> None:
        """Forget a socket. It may already have been closed, and its descriptor may belong to another one."""
        if self._by_fd.get(fd) is not registration:
            return
        del self._by_fd[fd]
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def collect(self) -> None:
        """Pass on what has happened since the last call."""
        for fd, events in self._epoll.poll(0):
            registration = self._by_fd.get(fd)
            if registration is not None:
                registration.on_event(
                    readable=bool(events & select.EPOLLIN),
                    hung_up=bool(events & _HUNG_UP),
                    writable=bool(events & select.EPOLLOUT),
                    broken=bool(events & select.EPOLLERR),
                )

    def close(self) -> None:
        """Close the set."""
        trio.lowlevel.notify_closing(self._epoll.fileno())
        self._epoll.close()


class Reactor:
    """Serves streams; see the module. Use `using_reactor` to get one."""

    def __init__(self) -> None:
        self._users = 0
        self._nursery: trio.Nursery | None = None
        self._epoll_set = _new_epoll_set()
        #: The handlers that are due, in the order in which they are called, by the peer for which they work.
        self._due: dict[SharedTurns, deque[Registration]] = {}
        #: Those that have something to write at the end of the round.
        self._writers: list[Writer] = []
        self._is_running = False
        self._work = Waiter()
        self._scope = trio.CancelScope()
        self._started = trio.Event()
        self._timeouts: dict[float, Timeouts] = {}

    @property
    def is_running(self) -> bool:
        """Whether handlers are being called. What is written then should be collected; see `write_later`."""
        return self._is_running

    def register(self, stream: NowaitStream, handler: Handler, turns: SharedTurns) -> Registration:
        """Serve a stream from now on, until `Registration.close`.

        Args:
            stream: the stream. Nothing else may receive from it, or wait until it can send.
            handler: called when the stream is ready.
            turns: the turns of the peer for which the handler works.
        """
        if self._epoll_set is not None and stream.port is not None:
            # If the system's limit is reached, tasks wait for the socket instead. If the socket was closed, these
            # tasks find out.
            with contextlib.suppress(OSError, ValueError):
                return _Polled(self, stream, handler, turns, self._epoll_set)
        assert self._nursery is not None, "the reactor runs"
        return _Watched(self, stream, handler, turns, self._nursery)

    def timeouts(self, seconds: float) -> Timeouts:
        """Return the `Timeouts` for this duration (seconds). Each duration has a task, so there should be few."""
        timeouts = self._timeouts.get(seconds)
        if timeouts is None:
            assert self._nursery is not None, "the reactor runs"
            timeouts = self._timeouts[seconds] = Timeouts(self._nursery, seconds)
        return timeouts

    def queue(self, registration: Registration) -> None:
        """Call the handler of a registration soon. For use by the registration."""
        queue = self._due.get(registration.turns)
        if queue is None:
            queue = self._due[registration.turns] = deque()
        queue.append(registration)
        if not self._is_running:
            self._work.wake()

    def write_later(self, writer: Writer) -> None:
        """Call `writer.write` when the handlers that are due have been called. The writer must not be added twice."""
        self._writers.append(writer)
        if not self._is_running:
            self._work.wake()

    def run_handlers(self, epoll_set: _EpollSet | None = None) -> None:
        """Call the handlers that are due, as long as the turns of their peers allow it. The rest is done after other
        tasks have run. For use by tasks that have waited for a stream.

        Args:
            epoll_set: the set that is ready; the handlers of the sockets that it reports become due first.
        """
        if self._is_running:
            return
        self._is_running = True
        turn = Turn()
        try:
            if epoll_set is not None:
                epoll_set.collect()
            while self._run_round() and not turn.is_over(0):
                pass
        finally:
            self._is_running = False
        if self._due or self._writers:
            self._work.wake()

    def _run_round(self) -> bool:
        """Call each handler that is due once. Returns whether there are others that may be called now."""
        for turns, queue in list(self._due.items()):
            turns.begin()
            for _ in range(len(queue)):
                if turns.is_over:
                    break
                queue.popleft().run()
                turns.use(0, 0)  # the time
            if not queue:
                del self._due[turns]
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.turns.begin()
            writer.write()
            writer.turns.use(0, 0)
        return bool(self._writers) or any(not turns.is_over for turns in self._due)

    # --- running

    async def use(self) -> None:
        """Count another user. The first one starts the reactor."""
        self._users += 1
        if self._users == 1:
            trio.lowlevel.spawn_system_task(self._run)
        with trio.CancelScope(shield=True):
            await self._started.wait()

    def leave(self) -> None:
        """Count one user less. The reactor ends when its last user leaves."""
        self._users -= 1
        if not self._users:
            if _current.get(None) is self:
                _current.set(None)
            self._scope.cancel()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    if self._epoll_set is not None:
                        self._nursery.start_soon(self._poll, self._epoll_set)
                    self._started.set()
                    await self._keep_working()
        finally:
            if self._epoll_set is not None:
                self._epoll_set.close()

    async def _poll(self, epoll_set: _EpollSet) -> None:
        fd = epoll_set.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            self.run_handlers(epoll_set)

    async def _keep_working(self) -> None:
        """Call the handlers that are due but were not called at once."""
        while True:
            if self._due or self._writers:
                await trio.lowlevel.checkpoint()
                SharedTurns.renew(self._due)
                self.run_handlers()
            else:
                await self._work.wait()


if hasattr(select, "epoll"):
    #: What is reported if a connection ends or fails, and if the peer has sent urgent data. (A read stops at urgent
    #: data even if more has arrived after it.)
    _HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
    _EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET

_logger = logging.getLogger(__name__)

_current: trio.lowlevel.RunVar[Reactor | None] = trio.lowlevel.RunVar("reactor", None)


def _new_epoll_set() -> _EpollSet | None:
    if not hasattr(select, "epoll") or os.environ.get("HYBRIDRELAY_POLLING") == "tasks":
        return None
    try:
        return _EpollSet()
    except OSError:  # no descriptor is left; tasks that wait need none
        return None


@asynccontextmanager
async def using_reactor() -> AsyncIterator[Reactor]:
    """``async with using_reactor() as reactor``: the reactor of this Trio run, which exists until the last of these
    blocks has ended."""
    reactor = _current.get()
    if reactor is None:
        reactor = Reactor()
        _current.set(reactor)
    try:
        await reactor.use()
        yield reactor
    finally:
        reactor.leave()
