"""The sessions of a connector, on whichever data channel they are, and the streams of those."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from functools import partial
from typing import NoReturn
from weakref import WeakValueDictionary

import attrs
import trio

from .._nursery import FlatNursery
from ..connectivity.discovery import Candidate
from ..connectivity.link import RelayLink
from ..events import (
    EventStream,
    PolicyRefused,
    ProgramStopping,
    SessionEnded,
    SessionOpened,
    SessionRefused,
    SessionResumed,
)
from ..mux import Account, Budget, Session, SessionConfig, SessionRole, refuse_session
from ..protocol.frames import Hello
from ..protocol.reasons import Reason
from ..security import PeerIdentity, Secret
from .policy import Action, Policy, Resource
from .published import Published
from .serving import StreamService
from .shares import Shares
from .stream_events import Origin

__all__ = ["OpeningChannel", "ProvenChannel", "Served", "Sessions"]

#: Sessions of one identity. Several processes may share a connection string; defends tasks and target connections.
MAX_SESSIONS_PER_IDENTITY = 256
#: Memory that all data channels together may promise to their peers (bytes).
PROCESS_BUDGET = 1 << 30
#: Between two sessions that are moved to a better route: all at once would be a storm (seconds).
_MOVE_SPACING_SECONDS = 0.1


@attrs.define(eq=False)
class Served:
    """One session that lives."""

    session: Session
    published: Published
    peer: PeerIdentity
    #: The relay through which its data channel goes. The session belongs to the connector only: the client may move
    #: it to another relay at any time.
    link: RelayLink
    #: The route of its data channel, which need not be the one that would be chosen now.
    candidate: Candidate
    #: The key by which we were registered when the relay made the data channel; it ends with this key.
    key: Secret | None = None
    #: The same in all events of the session.
    activity_id: str = ""
    #: Tells the sessions of this process apart in the audit log.
    number: int = 0

    @property
    def origin(self) -> Origin:
        """Where a stream comes from that is opened now."""
        route = f"{self.candidate.route.name} at {self.link.host}"
        return Origin(self.published, self.peer, self.number, route)

    def is_of(self, published: Published, peer: PeerIdentity) -> bool:
        """Whether the session belongs to this identity. Serials say something only under the same authority."""
        return self.published is published and self.peer.serial == peer.serial


@attrs.frozen(eq=False)
class OpeningChannel:
    """A data channel that is being opened."""

    published: Published
    #: By which we were registered when it was offered.
    key: Secret | None


@attrs.frozen(eq=False)
class ProvenChannel:
    """A data channel whose other end has proved its identity."""

    published: Published
    #: What follows the end-to-end handshake.
    stream: trio.abc.Stream
    peer: PeerIdentity
    #: The relay and the route over which it goes.
    link: RelayLink
    candidate: Candidate
    #: What is being opened, until a session has the channel.
    opening: OpeningChannel | None = None

    @property
    def route(self) -> str:
        """``tcp at relay.example.com``."""
        return f"{self.candidate.route.name} at {self.link.host}"

    @property
    def owner(self) -> tuple[Published, str]:
        """The identity, as shares and limits tell identities apart."""
        return self.published, self.peer.serial


class Sessions:
    """All sessions of a connector. They are touched by nothing that happens to control channels.

    Args:
        policy: which identities are denied.
        config: of every session.
        events: gets the events.
        lost: called when a session has lost its data channel, with the relay through which it went.
    """

    def __init__(
        self, policy: Policy, config: SessionConfig, events: EventStream, *, lost: Callable[[RelayLink], None]
    ) -> None:
        self._lost = lost
        self._policy = policy
        self._config = config
        self._budget = Budget(PROCESS_BUDGET)
        self._shares = Shares()
        self._events = events
        self.streams = StreamService(lambda: self._policy, self._shares, events)
        #: What each identity's sessions hold together, for as long as there are any.
        self._accounts: WeakValueDictionary[Hashable, Account] = WeakValueDictionary()
        #: Of sessions, for the audit log.
        self._numbers = itertools.count(1)
        #: By session id.
        self._served: dict[bytes, Served] = {}
        #: Data channels that are being opened, until a session has them.
        self.opening: set[OpeningChannel] = set()

    def set_policy(self, policy: Policy) -> None:
        """Put a policy into force: sessions of identities that it denies end at once."""
        self._policy = policy
        for served in list(self._served.values()):
            peer = served.peer
            if reason := self.denied(served.published, peer):
                served.session.close(reason)

    def denied(self, published: Published, peer: PeerIdentity) -> Reason | None:
        """Why the policy that is in force now allows this identity no session, or None."""
        decision = self._policy.decide(peer, Action.OPEN_SESSION, Resource(published.name, published.target))
        if decision.reason is not None:
            self._events.publish(
                PolicyRefused(
                    connection=published.name,
                    label=peer.label,
                    serial=peer.serial,
                    reason=decision.reason,
                    detail=decision.rule,
                )
            )
        return decision.reason

    def of(self, link: RelayLink) -> list[Served]:
        """The sessions whose present or last data channel goes through one relay."""
        return [served for served in self._served.values() if served.link is link]

    def check_alive(self) -> None:
        """Ask every peer at once whether it is there."""
        for served in self._served.values():
            served.session.check_alive()

    async def move(self, link: RelayLink, candidate: Candidate) -> None:
        """Let sessions follow to a better route: each resumes over a new data channel, one after the other."""
        for served in self.of(link):
            if served.session.is_open and served.candidate.route.rank > candidate.route.rank:
                served.session.drop_channel()
                await trio.sleep(_MOVE_SPACING_SECONDS)

    async def follow_key(self, published: Published) -> bool:
        """Let sessions whose data channel was made with an earlier key resume over another one, one after the other.

        Returns:
            Whether nothing depends on an earlier key any more.
        """
        key = published.string.key
        for served in list(self._served.values()):
            if served.published is published and served.key != key and served.session.is_open:
                served.session.drop_channel()
                await trio.sleep(_MOVE_SPACING_SECONDS)
        return not any(one.published is published and one.key != key for one in self._served.values()) and not any(
            one.published is published and one.key != key for one in self.opening
        )

    async def drain(self, grace: float) -> None:
        """Let open streams finish for up to `grace` seconds, and end all sessions."""
        self._events.publish(ProgramStopping(role="connector", open=len(self._served)))
        async with trio.open_nursery() as nursery:
            for served in self._served.values():
                nursery.start_soon(partial(served.session.aclose, grace=grace, reason=Reason.GOING_AWAY))

    def _refusal(self, published: Published, peer: PeerIdentity, hello: Hello) -> Reason | None:
        """Check the policy again, which may have changed while HELLO was in transit, and a limit."""
        if reason := self.denied(published, peer):
            return reason
        if hello.attach or self.count_of(published, peer) < MAX_SESSIONS_PER_IDENTITY:
            return None
        self.publish_refusal(published, peer, Reason.LIMIT, "it has too many sessions")
        return Reason.LIMIT

    def count_of(self, published: Published, peer: PeerIdentity) -> int:
        """How many sessions this identity has."""
        return sum(1 for served in self._served.values() if served.is_of(published, peer))

    async def take(self, channel: ProvenChannel, hello: Hello, initial: bytes) -> None:
        """Serve a session on a proven data channel to its end, or have the session that `hello` names go on over it.

        Args:
            channel: the data channel.
            hello: the first message of the client.
            initial: what was received, from that message on.
        """
        if refusal := self._refusal(channel.published, channel.peer, hello):
            await refuse_session(channel.stream, refusal)
        elif hello.attach:
            await self._attach(channel, hello, initial)
        else:
            await self._run_session(channel, hello.session_id, initial)

    def publish_refusal(self, published: Published, peer: PeerIdentity, reason: Reason, detail: str) -> None:
        """Publish that a session of this identity is not accepted."""
        self._events.publish(
            SessionRefused(
                connection=published.name, label=peer.label, serial=peer.serial, reason=reason, detail=detail
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
            self.publish_refusal(published, peer, refusal, "its session cannot be resumed")
            await refuse_session(channel.stream, refusal)
            return
        self._events.publish(
            SessionResumed(
                connection=published.name, activity_id=served.activity_id, label=peer.label, route=channel.route
            )
        )
        served.link, served.candidate = channel.link, channel.candidate
        served.key = self._finish_opening(channel.opening)
        await served.session.replace_channel(channel.stream, initial)

    def _finish_opening(self, opening: OpeningChannel | None) -> Secret | None:
        """A session has the data channel now; the key with which it was made."""
        if opening is None:
            return None
        self.opening.discard(opening)
        return opening.key

    async def _run_session(self, channel: ProvenChannel, session_id: bytes, initial: bytes) -> None:
        published, peer, owner = channel.published, channel.peer, channel.owner
        if session_id in self._served:
            await refuse_session(channel.stream, Reason.PROTOCOL_ERROR)
            return
        if not self._shares.descriptors.take(owner):
            self.publish_refusal(published, peer, Reason.LIMIT, self._shares.descriptors.why_refused(owner))
            await refuse_session(channel.stream, Reason.LIMIT)
            return
        number = next(self._numbers)
        account = self._accounts.setdefault(owner, Account())

        def refused(stream: int, reason: Reason) -> None:
            self.streams.refused(stream, reason, served.origin)

        session = Session(
            SessionRole.ACCEPTOR, config=self._config, budget=self._budget, account=account, refused=refused
        )
        key, activity_id = self._finish_opening(channel.opening), f"{self.streams.run}session-{number}"
        self._served[session_id] = served = Served(
            session, published, peer, channel.link, channel.candidate, key, activity_id, number
        )
        try:
            await self._serve_offers(served, channel, initial)
        finally:
            del self._served[session_id]
            self._shares.descriptors.give_back(owner)

    async def _serve_offers(self, served: Served, channel: ProvenChannel, initial: bytes) -> None:
        """Run a session to its end. Publishes one event when it is open, and then exactly one when it is over."""
        session, published, peer = served.session, served.published, served.peer

        async def wait_for_client() -> NoReturn:
            self._lost(served.link)
            await trio.sleep_forever()

        is_open = False
        try:
            async with FlatNursery() as nursery:
                await nursery.start(partial(session.run, channel.stream, initial=initial, reconnect=wait_for_client))
                is_open = True
                self._events.publish(
                    SessionOpened(
                        connection=published.name,
                        activity_id=served.activity_id,
                        label=peer.label,
                        serial=peer.serial,
                        route=channel.route,
                    )
                )
                async for offer in session.offers:
                    nursery.start_soon(self.streams.serve, offer, served.origin)
            await session.wait_ended()
        finally:
            if is_open:
                outcome = session.outcome
                self._events.publish(
                    SessionEnded(
                        connection=published.name,
                        activity_id=served.activity_id,
                        label=peer.label,
                        reason=Reason.GOING_AWAY if outcome is None else outcome.reason,
                        detail="" if outcome is None else outcome.text,
                    )
                )
