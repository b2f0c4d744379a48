"""Data channels whose other end has proved its identity: whose they are, and how many there may be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing

from hybridrelay import security
from hybridrelay.connector import channels
from hybridrelay.connector import sessions as sessions_module
from hybridrelay.connector.channels import (
    HELLO_SECONDS,
    MAX_GREETING_CHANNELS,
    UNPROVEN_SECONDS,
    DataChannels,
)
from hybridrelay.connector.published import Publication, Published
from hybridrelay.connector.registration import Registration
from hybridrelay.connector.sessions import (
    MAX_SESSIONS_PER_IDENTITY,
    OpeningChannel,
    ProvenChannel,
    Served,
    Sessions,
)
from hybridrelay.connector.shares import Shares
from hybridrelay.connector.unproven import TENURE_SECONDS
from hybridrelay.errors import RendezvousError, SessionError
from hybridrelay.events import Event, EventStream, PolicyRefused, SessionEnded, SessionOpened, SessionResumed
from hybridrelay.mux import DATA_CONFIG, Account, Session, SessionRole
from hybridrelay.policy import Policy
from hybridrelay.protocol import SessionCore, control
from hybridrelay.protocol.frames import SESSION_SECRET_SIZE
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import PeerIdentity, Secret, generate_key
from hybridrelay.streams.turns import SharedTurns

from .fakes import WSS, FakeControl, FakeRelay, FakeSession, no_check, published

PEER = PeerIdentity("one", security.Role.APPLICATION, "app", "0A", 4e9)
ANOTHER = attrs.evolve(PEER, serial="0B")
#: An identity that an issuer has signed, the same one after it was renewed, and a claim for it.
RENEWABLE = attrs.evolve(PEER, serial="0C", is_from_issuer=True)
RENEWED = attrs.evolve(RENEWABLE, serial="0D")
CLAIM = attrs.evolve(PEER, serial="0E", role=security.Role.CLAIM)
HOUR = 3600.0


class Scene:
    """The connector's data channels, and clients that have proved their identity."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.one, self.two = published("one"), published("two")
        self.link = FakeRelay()
        self.events: list[Event] = []
        stream = EventStream(self.events.append)
        #: How often something has changed that may depend on a key.
        self.changes = 0
        #: By how much the connector's clock is wrong (seconds).
        self.wrong_by = 0.0
        self.sessions = Sessions(
            Policy(), DATA_CONFIG, stream, lost=lambda _: None, changed=self._count, clock=self._clock
        )
        self.channels = DataChannels(self.sessions, stream)
        #: What serving a channel raised.
        self.errors: list[Exception] = []

    def _count(self) -> None:
        self.changes += 1

    def _clock(self) -> float:
        return trio.current_time() + self.wrong_by

    async def open_for(self, opening: OpeningChannel, seconds: float) -> None:
        """Open a data channel that is not ready before this time."""
        self.sessions.opening.add(opening)
        try:
            with opening.scope:
                await trio.sleep(seconds)
        finally:
            self.sessions.end_opening(opening)

    def channel(
        self, whose: Published | None = None, peer: PeerIdentity = PEER, key: Secret | None = None
    ) -> trio.abc.Stream:
        """A proven channel: the client's end. Nothing was said on it. `key`: the key on which it depends."""
        ours, theirs = trio.testing.memory_stream_pair()
        whose = whose or self.one
        opening = OpeningChannel(whose, key, trio.CancelScope())
        self.sessions.opening.add(opening)

        async def serve() -> None:
            try:
                await self.channels.greet(ProvenChannel(whose, theirs, peer, self.link, WSS, opening))
            except (RendezvousError, SessionError) as exc:
                self.errors.append(exc)
            finally:
                self.sessions.end_opening(opening)

        self.nursery.start_soon(serve)
        return ours

    async def session(
        self,
        whose: Published | None = None,
        peer: PeerIdentity = PEER,
        core: SessionCore | None = None,
        key: Secret | None = None,
    ) -> Session:
        """A client's session that the connector has accepted.

        Raises:
            SessionError: it was refused.
        """
        session = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG) if core is None else Session(core)

        async def run(task_status: trio.TaskStatus[None]) -> None:
            try:
                channel = self.channel(whose, peer, key)
                await session.run(channel, reconnect=trio.sleep_forever, task_status=task_status)
            except SessionError as exc:
                self.errors.append(exc)
                task_status.started()

        await self.nursery.start(run)
        if session.outcome is not None:
            raise SessionError("refused", reason=session.outcome.reason)
        return session

    async def attach(
        self,
        session: Session,
        whose: Published | None = None,
        peer: PeerIdentity = PEER,
        key: Secret | None = None,
    ) -> bool:
        """Resume the session over another channel of `peer`. Returns whether the connector accepted that."""
        greetings = session.greeting_count
        await session.replace_channel(self.channel(whose, peer, key))
        await trio.testing.wait_all_tasks_blocked()
        return session.greeting_count > greetings


def why_ended(session: Session) -> Reason | None:
    """The reason with which the session has ended; None if it is open."""
    return None if session.outcome is None else session.outcome.reason


async def test_what_opens_with_an_earlier_key_soon_comes_to_an_end(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The clients of such data channels may have turned to others, so that only a deadline would end them."""
    scene = Scene(nursery)
    sessions, began = scene.sessions, trio.current_time()
    earlier = OpeningChannel(scene.one, generate_key(), trio.CancelScope())
    present = OpeningChannel(scene.one, scene.one.string.key, trio.CancelScope())
    of_another = OpeningChannel(scene.two, generate_key(), trio.CancelScope())
    for opening in (earlier, present, of_another):
        nursery.start_soon(scene.open_for, opening, 30)
    await trio.testing.wait_all_tasks_blocked()
    assert not await sessions.follow_key(scene.one)
    await trio.sleep(3)
    assert not await sessions.follow_key(scene.one)  # this does not put it off
    await trio.sleep_until(began + 5.5)
    assert scene.changes == 1
    assert await sessions.follow_key(scene.one)
    assert sessions.opening == {present, of_another}
    nursery.cancel_scope.cancel()


async def test_a_session_that_has_resumed_depends_on_the_key_of_its_present_data_channel(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    sessions, earlier, current = scene.sessions, generate_key(), scene.one.string.key
    session = await scene.session(key=earlier)
    beside = await scene.session(key=current)
    assert not await sessions.follow_key(scene.one)
    assert [session.is_attached, beside.is_attached] == [False, True]
    assert await scene.attach(session, key=current)
    assert await sessions.follow_key(scene.one)
    await trio.testing.wait_all_tasks_blocked()
    assert [session.is_attached, beside.is_attached] == [True, True]
    # A relay at which the connector is still registered with the earlier key may have offered the next data channel.
    assert await scene.attach(session, key=earlier)
    assert not await sessions.follow_key(scene.one)
    assert [session.is_attached, beside.is_attached] == [False, True]
    nursery.cancel_scope.cancel()


async def test_a_hybrid_connection_that_is_withdrawn_gets_no_new_sessions(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Not even over data channels that were being opened at that moment. Its sessions may resume until they end."""
    scene = Scene(nursery)
    session = await scene.session()
    being_opened, of_another = scene.channel(), scene.channel(scene.two)
    await trio.testing.wait_all_tasks_blocked()
    scene.one.is_withdrawn = True
    late = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG)
    with trio.fail_after(HELLO_SECONDS), pytest.raises(SessionError) as refused:
        await late.run(being_opened)
    assert refused.value.reason is Reason.GOING_AWAY
    assert len(scene.sessions) == 1
    assert await scene.attach(session)
    beside = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG)
    await nursery.start(beside.run, of_another)
    assert [session.is_open, beside.is_open] == [True, True]
    nursery.cancel_scope.cancel()


async def test_the_end_of_a_session_is_a_change(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """What waits until nothing depends on an earlier key looks again."""
    scene = Scene(nursery)
    session = await scene.session()
    before = scene.changes
    session.close()
    await session.wait_ended()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.changes == before + 1
    nursery.cancel_scope.cancel()


async def test_a_session_resumes_for_its_own_identity(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    session = await scene.session()
    assert await scene.attach(session)
    assert session.outcome is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["closed by the client", "revoked", "cancelled"])
async def test_a_session_has_one_event_at_its_end_whatever_ended_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, how: str
) -> None:
    async with trio.open_nursery() as connector:
        scene = Scene(connector)
        session = await scene.session()
        assert await scene.attach(session)
        if how == "closed by the client":
            session.close()
        elif how == "revoked":
            scene.sessions.set_policy(Policy(frozenset({PEER.label})))
        else:
            connector.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        connector.cancel_scope.cancel()
    opened, resumed, session_ended = [one for one in scene.events if not isinstance(one, PolicyRefused)]
    assert isinstance(opened, SessionOpened)
    assert isinstance(resumed, SessionResumed)
    assert isinstance(session_ended, SessionEnded)
    assert opened.activity_id == resumed.activity_id == session_ended.activity_id
    refused = [one.detail for one in scene.events if isinstance(one, PolicyRefused)]
    assert refused == (["deny list: label app"] if how == "revoked" else [])
    assert (session_ended.reason is Reason.IDENTITY_DENIED) is (how == "revoked")


@pytest.mark.parametrize(
    ("expires", "other"),
    [
        (PEER, None),
        (PEER, ANOTHER),  # which has the same label, but only an issuer gives labels to one program each
        (CLAIM, RENEWED),
    ],
)
async def test_an_identity_that_expires_ends_its_sessions(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, expires: PeerIdentity, other: PeerIdentity | None
) -> None:
    scene = Scene(nursery)
    nursery.start_soon(scene.sessions.end_expired)
    expires = attrs.evolve(expires, not_after=trio.current_time() + HOUR)
    sessions = [await scene.session(peer=expires) for _ in range(2)]
    kept = None if other is None else await scene.session(peer=other)
    await trio.sleep(HOUR - 1)
    assert [why_ended(one) for one in sessions] == [None] * 2
    await trio.sleep(10)
    assert [why_ended(one) for one in sessions] == [Reason.IDENTITY_EXPIRED] * 2
    ends = [one for one in scene.events if isinstance(one, SessionEnded)]
    assert [(one.serial, one.reason) for one in ends] == [(expires.serial, Reason.IDENTITY_EXPIRED)] * 2
    assert kept is None or why_ended(kept) is None
    nursery.cancel_scope.cancel()


async def test_the_sessions_of_an_identity_that_can_be_renewed_go_on(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The program may have its session with the renewed identity at another connector."""
    scene = Scene(nursery)
    nursery.start_soon(scene.sessions.end_expired)
    earlier = await scene.session(peer=attrs.evolve(RENEWABLE, not_after=trio.current_time() + HOUR))
    await trio.sleep(2 * HOUR)
    assert why_ended(earlier) is None
    nursery.cancel_scope.cancel()


async def test_a_session_that_waits_for_a_data_channel_ends_when_its_identity_expires(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    nursery.start_soon(scene.sessions.end_expired)
    session = await scene.session(peer=attrs.evolve(PEER, not_after=trio.current_time() + HOUR))
    await trio.sleep(HOUR - 1)
    session.drop_channel()
    await trio.testing.wait_all_tasks_blocked()
    assert len(scene.sessions) == 1
    await trio.sleep(10)
    (end,) = [one for one in scene.events if isinstance(one, SessionEnded)]
    assert end.reason is Reason.IDENTITY_EXPIRED
    assert len(scene.sessions) == 0
    nursery.cancel_scope.cancel()


async def test_the_identity_of_the_current_data_channel_counts(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    nursery.start_soon(scene.sessions.end_expired)
    peer = attrs.evolve(PEER, not_after=trio.current_time() + HOUR)
    session = await scene.session(peer=peer)
    assert await scene.attach(session, peer=attrs.evolve(peer, not_after=peer.not_after + HOUR))
    await trio.sleep(HOUR + 10)
    assert why_ended(session) is None
    await trio.sleep(HOUR)
    assert why_ended(session) is Reason.IDENTITY_EXPIRED
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("minutes", "ends"), [(9, False), (11, True)])
async def test_a_clock_that_is_wrong_for_a_moment_ends_no_sessions(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, minutes: int, ends: bool
) -> None:
    scene = Scene(nursery)
    nursery.start_soon(scene.sessions.end_expired)
    session = await scene.session(peer=attrs.evolve(PEER, not_after=trio.current_time() + 24 * HOUR))
    await trio.sleep(HOUR)
    scene.wrong_by = 48 * HOUR
    await trio.sleep(60 * minutes)
    scene.wrong_by = 0.0
    await trio.sleep(HOUR)
    assert why_ended(session) is (Reason.IDENTITY_EXPIRED if ends else None)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("changed", ["identity", "hybrid connection"])
async def test_nobody_else_resumes_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, changed: str
) -> None:
    """Another identity cannot resume a session, not even with the session's id and secret."""
    scene = Scene(nursery)
    session = await scene.session()
    whose, peer = (scene.one, ANOTHER) if changed == "identity" else (scene.two, PEER)
    assert not await scene.attach(session, whose, peer)
    assert session.outcome is not None
    assert session.outcome.reason is Reason.SESSION_UNKNOWN
    (served,) = scene.sessions._served.values()
    assert served.session.outcome is None, "the one that it belongs to can still resume"
    nursery.cancel_scope.cancel()


async def test_the_id_of_a_session_cannot_be_used_for_a_second_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    session = await scene.session()
    impostor = SessionCore(
        SessionRole.INITIATOR,
        config=DATA_CONFIG,
        session_id=session.core.session_id,
        secret=bytes(SESSION_SECRET_SIZE),
    )
    with pytest.raises(SessionError) as refused:
        await scene.session(core=impostor)
    assert refused.value.reason is Reason.PROTOCOL_ERROR
    assert await scene.attach(session)
    nursery.cancel_scope.cancel()


def test_serials_count_under_one_authority_only() -> None:
    one, two = published("one"), published("two")
    served = Served(FakeSession(is_open=True), one, PEER, FakeRelay(), WSS)
    assert served.is_of(one, PEER)
    assert served.is_of(one, attrs.evolve(PEER, label="renamed"))
    assert not served.is_of(one, ANOTHER)
    assert not served.is_of(two, PEER)


async def test_sessions_of_one_identity_are_limited(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(nursery)
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS_PER_IDENTITY", 3)
    sessions = [await scene.session() for _ in range(3)]
    with pytest.raises(SessionError) as refused:
        await scene.session()
    assert refused.value.reason is Reason.LIMIT
    # Nobody else is concerned, and those that are there may resume.
    await scene.session(peer=ANOTHER)
    await scene.session(scene.two)
    assert await scene.attach(sessions[0])
    sessions[1].close()
    await trio.testing.wait_all_tasks_blocked()
    await scene.session()
    nursery.cancel_scope.cancel()


async def test_a_renewed_identity_has_no_share_of_its_own(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(nursery)
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS_PER_IDENTITY", 2)
    for peer in (RENEWABLE, RENEWED):
        await scene.session(peer=peer)
    for peer in (RENEWABLE, RENEWED):
        with pytest.raises(SessionError) as refused:
            await scene.session(peer=peer)
        assert refused.value.reason is Reason.LIMIT
    for peer in (PEER, attrs.evolve(RENEWED, label="other"), CLAIM):
        await scene.session(peer=peer)
    nursery.cancel_scope.cancel()


async def test_sessions_count_towards_the_share_of_descriptors(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    scene.sessions._shares = Shares(limit=lambda: 16)  # 8 can be used, and so 4 by one application
    sessions = [await scene.session() for _ in range(4)]
    with pytest.raises(SessionError) as refused:
        await scene.session()
    assert refused.value.reason is Reason.LIMIT
    await scene.session(peer=ANOTHER)
    assert await scene.attach(sessions[0])
    for session in sessions[1:3]:
        session.close()
    await trio.testing.wait_all_tasks_blocked()
    await scene.session()
    nursery.cancel_scope.cancel()


async def test_the_sessions_of_one_identity_share_turns_and_memory(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, made = Scene(nursery), list[tuple[SharedTurns | None, Account | None]]()

    class Recorded(Session):
        def __init__(
            self, core: SessionCore, *, refused: Callable[[int, Reason], None], turns: SharedTurns | None
        ) -> None:
            super().__init__(core, refused=refused, turns=turns)
            made.append((turns, core.sending.account))

    monkeypatch.setattr(sessions_module, "Session", Recorded)
    own = [(scene.one, one) for one in (PEER, PEER, RENEWABLE, RENEWED, ANOTHER)]
    for whose, peer in (*own, (scene.two, PEER)):
        await scene.session(whose, peer)
    for kind in zip(*made, strict=True):
        first, second, renewable, renewed, of_another, of_another_authority = map(id, kind)
        assert (first, renewable) == (second, renewed)
        assert len({first, renewable, of_another, of_another_authority}) == 4
    nursery.cancel_scope.cancel()


def test_the_limit_of_sessions_is_what_the_documents_say() -> None:
    assert MAX_SESSIONS_PER_IDENTITY == 256


async def test_channels_without_hello_are_limited(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """They count like sessions, and the oldest one is closed for a new one."""
    scene = Scene(nursery)
    silent = []
    for _ in range(MAX_GREETING_CHANNELS):
        silent.append(scene.channel())
        await trio.testing.wait_all_tasks_blocked()
    await ended(scene.channel())
    await scene.session(peer=ANOTHER)
    await trio.sleep(HELLO_SECONDS / 2)
    await scene.session()
    await ended(silent[0])
    with trio.move_on_after(0.1) as still_open:
        await ended(silent[1])
    assert still_open.cancelled_caught
    nursery.cancel_scope.cancel()


async def test_a_channel_without_hello_has_a_deadline(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    silent = scene.channel()
    with trio.fail_after(HELLO_SECONDS + 0.1):
        await ended(silent)
    assert trio.current_time() >= HELLO_SECONDS
    await trio.testing.wait_all_tasks_blocked()
    (error,) = scene.errors
    assert "did not send HELLO" in str(error)
    assert not scene.channels._greeting
    nursery.cancel_scope.cancel()


async def test_all_sessions_of_an_identity_may_resume_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(nursery)
    sessions = [await scene.session() for _ in range(2 * MAX_GREETING_CHANNELS)]
    held = [scene.channel() for _ in range(MAX_GREETING_CHANNELS)]
    await trio.testing.wait_all_tasks_blocked()
    for session in sessions:
        assert await scene.attach(session)
    assert len(held) == MAX_GREETING_CHANNELS
    nursery.cancel_scope.cancel()


async def ended(stream: trio.abc.ReceiveStream) -> None:
    """Wait until the other end has closed the stream."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


@pytest.mark.parametrize("why", ["too slow", "gave way"])
async def test_a_channel_that_proves_nothing_ends_and_the_client_is_told(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async def open_data_channel(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(channels, "open_data_channel", open_data_channel)
    scene = Scene(nursery)
    said = FakeControl(scene.link, WSS)
    publication = Publication(scene.one, scene.link, Registration(scene.one.name, scene.one.string), no_check)
    newcomer = publication.unproven.admit("", 1)
    assert newcomer is not None
    offer = control.Offer(7, "one", bytes(TICKET_SIZE), 30.0)
    nursery.start_soon(scene.channels.serve, publication, said, offer, newcomer, None)
    if why == "gave way":
        await trio.sleep(TENURE_SECONDS)
        assert publication.unproven.admit("", 1) is not None
        await trio.testing.wait_all_tasks_blocked()
    else:
        await trio.sleep(UNPROVEN_SECONDS - 0.1)
        assert said.sent == []
        await trio.sleep(0.2)
        assert len(publication.unproven) == 0
    assert said.sent == [control.Failed(7, Reason.LIMIT)]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("when", ["before its handshake", "before HELLO", "before it resumes", "while it is open"])
async def test_an_identity_that_is_denied_at_any_time_has_no_session(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    scene = Scene(nursery)
    denied = Policy(frozenset({PEER.serial}))
    if when == "while it is open":
        session = await scene.session()
        beside = await scene.session(peer=ANOTHER)
        scene.sessions.set_policy(denied)
        await trio.testing.wait_all_tasks_blocked()
        assert session.outcome is not None
        assert session.outcome.reason is Reason.IDENTITY_DENIED
        assert beside.outcome is None
        with pytest.raises(SessionError) as refused:
            await scene.session()
        assert refused.value.reason is Reason.IDENTITY_DENIED
    elif when == "before it resumes":
        # A session belongs to a serial, so only the policy keeps another label of it from resuming.
        session = await scene.session()
        renamed = attrs.evolve(PEER, label="renamed")
        scene.sessions.set_policy(Policy(frozenset({renamed.label})))
        assert not await scene.attach(session, peer=renamed)
        assert session.outcome is not None
        assert session.outcome.reason is Reason.IDENTITY_DENIED
        assert not any(isinstance(event, SessionResumed) for event in scene.events)
    elif when == "before HELLO":
        channel = scene.channel()
        await trio.testing.wait_all_tasks_blocked()
        scene.sessions.set_policy(denied)
        late = Session.create(SessionRole.INITIATOR, config=DATA_CONFIG)
        with pytest.raises(SessionError) as refused:
            await late.run(channel)
        assert refused.value.reason is Reason.IDENTITY_DENIED
    else:
        ours, theirs = trio.testing.memory_stream_pair()

        async def open_data_channel(*_: object, **__: object) -> tuple[trio.abc.Stream, PeerIdentity]:
            await trio.lowlevel.checkpoint()
            return theirs, PEER

        monkeypatch.setattr(channels, "open_data_channel", open_data_channel)
        scene.sessions.set_policy(denied)
        publication = Publication(scene.one, scene.link, Registration(scene.one.name, scene.one.string), no_check)
        newcomer = publication.unproven.admit("", 1)
        assert newcomer is not None
        offer = control.Offer(7, "one", bytes(TICKET_SIZE), 30.0)
        nursery.start_soon(scene.channels.serve, publication, FakeControl(scene.link, WSS), offer, newcomer, None)
        # It is answered at once: HELLO is not waited for.
        goaway = await ours.receive_some()
        assert goaway[8:10] == Reason.IDENTITY_DENIED.to_bytes(2, "big")
    assert not scene.channels._greeting
    nursery.cancel_scope.cancel()
