"""The decisions of a bridge, as transcripts of inputs and outputs."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.mux import Bridged, Party
from hybridrelay.mux.bridging import CAUSED_BY, INCOMING, OUTGOING, BridgeMachine, Command, Incoming, Input, Outgoing
from hybridrelay.protocol import Reason

ACCEPTED, REFUSED, LOCAL_ENDED, LOCAL_BROKE = Input.ACCEPTED, Input.REFUSED, Input.LOCAL_ENDED, Input.LOCAL_BROKE
PEER_ENDED, PEER_STOPPED, CANCELLED = Input.PEER_ENDED, Input.PEER_STOPPED, Input.CANCELLED
STREAM_RESET, STREAM_LOST, DELIVERED = Input.STREAM_RESET, Input.STREAM_LOST, Input.DELIVERED
UNACKNOWLEDGED, PROGRAM_ENDS = Input.UNACKNOWLEDGED, Input.PROGRAM_ENDS
CONTINUE, LIMIT, STOP = Command.CONTINUE, Command.LIMIT, Command.STOP
#: Why, for inputs with a reason.
REASONS = {
    REFUSED: Reason.TARGET_REFUSED,
    LOCAL_BROKE: Reason.TARGET_RESET,
    PEER_STOPPED: Reason.CANCELLED,
    STREAM_RESET: Reason.DENIED_BY_POLICY,
    STREAM_LOST: Reason.SESSION_LOST,
    CANCELLED: Reason.CANCELLED,
}


@attrs.frozen
class Ending:
    """The state at the end of a transcript. The defaults are those of a new bridge."""

    finished: bool = False
    #: After the end of the bridge: nothing waits to be acknowledged.
    settled: bool = True
    reason: Reason = Reason.NO_ERROR
    ended_by: Party = Party.NOBODY
    sent_all: bool = False
    received_all: bool = False
    peer_stopped: bool = False
    program_ended: bool = False


def by(cause: Input, **more: bool) -> Ending:
    return Ending(reason=REASONS[cause], ended_by=CAUSED_BY[cause], **more)


TRANSCRIPTS: dict[str, tuple[list[tuple[Input, Command]], Ending]] = {
    "both directions end, ours first": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (DELIVERED, CONTINUE), (PEER_ENDED, CONTINUE)],
        Ending(finished=True, sent_all=True, received_all=True),
    ),
    "both directions end, the peer's first": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (LOCAL_ENDED, CONTINUE), (DELIVERED, CONTINUE)],
        Ending(finished=True, sent_all=True, received_all=True),
    ),
    "both directions end, and the peer acknowledges nothing": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (LOCAL_ENDED, CONTINUE), (UNACKNOWLEDGED, CONTINUE)],
        Ending(finished=True, received_all=True),
    ),
    "both directions end, and the peer acknowledges everything too late": (
        [
            (ACCEPTED, CONTINUE),
            (LOCAL_ENDED, CONTINUE),
            (PEER_ENDED, CONTINUE),
            (UNACKNOWLEDGED, CONTINUE),
            (DELIVERED, CONTINUE),
        ],
        Ending(finished=True, received_all=True),
    ),
    "both directions end, and the session is lost after the peer has taken too long to acknowledge": (
        [
            (ACCEPTED, CONTINUE),
            (LOCAL_ENDED, CONTINUE),
            (PEER_ENDED, CONTINUE),
            (UNACKNOWLEDGED, CONTINUE),
            (STREAM_LOST, CONTINUE),
        ],
        Ending(finished=True, received_all=True),
    ),
    "ours ends before the answer": (
        [(LOCAL_ENDED, CONTINUE), (DELIVERED, CONTINUE), (ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE)],
        Ending(finished=True, sent_all=True, received_all=True),
    ),
    "both directions end, and what is queued is not acknowledged yet": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (PEER_ENDED, CONTINUE)],
        Ending(finished=True, settled=False, received_all=True),
    ),
    "both directions end, and the stream is lost with what is queued": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (PEER_ENDED, CONTINUE), (STREAM_LOST, CONTINUE)],
        attrs.evolve(by(STREAM_LOST, received_all=True), finished=True),
    ),
    "both directions end, and the peer resets the stream before it has received everything": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (LOCAL_ENDED, CONTINUE), (STREAM_RESET, CONTINUE)],
        attrs.evolve(by(STREAM_RESET, received_all=True), finished=True),
    ),
    "both directions end, and the peer stops reading before it has received everything": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (LOCAL_ENDED, CONTINUE), (PEER_STOPPED, STOP)],
        attrs.evolve(by(PEER_STOPPED, received_all=True, peer_stopped=True), finished=True),
    ),
    "the program ends, then its direction": (
        [(ACCEPTED, CONTINUE), (PROGRAM_ENDS, CONTINUE), (LOCAL_ENDED, STOP), (DELIVERED, STOP)],
        Ending(finished=True, sent_all=True, program_ended=True),
    ),
    "the program ends after its direction": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (PROGRAM_ENDS, STOP)],
        Ending(finished=True, settled=False, program_ended=True),
    ),
    "the program ends, and the peer has ended": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (PROGRAM_ENDS, CONTINUE), (LOCAL_ENDED, STOP)],
        Ending(finished=True, settled=False, received_all=True),
    ),
    "the program ends, and what it has sent is lost": (
        [(ACCEPTED, CONTINUE), (PROGRAM_ENDS, CONTINUE), (STREAM_LOST, STOP)],
        by(STREAM_LOST),
    ),
    "the program ends, and the peer does not read what it has sent": (
        [(ACCEPTED, CONTINUE), (PROGRAM_ENDS, CONTINUE), (PEER_STOPPED, STOP)],
        attrs.evolve(by(PEER_STOPPED, peer_stopped=True, program_ended=True), finished=True),
    ),
    "refused": ([(REFUSED, STOP)], by(REFUSED)),
    "refused after our end": ([(LOCAL_ENDED, CONTINUE), (REFUSED, STOP)], by(REFUSED)),
    "refused after it was acknowledged": (
        [(LOCAL_ENDED, CONTINUE), (DELIVERED, CONTINUE), (REFUSED, STOP)],
        by(REFUSED),
    ),
    "lost before the answer": ([(STREAM_LOST, STOP)], by(STREAM_LOST)),
    "the connection breaks": ([(ACCEPTED, CONTINUE), (LOCAL_BROKE, STOP)], by(LOCAL_BROKE)),
    "the connection breaks after the peer's end": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (LOCAL_BROKE, STOP)],
        by(LOCAL_BROKE, received_all=True),
    ),
    "the stream is reset after our end was delivered": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (DELIVERED, CONTINUE), (STREAM_RESET, STOP)],
        by(STREAM_RESET, sent_all=True),
    ),
    "the stream is reset before our end was delivered": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (STREAM_RESET, STOP)],
        by(STREAM_RESET),
    ),
    "the peer reads no more after our end, and takes its time to end its own direction": (
        [(ACCEPTED, CONTINUE), (LOCAL_ENDED, CONTINUE), (PEER_STOPPED, CONTINUE), (PEER_ENDED, STOP)],
        attrs.evolve(by(PEER_STOPPED, received_all=True, peer_stopped=True), finished=True),
    ),
    "the first reason is kept": (
        [(ACCEPTED, CONTINUE), (STREAM_RESET, STOP), (LOCAL_BROKE, STOP), (CANCELLED, STOP)],
        by(STREAM_RESET),
    ),
    "the peer's end is delivered at the moment when the stream is lost": (
        [(ACCEPTED, CONTINUE), (STREAM_LOST, STOP), (PEER_ENDED, STOP)],
        by(STREAM_LOST, received_all=True),
    ),
    "the peer reads no more, and its last bytes are delivered": (
        [(ACCEPTED, CONTINUE), (PEER_STOPPED, LIMIT), (PEER_ENDED, STOP)],
        attrs.evolve(by(PEER_STOPPED, received_all=True, peer_stopped=True), finished=True),
    ),
    "the peer reads no more after its end": (
        [(ACCEPTED, CONTINUE), (PEER_ENDED, CONTINUE), (PEER_STOPPED, STOP)],
        attrs.evolve(by(PEER_STOPPED, received_all=True, peer_stopped=True), finished=True),
    ),
    "the peer reads no more, and its last bytes are not taken in time": (
        [(ACCEPTED, CONTINUE), (PEER_STOPPED, LIMIT)],
        by(PEER_STOPPED, peer_stopped=True),
    ),
    "the peer reads no more, and the connection breaks": (
        [(ACCEPTED, CONTINUE), (PEER_STOPPED, LIMIT), (LOCAL_BROKE, STOP)],
        by(LOCAL_BROKE, peer_stopped=True),
    ),
    "the peer reads no more, and the stream is lost": (
        [(ACCEPTED, CONTINUE), (PEER_STOPPED, LIMIT), (STREAM_LOST, STOP), (LOCAL_BROKE, STOP)],
        by(STREAM_LOST, peer_stopped=True),
    ),
    "cancelled": ([(ACCEPTED, CONTINUE), (CANCELLED, STOP)], by(CANCELLED)),
    "cancelled before the answer": ([(CANCELLED, STOP)], by(CANCELLED)),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_bridge_decides_as_in_the_transcript(name: str) -> None:
    steps, ending = TRANSCRIPTS[name]
    machine = BridgeMachine()
    assert [(cause, machine.apply(cause, REASONS.get(cause, Reason.NO_ERROR))) for cause, _ in steps] == steps
    assert machine.has_finished == ending.finished
    assert machine.is_settled == ending.settled
    assert machine.outcome(7, 5) == Bridged(
        7,
        5,
        ending.reason,
        sent_all=ending.sent_all,
        received_all=ending.received_all,
        peer_stopped=ending.peer_stopped,
        ended_by=ending.ended_by,
        program_ended=ending.program_ended,
    )


BREAKS = [LOCAL_BROKE, PEER_STOPPED, STREAM_RESET, STREAM_LOST, CANCELLED]
#: Every order in which our direction ends and is delivered, the peer's ends, and something breaks.
ORDERS = [
    order
    for cause in BREAKS
    for order in itertools.permutations([LOCAL_ENDED, DELIVERED, PEER_ENDED, cause])
    if order.index(LOCAL_ENDED) < order.index(DELIVERED)
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(cause.name for cause in order))
def test_only_what_ended_before_the_break_is_reported_as_complete(order: tuple[Input, ...]) -> None:
    """Only inputs that a bridge can give: none after a stop, and no delivery on a stream that broke."""
    machine, happened = BridgeMachine(), set[Input]()
    machine.apply(ACCEPTED)
    broke = next(cause for cause in order if cause in BREAKS)
    for cause in order:
        if cause in (LOCAL_BROKE, CANCELLED) and machine.has_finished:
            break  # the TCP connection is closed by then
        if cause is DELIVERED and broke in happened:
            continue
        happened.add(cause)
        if machine.apply(cause, REASONS.get(cause, Reason.NO_ERROR)) is STOP:
            break
    outcome = machine.outcome(7, 5)
    assert outcome.sent_all == (DELIVERED in happened)
    assert outcome.received_all == (PEER_ENDED in happened)
    complete = {DELIVERED, PEER_ENDED} <= happened
    was_stopped = broke is PEER_STOPPED and broke in happened and DELIVERED not in happened
    assert outcome.peer_stopped == was_stopped
    if was_stopped or (broke in happened and broke is not PEER_STOPPED and not complete):
        assert (outcome.reason, outcome.ended_by) == (REASONS[broke], CAUSED_BY[broke])
    else:
        assert (outcome.reason, outcome.ended_by) == (Reason.NO_ERROR, Party.NOBODY)


@given(st.lists(st.sampled_from(Input), max_size=8))
def test_there_is_one_outcome_whatever_happens(causes: list[Input]) -> None:
    machine = BridgeMachine()
    stopped, outcome = False, machine.outcome(0, 0)
    for cause in causes:
        finished = machine.has_finished
        command = machine.apply(cause, REASONS.get(cause, Reason.NO_ERROR))
        before, outcome = outcome, machine.outcome(0, 0)
        assert (outcome.reason is Reason.NO_ERROR) == (outcome.ended_by is Party.NOBODY)
        only_stopped = before.peer_stopped and not stopped
        assert before.reason in (Reason.NO_ERROR, outcome.reason) or only_stopped, "the first reason is kept"
        assert not finished or machine.has_finished, "what has finished in good order does not break any more"
        assert not stopped or command is STOP, "what was stopped does not go on"
        assert not outcome.sent_all or DELIVERED in causes, "nothing is reported that was not acknowledged"
        assert not (outcome.sent_all and outcome.peer_stopped)
        stopped = command is STOP
    assert stopped or machine.has_finished or outcome.reason is Reason.NO_ERROR or outcome.peer_stopped


@pytest.mark.parametrize(
    ("causes", "reason", "has_sent", "may"),
    [
        ([REFUSED], Reason.GOING_AWAY, True, True),
        ([REFUSED], Reason.LIMIT, False, True),
        ([REFUSED], Reason.LIMIT, True, False),
        ([REFUSED], Reason.TARGET_REFUSED, True, True),
        ([REFUSED], Reason.DENIED_BY_POLICY, True, False),
        ([STREAM_LOST], Reason.SESSION_LOST, True, False),
        ([LOCAL_ENDED, REFUSED], Reason.GOING_AWAY, True, True),
        ([REFUSED, LOCAL_BROKE], Reason.GOING_AWAY, False, False),
        ([ACCEPTED, STREAM_RESET], Reason.GOING_AWAY, False, False),
    ],
)
def test_what_was_refused_is_sent_again_only_if_it_was_not_processed(
    causes: list[Input], reason: Reason, has_sent: bool, may: bool
) -> None:
    machine = BridgeMachine()
    for cause in causes:
        machine.apply(cause, reason if cause in CAUSED_BY else Reason.NO_ERROR)
    assert machine.may_be_sent_again(reason, has_sent=has_sent) is may


def test_the_tables_reach_every_state() -> None:
    assert {Outgoing.OPEN, *OUTGOING.values()} == set(Outgoing)
    assert {Incoming.AWAITING, *INCOMING.values()} == set(Incoming)
