"""The sessions of a connector, through all relays, and their streams."""

# This module is long because what describes a data channel and a session, and the class that holds all of them, are
# documented here, too.

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from functools import partial
from typing import NoReturn
from weakref import WeakValueDictionary

import attrs
import trio

from .._confirmed_time import ConfirmedTime
from .._nursery import FlatNursery
from ..connectivity.activity import session_activity_id
from ..connectivity.counters import EndpointCounters
from ..connectivity.discovery import Candidate
from ..connectivity.link import RelayLink
from ..events.endpoint import SessionEnded, SessionOpened, SessionRefused, SessionResumed
from ..events.policy import PolicyRefused
from ..events.program import ProgramStopping
from ..events.stream import EventStream
from ..mux import Account, Budget, Feature, Kind, Session, SessionConfig, SessionRole, open_bridges, refuse_session
from ..policy import Action, Policy
from ..protocol.frames import Hello
from ..protocol.reasons import Reason
from ..security import PeerIdentity, Role, Secret
from ..streams.turns import PeerTurns
from .issuing import Issuing, UsedClaimsFile
from .published import Published
from .serving import StreamService
from .shares import Shares
from .stream_events import Origin
from .targets import TargetAttempted, ignore_attempt

__all__ = ["OpeningChannel", "ProvenChannel", "Served", "Sessions"]

#: How many sessions one identity may have. Several processes may share a connection string, and each needs a session.
#: The limit bounds the number of tasks.
MAX_SESSIONS_PER_IDENTITY = 256
#: The same for a claim certificate, which is used by one process for one request. A session of an earlier attempt may
#: not have ended.
MAX_SESSIONS_PER_CLAIM = 4
#: The memory budget: the bytes that all sessions together may use for receive windows, and for data that is being
#: sent.
PROCESS_BUDGET = 1 << 30
#: The pause between two sessions that are moved, so that they do not all resume at the same moment (seconds).
_MOVE_SPACING_SECONDS = 0.1
#: How often to check whether the identities of sessions have expired (seconds).
_EXPIRY_SECONDS = 5.0
#: How much longer a data channel may take to open if it depends on an earlier key (seconds).
_EARLIER_KEY_SECONDS = 5.0


@attrs.define(eq=False)
class Served:
    """One session that has not ended."""

    session: Session
    published: Published
    #: The identity that was proved on its data channel.
    peer: PeerIdentity
    #: The relay through which its data channel goes. The client may move the session to another relay.
    link: RelayLink
    #: The route of its data channel, which need not be the one that would be chosen now.
    candidate: Candidate
    #: The key with which the connector was registered when the relay offered the data channel; if the key is revoked,
    #: the relay closes the channel.
    key: Secret | None = None
    #: The id of the rendezvous of its data channel, as the relay has stated it.
    rendezvous: str = ""
    #: When it began, on Trio's clock.
    since: float = 0.0
    #: The client's address, as the relay has stated it for the current data channel.
    client_address: str = ""

    @property
    def activity_id(self) -> str:
        """The session's id in all its events, here and at the client."""
        return session_activity_id(self.session.session_id, self.peer.serial)

    @property
    def origin(self) -> Origin:
        """The origin of a stream that is opened now, for its events."""
        route = f"{self.candidate.route.name} at {self.link.host}"
        return Origin(self.published, self.peer, self.activity_id, route, self.client_address)

    @property
    def owner(self) -> tuple[Published, str]:
        """See `ProvenChannel.owner`."""
        return self.published, self.peer.owner_id

    def is_of(self, published: Published, peer: PeerIdentity) -> bool:
        """Return whether the session belongs to this identity. Serials are unique only within one authority."""
        return self.published is published and self.peer.serial == peer.serial


@attrs.frozen(eq=False)
class OpeningChannel:
    """A data channel that is being opened."""

    published: Published
    #: The key with which the connector was registered when the channel was offered.
    key: Secret | None
    #: Everything before the proof of identity runs inside this scope.
    scope: trio.CancelScope


@attrs.frozen(eq=False)
class ProvenChannel:
    """A data channel whose peer has proved its identity."""

    published: Published
    #: The channel after the end-to-end handshake.
    stream: trio.abc.Stream
    peer: PeerIdentity
    #: The relay and the route over which it goes.
    link: RelayLink
    candidate: Candidate
    #: Its entry in `Sessions.opening`, until a session uses the channel.
    opening: OpeningChannel | None = None
    #: The id of its rendezvous, as the relay has stated it.
    rendezvous: str = ""
    #: The client's address, as the relay has stated it.
    client_address: str = ""

    @property
    def route(self) -> str:
        """The route as text, for example ``tcp at relay.example.com``."""
        return f"{self.candidate.route.name} at {self.link.host}"

    @property
    def owner(self) -> tuple[Published, str]:
        """What distinguishes the program with this identity from others, for shares and limits."""
        return self.published, self.peer.owner_id

    def facts(self, activity_id: str) -> dict[str, str]:
        """Return what the events about a session on this channel say of it."""
        return {
            "connection": self.published.name,
            "activity_id": activity_id,
            "label": self.peer.label,
            "serial": self.peer.serial,
            "route": self.route,
            "client_address": self.client_address,
            "rendezvous": self.rendezvous,
        }


class Sessions:
    """All sessions of a connector. They do not depend on control channels.

    Args:
        policy: what the administrators of this machine allow.
        config: the configuration of every session.
        events: the stream to which events are published.
        lost: called when a session has lost its data channel, with the relay through which it went.
        changed: called when a data channel is no longer being opened (a session uses it, or it has failed), and when
            a session has ended.
        counters: counts what is not in any event.
        recorded, target_attempted: see `StreamService`.
        used_claims: the file in which used claims are recorded, if there is one.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        policy: Policy,
        config: SessionConfig,
        events: EventStream,
        *,
        lost: Callable[[RelayLink], None],
        changed: Callable[[], None],
        counters: EndpointCounters | None = None,
        recorded: Callable[[], Awaitable[None]] | None = None,
        target_attempted: TargetAttempted = ignore_attempt,
        used_claims: UsedClaimsFile | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lost = lost
        self._changed = changed
        self._policy = policy
        self._config = config
        self._budget = Budget(PROCESS_BUDGET)
        self._shares = Shares()
        self._events = events
        self._clock = clock
        counters = EndpointCounters() if counters is None else counters
        self.streams = StreamService(
            lambda: self._policy,
            self._shares,
            events,
            counters,
            recorded=recorded,
            target_attempted=target_attempted,
        )
        self._issuing = Issuing(used_claims, lambda: self._policy, events, recorded=recorded, clock=clock)
        #: The memory and the turns that the sessions of one identity share, while it has sessions.
        self._accounts: WeakValueDictionary[Hashable, Account] = WeakValueDictionary()
        self._turns = PeerTurns()
        #: The sessions that have not ended, by session id.
        self._served: dict[bytes, Served] = {}
        #: Data channels that are being opened, until a session uses them.
        self.opening: set[OpeningChannel] = set()

    def __iter__(self) -> Iterator[Served]:
        """Iterate over all sessions, the oldest first."""
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    def set_policy(self, policy: Policy) -> None:
        """Use another policy from now on. Sessions and streams that it denies end immediately."""
        self._policy = policy
        self.enforce()

    def enforce(self) -> None:
        """End the sessions and streams that the policy does not allow now. If it depends on the time, call this when
        time has passed."""
        for served in list(self._served.values()):
            if reason := self.denied(served.published, served.peer, activity_id=served.activity_id):
                served.session.close(reason)
        self.streams.enforce()

    async def end_expired(self) -> None:
        """End sessions whose identity has expired, until cancelled. A dishonest client would never open another
        data channel, for which it would have to prove its identity again.

        Those of identities that can be renewed go on. The program has renewed its identity, perhaps over a session
        with another connector, and its earlier streams must not break. Somebody else who has such an identity could
        renew it as well: only a deny list ends its access.
        """
        time_of_day = ConfirmedTime(self._clock(), trio.current_time())
        while True:
            await trio.sleep(_EXPIRY_SECONDS)
            time_of_day.read(self._clock(), trio.current_time())
            for served in list(self._served.values()):
                if not served.peer.is_renewable and time_of_day.has_passed(served.peer.not_after):
                    served.session.close(Reason.IDENTITY_EXPIRED)

    def denied(self, published: Published, peer: PeerIdentity, *, activity_id: str = "") -> Reason | None:
        """Return why the policy denies this identity a session, or None. Publishes an event if it does.

        Args:
            published: the hybrid connection.
            peer: the identity.
            activity_id: the id of the session, if it is open.
        """
        at = self.streams.local_time() if self._policy.depends_on_time else None
        decision = self._policy.decide(peer, Action.OPEN_SESSION, attrs.evolve(published.resource(), at=at))
        if decision.reason is not None:
            self._events.publish(
                PolicyRefused(
                    connection=published.name,
                    label=peer.label,
                    serial=peer.serial,
                    reason=decision.reason,
                    detail=decision.rule,
                    rule=decision.kind,
                    activity_id=activity_id,
                )
            )
        return decision.reason

    def of(self, link: RelayLink) -> list[Served]:
        """Return the sessions whose current or last data channel goes through one relay."""
        return [served for served in self._served.values() if served.link is link]

    def check_alive(self) -> None:
        """Immediately send a ping on every session, to find out whether its data channel still works."""
        for served in self._served.values():
            served.session.check_alive()

    async def move(self, link: RelayLink, candidate: Candidate) -> None:
        """Move sessions to a better route, one after the other: each drops its data channel and resumes over another.

        If cancelled, the remaining sessions stay on their data channels.
        """
        for served in self.of(link):
            if served.session.is_open and served.candidate.route.rank > candidate.route.rank:
                served.session.drop_channel()
                await trio.sleep(_MOVE_SPACING_SECONDS)

    async def follow_key(self, published: Published) -> bool:
        """Drop data channels that depend on an earlier key, one after the other; their sessions resume over others.

        A data channel that is being opened with an earlier key gets another `_EARLIER_KEY_SECONDS`. Its client may
        have given it up, and the relay would wait half a minute for that client.

        Returns:
            Whether nothing depends on an earlier key.
        """
        key, latest = published.string.key, trio.current_time() + _EARLIER_KEY_SECONDS
        for opening in self.opening:
            if opening.published is published and opening.key != key:
                opening.scope.deadline = min(opening.scope.deadline, latest)
        for served in list(self._served.values()):
            if served.published is published and served.key != key and served.session.is_open:
                served.session.drop_channel()
                await trio.sleep(_MOVE_SPACING_SECONDS)
        return not any(one.published is published and one.key != key for one in self._served.values()) and not any(
            one.published is published and one.key != key for one in self.opening
        )

    async def drain(self, grace: float, published: Published | None = None) -> None:
        """Let open streams finish for up to `grace` seconds, and end all sessions, or those of `published`."""
        ending = [one for one in self._served.values() if published is None or one.published is published]
        if published is None:
            self._events.publish(ProgramStopping(role="connector", open=len(ending)))
        async with trio.open_nursery() as nursery:
            for served in ending:
                nursery.start_soon(partial(served.session.aclose, grace=grace, reason=Reason.GOING_AWAY))

    def _refusal(self, published: Published, peer: PeerIdentity, hello: Hello) -> Reason | None:
        """Check the policy again, which may have changed before HELLO arrived, and the limit of sessions."""
        if reason := self.denied(published, peer):
            return reason
        if published.is_withdrawn and not hello.attach:
            return Reason.GOING_AWAY
        limit = MAX_SESSIONS_PER_CLAIM if peer.role is Role.CLAIM else MAX_SESSIONS_PER_IDENTITY
        if hello.attach or self.count_of(published, peer) < limit:
            return None
        self.publish_refusal(published, peer, Reason.LIMIT, "it has too many sessions")
        return Reason.LIMIT

    def count_of(self, published: Published, peer: PeerIdentity) -> int:
        """Return how many sessions the program with this identity has."""
        of_this = (one for one in self._served.values() if one.published is published)
        return sum(1 for served in of_this if served.peer.owner_id == peer.owner_id)

    async def take(self, channel: ProvenChannel, hello: Hello, initial: bytes) -> None:
        """Run a new session on a data channel until it ends, or give the channel to the session that `hello` names.

        If cancelled, a session that runs here ends.

        Args:
            channel: the data channel.
            hello: the first message of the client.
            initial: what was received so far, beginning with that message.
        """
        if refusal := self._refusal(channel.published, channel.peer, hello):
            await refuse_session(channel.stream, refusal)
        elif hello.attach:
            await self._attach(channel, hello, initial)
        else:
            await self._run_session(channel, hello.session_id, initial)

    def publish_refusal(
        self, published: Published, peer: PeerIdentity, reason: Reason, detail: str, *, resumes: bool = False
    ) -> None:
        """Publish that a session of this identity is not accepted, or not resumed."""
        self._events.publish(
            SessionRefused(
                connection=published.name,
                label=peer.label,
                serial=peer.serial,
                reason=reason,
                detail=detail,
                resumes=resumes,
            )
        )

    async def _attach(self, channel: ProvenChannel, hello: Hello, initial: bytes) -> None:
        published, peer = channel.published, channel.peer
        served = self._served.get(hello.session_id)
        refusal: Reason | None = Reason.SESSION_UNKNOWN
        if served is not None and served.is_of(published, peer):
            refusal = served.session.attach_refusal(hello)
        if served is None or refusal is not None:
            refusal = refusal or Reason.SESSION_UNKNOWN
            self.publish_refusal(published, peer, refusal, "its session cannot be resumed", resumes=True)
            await refuse_session(channel.stream, refusal)
            return
        self._events.publish(SessionResumed(**channel.facts(served.activity_id)))
        served.link, served.candidate, served.rendezvous = channel.link, channel.candidate, channel.rendezvous
        served.client_address, served.peer = channel.client_address, peer
        served.key = self._finish_opening(channel.opening)
        await served.session.replace_channel(channel.stream, initial)

    def _finish_opening(self, opening: OpeningChannel | None) -> Secret | None:
        """Note that a session uses the data channel now. Returns the key on which the channel depends."""
        if opening is None:
            return None
        self.end_opening(opening)
        return opening.key

    def end_opening(self, opening: OpeningChannel) -> None:
        """Note that a data channel is no longer being opened: a session uses it, or it has failed. Idempotent."""
        if opening in self.opening:
            self.opening.remove(opening)
            self._changed()

    async def _run_session(self, channel: ProvenChannel, session_id: bytes, initial: bytes) -> None:
        published, peer, owner = channel.published, channel.peer, channel.owner
        if session_id in self._served:
            await refuse_session(channel.stream, Reason.PROTOCOL_ERROR)
            return
        if not self._shares.descriptors.take(owner):
            self.publish_refusal(published, peer, Reason.LIMIT, self._shares.descriptors.why_refused(owner))
            await refuse_session(channel.stream, Reason.LIMIT)
            return
        account = self._accounts.setdefault(owner, Account())

        def refused(stream: int, reason: Reason) -> None:
            self.streams.session_refused(stream, reason, served.origin)

        session = Session.create(
            SessionRole.ACCEPTOR,
            # Issuing is offered only where it is possible. Whether datagrams are possible can change with the target.
            config=attrs.evolve(
                self._config,
                features=Feature.DATAGRAMS | Feature.ISSUE if published.string.issuer else Feature.DATAGRAMS,
            ),
            budget=self._budget,
            account=account,
            turns=self._turns.of(owner),
            refused=refused,
        )
        key = self._finish_opening(channel.opening)
        self._served[session_id] = served = Served(
            session,
            published,
            peer,
            channel.link,
            channel.candidate,
            key,
            channel.rendezvous,
            trio.current_time(),
            channel.client_address,
        )
        try:
            await self._serve_offers(served, channel, initial)
        finally:
            del self._served[session_id]
            self._changed()
            self._shares.descriptors.give_back(owner)

    async def _serve_offers(self, served: Served, channel: ProvenChannel, initial: bytes) -> None:
        """Run a session until it ends. Publishes one event when it is open, and then exactly one when it ends."""
        session, published, peer = served.session, served.published, served.peer

        async def wait_for_client() -> NoReturn:
            self._lost(served.link)
            await trio.sleep_forever()

        is_open = False
        try:
            async with FlatNursery() as nursery:
                await nursery.start(partial(session.run, channel.stream, initial=initial, reconnect=wait_for_client))
                is_open = True
                self._events.publish(SessionOpened(**channel.facts(served.activity_id)))
                async with open_bridges() as bridges, FlatNursery() as opening:
                    async for offer in session.offers:
                        if offer.kind is Kind.ISSUE:
                            opening.start_soon(self._issuing.serve, offer, served.origin)
                        elif peer.role is Role.CLAIM:
                            offer.refuse(
                                Reason.IDENTITY_WRONG_ROLE, "a claim certificate is only for getting an identity"
                            )
                        else:
                            opening.start_soon(self.streams.serve, offer, served.origin, bridges)
            await session.wait_ended()
        finally:
            if is_open:
                outcome = session.outcome
                self._events.publish(
                    SessionEnded(
                        connection=published.name,
                        activity_id=served.activity_id,
                        label=peer.label,
                        serial=peer.serial,
                        reason=Reason.GOING_AWAY if outcome is None else outcome.reason,
                        detail="" if outcome is None else outcome.text,
                    )
                )
