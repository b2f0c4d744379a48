"""Telling a relay about the health of targets, over one control channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from ..connectivity.control import ControlChannel
from ..errors import RelayUnreachable
from ..protocol.control import Health, TargetHealth
from ..security import Target
from .target_monitor import TargetMonitor

__all__ = ["PACE_SECONDS", "TargetReporter"]

#: The least time between two reports about the same hybrid connection, except after it was registered again
#: (seconds). A relay closes the control channel of a connector that sends far more.
PACE_SECONDS = 5.0


class TargetReporter:
    """Tells the relay what has changed since the last report. A relay of an earlier version ignores such reports.

    Args:
        monitor: the health of the targets.
        targets: returns the hybrid connections that are registered over the control channel, and their targets.
    """

    def __init__(self, monitor: TargetMonitor, targets: Callable[[], Sequence[tuple[str, Target]]]) -> None:
        self._monitor = monitor
        self._targets = targets
        #: What the relay was told last about each hybrid connection, and when (on Trio's clock). A hybrid connection
        #: about which it was told nothing since the registration is missing here.
        self._told: dict[str, tuple[TargetHealth, float]] = {}

    def registered(self, name: str) -> None:
        """Note that a hybrid connection was registered, perhaps again: the relay may know something else, or
        nothing."""
        self._told.pop(name, None)
        self._monitor.wake()

    async def run(self, channel: ControlChannel) -> None:
        """Tell the relay, until cancelled, or until the control channel is lost."""
        with suppress(RelayUnreachable):  # its owner notices this, too
            while True:
                change = self._monitor.next_change
                next_at = await self._tell(channel)
                with trio.move_on_at(next_at):
                    await change.wait()

    async def _tell(self, channel: ControlChannel) -> float:
        """Tell what has changed. Returns when to look again, even if nothing changes."""
        targets, next_at = self._targets(), math.inf
        self._told = {name: self._told[name] for name, _ in targets if name in self._told}
        for name, target in targets:
            health, now = self._monitor.reported_health(target), trio.current_time()
            told, at = self._told.get(name, (None, -math.inf))
            if health is told:
                continue
            if now < at + PACE_SECONDS:
                next_at = min(next_at, at + PACE_SECONDS)
                continue
            self._told[name] = health, now
            await channel.send(Health(name, health))
        return next_at
