"""Everything that restricts a connector: the policy of the machine and of further directories, and the deny list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import attrs
import trio

from ..errors import ConfigurationError
from ..events.policy import DatagramsDenied, PolicyNotReloaded
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
from ..policy.machine import machine_policy_place
from ..policy.schema import KEYS
from ..security import StreamTarget, Target
from ..security.targets import has_datagrams
from .config import ConnectorConfig

__all__ = ["Policies", "remedy_of"]

#: How soon what is open ends when the allowed hours are over (seconds).
_HOURS_SECONDS = 1.0


def remedy_of(denial: Decision) -> str:
    """Return what to do about a denial; empty if there is nothing special about it."""
    if denial.kind == KEYS["AllowUdp"].slug:  # there may be no rule that could be changed
        return f"to allow datagrams, set AllowUdp = true in the policy of this machine, {machine_policy_place()}"
    return ""


@attrs.define(eq=False)
class _DenyList:
    """A deny list that applies to one hybrid connection only, or to all of them."""

    #: The name of the hybrid connection; None: all of them.
    connection: str | None
    file: PolicyFile
    #: The scope of the task that watches it.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: Why it could not be read the last time; None if it could.
    failure: ConfigurationError | None = None


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
        #: The deny list of each hybrid connection that has one, by its number; and by None, that of all of them.
        self._deny_lists: dict[int | None, _DenyList] = {}
        if isinstance(config.policy, PolicyFile):
            self._deny_lists[None] = _DenyList(None, config.policy)
        self._given = Policy() if isinstance(config.policy, PolicyFile) else config.policy
        self._watched = WatchedPolicy(config.policy_directories)
        #: The hybrid connections whose datagrams were reported as denied.
        self._without_datagrams = frozenset[str]()
        #: Watches the files; None while that does not run.
        self._nursery: trio.Nursery | None = None
        self._combine()

    def publish_all(self) -> None:
        """Publish what is in force."""
        self._publish_change()
        for deny_list in self._deny_lists.values():
            self._publish_reading(deny_list.file.reading)

    def _combine(self) -> None:
        #: Everything that is in force.
        self.policy = self._watched.policy.and_also(self._given)
        for one in self._deny_lists.values():
            policy = one.file.policy
            self.policy = self.policy.and_also(policy if one.connection is None else policy.only_for(one.connection))

    def use_deny_list(self, number: int | None, connection: str | None, file: PolicyFile | None) -> None:
        """Use a deny list that applies to one hybrid connection only, or to all of them, in place of the earlier one.

        Args:
            number: the number of the hybrid connection; None: all of them.
            connection: its name, or None.
            file: the deny list, which is read again when it changes; None: there is none.
        """
        before = self._deny_lists.pop(number, None)
        if before is not None:
            before.scope.cancel()
        if file is not None:
            self._deny_lists[number] = deny_list = _DenyList(connection, file)
            self._publish_reading(file.reading)
            if self._nursery is not None:
                self._nursery.start_soon(self._watch, deny_list)
        if before is not None or file is not None:
            self._combine()
            self._changed()

    async def _watch(self, deny_list: _DenyList) -> None:
        with deny_list.scope:
            await deny_list.file.watch(partial(self._deny_list_read, deny_list), partial(self._failed, deny_list))

    async def reload(self) -> None:
        """Read everything again immediately, even if it seems unchanged, and put it into force.

        Raises:
            ConfigurationError: something cannot be read or parsed. Its last valid version stays in force.
        """
        errors: list[tuple[_DenyList | None, ConfigurationError]] = []
        try:
            await self._watched.reload()
            self._policy_read()
        except ConfigurationError as exc:
            errors.append((None, exc))
        for deny_list in list(self._deny_lists.values()):
            try:
                self._deny_list_read(deny_list, await deny_list.file.reload())
            except ConfigurationError as exc:
                deny_list.failure = exc
                errors.append((deny_list, exc))
        for failed, error in errors[1:]:
            self._failed(failed, error)
        if errors:
            raise errors[0][1]

    async def watch(self) -> None:
        """Put changes into force until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                self._nursery.start_soon(self._watched.watch, self._policy_read, partial(self._failed, None))
                for deny_list in self._deny_lists.values():
                    self._nursery.start_soon(self._watch, deny_list)
                await self._watch_time()
            finally:
                self._nursery = None

    async def _watch_time(self) -> None:
        while True:
            await trio.sleep(_HOURS_SECONDS)
            if self.policy.depends_on_time:
                self._time_passed()

    def permit_check(self, target: StreamTarget, address: str) -> Decision:
        """Return whether an address of a target may be dialed for a health check."""
        return self.policy.decide(None, Action.PUBLISH, Resource("", target, address=address))

    def report_datagrams(self, connections: Iterable[tuple[str, Target]]) -> None:
        """Publish for which hybrid connections the policy does not allow datagrams, unless that was published before.

        Args:
            connections: the names and targets of all hybrid connections.
        """
        decision = self.policy.decide_datagrams()
        denied = {name: target for name, target in connections if has_datagrams(target)}
        if decision.reason is None:
            denied = {}
        for name in denied.keys() - self._without_datagrams:
            self._events.publish(
                DatagramsDenied(
                    connection=name,
                    target=str(denied[name]),
                    detail=decision.rule,
                    remedy=remedy_of(decision),
                )
            )
        self._without_datagrams = frozenset(denied)

    def _policy_read(self) -> None:
        self._publish_change()
        self._combine()
        self._changed()

    def _deny_list_read(self, deny_list: _DenyList, reading: PolicyReading) -> None:
        deny_list.failure = None
        self._publish_reading(reading)
        self._combine()
        self._changed()

    def _publish_change(self) -> None:
        if (event := self._watched.take_event()) is not None:
            self._events.publish(event)

    def _publish_reading(self, reading: PolicyReading) -> None:
        for event in reading.events():
            self._events.publish(event)

    @property
    def failures(self) -> Sequence[ConfigurationError]:
        """Why the policy, or deny lists, could not be read the last time. Their last valid versions are in force."""
        of_lists = (one.failure for one in self._deny_lists.values())
        return (*map(ConfigurationError, self._watched.errors), *(one for one in of_lists if one is not None))

    def _failed(self, deny_list: _DenyList | None, error: ConfigurationError) -> None:
        if deny_list is not None:
            deny_list.failure = error
        self._events.publish(PolicyNotReloaded(detail=str(error), remedy=error.remedy or ""))
