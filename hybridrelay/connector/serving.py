"""Serving the streams of all sessions of a connector: each is accepted or refused, and has exactly one outcome."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Awaitable, Callable, Iterator

import trio

from ..connectivity.counters import EndpointCounters
from ..events.stream import EventStream
from ..mux import Bridges, Kind, Offer
from ..policy import Policy
from ..policy.local_time import local_now
from ..protocol.reasons import Reason
from ..security import StreamTarget
from .named_instances import NamedInstances
from .open_streams import OpenStreams
from .outcome import NotConnected
from .recent_ports import RecentPorts
from .requested import first_target, requested_untrusted
from .served_flow import ServedFlow
from .served_stream import ServedStream, Serving
from .shares import Shares
from .stream_events import Origin, StreamEvents
from .targets import TargetAttempted, ignore_attempt

__all__ = ["StreamService"]

#: How often to check for streams whose next event is due (seconds).
_CHECK_SECONDS = 600.0


class StreamService:
    """Serves the streams of all sessions of a connector.

    Args:
        policy: returns the policy that is in force now.
        shares: limits how many connections to targets each application may have.
        events: the stream to which events are published.
        counters: counts the streams that are opened, and those that are not.
        target_attempted: is told how each attempt to connect to a target has ended, unless it was withdrawn or the
            policy has decided against it.
        named_instances: finds the ports of named instances.
        recorded: waits until the events so far are in the audit log, before the target is dialed
            (`AuditLog.wait_recorded`). None: there is no audit log.
        clock: returns seconds on a monotonic clock.
        local_time: returns the local time of the machine.
    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        shares: Shares,
        events: EventStream,
        counters: EndpointCounters,
        *,
        clock: Callable[[], float] = time.monotonic,
        recorded: Callable[[], Awaitable[None]] | None = None,
        named_instances: NamedInstances | None = None,
        local_time: Callable[[], dt.datetime] = local_now,
        target_attempted: TargetAttempted = ignore_attempt,
    ) -> None:
        self.local_time = local_time
        self.clock = clock
        self.named_instances = NamedInstances() if named_instances is None else named_instances
        self._open = OpenStreams[ServedStream](policy, self._now)
        self._serving = Serving(
            self._open,
            policy=policy,
            shares=shares,
            recent_ports=RecentPorts(),
            events=events,
            counters=counters,
            recorded=recorded,
            target_attempted=target_attempted,
            named_instances=self.named_instances,
            clock=clock,
        )

    def _now(self) -> dt.datetime:
        return self.local_time()

    def __iter__(self) -> Iterator[ServedStream]:
        """Return all streams that have not ended, the oldest first."""
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, offer: Offer, origin: Origin, bridges: Bridges) -> None:
        """Connect to the target for a stream that an application requests, start the bridge between the two, and
        return. For a flow of datagrams, return when it has ended. An error does not affect other streams.

        Publishes one event at the beginning and exactly one at the end of the stream. The second one is published
        when the stream has ended and the client has acknowledged everything, or the session ends; at the latest 5
        seconds after the end of the stream. If cancelled before the target is connected, the stream is refused with
        `Reason.GOING_AWAY`; a flow is reset.

        Args:
            offer: the request.
            origin: where it comes from, for events.
            bridges: the bridges of the session. When they are cut off, the stream ends.
        """
        requested = requested_untrusted(origin.published.target, offer.metadata, offer.kind)
        stream_events = self._events_of(origin, offer.stream_id, requested.target)
        kind = ServedFlow if offer.kind is Kind.DATAGRAMS else ServedStream
        served = kind(self._serving, offer, origin, stream_events, requested.refusal)
        self._open.add(served)
        await served.serve(bridges)
        if isinstance(served, ServedFlow):
            await served.run()

    def enforce(self) -> None:
        """End the streams that the policy no longer allows. The oldest ones count first against its limits."""
        self._open.enforce()

    def session_refused(self, stream: int, reason: Reason, origin: Origin) -> None:
        """Publish the events of a stream that the session itself refused, because of one of its limits."""
        stream_events = self._events_of(origin, stream, first_target(origin.published.target))
        stream_events.opened()
        stream_events.ended(NotConnected(reason))
        self._serving.counters.stream_opened(origin.published.name, reason)

    def _events_of(self, origin: Origin, stream: int, target: StreamTarget) -> StreamEvents:
        return StreamEvents(self._serving.events, origin, stream, target, self.clock)

    async def keep_reporting(self) -> None:
        """Publish an event each day for each stream that is open, until cancelled."""
        while True:
            await trio.sleep(_CHECK_SECONDS)
            self.report_open()

    def report_open(self) -> None:
        """Publish an event for each stream about which nothing was published for `REPEAT_SECONDS`."""
        for served in list(self._open):
            served.report_open()
