"""The progress of a stream and how it ended, as values. Pure."""

from __future__ import annotations

import attrs

from .._value import Value
from ..protocol.reasons import Reason
from .bridging import Party

__all__ = ["LocalEnd", "StreamEnd", "StreamProgress"]


@attrs.frozen
class StreamProgress(Value):
    """The progress of a stream."""

    #: Bytes that were written to a channel.
    sent: int
    #: Bytes that were read.
    received: int
    #: Whether one of the directions has ended on this side.
    is_half_closed: bool


@attrs.frozen(kw_only=True)
class StreamEnd(Value):
    """How a stream ended, as far as this side can tell."""

    #: NOBODY if both directions finished, or if this side closed the stream and it is not known whether the peer has
    #: received everything. Otherwise LOCAL if this side closed or reset the stream; PEER and SESSION as for bridges.
    ended_by: Party
    #: `Reason.NO_ERROR` if both directions finished and nothing has failed.
    reason: Reason
    #: The peer's text about the reason; may be empty.
    text: str = ""
    #: Whether the peer had accepted the stream.
    was_accepted: bool
    #: Bytes that were written to the channel. Unless `sent_all`, the last of them may not have arrived.
    sent: int
    #: Bytes that were read.
    received: int
    #: Whether the peer has acknowledged all of the `sent` bytes, and the end of file after them.
    sent_all: bool
    #: Whether everything that the peer sent was read, including the end of file.
    received_all: bool
    #: Whether the peer has stopped reading.
    peer_stopped: bool
    #: Whether this side closed the stream instead of resetting it.
    was_closed: bool = False
    #: When the stream ended on this side, on Trio's clock. The peer may acknowledge the end later.
    ended_at: float = attrs.field(default=0.0, eq=False)


@attrs.frozen
class LocalEnd(Value):
    """How a stream has ended on this side."""

    ended_by: Party
    reason: Reason
    was_closed: bool
    received_all: bool
    #: When it ended, on Trio's clock.
    ended_at: float
