"""The requests of an application that exist only for flows of datagrams. SPEC.md, section 3."""

from __future__ import annotations

from collections.abc import Callable

from .config import MAX_DATAGRAM
from .output import Output
from .states import Input
from .stream import Stream
from .table import StreamTable

__all__ = ["FlowRequests"]


class FlowRequests:
    """The part of a session that its flows use.

    Args:
        check_not_ended: raises `LocalProtocolError` if the session is over.
        output: the session's output.
        table: its streams.
    """

    def __init__(self, check_not_ended: Callable[[], None], output: Output, table: StreamTable) -> None:
        self._check_not_ended = check_not_ended
        self._output = output
        self._table = table

    def send(self, stream: Stream, data: bytes, now: float) -> None:
        """Queue a datagram, for which older ones may be dropped. It is dropped itself if it has more than
        `MAX_DATAGRAM` bytes, if there is no memory for it, or if it cannot be written soon.

        Raises:
            LocalProtocolError: the session is over, the flow has ended, or this side has not accepted it yet.
        """
        assert stream.flow is not None
        self._check_not_ended()
        stream.states.apply(Input.SEND_DATA)
        if len(data) > MAX_DATAGRAM:
            stream.flow.dropped.size += 1
        else:
            stream.flow.to_send.put(data, now)
            self._output.schedule(stream)

    def read(self, stream: Stream, now: float) -> bytes | None:
        """Take the oldest datagram that has arrived. None means that there is none (for the end of the flow see
        `Stream.at_eof`)."""
        assert stream.flow is not None
        data = stream.flow.received.take(now)
        if not stream.flow.received:
            self._table.settle(stream)
        return data

    def drop_received(self, stream: Stream) -> None:
        """Drop the datagrams that have arrived, because nobody will read them."""
        stream.drop_input()
        self._table.settle(stream)
