"""The connector: registers as a listener at its relays, and connects authenticated applications to the target."""

# This module is long because it contains, and documents, everything that a program that embeds a connector calls.

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

import attrs
import trio

from .._check_type import check_type
from .._log_limit import report_left_out
from .._nursery import FlatNursery, wait_stop
from ..abc import Transport
from ..connectivity.expiry import Credential, ExpiryNotices, watch_expiry
from ..connectivity.link import RelayLink
from ..connectivity.network import watch_network
from ..connectivity.snapshot import MAX_LISTED, EndpointSnapshot, TargetCheck
from ..connectivity.string_keeper import StringKeeper, keep_trying
from ..events.endpoint import NetworkChanged
from ..events.log import logged_events
from ..events.stream import EventStream
from ..mux import DATA_CONFIG
from ..policy import PolicyFile, denied
from ..protocol import control, open_metadata
from ..security import ConnectionString, HostPort, NamedInstance, StreamTarget, StringUpdate
from .all_registrations import AllRegistrations
from .audit_logger import AuditLogger
from .channels import DataChannels
from .config import ConnectorConfig
from .counters import ConnectorCounters
from .following import KeyFollower
from .instance_file import Instances, UnrecordedInstances
from .issuing import UsedClaimsFile
from .policies import Policies
from .published import Published
from .publishing import Publishing
from .registrar import Registrar
from .relays import Relays
from .requested import watched_targets
from .required_audit import RequiredAudit
from .sessions import Sessions
from .snapshots import connector_snapshot
from .target_monitor import TargetMonitor
from .targets import open_datagram_target, open_target

__all__ = ["Connector", "run_connector"]


class Connector:
    """Serves hybrid connections until cancelled. `run_connector` is simpler, but cannot change what is published.

    `Publishing` knows what is published. `Relays` keeps everything registered, with one `Registrar` for each relay,
    and `AllRegistrations` knows whether that has succeeded. `DataChannels` opens the data channels that the relays
    offer, and `Sessions` runs the sessions on them, through any relay. `KeyFollower` moves them when a key changes.

    Args:
        config: see `ConnectorConfig`.
        transports: by name; None means those that are installed.
        events: the stream to which events are published; None means one that writes them to the log.
        clock: returns seconds since 1970.
        last_look: entered before the connector ends because every relay refuses everything. If something else is
            published by then, or with another connection string, the connector goes on.

    Raises:
        DeniedByPolicy: the policy of the machine does not allow any of the hybrid connections.
        ConfigurationError: a connection string cannot be used, two are for the same hybrid connection at the same
            relay, the policy cannot be read, or the environment names an unusable proxy.
        TypeError: `config` is not a `ConnectorConfig`.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        *,
        transports: Mapping[str, Transport] | None = None,
        events: EventStream | None = None,
        clock: Callable[[], float] = time.time,
        last_look: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        check_type(config, ConnectorConfig, "ConnectorConfig([load_connection_string(path)])")
        self._events = events = logged_events() if events is None else events
        self._clock = clock
        session_config = attrs.evolve(
            DATA_CONFIG, resume_deadline=config.resume_deadline, metadata_types={open_metadata.PORT}
        )
        self._keys = KeyFollower(events)
        self._counters = ConnectorCounters()
        # The events of this connector's sessions and streams have a stream of their own, because `events` may be
        # shared with other connectors, and the audit log must not receive an event twice.
        own_events = EventStream(events.publish, AuditLogger(), self._counters)
        self._policies = Policies(config, events, changed=self._policy_changed, time_passed=self._time_passed)
        self._required_audit = RequiredAudit(
            config.audit,
            lambda: self._policies.policy,
            lambda: {host for one in self._published.values() for host in one.string.hosts},
            events,
        )
        #: See `Policy.within_hours`.
        self._within_hours: tuple[bool, ...] = ()
        self._monitor = TargetMonitor(
            self._targets, self._dial_for_check, events, interval=config.check_target_interval
        )
        self._sessions = Sessions(
            self._policies.policy,
            session_config,
            own_events,
            lost=self._data_channel_lost,
            changed=self._keys.use_changed,
            counters=self._counters,
            recorded=None if config.audit is None else self._required_audit.wait_recorded,
            target_attempted=self._monitor.attempt_ended,
            used_claims=None if config.used_claims is None else UsedClaimsFile(config.used_claims),
            clock=clock,
        )
        instances: Instances = config.instance_file or UnrecordedInstances()
        channels = DataChannels(self._sessions, events)
        new_link = partial(
            RelayLink,
            role=control.PeerRole.CONNECTOR,
            mode=config.mode,
            dialer=config.dialer,
            transports=transports,
            events=events,
        )
        self._relays = Relays(
            new_link=partial(new_link, instance=instances.instance, upgrade_interval=config.upgrade_interval),
            new_registrar=lambda link, changed: Registrar(
                link,
                channels,
                self._sessions,
                instances,
                self._monitor,
                clock=clock,
                events=events,
                changed=changed,
                witnessing=None if config.audit is None else config.audit.witnessing,
            ),
            changed=self._registration_changed,
            events=events,
            clock=clock,
        )
        self._publishing = Publishing(
            config,
            policies=self._policies,
            relays=self._relays,
            sessions=self._sessions,
            monitor=self._monitor,
            keys=self._keys,
            # With the same instance, so that relays that are tried out recognize this program.
            new_trial_link=partial(new_link, instance=instances.instance),
            events=events,
            clock=clock,
        )
        self._published: Mapping[int, Published] = self._publishing.published
        self._registrations = AllRegistrations(
            self._published, self._relays.check_refusals, events, last_look=last_look
        )

        self._policies.publish_all()
        self._required_audit.policy_changed()
        for string in config.strings:
            self.publish(string)
        denials = [one.denial for one in self._published.values()]
        if denials and (denial := denials[0]) is not None and None not in denials:
            raise denied(self._published[0].name, denial)

    def _targets(self) -> list[tuple[str, StreamTarget]]:
        return self._publishing.targets()

    def publish(self, string: ConnectionString, *, instead_of: int | None = None) -> int:
        """Publish another hybrid connection. A running connector registers it at once, and events report the result.
        If the policy does not allow it, it is registered as soon as the policy does.

        Args:
            string: a connector's connection string.
            instead_of: the number of a hybrid connection that is withdrawn at the same time, such as the same one
                with another identity. Its open streams continue without a limit, until they end.

        Returns:
            The number of the hybrid connection, for `update` and `withdraw`. Those in `ConnectorConfig.strings` have
            numbers from 0, in their order.

        Raises:
            ConfigurationError: the string cannot be used, or another one is for the same hybrid connection at the
                same relay. Nothing was changed.
        """
        return self._publishing.publish(string, instead_of=instead_of)

    def use_proxy_protocol(self, number: int, *, on: bool) -> None:
        """Set whether connections to the target that are opened from now on begin with a PROXY header (version 2).

        The header has the address of the client, as the relay has stated it, and the label of its identity. The
        target has to expect it. Without this call, there is none.
        """
        self._published[number].sends_proxy_header = on

    def connect_in_parallel(self, number: int, *, on: bool) -> None:
        """Set whether all addresses of a target are connected to at the same time from now on (`ConnectorConfig`)."""
        self._published[number].connects_in_parallel = on

    def use_deny_list(self, number: int | None, deny_list: PolicyFile | None) -> None:
        """Use a deny list for one hybrid connection, in addition to that of the connector; None: it has none.

        It takes effect at once, for open sessions, too. The file is read again whenever it changes.

        Args:
            number: the number of the hybrid connection; None: the deny list of the connector, which applies to all of
                them, takes the place of the `PolicyFile` in `ConnectorConfig.policy`.
            deny_list: None: there is none.
        """
        name = None if number is None else self._published[number].name
        self._policies.use_deny_list(number, name, deny_list)

    def withdraw(self, number: int, *, grace: float = 0.0) -> None:
        """Stop publishing a hybrid connection. Other hybrid connections are not affected.

        Its registrations end immediately. Clients are informed, and open no further streams here. Its sessions end
        when their streams have ended, in the background. A session whose data channel is lost in this time cannot
        resume, if no other connector serves the hybrid connection.

        Args:
            number: the number of the hybrid connection.
            grace: how long its open streams may continue (seconds). After that, they are reset.
        """
        self._publishing.withdraw(number, grace=grace)

    def update(self, number: int, string: ConnectionString) -> StringUpdate:
        """Use a changed connection string in place of an earlier one. Open streams continue.

        The connector registers at once with another key, at other relays, or with other pins. Sessions whose data
        channel depends on the earlier key resume over another one, which is a short pause; an event (`KeyInUse`) says
        when nothing depends on the earlier key, so that it can be regenerated. Another target is used for
        streams that are opened from now on. If a relay refuses the new key, the earlier one stays in use there.

        Args:
            number: the number of the hybrid connection: for a string in `ConnectorConfig.strings`, its index.
            string: a connection string for the same hybrid connection.

        Returns:
            Which changes are in use now, and which need a restart.

        Raises:
            DeniedByPolicy: the policy does not allow it. Nothing was changed.
            ConfigurationError: the string cannot be used here. Nothing was changed.
        """
        return self._publishing.update(number, string)

    def refresh(self, number: int) -> None:
        """Use the current connection string once more, so that what relays have refused is requested again at once.

        This includes the key or the update that a relay has given, even if that could not be stored.

        Raises:
            ConfigurationError: see `update`.
        """
        self._publishing.refresh(number)

    async def reload_policy(self) -> None:
        """Read the policy and the deny list again immediately, even if they seem unchanged, and put them into force.

        Raises:
            ConfigurationError: one of them cannot be read or parsed. Its last valid version stays in force.
        """
        await self._policies.reload()

    def snapshot(self, *, max_sessions: int = MAX_LISTED, max_streams: int = MAX_LISTED) -> EndpointSnapshot:
        """Return the connector's current state. Call it in the connector's Trio run.

        Args:
            max_sessions, max_streams: the most that are listed; the oldest come first.

        It takes time in proportion to the number of streams.
        """
        return connector_snapshot(
            tuple(self._published.values()),
            self._relays,
            self._sessions,
            self._monitor,
            self._counters,
            max_sessions=max_sessions,
            max_streams=max_streams,
            clock=self._clock,
            policies=self._policies,
            audit=self._required_audit.problems(),
        )

    async def check_targets(self) -> tuple[TargetCheck, ...]:
        """Find out whether the targets can be reached, by connecting to each of them, at most once in 60 seconds.

        Of a target with several ports, the first one and those that are named singly are connected to: those of a
        range may be open only at times.

        If cancelled, targets that have not answered are not dialed again until 60 seconds have passed.
        """
        return await self._monitor.checks.results()

    # --- running

    async def run(
        self,
        *,
        stop: trio.Event | None = None,
        grace: float = 0.0,
        task_status: trio.TaskStatus[tuple[ConnectionString, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `run_connector`."""
        async with FlatNursery() as nursery:
            with self._publishing.running(nursery):
                nursery.start_soon(report_left_out)
                nursery.start_soon(watch_network, self._network_changed)
                nursery.start_soon(self._sessions.streams.keep_reporting)
                nursery.start_soon(self._sessions.end_expired)
                nursery.start_soon(watch_expiry, self._credentials, ExpiryNotices(), self._events, self._clock)
                nursery.start_soon(keep_trying, self._keepers)
                nursery.start_soon(self._policies.watch)
                nursery.start_soon(self._monitor.run)
                nursery.start_soon(self._required_audit.watch, self._monitor.refuse)
                nursery.start_soon(self._registrations.raise_when_refused)
                nursery.start_soon(self._relays.run)
                await self._registrations.wait_settled()
                self._registrations.publish_missing()
                task_status.started(tuple(one.string for one in self._published.values() if not one.is_refused))
                await wait_stop(stop)
                await self._drain(grace)
                nursery.cancel_scope.cancel()

    def _keepers(self) -> list[StringKeeper]:
        return [one.changes.keeper for one in self._published.values() if one.changes is not None]

    def _credentials(self) -> list[Credential]:
        """Return what expires in the connection strings."""
        return [credential for one in self._published.values() for credential in one.credentials]

    def _registration_changed(self) -> None:
        """Note that a hybrid connection was registered, refused or lost at one of the relays."""
        self._keys.use_changed()
        self._registrations.changed()

    async def _drain(self, grace: float) -> None:
        """Accept no new streams, and let open ones finish for up to `grace` seconds."""
        self._relays.stop()
        await self._sessions.drain(grace)

    def _data_channel_lost(self, link: RelayLink) -> None:
        self._relays.check_channels(link)

    def _policy_changed(self) -> None:
        """Put the policy into force after it was read again."""
        self._sessions.set_policy(self._policies.policy)
        self._required_audit.policy_changed()
        if self._publishing.is_running:
            self._publishing.apply_policy()
            self._registration_changed()

    def _time_passed(self) -> None:
        """End what is no longer allowed if allowed hours have begun or ended.

        With many rules, it would take too long to decide about every stream each second.
        """
        within_hours = self._policies.policy.within_hours(self._sessions.streams.local_time())
        if within_hours != self._within_hours:
            self._within_hours = within_hours
            self._sessions.enforce()

    async def _dial_for_check(self, target: StreamTarget) -> trio.SocketStream | socket.socket:
        of_target = (one for one in self._published.values() if target in watched_targets(one.target))
        in_parallel = any(one.connects_in_parallel for one in of_target)
        if isinstance(target, NamedInstance):
            instances = self._sessions.streams.named_instances
            return await instances.open(target, permit=self._policies.permit_check, in_parallel=in_parallel)
        permit = partial(self._policies.permit_check, target)
        if isinstance(target, HostPort) and target.protocols.has_datagrams:
            return await open_datagram_target(target, permit=permit)
        return await open_target(target, permit=permit, in_parallel=in_parallel)

    def _network_changed(self, what: str) -> None:
        self._events.publish(NetworkChanged(detail=what))
        self._relays.network_changed()
        self._sessions.check_alive()


async def run_connector(
    config: ConnectorConfig,
    *,
    transports: Mapping[str, Transport] | None = None,
    events: EventStream | None = None,
    stop: trio.Event | None = None,
    grace: float = 0.0,
    task_status: trio.TaskStatus[tuple[ConnectionString, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve hybrid connections until cancelled or stopped. Each is registered at every relay in its connection
    string.

    `task_status.started` is called when each hybrid connection is registered at one relay or more. Its argument is
    the connection strings that are served: a string that every relay refuses is left out, if there are others. A
    relay that cannot be reached, now or later, is retried indefinitely, and does not affect the other relays.

    If cancelled, all sessions end immediately, and their streams are reset.

    Args:
        config: see `ConnectorConfig`.
        transports: by name; None means those that are installed.
        events: the stream to which events are published; None means one that writes them to the log.
        stop: setting it stops gracefully: no new streams are accepted.
        grace: how long open streams may continue after `stop` (seconds).
        task_status: for `nursery.start`.

    Raises:
        DeniedByPolicy: the policy of the machine does not allow any of the hybrid connections.
        ConfigurationError: a string cannot be used, the policy cannot be read, or the environment names an unusable
            proxy.
        AuthorizationError: every relay refuses every string, at the start or later: keys are wrong or were revoked,
            hybrid connections are unknown or were deleted.
        RelayIdentityError: at the start, what answers is not the relay, and there is no other relay to try.
    """
    connector = Connector(config, transports=transports, events=events)
    await connector.run(stop=stop, grace=grace, task_status=task_status)
