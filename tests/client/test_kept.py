"""A session that loses its channel, or whose relay is about to go: where it tries, and when it gives up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.client.kept import KeptSession
from hybridrelay.client.relays.listeners import AvoidedListeners, ListenerSearch
from hybridrelay.client.relays.sender import DataChannel
from hybridrelay.client.relays.senders import Senders
from hybridrelay.errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayUnreachable,
    RendezvousError,
    SessionError,
)
from hybridrelay.protocol.reasons import Reason

from .fakes import ANY, FakeSender

DOWN = RelayUnreachable("down")
ABSENT = RendezvousError("absent", reason=Reason.LISTENER_ABSENT)
GONE = RendezvousError("gone", reason=Reason.LISTENER_GONE)
CHANGED = PeerIdentityError("somebody else", reason=Reason.IDENTITY_CHANGED)
STATUS = RelayUnreachable("says a status that nobody has signed", reason=Reason.KEY_REVOKED)
REVOKED = AuthorizationError("revoked", reason=Reason.KEY_REVOKED)


class FakeSession:
    """Loses its channel when `lost` is set; a `HybridRelayError` of `reconnect` ends it, as it does the real one."""

    def __init__(self) -> None:
        self.is_open = True
        self.channel_age, self.channel_bytes = 0.0, 0
        self.outcome: HybridRelayError | None = None
        self.channels: list[trio.abc.Stream] = []
        self.lost = trio.Event()
        self._resumed = trio.Event()
        #: Set while there is a channel, or when the session has ended.
        self._opened = trio.Event()
        self.greetings = 0
        #: A channel that `replace_channel` has given it while another one was being opened.
        self._replacement: trio.abc.Stream | None = None
        #: On these the connector's greeting does not arrive: each is lost as soon as it is there.
        self.dropped = 0
        #: It never arrives at all.
        self.refuses = False
        #: How often the peer was asked whether it is there.
        self.checks = 0

    @property
    def is_attached(self) -> bool:
        return self.is_open

    async def run(
        self,
        channel: trio.abc.Stream,
        *,
        reconnect: Callable[[], Awaitable[trio.abc.Stream]],
        task_status: trio.TaskStatus[None],
    ) -> None:
        self.channels.append(channel)
        if self.refuses:
            raise SessionError("no HELLO in time", reason=Reason.PEER_SILENT)
        self.greetings += 1
        self._opened.set()
        task_status.started()
        while self.outcome is None:
            await self.lost.wait()
            self.is_open = False
            if self._opened.is_set():
                self._opened = trio.Event()
            try:
                reconnected = await reconnect()
            except HybridRelayError as exc:
                self.outcome = exc
            else:
                if self._replacement is None:
                    self.channels.append(reconnected)
                self._replacement = None
                if self.dropped:
                    self.dropped -= 1
                    continue
                self.greetings += 1
                self.is_open, self.lost = True, trio.Event()
            self._opened.set()
            self._resumed.set()

    def check_alive(self) -> None:
        self.checks += 1

    async def wait_open(self) -> None:
        await self._opened.wait()

    async def resumed(self) -> None:
        await self._resumed.wait()
        self._resumed = trio.Event()

    async def replace_channel(self, channel: trio.abc.Stream) -> None:
        await trio.lowlevel.checkpoint()
        self.channels.append(channel)
        if not self.is_open:
            self._replacement = channel


class Scene:
    """A session that goes through the first of three relays."""

    def __init__(self, count: int = 3) -> None:
        self.relays = [FakeSender(f"{letter}.example") for letter in "abc"[:count]]
        self.senders = Senders(self.relays)
        self.session = FakeSession()

    async def open_any(self) -> DataChannel:
        return await self.senders.open_data_channel(ListenerSearch(AvoidedListeners()), self.senders.in_order())

    async def make(self) -> KeptSession:
        return KeptSession(self.session, await self.open_any(), "db", self.senders)

    async def start(self, nursery: trio.Nursery) -> KeptSession:
        kept = await self.make()
        await nursery.start(kept.run)
        return kept


async def test_the_relay_it_was_on_is_tried_first(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    kept = await scene.start(nursery)
    first, second, _ = scene.relays
    scene.session.lost.set()
    await scene.session.resumed()
    assert kept.channel.sender is first
    assert first.channels_lost == 1
    assert not second.asked
    nursery.cancel_scope.cancel()


async def test_it_resumes_over_another_with_the_same_connector(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    kept = await scene.start(nursery)
    first, second, _ = scene.relays
    first.error = DOWN
    scene.session.lost.set()
    await scene.session.resumed()
    assert kept.channel.sender is second
    assert kept.channel.peer == ANY
    assert scene.session.channels[-1] is kept.channel.stream
    nursery.cancel_scope.cancel()


async def test_all_are_tried_in_turn_until_one_has_the_connector(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    kept = await scene.start(nursery)
    for relay in scene.relays:
        relay.error = ABSENT
    scene.session.lost.set()
    await trio.sleep(10)
    assert scene.session.outcome is None
    assert all(len(relay.asked) > 3 for relay in scene.relays)
    scene.relays[2].error = None
    await scene.session.resumed()
    assert kept.channel.sender is scene.relays[2]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_connector_that_is_gone_ends_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, which: int
) -> None:
    scene = Scene()
    await scene.start(nursery)
    for relay in scene.relays:
        relay.error = ABSENT
    scene.relays[which].error = GONE
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.session.outcome is GONE
    nursery.cancel_scope.cancel()


async def test_only_what_every_relay_refuses_ends_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    kept = await scene.start(nursery)
    first, second, third = scene.relays
    second.error = third.error = REVOKED
    # It said that it goes, and comes back.
    first.away_until = trio.current_time() + 5
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.session.outcome is None
    assert kept.channel.sender is first
    first.error = REVOKED
    scene.session.lost.set()
    await scene.session.resumed()
    assert isinstance(scene.session.outcome, AuthorizationError)
    nursery.cancel_scope.cancel()


async def test_a_relay_that_lets_no_greeting_pass_is_tried_after_the_others(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene()
    kept = await scene.start(nursery)
    first, second, _ = scene.relays
    scene.session.dropped = 1
    scene.session.lost.set()
    await scene.session.resumed()
    assert kept.channel.sender is second
    assert len(first.opened) == 2
    assert (await scene.open_any()).sender is second
    nursery.cancel_scope.cancel()


async def test_a_relay_that_lets_no_greeting_pass_is_not_the_first_choice_of_the_next_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    scene.session.refuses = True
    channel = await scene.open_any()
    with pytest.raises(SessionError):
        await KeptSession(scene.session, channel, "db", scene.senders).run()
    assert (await scene.open_any()).sender is scene.relays[1]


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
    kept = await scene.start(nursery)
    first, second, third = scene.relays
    second.error = ABSENT
    await kept.leave(second)
    assert len(scene.session.channels) == 1, "that is not where it is"
    first.away_until = trio.current_time() + 1
    await kept.leave(first)
    assert kept.channel.sender is third
    assert scene.session.channels[-1] is kept.channel.stream
    assert scene.session.is_open
    nursery.cancel_scope.cancel()


async def test_of_many_that_leave_at_once_some_try_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The connector lets few in at a time that have not proved an identity."""
    scene = Scene(count=2)
    kept = await scene.start(nursery)
    first, second = scene.relays
    first.away_until = trio.current_time() + 5
    second.error = RendezvousError("too many", reason=Reason.LIMIT)
    nursery.start_soon(kept.leave, first)
    await trio.sleep(0.7)
    assert kept.channel.sender is first
    second.error = None
    await trio.sleep(0.3)
    assert kept.channel.sender is second
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [1, 3])
async def test_it_stays_where_nowhere_else_is_better(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, count: int
) -> None:
    scene = Scene(count)
    kept = await scene.start(nursery)
    first, *others = scene.relays
    for relay in others:
        relay.error = ABSENT
    first.away_until = trio.current_time() + 1
    await kept.leave(first)
    assert kept.channel.sender is first
    assert len(scene.session.channels) == 1
    nursery.cancel_scope.cancel()


async def test_another_identity_in_the_connectors_place_ends_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=1)
    kept = await scene.start(nursery)
    scene.relays[0].error = CHANGED
    scene.session.lost.set()
    await scene.session.resumed()
    assert scene.session.outcome is CHANGED
    assert scene.relays[0].wanted[-1] == kept.channel.peer, "the instance, and the identity that it has to have"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("elsewhere", [DOWN, ABSENT, None])
async def test_another_identity_does_not_end_it_where_another_relay_may_lead_to_the_right_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, elsewhere: HybridRelayError | None
) -> None:
    scene = Scene(count=2)
    kept = await scene.start(nursery)
    first, second = scene.relays
    first.error, second.error = CHANGED, elsewhere
    scene.session.lost.set()
    await trio.sleep(10)
    assert scene.session.outcome is None
    second.error = None
    await scene.session.resumed()
    assert kept.channel.sender is second
    nursery.cancel_scope.cancel()


async def test_a_move_to_another_identity_is_not_made(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    kept = await scene.start(nursery)
    scene.relays[1].error = CHANGED
    assert await kept.move([scene.relays[1]]) is Reason.IDENTITY_CHANGED
    assert len(scene.session.channels) == 1
    assert scene.session.is_open
    nursery.cancel_scope.cancel()


async def test_of_two_moves_for_the_same_reason_one_is_made(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    kept = await scene.start(nursery)
    first, second = scene.relays
    for _ in range(2):
        nursery.start_soon(partial(kept.move, [second], is_needed=lambda: kept.goes_through(first)))
    await trio.sleep(1)
    assert kept.channel.sender is second
    assert len(second.asked) == 1
    nursery.cancel_scope.cancel()


async def test_it_knows_the_channel_of_a_move_that_was_faster_than_resuming(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    scene = Scene(count=2)
    kept = await scene.start(nursery)
    first, second = scene.relays
    second.ready, first.ready = trio.Event(), trio.Event()
    nursery.start_soon(kept.move, [second])
    await trio.sleep(1)
    scene.session.lost.set()
    await trio.sleep(1)
    second.ready.set()
    await trio.sleep(0.1)
    first.ready.set()
    await scene.session.resumed()
    assert scene.session.channels[-1] is second.opened[0].stream
    assert kept.channel is second.opened[0]
    nursery.cancel_scope.cancel()


async def test_a_resumption_is_logged_once_however_often_its_channel_was_lost(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(count=1)
    await scene.start(nursery)
    scene.session.dropped = 1
    scene.session.lost.set()
    await scene.session.resumed()
    await trio.sleep(1)
    assert [record.getMessage() for record in caplog.records if "resumed" in record.getMessage()] == [
        "db: resumed over tcp at a.example"
    ]
    nursery.cancel_scope.cancel()


async def test_a_move_is_logged_when_the_session_uses_the_channel(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(count=2)
    kept = await scene.start(nursery)
    _, second = scene.relays
    second.ready = trio.Event()
    nursery.start_soon(kept.move, [second])
    await trio.sleep(1)
    scene.session.outcome = GONE
    second.ready.set()
    await trio.sleep(1)
    assert "moved to" not in caplog.text
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
    kept = await scene.start(nursery)
    scene.relays[0].error = DOWN
    scene.session.lost.set()
    with trio.move_on_after(5) as relay_away:
        await kept.wait_absent()
    assert relay_away.cancelled_caught
    scene.relays[0].error = ABSENT
    with trio.fail_after(5):
        await kept.wait_absent()
    scene.relays[0].error = None
    await scene.session.resumed()
    with trio.move_on_after(5) as back:
        await kept.wait_absent()
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
    """Whatever answers on the way to the connector may pass, and the session resumes after it."""
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
    assert scene.session.outcome is error
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
