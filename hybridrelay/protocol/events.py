"""The events that a session core returns to its driver. The `Stream` in an event has everything else."""

from __future__ import annotations

import attrs

from .reasons import Reason
from .stream import Stream


@attrs.frozen
class Established:
    """HELLO has been exchanged on the present channel; `resumed` if streams continue from an earlier one."""

    resumed: bool = False


@attrs.frozen
class StreamOffered:
    """The peer opened a stream: `accept` or `refuse` it."""

    stream: Stream


@attrs.frozen
class OpenRefused:
    """The peer asked for a stream, and the session itself has refused it. Nothing else is reported about it."""

    #: The stream's id.
    stream: int
    #: `Reason.LIMIT`, `GOING_AWAY`, `KIND_NOT_OFFERED` or `METADATA_NOT_UNDERSTOOD`.
    reason: Reason


@attrs.frozen
class StreamAnswered:
    """The peer accepted a stream of ours."""

    stream: Stream


@attrs.frozen
class StreamReadable:
    """Data or end of file arrived."""

    stream: Stream


@attrs.frozen
class StreamWritable:
    """The send queue has room again (`Stream.wants_room`), or the peer stopped reading (`Stream.stopped_by_peer`)."""

    stream: Stream


@attrs.frozen
class StreamAborted:
    """The stream was refused or reset by the peer, or lost with the session; `Stream.reason` says why."""

    stream: Stream


@attrs.frozen
class StreamSettled:
    """It is known whether the peer has received everything that was sent on the stream, including the end of file:
    `Stream.is_delivered`. If not, the peer stopped reading before that, or the session has ended.

    Reported if the driver has asked for it (`Stream.ask_for_delivery`), unless the stream was aborted. Also reported
    when the session ends, for each stream whose two directions had ended, and that was not completely acknowledged
    or read.
    """

    stream: Stream


@attrs.frozen
class GoingAway:
    """The peer accepts no further streams; those that are open continue."""

    reason: Reason
    text: str


@attrs.frozen
class SessionOutcome:
    """The last event: the session's one outcome. All streams have been aborted or were over."""

    reason: Reason
    text: str
    #: The peer decided it.
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
