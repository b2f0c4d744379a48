"""A flow of datagrams of a session."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from .._value import Value
from ..protocol.datagrams import Dropped
from ..protocol.reasons import Reason
from ..protocol.states import Opening, Sending
from ..protocol.stream import Stream
from .bridging import Party
from .stream import NO_ANSWER, OPENING_SECONDS
from .stream_base import SessionPort, StreamBase

__all__ = ["DatagramFlow", "FlowEnd", "FlowProgress"]


@attrs.frozen
class FlowProgress(Value):
    """What a flow has carried. Datagrams that were sent may not have arrived."""

    #: How many datagrams were written to a channel, and how many have arrived over one.
    sent: int
    received: int
    #: The bytes of these datagrams.
    bytes_sent: int
    bytes_received: int
    #: Datagrams that this side has dropped.
    dropped: Dropped


@attrs.frozen
class FlowEnd(Value):
    """How a flow has ended."""

    #: LOCAL if this side closed or reset the flow, PEER if the peer did, and SESSION if the flow was lost with its
    #: session.
    ended_by: Party
    #: `Reason.NO_ERROR` if the flow was closed.
    reason: Reason
    #: The peer's text about the reason; may be empty.
    text: str
    #: Whether the flow had been accepted before it ended.
    was_accepted: bool
    progress: FlowProgress


class DatagramFlow(StreamBase, trio.abc.AsyncResource):
    """One flow of a `Session`: datagrams between one address of the application and the target.

    Datagrams can be lost, as with UDP: those for which there is no room, those that have waited for more than half a
    second on either side, and those that are in flight while the session loses its channel. Nothing waits for room.
    """

    __slots__ = ("_answer_deadline", "_end", "_end_callback", "_watcher")

    def __init__(self, session: SessionPort, state: Stream) -> None:
        assert state.flow is not None
        super().__init__(session, state, "flow")
        self._end: FlowEnd | None = None
        self._end_callback: Callable[[FlowEnd], None] | None = None
        self._watcher: Callable[[], None] | None = None
        #: Until when a flow that was closed before its answer waits for it, on Trio's clock.
        self._answer_deadline = 0.0
        state.observe(self)

    def __repr__(self) -> str:
        states = self._state.states
        return f"<DatagramFlow {self._state.id} {states.opening.name}/{states.sending.name}>"

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._end is not None or self._state.is_aborted

    @property
    def has_input(self) -> bool:
        """Whether a datagram has arrived that was not received."""
        return self._state.has_input

    @property
    def dropped(self) -> Dropped:
        """How many datagrams this side has dropped. An owner of the flow that drops others adds them here."""
        assert self._state.flow is not None
        return self._state.flow.dropped

    def so_far(self) -> FlowProgress:
        """Return what the flow has carried so far. It may have ended."""
        flow = self._state.flow
        assert flow is not None
        dropped = attrs.evolve(flow.dropped)
        return FlowProgress(flow.sent_count, flow.received_count, flow.bytes_sent, flow.bytes_received, dropped)

    # --- datagrams

    async def send(self, data: bytes) -> None:
        """Queue a datagram: 0 to 65,507 bytes; a longer one is dropped. Never waits for room: older datagrams are
        dropped instead.

        Raises:
            trio.BrokenResourceError: the flow was refused, reset, lost with its session, or ended by the peer.
            trio.ClosedResourceError: we closed the flow.

        If cancelled, nothing was queued.
        """
        await checkpoint_if_cancelled()
        self.send_nowait(data)
        await cancel_shielded_checkpoint()

    def send_nowait(self, data: bytes) -> None:
        """Like `send`, but without a checkpoint."""
        if self._closed:
            raise trio.ClosedResourceError("the flow was closed")
        if not self._state.can_send:
            self._raise_broken()
        self._core.flows.send(self._state, data, trio.current_time())
        self._output()

    async def receive(self) -> bytes:
        """Return the next datagram, or wait for it. b"" is a datagram without content.

        Raises:
            trio.EndOfChannel: the peer has ended the flow.
            trio.BrokenResourceError: the flow was refused, reset or lost with its session.
            trio.ClosedResourceError: we closed the flow.
            trio.BusyResourceError: another task is receiving.

        If cancelled, no datagram is lost. (One that nobody receives within half a second is dropped.)
        """
        with self._receive_conflict:
            await checkpoint_if_cancelled()
            while True:
                data = self.receive_nowait()
                if data is not None:
                    await cancel_shielded_checkpoint()
                    return data
                if self._state.at_eof:
                    raise trio.EndOfChannel
                await self._receiver.wait()

    def receive_nowait(self) -> bytes | None:
        """Return the next datagram, or None if there is none now, or none any more (see `has_ended`).

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for `receive`.
        """
        if self._closed:
            raise trio.ClosedResourceError("the flow was closed")
        if self._state.is_aborted:
            self._raise_broken()
        return self._core.flows.read(self._state, trio.current_time())

    def set_watcher(self, watcher: Callable[[], None] | None) -> None:
        """From now on, call `watcher` whenever something has happened to the flow: it was accepted, a datagram has
        arrived, or it has ended. It must neither wait nor raise. None: call nobody."""
        self._watcher = watcher

    # --- ending

    async def aclose(self) -> None:
        """End the flow, for both sides. Datagrams that wait to be sent are still sent, if that is possible soon.

        A flow that the peer has not answered yet is reset if there is no answer within 30 seconds.

        Never waits for the peer. If cancelled, the flow is closed nevertheless.
        """
        self.close_nowait()
        await checkpoint()

    def close_nowait(self) -> None:
        """Like `aclose`, but without a checkpoint. An offered flow is refused."""
        if self._closed:
            return
        self._closed = True
        core, states = self._core, self._state.states
        self._ended(Party.LOCAL, Reason.NO_ERROR)
        if core.ended is None and not states.is_aborted:
            if states.opening is Opening.OFFERED:
                core.reset(self._state, Reason.CANCELLED)
            elif states.sending is Sending.OPEN:
                core.send_fin(self._state)
            core.flows.drop_received(self._state)
            if states.opening is Opening.AWAITING:
                # It counts as unanswered, so it must not wait for ever: it would keep others from being opened.
                self._answer_deadline = trio.current_time() + OPENING_SECONDS
                self._session.limit_settling(self)
            self._output()
        self._wake()

    def reset(self, reason: Reason = Reason.CANCELLED, text: str = "") -> None:
        """Abort the flow, and drop what was not written yet. Synchronous and idempotent.

        `text` is sent to the peer: at most 256 bytes, and nothing secret.
        """
        self._closed = True
        self._ended(Party.LOCAL, reason)
        if self._core.ended is None:
            self._core.reset(self._state, reason, text)
            self._output()
        self._wake()

    def stop_waiting(self) -> None:
        """Reset the flow if it was closed and has no answer in time. For the session."""
        if self._answer.is_set():
            return
        if trio.current_time() < self._answer_deadline:
            self._session.limit_settling(self)
        else:
            self.reset(Reason.TARGET_TIMEOUT, NO_ANSWER)

    def set_end_callback(self, callback: Callable[[FlowEnd], None]) -> None:
        """Call `callback` once, when the flow has ended, or at once if it already has. It must neither wait nor
        raise."""
        if self._end is not None:
            callback(self._end)
        else:
            self._end_callback = callback

    def _ended(self, ended_by: Party, reason: Reason, text: str = "") -> None:
        if self._end is None:
            self._end = FlowEnd(ended_by, reason, text, self.was_accepted, self.so_far())
            callback, self._end_callback = self._end_callback, None
            if callback is not None:
                callback(self._end)

    # --- `StreamObserver`, for the session

    def on_readable(self) -> None:
        """Note that a datagram has arrived, or that the peer has ended the flow."""
        # FIN may arrive before we have accepted the flow; then the flow ends when it is accepted.
        # A reset that arrived together with a datagram is reported by `on_aborted`.
        if self._state.states.sending is not Sending.OPEN and not self._state.is_aborted:
            self._ended(Party.PEER, Reason.NO_ERROR)
        self._wake()

    def on_writable(self) -> None:
        """Not used: nothing waits for room."""

    def on_aborted(self) -> None:
        """Note that the flow was refused or reset, or lost with its session."""
        self._ended(self._aborted_by, self._state.reason, self._state.text)
        self._wake()

    def on_settled(self) -> None:
        """Ignored: a flow does not report whether everything was delivered."""

    def _raise_broken(self) -> None:
        if not self._state.is_aborted:
            raise trio.BrokenResourceError("the peer has ended the flow")
        error = self._reset_error()
        raise trio.BrokenResourceError(str(error)) from error

    def _wake(self) -> None:
        super()._wake()
        if self._answer.is_set():
            self._session.settled(self)
        if self._watcher is not None:
            self._watcher()
