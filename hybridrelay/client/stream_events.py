"""The events about streams that a program opens itself: one when a stream is requested, and exactly one when it has
ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from ..connectivity.activity import session_activity_id, stream_activity_id
from ..connectivity.counters import EndpointCounters
from ..errors import HybridRelayError
from ..events.base import Event
from ..events.client import StreamNotOpened, StreamRequested
from ..events.endpoint import StreamClosed
from ..events.stream import EventStream
from ..mux import DatagramFlow, FlowEnd, MuxStream, StreamEnd
from ..protocol.reasons import Reason
from .outcome import outcome_of_flow, outcome_of_stream
from .requests import StreamRequests

__all__ = ["StreamReports"]


class StreamReports:
    """Publishes the events of the streams of one client.

    Args:
        connection: returns the name of the hybrid connection.
        events: gets the events.
        requests: the client's open requests.
        serial_of: returns the serial of the identity with which a session was opened.
        counters: counts datagrams.
        refused: called with a stream or flow that was refused after it had been returned to the application, and the
            reason.
    """

    def __init__(
        self,
        connection: Callable[[], str],
        events: EventStream,
        requests: StreamRequests,
        serial_of: Callable[[bytes], str],
        counters: EndpointCounters,
        *,
        refused: Callable[[MuxStream | DatagramFlow, Reason], None] = lambda _stream, _reason: None,
    ) -> None:
        self._counters = counters
        self._connection = connection
        self._events = events
        self._requests = requests
        self._serial_of = serial_of
        self._refused = refused
        #: The streams that have not ended. The budget of the session bounds their number: each reserves a part of it
        #: until it has been read to its end, and ends with the session at the latest.
        self._streams: set[MuxStream | DatagramFlow] = set()

    @contextmanager
    def request(self) -> Iterator[Callable[[MuxStream], None]]:
        """Publish the events of a stream that is requested in the block. Call the yielded function with the stream.

        If the block raises, which includes cancellation, the stream was not opened.
        """
        request = self._requests.begin()
        id_, began = request.id, request.began
        self._events.publish(StreamRequested(connection=self._connection(), activity_id=id_))

        def not_opened(reason: Reason, detail: str, stream_id: str = "", ended_at: float | None = None) -> Event:
            return StreamNotOpened(
                connection=self._connection(),
                activity_id=id_,
                reason=reason,
                detail=detail,
                seconds=(trio.current_time() if ended_at is None else ended_at) - began,
                stream_id=stream_id,
            )

        def ended(end: StreamEnd, stream_id: str) -> Event:
            if not end.was_accepted:
                return not_opened(end.reason, end.text, stream_id, end.ended_at)
            outcome = outcome_of_stream(end)
            return StreamClosed(
                connection=self._connection(),
                activity_id=id_,
                outcome=outcome.kind,
                reason=outcome.reason,
                to_target=str(outcome.to_target),
                to_client=str(outcome.to_client),
                bytes_to_target=end.sent,
                bytes_to_client=end.received,
                seconds=end.ended_at - began,
                stream_id=stream_id,
            )

        def follow(stream: MuxStream) -> None:
            def end(how: StreamEnd) -> None:
                self._streams.discard(stream)
                self._requests.end(request, how.reason)
                self._events.publish(ended(how, self.id_of(stream)))
                if not how.was_accepted:
                    self._refused(stream, how.reason)

            self._streams.add(stream)
            request.stream = stream
            stream.set_end_callback(end)

        try:
            yield follow
        except BaseException as exc:
            self._requests.end(request, _reason_of(exc))
            self._events.publish(not_opened(_reason_of(exc), str(exc) if isinstance(exc, Exception) else ""))
            raise

    @contextmanager
    def request_flow(self, application: Callable[[], str]) -> Iterator[Callable[[DatagramFlow], None]]:
        """Like `request`, for a flow of datagrams. `application` returns the address of its application."""
        request = self._requests.begin(application)
        connection, id_, began = self._connection(), request.id, request.began
        self._events.publish(StreamRequested(connection=connection, activity_id=id_))

        def not_opened(reason: Reason, detail: str, stream_id: str = "") -> Event:
            return StreamNotOpened(
                connection=connection,
                activity_id=id_,
                reason=reason,
                detail=detail,
                seconds=trio.current_time() - began,
                stream_id=stream_id,
            )

        def ended(end: FlowEnd, stream_id: str) -> Event:
            if not end.was_accepted:
                return not_opened(end.reason, end.text, stream_id)
            outcome, progress = outcome_of_flow(end), end.progress
            return StreamClosed(
                connection=connection,
                activity_id=id_,
                outcome=outcome.kind,
                reason=outcome.reason,
                to_target=str(outcome.to_target),
                to_client=str(outcome.to_client),
                bytes_to_target=progress.bytes_sent,
                bytes_to_client=progress.bytes_received,
                datagrams_to_target=progress.sent,
                datagrams_to_client=progress.received,
                datagrams_dropped=progress.dropped.queue + progress.dropped.age + progress.dropped.size,
                seconds=trio.current_time() - began,
                stream_id=stream_id,
            )

        def follow(flow: DatagramFlow) -> None:
            def end(how: FlowEnd) -> None:
                self._streams.discard(flow)
                self._requests.end(request, how.reason)
                self._counters.add_flow(how.progress.sent, how.progress.received, how.progress.dropped)
                self._events.publish(ended(how, self.id_of(flow)))
                if not how.was_accepted:
                    self._refused(flow, how.reason)

            self._streams.add(flow)
            request.stream = flow
            flow.set_end_callback(end)

        try:
            yield follow
        except BaseException as exc:
            self._requests.end(request, _reason_of(exc))
            self._events.publish(not_opened(_reason_of(exc), str(exc) if isinstance(exc, Exception) else ""))
            raise

    def id_of(self, stream: MuxStream | DatagramFlow) -> str:
        """Return the id of a stream in the connector's events."""
        session_id = stream.session_id
        return stream_activity_id(session_activity_id(session_id, self._serial_of(session_id)), stream.stream_id)

    def close(self) -> None:
        """Publish the ends of all streams that were never closed, because the client and its sessions have ended."""
        for stream in list(self._streams):
            stream.reset(Reason.GOING_AWAY)


def _reason_of(error: BaseException) -> Reason:
    """Return the reason of an error of `Client.open_stream`."""
    if isinstance(error, HybridRelayError):
        return error.reason
    if isinstance(error, trio.ClosedResourceError):  # the client was closed
        return Reason.GOING_AWAY
    return Reason.INTERNAL_ERROR if isinstance(error, Exception) else Reason.CANCELLED
