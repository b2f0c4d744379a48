"""Keeps track of the streams that applications have requested and that have not ended."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import TypedDict

import attrs
import trio

from ..connectivity.counters import EndpointCounters
from ..mux import DatagramFlow, MuxStream
from ..protocol.reasons import Reason
from ..security import ConnectionString, HostPort, HostPorts

__all__ = ["RequestFields", "StreamRequest", "StreamRequests"]


@attrs.define(eq=False)
class StreamRequest:
    """One connection or flow of datagrams of an application, or one call of `Client.open_stream`."""

    #: The request's id in events.
    id: str
    #: When the request was made, on Trio's clock.
    began: float
    #: The address of the application; empty if there is none, or if its connection was closed at once.
    application: str
    #: Which port of the target it is for, if the hybrid connection has several; None: the first one.
    port: int | None = None
    #: The stream or flow of datagrams, as soon as there is a session for it.
    stream: MuxStream | DatagramFlow | None = None
    #: The serial of the identity of that session, and the relay and route of its data channel at that moment.
    serial: str = ""
    route: str = ""

    @property
    def was_accepted(self) -> bool:
        """Whether the connector has connected the stream to the target. The stream may have ended since."""
        return self.stream is not None and self.stream.was_accepted


class RequestFields(TypedDict):
    """What is known about a request, as fields of events."""

    connection: str
    label: str
    serial: str
    target: str
    route: str
    application: str


class StreamRequests:
    """The requests of one client that have not ended.

    Args:
        string: returns the connection string that is in use.
        counters: counts how the requests have ended.
        session_of: returns the serial of the identity of the session with an id, and its relay and route.
    """

    def __init__(
        self,
        string: Callable[[], ConnectionString],
        counters: EndpointCounters,
        session_of: Callable[[bytes], tuple[str, str]] = lambda _session_id: ("", ""),
    ) -> None:
        self._string = string
        self._session_of = session_of
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

    def begin(self, application: Callable[[], str] = str, port: int | None = None) -> StreamRequest:
        """Record a new request.

        Args:
            application: returns the address of the application; empty if there is none. It may raise OSError.
            port: see `StreamRequest`.
        """
        try:
            address = application()
        except OSError:  # its connection was closed
            address = ""
        request = StreamRequest(f"{self._run_id}-{next(self._numbers)}", trio.current_time(), address, port)
        self._open[request] = None
        return request

    def assign(self, request: StreamRequest, stream: MuxStream | DatagramFlow) -> None:
        """Record the stream or flow for a request. If it was refused, there may be another one later."""
        request.stream = stream
        request.serial, request.route = self._session_of(stream.session_id)

    def about(self, request: StreamRequest) -> RequestFields:
        """Return what is known about a request."""
        string = self._string()
        identity, name = string.identity, string.local_name
        if isinstance(name, HostPorts):
            name = name.first if request.port is None else HostPort(name.host, request.port)
        return {
            "connection": string.entity_path,
            "label": "" if identity is None else identity.label,
            "serial": request.serial or ("" if identity is None else identity.serial),
            "target": "" if name is None else str(name),
            "route": request.route,
            "application": request.application,
        }

    def end(self, request: StreamRequest, reason: Reason) -> None:
        """Record that a request has ended. `reason` says why no stream was opened, and is ignored if one was."""
        del self._open[request]
        if request.was_accepted:
            reason = Reason.NO_ERROR
        elif reason is Reason.NO_ERROR:
            reason = Reason.CANCELLED
        self.counters.stream_opened(self._string().entity_path, reason)
