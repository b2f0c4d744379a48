"""The connector: registers as listener at the relay, and opens the target for who proves to be the application."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from .._log_limit import LimitedLogger, report_left_out
from .._nursery import FlatNursery, wait_stop
from ..abc import Dial, Transport
from ..connectivity.discovery import AUTO
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.link import CLIMB_FIRST_SECONDS, RelayLink, new_instance, usable_links
from ..connectivity.network import watch_jumps
from ..connectivity.refusals import all_failed
from ..errors import ConfigurationError, HybridRelayError
from ..mux import DATA_CONFIG
from ..protocol import control
from ..security import ConnectionString, expires_soon
from .channels import DataChannels
from .instance_file import InstanceFile
from .policy import Policy, PolicyFile
from .published import Published
from .registrar import Registrar

logger = LimitedLogger("hybridrelay.connector")


class Connector:
    """Publishes hybrid connections until cancelled. Use `run_connector`.

    A `Registrar` keeps what is published registered at one relay; `DataChannels` has what comes of that, through
    whichever relay.
    """

    def __init__(
        self,
        strings: Sequence[ConnectionString],
        *,
        mode: str = AUTO,
        policy: Policy | None = None,
        policy_file: PolicyFile | None = None,
        dial: Dial | None = None,
        transports: Mapping[str, Transport] | None = None,
        resume_deadline: float = DATA_CONFIG.resume_deadline,
        climb_seconds: float = CLIMB_FIRST_SECONDS,
        instance_file: InstanceFile | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not strings:
            raise ConfigurationError("a connector needs at least one connection string")
        policy = policy_file.policy if policy_file else policy or Policy()
        config = attrs.evolve(DATA_CONFIG, resume_deadline=resume_deadline)
        self._channels = DataChannels(policy, config, lost=self._data_channel_lost)
        self._policy_file = policy_file
        instance = instance_file.instance if instance_file else new_instance()
        #: Earlier instances of this connector that are dead.
        replaces = (instance_file.previous,) if instance_file and instance_file.previous else ()
        self._registrars: dict[RelayLink, Registrar] = {}
        #: Each is registered somewhere, or of no use anywhere.
        self._settled = trio.Event()
        #: All are of no use anywhere.
        self._over = trio.Event()

        links: dict[tuple[object, ...], RelayLink] = {}

        def link_to(endpoint: RelayEndpoint) -> RelayLink:
            """Strings of one relay share its link."""
            key = (endpoint.host, frozenset(endpoint.ports.items()), endpoint.pins)
            if key not in links:
                links[key] = RelayLink(
                    endpoint,
                    control.Role.CONNECTOR,
                    instance=instance,
                    mode=mode,
                    dial=dial,
                    transports=transports,
                    climb_seconds=climb_seconds,
                )
                self._registrars[links[key]] = Registrar(
                    links[key], self._channels, replaces=replaces, clock=clock, changed=self._changed
                )
            return links[key]

        self._published = [Published(string) for string in strings]
        names: set[tuple[str, str]] = set()
        for published in self._published:
            identity, _ = published.string.require_identity()
            if expires_soon(identity, now=clock()):
                logger.warning("%s: this connector's identity expires soon: issue a new one", published.name)
            for link in usable_links(RelayEndpoint.all_from(published.string), link_to):
                if (link.host, published.name) in names:
                    raise ConfigurationError(f"two connection strings are for {published.name} at {link.host}")
                names.add((link.host, published.name))
                self._registrars[link].publish(published)

    async def run(
        self,
        *,
        stop: trio.Event | None = None,
        grace: float = 0.0,
        task_status: trio.TaskStatus[tuple[ConnectionString, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `run_connector`."""
        async with FlatNursery() as nursery:
            nursery.start_soon(report_left_out)
            nursery.start_soon(watch_jumps, self._jumped)
            if self._policy_file is not None:
                nursery.start_soon(self._policy_file.watch, self._channels.set_policy, self._policy_failed)
            nursery.start_soon(self._end_when_over)
            for registrar in self._registrars.values():
                nursery.start_soon(registrar.run, nursery)
            await self._settled.wait()
            self._tell_missing()
            task_status.started(tuple(one.string for one in self._published if not one.is_refused))
            await wait_stop(stop)
            await self._drain(grace)
            nursery.cancel_scope.cancel()

    def _changed(self) -> None:
        """Some registration has come or gone."""
        if all(published.is_refused for published in self._published):
            doubtful = [one for published in self._published for one in published.registrations if one.is_doubtful]
            if not doubtful:
                self._over.set()
            elif all(one.asks_again_in for one in doubtful):  # none of them is being asked already
                for registrar in self._registrars.values():
                    registrar.doubt_refusals()
        elif all(published.is_registered or published.is_refused for published in self._published):
            self._settled.set()

    async def _end_when_over(self) -> None:
        """One string, or one relay, ends nobody else; with the last one, the connector ends.

        Raises:
            HybridRelayError: no relay has any use for any of the strings.
        """
        await self._over.wait()
        raise _why_refused(self._published[0])

    def _tell_missing(self) -> None:
        """Say what runs without some of its relays, or not at all."""
        for published in self._published:
            if published.is_refused:
                logger.error("%s is not published: %s", published.name, _why_refused(published))
                continue
            for one in published.registrations:
                if not one.is_registered:
                    level = logging.WARNING if one.failure else logging.INFO
                    why = one.failure or "it has not answered"
                    logger.log(level, "%s: not registered yet at %s: %s", published.name, one.link.host, why)

    async def _drain(self, grace: float) -> None:
        """Take no new work, and let open streams finish for up to `grace` seconds."""
        for registrar in self._registrars.values():
            registrar.stop()
        await self._channels.drain(grace)

    def _data_channel_lost(self, link: RelayLink) -> None:
        self._registrars[link].doubt()

    @staticmethod
    def _policy_failed(error: ConfigurationError) -> None:
        logger.error("%s; the last policy stays in force", error)

    def _jumped(self, what: str) -> None:
        logger.info("%s: asking everybody whether they are there", what)
        for registrar in self._registrars.values():
            registrar.jumped()
        self._channels.doubt()


def _why_refused(published: Published) -> HybridRelayError:
    return all_failed({one.link.host: one.failure for one in published.registrations if one.failure is not None})


async def run_connector(
    strings: Sequence[ConnectionString],
    *,
    mode: str = AUTO,
    policy: Policy | None = None,
    policy_file: PolicyFile | None = None,
    dial: Dial | None = None,
    transports: Mapping[str, Transport] | None = None,
    resume_deadline: float = DATA_CONFIG.resume_deadline,
    climb_seconds: float = CLIMB_FIRST_SECONDS,
    instance_file: InstanceFile | None = None,
    stop: trio.Event | None = None,
    grace: float = 0.0,
    task_status: trio.TaskStatus[tuple[ConnectionString, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Publish hybrid connections, each at every relay of its connection string, until cancelled or told to stop.

    Started when each of them is registered at one relay at least, with the strings that are served: those which every
    relay refuses are left out, as long as there are others. A relay that cannot be reached, now or later, is tried
    again for ever, and touches nothing that goes through another.

    Args:
        strings: connectors' connection strings; those of one relay share a control channel.
        mode: ``auto``, or the name of the only transport allowed.
        policy: who is shut out. `policy_file` is the same in a file that is watched.
        dial: opens TCP connections to the relay; None means through the proxy that the environment names
            (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), if any.
        transports: by name; None means those that are installed.
        resume_deadline: how long a session that lost its channel may take to resume before its streams are reset
            (seconds).
        climb_seconds: while a fallback is in use, how soon a better route is looked for; later looks grow rarer.
        instance_file: remembers which instance this connector was before, so that clients of a connector that was
            killed hear of it as soon as it is back.
        stop: set it for a graceful end: no new streams, and open ones have up to `grace` seconds to finish.

    Raises:
        ConfigurationError: a string cannot be used, or the environment names an impossible proxy.
        AuthorizationError: no relay has any more use for any of the strings, at the start or later: keys are wrong or
            were revoked, hybrid connections are unknown or were deleted.
        RelayIdentityError: whoever answers at the start is not the relay, and no other relay is left to try.
    """
    connector = Connector(
        strings,
        mode=mode,
        policy=policy,
        policy_file=policy_file,
        dial=dial,
        transports=transports,
        resume_deadline=resume_deadline,
        climb_seconds=climb_seconds,
        instance_file=instance_file,
    )
    await connector.run(stop=stop, grace=grace, task_status=task_status)
