"""The life of a session at the client: transcripts, and whatever may happen while its commands are executed."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hybridrelay import events
from hybridrelay.client.lifecycle import TRANSITIONS, Cause, Machine, Outcome, State, commands, inputs
from hybridrelay.client.lifecycle.commands import Output
from hybridrelay.client.lifecycle.inputs import Channel, MoveCause
from hybridrelay.client.lifecycle.resumption import HELD_SECONDS, RESUME_BACKOFF, RESUME_JITTER
from hybridrelay.client.lifecycle.states import outcome_of
from hybridrelay.client.relays.listeners import MAX_TRIED, AvoidedListeners, ListenerSearch
from hybridrelay.errors import (
    AuthorizationError,
    HybridRelayError,
    PeerIdentityError,
    RelayUnreachable,
    RendezvousError,
)
from hybridrelay.protocol.reasons import Reason

FIRST = Channel("tcp at a.example", "one", "lab", "01")
SECOND = Channel("wss at b.example", "one", "lab", "01")
DOWN = RelayUnreachable("down")
ABSENT = RendezvousError("absent", reason=Reason.LISTENER_ABSENT)
GONE = RendezvousError("gone", reason=Reason.LISTENER_GONE)
CHANGED = PeerIdentityError("somebody else", reason=Reason.IDENTITY_CHANGED)
REVOKED = AuthorizationError("revoked", reason=Reason.KEY_REVOKED)
DENIED = PeerIdentityError("denied", reason=Reason.IDENTITY_DENIED)
#: Long enough for a data channel to count as one that held.
HELD = HELD_SECONDS + 1


def new_machine() -> Machine:
    return Machine("db", ListenerSearch(AvoidedListeners()), lambda: 0.5)


def kinds(outputs: list[Output]) -> list[str]:
    return [type(output).__name__ for output in outputs]


def connected() -> Machine:
    machine = new_machine()
    machine.handle(inputs.Start(), 0.0)
    machine.handle(inputs.ChannelOpened(1, FIRST), 0.0)
    machine.handle(inputs.Greeted("x-session-1"), 0.0)
    assert machine.state is State.CONNECTED
    return machine


def resuming() -> Machine:
    machine = connected()
    machine.handle(inputs.ChannelLost(), HELD)
    assert machine.handle(inputs.Due(), HELD + RESUME_JITTER) == [commands.Resume(2, same_relay_first=True)]
    return machine


def moving() -> Machine:
    machine = connected()
    outputs = machine.handle(inputs.MoveWanted(MoveCause.BETTER_ROUTE), HELD)
    assert outputs == [commands.OpenForMove(2, MoveCause.BETTER_ROUTE)]
    return machine


def test_a_session_is_opened_and_closed() -> None:
    machine = new_machine()
    assert machine.handle(inputs.Start(), 0.0) == [commands.Search(1)]
    assert machine.handle(inputs.ChannelOpened(1, FIRST), 1.0) == [commands.RunSession(1)]
    (opened,) = machine.handle(inputs.Greeted("x-session-1"), 2.0)
    assert opened == events.SessionOpened(
        connection="db", activity_id="x-session-1", label="lab", serial="01", route="tcp at a.example"
    )
    assert machine.was_opened
    (ended,) = machine.handle(inputs.SessionOver(Reason.NO_ERROR), 3.0)
    assert ended == events.SessionEnded(
        connection="db", activity_id="x-session-1", label="lab", outcome="closed", reason=Reason.NO_ERROR
    )
    assert machine.outcome is Outcome.CLOSED


def test_no_connector_is_found() -> None:
    machine = new_machine()
    machine.handle(inputs.Start(), 0.0)
    ended, fail = machine.handle(inputs.AttemptFailed(1, DOWN), 1.0)
    assert isinstance(ended, events.SessionNotOpened)
    assert fail == commands.Fail(DOWN)
    assert machine.outcome is Outcome.NOT_OPENED


def test_a_connector_that_does_not_accept_the_session_is_passed_over() -> None:
    search = ListenerSearch(AvoidedListeners())
    machine = Machine("db", search, lambda: 0.5)
    machine.handle(inputs.Start(), 0.0)
    machine.handle(inputs.ChannelOpened(1, FIRST), 1.0)
    outputs = machine.handle(inputs.Rejected(DENIED), 2.0)
    assert kinds(outputs) == ["TryRelayLater", "ConnectorPassedOver", "Search"]
    assert search.avoid(2.0) == ("one",)
    for number in range(2, MAX_TRIED + 1):
        assert machine.state is State.SEARCHING
        machine.handle(inputs.ChannelOpened(number, FIRST), 3.0)
        outputs = machine.handle(inputs.Rejected(DENIED), 4.0)
    assert kinds(outputs) == ["TryRelayLater", "SessionNotOpened", "Fail"]


def test_a_session_that_loses_its_channel_resumes() -> None:
    machine = connected()
    assert kinds(machine.handle(inputs.ChannelLost(), HELD)) == ["SessionInterrupted", "CheckRelay"]
    assert machine.deadline == HELD + 0.5 * RESUME_JITTER
    assert machine.handle(inputs.Due(), HELD) == [], "it is not time yet"
    assert machine.handle(inputs.Due(), HELD + 1) == [commands.Resume(2, same_relay_first=True)]
    assert machine.handle(inputs.ChannelOpened(2, SECOND), HELD + 2) == [commands.UseChannel(2)]
    (resumed,) = machine.handle(inputs.Greeted("x-session-1"), HELD + 3)
    assert resumed == events.SessionResumed(
        connection="db", activity_id="x-session-1", label="lab", route="wss at b.example"
    )


def test_no_attempt_begins_while_all_relays_are_away() -> None:
    machine = connected()
    machine.handle(inputs.ChannelLost(), 10.0)
    assert machine.handle(inputs.Due(relays_away_until=20.0), 11.0) == []
    assert machine.state is State.LOST
    assert machine.deadline == 20.0 + 0.5 * RESUME_JITTER
    assert kinds(machine.handle(inputs.Due(relays_away_until=20.0), 20.2)) == ["Resume"]


def test_a_channel_without_greeting_sets_its_relay_back_and_is_no_news() -> None:
    machine = resuming()
    machine.handle(inputs.ChannelOpened(2, SECOND), 3.0)
    assert kinds(machine.handle(inputs.ChannelLost(), 3.0)) == ["CheckRelay", "TryRelayLater"]
    assert machine.handle(inputs.Due(), 5.0) == [commands.Resume(3, same_relay_first=False)]


def test_channels_that_are_lost_at_once_are_followed_by_pauses() -> None:
    machine = connected()
    now, waits = HELD, []
    for number in range(2, 8):
        machine.handle(inputs.ChannelLost(), now)
        assert machine.deadline is not None
        waits.append(machine.deadline - now)
        now = machine.deadline
        machine.handle(inputs.Due(), now)
        machine.handle(inputs.ChannelOpened(number, SECOND), now)
        machine.handle(inputs.Greeted("x-session-1"), now)
    assert waits[0] == waits[1] == 0.5 * RESUME_JITTER
    assert all(later > 0.2 for later in waits[2:])
    assert max(waits) <= RESUME_BACKOFF + RESUME_JITTER


@pytest.mark.parametrize(
    ("error", "tried_every_relay", "outcome", "reason"),
    [
        (GONE, False, Outcome.CONNECTOR_GONE, Reason.SESSION_LOST),
        (REVOKED, True, Outcome.KEY_REFUSED, Reason.SESSION_LOST),
        (CHANGED, True, Outcome.IDENTITY_CHANGED, Reason.IDENTITY_CHANGED),
    ],
)
def test_what_is_final_ends_it(
    error: HybridRelayError, tried_every_relay: bool, outcome: Outcome, reason: Reason
) -> None:
    machine = resuming()
    text = f"the session cannot be resumed: {error}"
    outputs = machine.handle(inputs.AttemptFailed(2, error, tried_every_relay), 10.0)
    assert outputs == [commands.CloseSession(reason, text)]
    assert machine.deadline is None
    (ended,) = machine.handle(inputs.SessionOver(reason, text), 10.0)
    assert isinstance(ended, events.SessionLost)
    assert (ended.outcome, ended.detail) == (outcome.value, text)
    assert machine.outcome is outcome


@pytest.mark.parametrize(
    ("error", "tried_every_relay"), [(DOWN, True), (ABSENT, True), (DENIED, True), (REVOKED, False), (CHANGED, False)]
)
def test_everything_else_is_tried_again(error: HybridRelayError, tried_every_relay: bool) -> None:
    machine = resuming()
    outputs = machine.handle(inputs.AttemptFailed(2, error, tried_every_relay), 10.0)
    assert kinds(outputs) == ["SessionNotResumedYet"]
    assert machine.is_connector_absent is (error in (ABSENT, DENIED, CHANGED))
    machine.handle(inputs.Due(), 20.0)
    assert machine.handle(inputs.AttemptFailed(3, error, tried_every_relay), 21.0) == [], "the same again"
    machine.handle(inputs.Due(), 30.0)
    machine.handle(inputs.ChannelOpened(4, SECOND), 31.0)
    machine.handle(inputs.Greeted("x-session-1"), 31.0)
    assert not machine.is_connector_absent


def test_a_session_moves_to_another_channel() -> None:
    machine = moving()
    assert machine.handle(inputs.ChannelOpened(2, SECOND), 3.0) == [commands.UseChannel(2)]
    moved, answer = machine.handle(inputs.Greeted("x-session-1"), 4.0)
    assert moved == events.SessionMoved(
        connection="db", activity_id="x-session-1", label="lab", route="wss at b.example", cause="better-route"
    )
    assert answer == commands.AnswerMove(None)


def test_a_move_that_fails_leaves_it_where_it_is() -> None:
    machine = moving()
    outputs = machine.handle(inputs.AttemptFailed(2, DOWN), 3.0)
    assert kinds(outputs) == ["SessionNotMoved", "AnswerMove"]
    assert outputs[-1] == commands.AnswerMove(DOWN)
    assert machine.state is State.CONNECTED
    assert machine.channel == FIRST


def test_a_move_that_fails_again_and_again_is_published_when_the_reason_changes() -> None:
    machine = moving()  # to a better route; afterwards because the connection string was changed
    published: list[bool] = []
    for number, error in enumerate([DOWN, DOWN, DOWN, RelayUnreachable("another reason"), DOWN], 2):
        outputs = machine.handle(inputs.AttemptFailed(number, error), 3.0)
        assert outputs[-1] == commands.AnswerMove(error)
        published.append("SessionNotMoved" in kinds(outputs))
        machine.handle(inputs.MoveWanted(MoveCause.STRING_CHANGED), 4.0)
    assert published == [True, True, False, True, True]


def test_a_move_has_failed_if_the_connector_does_not_greet_on_the_new_channel() -> None:
    machine = moving()
    machine.handle(inputs.ChannelOpened(2, SECOND), 3.0)
    outputs = machine.handle(inputs.ChannelLost(), 4.0)
    assert kinds(outputs) == ["AnswerMove", "CheckRelay", "TryRelayLater"]
    assert isinstance(outputs[0], commands.AnswerMove)
    assert outputs[0].error is not None
    machine.handle(inputs.Due(), 10.0)
    machine.handle(inputs.ChannelOpened(3, FIRST), 11.0)
    assert kinds(machine.handle(inputs.Greeted("x-session-1"), 12.0)) == ["SessionResumed"]


def test_a_move_that_is_faster_than_resuming_is_used() -> None:
    machine = moving()
    assert kinds(machine.handle(inputs.ChannelLost(), HELD)) == ["SessionInterrupted", "CheckRelay"]
    machine.handle(inputs.Due(), HELD + 1)
    assert machine.handle(inputs.ChannelOpened(2, SECOND), 5.0) == [commands.Abandon(3), commands.UseChannel(2)]
    assert machine.handle(inputs.ChannelOpened(3, FIRST), 5.0) == [], "it was abandoned"
    assert kinds(machine.handle(inputs.Greeted("x-session-1"), 6.0)) == ["SessionResumed", "AnswerMove"]
    assert machine.channel == SECOND


def test_a_move_is_over_if_it_resumes_first() -> None:
    machine = moving()
    machine.handle(inputs.ChannelLost(), HELD)
    machine.handle(inputs.Due(), HELD + 1)
    outputs = machine.handle(inputs.ChannelOpened(3, FIRST), 5.0)
    assert kinds(outputs) == ["Abandon", "AnswerMove", "UseChannel"]
    assert isinstance(outputs[1], commands.AnswerMove)
    assert outputs[1].error is not None
    assert kinds(machine.handle(inputs.Greeted("x-session-1"), 6.0)) == ["SessionResumed"]


def test_a_move_that_nobody_waits_for_is_given_up() -> None:
    machine = moving()
    assert machine.handle(inputs.MoveWithdrawn(), 3.0) == [commands.Abandon(2)]
    assert machine.state is State.CONNECTED
    assert kinds(machine.handle(inputs.MoveWanted(MoveCause.RENEWAL), 4.0)) == ["OpenForMove"]


def test_only_a_session_with_a_channel_moves() -> None:
    machine = resuming()
    (answer,) = machine.handle(inputs.MoveWanted(MoveCause.RENEWAL), 3.0)
    assert isinstance(answer, commands.AnswerMove)
    assert answer.error is not None
    assert machine.state is State.RESUMING


@pytest.mark.parametrize(
    ("reason", "by_connector", "outcome"),
    [
        (Reason.NO_ERROR, False, Outcome.CLOSED),
        (Reason.GOING_AWAY, False, Outcome.CANCELLED),
        (Reason.SESSION_LOST, False, Outcome.NOT_RESUMED),
        (Reason.PROTOCOL_ERROR, False, Outcome.FAILED),
        (Reason.NO_ERROR, True, Outcome.CLOSED_BY_CONNECTOR),
        (Reason.GOING_AWAY, True, Outcome.CLOSED_BY_CONNECTOR),
        (Reason.IDENTITY_DENIED, True, Outcome.IDENTITY_REFUSED),
        (Reason.SESSION_UNKNOWN, True, Outcome.FORGOTTEN),
        (Reason.PROTOCOL_ERROR, True, Outcome.FAILED),
    ],
)
def test_every_end_has_a_name(reason: Reason, by_connector: bool, outcome: Outcome) -> None:
    machine = connected()
    (ended,) = machine.handle(inputs.SessionOver(reason, "why", by_connector), 1.0)
    assert type(ended) is (events.SessionEnded if outcome.is_in_order else events.SessionLost)
    assert machine.outcome is outcome
    assert outcome_of(reason, by_connector=by_connector) is outcome


def test_every_reason_has_an_outcome() -> None:
    for reason in Reason:
        for by_connector in (False, True):
            assert isinstance(outcome_of(reason, by_connector=by_connector), Outcome)


def test_the_table_leads_from_everywhere_to_the_end() -> None:
    reached = {State.SEARCHING, *TRANSITIONS.values()}
    assert reached == set(State)
    assert {cause for _, cause in TRANSITIONS} == set(Cause)
    for state in State:
        assert ((state, Cause.ENDED) in TRANSITIONS) is (state is not State.ENDED)


class Executor:
    """Carries out the commands as the shell does, except that it decides when and how they end."""

    def __init__(self) -> None:
        self.machine = new_machine()
        self.now = 0.0
        #: Attempts that are being made.
        self.attempts: set[int] = set()
        #: The session has been given a data channel, and the connector has not greeted on it.
        self.awaits_greeting = False
        self.has_channel = False
        self.runs = False
        #: The reason with which the session is being closed.
        self.closing: Reason | None = None
        self.moves = 0
        self.ends: list[events.Event] = []
        self.opened = 0
        self.failed: HybridRelayError | None = None
        self.feed(inputs.Start())

    def feed(self, given: inputs.Input) -> None:
        over = self.machine.state is State.ENDED
        outputs = self.machine.handle(given, self.now)
        assert not (over and outputs), "nothing happens after the end"
        for output in outputs:
            self.execute(output)
        self.check()

    def execute(self, output: Output) -> None:
        match output:
            case commands.Search(attempt) | commands.Resume(attempt) | commands.OpenForMove(attempt):
                assert attempt not in self.attempts
                self.attempts.add(attempt)
            case commands.Abandon(attempt):
                self.attempts.remove(attempt)
            case commands.RunSession(_):
                assert not self.runs
                self.runs = self.has_channel = self.awaits_greeting = True
            case commands.UseChannel(_):
                assert self.runs
                self.has_channel = self.awaits_greeting = True
            case commands.CloseSession(reason):
                assert self.runs
                assert self.closing is None
                self.closing = reason
            case commands.AnswerMove():
                self.moves -= 1
            case commands.Fail(error):
                self.failed = error
            case events.SessionOpened():
                self.opened += 1
            case events.SessionEnded() | events.SessionLost() | events.SessionNotOpened():
                self.ends.append(output)

    def check(self) -> None:
        machine = self.machine
        ended = machine.state is State.ENDED
        assert len(self.ends) == ended, "exactly one event says how it ended"
        assert (machine.outcome is not None) is ended
        assert self.opened == machine.was_opened
        assert 0 <= self.moves <= 1
        if ended:
            assert not self.attempts
            assert not self.moves
            assert machine.deadline is None
            assert isinstance(self.ends[0], events.SessionNotOpened) is not machine.was_opened
            assert (self.failed is not None) is (machine.outcome is Outcome.NOT_OPENED)
        else:
            # Something is in progress, or has a deadline: the machine never waits without end.
            waits = self.attempts or self.has_channel or self.closing is not None
            assert waits or machine.deadline is not None
            assert machine.deadline is None or math.isfinite(machine.deadline)


class Lives(RuleBasedStateMachine):
    """Whatever may happen to a session."""

    run: Executor

    @initialize()
    def begin(self) -> None:
        self.run = Executor()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.5, 40.0]), away=st.sampled_from([-math.inf, 0.0, 5.0]))
    def time_passes(self, seconds: float, away: float) -> None:
        self.run.now += seconds
        deadline = self.run.machine.deadline
        if deadline is not None and self.run.now >= deadline:
            self.run.feed(inputs.Due(self.run.now + away))

    @precondition(lambda self: self.run.attempts)
    @rule(data=st.data(), channel=st.sampled_from([FIRST, SECOND]))
    def an_attempt_succeeds(self, data: st.DataObject, channel: Channel) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.run.attempts)))
        self.run.attempts.remove(attempt)
        self.run.feed(inputs.ChannelOpened(attempt, channel))

    @precondition(lambda self: self.run.attempts)
    @rule(data=st.data(), error=st.sampled_from([DOWN, ABSENT, GONE, CHANGED, REVOKED, DENIED]), every=st.booleans())
    def an_attempt_fails(self, data: st.DataObject, error: HybridRelayError, every: bool) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.run.attempts)))
        self.run.attempts.remove(attempt)
        self.run.feed(inputs.AttemptFailed(attempt, error, every))

    @precondition(lambda self: self.run.awaits_greeting)
    @rule()
    def the_connector_greets(self) -> None:
        self.run.awaits_greeting = False
        self.run.feed(inputs.Greeted("x-session-1"))

    @precondition(lambda self: self.run.runs and not self.run.machine.was_opened)
    @rule(error=st.sampled_from([DOWN, DENIED]))
    def the_connector_rejects(self, error: HybridRelayError) -> None:
        self.run.runs = self.run.has_channel = self.run.awaits_greeting = False
        self.run.feed(inputs.Rejected(error))

    @precondition(lambda self: self.run.runs and self.run.has_channel and self.run.machine.was_opened)
    @rule()
    def the_channel_is_lost(self) -> None:
        self.run.has_channel = self.run.awaits_greeting = False
        self.run.feed(inputs.ChannelLost())

    @precondition(lambda self: self.run.machine.was_opened and self.run.moves == 0 and self.run.runs)
    @rule(cause=st.sampled_from(MoveCause))
    def a_move_is_wanted(self, cause: MoveCause) -> None:
        self.run.moves = 1
        self.run.feed(inputs.MoveWanted(cause))

    @precondition(lambda self: self.run.machine.state is State.MOVING)
    @rule()
    def the_move_is_withdrawn(self) -> None:
        self.run.moves = 0
        self.run.feed(inputs.MoveWithdrawn())

    @precondition(lambda self: self.run.runs and self.run.machine.was_opened)
    @rule(
        reason=st.sampled_from([Reason.NO_ERROR, Reason.GOING_AWAY, Reason.SESSION_LOST, Reason.IDENTITY_DENIED]),
        by_connector=st.booleans(),
    )
    def the_session_ends(self, reason: Reason, by_connector: bool) -> None:
        self.run.runs = self.run.has_channel = self.run.awaits_greeting = False
        self.run.feed(inputs.SessionOver(self.run.closing or reason, "", by_connector))

    @precondition(lambda self: self.run.now > 30)
    @rule()
    def it_is_cancelled(self) -> None:
        self.run.runs = self.run.has_channel = self.run.awaits_greeting = False
        self.run.feed(inputs.Cancelled())


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100)
