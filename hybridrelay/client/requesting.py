"""Opening streams, and flows of datagrams: if one session cannot do it, on another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import StreamRefused
from ..mux import DatagramFlow, MuxStream, Session
from ..protocol.reasons import Reason
from .opening import SessionOpener
from .other_connectors import OtherConnectors

__all__ = ["may_try_again", "open_on_any_session"]

StreamT = TypeVar("StreamT", MuxStream, DatagramFlow)

#: Reasons that mean that a stream was not opened and the connector never considered it: another session may open it.
_TRY_ANOTHER_SESSION = frozenset(
    {Reason.GOING_AWAY, Reason.SESSION_LOST, Reason.PEER_SILENT, Reason.SUPERSEDED, Reason.IDENTITY_CHANGED}
)


def may_try_again(refusal: StreamRefused) -> bool:
    """Return whether another session may accept the stream, because connector and target have not refused it."""
    return refusal.reason in _TRY_ANOTHER_SESSION


async def open_on_any_session(
    opener: SessionOpener,
    other_connectors: OtherConnectors,
    open_nowait: Callable[[Session], StreamT],
    *,
    deadline: float,
    wait_opened: bool,
) -> StreamT:
    """Open a stream or flow. If that fails because of the session or its connector, try again on another session.

    If cancelled, the stream or flow is reset.

    Args:
        opener: has the session, or opens one.
        other_connectors: finds another connector, if that of the session cannot connect to the target.
        open_nowait: opens the stream or flow on a session.
        deadline: how long to wait for a session, on Trio's clock; see `SessionOpener.get`.
        wait_opened: whether to wait until the connector has accepted it.

    Raises:
        StreamRefused: it was refused.
        HybridRelayError: there is no session.
        trio.ClosedResourceError: the client was closed.
    """
    session = (await opener.get(deadline)).session
    stream: StreamT | None = None
    try:
        await session.unanswered.wait_to_open()
        stream = open_nowait(session)
        return await _accepted(stream) if wait_opened else stream
    except StreamRefused as exc:
        if not may_try_again(exc) and (stream is None or not await other_connectors.find(stream, exc.reason)):
            raise
    # The session has ended in the meantime, or its connector could not connect to the target. Nothing was sent on the
    # stream, so another session may open it.
    session = (await opener.get(deadline)).session
    await session.unanswered.wait_to_open()
    stream = open_nowait(session)
    return await _accepted(stream) if wait_opened else stream


async def _accepted(stream: StreamT) -> StreamT:
    """Wait until the connector has accepted a stream or flow. If cancelled, it is reset."""
    try:
        await stream.wait_opened()
    except BaseException:
        stream.reset(Reason.CANCELLED)
        raise
    return stream
