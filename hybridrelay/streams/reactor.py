"""The reactor serves the sockets of all sessions and bridges, with two tasks for all of them.

If each direction of each socket had a Trio task, every message would cost a system call and a pass through the
scheduler, and the task would run with cold processor caches. The reactor registers each socket once, edge-triggered,
in an epoll set. One task waits for that set, and then calls the handlers of all sockets that are ready. Another task
calls those that have to be called again later. What they write to the channels of sessions is collected, and written
once per channel when all handlers that are due have been called.

Rules:

1. A handler is called again until it has nothing more to read, or pauses. In between, the other handlers are called.
   Handlers are grouped by the peer for which they work. The handlers of each peer have one turn (`SharedTurns`) in
   each pass of the event loop, however many they are. Peers that form a group share the turns of the group equally.
2. A handler never waits. If it raises, that is reported to its `on_failed`, and it is not called again.
3. For a stream without a socket of its own (a WebSocket connection, a pipe, a stream of a test), tasks wait in place
   of the epoll set: one until something arrives, and another one that writes what is buffered. They call the same
   handlers. The same is done for sockets where there is no epoll, once the system's limit on watched sockets
   (``fs.epoll.max_user_watches``) is reached, and if the environment variable ``HYBRIDRELAY_POLLING`` is ``tasks``.

The reactor of a Trio run exists while somebody uses it; see `using_reactor`. `epoll_set.py` and `watching.py` are the
two ways to wait, and `registration.py` has what they have in common.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Protocol

import trio

from .epoll_set import EpollSet, PolledRegistration, new_epoll_set
from .nowait import NowaitStream, Turn
from .registration import Handler, Registration
from .timeouts import Timeouts
from .turns import SharedTurns
from .waiter import Waiter
from .watching import WatchedRegistration

__all__ = ["Reactor", "Writer", "using_reactor"]


class Writer(Protocol):
    """Writes what has been collected during a round of handlers; see `Reactor.write_later`."""

    @property
    def turns(self) -> SharedTurns:
        """The turns in which the writing is counted."""

    def write(self) -> None:
        """Write what can be written without waiting. Must not raise."""


class Reactor:
    """Serves streams; see the module's docstring. Use `using_reactor` to get one."""

    def __init__(self) -> None:
        self._users = 0
        self._nursery: trio.Nursery | None = None
        self._epoll_set = new_epoll_set()
        #: The handlers that are due, in the order in which they became due, by the peer for which they work.
        self._due: dict[SharedTurns, deque[Registration]] = {}
        #: The channels that have something to write at the end of the round.
        self._writers: list[Writer] = []
        self._is_running = False
        self._numbers = itertools.count(1)
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
        if self._epoll_set is not None and stream.socket_below is not None:
            # If the system's limit is reached, tasks wait for the socket instead. If the socket was closed, these
            # tasks find out.
            with contextlib.suppress(OSError, ValueError):
                return PolledRegistration(self, stream, handler, turns, self._epoll_set)
        assert self._nursery is not None, "the reactor runs"
        return WatchedRegistration(self, stream, handler, turns, self._nursery)

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

    def run_handlers(self, epoll_set: EpollSet | None = None) -> None:
        """Call the handlers that are due, as long as the turns of their peers allow it, for about `TURN_SECONDS` in
        total. The rest is done after other tasks have run. For use by tasks that have waited for a stream.

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
        """Call each handler that is due once, if the turn of its peer allows it. Returns whether there are others
        that may be called now."""
        for turns in sorted((one for one in self._due if not one.is_over), key=attrgetter("order")):
            queue = self._due[turns]
            turns.begin()
            for index in range(len(queue)):
                if turns.is_over:
                    break
                if not index:
                    turns.called(next(self._numbers))
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

    async def _poll(self, epoll_set: EpollSet) -> None:
        fd = epoll_set.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            self.run_handlers(epoll_set)

    async def _keep_working(self) -> None:
        """Call the handlers that are due but were not called immediately."""
        while True:
            if self._due or self._writers:
                await trio.lowlevel.checkpoint()
                SharedTurns.renew(self._due)
                self.run_handlers()
            else:
                await self._work.wait()


_current: trio.lowlevel.RunVar[Reactor | None] = trio.lowlevel.RunVar("reactor", None)


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
