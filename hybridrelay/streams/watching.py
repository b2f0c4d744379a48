"""Tasks that wait for a stream in place of the reactor's epoll set: one waits until something arrives, and another
one writes what is buffered."""

from __future__ import annotations

import trio

from .nowait import NowaitStream
from .registration import Handler, Registration, Rounds
from .turns import SharedTurns
from .waiter import Waiter

__all__ = ["WatchedRegistration"]


class WatchedRegistration(Registration):
    """A stream for which tasks wait: one until something arrives, and another one that writes what is buffered."""

    __slots__ = ("_ended", "_flush_scope", "_nursery", "_tasks", "_wanted", "_watch_scope")

    def __init__(
        self, rounds: Rounds, stream: NowaitStream, handler: Handler, turns: SharedTurns, nursery: trio.Nursery
    ) -> None:
        super().__init__(rounds, stream, handler, turns)
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
                        self._rounds.run_handlers()
        finally:
            self._end_task()

    async def _wait_once(self) -> None:
        try:
            await self.stream.wait_readable()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # what fails here fails again when the handler reads
        except Exception as exc:  # noqa: BLE001 - a bug of the stream; see `Registration.run`
            self.fail(exc)
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
                    self.fail(exc)
        finally:
            self._end_task()
        if not self._is_closed:
            self._is_flushing = False
            try:
                self.handler.on_flushed(error)
            except Exception as exc:  # noqa: BLE001 - see `Registration.run`
                self.fail(exc)
            self._rounds.run_handlers()
        error = None  # it would be in a cycle with its traceback, which refers to this frame

    def _end_task(self) -> None:
        self._tasks -= 1
        if not self._tasks:
            self._ended.set()
