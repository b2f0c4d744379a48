"""The connector: registers as a listener at the relay, and opens the target for authenticated applications."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs
import trio

from .. import events
from .._log_limit import report_left_out
from .._nursery import FlatNursery, wait_stop
from ..abc import Dialer, Transport
from ..connectivity.data import EndToEnd
from ..connectivity.discovery import AUTO
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.instance import new_instance
from ..connectivity.link import UPGRADE_INTERVAL_SECONDS, RelayLink, usable_links
from ..connectivity.network import watch_jumps
from ..connectivity.refusals import all_failed
from ..errors import ConfigurationError, HybridRelayError
from ..mux import DATA_CONFIG
from ..protocol import control
from ..security import (
    ConnectionString,
    StringUpdate,
    check_is_connection_string,
    expires_soon,
    key_fingerprint,
    update_string,
)
from .audit import AuditLog
from .channels import DataChannels
from .instance_file import InstanceFile
from .policy import Policy, PolicyFile
from .published import Publication, Published
from .registrar import Registrar
from .sessions import Sessions

#: Between two looks whether something depends on an earlier key still (seconds).
_FOLLOW_SECONDS = 1.0

_LinkKey = tuple[str, frozenset[tuple[str, int | None]], tuple[str, ...]]


class Connector:
    """Publishes hybrid connections until cancelled. `run_connector` is enough where nothing changes while it runs.

    A `Registrar` keeps what is published registered at one relay; `DataChannels` opens what it
    offers, and `Sessions` has what comes of that, through whichever relay.
    """

    def __init__(
        self,
        strings: Sequence[ConnectionString],
        *,
        mode: str = AUTO,
        policy: Policy | None = None,
        policy_file: PolicyFile | None = None,
        dialer: Dialer | None = None,
        transports: Mapping[str, Transport] | None = None,
        resume_deadline: float = DATA_CONFIG.resume_deadline,
        upgrade_interval: float = UPGRADE_INTERVAL_SECONDS,
        instance_file: InstanceFile | None = None,
        clock: Callable[[], float] = time.time,
        stream: events.EventStream | None = None,
    ) -> None:
        if isinstance(strings, str | bytes | os.PathLike | ConnectionString):
            raise TypeError(
                f"expected a list of ConnectionString, not {type(strings).__name__}: [load_connection_string(path)]"
            )
        strings = list(map(check_is_connection_string, strings))
        if not strings:
            raise ConfigurationError("a connector needs at least one connection string")
        self._clock = clock
        policy = policy_file.policy if policy_file else policy or Policy()
        config = attrs.evolve(DATA_CONFIG, resume_deadline=resume_deadline)
        self._events = stream or events.logged_events()
        self._sessions = Sessions(policy, config, self._events, lost=self._data_channel_lost)
        self._policy_file = policy_file
        instance = instance_file.instance if instance_file else new_instance()
        replaces = instance_file.dead if instance_file else ()
        self._registrars: dict[RelayLink, Registrar] = {}
        self._links: dict[_LinkKey, RelayLink] = {}
        #: Each is registered at some relay, or refused by all.
        self._settled = trio.Event()
        #: All are refused by all relays.
        self._over = trio.Event()
        #: Set, and renewed, whenever a registration has come or gone.
        self._change = trio.Event()
        #: In which everything runs; None before and after.
        self._nursery: trio.Nursery | None = None
        self._new_link = partial(
            RelayLink,
            role=control.Role.CONNECTOR,
            instance=instance,
            mode=mode,
            dialer=dialer,
            transports=transports,
            upgrade_interval=upgrade_interval,
        )
        self._new_registrar = partial(
            Registrar,
            channels=DataChannels(self._sessions, self._events),
            sessions=self._sessions,
            replaces=replaces,
            clock=clock,
            stream=self._events,
            changed=self._changed,
            renewed=(lambda _: None) if instance_file is None else instance_file.add,
        )
        #: By what is published: follows its present key.
        self._following: dict[Published, trio.CancelScope] = {}

        self._published = [Published(string) for string in strings]
        for published in self._published:
            identity, _ = published.string.require_identity()
            if expires_soon(identity, now=clock()):
                self._events.publish(events.IdentityExpiresSoon(connection=published.name))
            self._publish(published, self._find_links(published, published.string))

    # --- what is published, and where

    def _find_links(self, published: Published, string: ConnectionString) -> dict[_LinkKey, RelayLink]:
        """The links to the relays of a string, those that exist and new ones. Changes nothing.

        Raises:
            ConfigurationError: no relay can be used, or another string is for the same hybrid connection at one.
        """
        found: dict[_LinkKey, RelayLink] = {}

        def link_to(endpoint: RelayEndpoint) -> RelayLink:
            """Strings of one relay share its link."""
            key = (endpoint.host, frozenset(endpoint.ports.items()), endpoint.pins)
            found[key] = self._links.get(key) or self._new_link(endpoint)
            return found[key]

        usable_links(RelayEndpoint.all_from(string, clock=self._clock), link_to)
        others = [one for one in self._published if one is not published and one.name == published.name]
        taken = {publication.link.host for one in others for publication in one.publications}
        for link in found.values():
            if link.host in taken:
                raise ConfigurationError(f"two connection strings are for {published.name} at {link.host}")
        return found

    def _publish(self, published: Published, links: Mapping[_LinkKey, RelayLink]) -> None:
        """Have it registered at these relays, and sooner or later at no others."""
        for publication in list(published.publications):
            if publication.link not in links.values():
                published.publications.remove(publication)
                published.retiring.append(publication)
                if self._nursery is not None:
                    self._nursery.start_soon(self._retire, publication)
        for key, link in links.items():
            if link not in self._registrars:
                self._links[key] = link
                self._registrars[link] = self._new_registrar(link)
                if self._nursery is not None:
                    self._nursery.start_soon(self._registrars[link].run, self._nursery)
            known = self._registrars[link].find(published.name)
            if known is None:
                self._registrars[link].publish(published)
            elif known in published.retiring:  # it has come back before it was gone
                published.retiring.remove(known)
                published.publications.append(known)

    async def _retire(self, publication: Publication) -> None:
        """End the registration at a relay that the string does not name any more, once another has taken over."""
        published, link = publication.published, publication.link
        while not published.is_registered:
            await self._change.wait()
        if publication not in published.retiring:
            return
        published.retiring.remove(publication)
        registrar = self._registrars[link]
        registrar.unpublish(publication)
        if registrar.is_stopping and self._registrars.get(link) is registrar:
            del self._registrars[link]
            self._links = {key: other for key, other in self._links.items() if other is not link}
        replaced = any(one.link.host == link.host for one in published.publications)
        self._events.publish(
            events.RegistrationWithdrawn(connection=published.name, host=link.host, replaced=replaced)
        )

    def update(self, number: int, string: ConnectionString) -> StringUpdate:
        """Use a changed connection string instead of one that is published; open streams are not affected.

        Another key, other relays and other pins are registered at once. Sessions whose data channel depends on the
        earlier key are made to resume over another one, which is a short pause; the log says when nothing depends on
        the earlier key any more, so that it can be regenerated. Another target counts for streams that are opened
        from now on. Where a relay refuses the new key, the earlier one stays in use there.

        Args:
            number: the place of the earlier string among those that the connector was made with.
            string: for the same hybrid connection.

        Returns:
            What was taken up, and what needs a restart.

        Raises:
            ConfigurationError: the string cannot be used here. Nothing was changed.
        """
        check_is_connection_string(string)
        published = self._published[number]
        update = update_string(published.string, string)
        EndToEnd.from_connection_string(string)
        links = self._find_links(published, update.string)
        # From here on nothing can fail.
        published.use(update.string)
        self._publish(published, links)
        for publication in published.publications:
            self._registrars[publication.link].update(published)
        if self._nursery is not None and update.key_changed:
            self._nursery.start_soon(self._follow_key, published)
        return update

    async def _follow_key(self, published: Published) -> None:
        """See to it that nothing depends on an earlier key, and say so."""
        if published in self._following:
            self._following[published].cancel()
        with trio.CancelScope() as self._following[published]:
            while not (published.has_settled and await self._sessions.follow_key(published)):
                with trio.move_on_after(_FOLLOW_SECONDS):
                    await self._change.wait()
            missing = tuple(one.link.host for one in published.publications if not one.state.is_registered)
            key = key_fingerprint(published.string.key)
            self._events.publish(events.KeyInUse(connection=published.name, key=key, missing=missing))

    async def reload_policy(self) -> None:
        """Read the policy file again at once, whether it has changed or not, and put it into force.

        Raises:
            ConfigurationError: it cannot be read or understood; the last valid deny list stays in force.
        """
        if self._policy_file is not None:
            self._sessions.set_policy(await self._policy_file.reload())

    # --- running

    async def run(
        self,
        *,
        stop: trio.Event | None = None,
        grace: float = 0.0,
        task_status: trio.TaskStatus[tuple[ConnectionString, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `run_connector`."""
        # For as long as streams may end, that is until the nursery is closed.
        with self._events.subscribed(AuditLog(self._sessions.streams.run)):
            await self._run(stop, grace, task_status)

    async def _run(
        self, stop: trio.Event | None, grace: float, task_status: trio.TaskStatus[tuple[ConnectionString, ...]]
    ) -> None:
        async with FlatNursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(report_left_out)
                nursery.start_soon(watch_jumps, self._jumped)
                nursery.start_soon(self._sessions.streams.keep_reporting)
                if self._policy_file is not None:
                    nursery.start_soon(self._policy_file.watch, self._sessions.set_policy, self._policy_failed)
                nursery.start_soon(self._end_when_over)
                for registrar in self._registrars.values():
                    nursery.start_soon(registrar.run, nursery)
                await self._settled.wait()
                self._publish_missing()
                task_status.started(tuple(one.string for one in self._published if not one.is_refused))
                await wait_stop(stop)
                await self._drain(grace)
                nursery.cancel_scope.cancel()
            finally:
                self._nursery = None

    def _changed(self) -> None:
        """Some registration has come or gone."""
        change, self._change = self._change, trio.Event()
        change.set()
        if all(published.is_refused for published in self._published):
            now = trio.current_time()
            states = [one.state for published in self._published for one in published.publications]
            outdated = [state for state in states if state.may_be_outdated(now)]
            if not outdated:
                self._over.set()
            elif all(state.asks_again_in(now) for state in outdated):  # none of them is being asked already
                for registrar in self._registrars.values():
                    registrar.check_refusals()
        elif all(published.is_registered or published.is_refused for published in self._published):
            self._settled.set()

    async def _end_when_over(self) -> None:
        """One string or one relay does not end the others; with the last one, the connector ends.

        Raises:
            HybridRelayError: every relay refuses every string.
        """
        await self._over.wait()
        raise _why_refused(self._published[0])

    def _publish_missing(self) -> None:
        """Publish an event for each hybrid connection and each relay that is missing at the start."""
        for published in self._published:
            name = published.name
            if published.is_refused:
                error = _why_refused(published)
                self._events.publish(events.NotPublished(connection=name, reason=error.reason, detail=str(error)))
                continue
            for one in published.publications:
                if one.state.is_registered:
                    continue
                host, failure = one.link.host, one.state.failure
                if failure is None:
                    self._events.publish(events.RegistrationPending(connection=name, host=host))
                else:
                    self._events.publish(
                        events.RegistrationMissing(
                            connection=name, host=host, reason=failure.reason, detail=str(failure)
                        )
                    )

    async def _drain(self, grace: float) -> None:
        """Take no new work, and let open streams finish for up to `grace` seconds."""
        for registrar in self._registrars.values():
            registrar.stop()
        await self._sessions.drain(grace)

    def _data_channel_lost(self, link: RelayLink) -> None:
        if registrar := self._registrars.get(link):  # the string may name this relay no longer
            registrar.check_channels()

    def _policy_failed(self, error: ConfigurationError) -> None:
        self._events.publish(events.PolicyNotReloaded(detail=str(error), remedy=error.remedy or ""))

    def _jumped(self, what: str) -> None:
        self._events.publish(events.NetworkChanged(detail=what))
        for registrar in self._registrars.values():
            registrar.network_changed()
        self._sessions.check_alive()


def _why_refused(published: Published) -> HybridRelayError:
    return all_failed(
        {one.link.host: one.state.failure for one in published.publications if one.state.failure is not None}
    )


async def run_connector(
    strings: Sequence[ConnectionString],
    *,
    mode: str = AUTO,
    policy: Policy | None = None,
    policy_file: PolicyFile | None = None,
    dialer: Dialer | None = None,
    transports: Mapping[str, Transport] | None = None,
    resume_deadline: float = DATA_CONFIG.resume_deadline,
    upgrade_interval: float = UPGRADE_INTERVAL_SECONDS,
    instance_file: InstanceFile | None = None,
    stream: events.EventStream | None = None,
    stop: trio.Event | None = None,
    grace: float = 0.0,
    task_status: trio.TaskStatus[tuple[ConnectionString, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Publish hybrid connections, each at every relay of its connection string, until cancelled or stopped. Started
    when each of them is registered at one relay at least, with the strings that are served: those which every relay
    refuses are left out, as long as there are others. A relay that cannot be reached, now or later, is tried again
    for ever, and does not affect what uses another.

    Args:
        strings: connectors' connection strings; those of one relay share a control channel.
        mode: ``auto``, or the name of the only transport allowed.
        policy: which identities are denied. `policy_file` is the same in a file that is watched.
        dialer: opens connections to the relay; None means through the proxy that the environment names
            (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), if any.
        transports: by name; None means those that are installed.
        resume_deadline: how long a session that lost its channel may take to resume before its streams are reset
            (seconds).
        upgrade_interval: while a fallback is in use, how soon a better route is looked for (seconds). It then grows.
        instance_file: remembers which instance this connector was before, so that clients of a connector that was
            killed hear of it as soon as it is back.
        stream: gets the events; None means a stream that only the log subscribes to.
        stop: set it for a graceful end: no new streams, and open ones have up to `grace` seconds to finish.

    Raises:
        ConfigurationError: a string cannot be used, or the environment names an impossible proxy.
        AuthorizationError: no relay has any more use for any of the strings, at the start or later: keys are wrong or
            were revoked, hybrid connections are unknown or were deleted.
        RelayIdentityError: what answers at the start is not the relay, and no other relay is left to try.
    """
    connector = Connector(
        strings,
        mode=mode,
        policy=policy,
        policy_file=policy_file,
        dialer=dialer,
        transports=transports,
        resume_deadline=resume_deadline,
        upgrade_interval=upgrade_interval,
        instance_file=instance_file,
        stream=stream,
    )
    await connector.run(stop=stop, grace=grace, task_status=task_status)
