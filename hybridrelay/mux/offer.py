"""A stream or flow that the peer wants to open, for the application to accept or to refuse."""

from __future__ import annotations

import trio

from ..protocol import Kind, Metadata
from ..protocol.reasons import Reason
from ..protocol.states import Opening, Sending
from ..protocol.stream import Stream
from .flow import DatagramFlow
from .stream import MuxStream
from .stream_base import SessionPort

__all__ = ["Offer"]


class Offer:
    """A stream or flow that the peer wants to open. Answer it with `accept` (or `accept_flow`, if its kind is
    `Kind.DATAGRAMS`) or `refuse`."""

    def __init__(self, session: SessionPort, state: Stream) -> None:
        self._session = session
        self._state = state
        self._stream = MuxStream(session, state) if state.flow is None else DatagramFlow(session, state)

    @property
    def kind(self) -> Kind:
        """The kind of the stream. Kinds whose feature is not in use never get here: the session refuses such
        streams."""
        return Kind(self._state.kind)

    @property
    def metadata(self) -> Metadata:
        """The metadata in OPEN: untrusted, at most 1,024 bytes. The types of its critical entries are known."""
        return self._stream.metadata

    @property
    def stream_id(self) -> int:
        """Unique within the session."""
        return self._state.id

    @property
    def waiting_datagrams(self) -> int:
        """How many datagrams have arrived for a flow that was not answered yet."""
        return 0 if self._state.flow is None else len(self._state.flow.received)

    @property
    def is_withdrawn(self) -> bool:
        """Whether the opener has withdrawn the offer, or the session has ended."""
        return self._state.is_aborted

    @property
    def withdrawn_reason(self) -> Reason:
        """Why the opener withdrew the offer, or why the session ended; `NO_ERROR` if it was not withdrawn."""
        return self._stream.reset_reason

    def accept(self) -> MuxStream:
        """Answer with OPENED. If the offer was withdrawn, the returned stream is broken from the start."""
        assert isinstance(self._stream, MuxStream)
        self._accept()
        return self._stream

    def accept_flow(self) -> DatagramFlow:
        """Like `accept`, for a flow. It may already have received datagrams, and may even have been ended."""
        assert isinstance(self._stream, DatagramFlow)
        self._accept()
        if self._state.states.sending is not Sending.OPEN:
            self._stream.on_readable()
        return self._stream

    def _accept(self) -> None:
        self._stream.cancel_when_aborted(None)
        if self._state.states.opening is Opening.OFFERED:
            self._session.core.accept(self._state, trio.current_time())
            self._session.output()
            self._stream.on_answered()

    def refuse(self, reason: Reason, text: str = "") -> None:
        """Answer with REFUSED. Does nothing if the offer was withdrawn."""
        self._stream.cancel_when_aborted(None)
        if self._state.states.opening is Opening.OFFERED:
            self._session.core.refuse(self._state, reason, text)
            self._session.output()
            self._stream.on_aborted()

    def cancel_when_withdrawn(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` if the offer is withdrawn before it is answered."""
        self._stream.cancel_when_aborted(scope)
