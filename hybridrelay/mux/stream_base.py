"""What streams and flows of datagrams have in common: their ids, the answer to OPEN, and how they are aborted."""

from __future__ import annotations

from typing import Protocol

import trio

from ..errors import StreamRefused, StreamReset
from ..protocol import SessionCore
from ..protocol.reasons import Reason
from ..protocol.states import Opening
from ..protocol.stream import Stream
from ..streams.conflict import ConflictDetector
from ..streams.turns import SharedTurns
from ..streams.waiter import Waiter
from .bridging import Party

__all__ = ["SessionPort", "SettlingStream", "StreamBase"]


class SettlingStream(Protocol):
    """A closed stream or flow that waits for the peer's answer, or a stream that waits for the peer's acknowledgement
    before its end is reported."""

    def stop_waiting(self) -> None:
        """Stop waiting, or wait for another period."""


class SessionPort(Protocol):
    """The part of a session that its streams use."""

    @property
    def core(self) -> SessionCore:
        """The state machine to which the stream belongs; it does not change while the stream exists."""

    @property
    def turns(self) -> SharedTurns:
        """The turns of the session, or of all sessions with the same peer."""

    def output(self) -> None:
        """Write as much of the core's output as the channel accepts now. Called after each change of the core.
        Neither waits nor raises."""

    def answered(self, stream_id: int) -> None:
        """Note that a stream was answered, or has ended before that. May be called repeatedly."""

    def limit_settling(self, stream: SettlingStream) -> None:
        """Call `stop_waiting` of the stream after some seconds, unless `settled` is called first."""

    def settled(self, stream: SettlingStream) -> None:
        """Note that the stream no longer waits."""


class StreamBase:
    """One stream of a session, of any kind.

    A subclass implements `StreamObserver`, and calls `state.observe` with itself. It extends `_wake` by everything
    else that it has to inform of a change.

    Args:
        session: the session.
        state: the state of the stream in the session's core.
        noun: what messages call it: stream or flow.
    """

    __slots__ = (
        "_answer", "_cancel_on_abort", "_closed", "_core", "_output", "_receive_conflict", "_receiver", "_session",
        "_state", "metadata", "was_accepted",
    )  # fmt: skip

    def __init__(self, session: SessionPort, state: Stream, noun: str) -> None:
        self._core = session.core
        self._session = session
        self._output = session.output
        self._state = state
        #: The metadata in OPEN, at most 1,024 bytes.
        self.metadata = state.metadata
        #: Whether it was closed or reset on this side.
        self._closed = False
        #: Whether it was accepted, by the peer or by us. It may have ended since.
        self.was_accepted = False
        self._receive_conflict = ConflictDetector(f"another task is receiving on this {noun}")
        self._receiver = Waiter()
        self._answer = trio.Event()
        self._cancel_on_abort: trio.CancelScope | None = None

    @property
    def turns(self) -> SharedTurns:
        """See `SessionPort.turns`."""
        return self._session.turns

    @property
    def stream_id(self) -> int:
        """Unique among the streams and flows of the session, and the same on both sides."""
        return self._state.id

    @property
    def session_id(self) -> bytes:
        """The id of its session, which is the same on both sides."""
        return self._core.session_id

    @property
    def reset_reason(self) -> Reason:
        """Why the stream or flow was refused, reset (by the peer or by us) or lost with its session;
        `Reason.NO_ERROR` if it was not."""
        return self._state.reason if self._state.is_aborted else Reason.NO_ERROR

    @property
    def was_lost(self) -> bool:
        """Whether the session has ended. If the stream was open until then, it was lost with the session, and not
        reset on its own."""
        return self._core.ended is not None

    # --- opening

    async def wait_opened(self) -> None:
        """Wait until the peer has accepted it. Data may be sent before.

        Raises:
            StreamRefused: the peer refused or reset it, it was reset on this side, or the session was lost. `reason`
                says why.

        If cancelled, it continues to wait for the answer.
        """
        await self._answer.wait()
        if self._state.is_aborted:
            raise self.refusal()

    def refusal(self) -> StreamRefused:
        """Return the error that says why it was aborted before it was accepted."""
        reason, text = self._state.reason, self._state.text
        return StreamRefused(text or reason.describe, reason=reason)

    def cancel_when_aborted(self, scope: trio.CancelScope | None) -> None:
        """Cancel `scope` when it is aborted; None removes the current scope."""
        self._cancel_on_abort = scope
        if scope is not None and self._state.is_aborted:
            scope.cancel()

    def on_answered(self) -> None:
        """Note that it was accepted, by the peer or by us. For the session."""
        self.was_accepted = True
        self._wake()

    # --- for subclasses

    @property
    def _aborted_by(self) -> Party:
        """Who has aborted it. For use when it is aborted."""
        if self.was_lost:
            return Party.SESSION
        return Party.LOCAL if self._state.states.aborted_by_us else Party.PEER

    def _reset_error(self) -> StreamReset:
        """Return the error that says why it was aborted, or why the peer has stopped reading."""
        reason, text = self._state.reason, self._state.text
        message = f"{reason.describe} ({text})" if text and text != reason.describe else reason.describe
        return StreamReset(message, reason=reason)

    def _note_answer(self) -> None:
        """If it was answered or aborted, inform the session, and the task in `wait_opened`."""
        if self._state.states.opening not in (Opening.AWAITING, Opening.OFFERED):
            self._answer.set()
            self._session.answered(self._state.id)

    def _wake(self) -> None:
        """Wake everything that waits for a change of its state."""
        self._receiver.wake()
        self._note_answer()
        if self._cancel_on_abort is not None and self._state.is_aborted:
            self._cancel_on_abort.cancel()
