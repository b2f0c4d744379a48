"""The health of a connector's targets: runs the machines of `target_health.py`, and publishes what changes."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from .._nursery import FlatNursery
from .._unexpected_failure import unexpected_failure
from ..connectivity.snapshot import FailureSnapshot
from ..events.connector_resources import TargetHealthy, TargetUnhealthy
from ..events.stream import EventStream
from ..protocol.control_states import TargetHealth
from ..protocol.reasons import Reason
from ..security import StreamTarget, Target
from .requested import watched_targets
from .target_checks import TargetChecks, remedy_of
from .target_health import TargetMachine
from .targets import TargetError

__all__ = ["TargetMonitor"]

#: How many targets are checked at the same time.
_AT_A_TIME = 16


@attrs.define(eq=False)
class _Watched:
    machine: TargetMachine
    #: Why an attempt to connect failed last; None if none has.
    failure: TargetError | None = None


class TargetMonitor:
    """Knows which targets are healthy, and checks them while that is necessary.

    Hybrid connections with the same target share its health.

    Args:
        targets: returns the hybrid connections that may be served, each with every port of its target that is
            watched.
        dial: connects to a target for a check.
        events: the stream to which events are published.
        interval: how often to check a target to which nobody connects (seconds); see `target_health`.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[tuple[str, StreamTarget]]],
        dial: Callable[[StreamTarget], Awaitable[trio.SocketStream | socket.socket]],
        events: EventStream,
        *,
        interval: float | None = None,
    ) -> None:
        self._targets = targets
        #: Makes all checks, including those for `/readyz`.
        self.checks = TargetChecks(targets, dial, self.attempt_ended)
        self._events = events
        self._interval = interval
        self._watched: dict[StreamTarget, _Watched] = {}
        self._is_refusing = False
        self._limiter = trio.CapacityLimiter(_AT_A_TIME)
        #: Set, and replaced by a new event, whenever the health of a target or its next check has changed, there are
        #: other targets, or `wake` was called.
        self.next_change = trio.Event()

    def health(self, target: Target) -> TargetHealth:
        """Return the health of a target: it is unhealthy if one of its ports is (`watched_targets`)."""
        every = {watched.machine.health for _, watched in self._ports_of(target)}
        for health in (TargetHealth.UNHEALTHY, TargetHealth.HEALTHY):
            if health in every:
                return health
        return TargetHealth.UNKNOWN

    def reported_health(self, target: Target) -> TargetHealth:
        """Return what relays are told: that the target is unhealthy, if it is, or if no stream to it is opened."""
        return TargetHealth.UNHEALTHY if self._is_refusing else self.health(target)

    def refuse(self, is_refusing: bool) -> None:
        """Set whether no stream is opened at present, whatever the targets are like, because a required audit log is
        missing. Relays are told so."""
        if is_refusing is not self._is_refusing:
            self._is_refusing = is_refusing
            self.wake()

    def failure(self, target: Target) -> FailureSnapshot | None:
        """Return why a target is unhealthy; None if it is not."""
        for port, watched in self._ports_of(target):
            if watched.failure is not None and watched.machine.health is TargetHealth.UNHEALTHY:
                error = watched.failure
                return FailureSnapshot(reason=error.reason.slug, detail=str(error), remedy=remedy_of(port, error))
        return None

    def _ports_of(self, target: Target) -> list[tuple[StreamTarget, _Watched]]:
        return [(port, self._watched[port]) for port in watched_targets(target) if port in self._watched]

    def targets_changed(self) -> None:
        """Note that there are other hybrid connections or targets. Begins to watch those that are new."""
        wanted = dict.fromkeys(target for _, target in self._targets())
        self._watched = {
            target: self._watched.get(target)
            or _Watched(TargetMachine(self._interval, random.random, trio.current_time()))
            for target in wanted
        }
        self.wake()

    def attempt_ended(self, target: StreamTarget, began: float, failure: TargetError | None) -> None:
        """Take the result of an attempt to connect to a target, of a stream or a check.

        Args:
            target: the target. If it is no longer watched, nothing happens.
            began: when the attempt had begun, on Trio's clock.
            failure: why it failed; None if it succeeded.
        """
        if (watched := self._watched.get(target)) is None:
            return
        watched.failure = failure or watched.failure
        before, due = watched.machine.health, watched.machine.due
        if watched.machine.attempt_ended(succeeded=failure is None, began=began, now=trio.current_time()):
            self._publish(target, before, watched)
            self.wake()
        elif watched.machine.due is not None and (due is None or watched.machine.due < due):
            self.wake()  # otherwise `run` wakes up early enough

    def _publish(self, target: StreamTarget, before: TargetHealth, watched: _Watched) -> None:
        failure, health = watched.failure, watched.machine.health
        for name, one in self._targets():
            if one != target:
                continue
            if health is TargetHealth.UNHEALTHY and failure is not None:
                self._events.publish(
                    TargetUnhealthy(
                        connection=name,
                        target=str(target),
                        reason=failure.reason,
                        detail=str(failure),
                        remedy=remedy_of(target, failure),
                    )
                )
            elif before is TargetHealth.UNHEALTHY:
                self._events.publish(TargetHealthy(connection=name, target=str(target)))

    def wake(self) -> None:
        """Wake up everybody who waits for `next_change`."""
        change, self.next_change = self.next_change, trio.Event()
        change.set()

    async def run(self) -> None:
        """Watch the targets, and check each whenever that is due, until cancelled."""
        self.targets_changed()
        async with FlatNursery() as nursery:
            while True:
                change, now, next_at = self.next_change, trio.current_time(), math.inf
                for target, watched in self._watched.items():
                    if (due := watched.machine.due) is None:
                        continue
                    if due <= now:
                        watched.machine.check_begins()
                        nursery.start_soon(self._check, target, watched.machine)
                    else:
                        next_at = min(next_at, due)
                with trio.move_on_at(next_at):
                    await change.wait()

    async def _check(self, target: StreamTarget, machine: TargetMachine) -> None:
        async with self._limiter:
            began = trio.current_time()
            try:
                await self.checks.check(target)  # calls `attempt_ended`
            except Exception as exc:  # noqa: BLE001
                # A bug in this program, or no memory. It is logged, and must not end the connector.
                self._events.publish(unexpected_failure("check of a target", exc))
                self.attempt_ended(target, began, TargetError("internal error", Reason.INTERNAL_ERROR))
        machine.check_ends()
        self.wake()
