"""A session that loses its channel, or whose relay is about to go: where it tries, and when it gives up."""

from __future__ import annotations

import math
import weakref
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.client.lifecycle.inputs import MoveCause
from hybridrelay.client.relays.listeners import MAX_TRIED, AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.relay_connection import DataChannel
from hybridrelay.client.relays.relays import Relays
from hybridrelay.client.session import ClientSession
from hybridrelay.errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayUnreachable,
    RendezvousError,
    SessionError,
)
from hybridrelay.events import (
    ConnectorPassedOver,
    Event,
    EventStream,
    SessionEnded,
    SessionLost,
    SessionMoved,
    SessionNotMoved,
    SessionNotOpened,
    SessionOpened,
    SessionResumed,
)
from hybridrelay.mux import Session
from hybridrelay.protocol.events import SessionOutcome
from hybridrelay.protocol.reasons import Reason

from ..leaks import no_garbage_collector
from .fakes import ANY, OURS, FakeRelay

DOWN = RelayUnreachable("down")
ABSENT = RendezvousError("absent", reason=Reason.LISTENER_ABSENT)
GONE = RendezvousError("gone", reason=Reason.LISTENER_GONE)
CHANGED = PeerIdentityError("somebody else", reason=Reason.IDENTITY_CHANGED)
STATUS = RelayUnreachable("says a status that nobody has signed", reason=Reason.KEY_REVOKED)
REVOKED = AuthorizationError("revoked", reason=Reason.KEY_REVOKED)


class FakeSession(Session):
    """Loses its channel when `lost` is set, and goes on over those that `replace_channel` gives it.

    It has the interface of a `Session`, and nothing of its state.
    """

    is_attached = False
    session_id = bytes(16)
    channel_age = 0.0
    channel_bytes = 0
    outcome: SessionOutcome | None = None

    def __init__(self) -> None:
        #: All that it was given, the current one last.
        self.channels: list[trio.abc.Stream] = []
        self.lost = trio.Event()
        #: How often it has greeted on another channel or ended, and how often a test has waited for that.
        self._greetings = self._waited_for = 0
        self._greeted = trio.Event()
        #: On these the connector's greeting does not arrive: each is lost as soon as it is there.
        self.dropped = 0
        #: So often the session ends without any greeting.
        self.refuses = 0
        #: How often the peer was asked whether it is there.
        self.checks = 0
        self._change = trio.Event()
        self._on_greeting: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        return self.is_attached

    async def run(
        self,
        channel: trio.abc.Stream,
        *,
        initial: bytes = b"",
        reconnect: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
        on_greeting: Callable[[], None] | None = None,
        greeting_timeout: float = math.inf,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> SessionOutcome:
        assert reconnect is not None
        assert on_greeting is not None
        self.channels.append(channel)
        if self.refuses:
            self.refuses -= 1
            raise SessionError("no HELLO in time", reason=Reason.PEER_SILENT)
        self._on_greeting = on_greeting
        self.is_attached = True
        on_greeting()
        try:
            while not self.has_ended():
                await self.lost.wait()
                if self.has_ended():
                    break
                self.is_attached, self.lost = False, trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(reconnect)
                    await self._next_channel(len(self.channels))
                    nursery.cancel_scope.cancel()
                if self.has_ended():
                    break
                if self.dropped:
                    self.dropped -= 1
                    self.lost.set()
                else:
                    self._greet()
        except trio.Cancelled:
            self.outcome = self.outcome or SessionOutcome(Reason.GOING_AWAY, "", by_peer=False)
            raise
        finally:
            self.is_attached = False
            self._note()
        assert self.outcome is not None
        return self.outcome

    def has_ended(self) -> bool:
        return self.outcome is not None

    async def _next_channel(self, known: int) -> None:
        while len(self.channels) == known and self.outcome is None:
            self._change = trio.Event()
            await self._change.wait()

    def _greet(self) -> None:
        self.is_attached = True
        assert self._on_greeting is not None
        self._on_greeting()
        self._note()

    def _note(self) -> None:
        self._greetings += 1
        greeted, self._greeted = self._greeted, trio.Event()
        greeted.set()

    def close(self, reason: Reason = Reason.NO_ERROR, text: str = "", *, by_peer: bool = False) -> None:
        self.outcome = self.outcome or SessionOutcome(reason, text, by_peer)
        self.is_attached = False
        self.lost.set()
        self._change.set()

    def check_alive(self) -> None:
        self.checks += 1

    async def resumed(self) -> None:
        """Wait until it has greeted on another channel, or ended, since the last call."""
        while self._greetings == self._waited_for:
            await self._greeted.wait()
        self._waited_for = self._greetings

    async def replace_channel(self, channel: trio.abc.Stream, initial: bytes = b"") -> None:
        await trio.lowlevel.checkpoint()
        self.channels.append(channel)
        if self.is_attached:  # a move
            if self.dropped:
                self.dropped -= 1
                self.lost.set()
            else:
                self._greet()
        else:
            self._change.set()


class Scene:
    """A session that goes through the first of three relays."""

    def __init__(self, count: int = 3) -> None:
        self.relays = [FakeRelay(f"{letter}.example") for letter in "abc"[:count]]
        self.client_relays = Relays(self.relays)
        self.session = FakeSession()
        self.published: list[Event] = []

    async def open_any(self) -> DataChannel:
        search = ListenerSearch(AvoidedListeners())
        return await self.client_relays.open_data_channel(search, self.client_relays.in_order(), OURS)

    def make(self) -> ClientSession:
        return ClientSession(
            "db",
            OURS,
            self.client_relays,
            ListenerSearch(AvoidedListeners()),
            new_session=lambda: self.session,
            explain=lambda error: error,
            events=EventStream(self.published.append),
        )

    async def start(self, nursery: trio.Nursery) -> ClientSession:
        opened = self.make()
        await nursery.start(opened.run)
        return opened

    def kinds(self) -> list[type[Event]]:
        """The kinds of events that were published, in their order."""
        return [type(event) for event in self.published]

    def end(self) -> SessionEnded | SessionLost | SessionNotOpened:
        """The one event that says how the session ended."""
        (end,) = [one for one in self.published if isinstance(one, SessionEnded | SessionLost | SessionNotOpened)]
        return end


@pytest.mark.parametrize(
    ("seconds", "moved", "is_due"),
    [
        (86_400, 128 * 2**30, False),
        (86_401, 0, True),
        (0, 128 * 2**30 + 1, True),
    ],
)
async def test_a_data_channel_is_replaced_after_a_day_or_128_gib(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, seconds: int, moved: int, is_due: bool
) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    scene.session.channel_age, scene.session.channel_bytes = seconds, moved
    assert opened.needs_renewal() is is_due
    nursery.cancel_scope.cancel()


async def test_the_relay_it_was_on_is_tried_first(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    first, second, _ = scene.relays
    scene.session.lost.set()
    await scene.session.resumed()
    assert opened.channel.relay is first
    assert first.channels_lost == 1
    assert not second.asked
    nursery.cancel_scope.cancel()


async def test_it_resumes_over_another_with_the_same_connector(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    first, second, _ = scene.relays
    first.error = DOWN
    scene.session.lost.set()
    await scene.session.resumed()
    assert opened.channel.relay is second
    assert opened.channel.peer == ANY
    assert scene.session.channels[-1] is opened.channel.stream
    nursery.cancel_scope.cancel()


async def test_all_are_tried_in_turn_until_one_has_the_connector(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    for relay in scene.relays:
        relay.error = ABSENT
    scene.session.lost.set()
    await trio.sleep(10)
    assert scene.session.outcome is None
    assert all(len(relay.asked) > 3 for relay in scene.relays)
    scene.relays[2].error = None
    await scene.session.resumed()
    assert opened.channel.relay is scene.relays[2]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [1, 3])
async def test_the_errors_of_failed_attempts_are_freed(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The garbage collector is not needed. Their tracebacks refer to what the attempts have used."""
    scene = Scene(count)
    await scene.start(nursery)
    freed: list[weakref.ref[RelayUnreachable]] = []

    def down(_: FakeRelay) -> RelayUnreachable:
        error = RelayUnreachable("down")
        freed.append(weakref.ref(error))
        return error

    with no_garbage_collector():
        with monkeypatch.context() as patch:
            patch.setattr(FakeRelay, "error", property(down), raising=False)
            scene.session.lost.set()
            await trio.sleep(10)
        await scene.session.resumed()
        assert len(freed) > 3 * count
        assert sum(error() is not None for error in freed) <= count  # each relay keeps the last one, for its status
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("errors", [(GONE, ABSENT, ABSENT), (GONE, GONE, GONE)])
async def test_a_connector_that_is_gone_ends_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, errors: Sequence[RendezvousError]
) -> None:
    scene = Scene()
    await scene.start(nursery)
    for relay, error in zip(scene.relays, errors, strict=True):
        relay.error = error
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.end().outcome == "connector-gone"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [ABSENT, RelayUnreachable("it restarts")])
async def test_another_relay_cannot_end_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, error: HybridRelayError
) -> None:
    """The session's own relay is away for a moment, and the others say that the connector is gone."""
    scene = Scene()
    opened = await scene.start(nursery)
    first, *others = scene.relays
    assert opened.channel.relay is first
    first.error = error
    for relay in others:
        relay.error = GONE
    scene.session.lost.set()
    await trio.sleep(5)
    assert scene.session.outcome is None
    first.error = None
    await scene.session.resumed()
    assert opened.channel.relay is first
    nursery.cancel_scope.cancel()


async def test_only_what_every_relay_refuses_ends_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    first, second, third = scene.relays
    second.error = third.error = REVOKED
    # It said that it goes, and comes back.
    first.away_until = trio.current_time() + 5
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.session.outcome is None
    assert opened.channel.relay is first
    first.error = REVOKED
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.end().outcome == "key-refused"
    nursery.cancel_scope.cancel()


async def test_a_relay_that_lets_no_greeting_pass_is_tried_after_the_others(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    first, second, _ = scene.relays
    scene.session.dropped = 1
    scene.session.lost.set()
    await scene.session.resumed()
    assert opened.channel.relay is second
    assert len(first.opened) == 2
    assert (await scene.open_any()).relay is second
    nursery.cancel_scope.cancel()


async def test_a_relay_that_lets_no_greeting_pass_is_not_the_first_choice_of_the_next_session(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    scene.session.refuses = 1
    opened = await scene.start(nursery)
    assert opened.channel.relay is scene.relays[1]
    assert scene.kinds() == [ConnectorPassedOver, SessionOpened]
    nursery.cancel_scope.cancel()


async def test_where_no_connector_greets_there_is_an_error(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    scene.session.refuses = MAX_TRIED
    with pytest.raises(SessionError):
        await scene.make().run()
    assert isinstance(scene.end(), SessionNotOpened)


async def test_one_relay_that_lets_no_greeting_pass_is_tried_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    scene.session.dropped = 1
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.session.outcome is None
    assert len(scene.relays[0].opened) == 3
    nursery.cancel_scope.cancel()


async def test_one_relay_that_drains_is_waited_for(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    (only,) = scene.relays
    only.away_until = trio.current_time() + 5
    scene.session.lost.set()
    await scene.session.resumed()
    assert only.asked[-1] >= only.away_until
    nursery.cancel_scope.cancel()


async def test_it_leaves_a_relay_that_drains(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    scene = Scene()
    opened = await scene.start(nursery)
    first, second, third = scene.relays
    second.error = ABSENT
    await opened.leave(second)
    assert len(scene.session.channels) == 1, "that is not where it is"
    first.away_until = trio.current_time() + 1
    await opened.leave(first)
    assert opened.channel.relay is third
    assert scene.session.channels[-1] is opened.channel.stream
    assert scene.session.is_open
    nursery.cancel_scope.cancel()


async def test_of_many_that_leave_at_once_some_try_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The connector lets few in at a time that have not proved an identity."""
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    first, second = scene.relays
    first.away_until = trio.current_time() + 5
    second.error = RendezvousError("too many", reason=Reason.LIMIT)
    nursery.start_soon(opened.leave, first)
    await trio.sleep(0.7)
    assert opened.channel.relay is first
    second.error = None
    await trio.sleep(0.3)
    assert opened.channel.relay is second
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [1, 3])
async def test_it_stays_where_nowhere_else_is_better(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, count: int
) -> None:
    scene = Scene(count)
    opened = await scene.start(nursery)
    first, *others = scene.relays
    for relay in others:
        relay.error = ABSENT
    first.away_until = trio.current_time() + 1
    await opened.leave(first)
    assert opened.channel.relay is first
    assert len(scene.session.channels) == 1
    nursery.cancel_scope.cancel()


async def test_another_identity_in_the_connectors_place_ends_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    opened = await scene.start(nursery)
    scene.relays[0].error = CHANGED
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.session.outcome is not None
    assert scene.session.outcome.reason is Reason.IDENTITY_CHANGED
    assert scene.end().outcome == "identity-changed"
    assert scene.relays[0].wanted[-1] == opened.channel.peer, "the instance, and the identity that it has to have"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("elsewhere", [DOWN, ABSENT, None])
async def test_another_identity_does_not_end_it_where_another_relay_may_lead_to_the_right_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, elsewhere: HybridRelayError | None
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    first, second = scene.relays
    first.error, second.error = CHANGED, elsewhere
    scene.session.lost.set()
    await trio.sleep(10)
    assert scene.session.outcome is None
    second.error = None
    await scene.session.resumed()
    assert opened.channel.relay is second
    nursery.cancel_scope.cancel()


async def test_a_move_to_another_identity_is_not_made(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    scene.relays[1].error = CHANGED
    assert await opened.move([scene.relays[1]], MoveCause.RENEWAL) is CHANGED
    assert len(scene.session.channels) == 1
    assert scene.session.is_open
    nursery.cancel_scope.cancel()


async def test_of_two_moves_for_the_same_reason_one_is_made(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    first, second = scene.relays
    for _ in range(2):
        nursery.start_soon(
            partial(opened.move, [second], MoveCause.RENEWAL, is_needed=lambda: opened.goes_through(first))
        )
    await trio.sleep(1)
    assert opened.channel.relay is second
    assert len(second.asked) == 1
    nursery.cancel_scope.cancel()


async def test_it_knows_the_channel_of_a_move_that_was_faster_than_resuming(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    first, second = scene.relays
    second.ready, first.ready = trio.Event(), trio.Event()
    nursery.start_soon(opened.move, [second], MoveCause.RENEWAL)
    await trio.sleep(1)
    scene.session.lost.set()
    await trio.sleep(1)
    second.ready.set()
    await trio.sleep(0.1)
    first.ready.set()
    await scene.session.resumed()
    assert scene.session.channels[-1] is second.opened[0].stream
    assert opened.channel is second.opened[0]
    nursery.cancel_scope.cancel()


async def test_a_resumption_is_published_once_however_often_its_channel_was_lost(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    scene.session.dropped = 1
    scene.session.lost.set()
    await scene.session.resumed()
    await trio.sleep(1)
    (resumed,) = [event for event in scene.published if isinstance(event, SessionResumed)]
    assert resumed.route == "tcp at a.example"
    nursery.cancel_scope.cancel()


async def test_a_move_is_published_when_the_session_uses_the_channel(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    _, second = scene.relays
    second.ready = trio.Event()
    nursery.start_soon(opened.move, [second], MoveCause.RENEWAL)
    await trio.sleep(1)
    scene.session.close()
    second.ready.set()
    await trio.sleep(1)
    assert SessionMoved not in scene.kinds()
    for channel in second.opened:
        with pytest.raises(trio.ClosedResourceError):
            await channel.stream.send_all(b"x")
    nursery.cancel_scope.cancel()


async def test_a_move_has_failed_if_the_new_channel_is_lost_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    first, second = scene.relays
    scene.session.dropped = 1
    error = await opened.move([second], MoveCause.BETTER_ROUTE)
    assert error is not None
    assert SessionMoved not in scene.kinds()
    await scene.session.resumed()
    assert opened.channel.relay is first
    assert second.failed_at > first.failed_at
    nursery.cancel_scope.cancel()


async def test_a_move_that_is_cancelled_leaves_the_session_as_it_was(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    _, second = scene.relays
    second.ready = trio.Event()
    with trio.move_on_after(1):
        await opened.move([second], MoveCause.RENEWAL)
    await trio.testing.wait_all_tasks_blocked()
    assert second.cancelled == 1
    assert len(scene.session.channels) == 1
    second.ready.set()
    assert await opened.move([second], MoveCause.RENEWAL) is None
    assert opened.channel.relay is second
    nursery.cancel_scope.cancel()


async def test_a_failed_move_is_published(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    scene = Scene(count=2)
    opened = await scene.start(nursery)
    scene.relays[1].error = DOWN
    assert await opened.move([scene.relays[1]], MoveCause.BETTER_ROUTE) is DOWN
    assert scene.kinds() == [SessionOpened, SessionNotMoved]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("resuming", [False, True])
async def test_a_session_that_is_cancelled_ends_in_one_event(
    autojump_clock: trio.testing.MockClock, resuming: bool
) -> None:
    scene = Scene(count=1)
    async with trio.open_nursery() as nursery:
        await scene.start(nursery)
        if resuming:
            scene.relays[0].error = DOWN
            scene.session.lost.set()
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert scene.end().outcome == "cancelled"
    assert isinstance(scene.end(), SessionEnded)


async def test_a_search_that_is_cancelled_ends_in_one_event(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene(count=1)
    scene.relays[0].takes = 10
    with trio.move_on_after(1):
        await scene.make().run()
    assert scene.kinds() == [SessionNotOpened]
    assert scene.end().outcome == "cancelled"


async def test_no_data_channel_is_left_over(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled when a data channel has just been opened."""
    scene = Scene(count=1)
    async with trio.open_nursery() as nursery:
        await scene.start(nursery)
        scene.relays[0].on_opened = nursery.cancel_scope.cancel
        scene.session.lost.set()
    channel = scene.relays[0].opened[-1]
    with pytest.raises(trio.ClosedResourceError):
        await channel.stream.send_all(b"x")


@pytest.mark.parametrize(
    ("reason", "by_peer", "outcome", "kind"),
    [
        (Reason.NO_ERROR, False, "closed", SessionEnded),
        (Reason.GOING_AWAY, True, "closed-by-connector", SessionEnded),
        (Reason.SESSION_LOST, False, "not-resumed", SessionLost),
        (Reason.IDENTITY_DENIED, True, "identity-refused", SessionLost),
    ],
)
async def test_the_end_of_the_session_has_a_name(
    reason: Reason,
    by_peer: bool,
    outcome: str,
    kind: type[Event],
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    scene.session.close(reason, by_peer=by_peer)
    await trio.testing.wait_all_tasks_blocked()
    assert type(scene.end()) is kind
    assert scene.end().outcome == outcome
    nursery.cancel_scope.cancel()


async def test_a_refusal_that_nobody_has_signed_ends_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    scene.relays[0].error = STATUS
    scene.session.lost.set()
    await trio.sleep(10)
    assert scene.session.outcome is None
    nursery.cancel_scope.cancel()


async def test_it_is_known_while_the_connector_is_not_there(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    opened = await scene.start(nursery)
    scene.relays[0].error = DOWN
    scene.session.lost.set()
    with trio.move_on_after(5) as relay_away:
        await opened.wait_absent()
    assert relay_away.cancelled_caught
    scene.relays[0].error = ABSENT
    with trio.fail_after(5):
        await opened.wait_absent()
    scene.relays[0].error = None
    await scene.session.resumed()
    with trio.move_on_after(5) as back:
        await opened.wait_absent()
    assert back.cancelled_caught
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "error",
    [
        RelayUnreachable("a status that says so", reason=Reason.LISTENER_GONE),
        RelayUnreachable("a status that says so", reason=Reason.KEY_REVOKED),
        PeerIdentityError("a certificate of its own", reason=Reason.IDENTITY_WRONG_AUTHORITY),
        PeerIdentityError("an alert in plain text", reason=Reason.IDENTITY_DENIED),
    ],
    ids=str,
)
async def test_nothing_that_is_not_authenticated_ends_a_session(
    error: HybridRelayError, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """What answers between client and connector may do so only for a time: the session resumes later."""
    scene = Scene(count=1)
    await scene.start(nursery)
    (relay,) = scene.relays
    relay.error = error
    scene.session.lost.set()
    await trio.sleep(10)
    assert scene.session.outcome is None
    relay.error = None
    await scene.session.resumed()
    assert scene.session.outcome is None
    assert scene.session.is_open
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [REVOKED, CHANGED, GONE], ids=str)
async def test_what_is_final_ends_a_session(
    error: HybridRelayError, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    scene.relays[0].error = error
    scene.session.lost.set()
    await scene.session.resumed()
    assert isinstance(scene.end(), SessionLost)
    assert str(error) in scene.end().detail
    nursery.cancel_scope.cancel()


async def test_a_session_whose_channels_are_lost_at_once_again_and_again_resumes_with_pauses(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    await scene.start(nursery)
    ended = trio.current_time() + 60
    rounds = 0
    while trio.current_time() < ended:
        scene.session.lost.set()
        await scene.session.resumed()
        rounds += 1
    assert 10 < rounds < 240
    nursery.cancel_scope.cancel()
