"""Keeps track of the streams that applications have requested and that have not ended."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator

import attrs
import trio

from ..connectivity.counters import EndpointCounters
from ..mux import DatagramFlow, MuxStream
from ..protocol.reasons import Reason

__all__ = ["StreamRequest", "StreamRequests"]


@attrs.define(eq=False)
class StreamRequest:
    """One connection or flow of datagrams of an application, or one call of `Client.open_stream`."""

    #: The request's id in events.
    id: str
    #: When the request was made, on Trio's clock.
    began: float
    #: Returns the address of the application; empty if there is none. Raises OSError if its connection is closed.
    application: Callable[[], str]
    #: The stream or flow of datagrams, as soon as there is a session for it.
    stream: MuxStream | DatagramFlow | None = None

    @property
    def was_accepted(self) -> bool:
        """Whether the connector has connected the stream to the target. The stream may have ended since."""
        return self.stream is not None and self.stream.was_accepted


class StreamRequests:
    """The requests of one client that have not ended.

    Args:
        connection: returns the name of the hybrid connection.
        counters: counts how the requests have ended.
    """

    def __init__(self, connection: Callable[[], str], counters: EndpointCounters) -> None:
        self._connection = connection
        self.counters = counters
        #: The prefix of the ids of all requests, which is different in each run of a client.
        self._run_id = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        #: The open requests, in the order in which they were made.
        self._open: dict[StreamRequest, None] = {}

    def __iter__(self) -> Iterator[StreamRequest]:
        """Return all of them, the oldest first."""
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, application: Callable[[], str] = str) -> StreamRequest:
        """Record a new request."""
        request = StreamRequest(f"{self._run_id}-{next(self._numbers)}", trio.current_time(), application)
        self._open[request] = None
        return request

    def end(self, request: StreamRequest, reason: Reason) -> None:
        """Record that a request has ended. `reason` says why no stream was opened, and is ignored if one was."""
        del self._open[request]
        if request.was_accepted:
            reason = Reason.NO_ERROR
        elif reason is Reason.NO_ERROR:
            reason = Reason.CANCELLED
        self.counters.stream_opened(self._connection(), reason)
