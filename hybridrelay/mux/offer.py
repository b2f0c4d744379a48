"""A stream that the peer wants to open, for the application to accept or to refuse."""

from __future__ import annotations

import trio

from ..protocol import Kind, Metadata
from ..protocol.reasons import Reason
from ..protocol.states import Opening
from ..protocol.stream import Stream
from .stream import MuxStream, SessionPort

__all__ = ["Offer"]


class Offer:
    """A stream that the peer wants to open: `accept` or `refuse` it."""

    def __init__(self, session: SessionPort, state: Stream) -> None:
        self._session = session
        self._state = state
        self._stream = MuxStream(session, state)

    @property
    def kind(self) -> Kind:
        """The kind of the stream. If not both sides offer the feature of a kind, such streams were refused
        already."""
        return Kind(self._state.kind)

    @property
    def metadata(self) -> Metadata:
        """What the opener sent with OPEN; untrusted, at most 1,024 bytes. Critical entries have known types."""
        return self._stream.metadata

    @property
    def stream_id(self) -> int:
        """Unique within the session."""
        return self._state.id

    @property
    def is_withdrawn(self) -> bool:
        """Whether the opener has withdrawn the offer, or the session has ended."""
        return self._state.is_aborted

    @property
    def withdrawn_reason(self) -> Reason:
        """The opener's reason for withdrawing, or that of the session's end; `NO_ERROR` if it was not withdrawn."""
        return self._stream.reset_reason

    def accept(self) -> MuxStream:
        """Answer OPENED. If the offer was withdrawn, the stream is broken from the start."""
        self._stream.cancel_when_aborted(None)
        if self._state.states.opening is Opening.OFFERED:
            self._session.core.accept(self._state, trio.current_time())
            self._session.output()
            self._stream.on_answered()
        return self._stream

    def refuse(self, reason: Reason, text: str = "") -> None:
        """Answer REFUSED. Does nothing if the offer was withdrawn."""
        self._stream.cancel_when_aborted(None)
        if self._state.states.opening is Opening.OFFERED:
            self._session.core.refuse(self._state, reason, text)
            self._session.output()
            self._stream.on_aborted()

    def cancel_when_withdrawn(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the offer is withdrawn, until the offer is answered."""
        self._stream.cancel_when_aborted(scope)
