"""The connector: registers as listener at the relay, and opens the target for who proves to be the application."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from .._nursery import FlatNursery, wait_stop
from ..abc import Dial, Transport
from ..connectivity.backoff import Backoff
from ..connectivity.control import ControlChannel
from ..connectivity.discovery import AUTO, Candidate
from ..connectivity.endpoint import RelayEndpoint
from ..connectivity.link import (
    CLIMB_FIRST_SECONDS,
    RelayLink,
    failure_error,
    is_hopeless,
    make_connection_token,
    new_instance,
)
from ..connectivity.network import watch_jumps
from ..errors import ConfigurationError, HybridRelayError
from ..mux import DATA_CONFIG
from ..protocol import control
from ..protocol.reasons import Reason
from ..security import ConnectionString, expires_soon
from .channels import DataChannels, Published
from .instance_file import InstanceFile
from .policy import Policy, PolicyFile

logger = logging.getLogger("hybridrelay.connector")

#: The longest wait between two tries to come back while a session waits for it (seconds).
_RESUME_BACKOFF = 2.0
#: Data channels whose other end has not proved its identity, per hybrid connection. Defends memory and the machine
#: against a relay (or whoever has a Send key) that calls for channels without end; a real client needs one.
MAX_UNPROVEN_CHANNELS = 16
#: Registrations are renewed after this part of the time that the relay grants.
RENEW_AFTER = 0.7


class Connector:
    """Publishes hybrid connections until cancelled. Use `run_connector`.

    This class keeps the control channels; `DataChannels` has what comes of them.
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
        self._channels = DataChannels(policy, attrs.evolve(DATA_CONFIG, resume_deadline=resume_deadline))
        self._policy_file = policy_file
        self._clock = clock
        self._stopping = False
        self._given_up: set[RelayLink] = set()
        self._controls: set[ControlChannel] = set()
        groups: dict[tuple[object, ...], list[Published]] = defaultdict(list)
        endpoints: dict[tuple[object, ...], RelayEndpoint] = {}
        names: set[tuple[str, str]] = set()
        for string in strings:
            if (string.host, string.entity_path) in names:
                raise ConfigurationError(f"two connection strings are for {string.entity_path} at {string.host}")
            names.add((string.host, string.entity_path))
            endpoint = RelayEndpoint.from_connection_string(string)
            key = (endpoint.host, frozenset(endpoint.ports.items()), endpoint.pins)
            endpoints[key] = endpoint
            groups[key].append(Published(string))
            identity, _ = string.require_identity()
            if expires_soon(identity, now=clock()):
                logger.warning("%s: this connector's identity expires soon: issue a new one", string.entity_path)
        instance = instance_file.instance if instance_file else new_instance()
        #: Earlier instances of this connector that are dead.
        self._replaces = (instance_file.previous,) if instance_file and instance_file.previous else ()
        self._links = [
            (
                RelayLink(
                    endpoints[key],
                    control.Role.CONNECTOR,
                    instance=instance,
                    mode=mode,
                    dial=dial,
                    transports=transports,
                    climb_seconds=climb_seconds,
                ),
                group,
            )
            for key, group in groups.items()
        ]
        for link, group in self._links:
            for published in group:
                published.link = link

    async def run(
        self,
        *,
        stop: trio.Event | None = None,
        grace: float = 0.0,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `run_connector`."""
        async with FlatNursery() as nursery:
            nursery.start_soon(watch_jumps, self._jumped)
            if self._policy_file is not None:
                nursery.start_soon(self._policy_file.watch, self._channels.set_policy, self._policy_failed)
            async with trio.open_nursery() as starting:
                for link, group in self._links:
                    starting.start_soon(nursery.start, self._serve_link, link, group, nursery)
            task_status.started()
            await wait_stop(stop)
            await self._drain(grace)
            nursery.cancel_scope.cancel()

    async def _drain(self, grace: float) -> None:
        """Take no new work, and let open streams finish for up to `grace` seconds."""
        self._stopping = True
        for channel in self._controls:
            channel.close()  # the relay offers nothing more to us
        await self._channels.drain(grace)

    @staticmethod
    def _policy_failed(error: ConfigurationError) -> None:
        logger.error("%s; the last policy stays in force", error)

    def _jumped(self, what: str) -> None:
        logger.info("%s: asking everybody whether they are there", what)
        for link, _ in self._links:
            link.forget(network_changed=True)
        for channel in self._controls:
            channel.doubt()
        self._channels.doubt()

    # --- the control channel

    async def _serve_link(
        self,
        link: RelayLink,
        group: list[Published],
        channels: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Keep a control channel for ever. Permanent refusals end it before it has ever worked, and nothing later."""
        backoff = Backoff()
        worked = climbed = False
        #: The route of the control channel.
        carrier: Candidate | None = None

        def in_use() -> Candidate | None:
            carriers = [served.carrier for served in self._channels.of(link) if served.session.is_open]
            if carrier is not None:
                carriers.append(carrier)
            return max(carriers, key=lambda candidate: candidate.route.rank, default=None)

        async def move_up(better: Candidate) -> None:
            nonlocal climbed
            logger.info("%s works now at %s, moving up", better.route.name, link.endpoint.host)
            if carrier is not None and carrier.route.rank <= better.route.rank:
                await self._channels.move(link, better)
                return
            climbed = True
            for channel in ours:
                channel.close()

        ours: set[ControlChannel] = set()
        channels.start_soon(link.climb, in_use, move_up)
        while True:
            began = trio.current_time()
            retry_after = 0.0
            try:
                async with FlatNursery() as nursery:
                    channel = await link.start_control(nursery)
                    ours = {channel}
                    await self._register_all(channel, group, first=not worked)
                    if not worked:
                        worked = True
                        task_status.started()
                    names = ", ".join(p.name for p in group if p.refused is None)
                    carrier = link.control_carrier
                    assert carrier is not None
                    logger.info("listening for %s at %s over %s", names, link.endpoint.host, carrier.route.name)
                    nursery.start_soon(self._renew, channel, group)
                    if climbed:
                        climbed = False
                        nursery.start_soon(self._channels.move, link, carrier)
                    self._controls.add(channel)
                    retry_after = await self._serve_messages(channel, group, link, channels)
                    nursery.cancel_scope.cancel()
                if self._stopping:
                    return
                if climbed:
                    continue
                logger.warning("the control channel to %s was lost", link.endpoint.host)
                if not retry_after:
                    # What was good may be what broke: a probe is cheap, and a dial into a black hole is not.
                    link.forget()
            except HybridRelayError as exc:
                if not worked and is_hopeless(exc):
                    raise
                logger.warning("%s%s", exc, f"; {exc.remedy}" if exc.remedy else "")
                link.forget()
            finally:
                carrier = None
                self._controls -= ours
            if all(published.refused for published in group):
                self._give_up(link, group)
                return
            backoff.succeeded(held_seconds=trio.current_time() - began)
            waiting = any(not served.session.is_open for served in self._channels.of(link))
            wait = backoff.next_wait(at_least=retry_after, at_most=_RESUME_BACKOFF if waiting else None)
            logger.info("trying %s again in %.1f s", link.endpoint.host, wait)
            await trio.sleep(wait)

    def _give_up(self, link: RelayLink, group: list[Published]) -> None:
        """One relay refuses all that we have for it. The others are served on; with the last one, the connector ends.

        Raises:
            HybridRelayError: it was the last one.
        """
        self._given_up.add(link)
        if len(self._given_up) == len(self._links):
            error = group[0].refused
            assert error is not None
            raise error
        logger.error("giving up %s: it refuses every connection string that we have for it", link.endpoint.host)

    async def _register_all(self, channel: ControlChannel, group: list[Published], *, first: bool) -> float:
        """Register everything; the time until which all registrations hold, in seconds since 1970.

        Raises:
            HybridRelayError: a registration failed, and it may succeed later, or it is the first time.
        """
        until = self._clock() + 3600.0
        for published in group:
            if published.refused:
                continue
            token = make_connection_token(published.string, self._clock())
            answer = await channel.request(control.Register(channel.next_id(), published.name, token, self._replaces))
            if isinstance(answer, control.Registered):
                until = min(until, answer.expires_at)
            elif isinstance(answer, control.Failed):
                error = failure_error(published.name, answer)
                if first or not error.reason.is_permanent:
                    raise error
                logger.error("%s%s", error, f"; {error.remedy}" if error.remedy else "")
                published.refused = error
        return until

    async def _renew(self, channel: ControlChannel, group: list[Published]) -> None:
        while True:
            until = await self._register_all(channel, group, first=False)
            await trio.sleep(max(1.0, (until - self._clock()) * RENEW_AFTER))

    async def _serve_messages(
        self, channel: ControlChannel, group: list[Published], link: RelayLink, channels: trio.Nursery
    ) -> float:
        """Answer the relay until the channel ends; when to come back (seconds), where the relay said so."""
        by_name = {published.name: published for published in group}
        retry_after = 0.0
        async for message in channel.messages:
            match message:
                case control.Offer(id=id_, connection=name):
                    published = by_name.get(name)
                    if published is None or published.refused:
                        await channel.send(control.Failed(id_, Reason.UNKNOWN_CONNECTION))
                    elif published.unproven >= MAX_UNPROVEN_CHANNELS:
                        await channel.send(control.Failed(id_, Reason.LIMIT))
                    else:
                        published.unproven += 1
                        channels.start_soon(self._channels.serve, published, link, channel, message)
                        await channel.send(control.Accept(id_))
                case control.Ended(connection=name, reason=reason):
                    if published := by_name.get(name):
                        error = failure_error(name, control.Failed(0, reason))
                        logger.error("the relay ended the registration: %s", error)
                        published.refused = error if reason.is_permanent else None
                        if all(p.refused for p in group):
                            return 0.0
                case control.Draining(retry_after_seconds=seconds):
                    logger.info("the relay at %s is about to restart", link.endpoint.host)
                    retry_after = float(seconds)
                case _:
                    pass
        return retry_after


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
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Publish hybrid connections until cancelled or told to stop; started when all of them are registered.

    A relay that cannot be reached, now or later, is tried again for ever.

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
        AuthorizationError: the relay refuses a string for good, at the start or when its key is revoked.
        RelayIdentityError: whoever answers at the start is not the relay.
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
