"""The events about one stream of an application: one at its beginning, exactly one at its end, and others while it
is open."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from .._value import Value
from ..connectivity.activity import stream_activity_id
from ..events.endpoint import StreamClosed, StreamNotConnected, StreamOpened, StreamStillOpen
from ..events.stream import EventStream
from ..security import PeerIdentity, StreamTarget
from .outcome import NotConnected, StreamOutcome
from .published import Published

__all__ = ["Origin", "StreamEvents"]


@attrs.frozen
class Origin(Value):
    """Where a stream comes from."""

    published: Published
    peer: PeerIdentity
    #: The session's id in events.
    session: str
    #: The current route of the session's data channel, for example ``tcp at relay.example.com``.
    route: str
    #: The address of the client, as the relay of this route has stated it.
    client_address: str = ""


class StreamEvents:
    """Publishes the events of one stream. Made when the application requests the stream.

    Args:
        events: the stream to which events are published.
        origin: where the stream comes from.
        stream: its id in its session.
        target: what it is to be connected to.
        clock: returns seconds on a monotonic clock.
    """

    def __init__(
        self, events: EventStream, origin: Origin, stream: int, target: StreamTarget, clock: Callable[[], float]
    ) -> None:
        self.began = clock()
        #: The stream's id in all its events, here and at the client.
        self.activity_id = stream_activity_id(origin.session, stream)
        #: A copy, because a reload may change the target of the hybrid connection.
        self.target = target
        #: The address that was connected to; empty before.
        self.address = ""
        self._events = events
        self._origin = origin
        self._stream = stream
        self._clock = clock
        self._reported = self.began

    @property
    def _facts(self) -> dict[str, str]:
        """What all events of a stream have."""
        origin = self._origin
        return {
            "connection": origin.published.name,
            "activity_id": self.activity_id,
            "label": origin.peer.label,
            "serial": origin.peer.serial,
            "target": str(self.target),
            "route": origin.route,
            "client_address": origin.client_address,
        }

    def opened(self) -> None:
        """Publish that the application has requested the stream."""
        self._events.publish(StreamOpened(**self._facts, session=self._origin.session, stream=self._stream))

    def ended(self, outcome: StreamOutcome, ended_at: float | None = None) -> None:
        """Publish that the stream has ended.

        Args:
            outcome: how it ended.
            ended_at: when it ended, on `clock`; None means now.
        """
        seconds = round((self._clock() if ended_at is None else ended_at) - self.began, 3)
        event: StreamNotConnected | StreamClosed
        if isinstance(outcome, NotConnected):
            event = StreamNotConnected(**self._facts, reason=outcome.reason, detail=outcome.detail, seconds=seconds)
        else:
            event = StreamClosed(
                **self._facts,
                address=self.address,
                outcome=outcome.kind,
                reason=outcome.reason,
                to_target=str(outcome.to_target),
                to_client=str(outcome.to_client),
                bytes_to_target=outcome.bytes_to_target,
                bytes_to_client=outcome.bytes_to_client,
                datagrams_to_target=None if (carried := outcome.carried) is None else carried.datagrams_to_target,
                datagrams_to_client=None if carried is None else carried.datagrams_to_client,
                datagrams_dropped=None if carried is None else carried.dropped,
                seconds=seconds,
            )
        self._events.publish(event)

    def still_open(self, *, bytes_to_target: int, bytes_to_client: int, at_most_every: float) -> None:
        """Publish that the stream is open, unless an event about it was published in the last `at_most_every`
        seconds."""
        now = self._clock()
        if now - self._reported < at_most_every:
            return
        self._reported = now
        self._events.publish(
            StreamStillOpen(
                **self._facts,
                address=self.address,
                bytes_to_target=bytes_to_target,
                bytes_to_client=bytes_to_client,
                seconds=round(now - self.began, 3),
            )
        )
