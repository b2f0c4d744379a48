"""The events that a session core returns to its driver. Details are in the `Stream` that an event contains."""

from __future__ import annotations

import attrs

from .._value import Value
from .reasons import Reason
from .stream import Stream


@attrs.frozen
class Established(Value):
    """HELLO has been exchanged on the current channel. `resumed`: whether streams continue from an earlier
    channel."""

    resumed: bool = False


@attrs.frozen
class StreamOffered(Value):
    """The peer opened a stream. Call `accept` or `refuse`."""

    stream: Stream


@attrs.frozen
class OpenRefused(Value):
    """The peer opened a stream, and the session itself refused it. Nothing else is reported about that stream."""

    #: The stream's id.
    stream: int
    #: `Reason.LIMIT`, `GOING_AWAY`, `KIND_NOT_OFFERED` or `METADATA_NOT_UNDERSTOOD`.
    reason: Reason


@attrs.frozen
class StreamAnswered(Value):
    """The peer accepted a stream of ours."""

    stream: Stream


@attrs.frozen
class StreamReadable(Value):
    """Data or end of file arrived."""

    stream: Stream


@attrs.frozen
class StreamWritable(Value):
    """The send queue has room again (`Stream.wants_room`), or the peer stopped reading (`Stream.stopped_by_peer`)."""

    stream: Stream


@attrs.frozen
class StreamAborted(Value):
    """The stream was refused or reset by the peer, reset by this session, or lost with it; `Stream.reason` says
    why. Not reported for `SessionCore.reset`."""

    stream: Stream


@attrs.frozen
class StreamSettled(Value):
    """It is known now whether the peer has received everything that was sent on the stream, including the end of
    file: `Stream.is_delivered`. If it has not, the peer stopped reading first, or the session has ended.

    Reported if the driver has asked for it (`Stream.ask_for_delivery`), unless the stream was aborted. When the
    session ends, this is also reported for each stream that had ended in both directions but was not completely
    acknowledged or read.
    """

    stream: Stream


@attrs.frozen
class GoingAway(Value):
    """The peer accepts no further streams. Open ones continue."""

    reason: Reason
    text: str


@attrs.frozen
class SessionOutcome(Value):
    """How the session ended. This is the last event; all streams have been aborted or were over."""

    reason: Reason
    text: str
    #: Whether the peer ended the session.
    by_peer: bool


SessionEvent = (
    Established
    | StreamOffered
    | OpenRefused
    | StreamAnswered
    | StreamReadable
    | StreamWritable
    | StreamAborted
    | StreamSettled
    | GoingAway
    | SessionOutcome
)
