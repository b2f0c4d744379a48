"""The connector: registers as listener at the relay, and opens the target for who proves to be the application."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs
import trio

from .._nursery import FlatNursery, wait_stop
from ..abc import Dial, Transport
from ..connectivity.backoff import Backoff
from ..connectivity.control import ControlChannel
from ..connectivity.data import EndToEnd, open_data_channel
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
from ..errors import ConfigurationError, HybridRelayError, RelayUnreachable, SessionError
from ..mux import (
    DATA_CONFIG,
    GREETING_TIMEOUT,
    Budget,
    MuxStream,
    Offer,
    Role,
    Session,
    bridge,
    receive_hello,
    refuse_session,
)
from ..protocol import control
from ..protocol.frames import Hello
from ..protocol.reasons import Reason
from ..security import ConnectionString, PeerIdentity, expires_soon
from ..streams.sockets import abort_stream
from .audit import AuditLog
from .policy import Policy, PolicyFile
from .targets import TargetError, open_target

logger = logging.getLogger("hybridrelay.connector")

#: Data channels whose other end has not proved its identity, per hybrid connection. Defends memory and the machine
#: against a relay (or whoever has a Send key) that calls for channels without end; a real client needs one.
MAX_UNPROVEN_CHANNELS = 16
#: Sessions of one identity. Several processes may share a connection string; defends tasks and target connections.
MAX_SESSIONS_PER_IDENTITY = 256
#: Memory that all data channels together may promise to their peers (bytes).
PROCESS_BUDGET = 1 << 30
#: The longest wait between two tries to come back while a session waits for it (seconds).
_RESUME_BACKOFF = 2.0
#: Between two sessions that are moved to a better route: all at once would be a storm (seconds).
_MOVE_SPACING_SECONDS = 0.1
#: Registrations are renewed after this part of the time that the relay grants.
RENEW_AFTER = 0.7


class _Published:
    """One hybrid connection as this connector publishes it."""

    def __init__(self, string: ConnectionString) -> None:
        self.string = string
        self.name = string.entity_path
        self.target = string.require_target()
        self.end_to_end = EndToEnd.from_connection_string(string)
        self.unproven = 0
        #: The relay at which it is published.
        self.link: RelayLink | None = None
        #: The relay said that this string is of no use any more.
        self.refused: HybridRelayError | None = None


class Connector:
    """Publishes hybrid connections until cancelled. Use `run_connector`.

    Data channels live in a nursery of their own: what happens to a control channel does not touch them.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not strings:
            raise ConfigurationError("a connector needs at least one connection string")
        self.policy = policy_file.policy if policy_file else policy or Policy()
        self._policy_file = policy_file
        self._clock = clock
        self._budget = Budget(PROCESS_BUDGET)
        self._config = attrs.evolve(DATA_CONFIG, resume_deadline=resume_deadline)
        self._audit = AuditLog()
        self._stopping = False
        self._given_up: set[RelayLink] = set()
        self._controls: set[ControlChannel] = set()
        self._sessions: dict[Session, tuple[PeerIdentity, _Published]] = {}
        self._resumable: dict[bytes, Session] = {}
        #: The route of each session's data channel, which need not be the one that would be chosen now.
        self._carriers: dict[Session, Candidate] = {}
        groups: dict[tuple[object, ...], list[_Published]] = defaultdict(list)
        endpoints: dict[tuple[object, ...], RelayEndpoint] = {}
        names: set[tuple[str, str]] = set()
        for string in strings:
            if (string.host, string.entity_path) in names:
                raise ConfigurationError(f"two connection strings are for {string.entity_path} at {string.host}")
            names.add((string.host, string.entity_path))
            endpoint = RelayEndpoint.from_connection_string(string)
            key = (endpoint.host, frozenset(endpoint.ports.items()), endpoint.pins)
            endpoints[key] = endpoint
            groups[key].append(_Published(string))
            identity, _ = string.require_identity()
            if expires_soon(identity, now=clock()):
                logger.warning("%s: this connector's identity expires soon: issue a new one", string.entity_path)
        instance = new_instance()
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
                nursery.start_soon(self._policy_file.watch, self.set_policy, self._policy_failed)
            async with trio.open_nursery() as starting:
                for link, group in self._links:
                    starting.start_soon(nursery.start, self._serve_link, link, group, nursery)
            task_status.started()
            await wait_stop(stop)
            await self._drain(grace)
            nursery.cancel_scope.cancel()

    async def _drain(self, grace: float) -> None:
        """Take no new work, and let open streams finish for up to `grace` seconds."""
        logger.info("finishing %d sessions", len(self._sessions))
        async with trio.open_nursery() as nursery:
            for channel in self._controls:
                channel.close()  # the relay offers nothing more to us
            self._stopping = True
            for session in self._sessions:
                nursery.start_soon(partial(session.aclose, grace=grace, reason=Reason.GOING_AWAY))

    def set_policy(self, policy: Policy) -> None:
        """Put a policy into force: sessions of identities that it shuts out end at once."""
        self.policy = policy
        for session, (peer, _) in list(self._sessions.items()):
            if reason := policy.refusal(peer):
                logger.warning("closing the session of %s (%s): %s", peer.label, peer.serial, reason.describe)
                session.close(reason)

    @staticmethod
    def _policy_failed(error: ConfigurationError) -> None:
        logger.error("%s; the last policy stays in force", error)

    def _jumped(self, what: str) -> None:
        logger.info("%s: asking everybody whether they are there", what)
        for link, _ in self._links:
            link.forget(network_changed=True)
        for channel in self._controls:
            channel.doubt()
        for session in self._sessions:
            session.doubt_channel()

    # --- the control channel

    async def _serve_link(
        self,
        link: RelayLink,
        group: list[_Published],
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
            carriers = [self._carriers[session] for session in self._sessions_of(link) if session.is_open]
            if carrier is not None:
                carriers.append(carrier)
            return max(carriers, key=lambda candidate: candidate.route.rank, default=None)

        async def move_up(better: Candidate) -> None:
            nonlocal climbed
            logger.info("%s works now at %s, moving up", better.route.name, link.endpoint.host)
            if carrier is not None and carrier.route.rank <= better.route.rank:
                await self._move_sessions(link, better)
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
                        nursery.start_soon(self._move_sessions, link, carrier)
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
            waiting = any(not session.is_open for session in self._sessions_of(link))
            wait = backoff.next_wait(at_least=retry_after, at_most=_RESUME_BACKOFF if waiting else None)
            logger.info("trying %s again in %.1f s", link.endpoint.host, wait)
            await trio.sleep(wait)

    def _give_up(self, link: RelayLink, group: list[_Published]) -> None:
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

    def _sessions_of(self, link: RelayLink) -> list[Session]:
        return [session for session, (_, published) in self._sessions.items() if published.link is link]

    async def _move_sessions(self, link: RelayLink, better: Candidate) -> None:
        """Let the sessions follow to a better route: each resumes over a new data channel, one after the other."""
        for session in self._sessions_of(link):
            carrier = self._carriers.get(session)
            if session.is_open and carrier is not None and carrier.route.rank > better.route.rank:
                session.drop_channel()
                await trio.sleep(_MOVE_SPACING_SECONDS)

    async def _register_all(self, channel: ControlChannel, group: list[_Published], *, first: bool) -> float:
        """Register everything; the time until which all registrations hold, in seconds since 1970.

        Raises:
            HybridRelayError: a registration failed, and it may succeed later, or it is the first time.
        """
        until = self._clock() + 3600.0
        for published in group:
            if published.refused:
                continue
            token = make_connection_token(published.string, self._clock())
            answer = await channel.request(control.Register(channel.next_id(), published.name, token))
            if isinstance(answer, control.Registered):
                until = min(until, answer.expires_at)
            elif isinstance(answer, control.Failed):
                error = failure_error(published.name, answer)
                if first or not error.reason.is_permanent:
                    raise error
                logger.error("%s%s", error, f"; {error.remedy}" if error.remedy else "")
                published.refused = error
        return until

    async def _renew(self, channel: ControlChannel, group: list[_Published]) -> None:
        while True:
            until = await self._register_all(channel, group, first=False)
            await trio.sleep(max(1.0, (until - self._clock()) * RENEW_AFTER))

    async def _serve_messages(
        self, channel: ControlChannel, group: list[_Published], link: RelayLink, channels: trio.Nursery
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
                        channels.start_soon(self._serve_rendezvous, published, link, channel, message)
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

    # --- data channels

    async def _serve_rendezvous(
        self, published: _Published, link: RelayLink, control_channel: ControlChannel, offer: control.Offer
    ) -> None:
        """One data channel, from its ticket to its end. Every failure ends in a log line and nowhere else."""
        proven = False
        try:
            candidate = await link.choose()
            tls, peer = await open_data_channel(
                link.endpoint, candidate, offer.ticket, published.end_to_end, dial=link.dial
            )
            if reason := self.policy.refusal(peer):
                logger.warning("%s: refused %s (%s): %s", published.name, peer.label, peer.serial, reason.describe)
                await refuse_session(tls, reason)
                return
            published.unproven -= 1
            proven = True
            await self._serve_session(published, tls, peer, candidate)
        except HybridRelayError as exc:
            hint = f"; {exc.remedy}" if exc.remedy else ""
            logger.warning("%s: data channel failed: %s%s", published.name, exc, hint)
            if isinstance(exc, RelayUnreachable):
                # The client need not wait for us. Where the control channel is gone too, the relay knows already.
                link.forget()
                with contextlib.suppress(RelayUnreachable):
                    await control_channel.send(control.Failed(offer.id, Reason.LISTENER_CANNOT_DIAL))
        except Exception:
            # A bug of ours. It must not end the connector for everybody else, and must not go unseen.
            logger.exception("%s: a data channel failed unexpectedly", published.name)
        finally:
            if not proven:
                published.unproven -= 1

    async def _serve_session(
        self, published: _Published, channel: trio.abc.Stream, peer: PeerIdentity, carrier: Candidate
    ) -> None:
        """A proven data channel: the first of a new session, or the next one of a session that we have."""
        try:
            with trio.fail_after(GREETING_TIMEOUT):
                hello, initial = await receive_hello(channel)
        except BaseException as exc:
            await trio.aclose_forcefully(channel)
            if isinstance(exc, SessionError | trio.TooSlowError):
                raise published.end_to_end.explain(exc) from exc
            raise
        if refusal := self._refusal(published, peer, hello):
            logger.warning("%s: refused %s (%s): %s", published.name, peer.label, peer.serial, refusal.describe)
            await refuse_session(channel, refusal)
        elif hello.attach:
            await self._attach(published, channel, peer, hello, initial, carrier)
        else:
            await self._run_session(published, channel, peer, hello.session_id, initial, carrier)

    def _refusal(self, published: _Published, peer: PeerIdentity, hello: Hello) -> Reason | None:
        """The policy once more, which may have changed while HELLO was on its way, and a limit."""
        if reason := self.policy.refusal(peer):
            return reason
        held = sum(1 for session in self._sessions if self._is_the_same(session, published, peer))
        return Reason.LIMIT if held >= MAX_SESSIONS_PER_IDENTITY and not hello.attach else None

    async def _attach(
        self,
        published: _Published,
        channel: trio.abc.Stream,
        peer: PeerIdentity,
        hello: Hello,
        initial: bytes,
        carrier: Candidate,
    ) -> None:
        session = self._resumable.get(hello.session_id)
        if session is None or not self._is_the_same(session, published, peer):
            refusal: Reason | None = Reason.SESSION_UNKNOWN
        else:
            refusal = session.attach_refusal(hello)
        if session is None or refusal is not None:
            refusal = refusal or Reason.SESSION_UNKNOWN
            logger.warning("%s: %s cannot resume: %s", published.name, peer.label, refusal.describe)
            await refuse_session(channel, refusal)
        else:
            logger.info("%s: session of %s resumed over %s", published.name, peer.label, carrier.route.name)
            self._carriers[session] = carrier
            await session.replace_channel(channel, initial)

    def _is_the_same(self, session: Session, published: _Published, peer: PeerIdentity) -> bool:
        # Serials say something only under the same authority.
        first, where = self._sessions[session]
        return where is published and first.serial == peer.serial

    async def _run_session(
        self,
        published: _Published,
        channel: trio.abc.Stream,
        peer: PeerIdentity,
        session_id: bytes,
        initial: bytes,
        carrier: Candidate,
    ) -> None:
        if session_id in self._resumable:
            await refuse_session(channel, Reason.PROTOCOL_ERROR)
            return
        session = Session(Role.ACCEPTOR, config=self._config, budget=self._budget)
        self._sessions[session] = (peer, published)
        self._resumable[session_id] = session
        self._carriers[session] = carrier
        try:
            async with FlatNursery() as nursery:
                await nursery.start(partial(session.run, channel, initial=initial))
                route = carrier.route.name
                logger.info("%s: session of %s (%s) opened over %s", published.name, peer.label, peer.serial, route)
                async for offer in session.offers:
                    nursery.start_soon(self._serve_stream, published, peer, offer)
            outcome = await session.wait_ended()
            logger.info("%s: session of %s ended: %s", published.name, peer.label, outcome.reason.describe)
        finally:
            del self._sessions[session]
            del self._carriers[session]
            del self._resumable[session_id]

    async def _serve_stream(self, published: _Published, peer: PeerIdentity, offer: Offer) -> None:
        """One stream. Nothing that happens to it reaches any other."""
        try:
            await self._serve_stream_audited(published, peer, offer)
        except Exception:
            # As for data channels.
            logger.exception("%s: a stream failed unexpectedly", published.name)
            offer.refuse(Reason.INTERNAL_ERROR)

    async def _serve_stream_audited(self, published: _Published, peer: PeerIdentity, offer: Offer) -> None:
        """Policy, target, bytes; exactly one line in the audit log."""
        entry = self._audit.begin(published.name, peer, published.target)
        if reason := self.policy.refusal(peer):
            offer.refuse(reason)
            entry.refused(reason)
            return
        opened: list[trio.SocketStream] = []
        try:
            # Dialing is given up when the opener gives up: nobody waits for the answer any more.
            async with FlatNursery() as nursery:

                async def watch() -> None:
                    await offer.wait_withdrawn()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                opened.append(await open_target(published.target))
                nursery.cancel_scope.cancel()
        except TargetError as exc:
            offer.refuse(exc.reason, str(exc))
            entry.refused(exc.reason, detail=str(exc.__cause__ or exc))
            return
        except BaseException as exc:
            for target in opened:
                await abort_stream(target)
            # Going away says that nobody looked at the stream, and that another session may open it.
            reason = Reason.GOING_AWAY if isinstance(exc, trio.Cancelled) else Reason.INTERNAL_ERROR
            offer.refuse(reason)
            entry.refused(reason)
            raise
        if not opened:
            entry.refused(Reason.CANCELLED)
            return
        await self._join(offer.accept(), opened[0], entry.finished)

    @staticmethod
    async def _join(
        stream: MuxStream, target: trio.SocketStream, finished: Callable[[int, int, Reason], None]
    ) -> None:
        try:
            result = await bridge(stream, target)
        except BaseException:
            finished(0, 0, Reason.GOING_AWAY)
            raise
        finished(result.sent, result.received, result.reason)


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
    )
    await connector.run(stop=stop, grace=grace, task_status=task_status)
