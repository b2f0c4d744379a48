"""The registration machine: transcripts, and everything that may happen while its commands are executed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hybridrelay import events
from hybridrelay.connectivity import Candidate, candidates, discover
from hybridrelay.connector.registration import Machine, commands, inputs
from hybridrelay.connector.registration.commands import Output
from hybridrelay.connector.registration.entry import ASK_AGAIN_SECONDS
from hybridrelay.connector.registration.machine import MIN_RENEWAL_SECONDS, RENEW_AFTER
from hybridrelay.connector.registration.registrations import MAX_GRANT
from hybridrelay.connector.registration.states import CHANNELS, PHASES, ChannelState, Phase
from hybridrelay.errors import AuthorizationError, HybridRelayError, RelayUnreachable
from hybridrelay.protocol import control
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import Secret, generate_key

from .fakes import published

TCP, WSS, WS = candidates(discover(), "auto")
RELAY = ("key", "run")
ONE, TWO = published("one").string, published("two").string
STRINGS = {"one": ONE, "two": TWO}
UNREACHABLE = RelayUnreachable("no answer")
REFUSED = AuthorizationError("revoked", reason=Reason.KEY_REVOKED)
FULL = HybridRelayError("full", reason=Reason.LIMIT)
SUPERSEDED = AuthorizationError("later", reason=Reason.SUPERSEDED)
OTHER_KEY = generate_key()


def machine(*names: str) -> Machine:
    made = Machine("relay.example", random=lambda: 0.5)
    for name in names:
        made.handle(inputs.Publish(name, STRINGS[name]), 0.0)
    return made


def kinds(outputs: list[Output]) -> list[str]:
    return [type(output).__name__ for output in outputs]


def test_the_first_registration_and_its_renewal() -> None:
    made = machine("one")
    assert kinds(made.handle(inputs.Start(), 0.0)) == ["OpenChannel"]
    (register,) = made.handle(inputs.ChannelOpened(1, WSS, RELAY), 1.0)
    assert register == commands.RequestRegistration(1, 1, "one", ONE)
    deadlines = [made.deadline]
    assert kinds(made.handle(inputs.RequestGranted(1, 1, 600.0), 2.0)) == ["RegistrationSucceeded", "ReportChange"]
    deadlines.append(made.deadline)
    assert deadlines == [None, 2.0 + 600 * RENEW_AFTER]
    assert made.handle(inputs.Due(), 422.0) == [commands.RequestRegistration(1, 2, "one", ONE)]
    # It is registered already: nothing has happened that is worth an event.
    assert kinds(made.handle(inputs.RequestGranted(1, 2, 1e9), 423.0)) == ["ReportChange"]
    # A longer grant counts as an hour, from when it was asked for.
    assert made.deadline == 423.0 + (MAX_GRANT - 1.0) * RENEW_AFTER


def test_a_relay_that_grants_no_time_is_asked_once_a_second() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    asked_at = [0.0]
    for request in range(1, 10):
        made.handle(inputs.RequestGranted(1, request, 0.0), asked_at[-1])
        due = made.deadline
        assert due is not None
        assert made.handle(inputs.Due(), due) == [commands.RequestRegistration(1, request + 1, "one", ONE)]
        asked_at.append(due)
    assert asked_at == [MIN_RENEWAL_SECONDS * number for number in range(10)]


def test_a_channel_that_ends_while_it_is_opened_is_forgotten() -> None:
    """An exception that nobody expected ends the connector, and no exception of the machine takes its place."""
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    assert made.handle(inputs.ChannelEnded(1), 1.0) == []
    assert made.handle(inputs.ChannelOpened(1, WSS, RELAY), 1.0) == []


def test_a_lost_channel_is_replaced_after_a_wait() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    lost = made.handle(inputs.ChannelEnded(1), 5.0)
    assert kinds(lost) == ["RegistrationEnded", "ForgetRoute", "ControlChannelLost", "ReportChange"]
    assert made.phase is Phase.WAITING
    assert made.deadline is not None
    assert kinds(made.handle(inputs.Due(), made.deadline)) == ["OpenChannel"]


def test_a_channel_that_ends_because_of_a_replacement_is_not_reported_as_lost() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    assert made.handle(inputs.ReplacementExpected(is_expected=True), 1.0) == []
    assert kinds(made.handle(inputs.ChannelEnded(1), 5.0)) == ["RegistrationEnded", "ForgetRoute", "ReportChange"]
    assert made.phase is Phase.WAITING  # the replacement may still fail
    assert made.deadline is not None
    made.handle(inputs.Due(), made.deadline)
    made.handle(inputs.ChannelOpened(2, WSS, RELAY), 7.0)
    made.handle(inputs.RequestGranted(2, 2, 600.0), 7.0)
    made.handle(inputs.ReplacementExpected(is_expected=False), 8.0)
    assert "ControlChannelLost" in kinds(made.handle(inputs.ChannelEnded(2), 9.0))


def test_a_registration_that_another_registrar_has_replaced_is_not_a_failure() -> None:
    """The connection string has other ports for the same relay: no warning, and no further request."""
    made = machine("one", "two")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    made.handle(inputs.RequestGranted(1, 2, 600.0), 0.0)
    made.handle(inputs.ReplacementExpected(is_expected=True), 1.0)
    done = made.handle(inputs.EndedByRelay(1, "one", Reason.SUPERSEDED), 2.0)
    assert kinds(done) == ["RegistrationEnded", "ReportChange"]
    made.handle(inputs.ReplacementExpected(is_expected=False), 3.0)
    done = made.handle(inputs.EndedByRelay(1, "two", Reason.SUPERSEDED), 4.0)
    assert "RegistrationFailed" in kinds(done)


def test_a_successor_takes_over_before_the_earlier_channel_is_closed() -> None:
    made = machine("one", "two")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    made.handle(inputs.RequestGranted(1, 2, 600.0), 0.0)
    assert made.route is WSS
    assert made.handle(inputs.MoveToRoute(TCP), 10.0)[-1] == commands.OpenChannel(2, TCP)
    assert made.handle(inputs.ChannelOpened(2, TCP, RELAY), 11.0) == [commands.RequestRegistration(2, 3, "one", ONE)]
    assert made.handle(inputs.RequestGranted(2, 3, 600.0), 12.0)[-1] == commands.RequestRegistration(2, 4, "two", TWO)
    # The relay tells the earlier channel, which is not a loss.
    assert made.handle(inputs.EndedByRelay(1, "one", Reason.SUPERSEDED), 12.0) == []
    done = made.handle(inputs.RequestGranted(2, 4, 600.0), 13.0)
    assert [output for output in done if not isinstance(output, events.Event)] == [
        commands.AnswerRoute(None, move_sessions=True),
        commands.ReportChange(),
        commands.CloseChannel(1),
    ]
    assert made.route is TCP
    assert made.handle(inputs.ChannelEnded(1), 14.0) == []


def test_a_successor_that_cannot_be_opened_changes_nothing() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    before = made.deadline
    made.handle(inputs.MoveToRoute(TCP), 10.0)
    assert made.handle(inputs.OpeningFailed(2, UNREACHABLE), 11.0) == [commands.AnswerRoute(UNREACHABLE)]
    assert made.route is WSS
    assert made.deadline == before


def test_a_network_that_changes_while_only_a_successor_is_open_begins_again() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    made.handle(inputs.MoveToRoute(TCP), 10.0)
    made.handle(inputs.ChannelOpened(2, TCP, RELAY), 11.0)
    made.handle(inputs.ChannelEnded(1), 12.0)
    outputs = made.handle(inputs.RoutesUncertain(), 13.0)
    assert commands.AbandonChannel(2) in outputs
    assert made.phase is Phase.WAITING
    assert made.deadline is not None
    assert kinds(made.handle(inputs.Due(), made.deadline)) == ["OpenChannel"]


def key_in_force(made: Machine) -> Secret | None:
    """The key by which the relay makes offers for `one`; None if it is not known."""
    return made.registrations["one"].key


def test_since_when_it_is_registered_and_what_failed_last() -> None:
    made = machine("one")
    one = made.registrations["one"]
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.OpeningFailed(1, UNREACHABLE), 1.0)
    assert (one.is_registered, one.last_failure, one.failed_at) == (False, UNREACHABLE, 1.0)
    assert made.deadline is not None
    made.handle(inputs.Due(), made.deadline)
    made.handle(inputs.ChannelOpened(2, WSS, RELAY), 100.0)
    made.handle(inputs.RequestGranted(2, 1, 600.0), 101.0)
    assert (one.registered_at, one.failure, one.last_failure) == (101.0, None, UNREACHABLE)
    # `registered_at` stays the same when the registration is renewed, and when it moves to a better route.
    due = made.deadline
    assert due is not None
    made.handle(inputs.Due(), due)
    made.handle(inputs.RequestGranted(2, 2, 600.0), due + 1)
    made.handle(inputs.MoveToRoute(TCP), due + 2)
    made.handle(inputs.ChannelOpened(3, TCP, RELAY), due + 3)
    made.handle(inputs.RequestGranted(3, 3, 600.0), due + 4)
    assert (one.over, one.registered_at) == (3, 101.0)
    made.handle(inputs.ChannelEnded(2), due + 5)
    made.handle(inputs.ChannelEnded(3), due + 6)
    assert not one.is_registered
    again = made.deadline
    assert again is not None
    made.handle(inputs.Due(), again)
    made.handle(inputs.ChannelOpened(4, WSS, RELAY), again + 1)
    made.handle(inputs.RequestGranted(4, 4, 600.0), again + 2)
    assert one.registered_at == again + 2


def test_a_changed_key_that_is_refused_leaves_the_earlier_one_in_use() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    made.handle(inputs.Confirmed(1, 1), 0.0)
    assert key_in_force(made) == ONE.key
    changed = attrs.evolve(ONE, key=generate_key())
    assert made.handle(inputs.StringChanged("one", changed), 100.0) == [commands.UseKey(changed.key)]
    # Until the relay has answered, it is not known by which key it offers.
    assert key_in_force(made) is None
    assert made.handle(inputs.Due(), 100.0) == [commands.RequestRegistration(1, 2, "one", changed)]
    assert made.handle(inputs.RequestRefused(1, 2, REFUSED), 101.0) == [
        commands.RequestRegistration(1, 3, "one", ONE)
    ]
    outputs = made.handle(inputs.RequestGranted(1, 3, 600.0), 102.0)
    assert kinds(outputs) == ["EarlierKeyUsed", "UseKey", "ReportChange"]
    made.handle(inputs.Confirmed(1, 3), 102.0)
    assert key_in_force(made) == ONE.key


def test_a_key_that_is_revoked_before_its_successor_was_tried_is_no_reason_to_give_up() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    changed = attrs.evolve(ONE, key=generate_key())
    made.handle(inputs.StringChanged("one", changed), 100.0)
    one = made.registrations["one"]
    # The relay ends the registration when the earlier key is revoked.
    outputs = made.handle(inputs.EndedByRelay(1, "one", Reason.KEY_REVOKED), 100.0)
    assert kinds(outputs)[:2] == ["RegistrationEnded", "RegistrationFailed"]
    assert not one.is_refused
    assert made.handle(inputs.Due(), 100.0) == [commands.RequestRegistration(1, 2, "one", changed)]
    made.handle(inputs.RequestGranted(1, 2, 600.0), 101.0)
    assert one.is_registered
    # Afterwards, the current key is the one that was revoked.
    outputs = made.handle(inputs.EndedByRelay(1, "one", Reason.KEY_REVOKED), 102.0)
    assert "RegistrationRefused" in kinds(outputs)
    assert one.is_refused


def test_a_string_that_is_changed_while_the_relay_refuses_the_previous_one_is_tried_next() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    first, second, third = (attrs.evolve(ONE, key=generate_key()) for _ in range(3))
    made.handle(inputs.StringChanged("one", first), 0.0)
    assert made.handle(inputs.RequestRefused(1, 1, REFUSED), 1.0) == [
        commands.RequestRegistration(1, 2, "one", first)
    ]
    made.handle(inputs.RequestGranted(1, 2, 600.0), 1.0)
    # The same while the relay refuses the string that it had accepted, after it has refused a new one.
    made.handle(inputs.StringChanged("one", second), 2.0)
    made.handle(inputs.Due(), 2.0)
    assert made.handle(inputs.RequestRefused(1, 3, REFUSED), 3.0) == [
        commands.RequestRegistration(1, 4, "one", first)
    ]
    made.handle(inputs.StringChanged("one", third), 3.0)
    assert made.handle(inputs.RequestRefused(1, 4, REFUSED), 4.0) == [
        commands.RequestRegistration(1, 5, "one", third)
    ]
    # It is the newest one, so its refusal is final.
    made.handle(inputs.RequestRefused(1, 5, REFUSED), 5.0)
    made.handle(inputs.RequestRefused(1, 6, REFUSED), 5.0)
    assert made.registrations["one"].is_refused


def test_a_relay_that_refuses_everything_is_asked_again_much_later() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestRefused(1, 1, REFUSED), 0.0)
    # The channel is closed when it is certain that nobody wants the refusal to be checked.
    assert made.deadline == 0.0
    assert made.handle(inputs.Due(), 0.0)[-1] == commands.CloseChannel(1)
    made.handle(inputs.ChannelEnded(1), 0.0)
    assert made.deadline is not None
    assert made.deadline >= ASK_AGAIN_SECONDS


def test_what_is_withdrawn_before_its_request_is_not_registered() -> None:
    made = machine("one", "two")
    made.handle(inputs.Start(), 0.0)
    assert made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0) == [commands.RequestRegistration(1, 1, "one", ONE)]
    assert made.handle(inputs.Unpublish("two"), 0.0) == []
    granted = made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    assert kinds(granted) == ["RegistrationSucceeded", "ReportChange"]


def test_what_is_withdrawn_while_the_relay_answers_does_not_stay_there() -> None:
    made = machine("one", "two")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.Unpublish("one"), 0.0)
    granted = made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    assert granted[:2] == [
        commands.WithdrawRegistration(1, 2, "one"),
        commands.RequestRegistration(1, 3, "two", TWO),
    ]


def test_a_relay_that_cannot_be_reached_does_not_hide_why_it_has_refused() -> None:
    """`status` shows the refusal, which an administrator has to resolve, and the relay is not asked again earlier."""
    made = machine("one", "two")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestRefused(1, 1, REFUSED), 0.0)
    made.handle(inputs.RequestGranted(1, 2, 600.0), 0.0)
    made.handle(inputs.ChannelEnded(1), 1.0)
    assert made.deadline is not None
    assert kinds(made.handle(inputs.Due(), made.deadline)) == ["OpenChannel"]
    made.handle(inputs.OpeningFailed(2, UNREACHABLE), 5.0)
    one, two = made.registrations["one"], made.registrations["two"]
    assert (one.failure, one.is_refused) == (REFUSED, True)
    assert (two.failure, two.is_refused) == (UNREACHABLE, False)
    assert one.asks_again_in(5.0) == ASK_AGAIN_SECONDS - 5.0


def test_offers_are_opened_only_for_what_is_published() -> None:
    made = machine("one")
    made.handle(inputs.Start(), 0.0)
    made.handle(inputs.ChannelOpened(1, WSS, RELAY), 0.0)
    made.handle(inputs.RequestGranted(1, 1, 600.0), 0.0)
    made.handle(inputs.Confirmed(1, 1), 0.0)
    known = control.Offer(1, "one", bytes(TICKET_SIZE), 30.0)
    other = control.Offer(2, "other", bytes(TICKET_SIZE), 30.0)
    assert made.handle(inputs.Offered(1, known), 1.0) == [commands.OpenDataChannel(1, known, ONE.key)]
    assert made.handle(inputs.Offered(1, other), 1.0) == [commands.DeclineOffer(1, other, Reason.UNKNOWN_CONNECTION)]


@pytest.mark.parametrize("state", list(ChannelState))
def test_what_is_over_stays_over(state: ChannelState) -> None:
    following = {target for (before, _), target in CHANNELS.items() if before is state}
    assert (state is ChannelState.CLOSED) == (not following)


def test_stopped_is_the_last_phase() -> None:
    assert {target for (before, _), target in PHASES.items() if before is Phase.STOPPED} == {Phase.STOPPED}


class Executor:
    """Executes whatever the machine commands, and checks what holds after every input."""

    def __init__(self, names: list[str]) -> None:
        self.now = 0.0
        self.machine = Machine("relay.example", random=lambda: 0.5)
        self.opening: set[int] = set()
        self.open: set[int] = set()
        #: Requests that have not been answered, with their channels.
        self.requests: dict[int, int] = {}
        #: Better routes that have not been answered.
        self.questions = 0
        self.is_stopped = False
        for name in names:
            self.feed(inputs.Publish(name, STRINGS[name]))
        self.feed(inputs.Start())

    def feed(self, given: inputs.Input) -> None:
        outputs = self.machine.handle(given, self.now)
        if self.is_stopped:
            assert outputs == []
        for output in outputs:
            self._execute(output)
        self.is_stopped = self.machine.is_stopped
        self.check()

    def _execute(self, output: Output) -> None:
        match output:
            case commands.OpenChannel(number):
                assert number not in self.opening | self.open
                self.opening.add(number)
            case commands.CloseChannel(number) | commands.CheckChannel(number):
                assert number in self.open
            case commands.AbandonChannel(number):
                assert number in self.opening | self.open
                self.forget(number)
            case commands.RequestRegistration(channel, request):
                assert channel in self.open
                assert not self.requests, "one request at a time"
                self.requests[request] = channel
            case (
                commands.WithdrawRegistration(channel)
                | commands.OpenDataChannel(channel)
                | commands.DeclineOffer(channel)
            ):
                assert channel in self.open
            case commands.AnswerRoute():
                self.questions -= 1
                assert self.questions == 0
            case _:
                pass

    def check(self) -> None:
        machine = self.machine
        if self.is_stopped or machine.phase is Phase.IDLE:
            return
        states = [one.state for one in machine.channels]
        assert states.count(ChannelState.CURRENT) <= 1
        assert (machine.phase is Phase.CONNECTED) == bool(self.open)
        # It always waits for something: an answer, the end of a channel that is closed, or a time.
        if not self.opening and not self.requests and machine.deadline is None:
            assert set(states) == {ChannelState.CLOSING}
        assert all(one.over in self.open for one in machine.registrations.values() if one.over is not None)

    def forget(self, number: int) -> None:
        self.opening.discard(number)
        self.open.discard(number)
        self.requests = {request: channel for request, channel in self.requests.items() if channel != number}

    # --- what may happen

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(1000):
            deadline = self.machine.deadline
            if deadline is None or deadline > until:
                break
            self.now = max(self.now, deadline)
            self.feed(inputs.Due())
        else:
            raise AssertionError("the machine keeps the process busy")
        self.now = until

    def open_channel(self, number: int, route: Candidate) -> None:
        self.opening.remove(number)
        self.open.add(number)
        self.feed(inputs.ChannelOpened(number, route, RELAY))

    def fail_channel(self, number: int, error: HybridRelayError) -> None:
        self.opening.remove(number)
        self.feed(inputs.OpeningFailed(number, error))

    def end_channel(self, number: int) -> None:
        self.forget(number)
        self.feed(inputs.ChannelEnded(number))

    def register(self, seconds: float, *, confirmed: bool = True) -> None:
        ((request, channel),) = self.requests.items()
        if confirmed:
            self.feed(inputs.Confirmed(channel, request))
        self.requests.clear()
        self.feed(inputs.RequestGranted(channel, request, seconds))

    def refuse(self, error: HybridRelayError) -> None:
        request, channel = self.requests.popitem()
        self.feed(inputs.RequestRefused(channel, request, error))

    def fail_request(self) -> None:
        request, channel = self.requests.popitem()
        self.feed(inputs.RequestFailed(channel, request, UNREACHABLE))

    def find_better(self, route: Candidate) -> None:
        self.questions = 1
        self.feed(inputs.MoveToRoute(route))


#: What may happen next, where it can.
STEPS: dict[str, tuple[Callable[[Executor], object], Callable[[Executor], None]]] = {
    "first opens": (lambda it: it.opening, lambda it: it.open_channel(min(it.opening), WSS)),
    "last opens": (lambda it: it.opening, lambda it: it.open_channel(max(it.opening), TCP)),
    "opening fails": (lambda it: it.opening, lambda it: it.fail_channel(max(it.opening), UNREACHABLE)),
    "first ends": (lambda it: it.open, lambda it: it.end_channel(min(it.open))),
    "last ends": (lambda it: len(it.open) > 1, lambda it: it.end_channel(max(it.open))),
    "registered": (lambda it: it.requests, lambda it: it.register(600.0)),
    "refused": (lambda it: it.requests, lambda it: it.refuse(REFUSED)),
    "full": (lambda it: it.requests, lambda it: it.refuse(FULL)),
    "superseded": (lambda it: it.requests, lambda it: it.refuse(SUPERSEDED)),
    "request fails": (lambda it: it.requests, lambda it: it.fail_request()),
    "better route": (lambda it: not it.questions and not it.is_stopped, lambda it: it.find_better(TCP)),
    "network changes": (lambda it: True, lambda it: it.feed(inputs.RoutesUncertain())),
    "string changes": (
        lambda it: not it.is_stopped,
        lambda it: it.feed(inputs.StringChanged("one", attrs.evolve(ONE, key=OTHER_KEY))),
    ),
    "relay ends one": (
        lambda it: it.open,
        lambda it: it.feed(inputs.EndedByRelay(min(it.open), "one", Reason.KEY_REVOKED)),
    ),
    "a minute passes": (lambda it: True, lambda it: it.pass_time(60.0)),
}
#: From where everything that may happen is tried.
BEGINNINGS = {
    "start": [],
    "registered": ["first opens", "registered", "registered"],
    "successor opens": ["first opens", "registered", "registered", "better route"],
    "successor takes over": ["first opens", "registered", "registered", "better route", "last opens", "registered"],
    "refused": ["first opens", "refused", "refused"],
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_after_any_four_inputs_the_machine_is_consistent(beginning: str) -> None:
    """All sequences of four inputs, from every state of interest."""

    def walk(path: list[str], left: int) -> None:
        executor = Executor(["one", "two"])
        for name in path:
            STEPS[name][1](executor)
        if left:
            following = [name for name, (may_happen, _) in STEPS.items() if may_happen(executor)]
            for name in following:
                walk([*path, name], left - 1)

    walk(BEGINNINGS[beginning], 4)


class Walk(RuleBasedStateMachine):
    """Longer sequences, with more kinds of input."""

    executor: Executor

    @initialize(names=st.sampled_from([["one"], ["one", "two"]]))
    def begin(self, names: list[str]) -> None:
        self.executor = Executor(names)

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        names = [name for name, (may_happen, _) in STEPS.items() if may_happen(self.executor)]
        STEPS[data.draw(st.sampled_from(names))][1](self.executor)

    @rule(seconds=st.sampled_from([0.001, 1.0, 40.0, 700.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.executor.pass_time(seconds)

    @precondition(lambda self: self.executor.opening)
    @rule(route=st.sampled_from([TCP, WSS, WS]), error=st.sampled_from([None, UNREACHABLE, REFUSED, FULL]))
    def opening_ends(self, route: Candidate, error: HybridRelayError | None) -> None:
        if error is None:
            self.executor.open_channel(min(self.executor.opening), route)
        else:
            self.executor.fail_channel(min(self.executor.opening), error)

    @precondition(lambda self: self.executor.requests)
    @rule(seconds=st.sampled_from([-1.0, 0.0, 60.0, 3600.0, 1e12]), confirmed=st.booleans())
    def registered(self, seconds: float, confirmed: bool) -> None:
        self.executor.register(seconds, confirmed=confirmed)

    @precondition(lambda self: self.executor.requests)
    @rule()
    def same_relay(self) -> None:
        request, channel = self.executor.requests.popitem()
        self.executor.feed(inputs.SameRelay(channel, request, "other.example"))

    @precondition(lambda self: self.executor.open)
    @rule(
        data=st.data(),
        name=st.sampled_from(["one", "two", "other"]),
        reason=st.sampled_from([Reason.SUPERSEDED, Reason.KEY_REVOKED, Reason.TOKEN_EXPIRED]),
    )
    def relay_speaks(self, data: st.DataObject, name: str, reason: Reason) -> None:
        number = data.draw(st.sampled_from(sorted(self.executor.open)))
        offer = control.Offer(1, name, bytes(TICKET_SIZE), 30.0)
        for given in (
            inputs.EndedByRelay(number, name, reason),
            inputs.Offered(number, offer),
            inputs.DrainAnnounced(number, 5.0),
        ):
            self.executor.feed(given)
            if number not in self.executor.open:
                break

    @precondition(lambda self: len(self.executor.machine.registrations) > 1)
    @rule(name=st.sampled_from(["one", "two"]))
    def unpublish(self, name: str) -> None:
        if name == "two":  # the other steps are about "one"
            self.executor.feed(inputs.Unpublish(name))

    @rule(
        given=st.sampled_from(
            [
                inputs.CheckChannels(),
                inputs.CheckRefusals(),
                *map(inputs.SessionsChanged, inputs.SessionHealth),
                *(inputs.ReplacementExpected(is_expected=one) for one in (True, False)),
            ]
        )
    )
    def something_is_noticed(self, given: inputs.Input) -> None:
        self.executor.feed(given)

    @precondition(lambda self: self.executor.now > 100)
    @rule()
    def stop(self) -> None:
        self.executor.feed(inputs.Stop())


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=100)
