"""Opening sessions for the callers that wait for one.

One task makes the attempts while any caller waits. Each caller has a deadline of its own. The rules:

1. A session that lost its channel gets `RESUME_PATIENCE` to resume, or less if a relay says that the session's
   connector is not there. After that, attempts to open another session are made in parallel with the resumption, and
   whichever succeeds first is used.
2. A session that is going away takes no further streams, so another one is opened at once.
3. A failed attempt is repeated after a short random pause. An error that waiting cannot change (see
   `patience.may_pass`) is raised in all waiting callers immediately, any other error in each caller when its deadline
   passes. Every caller waits for at least one complete attempt, whatever its deadline.
4. The attempts stop when no caller is waiting.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import attrs
import trio

from .._nursery import FlatNursery
from ..connectivity.backoff import Backoff
from ..errors import HybridRelayError, RendezvousError, StreamRefused
from ..protocol.reasons import Reason
from .patience import max_waiting, may_pass
from .session import ClientSession

#: How long a session may take to resume before an attempt is made to open another one in parallel (seconds).
RESUME_PATIENCE = 3.0
#: A session that ends, or goes away, within this time (seconds) counts as a failed attempt: after the second one in a
#: row, there is a pause before the next.
HELD_SECONDS = 1.0
#: The longest pause between two attempts (seconds), so that a relay or connector is noticed soon after it returns.
_MAX_PAUSE = 1.0


@attrs.define(eq=False)
class _Waiter:
    """A caller that waits for a session."""

    #: When to stop waiting, on Trio's clock. It takes effect only after a failed attempt.
    deadline: float
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: Set when there is a session, or an error that waiting cannot change.
    over: trio.Event = attrs.field(factory=trio.Event)
    #: How the last attempt failed.
    failure: BaseException | None = None

    def failed(self, error: BaseException, *, final: bool) -> None:
        """Note that an attempt failed. If `final`, waiting cannot change that."""
        self.failure = error
        if final:
            self.over.set()
        self.scope.deadline = self.deadline


class SessionOpener:
    """Holds the session for new streams, and opens another one when a caller needs one.

    Args:
        nursery: runs the attempts.
        open_session: makes one attempt, and returns an open session.
        replaced: called with a session that was replaced by another one but has not ended.
        limit: returns how many callers may wait.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        open_session: Callable[[], Awaitable[ClientSession]],
        *,
        replaced: Callable[[ClientSession], None],
        limit: Callable[[], int] = max_waiting,
    ) -> None:
        self._nursery = nursery
        self._open_session = open_session
        self._replaced = replaced
        self._limit = limit
        self._waiters: set[_Waiter] = set()
        self._scope = trio.CancelScope()
        self._is_running = False
        self._closed = False
        self._backoff = Backoff(first_seconds=0.25, max_seconds=_MAX_PAUSE, min_seconds=0.1)
        #: When the last session was opened (on Trio's clock).
        self._opened_at = -math.inf
        #: How many sessions in a row have not lasted `HELD_SECONDS`. The current one is counted until it has lasted
        #: that long.
        self._ended_early = 0
        #: Why the last attempt failed, and when (on Trio's clock); None if it succeeded.
        self.failure: tuple[HybridRelayError, float] | None = None
        #: The session opened last, or None before the first.
        self.latest: ClientSession | None = None

    @property
    def waiting(self) -> int:
        """How many callers wait for a session."""
        return len(self._waiters)

    @property
    def open(self) -> ClientSession | None:
        """The session on which streams can be opened now, or None."""
        return self.latest if self.latest is not None and self.latest.session.is_open else None

    async def get(self, deadline: float) -> ClientSession:
        """Return the session for a new stream; wait for one if there is none.

        Args:
            deadline: how long to repeat attempts that fail, as a time on Trio's clock. If it has passed, one attempt
                is made.

        Raises:
            HybridRelayError: the error of the last attempt.
            StreamRefused: too many callers are waiting (`Reason.LIMIT`).
            trio.ClosedResourceError: `close` was called.

        If cancelled, the caller stops waiting; the attempt in progress is cancelled if no other caller waits.
        """
        await trio.lowlevel.checkpoint()
        ended: RendezvousError | None = None
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the client was closed")
            if (latest := self.open) is not None:
                return latest
            if ended is not None and trio.current_time() >= deadline:
                raise ended
            await self._wait(_Waiter(deadline))
            ended = RendezvousError("the connector ended the session at once", reason=Reason.GOING_AWAY)

    def replace(self, opened: ClientSession) -> None:
        """Use this session for new streams from now on. The earlier one is passed to `replaced`. After `close`, the
        session is closed."""
        if self._closed:
            opened.session.close(Reason.GOING_AWAY)
            return
        self._scope.cancel()  # an attempt in progress would replace it with a session like the earlier one
        self._use(opened)

    def close(self) -> None:
        """Open no further sessions. Callers that wait get `trio.ClosedResourceError`."""
        self._closed = True
        self._failed(trio.ClosedResourceError("the client was closed"), final=True)

    async def _wait(self, waiter: _Waiter) -> None:
        """Wait until a session was opened, which may have ended again. Raises what `get` raises."""
        if len(self._waiters) >= self._limit():
            raise StreamRefused(
                f"{len(self._waiters)} connections are already waiting for a session, which is the limit",
                reason=Reason.LIMIT,
            )
        self._waiters.add(waiter)
        if not self._is_running:
            self._is_running = True
            self._nursery.start_soon(self._run)
        try:
            with waiter.scope:
                await waiter.over.wait()
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._scope.cancel()
        if waiter.failure is not None and (waiter.scope.cancelled_caught or waiter.over.is_set()) and not self.open:
            raise waiter.failure

    async def _run(self) -> None:
        try:
            while self._waiters:
                # The scope is cancelled when the last caller leaves. Another caller may arrive before this task
                # notices.
                with trio.CancelScope() as self._scope:
                    await self._serve_waiters()
        finally:
            self._is_running = False

    async def _serve_waiters(self) -> None:
        async with FlatNursery() as nursery:
            nursery.start_soon(self._watch_resumption, nursery.cancel_scope)
            try:
                await self._attempt_until_open()
            except Exception as exc:  # noqa: BLE001 - a bug, here or in the caller's dialer: raised in the callers
                self._failed(exc, final=True)
            nursery.cancel_scope.cancel()

    async def _watch_resumption(self, attempts: trio.CancelScope) -> None:
        """Stop the attempts once the session that lost its channel has another channel."""
        latest = self.latest
        if latest is not None and latest.session.accepts_streams:
            await latest.session.wait_attached()
            if self.open is not None:
                self._succeeded()
                attempts.cancel()

    async def _attempt_until_open(self) -> None:
        await self._let_resume()
        backoff = self._backoff
        if trio.current_time() - self._opened_at >= HELD_SECONDS:
            backoff.reset()
            self._ended_early = 0
        elif self._ended_early > 1:
            await trio.sleep(backoff.next_wait())
        while True:
            try:
                opened = await self._open_session()
            except HybridRelayError as exc:
                self.failure = exc, trio.current_time()
                self._failed(exc, final=not may_pass(exc))
            else:
                self._ended_early += 1  # reset above once it has lasted
                self._use(opened)
                return
            await trio.sleep(backoff.next_wait())

    def _use(self, opened: ClientSession) -> None:
        self.failure = None
        before, self.latest = self.latest, opened
        self._opened_at = trio.current_time()
        self._succeeded()
        if before is not None and before.session.outcome is None:
            self._replaced(before)

    async def _let_resume(self) -> None:
        latest = self.latest
        if latest is None or not latest.session.accepts_streams:
            return
        detached_at = latest.session.detached_at
        if detached_at is not None:
            # The session may have lost its channel long ago, so this moment may already have passed.
            with trio.move_on_at(detached_at + RESUME_PATIENCE):
                await latest.wait_absent()

    def _succeeded(self) -> None:
        for waiter in self._waiters:
            waiter.failure = None
            waiter.over.set()
        self._waiters.clear()

    def _failed(self, error: BaseException, *, final: bool) -> None:
        for waiter in self._waiters:
            waiter.failed(error, final=final)
        if final:
            self._waiters.clear()
