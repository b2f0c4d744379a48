"""Everything that restricts a connector: the policy of the machine and of further directories, and the deny list."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..errors import ConfigurationError
from ..events.connector_resources import PolicyNotReloaded
from ..events.stream import EventStream
from ..policy import (
    Action,
    Decision,
    Policy,
    PolicyFile,
    PolicyReading,
    Resource,
    WatchedPolicy,
)
from ..security import HostPort
from .config import ConnectorConfig

__all__ = ["Policies"]

#: How soon what is open ends when the allowed hours are over (seconds).
_HOURS_SECONDS = 1.0


class Policies:
    """The policy of a connector, which is what all its sources allow.

    Args:
        config: the configuration of the connector.
        events: the stream to which events are published.
        changed: called when something was read again.
        time_passed: called every second while the decisions depend on the time.

    Raises:
        ConfigurationError: a source cannot be read, or is not valid.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        events: EventStream,
        *,
        changed: Callable[[], None],
        time_passed: Callable[[], None],
    ) -> None:
        self._events = events
        self._changed = changed
        self._time_passed = time_passed
        self._deny_list = config.policy if isinstance(config.policy, PolicyFile) else None
        self._given = Policy() if isinstance(config.policy, PolicyFile) else config.policy
        self._watched = WatchedPolicy(config.policy_directories)
        self._combine()

    def publish_all(self) -> None:
        """Publish what is in force."""
        self._publish_change()
        if self._deny_list is not None:
            self._publish_reading(self._deny_list.reading)

    def _combine(self) -> None:
        of_file = Policy() if self._deny_list is None else self._deny_list.policy
        #: Everything that is in force.
        self.policy = self._watched.policy.and_also(self._given).and_also(of_file)

    async def reload(self) -> None:
        """Read everything again at once, even if it seems unchanged, and put it into force.

        Raises:
            ConfigurationError: something cannot be read or parsed. Its last valid version stays in force.
        """
        try:
            await self._watched.reload()
            self._policy_read()
        finally:
            if self._deny_list is not None:
                self._deny_list_read(await self._deny_list.reload())

    async def watch(self) -> None:
        """Put changes into force until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watched.watch, self._policy_read, self._failed)
            if self._deny_list is not None:
                nursery.start_soon(self._deny_list.watch, self._deny_list_read, self._failed)
            nursery.start_soon(self._watch_time)

    async def _watch_time(self) -> None:
        while True:
            await trio.sleep(_HOURS_SECONDS)
            if self.policy.depends_on_time:
                self._time_passed()

    def permit_check(self, target: HostPort, address: str) -> Decision:
        """Return whether an address of a target may be dialed for a health check."""
        return self.policy.decide(None, Action.PUBLISH, Resource("", target, address=address))

    def _policy_read(self) -> None:
        self._publish_change()
        self._combine()
        self._changed()

    def _deny_list_read(self, reading: PolicyReading) -> None:
        self._publish_reading(reading)
        self._combine()
        self._changed()

    def _publish_change(self) -> None:
        if (event := self._watched.take_event()) is not None:
            self._events.publish(event)

    def _publish_reading(self, reading: PolicyReading) -> None:
        for event in reading.events():
            self._events.publish(event)

    def _failed(self, error: ConfigurationError) -> None:
        self._events.publish(PolicyNotReloaded(detail=str(error), remedy=error.remedy or ""))
