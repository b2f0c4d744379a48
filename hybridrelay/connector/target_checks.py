"""Checking whether targets can be reached. The target sees a connection that is closed at once."""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from ..connectivity.snapshot import TargetCheck
from ..security import StreamTarget
from ..streams.sockets import reset_on_close
from .targets import TargetAttempted, TargetError, ignore_attempt

__all__ = ["CHECK_SECONDS", "TargetChecks", "remedy_of"]

#: How long a result is used before its target is dialed again (seconds).
CHECK_SECONDS = 60.0


def remedy_of(target: StreamTarget, failure: TargetError) -> str:
    """Return what to do about a target that cannot be reached."""
    return failure.remedy or f"check that {target} listens, and that this machine can reach it"


class TargetChecks:
    """Dials each target at most once within `CHECK_SECONDS`, however often results are requested.

    Args:
        targets: returns the hybrid connections and their current targets.
        dial: connects to a target; for datagrams, returns a UDP socket, which only shows that there is a route.
        attempted: is told how each attempt to dial a target has ended.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[tuple[str, StreamTarget]]],
        dial: Callable[[StreamTarget], Awaitable[trio.SocketStream | socket.socket]],
        attempted: TargetAttempted = ignore_attempt,
    ) -> None:
        self._targets = targets
        self._dial = dial
        self._attempted = attempted
        self._lock = trio.Lock()
        #: When each target was dialed last, on Trio's clock.
        self._dialed: dict[StreamTarget, float] = {}
        #: Why dialing a target failed; None if it succeeded. A target is missing while there is no result.
        self._failures: dict[StreamTarget, TargetError | None] = {}

    async def results(self) -> tuple[TargetCheck, ...]:
        """Return the results, at most `CHECK_SECONDS` old. This takes as long as dialing the slowest target.

        If cancelled, the targets that have not answered count as dialed.
        """
        async with self._lock:
            targets, now = self._targets(), trio.current_time()
            wanted = self._forget_others(targets)
            async with trio.open_nursery() as nursery:
                for target in wanted:
                    if now - self._dialed.get(target, -math.inf) >= CHECK_SECONDS:
                        self._dialed[target] = now
                        nursery.start_soon(self._check, target)
            return tuple(self._result(name, target) for name, target in targets)

    async def check(self, target: StreamTarget) -> None:
        """Dial a target now. `results` then returns the result until it is too old.

        If cancelled, there is no new result.
        """
        failure = await self._try(target)
        self._dialed[target], self._failures[target] = trio.current_time(), failure
        self._forget_others(self._targets())

    def _forget_others(self, targets: Sequence[tuple[str, StreamTarget]]) -> set[StreamTarget]:
        """Forget the results of other targets. Returns these targets."""
        wanted = {target for _, target in targets}
        self._dialed = {target: at for target, at in self._dialed.items() if target in wanted}
        self._failures = {target: failure for target, failure in self._failures.items() if target in wanted}
        return wanted

    async def _check(self, target: StreamTarget) -> None:
        self._failures.pop(target, None)
        self._failures[target] = await self._try(target)

    async def _try(self, target: StreamTarget) -> TargetError | None:
        """Dial a target, and return why this failed; None if it did not."""
        began, failure = trio.current_time(), None
        try:
            stream = await self._dial(target)
        except TargetError as exc:
            failure = exc
        else:
            if isinstance(stream, socket.socket):  # nothing can be found out without sending something
                stream.close()
            else:
                reset_on_close(stream, on=False)
                await trio.aclose_forcefully(stream)
        self._attempted(target, began, failure)
        return failure

    def _result(self, name: str, target: StreamTarget) -> TargetCheck:
        if target not in self._failures:
            return TargetCheck(name, str(target), "cancelled", "the check was interrupted", "ask again later")
        failure = self._failures[target]
        if failure is None:
            return TargetCheck(name, str(target))
        return TargetCheck(name, str(target), failure.reason.slug, str(failure), remedy_of(target, failure))
