"""What is published about one stream of an application: one event at its beginning, and exactly one at its end."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..events import EventStream, StreamClosed, StreamNotConnected, StreamOpened, StreamStillOpen
from ..security import HostPort, PeerIdentity
from .outcome import NotConnected, StreamOutcome
from .published import Published

__all__ = ["Origin", "StreamEvents"]


@attrs.frozen
class Origin:
    """Where a stream comes from."""

    published: Published
    peer: PeerIdentity
    #: Tells the sessions of this process apart in the audit log.
    session: int
    #: The current route of the session's data channel: ``tcp at relay.example.com``.
    route: str


class StreamEvents:
    """Publishes the events of one stream. Made when the application asks for the stream.

    Args:
        events: gets the events.
        origin: where the stream comes from.
        stream: its id in its session.
        activity_id: the same in all events of the stream, and in no others.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, events: EventStream, origin: Origin, stream: int, activity_id: str, clock: Callable[[], float]
    ) -> None:
        self.began = clock()
        self.target: HostPort = origin.published.target  # a reload may change it at any moment
        self._events = events
        self._origin = origin
        self._stream = stream
        self._id = activity_id
        self._clock = clock
        self._reported = self.began

    def opened(self) -> None:
        """The application asks for it."""
        origin = self._origin
        self._events.publish(
            StreamOpened(
                connection=origin.published.name,
                activity_id=self._id,
                label=origin.peer.label,
                serial=origin.peer.serial,
                target=str(self.target),
                session=origin.session,
                stream=self._stream,
                route=origin.route,
            )
        )

    def ended(self, outcome: StreamOutcome) -> None:
        """It is over."""
        name, peer = self._origin.published.name, self._origin.peer
        event: StreamNotConnected | StreamClosed
        if isinstance(outcome, NotConnected):
            event = StreamNotConnected(
                connection=name,
                activity_id=self._id,
                label=peer.label,
                serial=peer.serial,
                target=str(self.target),
                reason=outcome.reason,
                detail=outcome.detail,
                seconds=self._seconds,
            )
        else:
            event = StreamClosed(
                connection=name,
                activity_id=self._id,
                label=peer.label,
                serial=peer.serial,
                target=str(self.target),
                outcome=outcome.kind,
                reason=outcome.reason,
                to_target=str(outcome.to_target),
                to_client=str(outcome.to_client),
                bytes_to_target=outcome.bytes_to_target,
                bytes_to_client=outcome.bytes_to_client,
                seconds=self._seconds,
            )
        self._events.publish(event)

    def still_open(self, *, bytes_to_target: int, bytes_to_client: int, at_most_every: float) -> None:
        """It is open, which is published unless something was within the last `at_most_every` seconds."""
        now = self._clock()
        if now - self._reported < at_most_every:
            return
        self._reported = now
        self._events.publish(
            StreamStillOpen(
                connection=self._origin.published.name,
                activity_id=self._id,
                label=self._origin.peer.label,
                serial=self._origin.peer.serial,
                target=str(self.target),
                bytes_to_target=bytes_to_target,
                bytes_to_client=bytes_to_client,
                seconds=self._seconds,
            )
        )

    @property
    def _seconds(self) -> float:
        return round(self._clock() - self.began, 3)
