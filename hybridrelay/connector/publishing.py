"""Which hybrid connections a connector publishes, and how their connection strings change while it runs.

The program publishes and withdraws hybrid connections, and changes their connection strings (`Connector.publish`,
`withdraw` and `update`). Relays change the strings, too, with a new key or an update
(`connectivity/string_changes.py`). A hybrid connection that the policy does not allow is published, but is not
registered until the policy allows it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from ..connectivity.data import EndToEnd
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.link import RelayLink
from ..connectivity.string_changes import StringChanges
from ..errors import ConfigurationError
from ..events.policy import ConnectionAllowed, ConnectionDenied, PolicyNotReloaded
from ..events.stream import EventStream
from ..policy import Action, Decision, denied, resource_of
from ..security import ConnectionString, StreamTarget, StringUpdate, check_is_connection_string, update_string
from .config import ConnectorConfig
from .following import KeyFollower
from .policies import Policies
from .published import Published
from .relays import Links, Relays
from .requested import watched_targets
from .sessions import Sessions
from .target_monitor import TargetMonitor

__all__ = ["Publishing"]


class Publishing:
    """The hybrid connections that a connector publishes.

    Args:
        config: the configuration of the connector; its connection strings are not published yet.
        policies: the policy that is in force.
        relays: the relays, at which the hybrid connections are registered.
        sessions: the sessions of the connector.
        monitor: watches the targets.
        keys: replaces what depends on an earlier key.
        new_trial_link: makes a link to a relay that is only tried out.
        events: the stream to which events are published.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        *,
        policies: Policies,
        relays: Relays,
        sessions: Sessions,
        monitor: TargetMonitor,
        keys: KeyFollower,
        new_trial_link: Callable[[RelayEndpoint], RelayLink],
        events: EventStream,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._policies = policies
        self._relays = relays
        self._sessions = sessions
        self._monitor = monitor
        self._keys = keys
        self._new_trial_link = new_trial_link
        self._events = events
        self._clock = clock
        #: What is published, by the number that `publish` has returned.
        self.published: dict[int, Published] = {}
        self._numbers = itertools.count()
        #: Runs what is done in the background; None while the connector does not run.
        self._nursery: trio.Nursery | None = None

    @contextmanager
    def running(self, nursery: trio.Nursery) -> Iterator[None]:
        """Run what is done in the background in this nursery, while the block runs."""
        self._nursery = nursery
        try:
            yield
        finally:
            self._nursery = None

    @property
    def is_running(self) -> bool:
        """Whether the connector runs. Before that, nothing is registered."""
        return self._nursery is not None

    def targets(self) -> list[tuple[str, StreamTarget]]:
        """Return the hybrid connections that the policy allows, with each port of their targets that is watched."""
        allowed = [one for one in self.published.values() if one.denial is None]
        return [(one.name, port) for one in allowed for port in watched_targets(one.target)]

    def _targets_changed(self) -> None:
        self._policies.report_datagrams((one.name, one.target) for one in self.published.values())
        if self._nursery is not None:  # otherwise the connector watches them as soon as it runs
            self._monitor.targets_changed()

    # --- what the program changes

    def publish(self, string: ConnectionString, *, instead_of: int | None = None) -> int:
        """See `Connector.publish`."""
        check_is_connection_string(string)
        published = Published(string, connects_in_parallel=self._config.connect_in_parallel)
        replaced = None if instead_of is None else self.published[instead_of]
        decision = self._policies.policy.decide(None, Action.PUBLISH, published.resource())
        links = self._relays.find_links(published, string, instead_of=replaced)
        # From here on nothing can fail.
        if instead_of is not None:
            self.withdraw(instead_of, grace=math.inf)
        number = next(self._numbers)
        self.published[number] = published
        published.changes = StringChanges(
            lambda: published.string,
            use_key=partial(self._use_key, published),
            use_update=partial(self._use_update, published),
            why_not=partial(self._why_not, published),
            new_link=self._new_trial_link,
            keep=self._config.keep_string,
            floor=self._config.update_floor,
            clock=self._clock,
            events=self._events,
        )
        if decision.reason is None:
            self._relays.publish(published, links)
        else:
            self._hold(published, decision)
        self._targets_changed()
        return number

    def withdraw(self, number: int, *, grace: float) -> None:
        """See `Connector.withdraw`."""
        published = self.published.pop(number)
        published.is_withdrawn = True
        self._keys.forget(published)
        if published.denial is None:
            self._relays.withdraw(published)
        self._policies.use_deny_list(number, published.name, None)
        self._targets_changed()
        if self._nursery is not None:
            self._nursery.start_soon(self._sessions.drain, grace, published)

    def update(self, number: int, string: ConnectionString) -> StringUpdate:
        """See `Connector.update`."""
        check_is_connection_string(string)
        published = self.published[number]
        update = self._use(published, string)
        if published.changes is not None:
            published.changes.keeper.given(string)
        return update

    def refresh(self, number: int) -> None:
        """See `Connector.refresh`."""
        published = self.published[number]
        self._use(published, published.string)

    def _use(self, published: Published, string: ConnectionString) -> StringUpdate:
        """Use a connection string from the program or a relay, or the current one again; see `Connector.update`."""
        update = update_string(published.string, string)
        EndToEnd.from_connection_string(string)
        if (denial := self._denial(update.string)) is not None:
            raise denied(published.name, denial)
        links = self._relays.find_links(published, update.string)
        # From here on nothing can fail.
        published.denial = None
        self._use_string(published, update, links)
        return update

    def _use_string(self, published: Published, update: StringUpdate, links: Links) -> None:
        published.use(update.string)
        self._relays.publish(published, links)
        self._relays.update(published)
        self._targets_changed()
        if self._nursery is not None and update.key_changed:
            self._nursery.start_soon(self._keys.follow, published, self._sessions)

    # --- what relays change

    def _why_not(self, published: Published, string: ConnectionString) -> str:
        """Return why a changed connection string could not be used; empty if it could."""
        if (denial := self._denial(string)) is not None:
            return str(denied(published.name, denial))
        try:
            self._relays.find_links(published, string)
        except ConfigurationError as exc:
            return str(exc)
        return ""

    def _use_key(self, published: Published, string: ConnectionString) -> None:
        """Use a connection string that differs only in its key, unless it is no longer published. Neither the policy
        nor the set of relays depends on the key, so this cannot fail. (It must not: the relay was already told that
        this program has the key.)"""
        if published not in self.published.values():
            return
        update = update_string(published.string, string)
        if published.denial is None:
            self._use_string(published, update, self._relays.find_links(published, update.string))
        else:
            published.use(update.string)  # it is registered with this key as soon as the policy allows it

    def _use_update(self, published: Published, string: ConnectionString) -> None:
        """Use a connection string with an update, unless it is no longer published.

        Raises:
            ConfigurationError: see `Connector.update`.
        """
        if published in self.published.values():
            self._use(published, string)

    # --- what the policy changes

    def apply_policy(self) -> None:
        """Register what the policy allows now, and nothing else."""
        for published in self.published.values():
            published.target_denial = None
            action = Action.REGISTER if published.denial is None else Action.PUBLISH
            decision = self._policies.policy.decide(None, action, published.resource())
            if published.denial is None and decision.reason is not None:
                self._hold(published, decision)
                self._relays.withdraw(published)
            elif published.denial is not None and decision.reason is None:
                self._release(published)
            elif published.denial is not None:
                published.denial = decision  # another rule may deny it now
        self._targets_changed()

    def _denial(self, string: ConnectionString) -> Decision | None:
        """Return the decision of the policy against publishing a connection string; None if it is allowed."""
        resource = resource_of(string, string.require_target())
        decision = self._policies.policy.decide(None, Action.PUBLISH, resource)
        return None if decision.reason is None else decision

    def _hold(self, published: Published, denial: Decision) -> None:
        """Do not register a hybrid connection as long as the policy does not allow it."""
        published.denial = denial
        self._events.publish(ConnectionDenied(connection=published.name, detail=denial.rule, rule=denial.kind))

    def _release(self, published: Published) -> None:
        """Register a hybrid connection that the policy allows again."""
        try:
            links = self._relays.find_links(published, published.string)
        except ConfigurationError as exc:  # another one has been published instead
            self._events.publish(PolicyNotReloaded(detail=str(exc), remedy=exc.remedy or ""))
            return
        published.denial = None
        self._events.publish(ConnectionAllowed(connection=published.name))
        self._relays.publish(published, links)
