"""The events about streams that a program opens itself: one when a stream is requested, and exactly one when it has
ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import attrs
import trio

from ..connectivity.activity import session_activity_id, stream_activity_id
from ..connectivity.counters import CountedDatagrams, EndpointCounters
from ..errors import HybridRelayError
from ..events.client import StreamNotOpened, StreamRequested
from ..events.endpoint import StreamClosed
from ..events.stream import EventStream
from ..mux import DatagramFlow, FlowEnd, MuxStream, StreamEnd
from ..protocol.reasons import Reason
from .outcome import outcome_of_flow, outcome_of_stream
from .requests import StreamRequest, StreamRequests

__all__ = ["StreamReports"]

T = TypeVar("T", MuxStream, DatagramFlow)


class StreamReports:
    """Publishes the events of the streams of one client.

    Args:
        events: gets the events.
        requests: the client's open requests.
        serial_of: returns the serial of the identity with which a session was opened.
        counters: counts datagrams.
        refused: called with a stream or flow that was refused after it had been returned to the application, and the
            reason.
    """

    def __init__(
        self,
        events: EventStream,
        requests: StreamRequests,
        serial_of: Callable[[bytes], str],
        counters: EndpointCounters,
        *,
        refused: Callable[[MuxStream | DatagramFlow, Reason], None] = lambda _stream, _reason: None,
    ) -> None:
        self._counters = counters
        self._events = events
        self._requests = requests
        self._serial_of = serial_of
        self._refused = refused
        #: The streams that have not ended. The budget of the session bounds their number: each reserves a part of it
        #: until it has been read to its end, and ends with the session at the latest.
        self._streams: set[MuxStream | DatagramFlow] = set()

    @contextmanager
    def request(self, port: int | None = None) -> Iterator[Callable[[MuxStream], None]]:
        """Publish the events of a stream that is requested in the block. Call the yielded function with the stream.
        `port`: which port of the target it is for; None means the first one.

        If the block raises, which includes cancellation, the stream was not opened.
        """

        def report(request: StreamRequest, stream: MuxStream) -> None:
            stream.set_end_callback(lambda how: self._ended(request, stream, how, how.ended_at))

        with self._requested(self._requests.begin(port=port), report) as follow:
            yield follow

    @contextmanager
    def request_flow(
        self, application: Callable[[], str], port: int | None = None
    ) -> Iterator[Callable[[DatagramFlow], None]]:
        """Like `request`, for a flow of datagrams. `application` returns the address of its application."""

        def report(request: StreamRequest, flow: DatagramFlow) -> None:
            self._counters.datagrams_began(flow, lambda: _counted(flow))
            flow.set_end_callback(lambda how: self._ended(request, flow, how, trio.current_time()))

        with self._requested(self._requests.begin(application, port), report) as follow:
            yield follow

    @contextmanager
    def _requested(
        self, request: StreamRequest, report: Callable[[StreamRequest, T], None]
    ) -> Iterator[Callable[[T], None]]:
        """Publish that `request` was made. `report` sets the callback for the end of what is opened for it."""
        self._events.publish(StreamRequested(activity_id=request.id, **self._requests.about(request)))

        def follow(stream: T) -> None:
            self._streams.add(stream)
            self._requests.assign(request, stream)
            report(request, stream)

        try:
            yield follow
        except BaseException as exc:
            reason, detail = _reason_of(exc), str(exc) if isinstance(exc, Exception) else ""
            self._requests.end(request, reason)
            self._events.publish(self._not_opened(request, reason, detail, "", trio.current_time()))
            raise

    def _ended(
        self, request: StreamRequest, stream: MuxStream | DatagramFlow, how: StreamEnd | FlowEnd, ended_at: float
    ) -> None:
        self._streams.discard(stream)
        self._requests.end(request, how.reason)
        if isinstance(how, FlowEnd):
            self._counters.datagrams_ended(stream)
        stream_id = self.id_of(stream)
        if how.was_accepted:
            self._events.publish(self._closed(request, how, stream_id, ended_at))
        else:
            self._events.publish(self._not_opened(request, how.reason, how.text, stream_id, ended_at))
            self._refused(stream, how.reason)

    def _not_opened(
        self, request: StreamRequest, reason: Reason, detail: str, stream_id: str, ended_at: float
    ) -> StreamNotOpened:
        return StreamNotOpened(
            **self._requests.about(request),
            activity_id=request.id,
            reason=reason,
            detail=detail,
            seconds=ended_at - request.began,
            stream_id=stream_id,
        )

    def _closed(
        self, request: StreamRequest, how: StreamEnd | FlowEnd, stream_id: str, ended_at: float
    ) -> StreamClosed:
        if isinstance(how, FlowEnd):
            outcome, sent, received = outcome_of_flow(how), how.progress.bytes_sent, how.progress.bytes_received
        else:
            outcome, sent, received = outcome_of_stream(how), how.sent, how.received
        closed = StreamClosed(
            **self._requests.about(request),
            activity_id=request.id,
            outcome=outcome.kind,
            reason=outcome.reason,
            to_target=str(outcome.to_target),
            to_client=str(outcome.to_client),
            bytes_to_target=sent,
            bytes_to_client=received,
            seconds=ended_at - request.began,
            stream_id=stream_id,
        )
        if not isinstance(how, FlowEnd):
            return closed
        return attrs.evolve(
            closed,
            datagrams_to_target=how.progress.sent,
            datagrams_to_client=how.progress.received,
            datagrams_dropped=how.progress.dropped.total,
        )

    def id_of(self, stream: MuxStream | DatagramFlow) -> str:
        """Return the id of a stream in the connector's events."""
        session_id = stream.session_id
        return stream_activity_id(session_activity_id(session_id, self._serial_of(session_id)), stream.stream_id)

    def close(self) -> None:
        """Publish the ends of all streams that were never closed, because the client and its sessions have ended."""
        for stream in list(self._streams):
            stream.reset(Reason.GOING_AWAY)


def _counted(flow: DatagramFlow) -> CountedDatagrams:
    progress = flow.so_far()
    return CountedDatagrams(progress.sent, progress.received, progress.dropped)


def _reason_of(error: BaseException) -> Reason:
    """Return the reason of an error of `Client.open_stream`."""
    if isinstance(error, HybridRelayError):
        return error.reason
    if isinstance(error, trio.ClosedResourceError):  # the client was closed
        return Reason.GOING_AWAY
    return Reason.INTERNAL_ERROR if isinstance(error, Exception) else Reason.CANCELLED
