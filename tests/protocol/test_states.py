"""Every state and every input: legal, ignored, or the right error; and an error changes nothing by halves."""

from __future__ import annotations

import itertools

import pytest

from hybridrelay.protocol import LocalProtocolError, Reason, RemoteProtocolError, SessionConfig, SessionCore, frames
from hybridrelay.protocol.session import SessionRole, State
from hybridrelay.protocol.states import (
    ABORTS,
    OPENING,
    RECEIVING,
    SENDING,
    Input,
    Opening,
    Receiving,
    Sending,
    StreamStates,
)
from hybridrelay.testing.cores import CorePair

from .endings import end_reason


def reachable() -> set[tuple[Opening, Sending, Receiving, bool]]:
    """All combined states that inputs can lead to."""
    found = set()
    todo = [(first, Sending.OPEN, Receiving.OPEN, False) for first in (Opening.AWAITING, Opening.OFFERED)]
    while todo:
        state = todo.pop()
        if state in found:
            continue
        found.add(state)
        for cause in Input:
            states = restore(state)
            try:
                states.apply(cause)
            except (LocalProtocolError, RemoteProtocolError):
                continue
            todo.append(snapshot(states))
    return found


def restore(state: tuple[Opening, Sending, Receiving, bool]) -> StreamStates:
    states = StreamStates(state[0])
    _, states.sending, states.receiving, states.aborted_by_us = state
    return states


def snapshot(states: StreamStates) -> tuple[Opening, Sending, Receiving, bool]:
    return states.opening, states.sending, states.receiving, states.aborted_by_us


STATES = sorted(reachable(), key=str)


@pytest.mark.parametrize(("state", "cause"), list(itertools.product(STATES, Input)))
def test_every_state_and_input(state: tuple[Opening, Sending, Receiving, bool], cause: Input) -> None:
    states = restore(state)
    opening, sending, receiving, aborted_by_us = state
    remote = cause.name.startswith("RECV")
    legal = (
        (opening, cause) in OPENING
        and ((sending, cause) in SENDING or not any(key == cause for _, key in SENDING) or cause in ABORTS)
        and ((receiving, cause) in RECEIVING or not any(key == cause for _, key in RECEIVING) or cause in ABORTS)
    )
    if opening is Opening.ABORTED and aborted_by_us and remote:
        assert states.apply(cause) is False
        assert snapshot(states) == state
    elif legal:
        assert states.apply(cause) is True
        if cause in ABORTS:
            assert snapshot(states) == (Opening.ABORTED, Sending.ABORTED, Receiving.ABORTED, not remote)
        else:
            assert states.opening is OPENING[opening, cause]
            assert states.sending is SENDING.get((sending, cause), sending)
            assert states.receiving is RECEIVING.get((receiving, cause), receiving)
    else:
        with pytest.raises(RemoteProtocolError if remote else LocalProtocolError):
            states.apply(cause)
        assert snapshot(states) == state, "an input that is refused must not move anything"


def test_only_possible_combinations_of_states_are_reachable() -> None:
    """No stream is half aborted, finished before it was accepted, or stopped while it is offered."""
    for opening, sending, receiving, _ in STATES:
        aborted = [opening is Opening.ABORTED, sending is Sending.ABORTED, receiving is Receiving.ABORTED]
        assert all(aborted) or not any(aborted)
        if opening is Opening.AWAITING:
            assert receiving in (Receiving.OPEN, Receiving.STOPPED)
            assert sending is not Sending.STOPPED
        if opening is Opening.OFFERED:
            assert sending in (Sending.OPEN, Sending.STOPPED)
            assert receiving in (Receiving.OPEN, Receiving.FINISHED)
    assert {sending for _, sending, _, _ in STATES} == set(Sending)
    assert {receiving for _, _, receiving, _ in STATES} == set(Receiving)


@pytest.mark.parametrize("state", STATES)
def test_a_stream_is_over_when_it_is_aborted_or_both_directions_have_finished(
    state: tuple[Opening, Sending, Receiving, bool],
) -> None:
    states = restore(state)
    both = states.sending is Sending.FINISHED and states.receiving is Receiving.FINISHED
    assert states.is_over == (states.is_aborted or (both and states.opening is Opening.ANSWERED))
    states.lose()
    assert states.is_over
    assert states.is_aborted


# --- the session: what each state makes of each kind of frame

STREAM_FRAMES = [
    frames.Open(3, 0),
    frames.Opened(1, 0),
    frames.Refused(1, Reason.LIMIT),
    frames.Data(1, b"x"),
    frames.Fin(1),
    frames.Reset(1, Reason.LIMIT),
    frames.Stop(1, Reason.LIMIT),
    frames.Window(1, 0),
]
HELLO = frames.Hello(b"i" * 16, b"s" * 32, 10)
FINAL = frames.GoAway(Reason.BUSY, 0, final=True)
SESSION_FRAMES = [
    HELLO,
    frames.Ack(0),
    frames.Ping(bytes(8)),
    frames.Pong(bytes(8)),
    frames.GoAway(Reason.BUSY, 0),
    FINAL,
    frames.Ignorable(0x80, 0),
]
ALL_FRAMES = [*STREAM_FRAMES, *SESSION_FRAMES]
KINDS = [f"{type(frame).__name__}{'-final' if frame is FINAL else ''}" for frame in ALL_FRAMES]


@pytest.mark.parametrize("frame", ALL_FRAMES, ids=KINDS)
def test_before_the_peers_hello(frame: frames.Frame) -> None:
    core = SessionCore(SessionRole.ACCEPTOR)
    core.channel_opened(0.0)
    core.receive_data(frame.encode(), 0.0)
    if frame is HELLO:
        assert core.state is State.ESTABLISHED
    else:
        assert end_reason(core) is (Reason.BUSY if frame is FINAL else Reason.PROTOCOL_ERROR)
        assert core.ended is not None
        assert core.ended.by_peer == (frame is FINAL)


@pytest.mark.parametrize("frame", ALL_FRAMES, ids=KINDS)
def test_a_frame_before_our_hello_ends_the_session(frame: frames.Frame) -> None:
    core = SessionCore(SessionRole.ACCEPTOR)
    core.channel_opened(0.0)
    core.receive_data(HELLO.encode() + frame.encode(), 0.0)
    assert end_reason(core) is (Reason.BUSY if frame is FINAL else Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize("frame", ALL_FRAMES, ids=KINDS)
def test_a_frame_of_an_unknown_stream_ends_the_session(frame: frames.Frame) -> None:
    core = CorePair.established().acceptor.core
    core.receive_data(frame.encode(), 0.0)
    if frame is FINAL:
        assert core.ended is not None
        assert core.ended.by_peer
    elif isinstance(frame, frames.Open | frames.Ack | frames.Ping | frames.Pong | frames.GoAway | frames.Ignorable):
        assert core.ended is None
    else:
        assert end_reason(core) is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("frame", ALL_FRAMES, ids=KINDS)
def test_without_a_channel_and_after_the_end_nothing_is_heard(frame: frames.Frame) -> None:
    pair = CorePair.established(SessionConfig(resume_deadline=9))
    core = pair.acceptor.core
    pair.cut()
    assert core.receive_data(frame.encode(), 0.0) == []
    assert core.state is State.DETACHED
    core.close()
    assert core.receive_data(frame.encode(), 0.0) == []
    assert core.data_to_send(0.0) == []


@pytest.mark.parametrize("frame", STREAM_FRAMES, ids=KINDS[: len(STREAM_FRAMES)])
def test_on_a_stream_that_was_let_go(frame: frames.Frame) -> None:
    """Frames that may have been sent before the peer knew of the end are ignored; others are errors."""
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_fin(ours)
    pair.acceptor.core.send_fin(theirs)
    pair.pump()
    pair.advance(1)
    core = pair.acceptor.core
    assert core.streams == {}
    if isinstance(frame, frames.Open):
        frame = frames.Open(1, 0)
    core.receive_data(frame.encode(), 0.0)
    crossing = not isinstance(frame, frames.Open | frames.Data | frames.Fin)
    assert (core.ended is None) == crossing


@pytest.mark.parametrize("stream", [2, 1], ids=["of the wrong side", "that was used"])
def test_ids_only_grow_and_belong_to_their_side(stream: int) -> None:
    pair = CorePair.established()
    pair.open()
    core = pair.acceptor.core
    core.receive_data(frames.Open(stream, 0).encode(), 0.0)
    assert core.ended is not None


@pytest.mark.parametrize(
    "hello",
    [
        frames.Hello(b"i" * 16, b"s" * 32, 10, epoch=1),
        frames.Hello(b"i" * 16, b"s" * 32, 10, received=1),
        frames.Hello(b"i" * 16, b"s" * 32, 10, written=1),
        frames.Hello(b"i" * 16, b"s" * 32, 10, attach=True, epoch=1),
        frames.Hello(b"i" * 16, b"s" * 32, 10, version=3, min_version=2),
        frames.Hello(b"i" * 16, b"s" * 32, 10, version=0, min_version=0),
    ],
)
def test_a_first_hello_that_cannot_be(hello: frames.Hello) -> None:
    core = SessionCore(SessionRole.ACCEPTOR)
    core.channel_opened(0.0)
    core.receive_data(hello.encode(), 0.0)
    assert core.ended is not None
    (farewell,) = frames.FrameDecoder().decode_untrusted(b"".join(core.data_to_send(0.0)))
    assert isinstance(farewell, frames.GoAway)
    assert farewell.final
    assert farewell.reason is core.ended.reason
    if hello.version != 1:
        assert farewell.reason is Reason.VERSION_MISMATCH
    if hello.attach:
        assert farewell.reason is Reason.SESSION_UNKNOWN


def test_a_later_version_that_also_speaks_ours_is_welcome() -> None:
    core = SessionCore(SessionRole.ACCEPTOR)
    core.channel_opened(0.0)
    core.receive_data(frames.Hello(b"i" * 16, b"s" * 32, 10, version=7).encode(), 0.0)
    assert core.is_established


def test_the_answer_has_to_be_for_our_session() -> None:
    for hello in (frames.Hello(b"x" * 16, bytes(32), 1), frames.Hello(b"i" * 16, bytes(32), 1, epoch=1)):
        core = SessionCore(SessionRole.INITIATOR, session_id=b"i" * 16, secret=b"s" * 32)
        core.channel_opened(0.0)
        core.receive_data(hello.encode(), 0.0)
        assert core.ended is not None
