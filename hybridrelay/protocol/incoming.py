"""Handling the peer's frames for streams. SPEC.md, section 3.

A handler raises no exception but RemoteProtocolError, which ends the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import frames
from .config import BASE_WINDOW, SessionConfig
from .datagrams import MAX_OPENING_SECONDS, MAX_WAIT_SECONDS, Flow
from .delivery import Inbox
from .errors import RemoteProtocolError
from .events import (
    OpenRefused,
    SessionEvent,
    StreamAborted,
    StreamAnswered,
    StreamOffered,
    StreamReadable,
    StreamSettled,
    StreamWritable,
)
from .features import NO_FEATURES, Kind, may_open
from .metadata import NO_METADATA
from .output import Output
from .reasons import Reason
from .states import Input, Opening, Receiving, Sending, StreamStates
from .stream import Stream
from .table import StreamTable
from .windows import Budget, ReceiveWindow

#: Frames that may arrive after the end of their stream. We forget a stream as soon as everything that we wrote for it
#: is acknowledged (possibly by HELLO), and at that moment the peer may have one of these frames in its queue. DATA
#: and FIN are never queued as frames.
_CROSSING = frozenset({frames.Opened, frames.Refused, frames.Reset, frames.Stop, frames.Window, frames.Datagram})


class Incoming:
    """Handles the frames for the streams of one session."""

    def __init__(
        self,
        config: SessionConfig,
        budget: Budget,
        table: StreamTable,
        output: Output,
        inbox: Inbox,
        events: list[SessionEvent],
    ) -> None:
        self._config = config
        self._budget = budget
        self._table = table
        self._output = output
        self._inbox = inbox
        self._events = events
        #: The budget for the windows of refused streams. It has room for all streams that the peer may have.
        self._refused_budget = Budget((config.max_streams + config.max_refused_streams) * BASE_WINDOW)
        #: The features in use.
        self.features = NO_FEATURES
        #: Counted frames up to this number were first written before the reattachment, so they may be for streams
        #: that have ended since (SPEC.md, section 5).
        self.replayed_until = 0
        #: Bytes of DATA and DATAGRAM that were received on all channels, for streams whose application still reads.
        self.data_received = 0

    def receive_untrusted(self, frame: frames.Frame, now: float) -> None:
        if frame.counted:
            size = len(frame.data) if isinstance(frame, frames.Data) else 0
            self._inbox.receive(frames.HEADER_SIZE + size, now)
        if isinstance(frame, frames.Open):
            self._on_open(frame)
            return
        stream = self._table.streams.get(frame.stream)
        if stream is not None and stream.announced:
            handler = (_HANDLERS if stream.flow is None else _FLOW_HANDLERS).get(type(frame))
            if handler is None:
                raise RemoteProtocolError(
                    f"a frame of type {frame.TYPE:#04x} must not be sent on a stream of kind {stream.kind}"
                )
            handler(self, stream, frame, now)
            return
        may_cross = type(frame) in _CROSSING or self._inbox.received <= self.replayed_until
        if stream is not None or not may_cross or not self._table.was_opened(frame.stream):
            raise RemoteProtocolError(
                f"a frame of type {frame.TYPE:#04x} is for stream {frame.stream}, which is not open"
            )

    def _on_open(self, frame: frames.Open) -> None:
        table = self._table
        if table.is_own(frame.stream) or frame.stream <= table.last_peer_id:
            raise RemoteProtocolError(
                f"OPEN for stream {frame.stream}, whose id is not one of the peer's, or not greater than its last one"
            )
        if table.peer_count >= self._config.max_streams + self._config.max_refused_streams:
            raise RemoteProtocolError("too many streams")
        sending = self._output.outbox.sending
        if sending.ended_streams >= self._config.max_refused_streams and sending.keeps_too_many_streams:
            raise RemoteProtocolError("too many streams that are over were not acknowledged", reason=Reason.LIMIT)
        refusal = self._open_refusal(frame)
        # A refused stream has to be kept until the refusal is acknowledged, and data that arrives for it counts
        # against its window. The data is not stored, so this window has a separate budget.
        budget, metadata = self._budget, frame.metadata
        if refusal is not Reason.NO_ERROR:
            budget, metadata = self._refused_budget, NO_METADATA
            budget.reserve_base()
        window = ReceiveWindow(budget, self._config.max_window)
        is_flow = frame.kind == Kind.DATAGRAMS and may_open(frame.kind, self.features)
        flow = Flow(sending, self._budget) if is_flow else None
        stream = Stream(frame.stream, StreamStates(Opening.OFFERED), window, frame.kind, metadata, flow=flow)
        # The limit in OPEN applies from OPENED on. We cannot send data before that, so it is set now.
        stream.send_window.raise_to(frame.limit)
        table.add_offered(stream)
        if refusal is Reason.NO_ERROR:
            self._events.append(StreamOffered(stream))
        else:
            self._output.refuse(stream, refusal, "")
            self._events.append(OpenRefused(stream.id, refusal))

    def _open_refusal(self, frame: frames.Open) -> Reason:
        """Return why the stream has to be refused; `Reason.NO_ERROR` if it can be accepted and its window is
        reserved."""
        if self._output.goaway is not None:
            return Reason.GOING_AWAY
        if not may_open(frame.kind, self.features):
            return Reason.KIND_NOT_OFFERED
        if frame.metadata.not_understood(self._config.metadata_types) is not None:
            return Reason.METADATA_NOT_UNDERSTOOD
        table = self._table
        allowed = table.peer_count < self._config.max_streams and table.offered < self._config.max_backlog
        return Reason.NO_ERROR if allowed and self._budget.reserve_base() else Reason.LIMIT

    def _on_opened(self, stream: Stream, frame: frames.Opened, now: float) -> None:
        if stream.states.apply(Input.RECV_OPENED):
            stream.send_window.raise_to(frame.limit)
            # More memory may be available than when OPEN was written. If so, raise the limit and state it.
            if stream.flow is None and stream.receive_window.grow_to(self._config.initial_window, now):
                self._output.window(stream)
            self._events.append(StreamAnswered(stream))
            self._output.schedule(stream)

    def _on_data(self, stream: Stream, frame: frames.Data, now: float) -> None:
        fresh = stream.states.apply(Input.RECV_DATA)
        if not stream.receive_window.receive(len(frame.data)):
            raise RemoteProtocolError(f"stream {stream.id} sent beyond its limit")
        if fresh and stream.states.receiving is Receiving.OPEN:
            self.data_received += len(frame.data)
            stream.add_input(frame.data)
            self._events.append(StreamReadable(stream))

    def _on_datagram(self, stream: Stream, frame: frames.Datagram, now: float) -> None:
        assert stream.flow is not None
        # After our FIN, nobody waits for datagrams any more.
        if stream.states.apply(Input.RECV_DATA) and stream.states.sending is Sending.OPEN:
            flow = stream.flow
            flow.received_count += 1
            flow.bytes_received += len(frame.data)
            self.data_received += len(frame.data)
            is_offered = stream.states.opening is Opening.OFFERED
            flow.received.put(frame.data, now, MAX_OPENING_SECONDS if is_offered else MAX_WAIT_SECONDS)
            self._events.append(StreamReadable(stream))

    def _on_flow_fin(self, stream: Stream, frame: frames.Fin, now: float) -> None:
        if stream.states.apply(Input.RECV_FIN):
            self._output.end_flow(stream)
            self._events.append(StreamReadable(stream))
            self._table.settle(stream)

    def _on_fin(self, stream: Stream, frame: frames.Fin, now: float) -> None:
        if stream.states.apply(Input.RECV_FIN):
            self._events.append(StreamReadable(stream))
            self._table.settle(stream)

    def _on_stop(self, stream: Stream, frame: frames.Stop, now: float) -> None:
        before = stream.states.sending
        if not stream.states.apply(Input.RECV_STOP) or stream.is_delivered or stream.stopped_by_peer:
            return
        stream.stop_sending(frame.reason, frame.text, self._output.outbox)
        if before is not Sending.FINISHED:
            self._events.append(StreamWritable(stream))
            self._output.schedule(stream)
        if stream.settle():
            self._events.append(StreamSettled(stream))

    def _on_abort(self, stream: Stream, frame: frames.Reset | frames.Refused, now: float) -> None:
        offered = stream.states.opening is Opening.OFFERED
        if stream.states.apply(Input.RECV_RESET if isinstance(frame, frames.Reset) else Input.RECV_REFUSED):
            self._table.offered -= offered
            stream.abort(frame.reason, frame.text, self._output.outbox)
            self._events.append(StreamAborted(stream))
            self._table.settle(stream)

    def _on_window(self, stream: Stream, frame: frames.Window, now: float) -> None:
        if stream.send_window.raise_to(frame.limit):
            self._output.schedule(stream)


_HANDLERS: dict[type[frames.Frame], Callable[[Incoming, Stream, Any, float], None]] = {
    frames.Opened: Incoming._on_opened,
    frames.Refused: Incoming._on_abort,
    frames.Data: Incoming._on_data,
    frames.Fin: Incoming._on_fin,
    frames.Reset: Incoming._on_abort,
    frames.Stop: Incoming._on_stop,
    frames.Window: Incoming._on_window,
}
#: For flows. They have no windows, and end in both directions together, so STOP makes no sense.
_FLOW_HANDLERS: dict[type[frames.Frame], Callable[[Incoming, Stream, Any, float], None]] = {
    frames.Opened: Incoming._on_opened,
    frames.Refused: Incoming._on_abort,
    frames.Datagram: Incoming._on_datagram,
    frames.Fin: Incoming._on_flow_fin,
    frames.Reset: Incoming._on_abort,
}
